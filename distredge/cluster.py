"""Clusters: who asks, who computes, and what connects them (file format `distredge.cluster/1`, TOML).

A file::

    format = "distredge.cluster/1"
    name = "two-boards"
    link_model = "shared"               # where missing; or "independent": the papers' assumption

    [requester]
    link = { rate_bps = "unbounded" }   # without it: its device's link, else the largest rate of the devices

    [[device]]
    name = "nano-0"
    profile = "default:nano"            # shipped, or a path relative to this file
    address = "192.168.1.11"
    link = { rate_bps = 50e6, fixed_s = 0.0006, rtt_s = 0.002 }

    [[host]]                            # only for several workers on one computer, or a requester beside them:
    name = "board-1"                    # each of them says host = "board-1"
    cores = 4                           # which they share; "all": of the computer that reads this

`link` stands for both directions; `uplink` and `downlink` give them apart. A link has a constant `rate_bps`, or a
`trace` (the name of a shipped one, or a path with `trace_format` "csv", "mahimahi", "pensieve" or "iperf3"), scaled to
`rate_bps` when that is given too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from distredge.cluster_file import (
    CONTROL_PORT,
    DATA_PORT,
    ClusterFile,
    DeviceFile,
    HostFile,
    LinkFile,
    RequesterFile,
    place,
    read_cluster_file,
)
from distredge.cluster_file import LinkModel as LinkModel
from distredge.cluster_file import shipped_clusters as shipped_clusters
from distredge.errors import ClusterError, did_you_mean, located
from distredge.model.graph import Graph
from distredge.processors import usable_cores
from distredge.profiles.compute import THIS_MACHINE, ComputeProfile, load_profile, load_shipped, user_profile_path
from distredge.profiles.network import Trace, load_trace, usable
from distredge.profiles.traces.formats import read_trace


@dataclass(frozen=True)
class Link:
    """One direction of a device's access to the network.

    Attributes:
        rate_bps: bits per second; None unbounded; 0 is a link that is down; the mean when there is a trace.
        trace: rate over time; None constant.
        fixed_s: cost of one message at this end.
        rtt_s: round trip over this link.
    """

    rate_bps: float | None = None
    trace: Trace | None = None
    fixed_s: float = 0.0
    rtt_s: float = 0.0

    def __post_init__(self) -> None:
        for key, value in (("rate_bps", self.rate_bps), ("fixed_s", self.fixed_s), ("rtt_s", self.rtt_s)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ClusterError(located("link", key, value, "a finite number >= 0"))
        if self.trace is not None:
            if self.rate_bps is None:
                object.__setattr__(self, "rate_bps", self.trace.mean_bps)
            elif not math.isclose(self.rate_bps, self.trace.mean_bps, rel_tol=1e-6):
                raise ClusterError(
                    located("link", "rate_bps", self.rate_bps, f"its trace's mean {self.trace.mean_bps}")
                )


UNBOUNDED = Link()
"""A link that costs nothing: what the published experiments assume of the requester."""


@dataclass(frozen=True)
class Device:
    """A provider: computes rows.

    Attributes:
        name: unique in its cluster.
        profile: what it computes how fast.
        uplink, downlink: its access to the network, sending and receiving.
        address: host name or IP address of its worker, without brackets and port.
        control_port, data_port: TCP ports of its worker; 0 lets the system choose.
        public_key: CURVE public key, Z85, 40 characters; None before keys are made.
        threads: threads of its engine.
        memory_bytes: memory that its worker may use; None takes the profile's.
        host: the computer that it is on, one of the cluster's `hosts`; None: one of its own.
    """

    name: str
    profile: ComputeProfile
    uplink: Link = UNBOUNDED
    downlink: Link = UNBOUNDED
    address: str = "127.0.0.1"
    control_port: int = CONTROL_PORT
    data_port: int = DATA_PORT
    public_key: str | None = None
    threads: int = 1
    memory_bytes: int | None = None
    host: str | None = None

    def __post_init__(self) -> None:
        if not self.name or self.name == "requester" or "/" in self.name:
            raise ClusterError(located("device", "name", self.name, "a name other than 'requester', without '/'"))
        if self.threads < 1:
            raise ClusterError(located(f"device '{self.name}'", "threads", self.threads, "at least 1"))
        if self.memory_bytes is None:
            object.__setattr__(self, "memory_bytes", self.profile.memory_bytes)


@dataclass(frozen=True)
class Requester:
    """Has the input and wants the result.

    Attributes:
        name: for reports.
        uplink, downlink: its access to the network.
        device: name of the device that is the same board (what it exchanges with itself costs nothing); None.
        profile: what messages cost its processor; None: its device's, else nothing.
        host: the computer that it is on, one of the cluster's `hosts`; None: its device's, else one of its own.
    """

    name: str = "requester"
    uplink: Link = UNBOUNDED
    downlink: Link = UNBOUNDED
    device: str | None = None
    profile: ComputeProfile | None = None
    host: str | None = None


@dataclass(frozen=True)
class Cluster:
    """A requester, devices and their links.

    Attributes:
        name: for reports.
        requester: who asks.
        devices: at least one, names unique.
        link_model: "shared": what crosses an access link at the same time shares it, max-min fair; "independent":
            every pair gets the smaller of the two rates, as the published experiments assume.
        shared_medium: whether all links share one medium (Wi-Fi airtime).
        encrypted: whether encryption's cost per byte is counted.
        description, source: for people.
        hosts: computers that several devices, or a device and the requester, are on: name -> processor cores, which
            they share.
    """

    name: str
    requester: Requester
    devices: tuple[Device, ...]
    link_model: LinkModel = "shared"
    shared_medium: bool = False
    encrypted: bool = False
    description: str = ""
    source: str = ""
    hosts: Mapping[str, int] = field(default_factory=dict)
    _index: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.devices:
            raise ClusterError(located(f"cluster '{self.name}'", "device", "none", "at least one"))
        for index, device in enumerate(self.devices):
            if device.name in self._index:
                raise ClusterError(f"cluster '{self.name}': device[{index}].name: '{device.name}' stands twice")
            self._index[device.name] = index
        if self.requester.device is not None and self.requester.device not in self._index:
            hint = did_you_mean(self.requester.device, self.names)
            raise ClusterError(f"cluster '{self.name}': requester.device: no device '{self.requester.device}'{hint}")
        for where, host in self._named_hosts():
            if host not in self.hosts:
                hint = did_you_mean(host, self.hosts)
                raise ClusterError(f"cluster '{self.name}': {where}.host: no host '{host}'{hint}")
        for host, cores in self.hosts.items():
            if cores < 1:
                raise ClusterError(located(f"cluster '{self.name}': host '{host}'", "cores", cores, "at least 1"))
        if self.link_model not in ("independent", "shared"):
            raise ClusterError(located(self.name, "link_model", self.link_model, "'independent' or 'shared'"))

    def _named_hosts(self) -> Iterator[tuple[str, str]]:
        if self.requester.host is not None:
            yield "requester", self.requester.host
        for index, device in enumerate(self.devices):
            if device.host is not None:
                yield f"device[{index}]", device.host

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the devices in their order."""
        return tuple(device.name for device in self.devices)

    def device(self, name: str) -> Device:
        """Returns a device by name.

        Raises:
            ClusterError: if there is none of that name.
        """
        if name not in self._index:
            raise ClusterError(f"cluster '{self.name}' has no device '{name}'{did_you_mean(name, self.names)}")
        return self.devices[self._index[name]]

    def check_covers(self, models: Iterable[Graph]) -> None:
        """Raises ProfileError, naming the operator, when a device's profile lacks one of these models' operators."""
        for graph in models:
            for signature in graph.signatures:
                if signature is not None:
                    for profile in dict.fromkeys(device.profile for device in self.devices):
                        profile.operator_s(signature, 1)


