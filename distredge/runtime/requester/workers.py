"""The coordinator's connections to its workers: leases, greeting, liveness, and what comes in, decoded.

A worker serves one holder at a time. Whoever needs several asks for them one after the other, always in the same order
(that of their addresses): of several that start at once the one that gets the first gets all, and none waits for
another. All of them dial at once; only the greetings wait for each other.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from distredge.device_sample import DeviceSample
from distredge.errors import AuthError, PeerTimeout, ProtocolError, TransportError
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import (
    About,
    Attach,
    Echo,
    Goodbye,
    Held,
    Hello,
    Pong,
    Refused,
    TakenOver,
    ToCoordinator,
    ToWorker,
    Welcome,
    decode_on_data,
    decode_to_coordinator,
    encode,
    package_version,
)
from distredge.runtime.protocol.row_messages import UPGRADE, VersionMismatch, is_rows, read_head
from distredge.runtime.protocol.transport import Bell, Endpoint, Network, NotConnected, Received
from distredge.runtime.requester.io_loop import Task
from distredge.runtime.requester.leases import ASK_AGAIN_S, RENEW_S, HeldBy, WorkerTaken, held_by
from distredge.runtime.requester.worker_connection import Handler, WorkerConnection

PINGS: Final = 8
FRESH_NS: Final = 1_000_000_000
"""A worker's clock is known from so many exchanges, no older than that."""

SAMPLE_NS: Final = 900_000_000
"""What workers said less long ago is new enough for who watches them."""

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=ToCoordinator)


