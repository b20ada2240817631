"""What happens next at the coordinator: events in, actions out, no sockets, clocks or arrays.

Every frame ends exactly once: with its outputs, or with an error, at its deadline at the latest.

What happens next at a worker: `worker.next_actions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from distredge.errors import EngineError, ExecutionError, PeerTimeout
from distredge.runtime.protocol.device_plan import REQUESTER, SourceMessage
from distredge.runtime.protocol.messages import Situation
from distredge.runtime.requester.watch import Link, Watch

SENDING: Final = "sending"
"""Kind of a `FrameBroken` that no worker has reported."""


class Submitted(NamedTuple):
    """A frame starts; it must have ended at `deadline_s` (absolute, like `now_s`); it has waited for `waited_s`."""

    frame: int
    now_s: float
    deadline_s: float
    waited_s: float = 0.0


class OutputArrived(NamedTuple):
    """The rows of one output message came in and fit the plan."""

    frame: int
    source: int
    now_s: float


class FrameBroken(NamedTuple):
    """A worker, or sending to one, failed on a frame; `kind` is the worker's own word, or `SENDING` to it."""

    frame: int
    device: int
    kind: str
    reason: str
    now_s: float


class WorkerGone(NamedTuple):
    """The connection to a worker broke."""

    device: int
    reason: str


class Answered(NamedTuple):
    """A worker said how far a frame has come."""

    frame: int
    device: int
    situation: Situation | None
    now_s: float


class Heard(NamedTuple):
    """A worker said something, whatever it was."""

    device: int


class Tick(NamedTuple):
    """Time has passed."""

    now_s: float


FrameEvent: TypeAlias = Submitted | OutputArrived | FrameBroken | WorkerGone | Answered | Heard | Tick


class Finish(NamedTuple):
    """The frame has all its outputs."""

    frame: int


class Fail(NamedTuple):
    """The frame ends with an error."""

    frame: int
    error: ExecutionError


class Inquire(NamedTuple):
    """Ask every worker how far the frame has come: it takes long."""

    frame: int


class Again(NamedTuple):
    """The frame ends here and is run again on the same plan, as another one: rows of it were lost on the way."""

    frame: int
    error: ExecutionError


class Remake(NamedTuple):
    """Make a connection between two devices, or a device and the requester, anew: nothing arrives over it."""

    link: Link


class CannotGoOn(NamedTuple):
    """The plan cannot be run any more without somebody being left out: one of `devices`."""

    devices: tuple[int, ...]
    error: PeerTimeout


class Ignore(NamedTuple):
    """Count the message and forget it."""

    why: str


FrameAction: TypeAlias = Finish | Fail | Inquire | Again | Remake | CannotGoOn | Ignore


@dataclass
class _Open:
    started_s: float
    deadline_s: float
    missing: set[int]


