"""The coordinator's plans: on their way to the workers, running, and retired."""

from __future__ import annotations

import itertools
import logging
import secrets
import time
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from distredge.errors import EngineError, ExecutionError, PeerTimeout, ProtocolError, TransportError
from distredge.runtime.buffers import bytes_of
from distredge.runtime.protocol.messages import Failed, Missing, Progress, Ready, Retire, ToCoordinator
from distredge.runtime.protocol.prepare_parts import prepare_parts
from distredge.runtime.protocol.transport import Endpoint
from distredge.runtime.requester.checked import fits
from distredge.runtime.requester.io_loop import Task, Turns
from distredge.runtime.requester.open_plans import OpenPlan, Prepared
from distredge.runtime.requester.worker_connection import WorkerConnection
from distredge.runtime.requester.workers import WorkerConnections
from distredge.runtime.weights import weight_messages

if TYPE_CHECKING:
    from distredge.runtime.deployment import Deployment

_log = logging.getLogger(__name__)

CHUNKS_AT_ONCE: Final = 4
"""Pieces of constants handed over to one worker before something else has its turn, such as a frame's result."""

AHEAD_BYTES: Final = 12 * 1024 * 1024
"""Constants on their way to one worker at most: it says after every 8 MiB that they have come, and hangs up on who
leaves 32 MiB unread with it."""

PINGS: Final = 4
"""Asked of a worker in vain before it counts as silent while a plan is prepared."""


class Blamed(PeerTimeout):
    """A plan cannot be prepared with some workers, though they seem to stand; `names` are theirs."""

    def __init__(self, names: tuple[str, ...], text: str) -> None:
        self.names = names
        super().__init__(text)


class GivesWay(Exception):
    """A plan that is prepared beside another one was given up for one that is waited for."""


