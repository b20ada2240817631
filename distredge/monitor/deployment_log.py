"""TensorBoard's log of a strategy that runs, written while its frames run, under the tags of a training run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from distredge import metric_names
from distredge.errors import ExecutionError, FileError, in_words
from distredge.monitor.lines import Lines, RollingMean
from distredge.monitor.pace import Pace

if TYPE_CHECKING:
    from distredge.monitor.snapshot import Snapshot
    from distredge.monitor.stream_watch import EndedFrame
    from distredge.problem import Problem
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline

_POINTS_PER_S = 10
_POINTS_SHARE = 100
"""Writing points takes at most one part in so many of the time between frames."""

_TIMELINES_PER_S = 1
_TIMELINES_SHARE = 50
"""The same of asking the workers what they did, which crosses the network."""


class DeploymentLog:
    """Lines of the frames, their rolling mean, what was predicted and the best single device; a context manager.

    Steps are frames, from 0. Nothing is written before the first frame. What cannot be written ends the log, not the
    run: `check` says so afterwards.

    Args:
        folder: where it goes.
        problem: model and cluster.
        strategy: the one that runs first.
        clock: seconds, monotonic.

    Raises:
        MissingDependency: if `tensorboard` is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        problem: Problem,
        strategy: Strategy,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._predicted_s: Callable[[], float | None] = lambda: None
        self._problem = problem
        self._strategy = strategy
        self._lines = Lines(folder)
        self._clock = clock
        self._points = Pace(_POINTS_PER_S, _POINTS_SHARE, clock)
        self._timelines = Pace(_TIMELINES_PER_S, _TIMELINES_SHARE, clock)
        self._mean = RollingMean()
        self._latest: tuple[int, float] | None = None
        self._written = -1
        self._last = 0
        self._fault: Exception | None = None

    def __enter__(self) -> DeploymentLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def expect(self, predicted_s: Callable[[], float | None], offload_s: float | None) -> None:
        """Says what frames are compared with.

        Args:
            predicted_s: returns the seconds that the strategy which runs by then is predicted to take; None if not
                known.
            offload_s: seconds that the best single device is predicted to take; None if not known.
        """
        self._predicted_s = predicted_s
        self._lines.offload_s = offload_s

    def frame(self, number: int, latency_s: float) -> None:
        """Hears of a frame that ran alone; writes it when a point is due.

        Args:
            number: of the frame, from 0.
            latency_s: measured, from its start to its last output.
        """
        self._mean.add(latency_s)
        self._latest = number, latency_s
        self._last = max(self._last, number)
        if self._points.due():
            with self._points.turn():
                self._write()

    def look_back(self, number: int, timeline: Callable[[], Timeline]) -> None:
        """Writes how busy each device was in a frame, when that is due.

        Args:
            number: of the frame.
            timeline: asks for what happened in it; left out when a worker does not answer.
        """
        if self._timelines.due():
            with self._timelines.turn(), contextlib.suppress(ExecutionError):
                found = timeline()
                self._keep(lambda: self._lines.busy(found, self._strategy.devices, number))

    def in_flight(self, number: int, latency_s: float | None, images_per_s: float) -> None:
        """Hears of a frame that ran beside others.

        Args:
            number: of the frame, from 0.
            latency_s: its own; None when it failed.
            images_per_s: of all frames since the first of them.
        """
        self._last = max(self._last, number)
        if self._points.due():
            values = {metric_names.LINE_IMAGES_PER_S: images_per_s}
            if latency_s is not None:
                values[metric_names.LINE_LATENCY_MS] = 1e3 * latency_s
            with self._points.turn():
                self._keep(lambda: self._lines.line(metric_names.IN_FLIGHT_LINE).scalars(values, number))

    def devices(self, number: int, snapshot: Snapshot) -> None:
        """Writes what each device does, and the percentiles of the latest frames.

        Args:
            number: of the latest frame.
            snapshot: how the stream stands.
        """
        values = {metric_names.STREAM_IMAGES_PER_S: snapshot.images_per_s}
        if snapshot.percentiles_s is not None:
            tags = (metric_names.STREAM_P50_MS, metric_names.STREAM_P95_MS, metric_names.STREAM_P99_MS)
            values |= {tag: 1e3 * value for tag, value in zip(tags, snapshot.percentiles_s, strict=True)}
        for state in snapshot.devices:
            found = {
                metric_names.DEVICE_BUSY: state.busy_share,
                metric_names.DEVICE_QUEUE: state.sample.queued,
                metric_names.DEVICE_TEMPERATURE: state.sample.temperature_c,
            }
            values |= {f"{tag}/{state.device}": value for tag, value in found.items() if value is not None}
        self._keep(lambda: self._lines.own.scalars(values, number))

    def pictures(self, timeline: Timeline) -> None:
        """Adds the measured timeline, and who has which rows."""
        from distredge.monitor import splits

        number = self._last
        rows = splits.figure(self._strategy, has_head=bool(self._problem.graph.body.head))
        self._keep(lambda: self._lines.busy(timeline, self._strategy.devices, number))
        self._keep(lambda: self._lines.own.timeline(metric_names.TIMELINE, timeline, number, "measured"))
        self._keep(lambda: self._lines.own.figure(metric_names.SPLITS, rows, number))

    def close(self) -> None:
        """Writes the last frame and closes every file; may be called twice."""
        self._write()
        try:
            self._lines.close()
        except Exception as error:
            self._fault = self._fault or error

    def check(self) -> None:
        """Says what could not be written.

        Raises:
            FileError: naming the folder.
        """
        if self._fault is not None:
            folder = self._lines.own.folder
            raise FileError(f"{folder}: cannot write the log: {in_words(self._fault)}") from self._fault

    def _write(self) -> None:
        if self._latest is not None and self._latest[0] != self._written:
            self._written = self._latest[0]
            self._keep(self._write_lines)

    def _write_lines(self) -> None:
        assert self._latest is not None
        number, latency_s = self._latest
        self._lines.add(metric_names.FRAMES_LINE, latency_s, number)
        self._lines.add(metric_names.MEAN_LINE, self._mean.mean, number)
        self._lines.add(metric_names.PREDICTED_LINE, self._predicted_s(), number)
        self._lines.add_references(number)

    def _keep(self, write: Callable[[], None]) -> None:
        """Writes unless that has failed before; keeps the error for `check`."""
        if self._fault is None:
            try:
                write()
            except Exception as error:
                self._fault = error


class LogView:
    """Writes a stream's snapshots to a log, with the frame that ends next (`stream_watch.View`).

    Args:
        log: which belongs to the stream's own thread.
    """

    per_s: float = _TIMELINES_PER_S

    def __init__(self, log: DeploymentLog) -> None:
        self._log = log
        self._number = 0
        self._latest: Snapshot | None = None

    def begin(self, strategy: Strategy) -> None:
        """Nothing: the log knows the strategy."""

    def frame(self, frame: EndedFrame) -> None:
        """Writes what is known by now."""
        self._number = frame.number
        self._write()

    def show(self, snapshot: Snapshot) -> None:
        """Keeps it for the next frame."""
        self._latest = snapshot

    def end(self) -> None:
        """Writes what is known at the end; the log is closed by whoever made it."""
        self._write()

    def _write(self) -> None:
        if self._latest is not None:
            snapshot, self._latest = self._latest, None
            self._log.devices(self._number, snapshot)
