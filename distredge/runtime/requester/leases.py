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

RENEW_S: Final = 2.0
"""Between two messages to a worker whose lease is held."""

MISSED_S: Final = 1.5 * RENEW_S
"""A holder that has not been heard for this long may be gone; before, there is no use in waiting."""

MOST_CHARACTERS: Final = 200


class WorkerHeld(ExecutionError):
    """Somebody else holds a worker."""


class WorkerTaken(ExecutionError):
    """Somebody else has taken a worker over."""


def this_holder() -> str:
    """Returns who this process is, for others to read: user, host, process and command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    command = " ".join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])
    return f"{user}@{socket.gethostname()} (pid {os.getpid()}: {command})"[:MOST_CHARACTERS]


def held_by(name: str, held: Held) -> WorkerHeld:
    """Returns the error of a worker that somebody else holds."""
    return WorkerHeld(
        f"worker '{name}' is held by '{held.holder}' for {held.held_s:.3g} s, heard {held.silent_s:.2g} s ago; "
        "--take-over takes it"
    )


def ask_again_s(held: Held) -> float:
    """Returns in how many seconds a lease ends by itself; infinite while its holder renews it."""
    return held.expires_s if held.silent_s >= MISSED_S else float("inf")


def taken_by(name: str, holder: str) -> WorkerTaken:
    """Returns the error of a worker that somebody else has taken over."""
    return WorkerTaken(f"worker '{name}' was taken over by '{holder}'")