class FrameBook:
    """The frames in flight of one plan.

    Args:
        devices: the strategy's devices.
        busy: those that have something to do.
        messages: every message of a frame.
        slots: how many frames may be in flight.
        leaves_out: whether the plan is given up when a worker or a connection goes silent; without it their frames go
            on until their deadlines, which may still come through.
    """

    def __init__(
        self,
        devices: tuple[str, ...],
        busy: Iterable[int],
        messages: Iterable[SourceMessage],
        slots: int,
        leaves_out: bool = False,
    ) -> None:
        self._devices = devices
        self._busy = tuple(busy)
        kept = tuple(messages)
        self._outputs = frozenset(m.source for m in kept if m.destination == REQUESTER != m.source)
        self._slots = slots
        self._leaves_out = leaves_out
        self._watch = Watch(self._busy, kept)
        self._open: dict[int, _Open] = {}
        self._next = 0

    @property
    def open_frames(self) -> tuple[int, ...]:
        """Frames in flight."""
        return tuple(self._open)

    def free_number(self) -> int | None:
        """The number of the next frame: the one before it in its slot has ended; None while all slots are taken."""
        taken = {frame % self._slots for frame in self._open}
        return next((n for n in range(self._next, self._next + self._slots) if n % self._slots not in taken), None)

    @property
    def next_s(self) -> float | None:
        """When the next `Tick` can change something; None when nothing is in flight."""
        ends_s = min((o.deadline_s for o in self._open.values()), default=None)
        asks_s = self._watch.next_s
        return ends_s if asks_s is None or ends_s is None else min(ends_s, asks_s)

    def handle(self, event: FrameEvent) -> tuple[FrameAction, ...]:
        """Returns what to do now, in this order."""
        if isinstance(event, OutputArrived):
            return self._output(event)
        if isinstance(event, Submitted):
            return self._submitted(event)
        if isinstance(event, FrameBroken):
            return self._broken(event)
        if isinstance(event, WorkerGone):
            name = self._devices[event.device]
            return tuple(
                Fail(frame, self._end(frame, PeerTimeout(f"frame {frame}: worker '{name}' is gone: {event.reason}")))
                for frame in tuple(self._open)
            )
        if isinstance(event, Answered):
            return self._answered(event)
        if isinstance(event, Heard):
            self._watch.heard(event.device)
            return ()
        return self._tick(event.now_s)

    def _submitted(self, event: Submitted) -> tuple[FrameAction, ...]:
        self._next = max(self._next, event.frame + 1)
        if not self._outputs:
            return (Finish(event.frame),)
        self._open[event.frame] = _Open(event.now_s - event.waited_s, event.deadline_s, set(self._outputs))
        self._watch.submitted(event.frame, event.now_s, event.deadline_s)
        return ()

    def _end(self, frame: int, error: ExecutionError) -> ExecutionError:
        held = self._open.pop(frame)
        self._watch.ended(frame, held.started_s, well=False)
        return error

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
        self._watch.ended(event.frame, event.now_s, well=True)
        return (Finish(event.frame),)

    def _broken(self, event: FrameBroken) -> tuple[FrameAction, ...]:
        held = self._open.get(event.frame)
        if held is None:
            return (Ignore("late"),)
        name = self._devices[event.device]
        text = f"frame {event.frame}: worker '{name}': {event.reason}"
        if event.kind == "engine":
            return (Fail(event.frame, self._end(event.frame, EngineError(text))),)
        if event.kind == "picture":
            return (Fail(event.frame, self._end(event.frame, ExecutionError(text))),)
        error = PeerTimeout(text)
        link = self._watch.broke(event.device, event.now_s, event.kind != SENDING)
        if link is None:
            return (Fail(event.frame, self._end(event.frame, error)),)
        # Its receiver may be lost, seen by another worker first, or the connection may come back by itself.
        if self._watch.mending(link, event.now_s, held.deadline_s - held.started_s):
            return (Again(event.frame, self._end(event.frame, error)),)
        if self._leaves_out:
            return self._given_up(tuple(device for device in link if device >= 0), error)
        return (Fail(event.frame, self._end(event.frame, error)),)

    def _answered(self, event: Answered) -> tuple[FrameAction, ...]:
        held = self._open.get(event.frame)
        missing = sorted(held.missing) if held is not None else ()
        link = self._watch.answered(event.frame, event.device, event.situation, event.now_s, missing)
        if link is None:
            return ()
        error = PeerTimeout(f"frame {event.frame}: {self._between(link)}")
        if not self._watch.was_remade(link):
            self._watch.remade(link, event.now_s)
            again = tuple(Again(frame, self._end(frame, error)) for frame in tuple(self._open))
            return (Remake(link), *again)
        if not self._leaves_out:
            return ()
        devices = tuple(device for device in link if device >= 0)
        return self._given_up(devices, error)

    def _given_up(self, devices: tuple[int, ...], error: PeerTimeout) -> tuple[FrameAction, ...]:
        failed = tuple(Fail(frame, self._end(frame, error)) for frame in tuple(self._open))
        return (CannotGoOn(devices, error), *failed)

    def _tick(self, now_s: float) -> tuple[FrameAction, ...]:
        actions: list[FrameAction] = []
        for frame, held in tuple(self._open.items()):
            if now_s >= held.deadline_s:
                text = self._explain(frame, held)
                actions.append(Fail(frame, self._end(frame, PeerTimeout(text))))
        silent = self._watch.silent(now_s)
        if silent and self._leaves_out:
            device, for_s = max(silent, key=lambda one: one[1])
            error = PeerTimeout(f"worker '{self._devices[device]}' has not answered for {for_s:.2g} s")
            return (*actions, *self._given_up((device,), error))
        return (*actions, *map(Inquire, self._watch.tick(now_s)))

    def _between(self, link: Link) -> str:
        source, destination = self._name(link.source), self._name(link.destination)
        again = ", not even over a new connection" if self._watch.was_remade(link) else ""
        return f"rows from {source} to {destination} do not arrive{again}"

    def _name(self, device: int) -> str:
        return "the requester" if device == REQUESTER else f"'{self._devices[device]}'"

    def _explain(self, frame: int, held: _Open) -> str:
        text = f"frame {frame}: no result within {held.deadline_s - held.started_s:.3g} s"
        answers = self._watch.answers(frame)
        mute = {device for device, _ in self._watch.silent(held.deadline_s)}
        silent = [self._devices[d] for d in self._busy if d not in answers or d in mute]
        if silent:
            return f"{text}: {_names(silent)} not answer"
        slowest = self._watch.slowest(frame, held.missing, held.deadline_s)
        if slowest is not None and slowest[1]:
            return f"{text}: {self._between(slowest[0])}"
        for device in self._busy:
            situation = answers[device]
            if situation is not None and situation.running:
                return f"{text}: worker '{self._devices[device]}' is still computing stage {situation.waits_in}"
        if slowest is not None:
            return f"{text}: {self._between(slowest[0])}"
        for device in self._busy:
            situation = answers[device]
            if situation is None:
                return f"{text}: worker '{self._devices[device]}' has seen nothing of it"
            if situation.waits_for:
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

    def advanced(self, now_s: float) -> None:
        """A worker has loaded one sub-model more: all of it may take as long again."""
        self._until_s = now_s + self._limit_s

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
