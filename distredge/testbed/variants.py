"""Several strategies that stand on emulated boards at a time: each frame runs on one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from distredge.testbed.measured import undilated
from distredge.testbed.pacer import on_time

if TYPE_CHECKING:
    from distredge.testbed.measuring import Run
    from distredge.testbed.shaping import Shaping
    from distredge.timeline import Timeline


class VariantFrame(NamedTuple):
    """One frame, in the undilated time of the emulated cluster.

    Attributes:
        start_s: when it began, on the links' traces.
        latency_s: what it took.
        valid: whether no board computed longer than its pace.
        timeline: what happened.
    """

    start_s: float
    latency_s: float
    valid: bool
    timeline: Timeline


class Variants:
    """What stands; made by `Testbed.stand`.

    Args:
        runs: of each strategy how a frame is run, and what tells the boards its pace before.
        shaping: of the links.
        dilation: by which everything is slowed down.
        paced: whether boards are.
    """

    def __init__(
        self, runs: Sequence[tuple[Run, Callable[[], None]]], shaping: Shaping, dilation: float, paced: bool
    ) -> None:
        self._runs = tuple(runs)
        self._shaping = shaping
        self._paced = paced
        self.dilation = dilation

    def begin(self) -> None:
        """Narrows the links; their traces begin anew now."""
        self._shaping.start(self.dilation)

    def now_s(self, time_s: float) -> float:
        """The time on the links' traces at a time of `time.monotonic`."""
        return self._shaping.trace_time_s(time_s, self.dilation)

    def run(self, index: int) -> VariantFrame:
        """Runs one frame of a strategy.

        Raises:
            ExecutionError: if it fails.
        """
        run, tell = self._runs[index]
        tell()
        with on_time(self._paced):
            started_s, latency_s, valid = run.one()
        timeline = undilated(run.coordinator.timeline(on=run.on), 0, self.dilation)
        return VariantFrame(self.now_s(started_s), latency_s / self.dilation, valid, timeline)
