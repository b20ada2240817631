"""What happens next at a worker: what has happened is told, what to do is answered; no sockets, clocks or arrays.

A worker counts what each stage of each frame still waits for. A frame has slot ``frame % slots`` of its plan: the
coordinator starts frame f only after frame f - slots has ended, so a newer frame in a slot means that the older one is
over, whatever became of it. Nothing needs to be cancelled, and what still arrives for the old one is dropped.

What happens next at the coordinator: `requester.next_actions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from distredge.runtime.protocol.device_plan import REQUESTER, DevicePlan
from distredge.runtime.protocol.messages import Situation

FAR_AHEAD: Final = 1 << 20
"""A frame that is further ahead of the newest than this is no frame that a coordinator has started."""


class Run(NamedTuple):
    """Let the engine compute a stage."""

    plan: int
    frame: int
    slot: int
    stage: int


class AfterStage(NamedTuple):
    """What follows a stage.

    Attributes:
        sends: outgoing messages of the plan, by their place in it, to pack and send now: others wait for them.
        keeps: stages on this device for which rows of the one that is done must be copied, after that.
    """

    sends: tuple[int, ...]
    keeps: tuple[int, ...]


class Report(NamedTuple):
    """Tell the requester that a frame cannot be finished."""

    plan: int
    frame: int
    kind: str
    reason: str


_NOTHING: Final = AfterStage((), ())


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

    def begin(self, number: int) -> _FrameState | str:
        """The frame of that number, which its slot does not hold, started now; or why it is none."""
        slot = number % self.plan.slots
        held = self.frames[slot]
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

    def rows_arrived(self, plan: int, frame: int, stage: int, source: int) -> int | str:
        """A message of rows came in and fits the plan.

        Returns:
            The slot to copy them to; or a word that says why the message is to be forgotten.
        """
        state = self._plans.get(plan)
        if state is None:
            return "unknown plan"
        if source not in state.needs.sources.get(stage, ()):
            return "not in the plan"
        slot = frame % state.plan.slots
        held = state.frames[slot]
        if held is None or held.number != frame:
            fresh = state.begin(frame)
            if isinstance(fresh, str):
                return fresh
            held = fresh
        if (stage, source) in held.arrived:
            return "duplicate"
        held.arrived.add((stage, source))
        held.waits[stage] -= 1
        return slot

    def next_run(self) -> Run | None:
        """All that came in has been told, and nothing runs: the stage to run now, or None.

        Plans in the order in which they came, of a plan the oldest frame, of a frame the first stage.
        """
        for number, state in self._plans.items():
            best: tuple[int, int] | None = None
            for held in state.frames:
                if held is None or held.failed or (best is not None and held.number > best[0]):
                    continue
                ready = [stage for stage, missing in held.waits.items() if missing == 0]
                if ready:
                    best = (held.number, min(ready))
            if best is not None:
                frame, stage = best
                self._running = (number, frame, stage)
                return Run(number, frame, frame % state.plan.slots, stage)
        return None

    def stage_done(self, run: Run) -> AfterStage:
        """The engine has finished a stage."""
        self._running = None
        state = self._plans.get(run.plan)
        held = state.current(run.frame) if state is not None else None
        if state is None or held is None or run.stage in held.done:
            return _NOTHING
        held.done.add(run.stage)
        waits, needs = held.waits, state.needs
        del waits[run.stage]
        sends = needs.sends.get(run.stage, ())
        for index in sends:
            held.unsent[index] -= 1
        for stage in needs.following.get(run.stage, ()):
            waits[stage] -= 1
        keeps = needs.keeps.get(run.stage, ())
        for stage in keeps:
            waits[stage] -= 1
        return AfterStage(tuple([index for index in sends if not held.unsent[index]]), keeps)

    def stage_failed(self, run: Run, reason: str) -> Report | None:
        """The engine has failed on a stage."""
        self._running = None
        return self._fail(run.plan, run.frame, "engine", reason)

    def send_failed(self, plan: int, frame: int, destination: int, reason: str) -> Report | None:
        """A message could not be handed over."""
        state = self._plans.get(plan)
        if state is None:
            return None
        name = "the requester" if destination == REQUESTER else f"'{state.plan.devices[destination]}'"
        return self._fail(plan, frame, "peer", f"cannot send rows to {name}: {reason}")

    def _fail(self, plan: int, frame: int, kind: str, reason: str) -> Report | None:
        state = self._plans.get(plan)
        held = state.current(frame) if state is not None else None
        if held is None or held.failed:
            return None
        held.failed = True
        return Report(plan, frame, kind, reason)

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