def load_cluster(name_or_path: str | Path, models: Iterable[Graph] = (), profile_set: str | None = None) -> Cluster:
    """Returns a cluster by the name of a shipped case or by the path of a TOML file.

    Args:
        name_or_path: for example "db-50", "this-machine", "boards.toml".
        models: graphs that the devices' profiles must cover. On "this-machine" a modelled profile takes the place of
            a measured one that lacks some of their operators; elsewhere that is an error.
        profile_set: "default" or "distredge-paper", instead of the set that the file names; None leaves it.

    Raises:
        ClusterError, ProfileError, TraceError: naming file and field.
    """
    file, where, folder = read_cluster_file(name_or_path)
    return _build(file, where, folder, tuple(models), profile_set)


def covering(cluster: Cluster, graph: Graph) -> Cluster:
    """Returns the cluster with the modelled profile of this machine where the measured one lacks the graph's operators.

    Args:
        cluster: any cluster.
        graph: the model that it is to run.
    """
    own = str(user_profile_path())
    signatures = [s for s in graph.signatures if s is not None]
    lacking = {
        device.name
        for device in cluster.devices
        if device.profile.where == own and not all(map(device.profile.covers, signatures))
    }
    if not lacking:
        return cluster
    modelled = load_shipped(f"default:{THIS_MACHINE}")
    devices = tuple(replace(d, profile=modelled) if d.name in lacking else d for d in cluster.devices)
    return replace(cluster, devices=devices)


