"""The coordinator's thread at work: plans that come and go, workers that are lost or taken, and all that comes in.

Everything here belongs to that thread, but for what `Runner.submit` says.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from distredge.errors import DistredgeError, ExecutionError, PeerTimeout
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.device_plan import REQUESTER
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import (
    Failed,
    Fetch,
    FrameFailed,
    Records,
    ToCoordinator,
    Told,
)
from distredge.runtime.protocol.row_messages import Rows
from distredge.runtime.protocol.transport import Network
from distredge.runtime.requester.clock_offsets import ClockOffset
from distredge.runtime.requester.frames import Frames
from distredge.runtime.requester.io_loop import Call, IoLoop, Task, Turns
from distredge.runtime.requester.leases import taken_by
from distredge.runtime.requester.measured_timeline import Recorded, build_timeline, latest_frames
from distredge.runtime.requester.next_actions import Answered, FrameBroken, Heard, WorkerGone
from distredge.runtime.requester.open_plans import OpenPlan
from distredge.runtime.requester.pending import RanAs, Request
from distredge.runtime.requester.plans import GivesWay, Plans
from distredge.runtime.requester.recovery import Recovery
from distredge.runtime.requester.worker_connection import WorkerConnection
from distredge.runtime.requester.workers import WorkerConnections

if TYPE_CHECKING:
    from distredge.runtime.deployment import Deployment
    from distredge.timeline import Timeline

ANSWER_S: Final = 2.0
"""Within which a worker must answer a question about what it did."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a coordinator works; see `Coordinator`."""

    deadline_s: float
    connect_s: float
    patience_s: float
    replan: Callable[[frozenset[str]], Deployment] | None
    holder: str
    take_over: bool
    gone: Callable[[str], str | None] | None


@dataclass(eq=False)
class _Beside:
    """A deployment that is to take over from the one that runs, as soon as it can."""

    deployment: Deployment
    slots: int
    call: Call[None] | None = None
    error: ExecutionError | None = None


