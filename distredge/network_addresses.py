"""Where a board is: host names, IPv4 and IPv6 addresses with and without a scope, as files and people write them."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from typing import TypeAlias

Resolve: TypeAlias = Callable[[str], Sequence[str]]
"""Gives the numeric addresses of a host name, best first; raises OSError where it has none."""

ACCEPTED = "a host name, an IPv4 or an IPv6 address, such as nano-0.local, 192.168.1.11, fe80::1%eth0, [fd00::1]:5700"

OWN = ("127.0.0.1", "localhost", "::1")
"""How people call the machine that they are at."""

_LABEL = re.compile(r"(?!-)[\w-]{1,63}(?<!-)")
_WITH_PORT = re.compile(r"\[(?P<six>[^\]]*)\](?::(?P<port6>\d{1,5}))?|(?P<host>[^:\[\]]+)(?::(?P<port>\d{1,5}))?")


def read_address(text: str) -> tuple[str, int | None]:
    """Returns host and port of an address: `[::1]`, `1.2.3.4:6100`, `tcp://nano-0:5700`, `fe80::1%eth0`, `nano-0`.

    Args:
        text: what stands in a file.

    Returns:
        A host name as it stands, or an address in its shortest form; the port, None where there is none.

    Raises:
        ValueError: saying what is wrong, if it is none, or one at which nobody can be reached.
    """
    bare = text.strip().removeprefix("tcp://")
    if is_numeric(bare):
        host, port = bare, None
    else:
        found = _WITH_PORT.fullmatch(bare)
        if found is None:
            raise ValueError("it is neither")
        host = found["six"] if found["six"] is not None else found["host"]
        digits = found["port6"] or found["port"]
        port = int(digits) if digits else None
        if port is not None and not 1 <= port <= 65535:
            raise ValueError("a port is from 1 to 65535")
        if found["six"] is not None and (not is_numeric(host) or ":" not in host):
            raise ValueError("only an IPv6 address stands in brackets")
    if is_numeric(host):
        address = ipaddress.ip_address(host)
        if address.is_unspecified or address.is_multicast:
            raise ValueError("no worker can be reached there; `distredge worker --bind` says where it listens")
        return str(address), port
    if not _is_name(host):
        raise ValueError("it is neither")
    return host, port


def is_numeric(host: str) -> bool:
    """Whether this is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether this is an address at which a machine reaches itself alone, or the name of one."""
    if not is_numeric(host):
        return host == "localhost" or host.endswith(".localhost")
    return ipaddress.ip_address(host).is_loopback


def tcp(host: str, port: int | str) -> str:
    """Returns a ZeroMQ address."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def host_of(address: str) -> str:
    """Returns the host in a ZeroMQ address, without brackets."""
    return address.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def resolve(host: str) -> tuple[str, ...]:
    """Returns the numeric addresses of a host name, in the system's order, each once.

    Raises:
        OSError: if it has none.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(socket.getnameinfo(entry[4], socket.NI_NUMERICHOST)[0] for entry in found))


def _is_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    # What ends in digits is meant for an address: 300.1.1.1, 1.2.3.
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()
