"""Which computers a cluster's devices and its requester are on: each is emulated as one board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distredge.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distredge.cluster import Cluster, Link
    from distredge.model.layout import Layout
    from distredge.profiles.compute import ComputeProfile


@dataclass(frozen=True)
class Place:
    """One computer.

    Attributes:
        devices: names of the devices on it; none where only the requester is.
        uplink, downlink: its access to the network: that of its first device, or the requester's.
        requester: whether the requester is on it.
    """

    devices: tuple[str, ...]
    uplink: Link
    downlink: Link
    requester: bool = False


def places(cluster: Cluster) -> tuple[Place, ...]:
    """Returns the computers of a cluster in the order of their first devices, the requester's own, if any, last.

    Raises:
        ClusterError: naming a link whose rate is 0.
    """
    groups: dict[str, list[str]] = {}
    for device in cluster.devices:
        groups.setdefault(f"host {device.host}" if device.host else f"device {device.name}", []).append(device.name)
    asks = cluster.requester
    host = _requester_host(cluster)
    found = []
    for names in groups.values():
        first = cluster.device(names[0])
        with_requester = asks.device in names or (host is not None and first.host == host)
        found.append(Place(tuple(names), first.uplink, first.downlink, with_requester))
    if not any(place.requester for place in found):
        found.append(Place((), asks.uplink, asks.downlink, True))
    for place in found:
        for kind, link in (("uplink", place.uplink), ("downlink", place.downlink)):
            if link.rate_bps == 0:
                who = place.devices[0] if place.devices else asks.name
                raise ClusterError(
                    f"cluster '{cluster.name}': {kind} of '{who}': rate_bps: found 0, accepted: a rate above 0: a "
                    "testbed cannot run over a link that is down"
                )
    return tuple(found)


def together(cluster: Cluster, first: str | None, second: str | None) -> bool:
    """Whether two devices (None: the requester) are on one computer."""
    return any(
        all((place.requester if name is None else name in place.devices) for name in (first, second))
        for place in places(cluster)
    )


def has_spare_core(cluster: Cluster, name: str | None) -> bool:
    """Whether the computer of a device (None: of the requester) has a core that no device's engine uses."""
    host = _requester_host(cluster) if name is None else cluster.device(name).host
    if host is not None:
        return cluster.hosts[host] > sum(d.threads for d in cluster.devices if d.host == host)
    if name is None:
        return True
    device = cluster.device(name)
    cores = device.profile.board.cores
    return cores is None or cores > max(device.threads, device.profile.board.threads)


def requester_profile(cluster: Cluster) -> ComputeProfile | None:
    """Returns the profile by which the requester's messages cost processor time; None: they cost nothing."""
    asks = cluster.requester
    if asks.profile is not None:
        return asks.profile
    return cluster.device(asks.device).profile if asks.device is not None else None


def crowding(cluster: Cluster, layout: Layout) -> dict[tuple[int, int], float]:
    """Returns by what parts are slower whose computer has fewer cores than the threads that compute a stage on it.

    Args:
        cluster: says which devices share a computer.
        layout: whose parts are asked for.

    Returns:
        (stage, device of the layout) -> factor of at least 1, for the parts that are slowed down.
    """
    found: dict[tuple[int, int], float] = {}
    for volume, busy in _busy_by_volume(layout):
        for host, cores in cluster.hosts.items():
            devices = [i for i in busy if cluster.device(layout.devices[i]).host == host]
            threads = sum(cluster.device(layout.devices[i]).threads for i in devices)
            if threads > cores:
                stages = [stage.index for stage in layout.stages if stage.volume == volume]
                found |= {(stage, device): threads / cores for stage in stages for device in devices}
    return found


def _busy_by_volume(layout: Layout) -> Iterator[tuple[int, set[int]]]:
    for volume in dict.fromkeys(stage.volume for stage in layout.stages):
        parts = [part for stage in layout.stages if stage.volume == volume for part in stage.parts]
        yield volume, {part.device for part in parts if not part.empty}


def _requester_host(cluster: Cluster) -> str | None:
    asks = cluster.requester
    if asks.host is not None or asks.device is None:
        return asks.host
    return cluster.device(asks.device).host
