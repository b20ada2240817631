"""Frames that were asked for and those in flight: how they start, what comes in of them, and how they end."""

from __future__ import annotations

import bisect
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from distredge.errors import DistredgeError, ExecutionError, PeerTimeout, ProtocolError
from distredge.runtime.buffers import Array, Inbox, Outbox, bytes_of, whole
from distredge.runtime.protocol.device_plan import REQUESTER
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import Ask, FrameFailed, Record, Redial
from distredge.runtime.protocol.row_messages import HEAD_BYTES, Rows, write_head
from distredge.runtime.protocol.transport import NotConnected
from distredge.runtime.requester.next_actions import (
    SENDING,
    Again,
    CannotGoOn,
    Fail,
    Finish,
    FrameAction,
    FrameBroken,
    FrameEvent,
    Inquire,
    OutputArrived,
    Remake,
    Submitted,
    Tick,
)
from distredge.runtime.requester.open_plans import OpenFrame, OpenPlan
from distredge.runtime.requester.pending import RanAs, Request, Room
from distredge.runtime.requester.plans import Plans
from distredge.runtime.requester.worker_connection import WorkerConnection
from distredge.runtime.requester.workers import WorkerConnections

if TYPE_CHECKING:
    from distredge.runtime.requester.watch import Link

REMAKE_S: Final = 0.1
"""Before a frame is run again over a connection that is being made anew."""

_log = logging.getLogger(__name__)


