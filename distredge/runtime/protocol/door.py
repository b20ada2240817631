"""Who stands at an endpoint's door, and who has to go: the rules, without sockets (`doorkeeper` applies them).

A connection is a *stranger* until its keys are agreed, a *guest* until a message of it has been taken (which names its
user), and *known* from then on. libzmq itself ends handshakes that take too long and frames that are too large; what it
does not bound is here:

    strangers, guests   how many of each, by address and in all: the oldest of the address that has most gives way. An
                        honest handshake takes milliseconds, so that it comes through a flood.
    strangers           what they may have sent: hardly more than a handshake.
    known               how many of one user: the oldest gives way, as boards that lost their power leave dead ones.
    guests and known    what one user has sent and nobody has taken yet, in bytes: libzmq counts whole messages, and one
                        that never ends is none.
    known               what waits to be sent to a user that does not read.

On a network without encryption there are no users; the address stands for one there. A connection that this side has
made is known at once, and what comes over it is bounded as what comes from a user is.
"""

from __future__ import annotations

import enum
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

WAITING_OF_ADDRESS: Final = 64
"""Strangers that one address may have at a door, and as many guests. Sixteen workers that start at once need 16."""

WAITING: Final = 192
"""Strangers that a door has room for, and as many guests."""

CONNECTIONS_OF_USER: Final = 64
"""Of one user: each requester has one, each probe one, and each worker one for every worker that it sends to."""

STRANGER_BYTES: Final = 16 * 1024
"""A handshake takes less than 1 KiB."""

UNREAD_BYTES: Final = 32 * 1024 * 1024
"""What one user's connections may have sent beyond what has been taken, without what plans announce: twice the largest
echo, and on the control plane more than the kernel and libzmq hold before the sender has to wait."""

DIALLED_UNREAD_BYTES: Final = 256 * 1024 * 1024
"""What may have come over a connection that this side has made, beyond what has been taken: results of all frames in
flight, while the process was stopped for a while."""

UNSENT_BYTES: Final = 64 * 1024 * 1024
"""What may wait to be sent to one user, without what plans announce: four of the largest echoes."""

HEARTBEAT_BYTES_PER_S: Final = 256
"""What a connection sends beside its messages, at the most: a control connection may stand for months."""

_KEYED_BYTES: Final = 256
"""Sent by a server whose handshake is done (greeting 64, welcome 170, ready 67 bytes or so), and not before: a refusal
takes 244."""

_GREETED_BYTES: Final = 96
"""Received of a client whose handshake without encryption is done: greeting 64, ready 43 bytes or so."""

_CURVE_BYTES: Final = 33
"""What encryption adds to a frame: name of the command, nonce, code, flags."""

Ending: TypeAlias = Literal[
    "gave way", "spoke before its key", "too many connections", "sends too much", "reads too little"
]


class Stage(enum.Enum):
    """How far a connection has come."""

    STRANGER = enum.auto()
    GUEST = enum.auto()
    KNOWN = enum.auto()


class Traffic(NamedTuple):
    """Bytes of a connection as the kernel counts them.

    Attributes:
        received: so far.
        acked: sent and acknowledged so far.
        queued: received, and still in the kernel's memory and not in this process's; asked after `received`.
    """

    received: int
    acked: int
    queued: int = 0


class Counted(NamedTuple):
    """Bytes of a connection's messages so far, as we count them: taken, and handed over."""

    taken: int
    sent: int


class Close(NamedTuple):
    """A connection that has to go, and why."""

    connection: Connection
    ending: Ending
    reason: str


