"""Token buckets: payload in, what `tc` counts out."""

from __future__ import annotations

import pytest

from distredge.testbed.rates import FRAME_BYTES, LEAST_BPS, SEGMENT_BYTES, bucket


def test_headers_are_added() -> None:
    assert bucket(50e6).rate_bps == pytest.approx(50e6 * FRAME_BYTES / SEGMENT_BYTES)


@pytest.mark.parametrize("rate_bps", [1e6, 10e6, 50e6, 300e6, 940e6, 10e9])
def test_a_packet_fits_the_bucket_and_takes_half_a_millisecond_at_most(rate_bps: float) -> None:
    made = bucket(rate_bps)
    packet_bytes = made.segments * FRAME_BYTES
    assert packet_bytes < made.burst_bytes < made.limit_bytes
    assert made.segments == 1 or 8 * packet_bytes / made.rate_bps <= 0.0005


def test_an_outage_is_a_trickle() -> None:
    assert bucket(0.0) == bucket(LEAST_BPS)


def test_text_is_what_tc_takes() -> None:
    made = bucket(10e6)
    assert made.text == f"tbf rate {made.rate_bps:.0f}bit burst {made.burst_bytes} limit {made.limit_bytes}"


def test_what_waits_from_when_the_link_was_faster_fits_the_bucket() -> None:
    """A packet larger than the bucket never leaves, and nothing behind it."""
    fast = bucket(200e6)
    slow = bucket(6e6, fast.burst_bytes)
    assert slow.burst_bytes == fast.burst_bytes > bucket(6e6).burst_bytes
    assert slow.rate_bps == bucket(6e6).rate_bps
    assert bucket(400e6, fast.burst_bytes) == bucket(400e6)