class WorkerConnections:
    """Connections to several workers; all methods but the first belong to the coordinator's thread.

    Args:
        network: makes sockets.
        addresses: the workers.
        handler: gets what comes in.
        bell: ends a `pump`.
        holder: who holds the workers, for others to read.
        take_over: whether workers are taken that somebody else holds.
    """

    def __init__(
        self,
        network: Network,
        addresses: Iterable[WorkerAddress],
        handler: Handler,
        bell: Bell,
        holder: str = "",
        take_over: bool = False,
    ) -> None:
        self._network = network
        self._handler = handler
        self._bell = bell
        self._holder = holder
        self._take_over = take_over
        self._renew_s = 0.0
        self._version = package_version()
        self.dropped: Counter[str] = Counter()
        self._by_name = {
            address.name: WorkerConnection(address, network.connect(address.control, "control", address.public_key))
            for address in addresses
        }
        self._in_order = sorted(self._by_name.values(), key=lambda worker: (worker.address.control, worker.name))
        self._tokens = itertools.count(1)
        self._rebuild()

    def __getitem__(self, name: str) -> WorkerConnection:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def pump(self, timeout_s: float, writable: Iterable[Endpoint] = ()) -> None:
        """Waits for something to come in, for `timeout_s` at most, and handles all of it."""
        for endpoint in self._waiter.wait(timeout_s, writable):
            if id(endpoint) not in self._owners:
                continue
            worker, is_control = self._owners[id(endpoint)]
            self._events(worker, endpoint, is_control)
            while (received := endpoint.receive()) is not None:
                worker.heard_s = time.monotonic()
                if is_control:
                    self._control(worker, received)
                else:
                    self._data(worker, received)

    def connect(self, names: Iterable[str], timeout_s: float, back: bool = False) -> Task[None]:
        """Waits until these workers stand, greeting those that are not this coordinator's in the order for all.

        When that fails, those that it has got meanwhile are given back.

        Args:
            names: the workers.
            timeout_s: how long it may take.
            back: whether they were held before: one that somebody else holds by now may be given back in time, and one
                whose handshake fails is waited for.

        Raises:
            PeerTimeout: naming those that cannot be reached.
            ExecutionError: if somebody else holds one.
            AuthError: if one refuses this side's key, unless it was held before.
            ProtocolError: if one speaks another version.
        """
        wanted = [self._by_name[name] for name in names]
        fresh = [worker for worker in wanted if not worker.ours]
        until_s = time.monotonic() + timeout_s
        for worker in wanted:
            worker.wanted, worker.greeting, worker.held, worker.held_before = True, False, None, None
            if isinstance(worker.fatal, WorkerTaken):
                worker.fatal = None
        try:
            while absent := [worker for worker in wanted if not worker.stands]:
                now_s = time.monotonic()
                self._greet_next(now_s)
                # A handshake with one that was reached before may have broken off because it is just starting.
                known = (worker.fatal for worker in absent if not (back and isinstance(worker.fatal, AuthError)))
                fatal = next((error for error in known if error is not None), None)
                if fatal is not None:
                    raise fatal
                for worker in absent:
                    if worker.held is not None and not back and worker.held.stays_beyond(until_s):
                        raise held_by(worker.name, worker.held.said)
                if now_s >= until_s:
                    raise self._absent(absent, timeout_s)
                yield min(until_s, now_s + 0.5)
        except BaseException:
            self.give_back(worker.name for worker in fresh)
            raise

    def give_back(self, names: Iterable[str]) -> None:
        """Ends the leases of workers."""
        for name in names:
            worker = self._by_name[name]
            if worker.ours or worker.greeting:
                self.tell(worker, Goodbye())
            worker.wanted = worker.ours = worker.greeting = worker.greeted = worker.echoed = False

    def give_back_all(self) -> None:
        """Ends the leases of all workers."""
        self.give_back(tuple(self._by_name))

    def absent(self, names: Iterable[str], limit_s: float) -> PeerTimeout | None:
        """The error about those of some workers that do not stand, after so many seconds; None where all do."""
        found = [worker for worker in map(self._by_name.__getitem__, names) if not worker.stands]
        return self._absent(found, limit_s) if found else None

    def samples(self) -> tuple[DeviceSample, ...]:
        """How the workers were last; called by any thread."""
        found = (worker.sample() for worker in self._in_order)
        return tuple(sample for sample in found if sample is not None)

    def waited_for(self) -> tuple[str, ...]:
        """The workers that are wanted and do not stand, each with what is known of why; called by any thread."""
        absent = [worker for worker in self._in_order if worker.wanted and not worker.stands]
        return tuple(worker.told() for worker in self._to_blame(absent))

    def renew(self, now_s: float) -> float:
        """Renews the leases when it is time; returns when it is next."""
        if now_s >= self._renew_s:
            self._renew_s = now_s + RENEW_S
            self.ping(name for name, worker in self._by_name.items() if worker.greeted)
        self._greet_next(now_s)
        return min([self._renew_s, *(w.greet_again_s for w in self._by_name.values() if w.wanted and w.held)])

    def ping(self, names: Iterable[str]) -> None:
        """Asks workers for a sign of life."""
        for name in names:
            worker = self._by_name[name]
            self.tell(worker, worker.ask(next(self._tokens), time.monotonic_ns()))

    def sample(self, names: Iterable[str]) -> None:
        """Asks those workers how they are that are there and have not said so in the latest second."""
        old_ns = time.monotonic_ns() - SAMPLE_NS
        self.ping(n for n in names if (w := self._by_name[n]).greeted and (w.latest is None or w.latest[1] < old_ns))

    def tell(self, worker: WorkerConnection, message: ToWorker, parts: Sequence[Bytes] = ()) -> bool:
        """Sends a control message; returns whether it could be sent."""
        try:
            worker.control.send([encode(message), *parts])
        except NotConnected:
            return False
        return True

    def ask(
        self, worker: WorkerConnection, message: ToWorker, answer: type[M], timeout_s: float
    ) -> Task[tuple[M, int]]:
        """Sends a control message and waits for its answer, and when that came in (monotonic nanoseconds).

        Raises:
            PeerTimeout: if none comes.
        """
        worker.answers.pop(answer, None)
        until_s = time.monotonic() + timeout_s
        sent = self.tell(worker, message)
        while answer not in worker.answers:
            if not sent or time.monotonic() >= until_s or worker.fatal is not None:
                raise worker.fatal or PeerTimeout(f"worker '{worker.name}' at {worker.address.control} does not answer")
            yield until_s
        found, came_ns = worker.answers.pop(answer)
        assert isinstance(found, answer)
        return found, came_ns

    def measure_clock(self, worker: WorkerConnection, timeout_s: float) -> Task[None]:
        """Sees to it that there are enough exchanges of late that say how a worker's clock stands to this process's.

        Raises:
            PeerTimeout: if it does not answer.
        """
        fresh = worker.clock.fresh(time.monotonic_ns() - FRESH_NS)
        for _ in range(max(1, PINGS - fresh)):
            ping = worker.ask(next(self._tokens), time.monotonic_ns())
            yield from self.ask(worker, ping, Pong, timeout_s)

    def remake_data(self, worker: WorkerConnection) -> None:
        """Makes the data connection to a worker anew."""
        if worker.data is not None:
            self._network.drop(worker.data)
            worker.data = None
        worker.echoed = False
        self._dial_data(worker)

    def close(self) -> None:
        """Says goodbye and closes everything."""
        self.give_back_all()
        for worker in self._by_name.values():
            self._network.drop(worker.control)
            if worker.data is not None:
                self._network.drop(worker.data)
        self._by_name.clear()

    def _rebuild(self) -> None:
        self._owners: Mapping[int, tuple[WorkerConnection, bool]] = {
            id(endpoint): (worker, endpoint is worker.control)
            for worker in self._by_name.values()
            for endpoint in (worker.control, worker.data)
            if endpoint is not None
        }
        endpoints = [e for p in self._by_name.values() for e in (p.control, p.data) if e is not None]
        self._waiter = self._network.waiter(endpoints, [self._bell])

    def _greet_next(self, now_s: float) -> None:
        """Greets whoever may be greeted now: those that were this coordinator's already, and the next one in order."""
        for worker in self._in_order:
            if not worker.wanted or worker.greeted:
                continue
            if worker.held is not None and now_s >= worker.greet_again_s:
                worker.greeting, worker.held = False, None
            if worker.linked and worker.held is None and not worker.greeting and worker.fatal is None:
                take_over = self._take_over and not worker.ours
                hello = Hello(worker.session, self._version, worker.name, self._holder, take_over)
                worker.greeting = self.tell(worker, hello)
            if not worker.ours:
                return

    def _events(self, worker: WorkerConnection, endpoint: Endpoint, is_control: bool) -> None:
        for event in endpoint.events():
            if event.kind == "connected":
                worker.fatal = None
                if is_control:
                    worker.linked, worker.greeting, worker.held = True, False, None
                    self._greet_next(time.monotonic())
                else:
                    self._echo(worker)
            else:
                self._lose(worker, event.reason, is_control)
                if event.kind == "refused":
                    address = worker.address.control if is_control else worker.data_address
                    worker.fatal = AuthError(f"worker '{worker.name}' at {address}: {event.reason}")

    def _lose(self, worker: WorkerConnection, reason: str, is_control: bool) -> None:
        stood = worker.stands
        worker.trouble = reason
        worker.echoed = False
        if is_control:
            worker.linked = worker.greeting = worker.greeted = False
        if stood:
            self._handler.lost(worker, reason)

    def _echo(self, worker: WorkerConnection) -> None:
        if worker.data is not None:
            try:
                worker.data.send([encode(Attach(worker.session, next(self._tokens)))])
            except NotConnected as error:
                worker.trouble = str(error)

    def _control(self, worker: WorkerConnection, received: Received) -> None:
        came_ns = time.monotonic_ns()
        try:
            message = decode_to_coordinator(received.head)
        except VersionMismatch as error:
            worker.fatal = ProtocolError(f"worker '{worker.name}' at {worker.address.control}: {error}")
            return
        except ProtocolError as error:
            self._drop(worker, str(error))
            return
        if isinstance(message, Welcome):
            self._welcome(worker, message.about)
        elif isinstance(message, Held):
            self._held(worker, message)
        elif isinstance(message, TakenOver):
            self._taken(worker, message.holder)
        elif not worker.greeted and not worker.greeting:
            # Said before it was given back, or taken over.
            self.dropped["late"] += 1
        elif isinstance(message, Refused):
            self._refused(worker, message.reason)
        elif isinstance(message, Pong):
            worker.pong(message, came_ns)
            self._handler.control_message(worker, message)
            worker.answers[Pong] = (message, came_ns)
        elif self._handler.control_message(worker, message):
            worker.answers[type(message)] = (message, came_ns)
        else:
            self._drop(worker, f"{type(message).__name__} does not fit the plan")

    def _welcome(self, worker: WorkerConnection, about: About) -> None:
        if not worker.greeting and not worker.greeted:
            self._drop(worker, "a welcome that was not asked for")
            return
        if about.version != self._version:
            # It holds itself for this coordinator's now, until it is given back.
            worker.ours, worker.greeting = True, False
            worker.fatal = ProtocolError(
                f"worker '{worker.name}' at {worker.address.control} runs distredge {about.version}, this is "
                f"{self._version}: install the same on both; {UPGRADE}"
            )
            return
        if not worker.greeted:
            # It may be another process, on a machine that has started anew.
            worker.forget_clock()
        worker.about, worker.greeted, worker.fatal, worker.trouble = about, True, None, ""
        worker.ours, worker.greeting, worker.held = True, False, None
        if worker.data is not None and worker.dialled != worker.data_address:
            # It started again at another port.
            self._network.drop(worker.data)
            worker.data, worker.echoed = None, False
        if worker.data is None:
            self._dial_data(worker)
        elif not worker.echoed:
            self._echo(worker)
        self._greet_next(time.monotonic())

    def _dial_data(self, worker: WorkerConnection) -> None:
        worker.dialled = worker.data_address
        try:
            worker.data = self._network.connect(worker.dialled, "data", worker.address.public_key)
        except TransportError as error:
            worker.fatal = ProtocolError(f"worker '{worker.name}' at {worker.address.control}: data port: {error}")
        self._rebuild()

    def _held(self, worker: WorkerConnection, message: Held) -> None:
        if not worker.greeting:
            return
        now_s = time.monotonic()
        worker.greeting = False
        worker.held = worker.held_before = HeldBy(message, now_s, worker.held_before)
        worker.trouble = str(held_by(worker.name, message))
        worker.greet_again_s = now_s + min(ASK_AGAIN_S, max(0.05, message.expires_s))

    def _refused(self, worker: WorkerConnection, reason: str) -> None:
        greeting = worker.greeting
        self._lose(worker, reason, True)
        # Whoever was greeted before may have to be greeted again: a lease expires while this process is stopped.
        worker.linked = True
        if greeting:
            worker.fatal = ProtocolError(f"worker '{worker.name}' at {worker.address.control}: {reason}")

    def _taken(self, worker: WorkerConnection, holder: str) -> None:
        if not worker.ours:
            return
        worker.ours = worker.wanted = worker.greeted = worker.greeting = worker.echoed = False
        self._handler.taken(worker, holder)

    def _data(self, worker: WorkerConnection, received: Received) -> None:
        head = received.head
        try:
            if is_rows(head):
                self._handler.data_message(worker, read_head(head), received.parts)
                return
            message = decode_on_data(head)
        except ProtocolError as error:
            self._drop(worker, str(error))
            return
        if isinstance(message, Echo):
            worker.echoed = worker.echoed or message.answer
        elif isinstance(message, Attach):
            self._drop(worker, "not for a requester")
        else:
            self._handler.data_message(worker, message, received.parts)

    def _to_blame(self, workers: Sequence[WorkerConnection]) -> list[WorkerConnection]:
        """Those of the workers that do not stand that were not only waiting for their turn to be greeted."""
        first = next((w for w in self._in_order if w in workers and not w.ours), None)
        return [w for w in workers if w is first or w.ours or w.greeting or not w.linked]

    def _absent(self, workers: Sequence[WorkerConnection], timeout_s: float) -> PeerTimeout:
        """The error about workers that do not stand."""
        told = [worker.told() for worker in self._to_blame(workers)]
        noun = "worker" if len(told) == 1 else "workers"
        return PeerTimeout(
            f"cannot reach {noun} {', '.join(told)} within {timeout_s:{'.3g' if timeout_s < 100 else '.0f'}} s; "
            "start each with: distredge worker"
        )

    def _drop(self, worker: WorkerConnection, reason: str) -> None:
        self.dropped["unreadable"] += 1
        _log.debug("dropped a message of worker '%s': %s", worker.name, reason)
