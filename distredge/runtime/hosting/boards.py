"""From a cluster file to the workers that it names: addresses, keys, and whether they are this machine's own."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distredge.errors import ClusterError, KeyFileError, TransportError
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.security import MAKE_KEYS, REQUESTER_NAME, Keys, read_keys

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Device

KEYS_FOLDER = "keys"


def is_local(cluster: Cluster, names: Iterable[str]) -> bool:
    """Whether these devices are worker processes that this machine starts itself: loopback addresses, port 0."""
    devices = [cluster.device(name) for name in names]
    return all(device.control_port == 0 and _is_loopback(device.address) for device in devices)


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


def tcp(host: str, port: int) -> str:
    """Returns a ZeroMQ address."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


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


def bind_addresses(device: Device, host: str | None) -> tuple[str, str]:
    """What a worker binds: the address of the cluster file, or another interface's.

    Args:
        device: the worker's own.
        host: address, name, or ``*`` for every interface; None for the cluster file's.

    Raises:
        TransportError: if the name has no address.
    """
    wanted = device.address if host is None else host
    return tcp(_numeric(wanted), device.control_port), tcp(_numeric(wanted), device.data_port)


def _numeric(host: str) -> str:
    """ZeroMQ binds numeric addresses and interfaces, not names."""
    if host == "*" or _is_address(host):
        return host
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TransportError(f"'{host}' has no address: {error.strerror or error}") from error
    return str(found[0][4][0])


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
