"""A worker's control plane: who may use it, what plans it prepares, how it is. A thread of its own.

So a worker that computes for seconds still answers, and a new plan is prepared while frames of the old one run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from distredge.errors import ProtocolError
from distredge.media.jpeg import pillow_version
from distredge.runtime.engine import Engine
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import (
    About,
    Ask,
    Failed,
    Fetch,
    Goodbye,
    Held,
    Hello,
    Measure,
    Ping,
    Pong,
    Prepare,
    Records,
    Redial,
    Refused,
    Retire,
    TakenOver,
    ToCoordinator,
    Told,
    ToWorker,
    Weight,
    Welcome,
    WorkerLoad,
    decode_to_worker,
    encode,
    package_version,
)
from distredge.runtime.protocol.transport import Endpoint, Network, NotConnected, Received
from distredge.runtime.worker.data_plane import DataPlane, RedialPeer
from distredge.runtime.worker.lease import Granted, Lease, Occupied
from distredge.runtime.worker.link_measuring import LinkMeasuring
from distredge.runtime.worker.preparing import Preparations
from distredge.runtime.worker.settings import WorkerSettings
from distredge.runtime.worker.supervisor import Supervisor
from distredge.runtime.worker.thermometer import Thermometer

ALIVE_S: Final = 2.0
"""Between two signs of life while sub-models are loaded."""

RUNS_NS: Final = 1_000_000_000
"""After its latest stage a worker counts as running for so long: frames may come one at a time."""

_log = logging.getLogger(__name__)


class ControlPlane:
    """Serves one requester at a time, which holds the worker by a lease.

    Args:
        settings: name and limits.
        network: makes sockets.
        endpoint: the bound control endpoint.
        data: the data plane.
        engine: loads sub-models.
        supervisor: starts the threads that load and measure.
        clock: monotonic, seconds.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        network: Network,
        endpoint: Endpoint,
        data: DataPlane,
        engine: Engine,
        supervisor: Supervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._version, self._pillow = settings.name, package_version(), pillow_version()
        self._memory_bytes, self._dynamic_rows = settings.memory_bytes, settings.dynamic_rows
        self._network = network
        self._endpoint = endpoint
        self._bell = network.bell()
        self._data = data
        data.on_outcome = self._bell.ring
        self._engine = engine
        self._clock = clock
        self._waiter = network.waiter([endpoint], [self._bell])
        self._lease = Lease()
        self._plans = Preparations(settings, engine, data, supervisor, self._bell.ring, self._tell)
        self._measuring = LinkMeasuring(network, supervisor, self._bell.ring, self._reply)
        self._thermometer = Thermometer(clock)
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
            self._measuring.take_end()
            self._plans.take_outcomes()
            now_s = self._clock()
            if now_s >= self._told_alive_s + ALIVE_S:
                self._told_alive_s = now_s
                self._plans.say_alive()
            gone = self._lease.expire(now_s)
            if gone is not None:
                _log.warning("'%s' is not heard any more: its plans are forgotten", gone.name)
                self._forget()
        self._plans.join()
        self._measuring.join()

    def _message(self, received: Received) -> None:
        message: ToWorker | None = None
        try:
            message = decode_to_worker(received.head)
            self._handle(message, received)
        except ProtocolError as error:
            self._data.dropped["control"] += 1
            self._reply(received.peer, Refused(str(error)[:2000]))
        except MemoryError:
            # One message that is too much; the next one may not be.
            self._data.dropped["control"] += 1
            plan = getattr(message, "plan", None)
            reason = f"not enough memory for this {type(message).__name__}"
            self._reply(received.peer, Refused(reason) if plan is None else Failed(plan, "memory", reason))

    def _handle(self, message: ToWorker, received: Received) -> None:
        if isinstance(message, Hello):
            self._hello(received, message)
            return
        holds = self._lease.heard(received.peer, self._clock())
        if isinstance(message, Ping):
            heard_ns = time.monotonic_ns()
            dropped = {**self._data.dropped, **self._network.dropped, "refused connections": self._network.refused}
            about, load = self._about(), self._load(heard_ns)
            self._reply(received.peer, Pong(message.token, heard_ns, time.monotonic_ns(), about, dropped, load))
        elif isinstance(message, Measure):
            self._measuring.begin(received.peer, message)
        elif holds:
            self._serve(message, received.parts[1:])
        else:
            raise ProtocolError(self._lease.refusal(received.peer))

    def _serve(self, message: Prepare | Weight | Retire | Ask | Fetch | Goodbye | Redial, parts: list[Bytes]) -> None:
        if isinstance(message, Prepare):
            self._plans.prepare(message, parts)
        elif isinstance(message, Weight):
            self._plans.weight(message, parts)
        elif isinstance(message, Ask):
            situation = self._data.situation(message.plan, message.frame)
            self._tell(Told(message.plan, message.frame, situation))
        elif isinstance(message, Fetch):
            self._tell(Records(message.plan, self._data.records(message.plan, message.since)))
        elif isinstance(message, Retire):
            self._plans.retire(message.plan)
        elif isinstance(message, Redial):
            self._data.instruct(RedialPeer(message.plan, message.device))
        else:
            self._lease.give_up()
            self._forget()

    def _about(self) -> About:
        engine, data = self._engine, self._data
        runs_on = (engine.name, engine.providers, engine.threads, self._memory_bytes or 0)
        plans = (data.plans, self._plans.states())
        return About(
            self._name, self._version, *runs_on, data.endpoint.address, *plans, self._pillow, self._dynamic_rows
        )

    def _load(self, now_ns: int) -> WorkerLoad:
        data = self._data
        computed, at_hand = data.computed, data.at_hand()
        runs = computed.since_ns or at_hand.open_frames or now_ns - computed.until_ns < RUNS_NS
        state: Final = "running" if runs and data.plans else "preparing" if self._plans.under_way else "idle"
        return WorkerLoad(
            state,
            data.frames_done,
            at_hand.open_frames,
            at_hand.queued,
            computed.busy_ns(now_ns),
            data.received_bytes,
            data.sent_bytes,
            self._thermometer.read_c(),
        )

    def _hello(self, received: Received, message: Hello) -> None:
        if message.name != self._name:
            raise ProtocolError(f"this is worker '{self._name}', not '{message.name}'")
        asker = (message.session, received.user, received.peer, message.holder, message.take_over)
        answer = self._lease.hello(*asker, self._clock())
        if isinstance(answer, Occupied):
            self._reply(received.peer, Held(*answer))
            return
        if isinstance(answer, Granted):
            self._forget()
            self._data.session = message.session
            if answer.taken_from is not None and self._lease.holder is not None:
                self._reply(answer.taken_from.peer, TakenOver(self._lease.holder.name))
        self._reply(received.peer, Welcome(self._about()))

    def _forget(self) -> None:
        """Leaves nothing of a session that is over but constants."""
        self._plans.retire_all()
        self._data.session = b""

    def _tell(self, message: ToCoordinator) -> None:
        if self._lease.holder is not None:
            self._reply(self._lease.holder.peer, message)

    def _reply(self, peer: bytes, message: ToCoordinator) -> None:
        try:
            self._endpoint.send([encode(message)], peer)
        except NotConnected:
            _log.info("the requester is gone; a %s for it is lost", type(message).__name__)
