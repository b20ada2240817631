"""The timeline of one frame of a stream: of a number, or the slowest of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from distredge import metric_names
from distredge.errors import InputError, in_words

if TYPE_CHECKING:
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline

SLOWEST: Final = "slowest"

K = TypeVar("K")
K_co = TypeVar("K_co", covariant=True)
K_contra = TypeVar("K_contra", contravariant=True)


class Asked(Protocol):
    """A timeline that was asked for."""

    def wait(self) -> Timeline:
        """Waits for it."""


class Recorder(Protocol[K_contra]):
    """What knows how to ask for the timeline of a frame: a coordinator."""

    def timeline_of(self, ran_as: K_contra, /) -> Asked:
        """Asks for it without waiting."""


class TracedFrame(Protocol[K_co]):
    """A frame of a stream that has ended, as the stream tells of it."""

    @property
    def number(self) -> int:
        """In the stream, from 0."""

    @property
    def latency_s(self) -> float | None:
        """Seconds; None if it failed."""

    @property
    def ran_as(self) -> K_co | None:
        """What its timeline is asked for by; None if it failed."""


def read_choice(text: str) -> int | None:
    """Returns the number of a frame, from 0; None for the slowest.

    Raises:
        InputError: if it is neither.
    """
    if text == SLOWEST:
        return None
    if not text.isdecimal():
        raise InputError(f"'{text}' is not a frame to trace: accepted are a number from 0 and '{SLOWEST}'")
    return int(text)


class FrameTrace(Generic[K]):
    """Asks the workers what they did in a frame as soon as it has ended: they keep that for a while only.

    Of the slowest frame they are asked each time that one is slower than all before, seldom after the first few.

    Args:
        number: of the frame, from 0; None for the slowest.

    Attributes:
        error: why there is no timeline, after `end`; "" where there is one.
    """

    def __init__(self, number: int | None) -> None:
        self._number = number
        self._recorder: Recorder[K] | None = None
        self._chosen: tuple[int, float, Asked] | None = None
        self._timeline: Timeline | None = None
        self._refused = ""
        self._frames = 0
        self.error = ""

    def begin(self, coordinator: Recorder[K], strategy: Strategy, predicted_s: float | None) -> None:
        """The stream begins."""
        self._recorder = coordinator

    def frame(self, frame: TracedFrame[K]) -> None:
        """Hears of a frame that has ended."""
        self._frames = max(self._frames, frame.number + 1)
        if frame.latency_s is None or frame.ran_as is None or self._recorder is None:
            return
        if self._number is None:
            wanted = self._chosen is None or frame.latency_s > self._chosen[1]
        else:
            wanted = frame.number == self._number
        if wanted:
            try:
                self._chosen = frame.number, frame.latency_s, self._recorder.timeline_of(frame.ran_as)
            except Exception as error:
                self._refused = in_words(error)

    def end(self) -> Mapping[str, Any]:
        """Waits for the timeline; returns which frame it is of, for the report."""
        if self._chosen is None:
            self.error = self._refused or self._absent()
            return {"trace": {"error": self.error}}
        number, latency_s, asked = self._chosen
        try:
            found = asked.wait()
        except Exception as error:
            self.error = f"frame {number}: {in_words(error)}"
            return {"trace": {"frame": number, "latency_s": latency_s, "error": in_words(error)}}
        self._timeline = dataclasses.replace(found, details={"frame": number, **found.details})
        return {"trace": {"latency_s": latency_s, **self._timeline.details}}

    def _absent(self) -> str:
        """Why there was no frame to trace."""
        if self._number is None:
            return "no frame ended well"
        if self._number < self._frames:
            return f"frame {self._number} did not end well"
        count = "one frame" if self._frames == 1 else f"{self._frames} frames"
        counted = f", counted from 0: the last is {self._frames - 1}" if self._frames else ""
        return f"there was no frame {self._number}: the stream had {count}{counted}"

    def text(self) -> str:
        """Which frame it is, and how well the clocks agree; after `end`, where there is a timeline."""
        assert self._chosen is not None
        assert self._timeline is not None
        number, latency_s, _ = self._chosen
        errors_s = self._timeline.details[metric_names.CLOCK_ERROR_S].values()
        clocks = f"; clocks agree to {1e3 * max(errors_s):.2f} ms" if errors_s else ""
        return f"frame {number}, {1e3 * latency_s:.2f} ms{clocks}"

    @property
    def timeline(self) -> Timeline | None:
        """Of the frame, after `end`; None where there is none."""
        return self._timeline
