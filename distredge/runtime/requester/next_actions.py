"""What happens next at the coordinator: events in, actions out, no sockets, clocks or arrays.

Every frame ends exactly once: with its outputs, or with an error, at its deadline at the latest.

What happens next at a worker: `worker.next_actions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from distredge.errors import EngineError, ExecutionError, PeerTimeout
from distredge.runtime.protocol.device_plan import REQUESTER
from distredge.runtime.protocol.messages import Situation


class Submitted(NamedTuple):
    """A frame starts; it must have ended at `deadline_s` (absolute, like `now_s`)."""

    frame: int
    now_s: float
    deadline_s: float


class OutputArrived(NamedTuple):
    """The rows of one output message came in and fit the plan."""

    frame: int
    source: int


class FrameBroken(NamedTuple):
    """A worker, or sending to one, failed on a frame."""

    frame: int
    device: int
    kind: str
    reason: str


class WorkerGone(NamedTuple):
    """The connection to a worker broke."""

    device: int
    reason: str


class Answered(NamedTuple):
    """A worker said how far a frame has come."""

    frame: int
    device: int
    situation: Situation | None


class Tick(NamedTuple):
    """Time has passed."""

    now_s: float


FrameEvent: TypeAlias = Submitted | OutputArrived | FrameBroken | WorkerGone | Answered | Tick


class Finish(NamedTuple):
    """The frame has all its outputs."""

    frame: int


class Fail(NamedTuple):
    """The frame ends with an error."""

    frame: int
    error: ExecutionError


class Inquire(NamedTuple):
    """Ask every worker how far the frame has come: its deadline is near."""

    frame: int


class Ignore(NamedTuple):
    """Count the message and forget it."""

    why: str


FrameAction: TypeAlias = Finish | Fail | Inquire | Ignore


@dataclass
class _Open:
    started_s: float
    deadline_s: float
    missing: set[int]
    ask_at_s: float
    asked: bool = False
    answers: dict[int, Situation | None] = field(default_factory=dict)


class FrameBook:
    """The frames in flight of one plan.

    Args:
        devices: the strategy's devices.
        busy: those that have something to do.
        outputs: devices that send outputs to the requester.
        slots: how many frames may be in flight.
    """

    def __init__(self, devices: tuple[str, ...], busy: Iterable[int], outputs: Iterable[int], slots: int) -> None:
        self._devices = devices
        self._busy = tuple(busy)
        self._outputs = frozenset(outputs)
        self._slots = slots
        self._open: dict[int, _Open] = {}

    @property
    def open_frames(self) -> tuple[int, ...]:
        """Frames in flight."""
        return tuple(self._open)

    def room_for(self, frame: int) -> bool:
        """Whether a frame may start: the one before it in its slot has ended."""
        return all(other > frame - self._slots for other in self._open)

    @property
    def next_s(self) -> float | None:
        """When the next `Tick` can change something; None when nothing is in flight."""
        return min((o.deadline_s if o.asked else o.ask_at_s for o in self._open.values()), default=None)

    def handle(self, event: FrameEvent) -> tuple[FrameAction, ...]:
        """Returns what to do now, in this order."""
        if isinstance(event, OutputArrived):
            return self._output(event)
        if isinstance(event, Submitted):
            ask_at_s = event.deadline_s - min(1.0, 0.25 * (event.deadline_s - event.now_s))
            self._open[event.frame] = _Open(event.now_s, event.deadline_s, set(self._outputs), ask_at_s)
            return ()
        if isinstance(event, FrameBroken):
            return self._broken(event)
        if isinstance(event, WorkerGone):
            name = self._devices[event.device]
            return tuple(
                self._end(frame, PeerTimeout(f"frame {frame}: worker '{name}' is gone: {event.reason}"))
                for frame in tuple(self._open)
            )
        if isinstance(event, Answered):
            if event.frame in self._open:
                self._open[event.frame].answers[event.device] = event.situation
            return ()
        return self._tick(event.now_s)

    def _end(self, frame: int, error: ExecutionError) -> Fail:
        del self._open[frame]
        return Fail(frame, error)

    def _output(self, event: OutputArrived) -> tuple[FrameAction, ...]:
        held = self._open.get(event.frame)
        if held is None:
            return (Ignore("late"),)
        if event.source not in held.missing:
            return (Ignore("duplicate"),)
        held.missing.discard(event.source)
        if held.missing:
            return ()
        del self._open[event.frame]
        return (Finish(event.frame),)

    def _broken(self, event: FrameBroken) -> tuple[FrameAction, ...]:
        if event.frame not in self._open:
            return (Ignore("late"),)
        name = self._devices[event.device]
        # What cannot be sent cannot because its receiver is lost, seen by another worker first.
        kind = EngineError if event.kind == "engine" else PeerTimeout
        return (self._end(event.frame, kind(f"frame {event.frame}: worker '{name}': {event.reason}")),)

    def _tick(self, now_s: float) -> tuple[FrameAction, ...]:
        actions: list[FrameAction] = []
        for frame, held in tuple(self._open.items()):
            if now_s >= held.deadline_s:
                actions.append(self._end(frame, PeerTimeout(self._explain(frame, held))))
            elif now_s >= held.ask_at_s and not held.asked:
                held.asked = True
                actions.append(Inquire(frame))
        return tuple(actions)

    def _explain(self, frame: int, held: _Open) -> str:
        text = f"frame {frame}: no result within {held.deadline_s - held.started_s:.3g} s"
        silent = [self._devices[d] for d in self._busy if d not in held.answers]
        if silent:
            return f"{text}: {_names(silent)} not answer"
        for device in self._busy:
            situation = held.answers[device]
            if situation is None:
                return f"{text}: worker '{self._devices[device]}' has seen nothing of it"
            if situation.running:
                return f"{text}: worker '{self._devices[device]}' is still computing stage {situation.waits_in}"
        for device in self._busy:
            situation = held.answers[device]
            if situation is not None and situation.waits_for:
                whom = ["requester" if s == REQUESTER else self._devices[s] for s in situation.waits_for]
                return (
                    f"{text}: worker '{self._devices[device]}' waits in stage {situation.waits_in} "
                    f"for rows from {', '.join(whom)}"
                )
        missing = ", ".join(f"'{self._devices[d]}'" for d in sorted(held.missing))
        return f"{text}: every worker has done its part, but what {missing} sent did not arrive"


def _names(names: list[str]) -> str:
    quoted = ", ".join(f"'{name}'" for name in names)
    return f"worker {quoted} does" if len(names) == 1 else f"workers {quoted} do"


class Preparation:
    """Which workers still have to get ready for a plan.

    Args:
        names: device index -> name, of the workers that take part.
        patience_s: how long a worker may be silent.
        limit_s: how long all of it may take.
        now_s: the time now.
    """

    def __init__(self, names: Mapping[int, str], patience_s: float, limit_s: float, now_s: float) -> None:
        self._names = dict(names)
        self._patience_s = patience_s
        self._limit_s = limit_s
        self._until_s = now_s + limit_s
        self._heard_s = dict.fromkeys(self._names, now_s)
        self._waiting = set(self._names)

    @property
    def done(self) -> bool:
        """Whether all are ready."""
        return not self._waiting

    @property
    def next_s(self) -> float:
        """When `overdue` can next name somebody."""
        return min(self._until_s, min(self._heard_s[d] for d in self._waiting) + self._patience_s)

    def heard(self, device: int, now_s: float) -> None:
        """A worker said that it goes on."""
        self._heard_s[device] = now_s

    def ready(self, device: int) -> None:
        """A worker is ready."""
        self._waiting.discard(device)

    def overdue(self, now_s: float) -> PeerTimeout | None:
        """The error about workers that have been silent for too long, or None."""
        if self._waiting and now_s >= self._until_s:
            late = [self._names[d] for d in sorted(self._waiting)]
            return PeerTimeout(f"preparing the plan: not ready within {self._limit_s:g} s: {', '.join(late)}")
        late = [self._names[d] for d in sorted(self._waiting) if now_s >= self._heard_s[d] + self._patience_s]
        if not late:
            return None
        return PeerTimeout(f"preparing the plan: {_names(late)} not answer within {self._patience_s:g} s")
