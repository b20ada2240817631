"""Running frames on emulated boards: finding the dilation, warming up, measuring."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import psutil

from distredge.errors import ConfigError
from distredge.runtime.buffers import Array
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.requester.pending import Pending
from distredge.testbed.measured import Measured, undilated
from distredge.testbed.pace_table import EXCESS, OVERRUNS, PACE, REAL, SETTINGS, TOLERANCE, PaceTable
from distredge.testbed.pacer import Pacer

if TYPE_CHECKING:
    from distredge.runtime.deployment import Deployment

ROOM: Final = 1.1
"""By how much more time than computing took in most frames the dilation gives it."""

TRIALS: Final = 8
TRIAL_FRAMES: Final = 6
MOST_FRAMES: Final = 5

Inputs = Mapping[str, Array]


@dataclass
class Run:
    """Frames on one deployment.

    Attributes:
        coordinator: it is deployed there.
        pacer: of the requester.
        tables: of the boards that take part, (ROWS, COLUMNS) float64 each.
        inputs: of every frame.
        in_flight: frames that are under way at once.
        deadline_s: within which a frame must end.
        on: the deployment, where several stand.
    """

    coordinator: Coordinator
    pacer: Pacer
    tables: list[PaceTable]
    inputs: Inputs
    in_flight: int
    deadline_s: float
    on: Deployment | None = None
    outputs: Mapping[str, Array] = field(default_factory=dict)

    def warm_up(self, frames: int) -> None:
        """Runs frames that do not count."""
        for _ in self._frames(frames):
            pass

    def one(self) -> tuple[float, float, bool]:
        """Runs one frame; returns when it started, its latency (both dilated), and whether no part was late."""
        return next(iter(self._frames(1)))

    def dilation_that_would_do(self, dilation: float) -> float | None:
        """Runs some frames and returns the dilation at which parts would be on time; None where they are already.

        Now and then a frame is disturbed whatever the dilation: most must be on time, and of each part the median
        counts.

        Args:
            dilation: that the tables have.
        """
        self.warm_up(1)
        real_s: list[list[PaceTable]] = []
        on_time = 0
        for _ in range(TRIAL_FRAMES):
            for table in self.tables:
                table[REAL] = 0.0
            on_time += sum(is_valid for *_, is_valid in self._frames(1))
            real_s.append([table[REAL].copy() for table in self.tables])
        if on_time >= MOST_FRAMES:
            return None
        ratios = []
        for table, *found in zip(self.tables, *real_s, strict=True):
            allowed_s = table[PACE] + table[SETTINGS, TOLERANCE]
            ratios.append(float(np.max(np.median(found, axis=0) / np.where(table[PACE] > 0, allowed_s, np.inf))))
        return dilation * ROOM * max(1.0, *ratios)

    def measure(self, frames: int, dilation: float, trace_time_s: Callable[[float], float]) -> Measured:
        """Runs frames that count.

        Args:
            frames: how many.
            dilation: that tables and links have.
            trace_time_s: of a time of `time.monotonic`, the time on the links' traces.
        """
        latencies_s: list[float] = []
        starts_s: list[float] = []
        valid: list[int] = []
        late_before_s = self._sum(EXCESS)
        busy_before = psutil.cpu_times()
        began_s = time.monotonic()
        for number, (started_s, latency_s, is_valid) in enumerate(self._frames(frames)):
            if is_valid:
                latencies_s.append(latency_s / dilation)
                starts_s.append(trace_time_s(started_s))
                valid.append(number)
        seconds = (time.monotonic() - began_s) / dilation
        share = busy_share(busy_before, psutil.cpu_times())
        late_s = (self._sum(EXCESS) - late_before_s) / frames / dilation
        timeline = self.coordinator.timeline(frames)
        of_all = timeline.frame_latency_s
        wanted = [of_all[n] for n in valid] or list(of_all)
        middle = of_all.index(sorted(wanted)[len(wanted) // 2])
        return Measured(
            tuple(latencies_s), tuple(starts_s), frames - len(valid), frames, seconds, self.outputs,
            undilated(timeline, middle, dilation), dilation, share, late_s,
        )  # fmt: skip

    def _frames(self, count: int) -> Iterator[tuple[float, float, bool]]:
        """Runs frames; yields start, latency, and whether no part was late while each was under way."""
        waiting: deque[tuple[float, float, Pending]] = deque()
        started = 0
        while started < count or waiting:
            while started < count and len(waiting) < self.in_flight:
                self.pacer.begin()
                overruns = self._overruns()
                now_s = time.monotonic()
                pending = self.coordinator.submit_when(self.inputs, self.deadline_s, on=self.on)
                assert pending is not None
                waiting.append((now_s, overruns, pending))
                started += 1
            started_s, overruns, pending = waiting.popleft()
            self.outputs = pending.result()
            latency_s = pending.latency_s
            assert latency_s is not None
            yield started_s, latency_s, self._overruns() == overruns

    def _overruns(self) -> float:
        return self._sum(OVERRUNS)

    def _sum(self, column: int) -> float:
        return float(sum(table[SETTINGS, column] for table in self.tables))


def too_fast(dilation: float, would_do: float) -> ConfigError:
    """The error of a dilation at which this machine cannot keep up."""
    return ConfigError(
        f"this machine does not keep up with the emulated boards at dilation {dilation:g}: found computing that takes "
        f"longer than its pace; about {would_do:.3g} would do: give that, or auto"
    )


def busy_share(before: object, after: object) -> float:
    """Busy share of all cores between two readings of `psutil.cpu_times`, 0 to 1."""
    spent = {name: getattr(after, name) - getattr(before, name) for name in after._fields}  # type: ignore[attr-defined]
    # Guest time is within user time already.
    total = sum(seconds for name, seconds in spent.items() if not name.startswith("guest"))
    idle = spent["idle"] + spent.get("iowait", 0.0)
    return (total - idle) / total if total > 0 else 0.0
