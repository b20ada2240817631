"""What an endpoint and a network are, whatever they are made of: `transport` makes them of sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

from distredge.errors import TransportError
from distredge.runtime.protocol.fields import Bytes

Plane: TypeAlias = Literal["control", "data"]


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
    """Makes endpoints. Closing it closes them all."""

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

    def on_death(self, tell: Callable[[BaseException], None]) -> None:
        """Lets `tell` be called with what ended a thread of the network, at once if it has: nobody new can connect."""

    def close(self) -> None:
        """Closes every endpoint that is left."""