class Frames:
    """All frames of a coordinator; belongs to its thread, but for `asked`.

    Args:
        workers: where they run.
        plans: what they run on.
        runs_again: whether the frames of a lost worker wait for another plan.

    Attributes:
        asked: where callers leave frames that have their place in `room`.
        room: for frames under way.
        waiting: those that have not begun, or must begin again, the oldest first.
        dropped: messages, by why.
        last_latency_s: of the frame that ended well last.
    """

    def __init__(self, workers: WorkerConnections, plans: Plans, runs_again: bool) -> None:
        self._workers = workers
        self._plans = plans
        self._runs_again = runs_again
        self.asked: deque[Request] = deque()
        self.room = Room()
        self.waiting: list[Request] = []
        self.dropped: Counter[str] = Counter()
        self.last_latency_s: float | None = None

    def take_in(self) -> None:
        """Takes in what callers have left."""
        while self.asked:
            bisect.insort(self.waiting, self.asked.popleft(), key=_started_ns)

    def tick(self, now_s: float) -> None:
        """Does what is due in the frames in flight."""
        for plan in self._plans.all():
            if plan.book.open_frames:
                self.handle(plan, Tick(now_s))

    def next_s(self, now_s: float) -> float:
        """When a frame that waits is due (monotonic seconds)."""
        due_s = (min(r.not_before_s, r.until_s) if r.not_before_s > now_s else r.until_s for r in self.waiting)
        return min(due_s, default=float("inf"))

    def handle(self, plan: OpenPlan, event: FrameEvent) -> None:
        """Lets something happen to the frames in flight of a plan."""
        self._perform(plan, plan.book.handle(event))

    def end_all(self, why: ExecutionError) -> None:
        """Ends every frame, and forgets the plans."""
        requests = [frame.request for plan in self._plans.all() for frame in plan.frames.values()]
        self._plans.forget(why)
        self.take_in()
        requests += self.waiting
        self.waiting = []
        for request in requests:
            self._end(request, why)

    def end_waiting(self, plan: OpenPlan, why: DistredgeError, begun: bool = False) -> None:
        """Ends the frames that wait to be run on a plan; with `begun` only those that had begun already."""
        for request in [r for r in self.waiting if r.lost is not None or not begun]:
            if self._plans.for_frames(request.on) is plan:
                self.waiting.remove(request)
                self._end(request, why)

    def start_waiting(self, now_s: float, refusal: ExecutionError | None) -> None:
        """Starts the frames for which there is room, the oldest first; or ends them with why nothing is run."""
        held_up: set[int] = set()
        for request in tuple(self.waiting):
            plan = self._plans.for_frames(request.on)
            if plan is None or refusal is not None:
                self.waiting.remove(request)
                self._end(request, refusal or _not_deployed(request))
                continue
            number = plan.book.free_number()
            if plan.error is not None or number is None or request.not_before_s > now_s:
                # Nobody overtakes it on its own plan.
                held_up.add(plan.number)
            if plan.number in held_up or number is None:
                continue
            self.waiting.remove(request)
            try:
                self._start(plan, number, request)
            except DistredgeError as error:
                self._end(request, error)

    def expire(self, now_s: float, reason: Callable[[OpenPlan | None, float], ExecutionError]) -> None:
        """Ends the frames whose time is over before they could be run, or run again.

        Args:
            now_s: the time now.
            reason: of one that has waited for a plan for so many seconds.
        """
        for request in [r for r in self.waiting if now_s >= r.until_s]:
            self.waiting.remove(request)
            plan = self._plans.for_frames(request.on)
            self._end(request, request.lost or reason(plan, request.limit_s))

    def _start(self, plan: OpenPlan, number: int, request: Request) -> None:
        """Sends a frame's inputs."""
        deployment = plan.deployment
        if request.checked is not deployment:
            request.inputs, request.checked = deployment.check_inputs(request.inputs), deployment
        outputs = deployment.empty_outputs(request.inputs)
        plan.frames[number] = OpenFrame(request, outputs, _inboxes(plan, outputs))
        now_s = time.monotonic()
        event = Submitted(number, now_s, request.until_s, now_s - (request.until_s - request.limit_s))
        self.handle(plan, event)
        if number not in plan.frames:
            return
        for outbox in plan.outboxes(number % plan.slots, request.inputs):
            self._send_rows(plan, number, outbox)
            if number not in plan.frames:
                break

    def _send_rows(self, plan: OpenPlan, number: int, outbox: Outbox) -> None:
        message = outbox.message
        worker = self._workers[plan.deployment.devices[message.destination]]
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
            self.handle(plan, event)
            return
        times_ns = (packing_ns, time.monotonic_ns(), sent_ns)
        plan.records.append(Record("send", number, message.stage, message.destination, *times_ns, pack.size_bytes))

    def _perform(self, plan: OpenPlan, actions: Sequence[FrameAction]) -> None:
        for action in actions:
            if isinstance(action, Finish):
                self._finish(plan.frames.pop(action.frame), RanAs(plan.number, action.frame))
            elif isinstance(action, Fail):
                self._fail(plan, plan.frames.pop(action.frame).request, action.error)
            elif isinstance(action, Again):
                request = plan.frames.pop(action.frame).request
                request.not_before_s = time.monotonic() + REMAKE_S
                self._wait_again(request, action.error)
            elif isinstance(action, Inquire):
                for name in plan.indices:
                    self._workers.tell(self._workers[name], Ask(plan.number, action.frame))
            elif isinstance(action, Remake):
                self._remake(plan, action.link)
            elif isinstance(action, CannotGoOn):
                self._give_up(plan, action)
            else:
                self.dropped[action.why] += 1

    def _finish(self, frame: OpenFrame, ran_as: RanAs) -> None:
        request = frame.request
        self.last_latency_s = latency_s = (time.monotonic_ns() - request.started_ns) / 1e9
        self.room.give()
        request.pending.end(frame.outputs, None, latency_s, ran_as)

    def _end(self, request: Request, error: DistredgeError) -> None:
        self.room.give()
        request.pending.end(None, error)

    def _fail(self, plan: OpenPlan, request: Request, error: ExecutionError) -> None:
        """Ends a frame with an error, or keeps it to be run again where a worker was lost."""
        in_time = time.monotonic() < request.until_s
        if self._runs_again and in_time and isinstance(error, PeerTimeout):
            # Whoever saw it first: this plan cannot go on.
            plan.error = plan.error or error
            self._wait_again(request, error)
        else:
            self._end(request, error)

    def _wait_again(self, request: Request, error: ExecutionError) -> None:
        request.lost = error
        bisect.insort(self.waiting, request, key=_started_ns)

    def _remake(self, plan: OpenPlan, link: Link) -> None:
        names = ["requester" if d == REQUESTER else plan.deployment.devices[d] for d in link]
        _log.warning("rows from '%s' to '%s' do not arrive: making the connection anew", *names)
        if REQUESTER in link:
            self._workers.remake_data(self._workers[names[0] if link.destination == REQUESTER else names[1]])
        else:
            self._workers.tell(self._workers[names[0]], Redial(plan.number, link.destination))

    def _give_up(self, plan: OpenPlan, action: CannotGoOn) -> None:
        least = min(action.devices, key=plan.work_of)
        name = plan.deployment.devices[least]
        less = " (it has less to do)" if len(action.devices) > 1 else ""
        _log.warning("%s: going on without '%s'%s", action.error, name, less)
        plan.given_up = (*plan.given_up, name)
        plan.error = plan.error or PeerTimeout(f"{action.error}; going on without '{name}'{less}")

    def data_message(self, worker: WorkerConnection, message: Rows | FrameFailed, frames: Sequence[Bytes]) -> None:
        """Takes rows of a result in, or the report that there will be none."""
        arrived_ns = time.monotonic_ns()
        found = self._plans.of(message.plan, worker)
        if found is None:
            self.dropped["unknown plan"] += 1
            return
        plan, index = found
        if isinstance(message, FrameFailed):
            event = FrameBroken(message.frame, index, message.kind, message.reason, arrived_ns / 1e9)
            self.handle(plan, event)
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
        self.handle(plan, OutputArrived(message.frame, index, placed_ns / 1e9))


def _not_deployed(request: Request) -> ExecutionError:
    if request.on is None:
        return ExecutionError("nothing is deployed: call deploy first")
    return ExecutionError("the deployment that the frame names does not stand: call deploy_also first")


def _started_ns(request: Request) -> int:
    return request.started_ns


def _inboxes(plan: OpenPlan, outputs: dict[str, Array]) -> dict[int, Inbox]:
    return {
        message.source: Inbox(
            message, [whole(outputs[box.tensor]) for box in message.boxes], plan.output_forms[message.source]
        )
        for message in plan.deployment.output_messages
    }
