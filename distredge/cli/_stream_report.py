"""The figures of a stream."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from distredge import metric_names
from distredge.errors import ExecutionError, FileError, MediaError
from distredge.writing import as_text, write

if TYPE_CHECKING:
    from distredge.cli._stream import StreamedFrame
    from distredge.media.picture_source import PictureSource

FAILURES_TOLD: Final = 1000
"""How many of the failed pictures the report names."""

_PERCENTILES: Final = (50, 95, 99)


@dataclass
class Tally:
    """Counts the frames of a stream as they end.

    Attributes:
        latencies_s: of those that ended well.
        failed: how many did not.
        told: name and error of the first FAILURES_TOLD of them.
        out_of_order: frames that ended after one that was read later.
        seconds: from the stream's beginning to the end of the last frame.
    """

    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    failed: int = 0
    told: list[dict[str, str]] = field(default_factory=list)
    out_of_order: int = 0
    seconds: float = 0.0
    _next: int = 0

    def add(self, frame: StreamedFrame) -> None:
        """Counts a frame."""
        if frame.latency_s is not None:
            self.latencies_s.append(frame.latency_s)
        else:
            self.failed += 1
            if len(self.told) < FAILURES_TOLD:
                self.told.append({"name": as_text(frame.name), "error": as_text(frame.error or "")})
        self.out_of_order += frame.number < self._next
        self._next = max(self._next, frame.number + 1)
        self.seconds = frame.ended_s

    @property
    def frames(self) -> int:
        """How many have ended."""
        return self.done + self.failed

    @property
    def done(self) -> int:
        """How many have ended well."""
        return len(self.latencies_s)

    def figures(self) -> dict[str, Any]:
        """What was counted, under the report's names."""
        return {
            "frames": self.frames,
            "done": self.done,
            "failed": self.told,
            "failed_frames": self.failed,
            "out_of_order": self.out_of_order,
            "seconds": self.seconds,
            metric_names.IMAGES_PER_S: self.done / self.seconds if self.seconds > 0 else None,
            "latency": _spread(self.latencies_s),
        }


def counts(tally: Tally, taken: int, source: PictureSource, ended: BaseException | None) -> dict[str, Any]:
    """Returns what became of the pictures that have not ended, under the report's names.

    Args:
        tally: of those that have.
        taken: how many the source has given.
        source: it.
        ended: what ended the stream early; None if it came to its end.
    """
    told = None if ended is None else str(ended) or ("interrupted" if _interrupts(ended) else type(ended).__name__)
    # How many frames a video has is the file's own word, which need not be true.
    left = None if source.count is None else max(0, source.count - taken)
    return {
        "lost": taken - tally.frames if ended is None else 0,
        "unfinished": 0 if ended is None else taken - tally.frames,
        "not_begun": 0 if ended is None else left,
        "dropped": source.dropped,
        "interrupted": _interrupts(ended),
        "ended_early": None if told is None else as_text(told),
    }


def _interrupts(ended: BaseException | None) -> bool:
    return isinstance(ended, KeyboardInterrupt)


def _spread(latencies_s: array[float]) -> dict[str, float] | None:
    """Percentiles (linear between ranks), mean and largest, in seconds; None for none."""
    if not latencies_s:
        return None
    import numpy as np

    points = np.percentile(latencies_s, _PERCENTILES)
    named = {f"p{percent}_s": float(point) for percent, point in zip(_PERCENTILES, points, strict=True)}
    return {**named, "mean_s": float(np.mean(latencies_s)), "max_s": max(latencies_s)}


def check_some_done(tally: Tally) -> None:
    """Checks that a stream that came to its end was not in vain.

    Raises:
        MediaError: if there was no picture.
        ExecutionError: if none came through.
    """
    if not tally.frames:
        raise MediaError("found no picture, accepted: a stream of at least one")
    if not tally.done:
        raise ExecutionError(f"all {tally.failed} pictures failed; the first: {tally.told[0]['error']}")


def write_report(path: Path | None, figures: Mapping[str, Any]) -> FileError | None:
    """Writes a report as JSON where one is wanted; returns why it could not be, which costs nothing else."""
    if path is None:
        return None
    try:
        write(path, json.dumps(figures, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        return FileError(f"{path}: cannot write the report: {error.strerror or error}")
    return None


def first_of(*errors: BaseException | None) -> BaseException | None:
    """Returns the first of what went wrong, after saying the others; None if nothing did."""
    found = [error for error in errors if error is not None]
    for other in found[1:]:
        click.echo(f"{other}", err=True)
    return found[0] if found else None


def show(figures: Mapping[str, Any]) -> None:
    """Writes a report for people."""
    failed = f", {figures['failed_frames']} failed" if figures["failed_frames"] else ""
    rate = figures[metric_names.IMAGES_PER_S]
    rates = "" if rate is None else f": {rate:.2f} images/s"
    expected = figures["predicted_images_per_s"]
    if expected is not None:
        rates += f" (predicted {expected:.2f}, {figures['in_flight']} in flight)"
    click.echo(f"{figures['done']} done{failed} in {figures['seconds']:.1f} s{rates}")
    if figures[metric_names.BOTTLENECK] is not None:
        bound = f"at most {figures['bound_images_per_s']:.2f} images/s"
        click.echo(f"busiest: {figures[metric_names.BOTTLENECK]}, which allows {bound} (predicted)")
    latency = figures["latency"]
    if latency is not None:
        points = ", ".join(f"{name[:-2]} {1e3 * seconds:.2f} ms" for name, seconds in latency.items())
        alone = figures["predicted_latency_s"]
        told = "" if alone is None else f"; predicted {1e3 * alone:.2f} ms for one alone"
        click.echo(f"latency: {points}{told}")
    show_counts(figures)


def show_counts(figures: Mapping[str, Any]) -> None:
    """Writes for people what became of the pictures that have not ended."""
    for name, what in (
        ("lost", "lost: neither a result nor an error came"),
        ("unfinished", "under way when it ended"),
        ("not_begun", "not begun"),
        ("dropped", "dropped: nobody took them in time"),
        ("out_of_order", "out of order"),
    ):
        if figures[name]:
            click.echo(f"{figures[name]} {what}")
