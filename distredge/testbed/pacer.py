"""Holding what a process does until the emulated board would have done it.

`Pacer` keeps the emulated thread's own clock: when that thread would be free. What is computed or handled moves it on
by the profile's seconds from when it could begin, and the real thread sleeps until then. Where the real one is late,
since handling a message took it longer, the emulated clock is not: the delay is made up for in the next part, which
computes faster here than there.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from distredge.testbed.pace_table import (
    DELAY,
    DELAY_BYTE,
    EXCESS,
    HERE_RECEIVE_BYTE,
    HERE_RECEIVE_FIXED,
    HERE_SEND_BYTE,
    HERE_SEND_FIXED,
    OVERRUNS,
    PACE,
    PACED,
    REAL,
    RECEIVE_BYTE,
    RECEIVE_FIXED,
    SEND_BYTE,
    SEND_FIXED,
    SETTINGS,
    TOLERANCE,
    WIRE_BYTE,
    PaceTable,
)

_SET_TIMER_SLACK: Final = 29
_GET_TIMER_SLACK: Final = 30
_SHORTEST_SLACK_NS: Final = 1000
_NICENESS: Final = -15
_COMPUTING: Final = 1
_HANDLING: Final = 2


@contextmanager
def on_time(paced: bool) -> Iterator[None]:
    """Lets this thread, and those that it starts meanwhile, run before other programs' and wake up within microseconds.

    As far as the system can (Linux) and allows (root): what is measured is the emulated boards, not what else runs.

    Args:
        paced: whether what is handled waits for no computing either, not even that of other boards, which on their own
            machines would not be in its way.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    slack_ns = 0 if prctl is None else prctl(_GET_TIMER_SLACK, 0, 0, 0, 0)
    thread = threading.get_native_id()
    niceness = os.getpriority(os.PRIO_PROCESS, thread)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, _NICENESS))
    if paced:
        _schedule(os.SCHED_FIFO, _HANDLING)
    if prctl is not None:
        prctl(_SET_TIMER_SLACK, _SHORTEST_SLACK_NS, 0, 0, 0)
    try:
        yield
    finally:
        if prctl is not None and slack_ns > 0:
            prctl(_SET_TIMER_SLACK, slack_ns, 0, 0, 0)
        if paced:
            _schedule(os.SCHED_OTHER)
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, niceness)


@contextmanager
def computing() -> Iterator[None]:
    """Within `on_time`: what takes long gives way to what is handled, on this board and on others."""
    real_time = os.sched_getscheduler(0) == os.SCHED_FIFO
    if real_time:
        _schedule(os.SCHED_FIFO, _COMPUTING)
    try:
        yield
    finally:
        if real_time:
            _schedule(os.SCHED_FIFO, _HANDLING)


def _schedule(policy: int, priority: int = 0) -> None:
    """Sets how this thread is scheduled; without the right to, it stays as it is."""
    with suppress(OSError):
        os.sched_setscheduler(0, policy, os.sched_param(priority))


class Pacer:
    """The emulated thread of one board, or of the requester.

    Args:
        table: (ROWS, COLUMNS) float64, see `pace_table`.
        clock: seconds, of a clock that all processes of this machine share.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        table: PaceTable,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.table = table
        self.clock = clock
        self._sleep = sleep
        self._free_s = 0.0
        self.empty_s = 0.0
        """When it was last seen that no message waits."""

    @property
    def paced(self) -> bool:
        """Whether parts and messages take the profile's time."""
        return bool(self.table[SETTINGS, PACED])

    def begin(self) -> None:
        """The emulated thread has nothing to do and begins now: a frame starts at the requester."""
        self._free_s = max(self._free_s, self.clock())

    def compute(self, stage: int, run: Callable[[], None]) -> None:
        """Runs one part and holds until the board would have computed it."""
        table = self.table
        before_s = self.clock()
        with computing():
            run()
        after_s = self.clock()
        table[REAL, stage] = max(table[REAL, stage], after_s - before_s)
        if not self.paced:
            self._free_s = after_s
            return
        pace_s = float(table[PACE, stage])
        self._free_s = (self._free_s or before_s) + pace_s
        if after_s > self._free_s + float(table[SETTINGS, TOLERANCE]):
            table[SETTINGS, OVERRUNS] += 1
            self._free_s = after_s
        self._until(self._free_s)

    def send(self, size_bytes: int) -> None:
        """Holds a message of so many bytes until the board would have handed it over; it is packed already."""
        if not self.paced:
            return
        settings = self.table[SETTINGS]
        self._free_s += float(settings[SEND_FIXED] + settings[SEND_BYTE] * size_bytes)
        hand_over_s = self._free_s - float(settings[HERE_SEND_FIXED] + settings[HERE_SEND_BYTE] * size_bytes)
        settings[EXCESS] += max(0.0, self.clock() - hand_over_s)
        self._until(hand_over_s)

    def due_s(self, source: int, sent_s: float, size_bytes: int) -> float:
        """Returns when a message that has come in would have come in at the board.

        When exactly it came in is not known where this thread was computing: not before the last look at an empty
        queue, nor before its bytes can have crossed the link.

        Args:
            source: device that sent it; -1 the requester.
            sent_s: when that one handed it over.
            size_bytes: of it.
        """
        table = self.table
        at = source + 1
        came_s = max(self.empty_s, sent_s + float(table[WIRE_BYTE, at]) * size_bytes)
        return min(came_s, self.clock()) + float(table[DELAY, at] + table[DELAY_BYTE, at] * size_bytes)

    def receive(self, due_s: float, size_bytes: int) -> None:
        """Holds a message that was due then until the board would have handled it; placing it comes after this."""
        if not self.paced:
            return
        settings = self.table[SETTINGS]
        self._free_s = max(self._free_s, due_s)
        self._free_s += float(settings[RECEIVE_FIXED] + settings[RECEIVE_BYTE] * size_bytes)
        here_s = float(settings[HERE_RECEIVE_FIXED] + settings[HERE_RECEIVE_BYTE] * size_bytes)
        self._until(self._free_s - here_s)

    def rest(self, seconds: float) -> None:
        """Sleeps."""
        self._sleep(seconds)

    def _until(self, time_s: float) -> None:
        left_s = time_s - self.clock()
        if left_s > 0:
            self._sleep(left_s)
