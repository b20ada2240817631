"""The only user of sockets: ZeroMQ endpoints that never block (`in_process_transport` has the same without sockets).

A worker *binds* two endpoints (ROUTER): control and data. Who wants something from it *connects* (DEALER): the
coordinator to both, other workers to the data endpoint. So a requester needs no open port, and either side may start
or start again first.

What libzmq does by default and must not do here: ROUTER drops silently what it cannot deliver (ROUTER_MANDATORY turns
that into an error); DEALER queues for peers that are not there (IMMEDIATE) and blocks at its high-water mark (every
call here is non-blocking); messages have no size limit (MAXMSGSIZE); closing waits for ever (LINGER); a silent peer is
noticed only by the heartbeats set below. A socket belongs to one thread; a `Bell` wakes that thread from others.

What a peer can make this process hold is bounded. Received: a frame of MAX_FRAME_BYTES before its keys are agreed, and
then what `door` allows its user, messages without an end included. To be sent: SEND_HIGH_WATER messages, of whose parts
only those below COPY_BYTES are copies, and at a bound endpoint what `door` allows too.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

import zmq

from distredge import network_addresses
from distredge.errors import AuthError, TransportError
from distredge.network_addresses import Resolve, host_of, is_numeric, tcp
from distredge.runtime.protocol.descriptors import check_room, raise_limit, room, with_descriptors
from distredge.runtime.protocol.device_plan import PART_BYTES
from distredge.runtime.protocol.door import Door
from distredge.runtime.protocol.doorkeeper import Doorkeeper, announce
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.pipe_bell import PipeBell
from distredge.runtime.protocol.row_messages import MAX_FRAMES
from distredge.runtime.protocol.security import Authenticator, Security

Plane: TypeAlias = Literal["control", "data"]

COPY_BYTES: Final = 256 * 1024
"""Parts below this size are copied into libzmq: cheaper than telling when it has done with ours."""

HEARTBEAT_S, HEARTBEAT_TIMEOUT_S = 1.0, 6.0
"""Between two heartbeats of the control plane, and without any until the peer is lost."""

HANDSHAKE_S: Final = 10.0
"""Within which a connection must be made and its keys agreed."""

RECONNECT_S, RECONNECT_MAX_S = 0.1, 2.0
"""Waited before the first try to connect again, and before each later one at the most."""

SILENT_TCP_S: Final = 15.0
"""After which a connection is lost whose bytes nobody acknowledges."""

NEXT_ADDRESS_S: Final = 1.0
"""After which the next address of a name is tried, where one gives no answer at all."""

MAX_FRAME_BYTES: Final = 2 * PART_BYTES
"""The largest frame that is taken in, from anybody: whoever connects can make this process hold one.

Everything large travels in pieces of about half of it.
"""

SEND_HIGH_WATER: Final[dict[Plane, int]] = {"control": 64, "data": 256}
"""Messages that wait to be sent to one peer before its queue is full."""

RECEIVE_HIGH_WATER: Final[dict[Plane, int]] = {"control": 16, "data": 1000}
"""Messages of one peer that wait to be taken before no more are read from its connection."""

CONTROL_SEND_BUFFER_BYTES: Final = 512 * 1024
"""Bounds what a heartbeat must queue behind on the control plane, which carries the weights."""


class NotConnected(TransportError):
    """Nobody is there to send to, or the peer takes nothing more."""


class Tracker(Protocol):
    """Tells when a sent buffer may be written again."""

    @property
    def done(self) -> bool:
        """Whether the transport has finished with the buffers of a message."""


class Received(NamedTuple):
    """One message.

    Attributes:
        peer: routing id of the sender at a bound endpoint, b"" at a connecting one.
        user: whose key the sender has; "" on a network without encryption.
        parts: the frames; valid as long as somebody holds them.
    """

    peer: bytes
    user: str
    parts: list[Bytes]

    @property
    def head(self) -> Bytes:
        """The first frame; empty where there is none."""
        return self.parts[0] if self.parts else b""


class ConnectionEvent(NamedTuple):
    """What happened to the connection of a connecting endpoint: "connected", "lost" or "refused" (with the reason)."""

    kind: Literal["connected", "lost", "refused"]
    reason: str = ""


class Endpoint(Protocol):
    """One end of a connection, or of many at a bound address. Nothing here blocks."""

    address: str

    def send(self, parts: Sequence[Bytes], to: bytes = b"", tracked: bool = False) -> Tracker | None:
        """Sends one message; `to` is a routing id at a bound endpoint.

        With `tracked` large parts are shared with the transport until the returned tracker is done.

        Raises:
            NotConnected: if nobody is there, or the queue is full; nothing has been sent.
            TransportError: if a part is larger than MAX_FRAME_BYTES.
        """

    def receive(self) -> Received | None:
        """Returns the next message, or None."""

    def events(self) -> list[ConnectionEvent]:
        """Returns what happened to the connection since the last call; always empty at a bound endpoint."""

    def allow(self, unread_bytes: int, unsent_bytes: int) -> None:
        """Says what a peer of a bound endpoint may have waiting beyond the usual, since plans announce it.

        Args:
            unread_bytes: received and not taken.
            unsent_bytes: handed over and not sent.
        """

    def close(self) -> None:
        """Closes it; what is not sent yet may get lost."""


class Bell(Protocol):
    """Wakes the one thread that waits with it."""

    def ring(self) -> None:
        """Ends that thread's wait, or its next one; called by any thread, and by handlers of signals."""


