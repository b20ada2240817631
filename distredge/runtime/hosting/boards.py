"""From a cluster file to the workers that it names: addresses, keys, and whether they are this machine's own."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distredge import network_addresses
from distredge.errors import ClusterError, KeyFileError, TransportError
from distredge.network_addresses import Resolve, is_loopback, is_numeric, tcp
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.security import MAKE_KEYS, REQUESTER_NAME, Keys, read_keys

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Device

KEYS_FOLDER = "keys"

_log = logging.getLogger(__name__)


def is_local(cluster: Cluster, names: Iterable[str]) -> bool:
    """Whether these devices are worker processes that this machine starts itself: loopback addresses, port 0."""
    devices = [cluster.device(name) for name in names]
    return all(device.control_port == 0 and is_loopback(device.address) for device in devices)


def check_addresses(cluster: Cluster) -> None:
    """Refuses a cluster whose devices are at one address and port, as those of the shipped simulated cases are.

    Raises:
        ClusterError: naming two such devices.
    """
    by_place: dict[tuple[str, int], str] = {}
    for device in cluster.devices:
        place = (device.address, device.control_port)
        other = by_place.setdefault(place, device.name)
        if device.control_port != 0 and other != device.name:
            raise ClusterError(
                f"cluster '{cluster.name}': the devices '{other}' and '{device.name}' have no addresses of their own "
                f"(both are at {device.address}, port {device.control_port}): this cluster is for planning and "
                "simulation; to run on boards, write a cluster file with: distredge cluster init FILE.toml"
            )


def keys_folder(cluster_name: str | Path, folder: Path | None) -> Path:
    """The folder of keys of a cluster: as given, or `keys` beside the cluster file."""
    if folder is not None:
        return folder
    path = Path(cluster_name)
    return (path.parent if path.suffix == ".toml" else Path()) / KEYS_FOLDER


def cluster_keys(cluster: Cluster, folder: Path, name: str = REQUESTER_NAME) -> Keys:
    """Reads the keys of a cluster for one of its members and compares them with the cluster file.

    Raises:
        FileError: if a file is missing or wrong.
        ClusterError: if devices have no addresses of their own.
        KeyFileError: if the cluster file names another public key, or the secret key cannot be used.
    """
    check_addresses(cluster)
    keys = read_keys(folder, name)
    for device in cluster.devices:
        if device.public_key is not None and keys.public.get(device.name, device.public_key) != device.public_key:
            raise KeyFileError(f"device '{device.name}': the cluster file and {folder} have different public keys")
    return keys


def worker_addresses(
    cluster: Cluster, names: Iterable[str], public_keys: Mapping[str, str] | None
) -> tuple[WorkerAddress, ...]:
    """Where the workers of a cluster file are.

    Args:
        cluster: the cluster.
        names: devices wanted.
        public_keys: name -> key; None without encryption.

    Raises:
        ClusterError: if a device has no fixed control port, or shares it with another.
        KeyFileError: if a device has no key.
    """
    check_addresses(cluster)
    found = []
    for name in names:
        device = cluster.device(name)
        if device.control_port == 0:
            raise ClusterError(
                f"cluster '{cluster.name}': device '{name}': control_port: found 0, accepted: the port of its worker, "
                "because other devices are not this machine's"
            )
        if public_keys is not None and name not in public_keys:
            raise KeyFileError(f"no public key of '{name}'; {MAKE_KEYS}")
        key = public_keys[name] if public_keys is not None else ""
        control, data = tcp(device.address, device.control_port), tcp(device.address, device.data_port)
        found.append(WorkerAddress(name, control, data, key))
    return tuple(found)


def bind_addresses(
    device: Device, host: str | None, encrypted: bool = True, resolve: Resolve = network_addresses.resolve
) -> tuple[str, str]:
    """What a worker binds: the address of the cluster file, or another interface's.

    A name stands for every address that it has here, since others may find the worker by any of them. Where they are
    all loopback ones (Debian's hosts file gives a machine's own name 127.0.1.1) others find it by one that is not known
    here: then this machine's own are bound too.

    Args:
        device: the worker's own.
        host: address, name, or ``*`` for every interface; None for the cluster file's.
        encrypted: without encryption no interface is bound that the name does not lead to.
        resolve: gives the addresses of a name.

    Returns:
        Addresses of the control and of the data plane, several with commas between them.

    Raises:
        TransportError: if the name has no address.
    """
    wanted = _numeric(device.address if host is None else host, encrypted, resolve)
    control, data = (
        ",".join(tcp(address, port) for address in wanted) for port in (device.control_port, device.data_port)
    )
    return control, data


def _numeric(host: str, encrypted: bool, resolve: Resolve) -> tuple[str, ...]:
    """ZeroMQ binds numeric addresses and interfaces, not names."""
    host = host.strip("[]")
    if host == "*" or is_numeric(host):
        return (host,)
    try:
        found = tuple(resolve(host))
    except OSError as error:
        raise TransportError(f"'{host}' has no address here: {error.strerror or error}; give --bind ADDRESS") from error
    if is_loopback(host) or not all(map(is_loopback, found)):
        return found
    others = own_addresses()
    if others:
        does = "they are bound too" if encrypted else "without encryption they are not bound: give --bind ADDRESS"
        _log.warning(
            "'%s' is %s here, where no other board reaches this one; its own addresses are %s: %s",
            host, ", ".join(found), ", ".join(others), does,
        )  # fmt: skip
    return (*found, *others) if encrypted else found


def own_addresses() -> tuple[str, ...]:
    """Returns the addresses of this machine's interfaces that are up, without loopback and link-local ones."""
    import psutil

    stats = psutil.net_if_stats()
    found = [
        address.address
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if name in stats and stats[name].isup and address.family in (socket.AF_INET, socket.AF_INET6)
    ]
    usable = [a for a in found if is_numeric(a) and not is_loopback(a) and not ipaddress.ip_address(a).is_link_local]
    return tuple(dict.fromkeys(usable))
