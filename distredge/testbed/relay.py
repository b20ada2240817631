"""The process that shapes links where the kernel must not: it passes on what workers say to each other, no faster.

``python -m distredge.testbed.relay``::

    stdin    one line of JSON, `Orders`; then lines of `Rates`, each answered, until it is closed
    stdout   one line of JSON, `Listening`; then an empty line for each `Rates`

Every place has two buckets, one for what it sends and one for what it receives. A piece of a connection goes on when
both of its buckets let it, and pieces of all connections take turns, so that what is on a link at once shares it.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import Struct

from distredge.testbed.pacer import on_time

GRAIN_S: Final = 0.0005
"""About what one piece takes."""

LATE_S: Final = 0.05
"""What a bucket makes up for when this process comes late while something waits."""

RESUMED_S: Final = 0.002
"""Within which what waited is read once it may go on; later, there was nothing."""

LEAST_BYTES: Final = 1448
MOST_BYTES: Final = 256 * 1024
BUFFER_BYTES: Final = 128 * 1024
"""Of sockets that a shaped connection comes in by: what has been sent is on the link, not in a deep queue before it."""


class Door(Struct, frozen=True):
    """Where others find a worker, and where it really is."""

    place: int
    host: str
    target: str


class Orders(Struct, frozen=True):
    """What the relay is told: own address of each place, and its doors; who comes from elsewhere is the requester."""

    addresses: tuple[str, ...]
    requester: int
    doors: tuple[Door, ...]


class Rates(Struct, frozen=True):
    """Bits per second of a place's links; None unbounded."""

    place: int
    uplink_bps: float | None
    downlink_bps: float | None


class Listening(Struct, frozen=True):
    """Ports of the doors."""

    ports: tuple[int, ...]


@dataclass
class Bucket:
    """One direction of a place's access to the network; free from `free_s` on."""

    rate_bps: float | None = None
    free_s: float = 0.0

    def take(self, now_s: float, size_bytes: int, waited: bool) -> float:
        """Takes a piece; returns when its last bit is through.

        Args:
            now_s: when it begins, or before that where the bucket is not free yet.
            size_bytes: of it.
            waited: whether it has waited for the bucket to be free: then it began when that was.
        """
        if self.rate_bps is None:
            return now_s
        self.free_s = max(self.free_s, now_s - (LATE_S if waited else 0.0)) + 8.0 * size_bytes / self.rate_bps
        return self.free_s

    @property
    def piece_bytes(self) -> int:
        """Size of a piece that takes about `GRAIN_S`."""
        if self.rate_bps is None:
            return MOST_BYTES
        return max(LEAST_BYTES, min(MOST_BYTES, int(GRAIN_S * self.rate_bps / 8)))


@dataclass(eq=False)
class Way:
    """One direction of one connection.

    Attributes:
        source, destination: its ends.
        buckets: what it passes.
        out: pieces that may go on and have not.
        last_s: when the last piece is through.
        resumed_s: when it was last looked at again after it had to wait.
    """

    source: socket.socket
    destination: socket.socket
    buckets: tuple[Bucket, ...]
    out: deque[bytes] = field(default_factory=deque)
    last_s: float = 0.0
    resumed_s: float = 0.0