class Limits(NamedTuple):
    """How many strangers and guests a door has room for; each of one address, and in all."""

    of_address: int
    in_all: int

    @classmethod
    def within(cls, room: int) -> Limits:
        """Returns limits for a process that may open `room` more descriptors: an eighth for each kind at each door."""
        in_all = max(8, min(WAITING, room // 8))
        return cls(min(WAITING_OF_ADDRESS, in_all // 2), in_all)


@dataclass(eq=False)
class Connection:
    """One accepted connection.

    Attributes:
        fd: its descriptor, which libzmq owns.
        address, port: of the other end.
        opened_s: when, on `time.monotonic`'s clock.
        heard: whether a message of it has been taken.
        user: whose key it has, once heard; "" without encryption.
        peer: its routing id, once heard.
        taken_bytes: on the wire, of the messages that have been taken.
        sent_bytes: on the wire, of the messages handed over for it.
        closing: whether it has been told to go.
    """

    fd: int
    address: str
    port: int
    opened_s: float
    stage: Stage = Stage.STRANGER
    heard: bool = False
    user: str = ""
    peer: bytes = b""
    taken_bytes: int = 0
    sent_bytes: int = 0
    unread_bytes: int = 0
    unsent_bytes: int = 0
    closing: bool = False
    # What the kernel counts less than we do: the lowest ever seen, so that errors in our counting do not add up.
    _unread_from: int = 0
    _unsent_from: int = 0

    @property
    def owner(self) -> str:
        """Who answers for it: its user, or else its address."""
        return f"'{self.user}'" if self.user else self.address

    def observe(self, before: Counted, traffic: Traffic, heartbeat_bytes: int) -> None:
        """Takes in what the kernel counts; we counted `before` when it was asked, and have gone on since.

        What waits is at least what it would be had all of that been taken already: a transfer at gigabytes a second is
        nobody's fault. Nor is what waits in the kernel, which bounds it.
        """
        self._unread_from = min(self._unread_from, traffic.received - before.taken)
        self._unsent_from = min(self._unsent_from, self.sent_bytes - traffic.acked)
        read = traffic.received - traffic.queued
        self.unread_bytes = max(0, read - self.taken_bytes - self._unread_from - heartbeat_bytes)
        self.unsent_bytes = max(0, before.sent - traffic.acked - self._unsent_from)


@dataclass
class Door:
    """The connections of one bound endpoint; or those that a network's other endpoints have made.

    The doorkeeper's thread calls everything but `took`, `sends` and `allow`, which are the endpoint's owner's; and for
    connections that were made, `dialled` and `gone`.

    Args:
        encrypted: whether there are users.
        room: descriptors that the process may still open; 0 where nobody is let in.
        clock: seconds, for tests.

    Attributes:
        open: by descriptor.
        unread_limit, unsent_limit: bytes that a user may have waiting, either way.
    """

    encrypted: bool
    room: int
    clock: Callable[[], float] = time.monotonic
    open: dict[int, Connection] = field(default_factory=dict)
    unread_limit: int = UNREAD_BYTES
    unsent_limit: int = UNSENT_BYTES

    def __post_init__(self) -> None:
        self._limits = Limits.within(self.room)
        self._by_peer: dict[bytes, Connection] = {}
        self._waiting: dict[Stage, dict[str, dict[int, Connection]]] = {Stage.STRANGER: {}, Stage.GUEST: {}}
        # Messages that were taken before their connection was announced.
        self._early: dict[int, list[tuple[bytes, str, int]]] = {}

    # The endpoint's thread.

    def took(self, fd: int, peer: bytes, user: str, frames: Iterable[Sized]) -> None:
        """Counts a message that has been taken: the bytes of its frames."""
        size_bytes = self._on_wire(frames)
        connection = self.open.get(fd)
        if connection is not None:
            if connection.peer != peer:
                self._hear(connection, peer, user)
            connection.taken_bytes += size_bytes
        elif self.room:
            self._early.setdefault(fd, []).append((peer, user, size_bytes))

    def sends(self, peer: bytes, frames: Iterable[Sized]) -> None:
        """Counts a message that is about to be sent."""
        connection = self._by_peer.get(peer)
        if connection is not None:
            connection.sent_bytes += self._on_wire(frames)

    def allow(self, unread_bytes: int, unsent_bytes: int) -> None:
        """Sets what may wait beyond the usual: what plans announce, received and sent."""
        self.unread_limit = UNREAD_BYTES + unread_bytes
        self.unsent_limit = UNSENT_BYTES + unsent_bytes

    def _hear(self, connection: Connection, peer: bytes, user: str) -> None:
        connection.peer, connection.user, connection.heard = peer, user, True
        self._by_peer[peer] = connection

    def _on_wire(self, frames: Iterable[Sized]) -> int:
        added = _CURVE_BYTES if self.encrypted else 0
        total = 0
        for frame in frames:
            size = len(frame) + added
            total += size + (2 if size < 256 else 9)
        return total

    # The doorkeeper's thread.

    def accepted(self, fd: int, address: str, port: int) -> None:
        """A connection has come."""
        self.gone(fd)
        connection = Connection(fd, address, port, self.clock())
        for peer, user, size_bytes in self._early.pop(fd, ()):
            self._hear(connection, peer, user)
            connection.taken_bytes += size_bytes
        self._waiting[Stage.STRANGER].setdefault(address, {})[fd] = connection
        self.open[fd] = connection

    def dialled(self, fd: int, where: str, address: str, port: int) -> None:
        """This side has connected to `where`."""
        self.gone(fd)
        # What has been taken before it was announced is not known: counting begins with the first look.
        self.open[fd] = Connection(fd, address, port, self.clock(), Stage.KNOWN, True, where, _unread_from=2**62)

    def gone(self, fd: int) -> None:
        """A connection is no more."""
        connection = self.open.pop(fd, None)
        if connection is None:
            return
        self._leave(connection)
        if self._by_peer.get(connection.peer) is connection:
            del self._by_peer[connection.peer]

    def early(self) -> list[int]:
        """Descriptors of messages that came before their connection was announced."""
        return list(self._early)

    def forget_early(self, fds: Iterable[int]) -> None:
        """Forgets such messages: all connections of before have been announced by now."""
        for fd in fds:
            self._early.pop(fd, None)

    def crowded(self) -> Connection | None:
        """Returns whom to look at first where more wait than there is room for; None where there is."""
        for stage in (Stage.STRANGER, Stage.GUEST):
            groups = self._waiting[stage]
            if not groups:
                continue
            most = max(groups.values(), key=len)
            if len(most) > self._limits.of_address or sum(map(len, groups.values())) > self._limits.in_all:
                return next(iter(most.values()))
        return None

    def give_way(self, connection: Connection) -> Close:
        """Ends one that `crowded` returned, and that is still what it was."""
        return self._close(connection, "gave way", f"{len(self.open)} connections at the door")

    def observe(self, connection: Connection, before: Counted, traffic: Traffic) -> Close | None:
        """Takes in what the kernel counts for a connection; see `Connection.observe`."""
        heartbeat_bytes = int(HEARTBEAT_BYTES_PER_S * (self.clock() - connection.opened_s))
        connection.observe(before, traffic, heartbeat_bytes)
        if connection.closing:
            return None
        if connection.stage is Stage.STRANGER:
            agreed = traffic.acked >= _KEYED_BYTES if self.encrypted else traffic.received >= _GREETED_BYTES
            if connection.heard or agreed:
                self._leave(connection)
                connection.stage = Stage.GUEST
                self._waiting[Stage.GUEST].setdefault(connection.address, {})[connection.fd] = connection
            elif traffic.received > STRANGER_BYTES:
                return self._close(
                    connection, "spoke before its key", f"sent {traffic.received} bytes before its keys were agreed"
                )
        if connection.stage is Stage.GUEST and connection.heard:
            self._leave(connection)
            connection.stage = Stage.KNOWN
        return None

    def excess(self) -> Iterator[Close]:
        """Yields those that have to go since their user has too many connections, or too much waiting."""
        counts: Counter[str] = Counter()
        unread: Counter[str] = Counter()
        unsent: Counter[str] = Counter()
        admitted = [c for c in tuple(self.open.values()) if c.stage is not Stage.STRANGER and not c.closing]
        for connection in admitted:
            counts[connection.owner] += connection.stage is Stage.KNOWN
            unread[connection.owner] += connection.unread_bytes
            unsent[connection.owner] += connection.unsent_bytes
        for owner in counts:
            own = [c for c in admitted if c.owner == owner]
            for oldest in [c for c in own if c.stage is Stage.KNOWN][: max(0, counts[owner] - CONNECTIONS_OF_USER)]:
                yield self._close(
                    oldest, "too many connections", f"{counts[owner]} connections; {CONNECTIONS_OF_USER} are allowed"
                )
            if unread[owner] > self.unread_limit:
                reason = f"{unread[owner]} bytes wait to be read; {self.unread_limit} may"
                yield self._close(max(own, key=lambda c: c.unread_bytes), "sends too much", reason)
            if unsent[owner] > self.unsent_limit:
                reason = f"{unsent[owner]} bytes wait to be sent to it; {self.unsent_limit} may"
                yield self._close(max(own, key=lambda c: c.unsent_bytes), "reads too little", reason)

    @property
    def filling(self) -> bool:
        """Whether much waits to be read: the next look must not be late."""
        return any(c.unread_bytes > self.unread_limit // 8 for c in tuple(self.open.values()))

    @property
    def strangers(self) -> bool:
        """Whether somebody is agreeing on keys."""
        return bool(self._waiting[Stage.STRANGER])

    def _close(self, connection: Connection, ending: Ending, reason: str) -> Close:
        connection.closing = True
        self._leave(connection)
        return Close(connection, ending, f"{connection.owner} at {connection.address}:{connection.port}: {reason}")

    def _leave(self, connection: Connection) -> None:
        groups = self._waiting.get(connection.stage)
        group = groups.get(connection.address) if groups is not None else None
        if groups is not None and group is not None:
            group.pop(connection.fd, None)
            if not group:
                del groups[connection.address]
