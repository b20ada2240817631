"""How often something may be written or drawn while the work itself goes on."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator


class Pace:
    """Says when the next turn is due: so many a second at most, and at most one part in so many of the time.

    Args:
        most_per_s: turns per second at most.
        share: one part in so many of the time, as turns have taken.
        clock: seconds, monotonic.
    """

    def __init__(
        self, most_per_s: float = math.inf, share: float = 0.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._least_s = 1.0 / most_per_s
        self._share = share
        self._clock = clock
        self._from_s = -math.inf

    def due(self) -> bool:
        """Whether the next turn may begin."""
        return self._clock() >= self._from_s

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Takes a turn: the next one is due when this one has been paid for."""
        start_s = self._clock()
        try:
            yield
        finally:
            end_s = self._clock()
            self._from_s = max(start_s + self._least_s, end_s + self._share * (end_s - start_s))
