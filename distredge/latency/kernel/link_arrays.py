"""The links of clusters as arrays, for the compiled kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distredge.errors import Unsupported
from distredge.latency.costs.computers import access_of
from distredge.latency.costs.links import ClusterLinks
from distredge.latency.kernel.arguments import E_COLUMNS, INSIDE, VARIES, LinkArrays

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Link


def links_of(clusters: Sequence[Cluster], column: dict[int, int]) -> LinkArrays:
    """Returns the links of clusters.

    Args:
        clusters: one or more.
        column: column of the tables by the identity of a profile.

    Raises:
        Unsupported: if one medium carries everything under independent links.
    """
    # The requester is number n, whatever the number of a cluster's devices.
    n = max(len(cluster.devices) for cluster in clusters)
    count = len(clusters)
    pair = np.zeros((count, n + 1, n + 1, 5))
    handling = np.zeros((count, n + 1, E_COLUMNS))
    computer = np.zeros((count, n + 1), dtype=np.int64)
    threads, cores = np.ones((count, n)), np.full((count, n), np.inf)
    profile_of = np.zeros((count, n), dtype=np.int64)
    rates = np.zeros((count, n + 1, 2))
    traces = np.full((count, n + 1, 2), -1, dtype=np.int64)
    numbers: dict[int, int] = {}
    stored: list[Any] = []

    def number(link: Link) -> int:
        if link.trace is None:
            return -1
        if id(link.trace) not in numbers:
            numbers[id(link.trace)] = len(stored)
            stored.append(link.trace)
        return numbers[id(link.trace)]

    for c, cluster in enumerate(clusters):
        if cluster.shared_medium and cluster.link_model == "independent":
            raise Unsupported(f"cluster '{cluster.name}': one medium for all under independent links")
        places = [*range(len(cluster.devices)), n]
        ends = [*(access_of(cluster, device) for device in cluster.devices), access_of(cluster, cluster.requester)]
        profile_of[c, : len(cluster.devices)] = [column[id(d.profile)] for d in cluster.devices]
        for place, end in zip(places, ends, strict=True):
            for side, link in enumerate((end.uplink, end.downlink)):
                rates[c, place, side] = math.inf if link.rate_bps is None else link.rate_bps
                traces[c, place, side] = number(link)
        network = ClusterLinks.of(cluster, cluster.names)
        computer[c, places] = network.computer
        if network.shared:
            threads[c, : len(cluster.devices)] = [d.threads for d in cluster.devices]
            cores[c, : len(cluster.devices)] = [cluster.hosts.get(d.host or "", math.inf) for d in cluster.devices]
        for i in places:
            a = i if i < n else -1
            send, receive = network.sends[a], network.receives[a]
            handling[c, i] = [
                seconds
                for end in (send, receive)
                for seconds in (end.busy_fixed_s, end.busy_s_per_byte, end.busy_s_per_packed_byte)
            ]
            for j in places:
                b = j if j < n else -1
                if i == j or network.is_free(a, b):
                    continue
                varies = traces[c, i, 0] >= 0 or traces[c, j, 1] >= 0
                rate = min(rates[c, i, 0], rates[c, j, 1])
                over = VARIES if varies else (math.inf if rate == 0 else 8.0 / rate)
                pair[c, i, j] = (
                    network.sends[a].way_fixed_s + network.fixed_s(a, b),
                    network.sends[a].way_s_per_byte,
                    over if network.crosses(a, b) else INSIDE,
                    network.receives[b].way_fixed_s,
                    network.receives[b].way_s_per_byte,
                )
    shared = np.array([cluster.link_model == "shared" for cluster in clusters])
    lengths = [len(trace) for trace in stored]
    return LinkArrays(
        pair=pair.ravel(),
        profile_of=profile_of,
        access=rates.ravel(),
        trace=traces.ravel(),
        times=np.concatenate([t.times_s for t in stored]) if stored else np.zeros(1),
        rates=np.concatenate([t.rates_bps for t in stored]) if stored else np.zeros(1),
        trace_at=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        period=np.array([t.period_s for t in stored] or [1.0]),
        handling=handling.ravel(),
        board=np.array([_board(cluster) for cluster in clusters], dtype=np.int64),
        computer=computer,
        threads=threads,
        cores=cores,
        hosted=np.array([_hosted(cluster) for cluster in clusters]),
        medium=np.array([cluster.shared_medium for cluster in clusters]),
        shared=shared,
        hard=shared | (traces >= 0).any(axis=(1, 2)),
    )


def _board(cluster: Cluster) -> int:
    return -1 if cluster.requester.device is None else cluster.names.index(cluster.requester.device)


def _hosted(cluster: Cluster) -> bool:
    """Whether who is on one computer is not said by the requester's board alone."""
    return cluster.link_model == "shared" and bool(cluster.hosts)
