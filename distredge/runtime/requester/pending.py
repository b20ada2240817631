"""What a caller holds of frames that were submitted, and how many there may be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from distredge.errors import DistredgeError, ExecutionError, PeerTimeout
from distredge.runtime.buffers import Array

if TYPE_CHECKING:
    from distredge.runtime.deployment import Deployment


class RanAs(NamedTuple):
    """Under which plan and number a frame ran: what workers know it by."""

    plan: int
    frame: int


class Pending:
    """A frame that was submitted. Any thread may wait for it.

    Attributes:
        outputs: name -> array, such as (N, classes), once it has ended well.
        error: why it has none, once it has ended otherwise.
        latency_s: seconds from its start until the last output was placed, once it has ended well; waiting for room
            before that does not count.
        ran_as: what workers know it by, once it has ended well.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, Array] | None = None
        self.error: DistredgeError | None = None
        self.latency_s: float | None = None
        self.ran_as: RanAs | None = None
        self._ended = threading.Event()
        self._callbacks: list[Callable[[Pending], None]] = []

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def wait(self) -> None:
        """Waits until it has ended."""
        self._ended.wait()

    def result(self) -> dict[str, Array]:
        """Waits for the outputs: name -> array, such as (N, classes), shape and dtype as in the graph.

        Raises:
            PeerTimeout: at the frame's deadline, or at once when a worker is lost.
            EngineError, TransportError: what a worker reported.
        """
        self._ended.wait()
        if self.error is not None:
            raise self.error
        assert self.outputs is not None
        return self.outputs

    def add_done_callback(self, callback: Callable[[Pending], None]) -> None:
        """Calls back once it has ended, at once if it has; in the coordinator's own thread, so nothing may block."""
        with _callbacks:
            if not self._ended.is_set():
                self._callbacks.append(callback)
                return
        callback(self)

    def end(
        self,
        outputs: dict[str, Array] | None,
        error: DistredgeError | None,
        latency_s: float | None = None,
        ran_as: RanAs | None = None,
    ) -> None:
        """Ends it, once; called by the coordinator's own thread.

        Args:
            outputs: name -> array, such as (N, classes); None where there is an error.
            error: why there are none.
            latency_s: seconds that it took.
            ran_as: what workers know it by.
        """
        self.outputs, self.error, self.latency_s, self.ran_as = outputs, error, latency_s, ran_as
        with _callbacks:
            self._ended.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


_callbacks = threading.Lock()
"""One for all: it is held for an instant, and frames are made often."""


class FrameResult(NamedTuple):
    """How a frame of a stream ended.

    Attributes:
        number: of the frame in the stream, from 0.
        outputs: name -> array, such as (N, classes); None if it failed.
        error: why it failed; None if it did not.
        latency_s: seconds from the frame's start until the last output was placed; None if it failed.
        tag: what its source gave with it; None if nothing.
        ran_as: what `Coordinator.timeline_of` knows it by; None if it failed.
    """

    number: int
    outputs: dict[str, Array] | None
    error: DistredgeError | None
    latency_s: float | None
    tag: object = None
    ran_as: RanAs | None = None

    def result(self) -> dict[str, Array]:
        """The outputs: name -> array, such as (N, classes); raises what the frame failed with."""
        if self.error is not None:
            raise self.error
        assert self.outputs is not None
        return self.outputs


class Offered(NamedTuple):
    """What a source of frames may give instead of inputs alone.

    Attributes:
        inputs: of the frame, such as (N, C, H, W); or why there are none, which then fails in its place.
        tag: comes back with the frame's result.
    """

    inputs: Mapping[str, Array] | DistredgeError
    tag: object


Given: TypeAlias = Mapping[str, Array] | Offered
"""What a source of frames gives."""


def offered(given: Given) -> Offered:
    """Returns what a source gave, with no tag where it gave none."""
    return given if isinstance(given, Offered) else Offered(given, None)


@dataclass(eq=False)
class Request:
    """A frame that was asked for.

    Attributes:
        pending: what the caller holds.
        inputs: name -> array, such as (N, C, H, W): what `Deployment.check_inputs` returned; nobody writes them
            meanwhile.
        checked: the deployment whose inputs they are known to be.
        started_ns, until_s: when it got its place and when it must have ended (monotonic).
        limit_s: how long it may take in all, waiting for its place included.
        not_before_s: when it may start; later than now after a connection was made anew.
        lost: why it has to be run again.
        on: the deployment that it names; None: the one that frames run on.
    """

    pending: Pending
    inputs: Mapping[str, Array]
    checked: Deployment
    started_ns: int
    until_s: float
    limit_s: float
    not_before_s: float = 0.0
    lost: ExecutionError | None = None
    on: Deployment | None = None


class Room:
    """How many frames may be under way: callers wait here before they submit one more."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limit = 1
        self._taken = 0

    @property
    def limit(self) -> int:
        """How many may be under way."""
        return self._limit

    def set_limit(self, frames: int) -> None:
        """Allows that many from now on."""
        with self._changed:
            self._limit = frames
            self._changed.notify_all()

    def take(self, limit_s: float, until_s: float, wanted: Callable[[], bool]) -> bool:
        """Waits until one more may start, and takes its place.

        Args:
            limit_s: how long waiting may take in all, for the error.
            until_s: when it ends (monotonic).
            wanted: whether there still is anything to wait for; asked after each `look`.

        Returns:
            Whether the place was taken; False if it is no longer wanted.

        Raises:
            PeerTimeout: if none gets free in time.
        """
        with self._changed:
            while self._taken >= self._limit:
                if not wanted():
                    return False
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    raise PeerTimeout(f"no room for one more frame within {limit_s:.3g} s: {self._taken} are under way")
                self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
            self._taken += 1
            return True

    def give(self) -> None:
        """Gives a place back."""
        with self._changed:
            self._taken -= 1
            self._changed.notify()

    def look(self) -> None:
        """Lets everybody who waits ask again whether it is wanted."""
        with self._changed:
            self._changed.notify_all()
