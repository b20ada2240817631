"""Cluster files as they stand: their structure, and of their devices what is read without profiles and traces.

A worker needs where it is, who else there is and which keys they have; the profiles and traces of other boards, which
the file names, are on the requester alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from distredge.checked_reading import decode_toml, read_bytes
from distredge.errors import ClusterError, did_you_mean, located
from distredge.network_addresses import ACCEPTED, read_address

FORMAT = "distredge.cluster/1"
LinkModel = Literal["independent", "shared"]

Provider = Literal["cpu", "cuda", "tensorrt"]

PROGRAM = r"""^[^-\s"'\\][^\x00-\x1f"'\\]{0,299}$(?!\n)"""
"""Path or name of a program, which a shell, TOML and a command line all take as it stands."""

CONTROL_PORT = 5700
DATA_PORT = 5701

_Rate = Annotated[float, Meta(ge=0, lt=1e15)]
_Seconds = Annotated[float, Meta(ge=0, lt=1e6)]
_Port = Annotated[int, Meta(ge=0, le=65535)]
_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$(?!\n)")]
_Program = Annotated[str, Meta(pattern=PROGRAM, max_length=300)]
_Ssh = Annotated[str, Meta(pattern=r"""^[^-\s"'\\][^\s"'\\]*$(?!\n)""", max_length=300)]


class LinkFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One or both directions of an access to the network."""

    rate_bps: _Rate | Literal["unbounded"] | None = None
    trace: str | None = None
    trace_format: Literal["csv", "mahimahi", "pensieve", "iperf3"] | None = None
    fixed_s: _Seconds = 0.0
    rtt_s: _Seconds = 0.0


class DeviceFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device as it stands in a cluster file."""

    name: _Name
    profile: Annotated[str, Meta(min_length=1)]
    address: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    control_port: _Port | None = None
    data_port: _Port = DATA_PORT
    public_key: Annotated[str, Meta(min_length=40, max_length=40)] | None = None
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    memory_bytes: Annotated[int, Meta(ge=1)] | None = None
    engine_python: _Program | None = None
    provider: Provider = "cpu"
    dynamic_rows: bool | None = None
    ssh: _Ssh | None = None
    host: str | None = None
    link: LinkFile | None = None
    uplink: LinkFile | None = None
    downlink: LinkFile | None = None


class RequesterFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The requester as it stands in a cluster file."""

    name: _Name = "requester"
    device: str | None = None
    profile: Annotated[str, Meta(min_length=1)] | None = None
    host: str | None = None
    link: LinkFile | None = None
    uplink: LinkFile | None = None
    downlink: LinkFile | None = None


class HostFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A computer as it stands in a cluster file."""

    name: _Name
    cores: Annotated[int, Meta(ge=1, le=4096)] | Literal["all"]


class ClusterFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cluster as it stands in its file."""

    format: Literal["distredge.cluster/1"]
    name: _Name
    description: str = ""
    source: str = ""
    link_model: LinkModel = "shared"
    shared_medium: bool = False
    encrypted: bool = False
    requester: RequesterFile = msgspec.field(default_factory=RequesterFile)
    host: tuple[HostFile, ...] = ()
    device: Annotated[tuple[DeviceFile, ...], Meta(min_length=1)]


@dataclass(frozen=True)
class BoardEntry:
    """A device of a cluster file without what it computes and what its links carry.

    Attributes:
        name: unique in its cluster.
        address: its host, or its interface's address.
        control_port, data_port: of its worker; 0: the system chooses.
        public_key: Z85, where the file names it.
        threads: of its engine.
        memory_bytes: for plans and buffers, where the file says it; else its profile does.
        profile: path or name, as it stands.
        ssh: where its system's ssh server is, as user@host; None: not said.
        engine_python: older Python, in a process of which its engine runs; None: the worker's own.
        provider: what its engine computes with.
        dynamic_rows: whether it loads one sub-model for each volume, whatever its rows; None: with TensorRT.
    """

    name: str
    address: str
    control_port: int
    data_port: int
    public_key: str | None
    threads: int
    memory_bytes: int | None
    profile: str
    ssh: str | None = None
    engine_python: str | None = None
    provider: Provider = "cpu"
    dynamic_rows: bool | None = None


@dataclass(frozen=True)
class BoardEntries:
    """The devices of a cluster file.

    Attributes:
        name: of the cluster.
        devices: in the file's order.
        folder: to which paths in the file are relative.
    """

    name: str
    devices: tuple[BoardEntry, ...]
    folder: Path

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the devices in their order."""
        return tuple(device.name for device in self.devices)

    def device(self, name: str) -> BoardEntry:
        """Returns a device by name.

        Raises:
            ClusterError: if there is none of that name.
        """
        found = next((device for device in self.devices if device.name == name), None)
        if found is None:
            raise ClusterError(f"cluster '{self.name}' has no device '{name}'{did_you_mean(name, self.names)}")
        return found


def read_boards(name_or_path: str | Path) -> BoardEntries:
    """Returns the devices of a cluster; arguments and errors as of `read_cluster_file`, no other file is read."""
    file, where, folder = read_cluster_file(name_or_path)
    boards = []
    for index, entry in enumerate(file.device):
        address, control_port = place(entry, f"{where}: device[{index}]")
        boards.append(
            BoardEntry(
                entry.name, address, control_port, entry.data_port, entry.public_key, entry.threads,
                entry.memory_bytes, entry.profile, entry.ssh, entry.engine_python, entry.provider,
                entry.dynamic_rows,
            )
        )  # fmt: skip
    return BoardEntries(file.name, tuple(boards), folder)


def read_cluster_file(name_or_path: str | Path) -> tuple[ClusterFile, str, Path]:
    """Reads a cluster file and nothing that it names.

    Args:
        name_or_path: name of a shipped case, or path of a TOML file.

    Returns:
        Its content; what to call it in messages; the folder to which paths in it are relative.

    Raises:
        ClusterError: naming file and field.
    """
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text:
        content, folder = read_bytes(text, ClusterError), Path(text).parent
    else:
        entry = resources.files("distredge.profiles.data") / "clusters" / f"{text}.toml"
        if not entry.is_file():
            hint = did_you_mean(text, shipped_clusters())
            raise ClusterError(f"there is no shipped cluster '{text}'{hint}; or give the path of a .toml file")
        content, folder = entry.read_bytes(), Path(".")
    file = decode_toml(content, ClusterFile, text, ClusterError)
    seen: set[str] = set()
    for index, device in enumerate(file.device):
        if device.name in seen:
            raise ClusterError(f"{text}: device[{index}].name: '{device.name}' stands twice")
        seen.add(device.name)
    return file, text, folder


def shipped_clusters() -> tuple[str, ...]:
    """Returns the names of the shipped cases."""
    entries = (resources.files("distredge.profiles.data") / "clusters").iterdir()
    return tuple(sorted(e.name[: -len(".toml")] for e in entries if e.name.endswith(".toml")))


def place(entry: DeviceFile, where: str) -> tuple[str, int]:
    """Returns host and control port of a worker; the port may stand in the address.

    Args:
        entry: of a file.
        where: it stands, for messages.

    Raises:
        ClusterError: if the address is none, names another port, both planes have one, or an engine of its own is asked
            for of a worker process of this machine.
    """
    try:
        host, port = read_address(entry.address)
    except ValueError as error:
        raise ClusterError(f"{located(where, 'address', entry.address, ACCEPTED)}: {error}") from None
    if port is not None and entry.control_port not in (None, port):
        raise ClusterError(located(where, "address", entry.address, f"port {entry.control_port}, as control_port says"))
    given = entry.control_port if port is None else port
    control_port = CONTROL_PORT if given is None else given
    if control_port == entry.data_port != 0:
        raise ClusterError(located(where, "data_port", entry.data_port, "another port than the control port"))
    for key, found, plain in (("engine_python", entry.engine_python, None), ("provider", entry.provider, "cpu")):
        if control_port == 0 and found != plain:
            raise ClusterError(
                f"{where}.{key}: found '{found}' beside control_port = 0: a worker process of this machine computes "
                "with the command's own Python, on the CPU; give it a port, and start it with: distredge worker"
            )
    return host, control_port