class Waiter(Protocol):
    """Waits on a fixed set of endpoints, and on bells."""

    def wait(self, timeout_s: float, writable: Iterable[Endpoint] = ()) -> list[Endpoint]:
        """Returns, after `timeout_s` at most, those with a message or event, and those of `writable` that can send.

        A bell that was rung ends the wait and is silent again.
        """


class Network(Protocol):
    """Makes endpoints. Closing it closes them all.

    Attributes:
        on_death: called, in another thread, with the error that ended what lets others connect: nobody new can then.
    """

    on_death: Callable[[BaseException], None]

    def bind(self, address: str, plane: Plane) -> Endpoint:
        """Binds an address such as ``tcp://192.168.1.11:5700``; port 0 lets the system choose.

        Of several with commas between them those are bound that this machine has.
        """

    def connect(self, address: str, plane: Plane, server_key: str = "") -> Endpoint:
        """Connects to a bound address, whose public key is `server_key`; returns before the connection stands."""

    def bell(self) -> Bell:
        """Returns a bell for one of this network's waiters."""

    def waiter(self, endpoints: Sequence[Endpoint], bells: Sequence[Bell] = ()) -> Waiter:
        """Returns a waiter on these endpoints and bells."""

    def drop(self, endpoint: Endpoint) -> None:
        """Closes one endpoint."""

    @property
    def refused(self) -> int:
        """Connections turned away because their key is not allowed."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Connections that were ended because of what they did, by reason and user."""

    def close(self) -> None:
        """Closes every endpoint that is left."""


# ZeroMQ.


# Plain numbers: combining enumeration members costs more than sending does.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_NOBLOCK_MORE: Final = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_SRCFD: Final = int(zmq.SRCFD)
_EVENT: Final = struct.Struct("=Hi")
"""What a monitor says first: what happened, and to which descriptor."""

_WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
)
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENODEV)
_REFUSALS = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it does not accept this side's key",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the handshake broke off: the keys may not fit",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the handshake failed: one side encrypts and the other does not",
}