class Runner:
    """Runs frames on plans (`io_loop.Owner`, `workers.Handler`).

    Args:
        network: makes sockets.
        addresses: where the workers are.
        options: how to work.

    Attributes:
        loop: the thread.
        frames: those that run, and that wait.
        current: what frames run on, for callers to check inputs with; None before the first.
        refusal: why nothing is run until something is deployed again; None where that is not so.
    """

    def __init__(self, network: Network, addresses: Iterable[WorkerAddress], options: Options) -> None:
        self._options = options
        self._bell = network.bell()
        self.workers = WorkerConnections(network, addresses, self, self._bell, options.holder, options.take_over)
        self.plans = Plans(self.workers, options.connect_s, options.patience_s, options.replan is not None)
        self.loop = IoLoop(self, self._bell)
        self.frames = Frames(self.workers, self.plans, options.replan is not None)
        self.current: Deployment | None = None
        self.refusal: ExecutionError | None = None
        self._recoveries: dict[OpenPlan, tuple[Recovery, Call[None]]] = {}
        self._beside: _Beside | None = None
        self._due_s = self._renew_s = 0.0
        self._sample = False
        # One after the other: an answer does not say which of two questions it is for.
        self._looking_back = Turns()

    def submit(self, request: Request) -> None:
        """Takes a frame that has its place in the room; called by any thread.

        Raises:
            ExecutionError: if the coordinator is closed.
        """
        self.frames.asked.append(request)
        self.loop.wake()

    def ask_workers(self) -> None:
        """Lets the workers of the active plan be asked how they are; called by any thread.

        Raises:
            ExecutionError: if the coordinator is closed.
        """
        self._sample = True
        self.loop.wake()

    # The thread (`io_loop.Owner`).

    def pump(self, timeout_s: float) -> None:
        """Waits for something to come in and handles all of it."""
        self.workers.pump(timeout_s, self.plans.writable)

    def turn(self) -> float:
        """Does what is due; returns when something is next."""
        frames, now_s = self.frames, time.monotonic()
        frames.take_in()
        is_due = now_s >= self._due_s
        if is_due:
            frames.tick(now_s)
            self._renew_s = self.workers.renew(now_s)
        if self._sample:
            self._sample = False
            self.workers.sample(dict.fromkeys(name for plan in self.plans.for_some_frames for name in plan.indices))
        self._recover()
        if frames.waiting:
            frames.start_waiting(now_s, self.refusal)
            if is_due:
                frames.expire(now_s, self._reason)
        self.plans.retire_ended()
        self.plans.send_weights()
        self._due_s = min(self.plans.next_s, self._renew_s, frames.next_s(now_s))
        return self._due_s

    def _reason(self, plan: OpenPlan | None, waited_s: float) -> ExecutionError:
        """Why a frame could not be run on a plan in so many seconds."""
        if plan in self._recoveries:
            return self._recoveries[plan][0].reason(waited_s)
        return PeerTimeout(f"no room to run it within {waited_s:.3g} s")

    def ended(self, error: BaseException | None) -> None:
        """Ends everything that is still under way."""
        why = self.loop.closed or ExecutionError("the coordinator was closed")
        if error is not None:
            _log.error("%s", why, exc_info=error)
        self.frames.end_all(why)
        with contextlib.suppress(Exception):
            self.workers.close()

    # Plans.

    def deploy(self, deployment: Deployment, slots: int) -> Task[None]:
        """Prepares a deployment and runs frames on it from then on."""
        self.refusal = None
        plan = yield from self.plans.prepare(deployment, slots)
        self._forget_beside()
        self._activate(plan)

    def deploy_beside(self, deployment: Deployment, slots: int) -> Task[None]:
        """Begins to prepare a deployment beside the one that runs."""
        self._forget_beside()
        yield from self.plans.reach(deployment)
        self._forget_beside()
        self._beside = beside = _Beside(deployment, slots)
        beside.call = self.loop.begin(self._prepared_beside(beside))

    @property
    def beside_error(self) -> ExecutionError | None:
        """Why the deployment that is to take over cannot run; called by any thread."""
        beside = self._beside
        return None if beside is None else beside.error

    def _prepared_beside(self, beside: _Beside) -> Task[None]:
        """Goes over to a deployment once it can run; what frames wait for is prepared before it."""
        try:
            plan: OpenPlan | None = None
            while plan is None:
                # Not in its turn: a worker may be away for long, and others can do without it.
                yield from self.plans.reach(beside.deployment)
                with contextlib.suppress(GivesWay):
                    plan = yield from self.plans.prepare(beside.deployment, beside.slots, gives_way=True)
        except ExecutionError as error:
            _log.warning("the plan beside the active one cannot run: %s", error)
            beside.error = error
            return
        self._beside = None
        self._activate(plan)

    def _forget_beside(self) -> None:
        beside, self._beside = self._beside, None
        if beside is not None and beside.call is not None:
            beside.call.cancelled = True

    def deploy_also(self, deployment: Deployment) -> Task[None]:
        """Prepares a deployment for the frames that name it, as many at once as may be in flight."""
        self.refusal = None
        plan = yield from self.plans.prepare(deployment, self.frames.room.limit)
        self.plans.stand(plan)

    def _activate(self, plan: OpenPlan) -> None:
        self.plans.activate(plan)
        self.current = plan.deployment
        self.frames.room.set_limit(plan.slots)

    def _recover(self) -> None:
        """Sees to it that the plans can go on, or others instead; none waits for the workers of another one."""
        options, plans = self._options, self.plans.for_some_frames
        for plan in [plan for plan in self._recoveries if plan not in plans]:
            self._recoveries.pop(plan)[1].cancelled = True
        for plan in plans:
            if plan.error is not None:
                self._look_whether_over(plan)
            if plan not in self._recoveries and self._needs_recovery(plan):
                one = Recovery(
                    self.workers, self.plans, plan, options.deadline_s, options.connect_s, options.replan, self._bell
                )
                self._recoveries[plan] = (one, self.loop.begin(self._recovered(one, plan)))

    def _needs_recovery(self, plan: OpenPlan) -> bool:
        if plan.error is None:
            return False
        return plan.recovery_error is None or any(
            self.plans.for_frames(request.on) is plan for request in self.frames.waiting
        )

    def _recovered(self, one: Recovery, broken: OpenPlan) -> Task[None]:
        try:
            plan = yield from one.run()
        except DistredgeError as error:
            _log.warning("no plan can be run: %s", error)
            self._recoveries.pop(broken, None)
            broken.recovery_error = error
            self.frames.end_waiting(broken, error)
            return
        self._recoveries.pop(broken, None)
        if broken in self.plans.standing:
            self.plans.stand(plan)
        elif broken is self.plans.active:
            self._activate(plan)
        else:
            # Another one has come in its place meanwhile.
            self.plans.retire(plan)

    def over(self) -> ExecutionError | None:
        """Why no frame can come through any more on any of the plans; None where one may. Called by any thread."""
        plans = self.plans.for_some_frames
        return plans[0].over if plans and all(plan.over is not None for plan in plans) else None

    def _look_whether_over(self, plan: OpenPlan) -> None:
        """Notes whether a plan that cannot go on can still be had back, or another one in its place."""
        absent = [self.workers[name] for name in plan.indices if not self.workers[name].stands]
        now_s = time.monotonic()
        if len(absent) < len(plan.indices):
            plan.deserted_s = None
        elif plan.deserted_s is None:
            plan.deserted_s = now_s
        gone = self._gone(absent)
        without = self._options.replan is not None
        refused = plan.recovery_error is not None and not isinstance(plan.recovery_error, PeerTimeout)
        if gone and not without:
            plan.over = PeerTimeout(f"cannot reach {', '.join(gone)}")
            self.frames.end_waiting(plan, plan.over)
        elif refused and (not without or len(gone) == len(absent) > 0):
            plan.over = ExecutionError(f"no plan can be run any more: {plan.recovery_error}")
        elif plan.deserted_s is not None and now_s >= plan.deserted_s + self._options.connect_s:
            plan.over = self.workers.absent(plan.indices, self._options.connect_s)
        else:
            plan.over = None

    def _gone(self, absent: Iterable[WorkerConnection]) -> list[str]:
        """Those of the workers that do not stand that never come back, each with why."""
        if self._options.gone is None:
            return []
        found = ((worker, self._options.gone(worker.name)) for worker in absent)
        return [f"worker '{worker.name}' at {worker.address.control}: {why}" for worker, why in found if why]

    # What comes in (`workers.Handler`).

    def control_message(self, worker: WorkerConnection, message: ToCoordinator) -> bool:
        """Takes a control message in; returns whether it makes sense."""
        now_s = time.monotonic()
        for plan in self.plans.all():
            index = plan.indices.get(worker.name)
            if index is not None and plan.book.open_frames:
                plan.book.handle(Heard(index))
        if not self.plans.take(worker, message):
            return False
        if isinstance(message, (Told, Failed)):
            found = self.plans.of(message.plan, worker)
            if found is not None and isinstance(message, Told):
                event = Answered(message.frame, found[1], message.situation, now_s)
                self.frames.handle(found[0], event)
            elif found is not None and isinstance(message, Failed):
                # It may have stood already: an engine's process ends when it likes.
                for frame in found[0].book.open_frames:
                    self.frames.handle(found[0], FrameBroken(frame, found[1], "engine", message.reason, now_s))
        return True

    def data_message(self, worker: WorkerConnection, message: Rows | FrameFailed, frames: Sequence[Bytes]) -> None:
        """Takes rows of a result in, or the report that there will be none."""
        self.frames.data_message(worker, message, frames)

    def lost(self, worker: WorkerConnection, reason: str) -> None:
        """Ends the frames of plans in which a lost worker takes part."""
        for plan in self.plans.all():
            index = plan.indices.get(worker.name)
            if index is None:
                continue
            plan.weights.pop(worker.name, None)
            why = PeerTimeout(f"worker '{worker.name}' is gone: {reason}")
            plan.error = plan.error or why
            self.frames.handle(plan, WorkerGone(index, reason))
            if self._options.replan is None:
                self.frames.end_waiting(plan, why, begun=True)

    def taken(self, worker: WorkerConnection, holder: str) -> None:
        """Ends everything: somebody else runs this worker now."""
        self.refusal = worker.fatal = taken_by(worker.name, holder)
        _log.warning("%s", self.refusal)
        for _, call in self._recoveries.values():
            call.cancelled = True
        self._recoveries.clear()
        self.frames.end_all(self.refusal)
        self.workers.give_back_all()

    # Looking back.

    def timeline(self, frames: int, on: Deployment | None = None) -> Task[Timeline]:
        """Asks the workers what they did in the latest frames on a deployment.

        Raises:
            ExecutionError: if no frame ended well.
            PeerTimeout: if a worker does not answer.
        """
        plan = self.plans.for_frames(on)
        wanted = latest_frames(plan.records, frames) if plan is not None else ()
        if plan is None or not wanted:
            raise self.refusal or ExecutionError("no frame has been run yet: there is no timeline")
        return (yield from self._looking_back.of(self._recorded(plan, wanted)))

    def timeline_of(self, ran_as: RanAs) -> Task[Timeline]:
        """Asks the workers what they did in one frame.

        Raises:
            ExecutionError: if its plan has been given up.
            PeerTimeout: if a worker does not answer.
        """
        plan = next((plan for plan in self.plans.all() if plan.number == ran_as.plan), None)
        if plan is None or ran_as.frame not in latest_frames(plan.records, len(plan.records)):
            raise ExecutionError("what was recorded of this frame is forgotten already")
        return (yield from self._looking_back.of(self._recorded(plan, (ran_as.frame,))))

    def _recorded(self, plan: OpenPlan, wanted: tuple[int, ...]) -> Task[Timeline]:
        own = tuple(plan.records)
        recorded = {REQUESTER: Recorded(0, own)}
        for name, index in plan.indices.items():
            worker = self.workers[name]
            yield from self.workers.measure_clock(worker, ANSWER_S)
            answer, came_ns = yield from self.workers.ask(worker, Fetch(plan.number, wanted[0]), Records, ANSWER_S)
            # By when the frame ran, which may be before the clock was measured.
            offset = worker.clock.at(own[-1].stop_ns) or ClockOffset(0, came_ns)
            recorded[index] = Recorded(offset.offset_ns, answer.records, offset.error_ns)
        return build_timeline(plan.deployment.layout, recorded, wanted)
