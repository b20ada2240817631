"""What a planner may spend, what it has found so far, and how it is told to stop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real

from distredge.errors import ConfigError, located

_REPORT_EVERY_S = 0.1


@dataclass(frozen=True)
class PlanningProgress:
    """Where planning stands.

    Attributes:
        method: the planner that is at work.
        best_latency_s: lowest latency found so far; infinite before the first.
        evaluations: strategies priced so far.
        elapsed_s: seconds since the budget started.
        spent: share of the budget that is used, 0 to 1.
    """

    method: str
    best_latency_s: float
    evaluations: int
    elapsed_s: float
    spent: float


class Budget:
    """A limit in seconds or in evaluations, counted from when it is made.

    With a limit in evaluations alone nothing that a planner decides may depend on time, so that the same seed gives
    the same strategy.

    Args:
        seconds: wall-clock limit, > 0; None for none.
        evaluations: limit on priced strategies, >= 1; None for none.
        progress: called with a `PlanningProgress` at most ten times a second, and whenever `report` improves.
        clock: seconds, monotonic.

    Raises:
        ConfigError: if a limit is zero, negative or not finite, or there is none.
    """

    def __init__(
        self,
        seconds: float | None = None,
        evaluations: int | None = None,
        progress: Callable[[PlanningProgress], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if seconds is None and evaluations is None:
            raise ConfigError(located("budget", "", None, "seconds > 0 or evaluations >= 1"))
        if seconds is not None and not (_is_number(seconds, Real) and math.isfinite(seconds) and seconds > 0):
            raise ConfigError(located("budget", "seconds", seconds, "a finite number of seconds > 0"))
        if evaluations is not None and not (_is_number(evaluations, Integral) and evaluations >= 1):
            raise ConfigError(located("budget", "evaluations", evaluations, "a whole number >= 1"))
        self.seconds = seconds
        self.evaluations = evaluations
        self.done = 0
        self.best_latency_s = math.inf
        self.interrupted = False
        self.method = ""
        self.cut_short = ""
        self._progress = progress
        self._clock = clock
        self._parent: Budget | None = None
        self._paused = False
        self._start_s = clock()
        self._reported_s = -math.inf

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._start_s

    @property
    def left(self) -> int | None:
        """Evaluations left; None when they are not limited."""
        return None if self.evaluations is None else max(0, self.evaluations - self.done)

    @property
    def left_s(self) -> float | None:
        """Seconds left; None when they are not limited."""
        return None if self.seconds is None else max(0.0, self.seconds - self.elapsed_s)

    def spent(self) -> float:
        """Share that is used, 0 to 1; the larger one where both limits hold."""
        share = 0.0
        if self.seconds is not None:
            share = self.elapsed_s / self.seconds
        if self.evaluations is not None:
            share = max(share, self.done / self.evaluations)
        return min(1.0, share)

    def expired(self) -> bool:
        """Whether a planner must stop: a limit is reached, or the user interrupted."""
        if self._parent is not None and self._parent.expired():
            return True
        return self.interrupted or self.spent() >= 1.0

    def share(self, fraction: float) -> Budget:
        """A budget that draws a fraction (0 to 1) of what is left of this one; what it spends and finds counts here."""
        seconds = None if self.left_s is None else max(1e-6, self.left_s * fraction)
        evaluations = None if self.left is None else max(1, round(self.left * fraction))
        part = Budget(seconds, evaluations, clock=self._clock)
        part.method = self.method
        part._parent = self
        return part

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time that passes inside does not count, once however pauses nest: loading or compiling is no planning."""
        stopped: list[Budget] = []
        budget: Budget | None = self
        while budget is not None:
            if not budget._paused:
                stopped.append(budget)
            budget = budget._parent
        for one in stopped:
            one._paused = True
        before_s = self._clock()
        try:
            yield
        finally:
            passed_s = self._clock() - before_s
            for one in stopped:
                one._start_s += passed_s
                one._paused = False

    def spend(self, count: int = 1) -> None:
        """Counts priced strategies and shows progress."""
        self.done += count
        if self._parent is not None:
            self._parent.spend(count)
        self._show(force=False)

    def report(self, latency_s: float) -> None:
        """Tells of a strategy that was found; only an improvement is remembered and shown."""
        if self._parent is not None:
            self._parent.report(latency_s)
        if latency_s < self.best_latency_s:
            self.best_latency_s = latency_s
            self._show(force=True)

    def interrupt(self) -> None:
        """Makes the planner stop at its next look; it returns the best that it has."""
        self.interrupted = True
        if self._parent is not None:
            self._parent.interrupt()

    def _show(self, *, force: bool) -> None:
        if self._progress is None:
            return
        elapsed_s = self.elapsed_s
        if not force and elapsed_s - self._reported_s < _REPORT_EVERY_S:
            return
        self._reported_s = elapsed_s
        self._progress(PlanningProgress(self.method, self.best_latency_s, self.done, elapsed_s, self.spent()))


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
