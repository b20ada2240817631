"""The requester's side: prepares plans on workers, sends frames, gets results.

A coordinator has no thread of its own. Whoever waits for something moves everything on meanwhile: that is the shortest
way for a frame, with no hand-over between threads. Calls from several threads take turns.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from distredge.errors import DistredgeError, EngineError, ExecutionError, PeerTimeout, ProtocolError, TransportError
from distredge.runtime.buffers import Array, Inbox, Outbox, bytes_of, whole
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.device_plan import REQUESTER
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import (
    Ask,
    Failed,
    Fetch,
    FrameFailed,
    Missing,
    Ready,
    Record,
    Records,
    Retire,
    ToCoordinator,
    Told,
)
from distredge.runtime.protocol.prepare_parts import prepare_parts
from distredge.runtime.protocol.row_messages import HEAD_BYTES, Rows, write_head
from distredge.runtime.protocol.transport import Network, NotConnected
from distredge.runtime.requester.next_actions import (
    Answered,
    Fail,
    Finish,
    FrameAction,
    FrameBroken,
    Ignore,
    Inquire,
    OutputArrived,
    Submitted,
    Tick,
    WorkerGone,
)
from distredge.runtime.requester.open_plans import OpenFrame, OpenPlan, Pending, Request
from distredge.runtime.requester.workers import WorkerConnection, WorkerConnections
from distredge.runtime.weights import weight_messages

if TYPE_CHECKING:
    from distredge.runtime.deployment import Deployment
    from distredge.timeline import Timeline

CONNECT_S: Final = 5.0
"""Within which workers must be reached."""

PATIENCE_S: Final = 30.0
"""How long a worker may be silent while it prepares a plan."""

DEADLINE_S: Final = 10.0
"""Within which a frame ends, one way or the other."""

ANSWER_S: Final = 2.0
"""Within which a worker must answer a question about what it did."""

CHUNKS_AT_ONCE: Final = 16
"""Pieces of constants handed over to one worker before it is another one's turn."""

_log = logging.getLogger(__name__)


