"""From a cluster file to the workers that it names: addresses, keys, and whether they are this machine's own."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from distredge import network_addresses
from distredge.cluster_file import CONTROL_PORT
from distredge.errors import ClusterError, FileError, KeyFileError, ProfileError, TransportError
from distredge.network_addresses import OWN, Resolve, is_loopback, is_numeric, tcp
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.security import MAKE_KEYS, PUBLIC_FILE, REQUESTER_NAME, Keys, read_keys

if TYPE_CHECKING:
    from distredge.cluster import Cluster
    from distredge.cluster_file import BoardEntry

KEYS_FOLDER = "keys"

_log = logging.getLogger(__name__)


class Place(Protocol):
    """Where a worker is, as `cluster.Device` and `cluster_file.BoardEntry` say it."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def control_port(self) -> int: ...
    @property
    def data_port(self) -> int: ...
    @property
    def public_key(self) -> str | None: ...


class Members(Protocol):
    """The devices of a cluster, as `cluster.Cluster` and `cluster_file.BoardEntries` have them."""

    @property
    def name(self) -> str: ...
    @property
    def devices(self) -> Sequence[Place]: ...


def is_local(cluster: Cluster, names: Iterable[str]) -> bool:
    """Whether these devices are worker processes that this machine starts itself: loopback addresses, port 0."""
    devices = [cluster.device(name) for name in names]
    return all(device.control_port == 0 and is_loopback(device.address) for device in devices)


def check_addresses(cluster: Members) -> None:
    """Refuses a cluster of which two workers would listen at one address and port, before the first of them starts.

    Raises:
        ClusterError: naming two such devices and what to write; where they are the shipped simulated cases', what those
            are for.
    """
    taken: dict[tuple[str, int], tuple[str, str]] = {}
    for device in cluster.devices:
        if device.control_port == 0:
            # A worker that this machine starts itself, at ports that the system chooses.
            continue
        address = OWN[0] if device.address in OWN else device.address
        for key, port in (("control_port", device.control_port), ("data_port", device.data_port)):
            if port == 0:
                continue
            other, others_key = taken.setdefault((address, port), (device.name, key))
            if other != device.name and key == others_key == "control_port":
                raise ClusterError(
                    f"cluster '{cluster.name}': the devices '{other}' and '{device.name}' have no addresses of their "
                    f"own (both are at {device.address}, port {port}): this cluster is for planning and simulation; "
                    "to run on boards, write a cluster file with: distredge cluster init FILE.toml; where both are "
                    f"workers of one computer, {_free_ports(cluster, device)}"
                )
            if (other, others_key) != (device.name, key):
                raise ClusterError(
                    f"cluster '{cluster.name}': {others_key} of '{other}' and {key} of '{device.name}' are both {port} "
                    f"at {device.address}: {_free_ports(cluster, device)}"
                )


def _free_ports(cluster: Members, device: Place) -> str:
    """What to write for a device whose ports collide."""
    used = {port for other in cluster.devices for port in (other.control_port, other.data_port)}
    free = [port for port in range(CONTROL_PORT, 65536) if port not in used][:2]
    return f"write control_port = {free[0]} and data_port = {free[1]} under '{device.name}'"


def keys_folder(cluster_name: str | Path, folder: Path | None) -> Path:
    """The folder of keys of a cluster: as given, or `keys` beside the cluster file."""
    if folder is not None:
        return folder
    path = Path(cluster_name)
    return (path.parent if path.suffix == ".toml" else Path()) / KEYS_FOLDER


def cluster_keys(cluster: Members, folder: Path, name: str = REQUESTER_NAME) -> Keys:
    """Reads the keys of a cluster for one of its members and compares them with the cluster file.

    Raises:
        FileError: if a file is missing or wrong.
        ClusterError: if devices have no addresses of their own.
        KeyFileError: if the cluster file names another public key, or the secret key cannot be used.
    """
    check_addresses(cluster)
    _check_there(folder, name)
    keys = read_keys(folder, name)
    for device in cluster.devices:
        if device.public_key is not None and keys.public.get(device.name, device.public_key) != device.public_key:
            raise KeyFileError(f"device '{device.name}': the cluster file and {folder} have different public keys")
    return keys


def _check_there(folder: Path, name: str) -> None:
    """Says where missing keys are to be had: who makes new ones on a board has keys that fit nobody's."""
    for file in (PUBLIC_FILE, f"{name}.secret"):
        if not (folder / file).exists():
            here = f"copy them to {folder}, or give --keys FOLDER"
            raise FileError(
                f"{folder / file}: is not here; {MAKE_KEYS}, or, where they are made already, {here}"
                if name == REQUESTER_NAME
                else f"{folder / file}: is not here; keys are made once, on the requester, and {PUBLIC_FILE} and "
                f"{name}.secret are for this board: {here}"
            )


def start_on_boards(cluster_file: str, names: Iterable[str]) -> str:
    """What to do where workers do not answer.

    Args:
        cluster_file: as the command was given it.
        names: of the workers.
    """
    lines = "; ".join(f"distredge worker --cluster {Path(cluster_file).name} --name {name}" for name in names)
    return f"is it started, and do its ports get through? On the board: {lines}"


def worker_addresses(
    cluster: Cluster,
    names: Iterable[str],
    public_keys: Mapping[str, str] | None,
    resolve: Resolve = network_addresses.resolve,
) -> tuple[WorkerAddress, ...]:
    """Where the workers of a cluster file are.

    Args:
        cluster: the cluster.
        names: devices wanted.
        public_keys: name -> key; None without encryption.
        resolve: gives the addresses of a name; one that has none is warned of, as it may get one.

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
        _warn_of_no_address(device, resolve)
        control, data = tcp(device.address, device.control_port), tcp(device.address, device.data_port)
        found.append(WorkerAddress(name, control, data, key))
    return tuple(found)


def _warn_of_no_address(device: Place, resolve: Resolve) -> None:
    if is_numeric(device.address):
        return
    try:
        resolve(device.address)
    except OSError as error:
        _log.warning(
            "device '%s': its name '%s' has no address here: %s", device.name, device.address, error.strerror or error
        )


def memory_limit_bytes(board: BoardEntry, folder: Path) -> int | None:
    """Returns what a worker may hold: what the cluster file says, else its own profile; None where neither knows.

    Args:
        board: the worker's own.
        folder: to which paths in the cluster file are relative.

    Raises:
        ProfileError: if the profile is wanted and cannot be read.
    """
    from distredge.profiles.compute import load_profile

    if board.memory_bytes is not None:
        return board.memory_bytes
    name = str(folder / board.profile) if board.profile.endswith(".json") else board.profile
    try:
        profile = load_profile(name)
    except ProfileError as error:
        raise ProfileError(
            f"device '{board.name}': {error}; a worker takes its memory from its own profile: copy that here, or write "
            "memory_bytes for it in the cluster file"
        ) from None
    if profile.measured and profile.board.threads != board.threads:
        _log.warning(
            "device '%s': the cluster file gives it %d threads, its profile was measured with %d: what is predicted "
            "will not hold", board.name, board.threads, profile.board.threads,
        )  # fmt: skip
    return profile.memory_bytes


def bind_addresses(
    device: Place, host: str | None, encrypted: bool = True, resolve: Resolve = network_addresses.resolve
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
