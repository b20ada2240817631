"""Leases of workers: how often they are renewed, and what is said of one that somebody else holds.

A worker lets a lease expire whose holder it has not heard for a while: one that was killed says no goodbye.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from pathlib import Path
from typing import Final

from distredge.errors import ExecutionError
from distredge.runtime.protocol.messages import Held
from distredge.writing import as_text

RENEW_S: Final = 2.0
"""Between two messages to a worker whose lease is held."""

ASK_AGAIN_S: Final = 0.5
"""Before a worker that somebody else holds is asked for again."""

RENEWED_S: Final = 0.1
"""By how much later a holder must have been heard to be seen alive; less is the time that messages take."""

MOST_CHARACTERS: Final = 200


class WorkerHeld(ExecutionError):
    """Somebody else holds a worker."""


class WorkerTaken(ExecutionError):
    """Somebody else has taken a worker over."""


class HeldBy:
    """Who holds a worker, as it said at one time.

    Args:
        said: what it said.
        now_s: when (monotonic).
        before: what it said before that.
    """

    def __init__(self, said: Held, now_s: float, before: HeldBy | None) -> None:
        self.said = said
        self._heard_s = now_s - said.silent_s
        self._ends_s = now_s + said.expires_s
        self._renewed: bool = before is not None and (before._renewed or self._heard_s > before._heard_s + RENEWED_S)

    def stays_beyond(self, until_s: float) -> bool:
        """Whether there is no use in waiting until then: its holder lives, or the lease does not end by then."""
        return self._renewed or self._ends_s > until_s


def this_holder() -> str:
    """Returns who this process is, for others to read: user, host, process and command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    command = " ".join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])
    # A message to a worker is UTF-8; an argument may be a path whose bytes are none.
    return as_text(f"{user}@{socket.gethostname()} (pid {os.getpid()}: {command})")[:MOST_CHARACTERS]


def held_by(name: str, held: Held) -> WorkerHeld:
    """Returns the error of a worker that somebody else holds."""
    return WorkerHeld(
        f"worker '{name}' is held by '{held.holder}' for {held.held_s:.3g} s, heard {held.silent_s:.2g} s ago; "
        "--take-over takes it"
    )


def taken_by(name: str, holder: str) -> WorkerTaken:
    """Returns the error of a worker that somebody else has taken over."""
    return WorkerTaken(f"worker '{name}' was taken over by '{holder}'")
