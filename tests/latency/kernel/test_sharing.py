"""Kernels of one graph on boards of the same profiles share their tables."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pytest

from distredge.cluster import Cluster, load_cluster
from distredge.latency.kernel.kernel import Kernel, kernel_of
from distredge.latency.tables.all_volumes import fill
from distredge.latency.tables.volume_tables import KEPT_TABLES, Tables, tables_of
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.wires import WIRE_NUMBERS
from distredge.model.zero_shares import assume_zero_shares
from distredge.planners.annealing.encoding import candidate_cuts
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile


def build() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.25)


@pytest.fixture
def graph() -> Graph:
    return build()


def rated(cluster: Cluster, factor: float) -> Cluster:
    """The same boards at other rates, in the opposite order."""
    devices = []
    for device in reversed(cluster.devices):
        link = dataclasses.replace(device.uplink, rate_bps=(device.uplink.rate_bps or 1e8) * factor)
        devices.append(dataclasses.replace(device, uplink=link, downlink=link))
    return dataclasses.replace(cluster, devices=tuple(devices))


def slower(cluster: Cluster, factor: float) -> Cluster:
    """The same cluster, the first board slower."""
    first = cluster.devices[0]
    data = first.profile.data
    segments = msgspec.structs.replace(data.segments, factor=data.segments.factor * factor)
    profile = ComputeProfile(msgspec.structs.replace(data, segments=segments))
    return dataclasses.replace(cluster, devices=(dataclasses.replace(first, profile=profile), *cluster.devices[1:]))


def drawn(graph: Graph, devices: int, count: int = 50) -> dict[str, Any]:
    """Random strategies of two volumes."""
    rng = np.random.default_rng(5)
    last = len(graph.cuts) - 1
    cuts = np.stack([rng.integers(0, last, count), np.full(count, last)], axis=1)
    rows = np.zeros((count, 2, devices + 1), np.int32)
    for k in range(count):
        for w in range(2):
            height = graph.cuts[cuts[k, w]].height
            rows[k, w] = [0, *np.sort(rng.integers(0, height + 1, devices - 1)), height]
    return {"cuts": cuts, "rows": rows, "head": rng.integers(0, devices, count)}


@pytest.mark.parametrize("link_model", ["independent", "shared"])
def test_a_changed_rate_costs_no_table_and_is_priced_as_a_fresh_kernel_does(graph: Graph, link_model: Any) -> None:
    first = dataclasses.replace(load_cluster("db-50"), link_model=link_model)
    # Read anew: equal profiles need not be one object.
    second = rated(dataclasses.replace(load_cluster("db-50"), link_model=link_model), 0.5)
    one, other = kernel_of(Problem(graph, first)), kernel_of(Problem(graph, second))
    assert one.tables is other.tables
    arrays = drawn(graph, len(first.devices))
    before_s = one.latency_s(**arrays)
    filled = (one.tables.index >= 0).sum()
    found_s = other.latency_s(**arrays)
    assert (one.tables.index >= 0).sum() == filled
    np.testing.assert_array_equal(found_s, Kernel(build(), [second]).latency_s(**arrays))
    np.testing.assert_array_equal(one.latency_s(**arrays), before_s)
    assert (found_s > before_s).mean() > 0.5


def test_a_part_of_the_boards_or_other_ones_do_not_share(graph: Graph) -> None:
    cluster = load_cluster("db-50")
    kinds = {device.profile for device in cluster.devices}
    fewer = dataclasses.replace(
        cluster, devices=tuple(d for d in cluster.devices if d.profile == cluster.devices[0].profile)
    )
    assert len(kinds) > 1
    tables = [Kernel(graph, [c]).tables for c in (cluster, fewer, slower(cluster, 1.5))]
    assert len(set(map(id, tables))) == 3
    assert Kernel(build(), [cluster]).tables is not tables[0]


def test_tables_of_few_sets_of_profiles_are_kept(graph: Graph) -> None:
    clusters = [slower(load_cluster("db-50"), 1.0 + k) for k in range(KEPT_TABLES + 1)]
    profiles = [[device.profile for device in cluster.devices] for cluster in clusters]
    found = [tables_of(graph, some) for some in profiles]
    assert [tables_of(graph, some) is made for some, made in zip(profiles[1:], found[1:], strict=True)] == [
        True
    ] * KEPT_TABLES
    assert tables_of(graph, profiles[0]) is not found[0]


def test_several_threads_tabulate_at_once(graph: Graph) -> None:
    cluster = load_cluster("db-50")
    cuts = candidate_cuts(Problem(graph, cluster))
    tables = Kernel(graph, [cluster]).tables
    pairs = [(a, b) for a in (-1, *cuts) for b in cuts if a < b]

    def one(k: int) -> None:
        if k % 4 == 0:
            fill(tables, cuts)
        else:
            tables.require(*pairs[k * 7 % len(pairs)])
        tables.model()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(60)))
    alone = Tables(graph, [device.profile for device in cluster.devices])
    fill(alone, cuts)
    assert ((tables.index >= 0) == (alone.index >= 0)).all()
    assert len(set(tables.index[tables.index >= 0].tolist())) == len(pairs)
    arrays = drawn(graph, len(cluster.devices))
    np.testing.assert_array_equal(
        Kernel(graph, [cluster]).latency_s(**arrays), Kernel(build(), [cluster]).latency_s(**arrays)
    )


def test_other_shares_of_zeros_are_priced(graph: Graph) -> None:
    cluster = dataclasses.replace(load_cluster("db-50"), link_model="shared")
    kernel = Kernel(graph, [cluster])
    arrays = drawn(graph, len(cluster.devices))
    packed = WIRE_NUMBERS["float32-packed"]
    found = []
    for share in (0.0, 0.9, 0.0):
        assume_zero_shares(graph, dict.fromkeys(graph.tensors, share))
        found.append(kernel.latency_s(**arrays, wire=packed))
    assert (found[1] < found[0]).any()
    np.testing.assert_array_equal(found[0], found[2])
