"""What happens next at a worker: events in, actions out, no sockets, clocks or arrays.

A worker counts what each stage of each frame still waits for. A frame has slot ``frame % slots`` of its plan: the
coordinator starts frame f only after frame f - slots has ended, so a newer frame in a slot means that the older one is
over, whatever became of it. Nothing needs to be cancelled, and what still arrives for the old one is dropped.

What happens next at the coordinator: `requester.next_actions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from distredge.runtime.protocol.device_plan import REQUESTER, DevicePlan
from distredge.runtime.protocol.messages import Situation

FAR_AHEAD: Final = 1 << 20
"""A frame that is further ahead of the newest than this is no frame that a coordinator has started."""


class RowsArrived(NamedTuple):
    """A message of rows came in and fits the plan."""

    plan: int
    frame: int
    stage: int
    source: int


class StageDone(NamedTuple):
    """The engine has finished a stage."""

    plan: int
    frame: int
    stage: int


class StageFailed(NamedTuple):
    """The engine has failed on a stage."""

    plan: int
    frame: int
    stage: int
    reason: str


class SendFailed(NamedTuple):
    """A message could not be handed over."""

    plan: int
    frame: int
    destination: int
    reason: str


class Idle(NamedTuple):
    """All that came in has been told, and nothing runs."""


WorkerEvent: TypeAlias = RowsArrived | StageDone | StageFailed | SendFailed | Idle


class Place(NamedTuple):
    """Copy the rows that arrived into their slot."""

    slot: int


class Drop(NamedTuple):
    """Count the message and forget it; `why` is a word for the counter."""

    why: str


class Keep(NamedTuple):
    """Copy rows that stay on the device."""

    plan: int
    slot: int
    stage: int
    made_in: int


class Send(NamedTuple):
    """Pack and send the rows of one of the plan's outgoing messages."""

    plan: int
    frame: int
    slot: int
    outbox: int


class Run(NamedTuple):
    """Let the engine compute a stage."""

    plan: int
    frame: int
    slot: int
    stage: int


class Report(NamedTuple):
    """Tell the requester that a frame cannot be finished."""

    plan: int
    frame: int
    kind: str
    reason: str


WorkerAction: TypeAlias = Place | Drop | Keep | Send | Run | Report


class _Needs(NamedTuple):
    """What never changes while a plan lives.

    Attributes:
        of_stage: stage -> number of messages, of kept groups of rows and of segments before it that it waits for.
        sources: stage -> devices that send to it.
        keeps: stage that makes rows -> stages on the same device that read them.
        sends: stage that makes rows -> indices of the outgoing messages that wait for it.
        makers: per outgoing message: how many stages make its rows.
        following: stage -> stages that read the same inputs after it.
    """

    of_stage: Mapping[int, int]
    sources: Mapping[int, tuple[int, ...]]
    keeps: Mapping[int, tuple[int, ...]]
    sends: Mapping[int, tuple[int, ...]]
    makers: tuple[int, ...]
    following: Mapping[int, tuple[int, ...]]


def _needs(plan: DevicePlan) -> _Needs:
    of_stage = {segment.stage: 0 for segment in plan.segments}
    following: dict[int, tuple[int, ...]] = {}
    for segment in plan.segments:
        if segment.after >= 0:
            of_stage[segment.stage] += 1
            following[segment.after] = (*following.get(segment.after, ()), segment.stage)
    sources: dict[int, tuple[int, ...]] = {}
    for message in plan.incoming:
        of_stage[message.stage] += 1
        sources[message.stage] = (*sources.get(message.stage, ()), message.source)
    keeps: dict[int, tuple[int, ...]] = {}
    for message in plan.kept:
        for made_in in dict.fromkeys(message.made_in):
            of_stage[message.stage] += 1
            keeps[made_in] = (*keeps.get(made_in, ()), message.stage)
    sends: dict[int, tuple[int, ...]] = {}
    for index, message in enumerate(plan.outgoing):
        for made_in in dict.fromkeys(message.made_in):
            sends[made_in] = (*sends.get(made_in, ()), index)
    makers = tuple(len(set(message.made_in)) for message in plan.outgoing)
    return _Needs(of_stage, sources, keeps, sends, makers, following)


@dataclass
class _FrameState:
    number: int
    waits: dict[int, int]
    unsent: list[int]
    arrived: set[tuple[int, int]] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    failed: bool = False


