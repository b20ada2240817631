"""How a link's rate becomes parameters of the kernel's token bucket."""

from __future__ import annotations

from typing import NamedTuple

SEGMENT_BYTES = 1448
"""Payload of one full TCP segment on Ethernet: 1500 less the headers of IPv4 (20) and of TCP with timestamps (32)."""

FRAME_BYTES = 1514
"""What `tc` counts for it: with the Ethernet header."""

GRAIN_S = 0.0005
"""About what one packet takes at most: the kernel's large packets are cut to that, so that flows interleave."""

BURST_S = 0.0004
"""What a late timer may let through at once: less, and rates are not reached; more, and short messages are too fast."""

LARGEST_PACKET_BYTES = 65536

QUEUE_S = 1.0
"""Depth of the queue before a shaped link: nothing is dropped, as senders have less than that under way."""

LEAST_QUEUE_BYTES = 4 * 1024 * 1024

LEAST_BPS = 100e3
"""What an outage in a trace is emulated as: at a rate of 0 the kernel's timer would not notice its end."""


class Bucket(NamedTuple):
    """Parameters of `tc qdisc ... tbf` and of the device before it.

    Attributes:
        rate_bps: on the wire, headers included.
        burst_bytes: size of the bucket.
        limit_bytes: size of the queue.
        segments: of one packet that the kernel hands over.
    """

    rate_bps: float
    burst_bytes: int
    limit_bytes: int
    segments: int

    @property
    def text(self) -> str:
        """As `tc` takes it."""
        return f"tbf rate {self.rate_bps:.0f}bit burst {self.burst_bytes} limit {self.limit_bytes}"


def bucket(rate_bps: float, least_burst_bytes: int = 0) -> Bucket:
    """Returns the bucket that lets `rate_bps` of TCP payload through; a rate below `LEAST_BPS` counts as that.

    Args:
        rate_bps: bits per second.
        least_burst_bytes: size that it has at least: that of the bucket before it whose queue it takes over. A packet
            that waits there and is larger than the new bucket would never leave, nor anything behind it.
    """
    rate_bps = max(rate_bps, LEAST_BPS)
    wire_bps = rate_bps * FRAME_BYTES / SEGMENT_BYTES
    segments = max(1, min(LARGEST_PACKET_BYTES // FRAME_BYTES, int(GRAIN_S * wire_bps / 8 / FRAME_BYTES)))
    burst_bytes = int(max((segments + 1) * FRAME_BYTES, BURST_S * wire_bps / 8, least_burst_bytes))
    limit_bytes = int(max(LEAST_QUEUE_BYTES, QUEUE_S * wire_bps / 8))
    return Bucket(wire_bps, burst_bytes, limit_bytes, segments)
