"""What this process may open: sockets are files too, and strangers can make it open many."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable
from typing import Final, TypeVar

import zmq

from distredge.errors import TransportError

FREE_DESCRIPTORS: Final = 64
"""What a network needs at least: some five for each connection."""

MOST_DESCRIPTORS: Final = 65536
"""More are not asked for."""

PATIENCE_S: Final = 2.0
"""How long to wait for a free descriptor: the doorkeeper ends connections that use them up."""

_RETRY_S: Final = 0.02
_TOO_MANY: Final = (errno.EMFILE, errno.ENFILE)

T = TypeVar("T")


def raise_limit() -> None:
    """Lets this process open as many files as the system allows, within reason."""
    own, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, MOST_DESCRIPTORS)
    if own != resource.RLIM_INFINITY and own < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def room() -> int:
    """How many files this process may still open."""
    own, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if own == resource.RLIM_INFINITY:
        return MOST_DESCRIPTORS
    try:
        return own - len(os.listdir("/proc/self/fd"))
    except FileNotFoundError:
        return own
    except OSError:
        return 0


def check_room() -> None:
    """Libzmq waits for ever, or aborts, where its first sockets cannot be opened: so it is not begun.

    Raises:
        TransportError: if this process may open hardly any more files.
    """
    left = room()
    if left < FREE_DESCRIPTORS:
        raise TransportError(
            f"{_limit()}, has {_limit_number() - left}, and needs {FREE_DESCRIPTORS} more for its connections; "
            "raise the limit with: ulimit -n"
        )


def with_descriptors(make: Callable[[], T], what: str) -> T:
    """Makes something that opens files, and waits a little where there are too many.

    Raises:
        TransportError: if there still are; `what` says what could not be done.
    """
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return make()
        except (zmq.ZMQError, OSError) as error:
            if error.errno not in _TOO_MANY:
                raise TransportError(f"{what}: {os.strerror(error.errno or 0)}") from error
            if time.monotonic() >= until_s:
                raise TransportError(f"{what}: {_limit()}; raise the limit with: ulimit -n") from error
        time.sleep(_RETRY_S)


def _limit_number() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _limit() -> str:
    return f"too many open files: this process may have {_limit_number()}"