class _PlanState:
    def __init__(self, plan: DevicePlan) -> None:
        self.plan = plan
        self.needs = _needs(plan)
        self.frames: list[_FrameState | None] = [None] * plan.slots
        self.newest = -1

    def frame(self, number: int) -> _FrameState | str:
        """The frame of that number, started now when it is new; or why it is none."""
        slot = number % self.plan.slots
        held = self.frames[slot]
        if held is not None and held.number == number:
            return held
        if held is not None and held.number > number:
            return "late"
        if number > self.newest + FAR_AHEAD:
            return "far ahead"
        fresh = _FrameState(number, dict(self.needs.of_stage), list(self.needs.makers))
        self.frames[slot] = fresh
        self.newest = max(self.newest, number)
        return fresh

    def current(self, number: int) -> _FrameState | None:
        """The frame of that number, when its slot still holds it."""
        held = self.frames[number % self.plan.slots]
        return held if held is not None and held.number == number else None


class WorkerState:
    """All plans of one worker and the frames in them."""

    def __init__(self) -> None:
        self._plans: dict[int, _PlanState] = {}
        self._running: tuple[int, int, int] | None = None

    def add(self, plan: DevicePlan) -> None:
        """Takes a plan in."""
        self._plans[plan.plan] = _PlanState(plan)

    def remove(self, plan: int) -> None:
        """Forgets a plan and its frames."""
        self._plans.pop(plan, None)

    def handle(self, event: WorkerEvent) -> tuple[WorkerAction, ...]:
        """Returns what to do now, in this order."""
        if isinstance(event, RowsArrived):
            return self._rows_arrived(event)
        if isinstance(event, Idle):
            return self._idle()
        if isinstance(event, StageDone):
            return self._stage_done(event)
        return self._failed(event)

    def _rows_arrived(self, event: RowsArrived) -> tuple[WorkerAction, ...]:
        state = self._plans.get(event.plan)
        if state is None:
            return (Drop("unknown plan"),)
        if event.source not in state.needs.sources.get(event.stage, ()):
            return (Drop("not in the plan"),)
        frame = state.frame(event.frame)
        if isinstance(frame, str):
            return (Drop(frame),)
        if (event.stage, event.source) in frame.arrived:
            return (Drop("duplicate"),)
        frame.arrived.add((event.stage, event.source))
        frame.waits[event.stage] -= 1
        return (Place(event.frame % state.plan.slots),)

    def _idle(self) -> tuple[WorkerAction, ...]:
        for number, state in self._plans.items():
            for frame in sorted((f for f in state.frames if f is not None), key=lambda f: f.number):
                if frame.failed:
                    continue
                ready = [stage for stage, missing in frame.waits.items() if missing == 0 and stage not in frame.done]
                if ready:
                    stage = min(ready)
                    self._running = (number, frame.number, stage)
                    return (Run(number, frame.number, frame.number % state.plan.slots, stage),)
        return ()

    def _stage_done(self, event: StageDone) -> tuple[WorkerAction, ...]:
        self._running = None
        state = self._plans.get(event.plan)
        frame = state.current(event.frame) if state is not None else None
        if state is None or frame is None or event.stage in frame.done:
            return ()
        frame.done.add(event.stage)
        slot = event.frame % state.plan.slots
        actions: list[WorkerAction] = []
        # Others wait for what is sent; what is kept can wait.
        for index in state.needs.sends.get(event.stage, ()):
            frame.unsent[index] -= 1
            if frame.unsent[index] == 0:
                actions.append(Send(event.plan, event.frame, slot, index))
        for stage in state.needs.following.get(event.stage, ()):
            frame.waits[stage] -= 1
        for stage in state.needs.keeps.get(event.stage, ()):
            frame.waits[stage] -= 1
            actions.append(Keep(event.plan, slot, stage, event.stage))
        return tuple(actions)

    def _failed(self, event: StageFailed | SendFailed) -> tuple[WorkerAction, ...]:
        if isinstance(event, StageFailed):
            self._running = None
        state = self._plans.get(event.plan)
        frame = state.current(event.frame) if state is not None else None
        if state is None or frame is None or frame.failed:
            return ()
        frame.failed = True
        if isinstance(event, StageFailed):
            return (Report(event.plan, event.frame, "engine", event.reason),)
        name = "the requester" if event.destination == REQUESTER else f"'{state.plan.devices[event.destination]}'"
        return (Report(event.plan, event.frame, "peer", f"cannot send rows to {name}: {event.reason}"),)

    def situation(self, plan: int, frame: int) -> Situation | None:
        """How far a frame has come; None when it is not here. May be called by another thread."""
        state = self._plans.get(plan)
        held = state.current(frame) if state is not None else None
        if state is None or held is None:
            return None
        done = tuple(sorted(tuple(held.done)))
        arrived = frozenset(tuple(held.arrived))
        open_stages = [stage for stage in state.needs.of_stage if stage not in done]
        running = self._running is not None and self._running[:2] == (plan, frame)
        if not open_stages:
            return Situation(plan, frame, done, -1, (), running)
        stage = min(open_stages)
        waits_for = tuple(s for s in state.needs.sources.get(stage, ()) if (stage, s) not in arrived)
        return Situation(plan, frame, done, stage, waits_for, running)
