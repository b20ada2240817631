"""The only user of sockets: ZeroMQ endpoints that never block (`in_process_transport` has the same without sockets).

What endpoints and networks are is in `endpoints`, and can be had from here.

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

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import zmq

from distredge import network_addresses
from distredge.errors import AuthError, TransportError
from distredge.network_addresses import Resolve, host_of, is_numeric, tcp
from distredge.runtime.protocol.descriptors import check_room, raise_limit, room, with_descriptors
from distredge.runtime.protocol.door import Door
from distredge.runtime.protocol.doorkeeper import Doorkeeper
from distredge.runtime.protocol.endpoints import (
    Bell,
    ConnectionEvent,
    Endpoint,
    Network,
    NotConnected,
    Plane,
    Received,
    Tracker,
    Waiter,
)
from distredge.runtime.protocol.pipe_bell import PipeBell
from distredge.runtime.protocol.security import Authenticator, Security
from distredge.runtime.protocol.zmq_addresses import bind_all, dial, is_wildcard
from distredge.runtime.protocol.zmq_endpoint import MAX_FRAME_BYTES, ZmqEndpoint, ZmqWaiter

__all__ = [
    "Bell",
    "ConnectionEvent",
    "Endpoint",
    "Network",
    "NotConnected",
    "Plane",
    "Received",
    "Tracker",
    "Waiter",
    "ZmqNetwork",
]

COPY_BYTES: Final = 256 * 1024
"""Parts below this size are copied into libzmq: cheaper than telling when it has done with ours."""

HEARTBEAT_S, HEARTBEAT_TIMEOUT_S = 1.0, 6.0
"""Between two heartbeats of the control plane, and without any until the peer is lost."""

HANDSHAKE_S: Final = 10.0
"""Within which a connection must be made and its keys agreed."""

RECONNECT_S, RECONNECT_MAX_S = 0.1, 2.0
"""Waited before the first try to connect again, and before each later one at the most."""

SILENT_TCP_S: Final = 15.0
"""After which a connection is lost whose bytes, or whose probes while it is idle, nobody acknowledges."""

PROBE_IDLE_S: Final = 5
"""After which an idle connection is probed."""

PROBE_AGAIN_S: Final = 2
"""Between two probes: several must be lost before the connection counts as lost, not one alone."""

NEXT_ADDRESS_S: Final = 1.0
"""After which the next address of a name is tried, where one gives no answer at all."""

SEND_HIGH_WATER: Final[dict[Plane, int]] = {"control": 64, "data": 256}
"""Messages that wait to be sent to one peer before its queue is full."""

RECEIVE_HIGH_WATER: Final[dict[Plane, int]] = {"control": 16, "data": 1000}
"""Messages of one peer that wait to be taken before no more are read from its connection."""

CONTROL_SEND_BUFFER_BYTES: Final = 512 * 1024
"""Bounds what a heartbeat must queue behind on the control plane, which carries the weights."""


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
        self._tell_death: Callable[[BaseException], None] | None = None
        self._died: BaseException | None = None

    def on_death(self, tell: Callable[[BaseException], None]) -> None:
        with self._lock:
            self._tell_death, died = tell, self._died
        if died is not None:
            tell(died)

    def _has_died(self, error: BaseException) -> None:
        with self._lock:
            tell, self._died = self._tell_death, error
        if tell is not None:
            tell(error)

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
        if self.security is None and any(map(is_wildcard, wanted)):
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
            bound = bind_all(socket, wanted)
        except BaseException:
            socket.disable_monitor()
            socket.close(linger=0)
            raise
        return self._keep(ZmqEndpoint(socket, ",".join(bound), door))

    def _keeper(self) -> Doorkeeper:
        with self._lock:
            if self._doorkeeper is None:
                self._doorkeeper = with_descriptors(
                    lambda: Doorkeeper(self._context, self._authenticator, self._has_died),
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

    def waiter(self, endpoints: Sequence[Endpoint], bells: Sequence[Bell] = ()) -> ZmqWaiter:
        return ZmqWaiter(
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
        socket.tcp_keepalive_idle = PROBE_IDLE_S
        socket.tcp_keepalive_intvl = PROBE_AGAIN_S
        socket.tcp_keepalive_cnt = int(SILENT_TCP_S - PROBE_IDLE_S) // PROBE_AGAIN_S
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
