"""Watches a stream: asks its devices how they are, once a second, and shows that wherever it is wanted.

Everything happens in a thread of its own that takes a small share of the time; nothing waits for a device's answer.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from distredge.errors import ExecutionError, in_words
from distredge.monitor.pace import Pace
from distredge.monitor.snapshot import DeviceStates, LatestFrames, Snapshot

if TYPE_CHECKING:
    from distredge.device_sample import DeviceSample
    from distredge.strategy import Strategy

TURN_S: Final = 0.25
"""Between two looks at how the stream stands."""

ASK_PER_S: Final = 1.0
"""How often devices are asked at most."""

_FIRST_S: Final = 1.0
_FIRST_LOOKS: Final = 100
"""How long the end of a stream waits for the first answer of a device, and how often it looks meanwhile."""

_SHARE: Final = 100
"""A view takes one part in so many of the time at most."""


class EndedFrame(Protocol):
    """A frame of a stream that has ended, as the stream tells of it."""

    @property
    def number(self) -> int:
        """In the stream, from 0."""

    @property
    def latency_s(self) -> float | None:
        """Seconds from its start to its last output; None if it failed."""

    @property
    def ended_s(self) -> float:
        """When it ended, seconds since the stream began."""


class Watched(Protocol):
    """What runs the frames: a coordinator."""

    @property
    def in_flight(self) -> int:
        """How many frames may be under way at once."""

    def ask_workers(self) -> None:
        """Asks the workers how they are, without waiting."""

    def samples(self) -> Sequence[DeviceSample]:
        """How they were last."""


class View(Protocol):
    """Where a stream is shown."""

    per_s: float
    """How often it wants to hear of it at most."""

    def begin(self, strategy: Strategy) -> None:
        """The stream begins."""

    def frame(self, frame: EndedFrame) -> None:
        """A frame has ended; called by the stream's own thread."""

    def show(self, snapshot: Snapshot) -> None:
        """How the stream stands; called by the watching thread, and at the end by the stream's own."""

    def end(self) -> None:
        """The stream has ended; may be called twice."""


