"""Keeps the doors of a network's endpoints: lets in whose key is allowed, and applies the rules of `door`.

A thread of its own. libzmq tells it of every connection and asks it about every key; the kernel tells it what each
connection has sent and taken. It ends a connection by shutting its socket down, which libzmq notices as it notices a
peer that hangs up. Without this thread nobody new can connect: whoever needs it asks to be told of its death.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import socket
import struct
import termios
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import zmq

from distredge.runtime.protocol.door import DIALLED_UNREAD_BYTES, Close, Connection, Counted, Door, Traffic
from distredge.runtime.protocol.pipe_bell import PipeBell
from distredge.runtime.protocol.security import Authenticator

SWEEP_S, SWEEP_STRANGERS_S, SWEEP_FILLING_S = 0.1, 0.05, 0.02
"""Between two looks at what every connection has sent; where there are strangers among them; where much is unread."""

EVENTS_AT_ONCE: Final = 64
"""Handled before those are heard again that agree on keys: a flood of connections must not keep them waiting."""

REPORT_S: Final = 10.0
"""Between two lines of the log about those without a key: a flood must not fill it."""

_WATCHED: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)

_TCP_INFO_BYTES: Final = 136
_TRAFFIC: Final = struct.Struct("=QQ")
_COUNT: Final = struct.Struct("=i")
_ACKED_AT: Final = 120
"""`tcpi_bytes_acked` and `tcpi_bytes_received` of `struct tcp_info`, since Linux 4.1."""

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


class _Watched(NamedTuple):
    """A door, and what libzmq tells of it; None where the endpoints' own monitors do."""

    events: zmq.Socket[bytes] | None
    door: Door


