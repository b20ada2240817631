"""Frames of a source, one after the other: a thread feeds them in, results come out in order, as soon as they can."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from distredge.errors import DistredgeError, ExecutionError
from distredge.runtime.buffers import Array
from distredge.runtime.requester.pending import FrameResult, Given, Pending, offered

AHEAD: Final = 2
"""Times the frames in flight: how many results may wait for a consumer that is slower than the workers."""


LOOK_S: Final = 0.5
"""Between two looks, while the source is waited for, at whether a frame could come through at all."""


class Submits(Protocol):
    """What runs the frames: a coordinator."""

    @property
    def in_flight(self) -> int:
        """How many frames may be in flight."""

    def submit_when(self, inputs: Mapping[str, Array], deadline_s: float | None, wanted: _Wanted) -> Pending | None:
        """Starts a frame, such as (N, C, H, W), unless it is no longer wanted when there is room."""

    def look(self) -> None:
        """Asks again what is wanted."""

    def over(self) -> ExecutionError | None:
        """Why no frame can come through any more; None where one may."""


class _Wanted(Protocol):
    def __call__(self) -> bool: ...


class _Raised(NamedTuple):
    """What the source raised, or None at its end."""

    error: BaseException | None


class _Started(NamedTuple):
    """A frame that was started, or why it could not be."""

    frame: Pending | DistredgeError
    tag: object


class Stream:
    """One stream. Closing its iterator ends the thread as soon as the source gives its next frame.

    Args:
        submits: what runs the frames.
        frames: the inputs of each, such as (N, C, H, W), or `Offered`.
        deadline_s: for each of them; None for the coordinator's own.
    """

    def __init__(self, submits: Submits, frames: Iterable[Given], deadline_s: float | None) -> None:
        self._submits = submits
        self._frames = frames
        self._deadline_s = deadline_s
        self._changed = threading.Condition()
        self._items: deque[_Started | _Raised] = deque()
        self._stopped = False
        self._in_source = False

    def __iter__(self) -> Generator[FrameResult, None, None]:
        thread = threading.Thread(target=self._feed, name="stream", daemon=True)
        thread.start()
        number = 0
        try:
            while True:
                item = self._next()
                if isinstance(item, _Raised):
                    if item.error is not None:
                        raise item.error
                    return
                yield _ended(number, item)
                number += 1
        finally:
            self._stop(thread)

    def _next(self) -> _Started | _Raised:
        with self._changed:
            while not self._items:
                seen = self._changed.wait(LOOK_S)
                # A source may wait for its next frame as long as it likes, such as for a name from a pipe.
                if not seen and self._in_source and (over := self._submits.over()) is not None:
                    return _Raised(over)
            item = self._items[0]
        if isinstance(item, _Started) and isinstance(item.frame, Pending):
            item.frame.wait()
        with self._changed:
            self._items.popleft()
            self._changed.notify_all()
        return item

    def _stop(self, thread: threading.Thread) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            # Nothing can interrupt a source that waits for its next frame.
            free = not self._in_source
        self._submits.look()
        if free:
            thread.join()

    def _feed(self) -> None:
        try:
            source = iter(self._frames)
            while self._enter():
                try:
                    given = next(source)
                except StopIteration:
                    break
                finally:
                    self._leave()
                if not self._put(given):
                    break
        except BaseException as error:
            self._append(_Raised(error))
        else:
            self._append(_Raised(None))

    def _enter(self) -> bool:
        with self._changed:
            while len(self._items) >= AHEAD * self._submits.in_flight and not self._stopped:
                self._changed.wait()
            self._in_source = not self._stopped
            return self._in_source

    def _leave(self) -> None:
        with self._changed:
            self._in_source = False

    def _put(self, given: Given) -> bool:
        """Starts a frame; returns whether the stream goes on.

        Raises:
            ExecutionError: if this one cannot come through, nor any after it.
        """
        if (over := self._submits.over()) is not None:
            raise over
        inputs, tag = offered(given)
        try:
            if isinstance(inputs, DistredgeError):
                raise inputs
            pending = self._submits.submit_when(inputs, self._deadline_s, lambda: not self._stopped)
        except DistredgeError as error:
            self._append(_Started(error, tag))
            return True
        if pending is None:
            return False
        self._append(_Started(pending, tag))
        return True

    def _append(self, item: _Started | _Raised) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()


def _ended(number: int, item: _Started) -> FrameResult:
    frame, tag = item
    if isinstance(frame, Pending):
        return FrameResult(number, frame.outputs, frame.error, frame.latency_s, tag, frame.ran_as)
    return FrameResult(number, None, frame, None, tag)