class StreamWatch:
    """Observes a stream.

    Args:
        views: where it is shown.
        clock: monotonic seconds, those of `DeviceSample.came_s`.
        say: told, once, of a view that fails.
    """

    def __init__(
        self,
        views: Sequence[View] = (),
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ) -> None:
        self._say = say
        self._views = list(views)
        self._clock = clock
        self._paces = {id(view): Pace(view.per_s, _SHARE, clock) for view in views}
        self._asking = Pace(ASK_PER_S, 0.0, clock)
        self._latest = LatestFrames()
        self._states = DeviceStates()
        self._predicted_s: float | None = None
        self._watched: Watched | None = None
        self._order: dict[str, int] = {}
        self._begun_s = 0.0
        self._asked = 0
        self._processor_s = 0.0
        self._faults: list[str] = []
        self._failing = threading.Lock()
        self._last: Snapshot | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def begin(self, coordinator: Watched, strategy: Strategy, predicted_s: float | None) -> None:
        """Starts watching.

        Args:
            coordinator: what runs the frames.
            strategy: what they run on.
            predicted_s: latency of one frame; None if it is not known.
        """
        self._watched, self._predicted_s = coordinator, predicted_s
        self._order = {name: place for place, name in enumerate(strategy.devices)}
        self._begun_s = self._clock()
        for view in tuple(self._views):
            self._try(view, partial(view.begin, strategy))
        self._thread.start()

    def frame(self, frame: EndedFrame) -> None:
        """Hears of a frame that has ended."""
        self._latest.add(frame.ended_s, frame.latency_s)
        for view in tuple(self._views):
            self._try(view, partial(view.frame, frame))

    def end(self) -> Mapping[str, Any]:
        """Ends watching; returns what was seen, for the report; may be called twice, and before `begin`."""
        if self._watched is None:
            for view in tuple(self._views):
                self._try(view, view.end)
            return {}
        if not self._ending.is_set():
            # What is wrong with the workers' answers is seen in the last look.
            with contextlib.suppress(Exception):
                self._wait_for_first()
            self._ending.set()
            if self._thread.is_alive():
                self._thread.join()
            self._last = self._last_look()
            for view in tuple(self._views):
                if self._last is not None:
                    self._try(view, partial(view.show, self._last))
                self._try(view, view.end)
        return {"watch": self._figures(self._last)}

    def _last_look(self) -> Snapshot | None:
        try:
            return self.snapshot()
        except Exception as error:
            self._fault("what is seen of the workers", error)
            return None

    def snapshot(self) -> Snapshot:
        """How the stream stands now."""
        now_s = self._clock()
        latest, elapsed_s = self._latest, now_s - self._begun_s
        samples = [] if self._watched is None else list(self._watched.samples())
        # Those of another plan, one of several or a later one, come last.
        samples.sort(key=lambda sample: self._order.get(sample.device, len(self._order)))
        return Snapshot(
            elapsed_s,
            latest.frames,
            latest.errors,
            latest.images_per_s(latest.ended_s if self._ending.is_set() else elapsed_s),
            latest.percentiles_s(),
            self._predicted_s,
            1 if self._watched is None else self._watched.in_flight,
            self._states.take(samples, now_s),
        )

    def _wait_for_first(self) -> None:
        """Waits a little for what devices say where the stream was over before any of them had answered."""
        for _ in range(_FIRST_LOOKS):
            if not self._thread.is_alive() or (self._watched is not None and self._watched.samples()):
                return
            self._ending.wait(_FIRST_S / _FIRST_LOOKS)

    def _run(self) -> None:
        started_s = time.thread_time()
        try:
            while not self._ending.is_set():
                self._turn()
                self._processor_s = time.thread_time() - started_s
                self._ending.wait(TURN_S)
        except Exception as error:
            self._fault("watching", error)

    def _turn(self) -> None:
        assert self._watched is not None
        if self._asking.due():
            with self._asking.turn():
                try:
                    self._watched.ask_workers()
                except ExecutionError:
                    # It is closed: the stream's own thread says so.
                    return
            self._asked += 1
        due = [view for view in self._views if self._paces[id(view)].due()]
        if due:
            snapshot = self.snapshot()
            for view in due:
                with self._paces[id(view)].turn():
                    self._try(view, partial(view.show, snapshot))

    def _try(self, view: View, what: Callable[[], None]) -> None:
        """What cannot be shown any more, as on a full disk or a closed terminal, ends that view and not the stream."""
        try:
            what()
        except Exception as error:
            with self._failing:
                if view not in self._views:
                    # Another thread has seen it fail already.
                    return
                self._views.remove(view)
            # Before anything is said: it may hold the terminal.
            with contextlib.suppress(Exception):
                view.end()
            self._fault(type(view).__name__, error)

    def _fault(self, what: str, error: Exception) -> None:
        text = f"{what}: {in_words(error)}"
        self._faults.append(text)
        # Nobody may hear it any more.
        with contextlib.suppress(OSError, ValueError):
            self._say(f"the stream goes on without {text}")

    def _figures(self, last: Snapshot | None) -> dict[str, Any]:
        return {
            "devices": {
                state.device: {
                    "state": state.sample.state,
                    "busy_share": self._states.busy_share(state.sample),
                    "frames": state.sample.frames,
                    "received_bytes": state.sample.received_bytes,
                    "sent_bytes": state.sample.sent_bytes,
                    "temperature_c": state.sample.temperature_c,
                    "dropped": state.sample.dropped,
                    "clock_offset_s": state.sample.clock_offset_s,
                    "clock_error_s": state.sample.clock_error_s,
                }
                for state in (() if last is None else last.devices)
            },
            "asked": self._asked,
            "processor_share": self._processor_s / last.elapsed_s if last is not None and last.elapsed_s > 0 else 0.0,
            "faults": list(self._faults),
        }