class Plans:
    """All plans of a coordinator.

    Args:
        workers: where they go.
        connect_s: within which workers must be reached.
        patience_s: how long a worker may be silent while it prepares a plan.
        leaves_out: see `FrameBook`.

    Attributes:
        active: runs the frames.
        standing: others that stand, each for the frames that name its deployment.
        weights_sent_bytes: constants sent to workers so far, for all plans.
        prepared: worker -> what preparing took there so far, all plans together.
        stood: deployment -> seconds until it could run, of those that somebody still holds.
    """

    def __init__(self, workers: WorkerConnections, connect_s: float, patience_s: float, leaves_out: bool) -> None:
        self._workers = workers
        self._connect_s = connect_s
        self._patience_s = patience_s
        self._leaves_out = leaves_out
        self._plans: dict[int, OpenPlan] = {}
        self.active: OpenPlan | None = None
        self.standing: list[OpenPlan] = []
        self.weights_sent_bytes = 0
        self.prepared: dict[str, Prepared] = {}
        self.stood: weakref.WeakKeyDictionary[Deployment, float] = weakref.WeakKeyDictionary()
        # One plan at a time: of a constant that two lack, a worker takes the pieces of one.
        self._turns = Turns()

    def all(self) -> tuple[OpenPlan, ...]:
        """Every plan that is not retired."""
        return tuple(self._plans.values())

    def of(self, number: int, worker: WorkerConnection) -> tuple[OpenPlan, int] | None:
        """The plan of that number and the worker's index in it; None if it takes no part, or there is no such plan."""
        plan = self._plans.get(number)
        index = plan.indices.get(worker.name) if plan is not None else None
        return None if plan is None or index is None else (plan, index)

    def for_frames(self, deployment: Deployment | None) -> OpenPlan | None:
        """The plan for frames that name a deployment, or, with None, name none; None if there is no such plan."""
        active = self.active
        if deployment is None or (active is not None and active.deployment is deployment):
            return active
        return next((plan for plan in self.standing if plan.deployment is deployment), None)

    @property
    def for_some_frames(self) -> tuple[OpenPlan, ...]:
        """The plans on which frames are run: the active one, then those that stand beside it."""
        return (*(() if self.active is None else (self.active,)), *self.standing)

    def loading(self) -> tuple[str, ...]:
        """The workers that load sub-models, each with how far it is; called by any thread."""
        found = [item for plan in self.all() for item in tuple(plan.loaded.items())]
        return tuple(f"'{name}' has loaded {loaded} of {models} sub-models" for name, (loaded, models) in found)

    # Preparing.

    def reach(self, deployment: Deployment, back: bool = False) -> Task[list[str]]:
        """Waits until the workers of a deployment stand; returns their names. What is raised is that of `begin`."""
        names = [deployment.devices[i] for i in deployment.busy]
        unknown = [name for name in names if name not in self._workers]
        if unknown:
            raise TransportError(f"no address of worker '{unknown[0]}'")
        yield from self._workers.connect(names, self._connect_s, back)
        return names

    def begin(self, deployment: Deployment, slots: int, back: bool = False) -> Task[OpenPlan]:
        """Reaches the workers of a deployment and sends them their plans.

        Raises:
            TransportError: if there is no address of one.
            ExecutionError: see `WorkerConnections.connect`, of which `back` is.
        """
        names = yield from self.reach(deployment, back)
        self._check_decoders(deployment)
        addresses = [self._workers[name].for_others() for name in names]
        # Never the number of another coordinator's plan: what that one still sends must find no plan here.
        number = secrets.randbits(61)
        dynamic = frozenset(name for name in names if self._workers[name].dynamic_rows)
        messages = {}
        for i in deployment.busy:
            name = deployment.devices[i]
            models = deployment.models(i, name in dynamic)
            device_plan = deployment.device_plan(i, number, slots, addresses, name in dynamic)
            messages[name] = prepare_parts(device_plan, models)
        plan = OpenPlan(number, deployment, slots, self._patience_s, self._leaves_out, dynamic)
        if dynamic:
            _log.info(
                "%d of %d volumes with dynamic rows on %s%s",
                plan.dynamic_volumes,
                len(deployment.layout.decisions),
                ", ".join(sorted(dynamic)),
                "".join(f"; volume {n}: {why}" for n, why in deployment.dynamic_volumes.reasons.items()),
            )
        self._plans[plan.number] = plan
        for name, message in messages.items():
            if not self._workers.tell(self._workers[name], *message):
                plan.error = PeerTimeout(f"worker '{name}' is gone")
        return plan

    def _check_decoders(self, deployment: Deployment) -> None:
        """Refuses a strategy that sends pictures in their files to a worker that cannot decode them."""
        if deployment.picture is None:
            return
        for index in dict.fromkeys(message.destination for message in deployment.input_messages):
            about = self._workers[deployment.devices[index]].about
            if about is not None and not about.pillow:
                raise ExecutionError(
                    f"worker '{about.name}' cannot decode JPEG files, in which the strategy sends it pictures: install "
                    "Pillow there (pip install pillow) and start it again, or plan with --input-dtype uint8"
                )

    def prepare(
        self,
        deployment: Deployment,
        slots: int,
        back: bool = False,
        silent_s: float | None = None,
        gives_way: bool = False,
    ) -> Task[OpenPlan]:
        """Prepares a deployment until it can run, after those before it; what goes wrong retires it.

        Args:
            deployment: what to prepare.
            slots: frames that may be in flight.
            back: see `WorkerConnections.connect`.
            silent_s: for how long a worker may say nothing at all; None: as long as its connection stands.
            gives_way: whether it is given up as soon as another one waits for its turn.

        Raises:
            GivesWay: then.
            Blamed: if one says nothing for so long, or cannot reach another one.
            PeerTimeout: if a worker cannot be reached, is lost, or does not get ready.
            ExecutionError: what a worker refuses.
        """
        return (yield from self._turns.of(self._prepare(deployment, slots, back, silent_s, gives_way)))

    def _prepare(
        self, deployment: Deployment, slots: int, back: bool, silent_s: float | None, gives_way: bool
    ) -> Task[OpenPlan]:
        plan = yield from self.begin(deployment, slots, back)
        pings = 0
        asked_s = time.monotonic()
        try:
            while not self.ready(plan):
                if gives_way and self._turns.are_waited_for:
                    raise GivesWay
                now_s = time.monotonic()
                if silent_s is not None and now_s >= asked_s:
                    mute = self._mute(plan, now_s - silent_s) if pings >= PINGS else ()
                    if mute:
                        text = f"preparing the plan: no answer for {silent_s:g} s from: {', '.join(mute)}"
                        raise Blamed(mute, text)
                    self._workers.ping(plan.indices)
                    pings, asked_s = pings + 1, now_s + silent_s / PINGS
                yield min(plan.preparation.next_s, asked_s) if silent_s is not None else plan.preparation.next_s
        except BaseException:
            self.retire(plan)
            raise
        return plan

    def _mute(self, plan: OpenPlan, since_s: float) -> tuple[str, ...]:
        """Workers that have said nothing since; an answer may have to wait behind constants on a slow link."""
        return tuple(n for n in plan.indices if n not in plan.weights and self._workers[n].heard_s < since_s)

    def ready(self, plan: OpenPlan) -> bool:
        """Whether a plan can run; raises what keeps it from that."""
        plan.error = plan.error or plan.preparation.overdue(time.monotonic())
        if plan.error is not None:
            raise plan.error
        return plan.preparation.done and all(self._workers[name].stands for name in plan.indices)

    def activate(self, plan: OpenPlan) -> None:
        """Runs frames on a plan from now on; those in flight come to their end under the one before."""
        old, self.active = self.active, plan
        self._stands(plan)
        if old is not None:
            old.retiring = True
        self.retire_ended()

    def stand(self, plan: OpenPlan) -> None:
        """Runs the frames that name its deployment on a plan; another one of that deployment is wanted no more."""
        for old in self.standing:
            old.retiring = old.retiring or old.deployment is plan.deployment
        self._stands(plan)
        self.standing = [*(old for old in self.standing if not old.retiring), plan]
        self.retire_ended()

    def _stands(self, plan: OpenPlan) -> None:
        self.stood[plan.deployment] = plan.stands()

    def retire(self, plan: OpenPlan) -> None:
        """Lets the workers forget a plan."""
        if self._plans.pop(plan.number, None) is None:
            return
        plan.retired = True
        if self.active is plan:
            self.active = None
        if plan in self.standing:
            self.standing.remove(plan)
        for name in plan.indices:
            if self._workers[name].greeted:
                self._workers.tell(self._workers[name], Retire(plan.number))

    def retire_ended(self) -> None:
        """Retires the plans that are not wanted any more and whose frames have ended."""
        for plan in self.all():
            if plan.retiring and not plan.book.open_frames:
                self.retire(plan)

    def forget(self, why: ExecutionError) -> None:
        """Forgets every plan, also for who is preparing one; the workers have done so already, or will."""
        for plan in self._plans.values():
            plan.error = plan.error or why
        self._plans.clear()
        self.active = None
        self.standing = []

    @property
    def next_s(self) -> float:
        """When something is due (monotonic seconds)."""
        return min((s for plan in self._plans.values() if (s := plan.book.next_s) is not None), default=float("inf"))

    # Constants.

    @property
    def writable(self) -> Iterable[Endpoint]:
        """Endpoints over which constants wait to be sent."""
        names = {name for plan in self._plans.values() for name in plan.weights}
        return [self._workers[name].control for name in names if self._on_their_way(name) < AHEAD_BYTES]

    def _on_their_way(self, name: str) -> int:
        """Bytes of constants that were sent to a worker and that it has not said to have."""
        return sum(plan.sent_bytes[name] - plan.received_bytes[name] for plan in self._plans.values())

    def send_weights(self) -> None:
        """Hands constants over as far as the connections take them."""
        for plan in self._plans.values():
            for name in tuple(plan.weights):
                self._send_some(plan, name)

    def _send_some(self, plan: OpenPlan, name: str) -> None:
        worker = self._workers[name]
        for _ in range(CHUNKS_AT_ONCE):
            if self._on_their_way(name) >= AHEAD_BYTES:
                return
            item = plan.unsent.pop(name, None) or next(plan.weights[name], None)
            if item is None:
                del plan.weights[name]
                return
            if not self._workers.tell(worker, item[0], [item[1]]):
                plan.unsent[name] = item
                return
            size_bytes = bytes_of([item[1]])
            plan.sent_bytes[name] += size_bytes
            self.weights_sent_bytes += size_bytes
            plan.preparation.heard(plan.indices[name], time.monotonic())

    # What comes in.

    def take(self, worker: WorkerConnection, message: ToCoordinator) -> bool:
        """Takes in what a worker says of a plan; returns whether it makes sense."""
        found = self.of(getattr(message, "plan", -1), worker)
        if found is None:
            return True
        plan, index = found
        if not fits(message, plan.deployment, index):
            return False
        plan.preparation.heard(index, time.monotonic())
        if isinstance(message, Missing):
            return self._missing(plan, worker, message)
        if isinstance(message, Progress):
            known = plan.received_bytes[worker.name]
            plan.received_bytes[worker.name] = max(known, min(message.received_bytes, plan.sent_bytes[worker.name]))
            if message.models:
                models = len(plan.deployment.programs[index].segments)
                loaded = min(message.loaded, models)
                if loaded > plan.loaded.get(worker.name, (0, 0))[0]:
                    plan.preparation.advanced(time.monotonic())
                plan.loaded[worker.name] = (loaded, models)
        elif isinstance(message, Ready):
            plan.received_bytes[worker.name] = plan.sent_bytes[worker.name]
            plan.loaded.pop(worker.name, None)
            self._ready(plan, worker.name, message)
            plan.preparation.ready(index)
        elif isinstance(message, Failed):
            plan.weights.pop(worker.name, None)
            text = f"worker '{worker.name}': {message.reason}"
            if message.kind == "peer":
                plan.error = Blamed((worker.name,), text)
            else:
                plan.error = EngineError(text) if message.kind == "engine" else ExecutionError(text)
        return True

    def _ready(self, plan: OpenPlan, name: str, message: Ready) -> None:
        if name not in plan.prepared:
            plan.prepared[name] = Prepared(message.loaded, message.load_s, message.build_s, plan.sent_bytes[name])
            self.prepared[name] = self.prepared.get(name, Prepared()) + plan.prepared[name]

    def _missing(self, plan: OpenPlan, worker: WorkerConnection, message: Missing) -> bool:
        if worker.name in plan.told_missing:
            return False
        plan.told_missing.add(worker.name)
        store = plan.weights_of(worker.name)
        if any(digest not in store for digest in message.digests):
            plan.error = ProtocolError(f"worker '{worker.name}' asks for constants that are not in its plan")
            return True
        plan.weights[worker.name] = itertools.chain.from_iterable(
            weight_messages(plan.number, digest, store[digest]) for digest in message.digests
        )
        return True
