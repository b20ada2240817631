"""A worker's control plane: who may use it, what plans it prepares, how it is. A thread of its own.

So a worker that computes for seconds still answers, and a new plan is prepared while frames of the old one run:
sub-models are loaded in a thread per plan, since that can take seconds too.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from distredge.errors import DistredgeError, EngineError, ProtocolError, TransportError
from distredge.runtime.engine import Engine, Loaded
from distredge.runtime.protocol.device_plan import DevicePlan
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import (
    About,
    Ask,
    Failed,
    Fetch,
    Goodbye,
    Hello,
    LinkMeasured,
    Measure,
    Missing,
    Ping,
    Pong,
    Prepare,
    Progress,
    Ready,
    Records,
    Redial,
    Refused,
    Retire,
    ToCoordinator,
    Told,
    Weight,
    Welcome,
    decode_to_worker,
    encode,
    package_version,
)
from distredge.runtime.protocol.transport import Endpoint, Network, NotConnected, Received
from distredge.runtime.weights import WeightStore
from distredge.runtime.worker.data_plane import (
    AddPlan,
    DataPlane,
    LoadedPlan,
    PlanStands,
    RedialPeer,
    RemovePlan,
    load_plan,
)
from distredge.runtime.worker.settings import WorkerSettings

PROGRESS_BYTES: Final = 8 * 1024 * 1024
"""How much of the constants comes in between two signs of life."""

MAX_PLANS: Final = 4
ALIVE_S: Final = 2.0

_MEASURING: Final = -1
"""Where the thread that measures a link stands among those that load plans."""

_log = logging.getLogger(__name__)


@dataclass
class _Preparing:
    plan: DevicePlan
    models: tuple[bytes, ...]
    missing: set[str]
    received_bytes: int = 0
    told_bytes: int = 0


class _LoadEnd(NamedTuple):
    plan: int
    loaded: LoadedPlan | None
    error: DistredgeError | None


class ControlPlane:
    """Serves one coordinator at a time; the latest that says hello has the worker.

    Args:
        settings: name and limits.
        network: makes sockets.
        endpoint: the bound control endpoint.
        data: the data plane.
        engine: loads sub-models.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        network: Network,
        endpoint: Endpoint,
        data: DataPlane,
        engine: Engine,
    ) -> None:
        self._name, self._version = settings.name, package_version()
        self._memory_bytes = settings.memory_bytes
        limits_bytes = [b for b in (settings.weights_bytes, settings.memory_bytes) if b is not None]
        self._store = WeightStore(min(limits_bytes))
        self._network = network
        self._endpoint = endpoint
        self._bell = network.bell()
        self._data = data
        data.on_outcome = self._bell.ring
        self._engine = engine
        self._waiter = network.waiter([endpoint], [self._bell])
        self._peer = b""
        self._session = b""
        self._preparing: dict[int, _Preparing] = {}
        self._plans: dict[int, DevicePlan] = {}
        self._loads: queue.SimpleQueue[_LoadEnd | Callable[[], None]] = queue.SimpleQueue()
        self._loaders: dict[int, threading.Thread] = {}
        # Alive as long as some plan uses them: a new plan shares what the old one has, such as the head.
        self._models: weakref.WeakValueDictionary[bytes, Loaded] = weakref.WeakValueDictionary()
        self._told_alive_s = 0.0
        self._stopping = False

    def stop(self) -> None:
        """Makes `run` return soon; called by any thread."""
        self._stopping = True
        self._bell.ring()

    def run(self) -> None:
        """Serves until `stop`."""
        while not self._stopping:
            self._waiter.wait(1.0)
            while (received := self._endpoint.receive()) is not None:
                self._message(received)
            self._take_outcomes()
            self._say_alive()
        for thread in self._loaders.values():
            thread.join()

    def _message(self, received: Received) -> None:
        try:
            message = decode_to_worker(received.head)
            if isinstance(message, Ping):
                dropped = {**self._data.dropped, **self._network.dropped, "refused connections": self._network.refused}
                self._reply(received.peer, Pong(message.token, time.monotonic_ns(), self._about(), dropped))
            elif isinstance(message, Hello):
                self._hello(received.peer, message)
            elif isinstance(message, Measure):
                self._measure(received.peer, message)
            elif received.peer != self._peer:
                raise ProtocolError("this worker serves another session: a later coordinator has taken it over")
            else:
                self._serve(message, received.parts[1:])
        except ProtocolError as error:
            self._data.dropped["control"] += 1
            self._reply(received.peer, Refused(str(error)[:2000]))

    def _serve(self, message: Prepare | Weight | Retire | Ask | Fetch | Goodbye | Redial, parts: list[Bytes]) -> None:
        if isinstance(message, Prepare):
            self._prepare(message.plan, parts)
        elif isinstance(message, Weight):
            self._weight(message, parts)
        elif isinstance(message, Ask):
            situation = self._data.situation(message.plan, message.frame)
            self._tell(Told(message.plan, message.frame, situation))
        elif isinstance(message, Fetch):
            self._tell(Records(message.plan, self._data.records(message.plan, message.since)))
        elif isinstance(message, Retire):
            self._retire(message.plan)
        elif isinstance(message, Redial):
            self._data.instruct(RedialPeer(message.plan, message.device))
        else:
            self._end_session()

    def _about(self) -> About:
        engine, data = self._engine, self._data
        runs_on = (engine.name, engine.providers, engine.threads, self._memory_bytes or 0)
        return About(self._name, self._version, *runs_on, data.endpoint.address, data.plans)

    def _hello(self, peer: bytes, message: Hello) -> None:
        if message.name != self._name:
            raise ProtocolError(f"this is worker '{self._name}', not '{message.name}'")
        if message.session != self._session:
            self._end_session()
        self._peer, self._session = peer, message.session
        self._data.session = message.session
        self._tell(Welcome(self._about()))

    def _end_session(self) -> None:
        for plan in [*self._plans, *self._preparing]:
            self._retire(plan)
        self._peer = self._session = self._data.session = b""

    def _prepare(self, plan: DevicePlan, parts: list[Bytes]) -> None:
        if plan.plan in {*self._plans, *self._preparing, *self._loaders}:
            raise ProtocolError(f"plan {plan.plan} is here already")
        if len(self._plans) + len(self._preparing) >= MAX_PLANS:
            self._fail(plan.plan, "memory", f"{MAX_PLANS} plans are here already; retire one first")
            return
        if not 0 <= plan.device < len(plan.devices) or plan.devices[plan.device] != self._name:
            raise ProtocolError(f"a plan for device {plan.device} of {list(plan.devices)}: this is '{self._name}'")
        if len(parts) != len(plan.segments):
            raise ProtocolError(f"{len(parts)} sub-models for {len(plan.segments)} segments")
        digests = {digest for segment in plan.segments for digest in segment.weights.values()}
        missing = self._store.pin(plan.plan, digests)
        models = tuple(bytes(part) for part in parts)
        preparing = _Preparing(plan, models, set(missing))
        self._preparing[plan.plan] = preparing
        needed = sum(b.box.size_bytes for s in plan.segments for b in (*s.inputs, *s.outputs)) * plan.slots
        if self._memory_bytes is not None and needed + self._store.size_bytes > self._memory_bytes:
            held = self._store.size_bytes
            self._fail(
                plan.plan,
                "memory",
                f"needs {needed} bytes beside {held} of constants; the limit is {self._memory_bytes}",
            )
            return
        self._tell(Missing(plan.plan, missing))
        if not missing:
            self._load(preparing)

    def _weight(self, message: Weight, parts: list[Bytes]) -> None:
        preparing = self._preparing.get(message.plan)
        if preparing is None:
            return
        if len(parts) != 1:
            raise ProtocolError(f"{len(parts)} parts with a piece of a constant")
        preparing.received_bytes += memoryview(parts[0]).nbytes
        if preparing.received_bytes - preparing.told_bytes >= PROGRESS_BYTES:
            preparing.told_bytes = preparing.received_bytes
            self._tell(Progress(message.plan, preparing.received_bytes))
        try:
            complete = self._store.receive(message, parts[0])
        except ProtocolError as error:
            self._fail(message.plan, "protocol", str(error))
            return
        if complete and message.digest in preparing.missing:
            preparing.missing.discard(message.digest)
            if not preparing.missing:
                self._load(preparing)

    def _load(self, preparing: _Preparing) -> None:
        plan = preparing.plan
        weights = self._store.take(plan.plan)

        def work() -> None:
            loaded, error = None, None
            try:
                loaded = load_plan(plan, preparing.models, weights, self._engine, self._models)
            except DistredgeError as found:
                error = found
            except MemoryError:
                error = EngineError("not enough memory for the plan")
            self._loads.put(_LoadEnd(plan.plan, loaded, error))
            self._bell.ring()

        thread = threading.Thread(target=work, name=f"load-{plan.plan}", daemon=True)
        self._loaders[plan.plan] = thread
        thread.start()

    def _say_alive(self) -> None:
        """Loading can take minutes (TensorRT builds its engines then): the coordinator must not take it for silence."""
        now_s = time.monotonic()
        if now_s < self._told_alive_s + ALIVE_S:
            return
        self._told_alive_s = now_s
        for number, preparing in self._preparing.items():
            if number in self._loaders:
                self._tell(Progress(number, preparing.received_bytes))

    def _take_outcomes(self) -> None:
        while not self._loads.empty():
            end = self._loads.get()
            if not isinstance(end, _LoadEnd):
                end()
                continue
            self._loaders.pop(end.plan).join()
            if end.plan not in self._preparing:
                self._store.unpin(end.plan)
            elif end.loaded is None:
                kind = "engine" if isinstance(end.error, EngineError) else "protocol"
                self._fail(end.plan, kind, str(end.error))
            else:
                self._plans[end.plan] = self._preparing.pop(end.plan).plan
                self._data.instruct(AddPlan(end.loaded))
        while self._data.outcomes:
            outcome = self._data.outcomes.popleft()
            if isinstance(outcome, PlanStands):
                loaded = outcome.loaded
                if loaded.plan.plan in self._plans:
                    self._tell(Ready(loaded.plan.plan, loaded.memory_bytes, loaded.load_s))
            elif outcome.plan in self._plans:
                del self._plans[outcome.plan]
                self._store.unpin(outcome.plan)
                self._tell(Failed(outcome.plan, "peer", outcome.reason[:2000]))

    def _retire(self, plan: int) -> None:
        self._preparing.pop(plan, None)
        if self._plans.pop(plan, None) is not None:
            self._data.instruct(RemovePlan(plan))
        if plan not in self._loaders:
            self._store.unpin(plan)

    def _fail(self, plan: int, kind: str, reason: str) -> None:
        self._preparing.pop(plan, None)
        self._store.unpin(plan)
        _log.warning("plan %d: %s", plan, reason)
        self._tell(Failed(plan, kind, reason[:2000]))

    def _tell(self, message: ToCoordinator) -> None:
        if self._peer:
            self._reply(self._peer, message)

    def _reply(self, peer: bytes, message: ToCoordinator) -> None:
        try:
            self._endpoint.send([encode(message)], peer)
        except NotConnected:
            _log.info("the coordinator is gone; a %s for it is lost", type(message).__name__)

    def _measure(self, peer: bytes, message: Measure) -> None:
        from distredge.runtime.links.one_link import measure_link

        def work() -> None:
            try:
                times_s = measure_link(
                    self._network,
                    message.peer,
                    message.sizes,
                    message.repeats,
                    message.timeout_s,
                    back=message.back,
                )
                answer = LinkMeasured(message.token, times_s, "")
            except TransportError as error:
                answer = LinkMeasured(message.token, (), str(error)[:2000])
            self._loads.put(lambda: finish(answer))
            self._bell.ring()

        def finish(answer: LinkMeasured) -> None:
            self._loaders.pop(_MEASURING).join()
            self._reply(peer, answer)

        if _MEASURING in self._loaders:
            self._reply(peer, LinkMeasured(message.token, (), "this worker is measuring another link"))
            return
        thread = threading.Thread(target=work, name="measure", daemon=True)
        self._loaders[_MEASURING] = thread
        thread.start()
