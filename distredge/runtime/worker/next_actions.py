"""What happens next at a worker: what has happened is told, what to do is answered; no sockets, clocks or arrays.

A worker counts what each stage of each frame still waits for. A frame has slot ``frame % slots`` of its plan: the
coordinator starts frame f only after frame f - slots has ended, so a newer frame in a slot means that the older one is
over, whatever became of it. Nothing needs to be cancelled, and what still arrives for the old one is dropped.

What happens next at the coordinator: `requester.next_actions`.
"""

from __future__ import annotations

from collections.abc import Mapping
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


class AtHand(NamedTuple):
    """What a worker has before it.

    Attributes:
        open_frames: frames of which something has come and something is left to compute.
        queued: stages that have all that they need, but the one that runs.
    """

    open_frames: int
    queued: int


_NOTHING: Final = AfterStage((), ())


class _Following(NamedTuple):
    """What a stage that is done lets happen.

    Attributes:
        sends: outgoing messages that its rows go into.
        waits: stages that wait for one thing less.
        after: what to do, where each of `sends` has rows of this stage alone; else None.
        keeps: see `AfterStage`.
    """

    sends: tuple[int, ...]
    waits: tuple[int, ...]
    after: AfterStage | None
    keeps: tuple[int, ...]


class _Needs(NamedTuple):
    """What never changes while a plan lives.

    Attributes:
        of_stage: stage -> number of messages, of kept groups of rows and of segments before it that it waits for.
        messages: (stage, source) -> one bit that stands for the message.
        following: stage -> what it lets happen.
        makers: per outgoing message: how many stages make its rows.
    """

    of_stage: Mapping[int, int]
    messages: Mapping[tuple[int, int], int]
    following: Mapping[int, _Following]
    makers: tuple[int, ...]


def _needs(plan: DevicePlan) -> _Needs:
    of_stage = {segment.stage: 0 for segment in plan.segments}
    waits: dict[int, list[int]] = {segment.stage: [] for segment in plan.segments}
    sends: dict[int, list[int]] = {segment.stage: [] for segment in plan.segments}
    keeps: dict[int, list[int]] = {segment.stage: [] for segment in plan.segments}
    for segment in plan.segments:
        if segment.after >= 0:
            of_stage[segment.stage] += 1
            waits[segment.after].append(segment.stage)
    for message in plan.incoming:
        of_stage[message.stage] += 1
    for message in plan.kept:
        for made_in in dict.fromkeys(message.made_in):
            of_stage[message.stage] += 1
            waits[made_in].append(message.stage)
            keeps[made_in].append(message.stage)
    for index, message in enumerate(plan.outgoing):
        for made_in in dict.fromkeys(message.made_in):
            sends[made_in].append(index)
    makers = tuple(len(set(message.made_in)) for message in plan.outgoing)
    following = {}
    for stage in of_stage:
        at_once = AfterStage(tuple(sends[stage]), tuple(keeps[stage]))
        alone = all(makers[index] == 1 for index in at_once.sends)
        following[stage] = _Following(at_once.sends, tuple(waits[stage]), at_once if alone else None, at_once.keeps)
    messages = {(message.stage, message.source): 1 << place for place, message in enumerate(plan.incoming)}
    return _Needs(of_stage, messages, following, makers)


class _FrameState:
    """How far a frame is.

    Attributes:
        waits: stage -> things that it still waits for; of the stages that are not done.
        unsent: per outgoing message: stages that have not made their rows of it.
        arrived: the messages' bits.
    """

    __slots__ = ("arrived", "failed", "number", "unsent", "waits")

    def __init__(self, number: int, needs: _Needs) -> None:
        self.number = number
        self.waits = dict(needs.of_stage)
        self.unsent = list(needs.makers)
        self.arrived = 0
        self.failed = False


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
        fresh = _FrameState(number, self.needs)
        self.frames[slot] = fresh
        self.newest = max(self.newest, number)
        return fresh

    def current(self, number: int) -> _FrameState | None:
        """The frame of that number, when its slot still holds it."""
        held = self.frames[number % self.plan.slots]
        return held if held is not None and held.number == number else None


class WorkerState:
    """All plans of one worker and the frames in them.

    Attributes:
        frames_done: frames of which this device has nothing left to compute.
    """

    def __init__(self) -> None:
        self.frames_done = 0
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
        bit = state.needs.messages.get((stage, source))
        if bit is None:
            return "not in the plan"
        slot = frame % state.plan.slots
        held = state.frames[slot]
        if held is None or held.number != frame:
            fresh = state.begin(frame)
            if isinstance(fresh, str):
                return fresh
            held = fresh
        if held.arrived & bit:
            return "duplicate"
        held.arrived |= bit
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
        if state is None or held is None or run.stage not in held.waits:
            return _NOTHING
        del held.waits[run.stage]
        if not held.waits:
            self.frames_done += 1
        sends, waits, after, keeps = state.needs.following[run.stage]
        for stage in waits:
            held.waits[stage] -= 1
        if after is not None:
            return after
        for index in sends:
            held.unsent[index] -= 1
        return AfterStage(tuple([index for index in sends if not held.unsent[index]]), keeps)

    def stage_failed(self, run: Run, reason: str) -> Report | None:
        """The engine has failed on a stage."""
        self._running = None
        return self._fail(run.plan, run.frame, "engine", reason)

    def picture_failed(self, plan: int, frame: int, reason: str) -> Report | None:
        """The picture of a frame, which came in its file, cannot be decoded."""
        return self._fail(plan, frame, "picture", reason)

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

    def at_hand(self) -> AtHand:
        """What is begun and what could run now. May be called by another thread."""
        open_frames = queued = 0
        running = self._running
        for state in tuple(self._plans.values()):
            for held in tuple(state.frames):
                # As in `situation`: another thread may be changing it.
                waits = {} if held is None or held.failed else dict(held.waits)
                open_frames += bool(waits)
                queued += sum(1 for missing in waits.values() if missing == 0)
        return AtHand(open_frames, max(0, queued - (running is not None)))

    def situation(self, plan: int, frame: int) -> Situation | None:
        """How far a frame has come; None when it is not here. May be called by another thread."""
        state = self._plans.get(plan)
        held = state.current(frame) if state is not None else None
        if state is None or held is None:
            return None
        # Another thread may be changing it: a stage is told of before or after, and none twice.
        waits, arrived = dict(held.waits), held.arrived
        done = tuple(stage for stage in state.needs.of_stage if stage not in waits)
        running = self._running is not None and self._running[:2] == (plan, frame)
        if not waits:
            return Situation(plan, frame, done, -1, (), running)
        stage = min(waits)
        waits_for = tuple(
            source for (needed_in, source), bit in state.needs.messages.items()
            if needed_in == stage and not arrived & bit
        )  # fmt: skip
        return Situation(plan, frame, done, stage, waits_for, running)
