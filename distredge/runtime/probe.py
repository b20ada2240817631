"""Measures a link over the transport that the runtime uses: the same sockets, encryption and message sizes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from distredge.errors import PeerTimeout, ProtocolError
from distredge.runtime.messages import Echo, decode_on_data, encode
from distredge.runtime.plan import PART_BYTES, PeerAddress
from distredge.runtime.transport import Network, NotConnected


def measure_link(
    network: Network, peer: PeerAddress, sizes: Sequence[int], repeats: int, timeout_s: float
) -> tuple[tuple[float, ...], ...]:
    """Sends messages of several sizes to a worker's data port, which answers each with an empty one.

    Args:
        network: makes sockets.
        peer: whose data port.
        sizes: bytes of payload.
        repeats: messages per size, one after the other.
        timeout_s: for everything.

    Returns:
        Seconds there and back of each repeat, by size.

    Raises:
        PeerTimeout: if it is not reached or does not answer in time.
    """
    until_s = time.monotonic() + timeout_s
    endpoint = network.connect(peer.endpoint, "data", peer.public_key)
    try:
        waiter = network.waiter([endpoint])
        while not waiter.wait(max(0.0, min(0.5, until_s - time.monotonic())), [endpoint]):
            if time.monotonic() >= until_s:
                raise PeerTimeout(f"'{peer.name}' at {peer.endpoint} cannot be reached within {timeout_s:g} s")
        found = []
        token = 0
        for size in sizes:
            payload = memoryview(bytes(size))
            parts = [payload[start : start + PART_BYTES] for start in range(0, size, PART_BYTES)]
            times_s = []
            for _ in range(repeats):
                token += 1
                head = encode(Echo(token, False))
                started_s = time.monotonic()
                while True:
                    try:
                        endpoint.send([head, *parts])
                        break
                    except NotConnected:
                        if time.monotonic() >= until_s:
                            raise PeerTimeout(f"'{peer.name}' at {peer.endpoint} takes no message") from None
                        waiter.wait(0.1, [endpoint])
                while True:
                    received = endpoint.receive()
                    if received is not None:
                        message = decode_on_data(received.parts[0])
                        if isinstance(message, Echo) and message.answer and message.token == token:
                            break
                        raise ProtocolError(f"'{peer.name}' answers with something else")
                    left_s = until_s - time.monotonic()
                    if left_s <= 0:
                        raise PeerTimeout(f"'{peer.name}' at {peer.endpoint} does not answer within {timeout_s:g} s")
                    endpoint.events()
                    waiter.wait(left_s)
                times_s.append(time.monotonic() - started_s)
            found.append(tuple(times_s))
        return tuple(found)
    finally:
        network.drop(endpoint)
