"""The figures of frames that took variants of a menu."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._stream_meaning import Found, Meaning
from distredge.errors import DistredgeError

if TYPE_CHECKING:
    from distredge.cli._stream import StreamedFrame
    from distredge.cli._variant_frames import Variant, VariantFrames
    from distredge.planners.live_selection.selector import Selector
    from distredge.runtime.requester.picture_frames import PictureResult


@dataclass(frozen=True)
class VariantFound(Found):
    """What a picture's outputs mean, and which variant they are of.

    Attributes:
        variant: its name; None where the picture could not be read.
        expected_s: seconds that it was predicted to take; None where no end was foreseen.
        in_time: whether it ended within the limit.
    """

    variant: str | None = None
    expected_s: float | None = None
    in_time: bool = False

    def figures(self) -> dict[str, Any]:
        """The same for machines."""
        chosen = {"variant": self.variant, "predicted_latency_s": self.expected_s, "in_time": self.in_time}
        return {**super().figures(), **chosen}

    def text(self) -> str:
        """The same on one line."""
        late = "" if self.in_time else ", late"
        return f"  ({self.variant}{late}){super().text()}"


class VariantMeaning:
    """Says what outputs mean, whichever variant they are of.

    Args:
        variants: of the menu.
        frames: says which ran.
        limit_s: within which frames are to end.
        least_score: of boxes that are said.
    """

    def __init__(self, variants: Sequence[Variant], frames: VariantFrames, limit_s: float, least_score: float) -> None:
        self._names = [variant.entry.name for variant in variants]
        self._meanings = [Meaning(variant.problem.graph, least_score) for variant in variants]
        self._frames = frames
        self._limit_s = limit_s

    def __call__(self, result: PictureResult) -> Found:
        """Returns what a picture's outputs mean."""
        choice = self._frames.latest
        if choice is None:
            return VariantFound()
        found = self._meanings[choice.index](result)
        known = {field.name: getattr(found, field.name) for field in fields(found)}
        in_time = result.latency_s is not None and result.latency_s <= self._limit_s
        return VariantFound(
            **known, variant=self._names[choice.index], expected_s=_finite(self._frames.expected_s), in_time=in_time
        )


class SelectionTally:
    """Counts what frames took (a sink of a stream).

    Args:
        variants: of the menu.
        frames: says which ran.
        limit_s: within which frames are to end.
    """

    def __init__(self, variants: Sequence[Variant], frames: VariantFrames, limit_s: float) -> None:
        self._entries = [variant.entry for variant in variants]
        self._frames = frames
        self._limit_s = limit_s
        self._latencies_s: list[list[float]] = [[] for _ in variants]
        self._taken = [0] * len(variants)
        self._without = 0

    def __call__(self, frame: StreamedFrame, result: PictureResult, found: Found) -> None:
        """Counts a frame; a picture that could not be read took nothing."""
        choice = self._frames.latest
        if choice is None or (result.error is not None and not _ran(result.error)):
            return
        self._taken[choice.index] += 1
        self._without += not choice.fits
        if result.latency_s is not None:
            self._latencies_s[choice.index].append(result.latency_s)

    def figures(self, selector: Selector, now_s: float) -> dict[str, Any]:
        """What was counted, under the report's names; `now_s` is the selector's time."""
        in_time = [sum(s <= self._limit_s for s in found) for found in self._latencies_s]
        frames, met = sum(self._taken), sum(in_time)
        accuracy = sum(k * entry.accuracy for k, entry in zip(in_time, self._entries, strict=True))
        return {
            "latency_limit_s": self._limit_s,
            "selection_reliability": met / frames if frames else None,
            "mean_accuracy": accuracy / met if met else None,
            "switches": selector.switches,
            "none_predicted_in_time": self._without,
            "variants": [
                {
                    "name": entry.name,
                    "accuracy": entry.accuracy,
                    "frames": self._taken[k],
                    "in_time": in_time[k],
                    "latency_s": median(self._latencies_s[k]) if self._latencies_s[k] else None,
                    "predicted_latency_s": _finite(predicted_s),
                }
                for k, (entry, predicted_s) in enumerate(zip(self._entries, selector.predicted_s(now_s), strict=True))
            ],
        }


def _ran(error: DistredgeError) -> bool:
    """Whether a frame with this error had begun: it counts as one that was not in time."""
    from distredge.errors import ExecutionError

    return isinstance(error, ExecutionError)


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def show_selection(figures: Mapping[str, Any]) -> None:
    """Writes what was chosen, for people."""
    limit_ms = 1e3 * figures["latency_limit_s"]
    share, accuracy = figures["selection_reliability"], figures["mean_accuracy"]
    if share is None:
        return
    found = "" if accuracy is None else f", mean accuracy of those {100 * accuracy:.1f} %"
    switches = figures["switches"]
    times = "once" if switches == 1 else f"{switches} times"
    click.echo(f"within {limit_ms:g} ms: {100 * share:.1f} %{found}; another variant than before: {times}")
    if figures["none_predicted_in_time"]:
        click.echo(f"{_frames(figures['none_predicted_in_time'])} for which no variant was predicted to be in time")
    for variant in figures["variants"]:
        middle = variant["latency_s"]
        told = "" if middle is None else f", median {1e3 * middle:.2f} ms"
        click.echo(
            f"  {variant['name']} ({100 * variant['accuracy']:.1f} %): {_frames(variant['frames'])}, "
            f"{variant['in_time']} in time{told}"
        )
