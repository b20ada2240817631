"""The coordinator's connections to its workers: greeting, liveness, and what comes in, decoded."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from distredge.errors import AuthError, ExecutionError, PeerTimeout, ProtocolError
from distredge.runtime.protocol.addresses import PeerAddress, WorkerAddress
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import (
    About,
    Attach,
    Echo,
    FrameFailed,
    Goodbye,
    Hello,
    Ping,
    Pong,
    Refused,
    ToCoordinator,
    ToWorker,
    Welcome,
    decode_on_data,
    decode_to_coordinator,
    encode,
    package_version,
)
from distredge.runtime.protocol.row_messages import Rows, VersionMismatch, is_rows, read_head
from distredge.runtime.protocol.transport import Endpoint, Network, NotConnected, Received

PINGS: Final = 8

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=ToCoordinator)


class WorkerConnection:
    """One worker as the coordinator sees it.

    Attributes:
        about: what it said of itself, once greeted.
        data: endpoint to its data port, once greeted.
        session: what only this requester and that worker know: it says whose data connection is whose.
        dialled: the address that `data` connects to.
        stands: whether both planes are up, in both directions.
        trouble: why not, as far as known.
        fatal: an error that waiting does not mend.
    """

    def __init__(self, address: WorkerAddress, control: Endpoint) -> None:
        self.address = address
        self.session = os.urandom(16)
        self.control = control
        self.data: Endpoint | None = None
        self.dialled = ""
        self.about: About | None = None
        self.greeted = False
        self.echoed = False
        self.trouble = ""
        self.fatal: ExecutionError | None = None
        self.asked: dict[type, ToCoordinator] = {}

    @property
    def name(self) -> str:
        """The worker's name."""
        return self.address.name

    @property
    def stands(self) -> bool:
        """Whether it can be given work."""
        return self.greeted and self.echoed

    @property
    def data_address(self) -> str:
        """Where its data port is."""
        if self.address.data.endswith(":0") and self.about is not None:
            return self.address.data[:-1] + self.about.data_endpoint.rpartition(":")[2]
        return self.address.data

    def for_others(self) -> PeerAddress:
        """Its data address as other workers need it."""
        return PeerAddress(self.name, self.data_address, self.address.public_key)


class Handler(Protocol):
    """What the owner of the connections does with what comes in."""

    def control_message(self, worker: WorkerConnection, message: ToCoordinator) -> None:
        """A control message that is none of the connections' own business."""

    def data_message(self, worker: WorkerConnection, message: Rows | FrameFailed, frames: Sequence[Bytes]) -> None:
        """Rows of a result, or the report that there will be none."""

    def lost(self, worker: WorkerConnection, reason: str) -> None:
        """A worker that stood does no longer."""


