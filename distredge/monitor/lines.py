"""Lines that share a chart: what several things cost, each written to a sub-run, so that each has its own colour.

TensorBoard gives a run a colour and draws all runs' curves of one tag into one chart.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from pathlib import Path

from distredge import metric_names
from distredge.monitor.tensorboard import TensorboardWriter
from distredge.timeline import Timeline

WINDOW = 100
"""Episodes or frames of a rolling mean, as in stable-baselines3."""

_KEPT = 1000
"""Points of which a gap can still be drawn when what it is measured against comes late; TensorBoard shows as many."""


class Lines:
    """A folder with a sub-folder for every line; a context manager.

    Args:
        folder: of the run.
        offload_s: seconds that the best single device takes; None while unknown.
        search_s: seconds that the result of `search` takes; None while unknown.

    Attributes:
        own: the folder's own event file.
        offload_s, search_s: as above; may be set later. `set_search` also draws the gaps of what was before.

    Raises:
        MissingDependency: if `tensorboard` is not installed.
    """

    def __init__(self, folder: str | Path, offload_s: float | None = None, search_s: float | None = None) -> None:
        self.own = TensorboardWriter(folder)
        self.offload_s = offload_s
        self.search_s = search_s
        self._writers: dict[str, TensorboardWriter] = {}
        self._points: dict[str, deque[tuple[int, float]]] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def line(self, name: str) -> TensorboardWriter:
        """The event file of a line, by the name of its sub-folder."""
        if name not in self._writers:
            self._writers[name] = TensorboardWriter(self.own.folder / name)
        return self._writers[name]

    def add(self, name: str, latency_s: float | None, step: int) -> None:
        """Adds a point: latency, images per second, and how these stand to offload and `search` where known.

        Args:
            name: of the line.
            latency_s: of one image; nothing is added when it is None or infinite.
            step: number of the episode or frame.
        """
        if latency_s is None or not math.isfinite(latency_s):
            return
        values = {metric_names.LINE_LATENCY_MS: 1e3 * latency_s, metric_names.LINE_IMAGES_PER_S: 1.0 / latency_s}
        if self.offload_s is not None:
            values[metric_names.LINE_SPEEDUP] = self.offload_s / latency_s
        if self.search_s is not None:
            values[metric_names.LINE_GAP] = gap(latency_s, self.search_s)
        else:
            self._points.setdefault(name, deque(maxlen=_KEPT)).append((step, latency_s))
        self.line(name).scalars(values, step)

    def add_references(self, step: int) -> None:
        """Adds a point to the lines of what the others are compared with."""
        self.add(metric_names.OFFLOAD_LINE, self.offload_s, step)
        self.add(metric_names.SEARCH_LINE, self.search_s, step)

    def set_search(self, latency_s: float) -> None:
        """Says what `search` takes, and draws its line and the gaps of every point so far.

        Args:
            latency_s: seconds.
        """
        self.search_s = latency_s
        steps = sorted({step for points in self._points.values() for step, _ in points})
        for step in {steps[0], steps[-1]} if steps else ():
            self.add(metric_names.SEARCH_LINE, latency_s, step)
        for name, points in self._points.items():
            for step, point_s in points:
                self.line(name).scalar(metric_names.LINE_GAP, gap(point_s, latency_s), step)
        self._points.clear()

    def busy(self, timeline: Timeline, devices: tuple[str, ...], step: int) -> None:
        """Adds the share of a timeline in which each device computes, a tag per device.

        Not a sub-run each: TensorBoard has seven colours, which are for the lines of a strategy's cost.
        """
        shares = busy_shares(timeline, devices)
        self.own.scalars({f"{metric_names.DEVICE_BUSY}/{name}": share for name, share in shares.items()}, step)

    def close(self) -> None:
        """Closes every file; may be called twice."""
        with contextlib.ExitStack() as stack:
            for writer in (self.own, *self._writers.values()):
                stack.callback(writer.close)


class RollingMean:
    """Mean of the last `WINDOW` finite values."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW)

    def add(self, value: float) -> None:
        """Takes in a value; an infinite one is left out."""
        if math.isfinite(value):
            self._values.append(value)

    @property
    def mean(self) -> float | None:
        """None before there is a value."""
        return math.fsum(self._values) / len(self._values) if self._values else None


def gap(latency_s: float, search_s: float) -> float:
    """How much slower than `search`: 0.03 is 3 %; negative where faster."""
    return latency_s / search_s - 1.0


def busy_shares(timeline: Timeline, devices: tuple[str, ...]) -> dict[str, float]:
    """The share of a timeline in which each device computes, from 0 to 1.

    Args:
        timeline: of one frame or several.
        devices: whose shares; one that does nothing has 0.
    """
    end_s = timeline.end_s
    shares = {}
    for device in devices:
        spans = sorted((s.start_s, s.stop_s) for s in timeline.spans if s.device == device and s.lane == "compute")
        busy_s, until_s = 0.0, -math.inf
        for start_s, stop_s in spans:
            busy_s += max(0.0, stop_s - max(start_s, until_s))
            until_s = max(until_s, stop_s)
        shares[device] = busy_s / end_s if end_s > 0 else 0.0
    return shares
