"""The compiled walk must fill the kernel's tables with what `latency.tables` would."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from distredge.cluster import Cluster, load_cluster
from distredge.latency.kernel import Kernel, Unsupported
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.planners.tabulate import fill
from distredge.profiles.compute import ComputeProfile

MODELS = {
    "vgg16": ((1, 3, 64, 48), 0.25),
    "resnet18": ((1, 3, 65, 65), 0.25),
    "inception-v3": ((1, 3, 107, 107), 0.25),
    "mobilenet-v3-small": ((1, 3, 96, 96), 0.5),
    "unet": ((1, 3, 64, 64), 0.25),
    "yolov2": ((1, 3, 96, 96), 0.25),
}


@pytest.fixture(scope="module", params=MODELS)
def graph(request: pytest.FixtureRequest) -> Graph:
    shape, width = MODELS[request.param]
    return zoo.build(request.param, shape, width=width)


@pytest.mark.parametrize("s_per_byte", [0.0, 1e-9])
def test_fills_in_what_the_tables_would_hold(graph: Graph, s_per_byte: float) -> None:
    cluster = _with_edges(load_cluster("db-50", [graph]), s_per_byte)
    filled, plain = Kernel(graph, [cluster]), Kernel(graph, [cluster])
    fill(filled.tables, list(range(len(graph.cuts))))
    rng = np.random.default_rng(1)
    pairs = np.argwhere(filled.tables.index >= 0)
    checked = 0
    for start, end in pairs[rng.permutation(len(pairs))[:25]]:
        try:
            plain.tables.require(int(start) - 1, int(end))
        except Unsupported:
            continue
        cuts, rows = _through(plain, graph, int(start), int(end), rng)
        if cuts is not None:
            found = filled.latency_s(cuts, rows, 1)
            assert found == pytest.approx(plain.latency_s(cuts, rows, 1), rel=1e-12)
            checked += 1
    assert checked > 5


def _through(
    kernel: Kernel, graph: Graph, start: int, end: int, rng: np.random.Generator
) -> tuple[np.ndarray | None, np.ndarray]:
    """Random splits of the strategy that consists of the volume at hand, what is before it and what is after it."""
    last = len(graph.cuts) - 1
    ends = [*([start - 1] if start > 0 else []), end, *([last] if end < last else [])]
    first = -1
    for stop in ends:
        try:
            kernel.tables.require(first, stop)
        except Unsupported:
            return None, np.zeros(0)
        first = stop
    size, devices = 40, 4
    cuts = np.tile(np.array(ends), (size, 1))
    heights = np.array([graph.cuts[i].height for i in ends])
    points = np.sort(rng.random((size, len(ends), devices - 1)), axis=2)
    rows = np.zeros((size, len(ends), devices + 1), np.int32)
    rows[:, :, 1:-1] = np.rint(points * heights[None, :, None])
    rows[:, :, -1] = heights
    return cuts, rows


def test_stops_when_told() -> None:
    graph = zoo.build("vgg16", (1, 3, 64, 48), width=0.25)
    kernel = Kernel(graph, [load_cluster("db-50", [graph])])
    fill(kernel.tables, [2, 5, 17], lambda: bool((kernel.tables.index >= 0).any()))
    assert np.flatnonzero((kernel.tables.index >= 0).any(axis=0)).tolist() == [2]


def _with_edges(cluster: Cluster, s_per_byte: float) -> Cluster:
    """The cluster with profiles that charge what enters and leaves a part."""
    made: dict[int, ComputeProfile] = {}
    for device in cluster.devices:
        data = device.profile.data
        segments = msgspec.structs.replace(data.segments, s_per_byte=s_per_byte)
        made.setdefault(id(device.profile), ComputeProfile(msgspec.structs.replace(data, segments=segments)))
    devices = tuple(dataclasses.replace(d, profile=made[id(d.profile)]) for d in cluster.devices)
    return dataclasses.replace(cluster, devices=devices)
