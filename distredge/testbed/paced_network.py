"""A network on whose data plane messages are handed over and come in when they would on the emulated board.

What the kernel does not emulate is added here: the fixed cost of links, which is time on the way, and processor time of
messages. A message that has come in is kept back until it is due.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence

from distredge.errors import ProtocolError
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.row_messages import HEAD_BYTES, is_rows, read_head
from distredge.runtime.protocol.transport import (
    Bell,
    ConnectionEvent,
    Endpoint,
    Network,
    Plane,
    Received,
    Tracker,
    Waiter,
)
from distredge.testbed.pacer import Pacer


class PacedNetwork:
    """Another network, paced.

    Args:
        inner: what makes the sockets.
        pacer: of this process.
        route: turns the address of a data plane into the one to connect to; None leaves it.
    """

    def __init__(self, inner: Network, pacer: Pacer, route: Callable[[str], str] | None = None) -> None:
        self._inner = inner
        self._pacer = pacer
        self._route = route

    @property
    def refused(self) -> int:
        """Connections turned away because their key is not allowed."""
        return self._inner.refused

    @property
    def dropped(self) -> Mapping[str, int]:
        """Connections that were ended because of what they did, by reason and user."""
        return self._inner.dropped

    def on_death(self, tell: Callable[[BaseException], None]) -> None:
        """Tells of the inner network's threads; see `Network.on_death`."""
        self._inner.on_death(tell)

    def bind(self, address: str, plane: Plane) -> Endpoint:
        """Binds an address; see `Network.bind`."""
        return self._paced(self._inner.bind(address, plane), plane)

    def connect(self, address: str, plane: Plane, server_key: str = "") -> Endpoint:
        """Connects to an address; see `Network.connect`."""
        if self._route is not None and plane == "data":
            address = self._route(address)
        return self._paced(self._inner.connect(address, plane, server_key), plane)

    def bell(self) -> Bell:
        """Returns a bell for one of this network's waiters."""
        return self._inner.bell()

    def waiter(self, endpoints: Sequence[Endpoint], bells: Sequence[Bell] = ()) -> Waiter:
        """Returns a waiter on these endpoints and bells."""
        return _PacedWaiter(self._inner.waiter([_inner(e) for e in endpoints], bells), endpoints, self._pacer)

    def drop(self, endpoint: Endpoint) -> None:
        """Closes one endpoint."""
        self._inner.drop(_inner(endpoint))

    def close(self) -> None:
        """Closes every endpoint that is left."""
        self._inner.close()

    def _paced(self, endpoint: Endpoint, plane: Plane) -> Endpoint:
        return _PacedEndpoint(endpoint, self._pacer) if plane == "data" else endpoint


class _PacedEndpoint:
    def __init__(self, inner: Endpoint, pacer: Pacer) -> None:
        self.inner = inner
        self.address = inner.address
        self._pacer = pacer
        self._kept: list[tuple[float, int, int, Received]] = []
        self._count = 0

    def send(self, parts: Sequence[Bytes], to: bytes = b"", tracked: bool = False) -> Tracker | None:
        if is_rows(parts[0]):
            self._pacer.send(_size_bytes(parts))
        return self.inner.send(parts, to, tracked)

    def receive(self) -> Received | None:
        self.take_in()
        if not self._kept or self._kept[0][0] > self._pacer.clock():
            return None
        due_s, _, size_bytes, received = heapq.heappop(self._kept)
        if size_bytes:
            self._pacer.receive(due_s, size_bytes)
        return received

    def take_in(self) -> None:
        """Takes what has come in and finds out when it is due."""
        while (received := self.inner.receive()) is not None:
            size_bytes, due_s = 0, 0.0
            if is_rows(received.head):
                with contextlib.suppress(ProtocolError):
                    rows = read_head(received.head)
                    size_bytes = _size_bytes(received.parts)
                    due_s = self._pacer.due_s(rows.source, rows.sent_ns / 1e9, size_bytes)
            self._count += 1
            heapq.heappush(self._kept, (due_s, self._count, size_bytes, received))

    @property
    def next_due_s(self) -> float | None:
        """When the next message is due; None without one."""
        return self._kept[0][0] if self._kept else None

    def events(self) -> list[ConnectionEvent]:
        return self.inner.events()

    def allow(self, unread_bytes: int, unsent_bytes: int) -> None:
        self.inner.allow(unread_bytes, unsent_bytes)

    def close(self) -> None:
        self.inner.close()


class _PacedWaiter:
    def __init__(self, inner: Waiter, endpoints: Sequence[Endpoint], pacer: Pacer) -> None:
        self._inner = inner
        self._pacer = pacer
        self._outer = {id(_inner(endpoint)): endpoint for endpoint in endpoints}
        self._paced = [endpoint for endpoint in endpoints if isinstance(endpoint, _PacedEndpoint)]

    def wait(self, timeout_s: float, writable: Iterable[Endpoint] = ()) -> list[Endpoint]:
        clock = self._pacer.clock
        asked = [_inner(endpoint) for endpoint in writable]
        before_s = clock()
        due_s = min((s for e in self._paced if (s := e.next_due_s) is not None), default=None)
        if due_s is None or due_s >= before_s + timeout_s:
            found = self._inner.wait(timeout_s, asked)
        else:
            found = self._until(due_s, asked)
        now_s = clock()
        if now_s - before_s > _BLOCKED_S:
            self._pacer.empty_s = now_s
        ready = [self._outer.get(id(endpoint), endpoint) for endpoint in found]
        for endpoint in ready:
            if isinstance(endpoint, _PacedEndpoint):
                endpoint.take_in()
        due = [e for e in self._paced if (s := e.next_due_s) is not None and s <= now_s]
        return list({id(endpoint): endpoint for endpoint in (*ready, *due)}.values())

    def _until(self, due_s: float, writable: Sequence[Endpoint]) -> list[Endpoint]:
        """Waits for something else until a message is due; the inner waiter counts in milliseconds."""
        while True:
            left_s = due_s - self._pacer.clock()
            whole_ms = int(max(0.0, left_s) * 1000)
            found = self._inner.wait(whole_ms / 1000, writable)
            left_s = due_s - self._pacer.clock()
            if found or left_s <= 0:
                return found
            self._pacer.rest(min(left_s, _SLICE_S))


_BLOCKED_S = 30e-6
"""A wait that takes longer has found nothing at first."""

_SLICE_S = 200e-6
"""Waited at a time when less than a millisecond is left."""


def _inner(endpoint: Endpoint) -> Endpoint:
    return endpoint.inner if isinstance(endpoint, _PacedEndpoint) else endpoint


def _size_bytes(frames: Sequence[Bytes]) -> int:
    return sum(memoryview(frame).nbytes for frame in frames) - HEAD_BYTES