class ZmqEndpoint:
    """An endpoint on a ZeroMQ socket.

    Args:
        socket: what it is on.
        address: where it is bound, or what it connects to.
        door: what its connections are counted at.
        places: addresses to connect to, one after the other; empty for a bound socket.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str, door: Door, places: Sequence[str] = ()) -> None:
        self.address = address
        self.socket = socket
        self._door = door
        self._bound = not places
        self._places = places
        self._turn = 0
        watched = _WATCHED | zmq.EVENT_CONNECT_RETRIED if len(places) > 1 else _WATCHED
        self.monitor: zmq.Socket[bytes] | None = socket.get_monitor_socket(watched) if places else None
        if self.monitor is not None:
            self.monitor.linger = 0

    def send(self, parts: Sequence[Bytes], to: bytes = b"", tracked: bool = False) -> Tracker | None:
        frames = [to, *parts] if to else parts
        sizes = [part.nbytes if isinstance(part, memoryview) else len(part) for part in parts]
        if max(sizes) > MAX_FRAME_BYTES:
            raise TransportError(f"{self.address}: a part of {max(sizes)} bytes; at most {MAX_FRAME_BYTES} are sent")
        if self._bound:
            self._door.sends(to, sizes)
        try:
            if tracked:
                return self.socket.send_multipart(frames, _NOBLOCK, copy=False, track=True)
            # Only the first frame can be refused: libzmq takes a message whole or not at all.
            send = self.socket.send
            for frame in frames[:-1]:
                send(frame, _NOBLOCK_MORE)
            send(frames[-1], _NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                raise NotConnected(f"{self.address}: the peer is not connected") from None
            if error.errno == zmq.EAGAIN:
                raise NotConnected(f"{self.address}: not connected, or its queue is full") from None
            raise TransportError(f"{self.address}: {error.strerror}") from error
        return None

    def receive(self) -> Received | None:
        # Asking first is cheaper than the exception of a socket that has nothing.
        if not self.socket.getsockopt(_EVENTS) & _POLLIN:  # type: ignore[operator]
            return None
        try:
            frames: list[zmq.Frame] = self.socket.recv_multipart(_NOBLOCK, copy=False)
        except zmq.Again:
            return None
        user = ""
        peer = b""
        fd = frames[-1].get(_SRCFD)
        if self._bound:
            peer = frames[0].bytes
            # Asked for each message: a routing id proves nothing.
            if self._door.encrypted:
                user = _user(frames[-1])
            del frames[0]
        self._door.took(int(fd), peer, user, map(len, frames))
        return Received(peer, user, [frame.buffer for frame in frames[: MAX_FRAMES + 2]])

    def events(self) -> list[ConnectionEvent]:
        found: list[ConnectionEvent] = []
        while self.monitor is not None and self.monitor.getsockopt(_EVENTS) & _POLLIN:  # type: ignore[operator]
            head, where = self.monitor.recv_multipart(_NOBLOCK)
            event, value = _EVENT.unpack(head)
            if event in (zmq.EVENT_CONNECTED, zmq.EVENT_DISCONNECTED):
                self._count(event == zmq.EVENT_CONNECTED, value)
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                # The socket learns of its connection when it looks, and sending alone looks once in a millisecond.
                self.socket.getsockopt(_EVENTS)
                found.append(ConnectionEvent("connected"))
            elif event == zmq.EVENT_DISCONNECTED:
                found.append(ConnectionEvent("lost", "the connection broke"))
            elif event in _REFUSALS:
                reason = _REFUSALS[zmq.Event(event)]
                # Another machine may have that address: the worker's own is among the others.
                if not self._try_next(where.decode(), reason, found):
                    found.append(ConnectionEvent("refused", reason))
            elif event == zmq.EVENT_CONNECT_RETRIED:
                self._try_next(where.decode(), "nobody answers", found)
        return found

    def _count(self, connected: bool, fd: int) -> None:
        if connected:
            announce(self._door, fd, self.address)
        else:
            self._door.gone(fd)

    def _try_next(self, failed: str, reason: str, found: list[ConnectionEvent]) -> bool:
        """Connects to the next address of the same name; whether there is one that was not tried yet."""
        count = len(self._places)
        if count < 2:
            return False
        now = self._places[self._turn % count]
        if failed != now and failed in self._places:
            return True  # of a try that has been given up
        self._turn += 1
        with contextlib.suppress(zmq.ZMQError):
            self.socket.disconnect(now)
        dial(self.socket, self._places[self._turn % count])
        tried = ", ".join(self._places[: min(self._turn, count)])
        found.append(ConnectionEvent("lost", f"{reason} at {now.removeprefix('tcp://')}; tried {tried}"))
        return self._turn < count

    def allow(self, unread_bytes: int, unsent_bytes: int) -> None:
        if self._bound:
            self._door.allow(unread_bytes, unsent_bytes)

    def close(self) -> None:
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        if self.monitor is not None:
            self.monitor.close(linger=0)
        self.socket.close()


def _user(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


class _ZmqWaiter:
    def __init__(self, endpoints: Sequence[ZmqEndpoint], bells: Sequence[PipeBell]) -> None:
        self._by_socket: dict[Any, ZmqEndpoint] = {}
        self._bells = {bell.reads: bell for bell in bells}
        self._poller = zmq.Poller()
        for bell in bells:
            self._poller.register(bell.reads, zmq.POLLIN)
        for endpoint in endpoints:
            self._by_socket[endpoint.socket] = endpoint
            self._poller.register(endpoint.socket, zmq.POLLIN)
            if endpoint.monitor is not None:
                self._by_socket[endpoint.monitor] = endpoint
                self._poller.register(endpoint.monitor, zmq.POLLIN)

    def wait(self, timeout_s: float, writable: Iterable[Endpoint] = ()) -> list[Endpoint]:
        also = [e for e in writable if isinstance(e, ZmqEndpoint)]
        for endpoint in also:
            self._poller.register(endpoint.socket, zmq.POLLIN | zmq.POLLOUT)
        try:
            # Rounded up: a wait of 0.4 ms must not become a busy loop.
            found = self._poller.poll(max(0, -int(-timeout_s * 1000)))
        finally:
            for endpoint in also:
                self._poller.register(endpoint.socket, zmq.POLLIN)
        ready: dict[Endpoint, None] = {}
        for socket, _ in found:
            if socket in self._bells:
                self._bells[socket].silence()
            else:
                ready[self._by_socket[socket]] = None
        return list(ready)


class ZmqNetwork:
    """ZeroMQ over TCP, encrypted and authenticated by CURVE unless `security` is None.

    Args:
        security: own keys and who may connect; None for plaintext, which only an explicit choice may lead to.
        resolve: gives the addresses of a host name. A connecting endpoint tries one after the other.

    Raises:
        AuthError: if libzmq has no CURVE.
        TransportError: if this process may open hardly any more sockets.
    """

    def __init__(self, security: Security | None, resolve: Resolve = network_addresses.resolve) -> None:
        raise_limit()
        check_room()
        self.security = security
        self._resolve = resolve
        if security is not None and not zmq.has("curve"):
            raise AuthError("this libzmq was built without CURVE; install the pyzmq wheel from PyPI")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._endpoints: list[ZmqEndpoint] = []
        self._lock = threading.Lock()
        self._bells: list[PipeBell] = []
        self._authenticator = Authenticator(security) if security is not None else None
        self._doorkeeper: Doorkeeper | None = None
        self._dialled: Door | None = None
        self.on_death: Callable[[BaseException], None] = nobody_told

    @property
    def refused(self) -> int:
        """Connections that the authenticator turned away."""
        return self._authenticator.refused if self._authenticator is not None else 0

    @property
    def dropped(self) -> Mapping[str, int]:
        """Connections that the doorkeeper ended, by reason and user."""
        return dict(self._doorkeeper.dropped) if self._doorkeeper is not None else {}

    def bind(self, address: str, plane: Plane) -> ZmqEndpoint:
        wanted = address.split(",")
        if self.security is None and any(map(_is_wildcard, wanted)):
            raise AuthError(f"{address}: every interface is bound only with encryption; name one interface's address")
        keeper = self._keeper()
        socket = self._socket(zmq.ROUTER, address, plane)
        socket.router_mandatory = True
        if self.security is not None:
            socket.curve_server = True
            socket.curve_secretkey = self.security.secret_key.encode()
            socket.zap_domain = plane.encode()
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        try:
            door = with_descriptors(lambda: keeper.watch(socket, room()), f"cannot bind {address}")
            bound = _bind_all(socket, wanted)
        except BaseException:
            socket.disable_monitor()
            socket.close(linger=0)
            raise
        return self._keep(ZmqEndpoint(socket, ",".join(bound), door))

    def _keeper(self) -> Doorkeeper:
        with self._lock:
            if self._doorkeeper is None:
                self._doorkeeper = with_descriptors(
                    lambda: Doorkeeper(self._context, self._authenticator, lambda error: self.on_death(error)),
                    "cannot watch who connects",
                )
            return self._doorkeeper

    def connect(self, address: str, plane: Plane, server_key: str = "") -> ZmqEndpoint:
        if self.security is not None and not server_key:
            raise AuthError(f"{address}: no public key is known for it; make keys with: distredge keys CLUSTER.toml")
        keeper = self._keeper()
        with self._lock:
            door = self._dialled = self._dialled or keeper.watch_dialled()
        socket = self._socket(zmq.DEALER, address, plane)
        socket.immediate = True
        socket.setsockopt(zmq.CONNECT_TIMEOUT, int(HANDSHAKE_S * 1000))
        socket.reconnect_ivl = int(RECONNECT_S * 1000)
        socket.reconnect_ivl_max = int(RECONNECT_MAX_S * 1000)
        if self.security is not None:
            socket.curve_serverkey = server_key.encode()
            socket.curve_publickey = self.security.public_key.encode()
            socket.curve_secretkey = self.security.secret_key.encode()
        places = self._places(address)
        if len(places) > 1:
            socket.setsockopt(zmq.CONNECT_TIMEOUT, int(NEXT_ADDRESS_S * 1000))
        # The monitor must stand before connecting, or the first events are missed.
        try:
            made = with_descriptors(lambda: ZmqEndpoint(socket, address, door, places), f"cannot connect to {address}")
        except BaseException:
            socket.close(linger=0)
            raise
        endpoint = self._keep(made)
        try:
            dial(socket, places[0])
        except zmq.ZMQError as error:
            self.drop(endpoint)
            raise TransportError(f"cannot connect to {address}: {error.strerror}") from error
        return endpoint

    def _places(self, address: str) -> list[str]:
        """The numeric addresses of a name, and then the name: libzmq looks it up anew at each try, by IPv4."""
        host, port = host_of(address), address.rpartition(":")[2]
        if is_numeric(host):
            return [address]
        try:
            found = [tcp(numeric, port) for numeric in self._resolve(host)]
        except OSError:
            return [address]  # it may get one later
        return found if found == [address] else [*found, address]

    def bell(self) -> PipeBell:
        bell = with_descriptors(PipeBell, "cannot make a bell")
        with self._lock:
            self._bells.append(bell)
        return bell

    def waiter(self, endpoints: Sequence[Endpoint], bells: Sequence[Bell] = ()) -> _ZmqWaiter:
        return _ZmqWaiter(
            [e for e in endpoints if isinstance(e, ZmqEndpoint)], [b for b in bells if isinstance(b, PipeBell)]
        )

    def drop(self, endpoint: Endpoint) -> None:
        with self._lock:
            self._endpoints = [kept for kept in self._endpoints if kept is not endpoint]
        endpoint.close()

    def close(self) -> None:
        with self._lock:
            endpoints, self._endpoints = self._endpoints, []
        for endpoint in endpoints:
            endpoint.close()
        if self._doorkeeper is not None:
            self._doorkeeper.stop()
        self._context.term()
        for bell in self._bells:
            bell.close()

    def _socket(self, kind: int, address: str, plane: Plane) -> zmq.Socket[bytes]:
        socket = with_descriptors(lambda: self._context.socket(kind), f"no socket for {address}")
        socket.linger = 200 if plane == "control" else 0
        socket.sndtimeo = 0
        socket.rcvtimeo = 0
        socket.sndhwm = SEND_HIGH_WATER[plane]
        socket.rcvhwm = RECEIVE_HIGH_WATER[plane]
        socket.maxmsgsize = MAX_FRAME_BYTES
        socket.copy_threshold = COPY_BYTES
        socket.handshake_ivl = int(HANDSHAKE_S * 1000)
        socket.tcp_keepalive = 1
        socket.tcp_keepalive_idle = 10
        socket.tcp_keepalive_intvl = 5
        socket.tcp_keepalive_cnt = 3
        socket.setsockopt(zmq.TCP_MAXRT, int(SILENT_TCP_S * 1000))
        if plane == "control":
            # Not on the data plane: a heartbeat queued behind megabytes of rows on a slow link would end it.
            socket.heartbeat_ivl = int(HEARTBEAT_S * 1000)
            socket.heartbeat_timeout = int(HEARTBEAT_TIMEOUT_S * 1000)
            socket.sndbuf = CONTROL_SEND_BUFFER_BYTES
        return socket

    def _keep(self, endpoint: ZmqEndpoint) -> ZmqEndpoint:
        with self._lock:
            self._endpoints.append(endpoint)
        return endpoint


def nobody_told(error: BaseException) -> None:
    """What is called where nobody wants to be told."""


def dial(socket: zmq.Socket[bytes], address: str) -> None:
    """Connects a socket to an address of either family."""
    socket.ipv6 = "[" in address
    socket.connect(address)


def _bind_all(socket: zmq.Socket[bytes], wanted: Sequence[str]) -> list[str]:
    """Binds those of some addresses that are this machine's, all at one port.

    Raises:
        TransportError: if none is, or one cannot be bound for another reason.
    """
    bound: list[str] = []
    absent: list[str] = []
    for address in wanted:
        if bound and address.endswith(":0"):
            address = f"{address[:-1]}{bound[0].rpartition(':')[2]}"
        socket.ipv6 = "[" in address
        try:
            socket.bind(_system_port(address))
        except zmq.ZMQError as error:
            if len(wanted) == 1 or error.errno not in _NOT_HERE:
                raise TransportError(f"cannot bind {address}: {error.strerror}") from error
            absent.append(f"{address} ({error.strerror})")
            continue
        last = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(last, bytes)
        bound.append(last.rstrip(b"\0").decode())
    if not bound:
        raise TransportError(f"cannot bind {', '.join(absent)}")
    return bound


def _is_wildcard(address: str) -> bool:
    host = address.removeprefix("tcp://").rpartition(":")[0]
    return host in ("", "*", "0.0.0.0", "[::]", "::", "[*]")


def _system_port(address: str) -> str:
    """ZeroMQ writes "any port" as ``*``."""
    return f"{address[:-1]}*" if address.endswith(":0") else address
