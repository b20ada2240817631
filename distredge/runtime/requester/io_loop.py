"""A thread that owns the coordinator's sockets: it takes calls from other threads and never waits for them.

What takes several messages is written as a *task*, a generator that yields when it has to wait: until something comes
in, and until the time (monotonic seconds) that it yields at the latest. Several of them go on side by side.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Generator
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from distredge.errors import ExecutionError
from distredge.runtime.protocol.transport import Bell

T = TypeVar("T")

Task: TypeAlias = Generator[float, None, T]
"""Yields the time (monotonic seconds) until which it waits at the latest."""

LONGEST_S = 1.0
"""What the thread sleeps at most."""

NEXT_TURN_S = 0.1
"""Between two looks at whether it is a task's turn."""


class Owner(Protocol):
    """What the thread works for."""

    def pump(self, timeout_s: float) -> None:
        """Waits for something to come in, or for the bell, and handles all of it."""

    def turn(self) -> float:
        """Does what is due; returns when something is next (monotonic seconds)."""

    def ended(self, error: BaseException | None) -> None:
        """The thread ends: with an error that nobody expected, or because it was stopped."""


class Call(Generic[T]):
    """A task that another thread waits for."""

    def __init__(self, task: Task[T]) -> None:
        self.task = task
        self.cancelled = False
        self._ended = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None

    def end(self, result: T | None, error: BaseException | None) -> None:
        """Says how it ended."""
        self._result, self._error = result, error
        self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether `wait` returns at once."""
        return self._ended.is_set()

    def wait(self) -> T:
        """Waits for its end; raises what it raised."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


class Turns:
    """Lets tasks go on one after the other, in the order in which they asked."""

    def __init__(self) -> None:
        self._asked: list[object] = []

    @property
    def are_waited_for(self) -> bool:
        """Whether somebody waits for the one whose turn it is."""
        return len(self._asked) > 1

    def of(self, task: Task[T]) -> Task[T]:
        """Runs a task once those that asked before have ended."""
        turn = object()
        self._asked.append(turn)
        try:
            while self._asked[0] is not turn:
                yield time.monotonic() + NEXT_TURN_S
            return (yield from task)
        finally:
            self._asked.remove(turn)


class IoLoop:
    """The thread; it begins with `start`, and ends with `stop` or with an error that nobody expected.

    Args:
        owner: what it works for; its methods run in the thread.
        bell: which its `pump` waits with.
    """

    def __init__(self, owner: Owner, bell: Bell) -> None:
        self._owner = owner
        self._bell = bell
        self._new: deque[Call[Any]] = deque()
        self._calls: list[Call[Any]] = []
        self._asleep = False
        self._woken = False
        self._stopping = False
        self._closed: ExecutionError | None = None
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)

    def start(self) -> None:
        """Begins; the thread inherits what the calling one has, such as its network namespace."""
        self._thread.start()

    @property
    def closed(self) -> ExecutionError | None:
        """Why it takes nothing more; None while it does."""
        return self._closed

    def wake(self) -> None:
        """Lets the thread look at what others have left for it; called after that was left.

        Raises:
            ExecutionError: if the thread has ended; what was left may not be looked at any more.
        """
        self._woken = True
        # Whoever is awake looks before it sleeps.
        if self._asleep:
            self._bell.ring()
        if self._closed is not None:
            raise self._closed

    def call(self, task: Task[T]) -> T:
        """Runs a task in the thread and waits for it; an interrupt of the waiting ends the task too.

        Raises:
            ExecutionError: if the thread has ended.
        """
        call = self.leave(task)
        try:
            return call.wait()
        except BaseException:
            call.cancelled = True
            self._bell.ring()
            raise

    def leave(self, task: Task[T]) -> Call[T]:
        """Runs a task in the thread without waiting for it; called by any thread.

        Raises:
            ExecutionError: if the thread has ended.
        """
        call = Call(task)
        self._new.append(call)
        self.wake()
        return call

    def begin(self, task: Task[None]) -> Call[None]:
        """Runs a task beside the others; called in the thread."""
        call = Call(task)
        self._calls.append(call)
        self._woken = True
        return call

    def stop(self) -> None:
        """Ends the thread and waits for its end."""
        self._stopping = True
        self._bell.ring()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            while not self._stopping:
                self._once()
        except BaseException as found:
            error = found
            self._closed = ExecutionError(f"the coordinator's thread ended: {type(error).__name__}: {error}")
            self._closed.__cause__ = error
        else:
            self._closed = ExecutionError("the coordinator was closed")
        # Whoever leaves something from now on sees that it is closed.
        for call in (*self._calls, *self._new):
            with contextlib.suppress(Exception):
                call.task.close()
            call.end(None, self._closed)
        self._owner.ended(error)

    def _once(self) -> None:
        self._woken = False
        while self._new:
            self._calls.append(self._new.popleft())
        due_s = min(self._advance(), self._owner.turn())
        self._asleep = True
        try:
            waits = not (self._woken or self._stopping)
            self._owner.pump(max(0.0, min(LONGEST_S, due_s - time.monotonic())) if waits else 0.0)
        finally:
            self._asleep = False

    def _advance(self) -> float:
        """Lets every task go on; returns when one is next due."""
        due_s = time.monotonic() + LONGEST_S
        for call in tuple(self._calls):
            try:
                if not call.cancelled:
                    due_s = min(due_s, next(call.task))
                    continue
                call.task.close()
            except StopIteration as end:
                call.end(end.value, None)
            except Exception as error:
                call.end(None, error)
            # What it has changed may be what another one waits for.
            self._calls.remove(call)
            due_s = 0.0
        return due_s
