"""Workers that announce themselves in the local network by mDNS (zeroconf), and who listens for them.

An announcement says a name and where; nobody vouches for it. What is found only fills in a cluster file that its user
reads: keys decide who may connect.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from distredge.cluster_file import CONTROL_PORT
from distredge.errors import MissingDependency, TransportError
from distredge.runtime.hosting.boards import own_addresses

T = TypeVar("T")

SERVICE: Final = "_distredge._tcp.local."

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ANSWER_S: Final = 1.0


@dataclass(frozen=True)
class Announced:
    """A worker that says that it is there: its name, and its address with the control port where that is unusual."""

    name: str
    where: str


@contextlib.contextmanager
def announced(name: str, port: int, addresses: tuple[str, ...] = (), interfaces: Sequence[str] = ()) -> Iterator[None]:
    """Announces a worker for as long as the block lasts.

    Args:
        name: of the device.
        port: of its control plane.
        addresses: at which it listens; none: this machine's own.
        interfaces: addresses of those that it is told on; none: all.

    Raises:
        MissingDependency: without zeroconf.
        TransportError: if there is no network to tell it in, or another worker has that name there.
    """
    try:
        from zeroconf import InterfaceChoice, IPVersion, NonUniqueNameException, ServiceInfo, Zeroconf
    except ImportError:
        raise MissingDependency("zeroconf", "to announce a worker", "discovery") from None
    info = ServiceInfo(
        SERVICE,
        f"{name}.{SERVICE}",
        port=port,
        parsed_addresses=list(addresses or own_addresses()),
        server=f"{socket.gethostname().partition('.')[0]}-{port}.local.",
    )
    on = list(interfaces) or InterfaceChoice.All
    with contextlib.closing(_opened(lambda: Zeroconf(on, ip_version=IPVersion.V4Only))) as network:
        try:
            network.register_service(info, allow_name_change=False)
        except NonUniqueNameException as error:
            raise TransportError(f"worker '{name}': another one announces itself by this name already") from error
        try:
            yield
        finally:
            network.unregister_service(info)


def discover(seconds: float, interfaces: Sequence[str] = ()) -> tuple[Announced, ...]:
    """Listens for announcements; returns the workers by name, each once.

    Args:
        seconds: how long.
        interfaces: addresses of those that are listened to; none: all.

    Raises:
        MissingDependency: without zeroconf.
        TransportError: if there is no network to listen in.
    """
    try:
        from zeroconf import InterfaceChoice, IPVersion, ServiceBrowser, ServiceListener, Zeroconf
    except ImportError:
        raise MissingDependency("zeroconf", "to discover workers", "discovery") from None

    seen: set[str] = set()

    class Listener(ServiceListener):
        def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            seen.add(name)

        def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            seen.add(name)

        def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            seen.discard(name)

    found = {}
    on = list(interfaces) or InterfaceChoice.All
    with contextlib.closing(_opened(lambda: Zeroconf(on, ip_version=IPVersion.V4Only))) as network:
        browser = ServiceBrowser(network, SERVICE, Listener())
        time.sleep(seconds)
        browser.cancel()
        for full in sorted(seen):
            info = network.get_service_info(SERVICE, full, int(1000 * _ANSWER_S))
            name = full.removesuffix(f".{SERVICE}")
            if info is None or not info.parsed_addresses() or info.port is None or not _NAME.fullmatch(name):
                continue
            address = info.parsed_addresses()[0]
            found[name] = Announced(name, address if info.port == CONTROL_PORT else f"{address}:{info.port}")
    return tuple(found.values())


def _opened(make: Callable[[], T]) -> T:
    try:
        return make()
    except (OSError, RuntimeError) as error:
        raise TransportError(f"no network in which workers could find each other by mDNS: {error}") from error