class Coordinator:
    """Runs frames on workers.

    Args:
        network: makes sockets; stays open when the coordinator closes.
        workers: where the workers are.
        deadline_s: within which a frame ends, one way or the other.
        connect_s: within which workers must be reached.
        patience_s: how long a worker may be silent while it prepares a plan.
        replan: asked, with the names of the workers that are lost, for a deployment on those that are left; frames in
            flight are then run again there. Without it they end with an error, and the next frame waits for the lost
            ones to come back.
    """

    def __init__(
        self,
        network: Network,
        workers: Iterable[WorkerAddress],
        *,
        deadline_s: float = DEADLINE_S,
        connect_s: float = CONNECT_S,
        patience_s: float = PATIENCE_S,
        replan: Callable[[frozenset[str]], Deployment] | None = None,
    ) -> None:
        self._replan = replan
        self._workers = WorkerConnections(network, workers, self)
        self._deadline_s = deadline_s
        self._connect_s = connect_s
        self._patience_s = patience_s
        self._plans: dict[int, OpenPlan] = {}
        self._active: OpenPlan | None = None
        self._next: OpenPlan | None = None
        self._again: deque[Request] = deque()
        self._lock = threading.RLock()
        self._dropped: Counter[str] = Counter()
        self.last_latency_s: float | None = None

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dropped(self) -> Counter[str]:
        """Messages that were dropped, by reason."""
        return self._dropped + self._workers.dropped

    # Plans.

    def deploy(self, deployment: Deployment, in_flight: int = 1) -> None:
        """Prepares a deployment on its workers and runs frames on it from then on.

        Frames in flight under the plan before it come to their end there.

        Args:
            deployment: what to run.
            in_flight: how many frames may be in flight.

        Raises:
            PeerTimeout: if a worker cannot be reached or goes silent.
            AuthError, ProtocolError, EngineError: what a worker refuses, with its name.
        """
        with self._lock:
            plan = self._begin(deployment, in_flight)
            while not self._ready(plan):
                self._pump(0.5)
            self._activate(plan)

    def deploy_beside(self, deployment: Deployment, in_flight: int = 1) -> None:
        """Begins to prepare a deployment while frames go on; the first frame after it is ready runs on it.

        What goes wrong meanwhile leaves the plan that runs in place and is in `beside_error`.
        """
        with self._lock:
            if self._next is not None and self._next.error is None:
                self._retire(self._next)
            self._next = self._begin(deployment, in_flight)

    @property
    def beside_error(self) -> ExecutionError | None:
        """Why the plan that is being prepared beside the active one cannot run; None while it may."""
        return self._next.error if self._next is not None else None

    def _begin(self, deployment: Deployment, slots: int) -> OpenPlan:
        names = [deployment.devices[i] for i in deployment.busy]
        unknown = [name for name in names if name not in self._workers]
        if unknown:
            raise TransportError(f"no address of worker '{unknown[0]}'")
        self._workers.connect(names, self._connect_s)
        addresses = [self._workers[name].for_others() for name in names]
        # Never the number of another coordinator's plan: what that one still sends must find no plan here.
        plan = OpenPlan(secrets.randbits(61), deployment, slots, self._patience_s)
        self._plans[plan.number] = plan
        for name, index in plan.indices.items():
            device_plan = deployment.device_plan(index, plan.number, slots, addresses)
            if not self._workers.tell(self._workers[name], *prepare_parts(device_plan, deployment.models(index))):
                plan.error = PeerTimeout(f"worker '{name}' is gone")
        return plan

    def _ready(self, plan: OpenPlan) -> bool:
        """Whether a plan can run; raises what keeps it from that."""
        plan.error = plan.error or plan.preparation.overdue(time.monotonic())
        if plan.error is not None:
            self._retire(plan)
            raise plan.error
        return plan.preparation.done and all(self._workers[name].stands for name in plan.indices)

    def _activate(self, plan: OpenPlan) -> None:
        old, self._active = self._active, plan
        if old is not None:
            old.retiring = True
            self._retire_ended()

    def _retire(self, plan: OpenPlan) -> None:
        self._plans.pop(plan.number, None)
        if self._active is plan:
            self._active = None
        for name in plan.indices:
            if self._workers[name].greeted:
                self._workers.tell(self._workers[name], Retire(plan.number))

    def _retire_ended(self) -> None:
        for plan in [p for p in self._plans.values() if p.retiring and not p.book.open_frames]:
            self._retire(plan)

    # Frames.

    def infer(self, inputs: Mapping[str, Array], deadline_s: float | None = None) -> dict[str, Array]:
        """Runs one frame.

        Args:
            inputs: tensor name -> array, shape as in the graph, such as (N, C, H, W), dtype as in
                `Deployment.input_dtypes`.
            deadline_s: for this frame; the coordinator's own by default.

        Returns:
            Output name -> array, shape, such as (N, classes), and dtype as in the graph.

        Raises:
            ModelError: if the inputs do not fit the graph.
            PeerTimeout: if it has not ended within its deadline, or a worker is lost.
            EngineError, TransportError: what a worker reported.
        """
        return self.submit(inputs, deadline_s).result()

    def submit(self, inputs: Mapping[str, Array], deadline_s: float | None = None) -> Pending:
        """Starts a frame, once there is room for one more; inputs, such as (N, C, H, W), and errors as for `infer`."""
        limit_s = self._deadline_s if deadline_s is None else deadline_s
        with self._lock:
            self._run_again()
            started_ns = time.monotonic_ns()
            until_s = started_ns / 1e9 + limit_s
            plan = self._usable(until_s)
            arrays = plan.deployment.check_inputs(inputs)
            if self._replan is not None:
                # The caller may write the next frame into the same arrays.
                arrays = {name: array.copy() for name, array in arrays.items()}
            request = Request(Pending(self), arrays, started_ns, until_s)
            self._start(request)
            return request.pending

    def stream(
        self, frames: Iterable[Mapping[str, Array]], deadline_s: float | None = None
    ) -> Iterator[dict[str, Array]]:
        """Runs frames with as many in flight as the plan allows; yields their outputs in order.

        Args:
            frames: the inputs of each, such as (N, C, H, W), as for `infer`.
            deadline_s: for each of them.
        """
        waiting: deque[Pending] = deque()
        for inputs in frames:
            waiting.append(self.submit(inputs, deadline_s))
            while waiting and (waiting[0].done or len(waiting) > (self._active.slots if self._active else 1)):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def wait(self, pending: Pending) -> None:
        """Waits until a frame has ended."""
        while not pending.done:
            with self._lock:
                if not pending.done:
                    self._run_again()
                if not pending.done:
                    self._pump(0.5)

    def _run_again(self) -> None:
        """Runs the frames anew that were in flight when a worker was lost, the oldest first."""
        while self._again:
            request = self._again.popleft()
            try:
                if time.monotonic() >= request.until_s:
                    assert request.lost is not None
                    raise request.lost
                self._start(request)
            except DistredgeError as error:
                request.pending.error = error

    def _usable(self, until_s: float) -> OpenPlan:
        """The plan for the next frame; prepared anew when a worker was lost meanwhile."""
        if self._next is not None and self._next.error is None:
            following = self._next
            try:
                ready = self._ready(following)
            except ExecutionError as error:
                _log.warning("the plan beside the active one cannot run: %s", error)
            else:
                if ready:
                    self._next = None
                    self._activate(following)
        plan = self._active
        if plan is None:
            raise ExecutionError("nothing is deployed: call deploy first")
        self._workers.pump(0.0)
        if plan.error is None:
            return plan
        again, self._next = self._next, None
        if again is not None and again.error is not None:
            again = None
        while again is None or not self._ready_by(again, until_s, plan.error):
            try:
                if again is not None:
                    # That its connection broke may still be on its way here.
                    self._pump(0.05)
                again = self._begin(self._revived(again or plan, until_s), plan.slots)
            except PeerTimeout:
                # One that is found out to be lost only now; `_revived` plans without it.
                if self._replan is None or time.monotonic() >= until_s:
                    raise
        self._activate(again)
        return again

    def _ready_by(self, plan: OpenPlan, until_s: float, why: ExecutionError) -> bool:
        """Waits until a plan can run; whether it can, or, where `replan` has another one, a worker is lost instead.

        Raises:
            PeerTimeout: if it cannot in time; a later frame may find it ready.
            ExecutionError: what keeps it from running.
        """
        try:
            while not self._ready(plan):
                if time.monotonic() >= until_s:
                    self._next = plan
                    raise PeerTimeout(f"the plan cannot be prepared again in time after: {why}")
                self._pump(0.5)
        except PeerTimeout:
            if plan.error is None or self._replan is None or time.monotonic() >= until_s:
                raise
            return False
        return True

    def _revived(self, plan: OpenPlan, until_s: float) -> Deployment:
        """What to deploy after a worker was lost: the same when it is back in time, else what `replan` says."""
        left_s = max(0.0, until_s - time.monotonic())
        try:
            # With another plan at hand most of the time is kept for it.
            self._workers.connect(plan.indices, min(left_s if self._replan is None else left_s / 4, self._connect_s))
        except PeerTimeout:
            if self._replan is None:
                raise
            lost = frozenset(name for name in plan.indices if not self._workers[name].stands)
            _log.warning("lost %s: planning anew", ", ".join(sorted(lost)))
            return self._replan(lost)
        return plan.deployment

    def _start(self, request: Request) -> None:
        """Sends a frame's inputs, once there is room for it."""
        plan, number = self._room(request.until_s)
        deployment = plan.deployment
        outputs = deployment.empty_outputs(request.inputs)
        inboxes = {
            message.source: Inbox(
                message, [whole(outputs[box.tensor]) for box in message.boxes], plan.output_forms[message.source]
            )
            for message in deployment.output_messages
        }
        plan.frames[number] = OpenFrame(request, outputs, inboxes)
        plan.book.handle(Submitted(number, request.started_ns / 1e9, request.until_s))
        for outbox in plan.outboxes(number % plan.slots, request.inputs):
            self._send_rows(plan, number, outbox)
            if number not in plan.frames:
                break
        if not deployment.output_messages and number in plan.frames:
            self._perform(plan, (Finish(number),))

    def _room(self, until_s: float) -> tuple[OpenPlan, int]:
        """A plan that can run, and the number of a frame that has room in it."""
        while True:
            plan = self._usable(until_s)
            number = next(plan.numbers)
            while plan.error is None and not plan.book.room_for(number):
                self._pump(0.5)
            if plan.error is None:
                return plan, number

    def _send_rows(self, plan: OpenPlan, number: int, outbox: Outbox) -> None:
        message = outbox.message
        worker = self._workers[plan.deployment.devices[message.destination]]
        packing_ns = time.monotonic_ns()
        try:
            pack = outbox.pack()
            sent_ns = time.monotonic_ns()
            write_head(pack.head, plan.number, number, message.stage, REQUESTER, sent_ns)
            assert worker.data is not None
            pack.tracker = worker.data.send(pack.frames, b"", outbox.shared)
        except NotConnected as error:
            event = FrameBroken(number, message.destination, "peer", f"cannot be sent its rows: {error}")
            self._perform(plan, plan.book.handle(event))
            return
        times_ns = (packing_ns, time.monotonic_ns(), sent_ns)
        plan.records.append(Record("send", number, message.stage, message.destination, *times_ns, pack.size_bytes))

    def _pump(self, timeout_s: float) -> None:
        now_s = time.monotonic()
        due_s = [s for plan in self._plans.values() if (s := plan.book.next_s) is not None]
        due_s += [plan.preparation.next_s for plan in self._plans.values() if not plan.preparation.done]
        wait_s = max(0.0, min([timeout_s, *(s - now_s for s in due_s)]))
        writable = [self._workers[name].control for plan in self._plans.values() for name in plan.weights]
        self._workers.pump(wait_s, writable)
        for plan in tuple(self._plans.values()):
            self._send_weights(plan)
            if plan.book.open_frames:
                self._perform(plan, plan.book.handle(Tick(time.monotonic())))
        self._retire_ended()

    def _perform(self, plan: OpenPlan, actions: Sequence[FrameAction]) -> None:
        for action in actions:
            if isinstance(action, Finish):
                frame = plan.frames.pop(action.frame)
                pending = frame.request.pending
                pending.latency_s = (time.monotonic_ns() - frame.request.started_ns) / 1e9
                pending.outputs = frame.outputs
                self.last_latency_s = pending.latency_s
            elif isinstance(action, Fail):
                self._fail(plan, plan.frames.pop(action.frame).request, action.error)
            elif isinstance(action, Inquire):
                for name in plan.indices:
                    self._workers.tell(self._workers[name], Ask(plan.number, action.frame))
            elif isinstance(action, Ignore):
                self._dropped[action.why] += 1

    def _fail(self, plan: OpenPlan, request: Request, error: ExecutionError) -> None:
        """Ends a frame with an error, or keeps it to be run again where a worker was lost."""
        in_time = time.monotonic() < request.until_s
        if self._replan is not None and in_time and isinstance(error, PeerTimeout):
            # Whoever saw it first: this plan cannot go on.
            plan.error = plan.error or error
            request.lost = error
            self._again.append(request)
        else:
            request.pending.error = error

    def _send_weights(self, plan: OpenPlan) -> None:
        for name in tuple(plan.weights):
            worker = self._workers[name]
            for _ in range(CHUNKS_AT_ONCE):
                item = plan.unsent.pop(name, None) or next(plan.weights[name], None)
                if item is None:
                    del plan.weights[name]
                    break
                if not self._workers.tell(worker, item[0], [item[1]]):
                    plan.unsent[name] = item
                    break
                plan.preparation.heard(plan.indices[name], time.monotonic())

    # What comes in (`workers.Handler`).

    def control_message(self, worker: WorkerConnection, message: ToCoordinator) -> None:
        """Takes a control message in."""
        plan = self._plans.get(getattr(message, "plan", -1))
        index = plan.indices.get(worker.name) if plan is not None else None
        if plan is None or index is None:
            return
        plan.preparation.heard(index, time.monotonic())
        if isinstance(message, Missing):
            store = plan.deployment.weights(index)
            unknown = [digest for digest in message.digests if digest not in store]
            if unknown:
                plan.error = ProtocolError(f"worker '{worker.name}' asks for constants that are not in its plan")
                return
            plan.weights[worker.name] = itertools.chain.from_iterable(
                weight_messages(plan.number, digest, store[digest]) for digest in message.digests
            )
        elif isinstance(message, Ready):
            plan.preparation.ready(index)
        elif isinstance(message, Failed):
            plan.weights.pop(worker.name, None)
            kinds: dict[str, type[ExecutionError]] = {"engine": EngineError, "peer": PeerTimeout}
            plan.error = kinds.get(message.kind, ExecutionError)(f"worker '{worker.name}': {message.reason}")
        elif isinstance(message, Told):
            self._perform(plan, plan.book.handle(Answered(message.frame, index, message.situation)))

    def data_message(self, worker: WorkerConnection, message: Rows | FrameFailed, frames: Sequence[Bytes]) -> None:
        """Takes rows of a result in, or the report that there will be none."""
        arrived_ns = time.monotonic_ns()
        plan = self._plans.get(message.plan)
        index = plan.indices.get(worker.name) if plan is not None else None
        if plan is None or index is None:
            self._dropped["unknown plan"] += 1
            return
        if isinstance(message, FrameFailed):
            event = FrameBroken(message.frame, index, message.kind, message.reason)
            self._perform(plan, plan.book.handle(event))
            return
        frame = plan.frames.get(message.frame)
        inbox = frame.inboxes.get(index) if frame is not None else None
        if inbox is None or message.source != index or message.stage != inbox.message.stage:
            self._dropped["late" if frame is None else "not in the plan"] += 1
            return
        try:
            opened = inbox.open(frames)
        except ProtocolError as error:
            self._dropped["not in the plan"] += 1
            _log.debug("dropped rows of worker '%s': %s", worker.name, error)
            return
        inbox.place(opened)
        times_ns = (message.sent_ns, time.monotonic_ns(), arrived_ns)
        plan.records.append(
            Record("receive", message.frame, message.stage, index, *times_ns, bytes_of(frames) - HEAD_BYTES)
        )
        self._perform(plan, plan.book.handle(OutputArrived(message.frame, index)))

    def lost(self, worker: WorkerConnection, reason: str) -> None:
        """Ends the frames of plans in which a lost worker takes part."""
        for plan in tuple(self._plans.values()):
            index = plan.indices.get(worker.name)
            if index is None:
                continue
            plan.weights.pop(worker.name, None)
            plan.error = plan.error or PeerTimeout(f"worker '{worker.name}' is gone: {reason}")
            self._perform(plan, plan.book.handle(WorkerGone(index, reason)))

    # Looking back.

    def timeline(self, frames: int = 1) -> Timeline:
        """What happened in the latest frames that ended well, in one clock.

        Raises:
            ExecutionError: if there is none.
            PeerTimeout: if a worker does not answer.
        """
        from distredge.runtime.requester.measured_timeline import Recorded, build_timeline, latest_frames

        with self._lock:
            plan = self._active
            wanted = latest_frames(plan.records, frames) if plan is not None else ()
            if plan is None or not wanted:
                raise ExecutionError("no frame has been run yet: there is no timeline")
            recorded = {REQUESTER: Recorded(0, tuple(plan.records))}
            for name, index in plan.indices.items():
                worker = self._workers[name]
                offset_ns, _ = self._workers.clock_offset_ns(worker, ANSWER_S)
                answer = self._workers.ask(worker, Fetch(plan.number, wanted[0]), Records, ANSWER_S)
                recorded[index] = Recorded(offset_ns, answer.records)
            return build_timeline(plan.deployment.layout, recorded, wanted)

    def close(self) -> None:
        """Says goodbye to the workers; frames in flight end with an error."""
        with self._lock:
            requests = [frame.request for plan in self._plans.values() for frame in plan.frames.values()]
            for request in (*requests, *self._again):
                request.pending.error = ExecutionError("the coordinator was closed")
            self._plans.clear()
            self._again.clear()
            self._active = self._next = None
            self._workers.close()