class WorkerConnections:
    """Connections to several workers; all methods belong to one thread at a time.

    Args:
        network: makes sockets.
        addresses: the workers.
        handler: gets what comes in.
    """

    def __init__(self, network: Network, addresses: Iterable[WorkerAddress], handler: Handler) -> None:
        self._network = network
        self._handler = handler
        self._version = package_version()
        self.dropped: Counter[str] = Counter()
        self._by_name = {
            address.name: WorkerConnection(address, network.connect(address.control, "control", address.public_key))
            for address in addresses
        }
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
                if is_control:
                    self._control(worker, received)
                else:
                    self._data(worker, received)

    def connect(self, names: Iterable[str], timeout_s: float) -> None:
        """Waits until these workers stand.

        Raises:
            PeerTimeout: naming those that cannot be reached.
            AuthError: if one refuses this side's key.
            ProtocolError: if one speaks another version.
        """
        wanted = [self._by_name[name] for name in names]
        until_s = time.monotonic() + timeout_s
        for worker in wanted:
            if not worker.greeted and worker.fatal is None:
                self._greet(worker)
        while absent := [worker for worker in wanted if not worker.stands]:
            fatal = next((worker.fatal for worker in absent if worker.fatal is not None), None)
            if fatal is not None:
                raise fatal
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise PeerTimeout(_absent(absent, timeout_s))
            self.pump(min(left_s, 0.5))

    def tell(self, worker: WorkerConnection, message: ToWorker, parts: Sequence[Bytes] = ()) -> bool:
        """Sends a control message; returns whether it could be sent."""
        try:
            worker.control.send([encode(message), *parts])
        except NotConnected:
            return False
        return True

    def ask(self, worker: WorkerConnection, message: ToWorker, answer: type[M], timeout_s: float) -> M:
        """Sends a control message and waits for its answer.

        Raises:
            PeerTimeout: if none comes.
        """
        worker.asked.pop(answer, None)
        until_s = time.monotonic() + timeout_s
        sent = self.tell(worker, message)
        while answer not in worker.asked:
            left_s = until_s - time.monotonic()
            if not sent or left_s <= 0 or worker.fatal is not None:
                raise worker.fatal or PeerTimeout(f"worker '{worker.name}' at {worker.address.control} does not answer")
            self.pump(left_s)
        found = worker.asked.pop(answer)
        assert isinstance(found, answer)
        return found

    def clock_offset_ns(self, worker: WorkerConnection, timeout_s: float) -> tuple[int, int]:
        """Measures a worker's monotonic clock against this process's.

        Returns:
            (worker's clock minus this one, shortest round trip), nanoseconds; the offset is wrong by half of the
            latter at most.
        """
        best = (0, 1 << 62)
        for _ in range(PINGS):
            token = next(self._tokens)
            sent_ns = time.monotonic_ns()
            pong = self.ask(worker, Ping(token), Pong, timeout_s)
            round_trip_ns = time.monotonic_ns() - sent_ns
            if pong.token == token and round_trip_ns < best[1]:
                best = (pong.clock_ns - sent_ns - round_trip_ns // 2, round_trip_ns)
        return best

    def close(self) -> None:
        """Says goodbye and closes everything."""
        for worker in self._by_name.values():
            if worker.greeted:
                self.tell(worker, Goodbye())
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
        self._waiter = self._network.waiter(endpoints)

    def _greet(self, worker: WorkerConnection) -> None:
        self.tell(worker, Hello(worker.session, self._version, worker.name))

    def _events(self, worker: WorkerConnection, endpoint: Endpoint, is_control: bool) -> None:
        for event in endpoint.events():
            if event.kind == "connected":
                worker.fatal = None
                if is_control:
                    self._greet(worker)
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
            worker.greeted = False
        if stood:
            self._handler.lost(worker, reason)

    def _echo(self, worker: WorkerConnection) -> None:
        if worker.data is not None:
            try:
                worker.data.send([encode(Attach(worker.session, next(self._tokens)))])
            except NotConnected as error:
                worker.trouble = str(error)

    def _control(self, worker: WorkerConnection, received: Received) -> None:
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
        elif isinstance(message, Refused):
            self._lose(worker, message.reason, True)
            worker.fatal = ProtocolError(f"worker '{worker.name}' at {worker.address.control}: {message.reason}")
        else:
            worker.asked[type(message)] = message
            self._handler.control_message(worker, message)

    def _welcome(self, worker: WorkerConnection, about: About) -> None:
        if about.version != self._version:
            _log.warning("worker '%s' runs distredge %s, this is %s", worker.name, about.version, self._version)
        worker.about, worker.greeted, worker.fatal, worker.trouble = about, True, None, ""
        if worker.data is not None and worker.dialled != worker.data_address:
            # It started again at another port.
            self._network.drop(worker.data)
            worker.data, worker.echoed = None, False
        if worker.data is None:
            worker.dialled = worker.data_address
            worker.data = self._network.connect(worker.dialled, "data", worker.address.public_key)
            self._rebuild()
        elif not worker.echoed:
            self._echo(worker)

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

    def _drop(self, worker: WorkerConnection, reason: str) -> None:
        self.dropped["unreadable"] += 1
        _log.debug("dropped a message of worker '%s': %s", worker.name, reason)


def _absent(workers: Sequence[WorkerConnection], timeout_s: float) -> str:
    told = []
    for worker in workers:
        where = worker.data_address if worker.greeted else worker.address.control
        told.append(f"'{worker.name}' at {where}" + (f" ({worker.trouble})" if worker.trouble else ""))
    noun = "worker" if len(told) == 1 else "workers"
    return f"cannot reach {noun} {', '.join(told)} within {timeout_s:g} s; start each with: distredge worker"
