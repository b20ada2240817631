"""Which computers a cluster's devices and its requester are on: each is emulated as one board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distredge.errors import ClusterError

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Link
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


def requester_profile(cluster: Cluster) -> ComputeProfile | None:
    """Returns the profile by which the requester's messages cost processor time; None: they cost nothing."""
    asks = cluster.requester
    if asks.profile is not None:
        return asks.profile
    return cluster.device(asks.device).profile if asks.device is not None else None


def _requester_host(cluster: Cluster) -> str | None:
    asks = cluster.requester
    if asks.host is not None or asks.device is None:
        return asks.host
    return cluster.device(asks.device).host