class Relay:
    """Passes connections on.

    Args:
        orders: what it was told.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._selector = selectors.DefaultSelector()
        self._up = [Bucket() for _ in orders.addresses]
        self._down = [Bucket() for _ in orders.addresses]
        self._places = {address: index for index, address in enumerate(orders.addresses)}
        self._doors: list[socket.socket] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._commands = b""
        for door in orders.doors:
            listener = socket.create_server((door.host, 0))
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            self._doors.append(listener)
            self._selector.register(listener, selectors.EVENT_READ, door)

    @property
    def ports(self) -> tuple[int, ...]:
        """Ports of the doors."""
        return tuple(listener.getsockname()[1] for listener in self._doors)

    def run(self) -> None:
        """Works until standard input is closed."""
        self._selector.register(0, selectors.EVENT_READ, None)
        while True:
            wait_s = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
            for key, _ in self._selector.select(wait_s):
                if key.data is None:
                    if not self._command():
                        return
                elif isinstance(key.data, Door):
                    self._accept(key.fileobj, key.data)  # type: ignore[arg-type]
                else:
                    self._readable(key.data)
            self._take_timers()

    def _command(self) -> bool:
        piece = os.read(0, 65536)
        self._commands += piece
        *lines, self._commands = self._commands.split(b"\n")
        for line in lines:
            rates = msgspec.json.decode(line, type=Rates)
            self._up[rates.place].rate_bps = rates.uplink_bps
            self._down[rates.place].rate_bps = rates.downlink_bps
            os.write(1, b"\n")
        return bool(piece)

    def _accept(self, listener: socket.socket, door: Door) -> None:
        try:
            near, (host, _) = listener.accept()
        except BlockingIOError:
            return
        target_host, _, port = door.target.rpartition(":")
        far = socket.create_connection((target_host, int(port)))
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        other = self._places.get(host, self._orders.requester)
        apart = other != door.place
        forth = (self._up[other], self._down[door.place]) if apart else ()
        back = (self._up[door.place], self._down[other]) if apart else ()
        for way in (Way(near, far, forth), Way(far, near, back)):
            self._selector.register(way.source, selectors.EVENT_READ, way)

    def _readable(self, way: Way) -> None:
        now_s = time.monotonic()
        free_s = max((bucket.free_s for bucket in way.buckets if bucket.rate_bps is not None), default=0.0)
        if free_s > now_s:
            self._selector.unregister(way.source)
            self._at(free_s, lambda: self._listen(way))
            return
        try:
            piece = way.source.recv(min((bucket.piece_bytes for bucket in way.buckets), default=MOST_BYTES))
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        # In order, also when a rate has become higher meanwhile.
        waited = now_s - way.resumed_s < RESUMED_S
        way.last_s = max(way.last_s, *(bucket.take(now_s, len(piece), waited) for bucket in way.buckets), 0.0)
        if piece:
            self._at(way.last_s, lambda: self._deliver(way, piece))
        else:
            self._selector.unregister(way.source)
            self._at(way.last_s, lambda: self._close(way))

    def _listen(self, way: Way) -> None:
        if way.source.fileno() >= 0:
            way.resumed_s = time.monotonic()
            self._selector.register(way.source, selectors.EVENT_READ, way)

    def _deliver(self, way: Way, piece: bytes) -> None:
        way.out.append(piece)
        if len(way.out) == 1:
            self._write(way)

    def _write(self, way: Way) -> None:
        try:
            while way.out:
                sent = way.destination.send(way.out[0])
                if sent < len(way.out[0]):
                    way.out[0] = way.out[0][sent:]
                else:
                    way.out.popleft()
        except BlockingIOError:
            self._at(time.monotonic() + GRAIN_S, lambda: self._write(way))
        except OSError:
            way.out.clear()
            self._close(way)

    def _close(self, way: Way) -> None:
        if way.out:
            self._at(time.monotonic() + GRAIN_S, lambda: self._close(way))
            return
        for end in (way.source, way.destination):
            if end.fileno() >= 0:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(end)
                end.close()

    def _at(self, time_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._timers, (time_s, self._count, action))

    def _take_timers(self) -> None:
        now_s = time.monotonic()
        while self._timers and self._timers[0][0] <= now_s:
            heapq.heappop(self._timers)[2]()


def main() -> None:
    """Runs the relay that standard input describes."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            sys.exit("no orders on standard input; this module is started by a parent")
        line += piece
    relay = Relay(msgspec.json.decode(line, type=Orders))
    os.write(1, msgspec.json.encode(Listening(relay.ports)) + b"\n")
    with on_time(paced=True):
        relay.run()


if __name__ == "__main__":
    main()