def _build(file: ClusterFile, where: str, folder: Path, models: tuple[Graph, ...], profile_set: str | None) -> Cluster:
    profiles: dict[str, ComputeProfile] = {}
    devices = []
    for index, entry in enumerate(file.device):
        if entry.profile not in profiles:
            profiles[entry.profile] = _profile(entry.profile, folder, profile_set)
        up, down = _links(entry, f"{where}: device[{index}]", folder, None)
        address, control_port = place(entry, f"{where}: device[{index}]")
        devices.append(
            Device(
                profile=profiles[entry.profile],
                uplink=up,
                downlink=down,
                address=address,
                control_port=control_port,
                **_as_it_stands(
                    entry,
                    "profile",
                    "link",
                    "uplink",
                    "downlink",
                    "address",
                    "control_port",
                    "ssh",
                    "engine_python",
                    "provider",
                    "dynamic_rows",
                ),
            )
        )
    own = next((d for d in devices if d.name == file.requester.device), None)
    largest = (own.uplink, own.downlink) if own else _largest(devices)
    up, down = _links(file.requester, f"{where}: requester", folder, largest)
    asks = file.requester
    profile = None if asks.profile is None else _profile(asks.profile, folder, profile_set)
    cluster = Cluster(
        requester=Requester(asks.name, up, down, asks.device, profile, asks.host),
        devices=tuple(devices),
        hosts=_hosts(file.host, where),
        **_as_it_stands(file, "format", "requester", "device", "host"),
    )
    for graph in models:
        cluster = covering(cluster, graph)
    cluster.check_covers(models)
    return cluster


def _hosts(entries: tuple[HostFile, ...], where: str) -> dict[str, int]:
    """Computers by name; "all" cores are those that this process may use: for a cluster on this computer alone."""
    hosts: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if entry.name in hosts:
            raise ClusterError(f"{where}: host[{index}].name: '{entry.name}' stands twice")
        hosts[entry.name] = usable_cores() if entry.cores == "all" else entry.cores
    return hosts


def _as_it_stands(entry: Struct, *otherwise: str) -> dict[str, Any]:
    """What an object takes over from its entry in the file: every field but those that mean something else there."""
    return {key: value for key, value in msgspec.structs.asdict(entry).items() if key not in otherwise}


def _profile(name: str, folder: Path, profile_set: str | None) -> ComputeProfile:
    if name.endswith(".json"):
        return load_profile(folder / name)
    if profile_set and name != THIS_MACHINE:
        return load_profile(f"{profile_set}:{name.rpartition(':')[2]}")
    return load_profile(name)


def _largest(devices: Iterable[Device]) -> tuple[Link, Link]:
    links = [link for device in devices for link in (device.uplink, device.downlink)]
    best = max(links, key=lambda link: math.inf if link.rate_bps is None else link.rate_bps)
    constant = Link(best.rate_bps, None, best.fixed_s, best.rtt_s)
    return constant, constant


def _links(
    entry: DeviceFile | RequesterFile, where: str, folder: Path, default: tuple[Link, Link] | None
) -> tuple[Link, Link]:
    if entry.link is not None and (entry.uplink is not None or entry.downlink is not None):
        raise ClusterError(f"{where}: found 'link' beside 'uplink' or 'downlink', accepted: one or the other")
    pair = []
    for index, key in enumerate(("uplink", "downlink")):
        given: LinkFile | None = entry.link if entry.link is not None else getattr(entry, key)
        if given is not None:
            pair.append(_link(given, f"{where}.{'link' if entry.link is not None else key}", folder))
        elif default is not None:
            pair.append(default[index])
        else:
            raise ClusterError(f"{where}: found neither 'link' nor '{key}', accepted: one of them")
    return pair[0], pair[1]


def _link(entry: LinkFile, where: str, folder: Path) -> Link:
    rate = None if entry.rate_bps == "unbounded" else entry.rate_bps
    if entry.trace is not None:
        is_file = entry.trace_format is not None or entry.trace.endswith(".csv") or "/" in entry.trace
        path = folder / entry.trace
        trace = read_trace(path, entry.trace_format or "csv") if is_file else load_trace(entry.trace)
        if entry.rate_bps == "unbounded":
            raise ClusterError(located(where, "rate_bps", "unbounded", "a mean rate, because there is a trace"))
        trace = trace.scaled(rate) if isinstance(rate, float | int) else trace
        return Link(trace.mean_bps, usable(trace, where), entry.fixed_s, entry.rtt_s)
    if entry.rate_bps is None:
        raise ClusterError(f"{where}: found neither 'rate_bps' nor 'trace', accepted: one of them")
    return Link(None if rate is None else float(rate), None, entry.fixed_s, entry.rtt_s)
