"""The same as `transport` without sockets: threads of one process, and messages that can be lost on purpose."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from distredge.errors import TransportError
from distredge.runtime.protocol.endpoints import (
    Bell,
    ConnectionEvent,
    Endpoint,
    NotConnected,
    Plane,
    Received,
    Tracker,
)
from distredge.runtime.protocol.fields import Bytes


@dataclass
class Exchange:
    """What in-process networks share: bound addresses, and a say in what happens to every message.

    Attributes:
        tamper: called with (from address, to address, parts); returns the messages that arrive instead: an empty list
            loses it, two deliver it twice.
    """

    tamper: Callable[[str, str, list[bytes]], list[list[bytes]]] | None = None
    bound: dict[str, InProcessEndpoint] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    count: int = 0


class InProcessEndpoint:
    """An endpoint without a socket: queues under one lock."""

    def __init__(self, exchange: Exchange, address: str, user: str, routing_id: bytes = b"") -> None:
        self.address = address
        self.exchange = exchange
        self.user = user
        self.routing_id = routing_id
        self.inbox: deque[Received] = deque()
        self.noticed: deque[ConnectionEvent] = deque()
        self.clients: dict[bytes, InProcessEndpoint] = {}
        self.peer: InProcessEndpoint | None = None
        self.target = ""
        self.closed = False

    def send(self, parts: Sequence[Bytes], to: bytes = b"", tracked: bool = False) -> Tracker | None:
        with self.exchange.changed:
            other = self.clients.get(to) if to else self.attach()
            if other is None or other.closed or self.closed:
                raise NotConnected(f"{self.address}: the peer is not connected")
            content = [bytes(part) for part in parts]
            tamper = self.exchange.tamper
            for message in [content] if tamper is None else tamper(self.address, other.address, content):
                name = self.routing_id if not to and other.target == "" else b""
                other.inbox.append(Received(name, self.user, list(message)))
            self.exchange.changed.notify_all()
        return None

    def attach(self) -> InProcessEndpoint | None:
        """Connects, when what it connects to is there (under the exchange's lock)."""
        if self.peer is not None and self.peer.closed:
            self.peer = None
        if self.peer is None and self.target:
            server = self.exchange.bound.get(self.target)
            if server is not None:
                self.peer = server
                server.clients[self.routing_id] = self
                self.noticed.append(ConnectionEvent("connected"))
        return self.peer

    def receive(self) -> Received | None:
        with self.exchange.changed:
            return self.inbox.popleft() if self.inbox else None

    def events(self) -> list[ConnectionEvent]:
        with self.exchange.changed:
            found = list(self.noticed)
            self.noticed.clear()
            return found

    def allow(self, unread_bytes: int, unsent_bytes: int) -> None:
        """Everybody may have everything waiting here."""

    def close(self) -> None:
        with self.exchange.changed:
            self.closed = True
            if self.exchange.bound.get(self.address) is self:
                del self.exchange.bound[self.address]
            for client in self.clients.values():
                client.noticed.append(ConnectionEvent("lost", "the connection broke"))
            if self.peer is not None:
                self.peer.clients.pop(self.routing_id, None)
            self.exchange.changed.notify_all()


class InProcessBell:
    """A bell of threads that share an exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.rung = False

    def ring(self) -> None:
        with self._exchange.changed:
            self.rung = True
            self._exchange.changed.notify_all()


class _InProcessWaiter:
    def __init__(
        self, exchange: Exchange, endpoints: Sequence[InProcessEndpoint], bells: Sequence[InProcessBell]
    ) -> None:
        self._exchange = exchange
        self._endpoints = list(endpoints)
        self._bells = bells

    def wait(self, timeout_s: float, writable: Iterable[Endpoint] = ()) -> list[Endpoint]:
        until = time.monotonic() + timeout_s
        wanted = set(map(id, writable))
        with self._exchange.changed:
            while True:
                ready: list[Endpoint] = []
                for endpoint in self._endpoints:
                    peer = endpoint.attach()
                    if endpoint.inbox or endpoint.noticed or (id(endpoint) in wanted and peer is not None):
                        ready.append(endpoint)
                rung = [bell for bell in self._bells if bell.rung]
                for bell in rung:
                    bell.rung = False
                left_s = until - time.monotonic()
                if ready or rung or left_s <= 0:
                    return ready
                self._exchange.changed.wait(left_s)


class InProcessNetwork:
    """Makes endpoints for threads of one process; what `exchange` says happens to their messages.

    Args:
        exchange: shared with the networks that can be reached.
        user: whose key its connections have, as it were.
    """

    def __init__(self, exchange: Exchange, user: str = "") -> None:
        self._exchange = exchange
        self._user = user
        self._endpoints: list[InProcessEndpoint] = []

    @property
    def refused(self) -> int:
        """Nobody is turned away here."""
        return 0

    @property
    def dropped(self) -> Mapping[str, int]:
        """Nor is anybody's connection ended."""
        return {}

    def on_death(self, tell: Callable[[BaseException], None]) -> None:
        """There is no thread that could die."""

    def bind(self, address: str, plane: Plane) -> InProcessEndpoint:
        with self._exchange.changed:
            if address.endswith(":0"):
                self._exchange.count += 1
                address = f"{address[:-1]}{self._exchange.count}"
            if address in self._exchange.bound:
                raise TransportError(f"cannot bind {address}: Address already in use")
            endpoint = self._new(address)
            self._exchange.bound[address] = endpoint
            self._exchange.changed.notify_all()
        return endpoint

    def connect(self, address: str, plane: Plane, server_key: str = "") -> InProcessEndpoint:
        with self._exchange.changed:
            self._exchange.count += 1
            endpoint = self._new(f"client-{self._exchange.count}")
            endpoint.routing_id = endpoint.address.encode()
            endpoint.target = address
        return endpoint

    def bell(self) -> InProcessBell:
        return InProcessBell(self._exchange)

    def waiter(self, endpoints: Sequence[Endpoint], bells: Sequence[Bell] = ()) -> _InProcessWaiter:
        return _InProcessWaiter(
            self._exchange,
            [e for e in endpoints if isinstance(e, InProcessEndpoint)],
            [b for b in bells if isinstance(b, InProcessBell)],
        )

    def drop(self, endpoint: Endpoint) -> None:
        endpoint.close()

    def close(self) -> None:
        for endpoint in self._endpoints:
            endpoint.close()

    def _new(self, address: str) -> InProcessEndpoint:
        endpoint = InProcessEndpoint(self._exchange, address, self._user)
        self._endpoints.append(endpoint)
        return endpoint
