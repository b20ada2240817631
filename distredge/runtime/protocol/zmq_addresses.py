"""Addresses of ZeroMQ sockets: of either family, of one machine or of several, with ports that the system chooses."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import zmq

from distredge.errors import TransportError

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENODEV)


def dial(socket: zmq.Socket[bytes], address: str) -> None:
    """Connects a socket to an address of either family."""
    socket.ipv6 = "[" in address
    socket.connect(address)


def bind_all(socket: zmq.Socket[bytes], wanted: Sequence[str]) -> list[str]:
    """Binds those of some addresses that are this machine's, all at one port.

    Raises:
        TransportError: if none is, or one cannot be bound for another reason.
    """
    bound: list[str] = []
    absent: list[str] = []
    for address in wanted:
        if bound and address.endswith(":0"):
            address = f"{address[:-1]}{bound[0].rpartition(':')[2]}"
        socket.ipv6 = "[" in address
        try:
            socket.bind(_system_port(address))
        except zmq.ZMQError as error:
            if len(wanted) == 1 or error.errno not in _NOT_HERE:
                raise TransportError(f"cannot bind {address}: {error.strerror}") from error
            absent.append(f"{address} ({error.strerror})")
            continue
        last = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(last, bytes)
        bound.append(last.rstrip(b"\0").decode())
    if not bound:
        raise TransportError(f"cannot bind {', '.join(absent)}")
    return bound


def is_wildcard(address: str) -> bool:
    """Whether an address stands for every interface of this machine."""
    host = address.removeprefix("tcp://").rpartition(":")[0]
    return host in ("", "*", "0.0.0.0", "[::]", "::", "[*]")


def _system_port(address: str) -> str:
    """ZeroMQ writes "any port" as ``*``."""
    return f"{address[:-1]}*" if address.endswith(":0") else address
