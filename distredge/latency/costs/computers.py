"""Which devices share a computer, and what that does under `shared` links: one access link, cores that are shared.

Devices that name the same `host` are one computer, and the requester with them if it names it or is on the board of one
of them. Under `independent` every device is a computer of its own, whatever it names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Device, Link, Requester
    from distredge.model.layout import Layout
    from distredge.problem import Problem


def computer_of(cluster: Cluster, member: Device | Requester) -> tuple[str, str]:
    """Returns what is equal for members of one computer: of a cluster's device, or of its requester."""
    if member is cluster.requester and cluster.requester.device is not None:
        # What is on a device's board is on that device's computer, whatever it names.
        return computer_of(cluster, cluster.device(cluster.requester.device))
    if cluster.link_model == "shared" and member.host is not None:
        return "host", member.host
    return ("requester" if member is cluster.requester else "device"), member.name


def access_of(cluster: Cluster, member: Device | Requester) -> Device | Requester:
    """Returns whose access link a device or the requester uses: that of its computer's first device."""
    computer = computer_of(cluster, member)
    if computer[0] == "device":
        return cluster.device(computer[1])
    return next((d for d in cluster.devices if computer_of(cluster, d) == computer), member)


def has_spare_core(cluster: Cluster, member: Device | Requester) -> bool:
    """Whether its computer has more cores than its devices have threads, so that a message's I/O disturbs nobody.

    A computer that does not say how many cores it has is one with a spare core.
    """
    kind, name = computer_of(cluster, member)
    if kind == "host":
        return cluster.hosts[name] > sum(d.threads for d in cluster.devices if d.host == name)
    if kind == "requester":
        return True
    device = cluster.device(name)
    cores = device.profile.board.cores
    return cores is None or cores > device.threads


def crowding(problem: Problem, layout: Layout) -> dict[tuple[int, int], float]:
    """Returns how many times longer parts take because others on their host's cores compute in the same stage.

    By (stage, device), only parts for which it is more than 1: the threads of the host's devices that have something to
    do in that stage, over its cores.
    """
    cluster = problem.cluster
    if cluster.link_model != "shared" or not cluster.hosts:
        return {}
    devices = [cluster.device(name) for name in layout.devices]
    found: dict[tuple[int, int], float] = {}
    for stage in layout.stages:
        threads: Counter[str] = Counter()
        working = [part.device for part in stage.parts if not part.empty]
        for k in working:
            threads[devices[k].host or ""] += devices[k].threads
        for k in working:
            host = devices[k].host
            if host is not None and threads[host] > cluster.hosts[host]:
                found[stage.index, k] = threads[host] / cluster.hosts[host]
    return found


def interchangeable(cluster: Cluster) -> tuple[int, ...]:
    """Returns for each device the place of the first one that could stand for it: equal but for the name."""
    return first_of_each([_kind(cluster, device) for device in cluster.devices])


def _kind(cluster: Cluster, device: Device) -> object:
    home = device.name == cluster.requester.device
    # Those of one host change places with each other alone; fewer threads may leave a core to spare.
    place = (device.threads, device.host) if cluster.link_model == "shared" else None
    return id(device.profile), _way(device.uplink), _way(device.downlink), device.memory_bytes, home, place


def _way(link: Link) -> object:
    return link.rate_bps, id(link.trace), link.fixed_s, link.rtt_s


def first_of_each(keys: Sequence[object]) -> tuple[int, ...]:
    """Returns for each key the place of the first one that is equal."""
    places: dict[object, int] = {}
    return tuple(places.setdefault(key, place) for place, key in enumerate(keys))
