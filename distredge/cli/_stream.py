"""A stream of pictures through deployed workers: what hears of its frames, and what runs them.

Others attach here. What watches a stream is a `StreamObserver`; `_stream_observers.observers` makes those that the
options ask for. What runs it is a function of type `Runs`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from distredge.cli._interrupts import Interrupts

if TYPE_CHECKING:
    from distredge.cli._stream_meaning import Found
    from distredge.media.pictures import Picture
    from distredge.runtime.requester.coordinator import Coordinator
    from distredge.runtime.requester.pending import RanAs
    from distredge.runtime.requester.picture_frames import PictureResult
    from distredge.strategy import Strategy

    Runs: TypeAlias = Callable[[Iterable[Picture]], Generator[PictureResult, None, None]]
    """Runs pictures and yields how each ended, in order, as soon as it has."""

    Sink: TypeAlias = Callable[["StreamedFrame", PictureResult, Found], None]
    """Writes down how a picture ended, and what its outputs mean."""


@dataclass(frozen=True)
class StreamedFrame:
    """How a frame of a stream ended.

    Attributes:
        number: of the picture as it was read, from 0.
        name: of the picture.
        latency_s: seconds from the frame's start until its last output was there; None if it failed.
        error: why it failed; None if it did not.
        ended_s: seconds since the stream began (monotonic).
        ran_as: what `Coordinator.timeline_of` knows it by; None if it failed.
    """

    number: int
    name: str
    latency_s: float | None
    error: str | None
    ended_s: float
    ran_as: RanAs | None = None


class StreamObserver(Protocol):
    """What watches a stream. All is called in the main thread, in this order: `begin`, `frame` of each, `end`."""

    def begin(self, coordinator: Coordinator, strategy: Strategy, predicted_s: float | None) -> None:
        """The workers stand, and no picture was read yet; `predicted_s` is of one frame alone, None if not known."""

    def frame(self, frame: StreamedFrame) -> None:
        """A frame has ended, well or not."""

    def end(self) -> Mapping[str, Any]:
        """The stream has ended, in whatever way, and workers still stand; returns what the report gets besides.

        Called again where an error ended the stream, or without `begin` where none began: to give back what is held.
        """


class Counted:
    """A source of pictures that says how many were taken from it.

    Args:
        pictures: the source.

    Attributes:
        taken: pictures so far.
    """

    def __init__(self, pictures: Iterable[Picture]) -> None:
        self._pictures = pictures
        self.taken = 0

    def __iter__(self) -> Iterator[Picture]:
        for picture in self._pictures:
            self.taken += 1
            yield picture


def follow(
    runs: Runs,
    pictures: Iterable[Picture],
    meaning: Callable[[PictureResult], Found],
    sinks: Sequence[Sink],
    observers: Sequence[StreamObserver],
    interrupts: Interrupts,
) -> None:
    """Runs pictures to their end, and tells sinks and observers of each; Ctrl-C comes between two of them.

    Args:
        runs: what runs them.
        pictures: as they are read.
        meaning: says what outputs mean.
        sinks: told first.
        observers: told afterwards.
        interrupts: holds Ctrl-C back while a frame is written down.
    """
    began_s = time.monotonic()
    with contextlib.closing(runs(pictures)) as results:
        for result in results:
            ended_s = time.monotonic() - began_s
            with interrupts.held():
                error = None if result.error is None else str(result.error)
                frame = StreamedFrame(result.number, result.name, result.latency_s, error, ended_s, result.ran_as)
                found = meaning(result)
                for sink in sinks:
                    sink(frame, result, found)
                for observer in observers:
                    observer.frame(frame)
