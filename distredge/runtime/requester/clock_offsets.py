"""A worker's clock against the requester's, from the times of questions and answers, as NTP does it.

An exchange says that the offset is within half of its round trip (without what the worker took to answer) of the one
that it would be if both ways took equally long: RFC 5905, section 8. Between exchanges clocks drift apart.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

DRIFT: Final = 100e-6
"""How much faster one clock may run than the other: two crystals of 50 ppm each."""

KEPT: Final = 128
"""Exchanges kept: two minutes of one a second."""


class ClockOffset(NamedTuple):
    """A worker's monotonic clock minus the requester's, and how wrong that may be; nanoseconds."""

    offset_ns: int
    error_ns: int


class _Exchange(NamedTuple):
    at_ns: int
    offset_ns: int
    half_trip_ns: int


class ClockOffsets:
    """What the exchanges with one worker say."""

    def __init__(self) -> None:
        self._exchanges: deque[_Exchange] = deque(maxlen=KEPT)

    def add(self, sent_ns: int, heard_ns: int, answered_ns: int, came_ns: int) -> None:
        """Takes an exchange in; one whose times contradict each other is left out.

        Args:
            sent_ns: when the question was sent, by the requester's clock.
            heard_ns: when the worker heard it, by its own clock.
            answered_ns: when it sent its answer, by its own clock.
            came_ns: when that came in, by the requester's clock.
        """
        round_trip_ns = (came_ns - sent_ns) - (answered_ns - heard_ns)
        if answered_ns < heard_ns or round_trip_ns < 0:
            return
        offset_ns = ((heard_ns - sent_ns) + (answered_ns - came_ns)) // 2
        self._exchanges.append(_Exchange((sent_ns + came_ns) // 2, offset_ns, round_trip_ns // 2 + 1))

    def clear(self) -> None:
        """Forgets all: the worker may have started anew, on a machine that has."""
        self._exchanges.clear()

    def at(self, time_ns: int) -> ClockOffset | None:
        """The offset at a time of the requester's clock, from the exchange that says most of it; None before the first.

        Its error is half of that exchange's round trip, and what clocks drift meanwhile. Called by any thread.
        """
        exchanges = tuple(self._exchanges)
        if not exchanges:
            return None
        best = min(exchanges, key=lambda e: _error_ns(e, time_ns))
        return ClockOffset(best.offset_ns, _error_ns(best, time_ns))

    def fresh(self, since_ns: int) -> int:
        """How many exchanges there were since a time of the requester's clock."""
        return sum(1 for exchange in self._exchanges if exchange.at_ns >= since_ns)


def _error_ns(exchange: _Exchange, time_ns: int) -> int:
    return exchange.half_trip_ns + int(DRIFT * abs(time_ns - exchange.at_ns))
