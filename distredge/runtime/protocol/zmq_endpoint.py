"""An endpoint on a ZeroMQ socket, and waiting on several."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

import zmq

from distredge.errors import TransportError
from distredge.runtime.protocol.device_plan import PART_BYTES
from distredge.runtime.protocol.door import Door
from distredge.runtime.protocol.doorkeeper import announce
from distredge.runtime.protocol.endpoints import ConnectionEvent, Endpoint, NotConnected, Received, Tracker
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.pipe_bell import PipeBell
from distredge.runtime.protocol.row_messages import MAX_FRAMES
from distredge.runtime.protocol.zmq_addresses import dial

MAX_FRAME_BYTES: Final = 2 * PART_BYTES
"""The largest frame that is taken in, from anybody: whoever connects can make this process hold one.

Everything large travels in pieces of about half of it.
"""

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
        self.is_readable = False
        watched = _WATCHED | zmq.EVENT_CONNECT_RETRIED if len(places) > 1 else _WATCHED
        self.monitor: zmq.Socket[bytes] | None = socket.get_monitor_socket(watched) if places else None
        if self.monitor is not None:
            self.monitor.linger = 0

    def send(self, parts: Sequence[Bytes], to: bytes = b"", tracked: bool = False) -> Tracker | None:
        frames = [to, *parts] if to else parts
        if len(parts[0]) > MAX_FRAME_BYTES or (len(parts) > 1 and max(map(len, parts)) > MAX_FRAME_BYTES):
            largest = max(map(len, parts))
            raise TransportError(f"{self.address}: a part of {largest} bytes; at most {MAX_FRAME_BYTES} are sent")
        if self._bound:
            self._door.sends(to, parts)
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
        socket = self.socket
        # Asking first is cheaper than the exception of a socket that has nothing; a waiter has asked.
        if self.is_readable:
            self.is_readable = False
        elif not socket.getsockopt(_EVENTS) & _POLLIN:  # type: ignore[operator]
            return None
        try:
            frame = socket.recv(_NOBLOCK, copy=False)
        except zmq.Again:
            return None
        user = ""
        peer = b""
        if self._bound:
            peer = frame.bytes
            frame = socket.recv(_NOBLOCK, copy=False)
            # Asked for each message: a routing id proves nothing.
            if self._door.encrypted:
                user = _user(frame)
        fd = frame.get(_SRCFD)
        parts: list[Bytes] = [frame.buffer]
        # The frames say whether more follow: pyzmq's own loop asks the socket after each, which takes longer.
        while frame.more:
            frame = socket.recv(_NOBLOCK, copy=False)
            parts.append(frame.buffer)
        self._door.took(fd, peer, user, parts)
        return Received(peer, user, parts if len(parts) <= MAX_FRAMES else parts[: MAX_FRAMES + 2])

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


class ZmqWaiter:
    """Waits on sockets, their monitors, and bells."""

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
                endpoint = self._by_socket[socket]
                endpoint.is_readable = socket is endpoint.socket
                ready[endpoint] = None
        return list(ready)
