"""Who holds a worker: a lease that lasts as long as its holder is heard. No clock and no message of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

LEASE_S: Final = 10.0
"""How long a holder may be silent. It is heard every 2 s at least, so that four signs of life may get lost; a
requester that hangs for longer has its frames ended by their deadline (10 s) anyway."""

NAMELESS: Final = "somebody else"
_SHOWN: Final = 200
"""Characters of a holder's text that others are shown."""


class Granted(NamedTuple):
    """The worker is the asker's from now on; whatever a holder before it left is to be forgotten."""

    taken_from: Holder | None


class Renewed(NamedTuple):
    """The asker holds it already."""


class Occupied(NamedTuple):
    """Somebody else holds it."""

    holder: str
    held_s: float
    silent_s: float
    expires_s: float


Answer: TypeAlias = Granted | Renewed | Occupied


@dataclass
class Holder:
    """Who holds a worker.

    Attributes:
        session: secret of the session; `user` whose key it came with.
        peer: how to reach it.
        name: what it says of itself, fit to be shown.
    """

    session: bytes
    user: str
    peer: bytes
    name: str
    since_s: float
    heard_s: float


class Lease:
    """Of one worker; all times are the caller's, on one clock, in seconds."""

    def __init__(self) -> None:
        self.holder: Holder | None = None
        self._ended: dict[bytes, str] = {}

    def hello(self, session: bytes, user: str, peer: bytes, name: str, take_over: bool, now_s: float) -> Answer:
        """Somebody asks for the worker; a connection made anew keeps what its session has."""
        held = self.holder
        if held is not None and (held.session, held.user) == (session, user):
            held.peer, held.heard_s = peer, now_s
            self._ended.pop(peer, None)
            return Renewed()
        if held is not None and not take_over:
            silent_s = now_s - held.heard_s
            return Occupied(held.name, now_s - held.since_s, silent_s, max(0.0, LEASE_S - silent_s))
        name = shown(name)
        if held is not None:
            self._end(held, f"'{name}' has taken it over")
        self.holder = Holder(session, user, peer, name, now_s, now_s)
        self._ended.pop(peer, None)
        return Granted(held)

    def heard(self, peer: bytes, now_s: float) -> bool:
        """Notes that somebody was heard; returns whether it is the holder."""
        if self.holder is None or self.holder.peer != peer:
            return False
        self.holder.heard_s = now_s
        return True

    def expire(self, now_s: float) -> Holder | None:
        """Ends the lease of a holder that is silent for too long; returns whose it was."""
        held = self.holder
        if held is None or now_s - held.heard_s < LEASE_S:
            return None
        self._end(held, f"it was silent for {LEASE_S:g} s")
        self.holder = None
        return held

    def give_up(self) -> None:
        """The holder wants it no longer."""
        self.holder = None

    def refusal(self, peer: bytes) -> str:
        """Why somebody that does not hold the worker is not served."""
        if peer in self._ended:
            return f"this worker serves this session no longer: {self._ended[peer]}"
        if self.holder is None:
            return "this worker serves nobody: say hello first"
        return f"this worker serves another session, of '{self.holder.name}'"

    def _end(self, held: Holder, why: str) -> None:
        # Bounded: whoever connects anew is another peer.
        while len(self._ended) >= 16:
            del self._ended[next(iter(self._ended))]
        self._ended[held.peer] = why


def shown(name: str) -> str:
    """Returns what somebody says of itself, as others may be shown it: short, one line, printable."""
    text = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return (text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...") or NAMELESS