class Doorkeeper:
    """Watches bound sockets of one context, and answers which keys are allowed.

    Args:
        context: of the sockets.
        authenticator: says who is let in; None for a network without encryption.
        on_death: called in its thread, with the error that ended it.

    Attributes:
        dropped: connections that had to go, by reason, with the user's name where it is known.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        authenticator: Authenticator | None,
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._context = context
        self._authenticator = authenticator
        self._on_death = on_death
        self.dropped: Counter[str] = Counter()
        self._new: deque[_Watched] = deque()
        self._watched: list[_Watched] = []
        self._stopping = False
        self._turned_away = 0
        self._report_from_s = 0.0
        self._bell = PipeBell()
        self._requests: zmq.Socket[bytes] | None = None
        try:
            if authenticator is not None:
                # Before anything is bound: without it libzmq lets every key in.
                self._requests = context.socket(zmq.ROUTER)
                self._requests.linger = 0
                self._requests.bind("inproc://zeromq.zap.01")
            self._thread = threading.Thread(target=self._run, name="doorkeeper", daemon=True)
            self._thread.start()
        except BaseException:
            if self._requests is not None:
                self._requests.close(linger=0)
            self._bell.close()
            raise

    def watch(self, bound: zmq.Socket[bytes], room: int) -> Door:
        """Returns the door of a socket that is about to be bound.

        Args:
            bound: the socket; `disable_monitor` it before it is closed.
            room: descriptors that this process may still open.
        """
        where = f"inproc://door-{next(_numbers)}"
        events = self._context.socket(zmq.PAIR)
        try:
            events.linger = 0
            # A full queue would make libzmq's own thread wait for this one, and so would a socket that nobody hears.
            events.rcvhwm = 0
            events.connect(where)
            bound.monitor(where, _WATCHED)
        except BaseException:
            events.close(linger=0)
            raise
        door = Door(self._authenticator is not None, room)
        self._new.append(_Watched(events, door))
        self._bell.ring()
        return door

    def watch_dialled(self) -> Door:
        """Returns the door of connections that this process makes; their endpoints tell it of them."""
        door = Door(self._authenticator is not None, 0, unread_limit=DIALLED_UNREAD_BYTES)
        self._new.append(_Watched(None, door))
        self._bell.ring()
        return door

    def stop(self) -> None:
        """Ends its thread, after everything that it watches has been closed."""
        self._stopping = True
        self._bell.ring()
        self._thread.join()
        # Not before, even if the thread has died: libzmq waits for whoever listens to a socket that still is watched.
        for watched in (*self._watched, *self._new):
            if watched.events is not None:
                watched.events.close(linger=0)
        if self._requests is not None:
            self._requests.close(linger=0)
        self._bell.close()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._round()
        except BaseException as error:
            _log.critical("the doorkeeper has died: nobody new can connect: %r", error)
            self._on_death(error)

    def _round(self) -> None:
        poller = zmq.Poller()
        poller.register(self._bell.reads, zmq.POLLIN)
        for watched in self._watched:
            if watched.events is not None:
                poller.register(watched.events, zmq.POLLIN)
        if self._requests is not None:
            poller.register(self._requests, zmq.POLLIN)
        sweep_at_s = 0.0
        while not self._new and not self._stopping:
            found = dict(poller.poll(self._patience_ms()))
            if self._bell.reads in found:
                self._bell.silence()
            self._answer_requests()
            if not self._take_events():
                return
            now_s = time.monotonic()
            if now_s >= sweep_at_s:
                self._sweep()
                sweep_at_s = time.monotonic() + self._sweep_s()
        while self._new:
            self._watched.append(self._new.popleft())

    def _sweep_s(self) -> float:
        if any(watched.door.filling for watched in self._watched):
            return SWEEP_FILLING_S
        return SWEEP_STRANGERS_S if any(watched.door.strangers for watched in self._watched) else SWEEP_S

    def _patience_ms(self) -> int | None:
        # Connections that were made do not wake it.
        if any(watched.events is None or watched.door.open for watched in self._watched):
            return int(1000 * self._sweep_s())
        return None

    # Keys.

    def _answer_requests(self) -> None:
        requests = self._requests
        while requests is not None and requests.getsockopt(_EVENTS) & _POLLIN:  # type: ignore[operator]
            assert self._authenticator is not None
            frames = requests.recv_multipart(zmq.NOBLOCK)
            envelope = frames[: frames.index(b"") + 1]
            answer = self._authenticator.answer(frames[len(envelope) :])
            # Who asked may have hung up meanwhile.
            with contextlib.suppress(zmq.ZMQError):
                requests.send_multipart([*envelope, *answer], zmq.NOBLOCK)

    # Connections.

    def _take_events(self) -> bool:
        """Handles what has happened; returns whether everything is watched as before."""
        for watched in tuple(self._watched):
            events, door = watched
            if events is None:
                continue
            early = door.early()
            for _ in range(EVENTS_AT_ONCE):
                if not events.getsockopt(_EVENTS) & _POLLIN:  # type: ignore[operator]
                    door.forget_early(early)
                    break
                head = events.recv_multipart(zmq.NOBLOCK)[0]
                event, fd = struct.unpack("=Hi", head)
                if event == zmq.EVENT_ACCEPTED:
                    self._accepted(door, fd)
                elif event == zmq.EVENT_MONITOR_STOPPED:
                    events.close(linger=0)
                    self._watched.remove(watched)
                    return False
                else:
                    door.gone(fd)
            while (oldest := door.crowded()) is not None:
                self._look_at(door, oldest)
                if door.crowded() is oldest:
                    self._end(door.give_way(oldest))
        return True

    def _accepted(self, door: Door, fd: int) -> None:
        # One that has gone already is announced as gone by a later event.
        with contextlib.suppress(OSError), _borrowed(fd) as borrowed:
            door.accepted(fd, *_address(borrowed))

    def _sweep(self) -> None:
        for _, door in self._watched:
            for connection in tuple(door.open.values()):
                self._look_at(door, connection)
            for close in door.excess():
                self._end(close)
        now_s = time.monotonic()
        if self._turned_away and now_s >= self._report_from_s:
            _log.warning("%d connections without a key had to give way", self._turned_away)
            self._turned_away = 0
            self._report_from_s = now_s + REPORT_S

    def _look_at(self, door: Door, connection: Connection) -> None:
        before = Counted(connection.taken_bytes, connection.sent_bytes)
        try:
            with _borrowed(connection.fd) as borrowed:
                info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                queued = _COUNT.unpack(fcntl.ioctl(borrowed, termios.FIONREAD, bytes(_COUNT.size)))[0]
        except OSError:  # closed by now; the event that says so is on its way
            return
        if len(info) < _TCP_INFO_BYTES:  # a system that does not count bytes
            return
        acked, received = _TRAFFIC.unpack_from(info, _ACKED_AT)
        close = door.observe(connection, before, Traffic(received, acked, queued))
        if close is not None:
            self._end(close)

    def _end(self, close: Close) -> None:
        connection = close.connection
        with contextlib.suppress(OSError), _borrowed(connection.fd) as borrowed:
            # libzmq may have closed it since, and the system have given its number to another one.
            if _address(borrowed) == (connection.address, connection.port):
                borrowed.shutdown(socket.SHUT_RDWR)
        if connection.heard:
            self.dropped[f"{close.ending}: {connection.owner}"[:200]] += 1
            _log.warning("dropped a connection: %s", close.reason)
        else:
            self.dropped[close.ending] += 1
            self._turned_away += 1
            _log.debug("dropped a connection: %s", close.reason)


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """A descriptor of libzmq's as a socket; it stays libzmq's.

    Raises:
        OSError: if it is closed, or no socket.
    """
    # Family and type are not looked up; what is asked here is the same for all.
    borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fd)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def announce(door: Door, fd: int, where: str) -> None:
    """Tells a door of a connection that this process has made to `where`."""
    with contextlib.suppress(OSError), _borrowed(fd) as borrowed:
        door.dialled(fd, where, *_address(borrowed))


def _address(borrowed: socket.socket) -> tuple[str, int]:
    """Where the other end is; raises OSError where the descriptor is no connection over IP."""
    found = borrowed.getpeername()
    if not isinstance(found, tuple):
        raise OSError("not a connection over IP")
    return str(found[0]), int(found[1])
