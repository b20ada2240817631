"""The coordinator's thread at work: frames that were asked for, those in flight, and all that comes in.

Everything here belongs to that thread, but for what `Runner.submit` says.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from distredge.errors import DistredgeError, ExecutionError, PeerTimeout, ProtocolError
from distredge.runtime.buffers import Array, Inbox, Outbox, bytes_of, whole
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.device_plan import REQUESTER
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import (
    Ask,
    Fetch,
    FrameFailed,
    Record,
    Records,
    Redial,
    ToCoordinator,
    Told,
)
from distredge.runtime.protocol.row_messages import HEAD_BYTES, Rows, write_head
from distredge.runtime.protocol.transport import Network, NotConnected
from distredge.runtime.requester.io_loop import Call, IoLoop, Task
from distredge.runtime.requester.leases import taken_by
from distredge.runtime.requester.measured_timeline import Recorded, latest_frames
from distredge.runtime.requester.next_actions import (
    SENDING,
    Again,
    Answered,
    CannotGoOn,
    Fail,
    Finish,
    FrameAction,
    FrameBroken,
    Heard,
    Inquire,
    OutputArrived,
    Remake,
    Submitted,
    Tick,
    WorkerGone,
)
from distredge.runtime.requester.open_plans import OpenFrame, OpenPlan
from distredge.runtime.requester.pending import Request, Room
from distredge.runtime.requester.plans import Plans
from distredge.runtime.requester.recovery import Recovery
from distredge.runtime.requester.workers import WorkerConnection, WorkerConnections

if TYPE_CHECKING:
    from distredge.runtime.deployment import Deployment
    from distredge.runtime.requester.watch import Link

ANSWER_S: Final = 2.0
"""Within which a worker must answer a question about what it did."""

REMAKE_S: Final = 0.1
"""Before a frame is run again over a connection that is being made anew."""

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


class Runner:
    """Runs frames on plans (`io_loop.Owner`, `workers.Handler`).

    Args:
        network: makes sockets.
        addresses: where the workers are.
        options: how to work.

    Attributes:
        loop: the thread.
        room: for frames under way.
        current: what frames run on, for callers to check inputs with; None before the first.
        refusal: why nothing is run until something is deployed again; None where that is not so.
    """

    def __init__(self, network: Network, addresses: Iterable[WorkerAddress], options: Options) -> None:
        self._options = options
        self._bell = network.bell()
        self.workers = WorkerConnections(network, addresses, self, self._bell, options.holder, options.take_over)
        self.plans = Plans(self.workers, options.connect_s, options.patience_s, options.replan is not None)
        self.loop = IoLoop(self, self._bell)
        self.room = Room()
        self.current: Deployment | None = None
        self.refusal: ExecutionError | None = None
        self.dropped: Counter[str] = Counter()
        self.last_latency_s: float | None = None
        self._incoming: deque[Request] = deque()
        self._waiting: list[Request] = []
        self._recovery: tuple[Recovery, Call[None]] | None = None

    def submit(self, request: Request) -> None:
        """Takes a frame that has its place in `room`; called by any thread.

        Raises:
            ExecutionError: if the coordinator is closed.
        """
        self._incoming.append(request)
        self.loop.wake()

    # The thread (`io_loop.Owner`).

    def pump(self, timeout_s: float) -> None:
        """Waits for something to come in and handles all of it."""
        self.workers.pump(timeout_s, self.plans.writable)

    def turn(self) -> float:
        """Does what is due; returns when something is next."""
        while self._incoming:
            bisect.insort(self._waiting, self._incoming.popleft(), key=_started_ns)
        now_s = time.monotonic()
        for plan in self.plans.all():
            if plan.book.open_frames:
                self._perform(plan, plan.book.handle(Tick(now_s)))
        self._swap()
        self._recover()
        self._start_waiting(now_s)
        self._expire(now_s)
        self.plans.retire_ended()
        self.plans.send_weights()
        waiting_s = (max(r.not_before_s, now_s) if r.not_before_s > now_s else r.until_s for r in self._waiting)
        return min([self.plans.next_s, self.workers.renew(now_s), *waiting_s])

    def ended(self, error: BaseException | None) -> None:
        """Ends everything that is still under way."""
        why = self.loop.closed or ExecutionError("the coordinator was closed")
        if error is not None:
            _log.error("%s", why, exc_info=error)
        self._end_all(why)
        with contextlib.suppress(Exception):
            self.workers.close()

    def _end_all(self, why: ExecutionError) -> None:
        requests = [frame.request for plan in self.plans.all() for frame in plan.frames.values()]
        self.plans.forget()
        requests += self._waiting
        self._waiting = []
        while self._incoming:
            requests.append(self._incoming.popleft())
        for request in requests:
            self._end(request, why)

    # Plans.

    def deploy(self, deployment: Deployment, slots: int) -> Task[None]:
        """Prepares a deployment and runs frames on it from then on."""
        self.refusal = None
        plan = yield from self.plans.prepare(deployment, slots)
        self._activate(plan)

    def deploy_beside(self, deployment: Deployment, slots: int) -> Task[None]:
        """Begins to prepare a deployment beside the one that runs."""
        following = self.plans.following
        if following is not None and following.error is None:
            self.plans.retire(following)
        self.plans.following = None
        self.plans.following = yield from self.plans.begin(deployment, slots)

    def _swap(self) -> None:
        """Goes over to the plan that was prepared beside the active one, once it can run."""
        following = self.plans.following
        if following is None or following.error is not None:
            return
        try:
            if self.plans.ready(following):
                self._activate(following)
        except ExecutionError as error:
            _log.warning("the plan beside the active one cannot run: %s", error)
            self.plans.retire(following)

    def _activate(self, plan: OpenPlan) -> None:
        self.plans.activate(plan)
        self.current = plan.deployment
        self.room.set_limit(plan.slots)
        if self._recovery is not None:
            self._recovery[1].cancelled = True
            self._recovery = None

    def _recover(self) -> None:
        """Sees to it that the active plan can go on, or another one instead."""
        plan, options = self.plans.active, self._options
        if plan is None or plan.error is None or self._recovery is not None:
            return
        if plan.recovery_failed and not self._waiting:
            return
        one = Recovery(
            self.workers, self.plans, plan, options.deadline_s, options.connect_s, options.replan, self._bell
        )
        self._recovery = (one, self.loop.begin(self._recovered(one, plan)))

    def _recovered(self, one: Recovery, broken: OpenPlan) -> Task[None]:
        try:
            plan = yield from one.run()
        except DistredgeError as error:
            _log.warning("no plan can be run: %s", error)
            self._recovery = None
            broken.recovery_failed = True
            waiting, self._waiting = self._waiting, []
            for request in waiting:
                self._end(request, error)
            return
        self._recovery = None
        self._activate(plan)

    # Frames.

    def _start_waiting(self, now_s: float) -> None:
        """Starts the frames for which there is room, the oldest first."""
        while self._waiting and self._waiting[0].not_before_s <= now_s:
            plan = self.plans.active
            if plan is None or self.refusal is not None:
                self._end(
                    self._waiting.pop(0), self.refusal or ExecutionError("nothing is deployed: call deploy first")
                )
                continue
            number = plan.book.free_number()
            if plan.error is not None or number is None:
                return
            request = self._waiting.pop(0)
            try:
                self._start(plan, number, request)
            except DistredgeError as error:
                self._end(request, error)

    def _expire(self, now_s: float) -> None:
        """Ends the frames whose time is over before they could be run, or run again."""
        for request in [r for r in self._waiting if now_s >= r.until_s]:
            self._waiting.remove(request)
            limit_s = request.until_s - request.started_ns / 1e9
            error = request.lost
            if error is None and self._recovery is not None:
                error = self._recovery[0].reason(limit_s)
            self._end(request, error or PeerTimeout(f"no room to run it within {limit_s:.3g} s"))

    def _start(self, plan: OpenPlan, number: int, request: Request) -> None:
        """Sends a frame's inputs."""
        deployment = plan.deployment
        if request.checked is not deployment:
            request.inputs, request.checked = deployment.check_inputs(request.inputs), deployment
        outputs = deployment.empty_outputs(request.inputs)
        plan.frames[number] = OpenFrame(request, outputs, _inboxes(plan, outputs))
        now_s = time.monotonic()
        event = Submitted(number, now_s, request.until_s, now_s - request.started_ns / 1e9)
        self._perform(plan, plan.book.handle(event))
        if number not in plan.frames:
            return
        for outbox in plan.outboxes(number % plan.slots, request.inputs):
            self._send_rows(plan, number, outbox)
            if number not in plan.frames:
                break

    def _send_rows(self, plan: OpenPlan, number: int, outbox: Outbox) -> None:
        message = outbox.message
        worker = self.workers[plan.deployment.devices[message.destination]]
        packing_ns = time.monotonic_ns()
        try:
            pack = outbox.pack()
            sent_ns = time.monotonic_ns()
            write_head(pack.head, plan.number, number, message.stage, REQUESTER, sent_ns)
            if worker.data is None:
                raise NotConnected(f"{worker.data_address}: not connected")
            pack.tracker = worker.data.send(pack.frames, b"", outbox.shared)
        except NotConnected as error:
            reason = f"cannot be sent its rows: {error}"
            event = FrameBroken(number, message.destination, SENDING, reason, time.monotonic())
            self._perform(plan, plan.book.handle(event))
            return
        times_ns = (packing_ns, time.monotonic_ns(), sent_ns)
        plan.records.append(Record("send", number, message.stage, message.destination, *times_ns, pack.size_bytes))

    def _perform(self, plan: OpenPlan, actions: Sequence[FrameAction]) -> None:
        for action in actions:
            if isinstance(action, Finish):
                self._finish(plan.frames.pop(action.frame))
            elif isinstance(action, Fail):
                self._fail(plan, plan.frames.pop(action.frame).request, action.error)
            elif isinstance(action, Again):
                request = plan.frames.pop(action.frame).request
                request.not_before_s = time.monotonic() + REMAKE_S
                self._wait_again(request, action.error)
            elif isinstance(action, Inquire):
                for name in plan.indices:
                    self.workers.tell(self.workers[name], Ask(plan.number, action.frame))
            elif isinstance(action, Remake):
                self._remake(plan, action.link)
            elif isinstance(action, CannotGoOn):
                self._give_up(plan, action)
            else:
                self.dropped[action.why] += 1

    def _finish(self, frame: OpenFrame) -> None:
        request = frame.request
        self.last_latency_s = latency_s = (time.monotonic_ns() - request.started_ns) / 1e9
        self.room.give()
        request.pending.end(frame.outputs, None, latency_s)

    def _end(self, request: Request, error: DistredgeError) -> None:
        self.room.give()
        request.pending.end(None, error)

    def _fail(self, plan: OpenPlan, request: Request, error: ExecutionError) -> None:
        """Ends a frame with an error, or keeps it to be run again where a worker was lost."""
        in_time = time.monotonic() < request.until_s
        if self._options.replan is not None and in_time and isinstance(error, PeerTimeout):
            # Whoever saw it first: this plan cannot go on.
            plan.error = plan.error or error
            self._wait_again(request, error)
        else:
            self._end(request, error)

    def _wait_again(self, request: Request, error: ExecutionError) -> None:
        request.lost = error
        bisect.insort(self._waiting, request, key=_started_ns)

    def _remake(self, plan: OpenPlan, link: Link) -> None:
        names = ["requester" if d == REQUESTER else plan.deployment.devices[d] for d in link]
        _log.warning("rows from '%s' to '%s' do not arrive: making the connection anew", *names)
        if REQUESTER in link:
            self.workers.remake_data(self.workers[names[0] if link.destination == REQUESTER else names[1]])
        else:
            self.workers.tell(self.workers[names[0]], Redial(plan.number, link.destination))

    def _give_up(self, plan: OpenPlan, action: CannotGoOn) -> None:
        least = min(action.devices, key=plan.work_of)
        name = plan.deployment.devices[least]
        less = " (it has less to do)" if len(action.devices) > 1 else ""
        _log.warning("%s: going on without '%s'%s", action.error, name, less)
        plan.given_up = (*plan.given_up, name)
        plan.error = plan.error or PeerTimeout(f"{action.error}; going on without '{name}'{less}")

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
        if isinstance(message, Told):
            found = self.plans.of(message.plan, worker)
            if found is not None:
                event = Answered(message.frame, found[1], message.situation, now_s)
                self._perform(found[0], found[0].book.handle(event))
        return True

    def data_message(self, worker: WorkerConnection, message: Rows | FrameFailed, frames: Sequence[Bytes]) -> None:
        """Takes rows of a result in, or the report that there will be none."""
        arrived_ns = time.monotonic_ns()
        found = self.plans.of(message.plan, worker)
        if found is None:
            self.dropped["unknown plan"] += 1
            return
        plan, index = found
        if isinstance(message, FrameFailed):
            event = FrameBroken(message.frame, index, message.kind, message.reason, arrived_ns / 1e9)
            self._perform(plan, plan.book.handle(event))
            return
        frame = plan.frames.get(message.frame)
        inbox = frame.inboxes.get(index) if frame is not None else None
        if inbox is None or message.source != index or message.stage != inbox.message.stage:
            self.dropped["late" if frame is None else "not in the plan"] += 1
            return
        try:
            opened = inbox.open(frames)
        except ProtocolError as error:
            self.dropped["not in the plan"] += 1
            _log.debug("dropped rows of worker '%s': %s", worker.name, error)
            return
        inbox.place(opened)
        placed_ns = time.monotonic_ns()
        times_ns = (message.sent_ns, placed_ns, arrived_ns)
        size_bytes = bytes_of(frames) - HEAD_BYTES
        plan.records.append(Record("receive", message.frame, message.stage, index, *times_ns, size_bytes))
        self._perform(plan, plan.book.handle(OutputArrived(message.frame, index, placed_ns / 1e9)))

    def lost(self, worker: WorkerConnection, reason: str) -> None:
        """Ends the frames of plans in which a lost worker takes part."""
        for plan in self.plans.all():
            index = plan.indices.get(worker.name)
            if index is None:
                continue
            plan.weights.pop(worker.name, None)
            plan.error = plan.error or PeerTimeout(f"worker '{worker.name}' is gone: {reason}")
            self._perform(plan, plan.book.handle(WorkerGone(index, reason)))
        if self._options.replan is None:
            # They had begun already.
            for request in [r for r in self._waiting if r.lost is not None]:
                self._waiting.remove(request)
                self._end(request, PeerTimeout(f"worker '{worker.name}' is gone: {reason}"))

    def taken(self, worker: WorkerConnection, holder: str) -> None:
        """Ends everything: somebody else runs this worker now."""
        self.refusal = worker.fatal = taken_by(worker.name, holder)
        _log.warning("%s", self.refusal)
        if self._recovery is not None:
            self._recovery[1].cancelled = True
            self._recovery = None
        self._end_all(self.refusal)
        self.workers.give_back_all()

    # Looking back.

    def recorded(self, frames: int) -> Task[tuple[OpenPlan, dict[int, Recorded], tuple[int, ...]]]:
        """Asks the workers what they did; returns the plan, what each recorded, and the frames wanted.

        Raises:
            ExecutionError: if no frame ended well.
            PeerTimeout: if a worker does not answer.
        """
        plan = self.plans.active
        wanted = latest_frames(plan.records, frames) if plan is not None else ()
        if plan is None or not wanted:
            raise self.refusal or ExecutionError("no frame has been run yet: there is no timeline")
        recorded = {REQUESTER: Recorded(0, tuple(plan.records))}
        for name, index in plan.indices.items():
            worker = self.workers[name]
            offset_ns, _ = yield from self.workers.clock_offset_ns(worker, ANSWER_S)
            answer, _ = yield from self.workers.ask(worker, Fetch(plan.number, wanted[0]), Records, ANSWER_S)
            recorded[index] = Recorded(offset_ns, answer.records)
        return plan, recorded, wanted


def _started_ns(request: Request) -> int:
    return request.started_ns


def _inboxes(plan: OpenPlan, outputs: dict[str, Array]) -> dict[int, Inbox]:
    return {
        message.source: Inbox(
            message, [whole(outputs[box.tensor]) for box in message.boxes], plan.output_forms[message.source]
        )
        for message in plan.deployment.output_messages
    }
