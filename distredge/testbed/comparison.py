"""Predicted and measured side by side: by volume and device, and both in one timeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from distredge.timeline import Span, Timeline


@dataclass(frozen=True)
class Row:
    """One device in one volume (or the head), or the requester's result.

    Attributes:
        device: its name; the requester's for the result.
        volume: index; -1 for the head; None for the result.
        predicted_s, measured_s: seconds of computing; 0 for the result.
        predicted_end_s, measured_end_s: when that was done, after the frame's start.
    """

    device: str
    volume: int | None
    predicted_s: float
    measured_s: float
    predicted_end_s: float
    measured_end_s: float

    @property
    def error(self) -> float:
        """By how much it was done too late, relative to when it was done."""
        return self.predicted_end_s / self.measured_end_s - 1.0 if self.measured_end_s > 0 else 0.0

    @property
    def what(self) -> str:
        """The volume, for people."""
        if self.volume is None:
            return "result"
        return "head" if self.volume < 0 else f"volume {self.volume}"


def compare(predicted: Timeline, measured: Timeline) -> tuple[Row, ...]:
    """Returns what every device did in every volume, in order, and the arrival of the result last.

    Args:
        predicted: of one frame.
        measured: of the same strategy.
    """
    expected, found = _computing(predicted.spans), _computing(measured.spans)
    keys = sorted(expected.keys() & found.keys(), key=lambda key: (key[0] < 0, key[0], key[1]))
    rows = [
        Row(device, volume, *_pair(expected, found, (volume, device), 0), *_pair(expected, found, (volume, device), 1))
        for volume, device in keys
    ]
    result = Row("requester", None, 0.0, 0.0, predicted.latency_s, measured.latency_s)
    return (*rows, result)


def in_one(predicted: Timeline, measured: Timeline) -> Timeline:
    """Returns both in one timeline, of the measured latency: devices are "NAME predicted" and "NAME measured"."""
    spans = [
        dataclasses.replace(span, device=f"{span.device} {origin}")
        for origin, timeline in (("predicted", predicted), ("measured", measured))
        for span in timeline.spans
    ]
    spans.sort(key=lambda span: (span.start_s, span.stop_s))
    names = [f"{device} {origin}" for device in measured.devices for origin in ("predicted", "measured")]
    return Timeline(
        measured.latency_s,
        tuple(spans),
        tuple(names),
        "measured",
        measured.frame_latency_s,
        details={"predicted_latency_s": predicted.latency_s, "measured_latency_s": measured.latency_s},
    )


_Computing = dict[tuple[int, str], tuple[float, float]]


def _computing(spans: Iterable[Span]) -> _Computing:
    """(volume, device) -> seconds of computing, and when the last of it was done."""
    found: _Computing = {}
    for span in spans:
        if span.lane == "compute":
            seconds, end_s = found.get((span.volume, span.device), (0.0, 0.0))
            found[span.volume, span.device] = seconds + span.length_s, max(end_s, span.stop_s)
    return found


def _pair(expected: _Computing, found: _Computing, key: tuple[int, str], at: int) -> tuple[float, float]:
    return expected[key][at], found[key][at]
