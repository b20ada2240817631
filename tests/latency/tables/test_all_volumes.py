"""The compiled walk must fill the kernel's tables with what `latency.tables.volume_tables` would."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from distredge.cluster import Cluster, load_cluster
from distredge.latency import simulate
from distredge.latency.kernel.kernel import Kernel
from distredge.latency.tables import all_volumes
from distredge.latency.tables import columns as t
from distredge.latency.tables.all_volumes import fill
from distredge.latency.tables.volume_tables import Tables
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.planners.annealing.encoding import candidate_cuts
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile
from distredge.strategy import Strategy

MODELS = {
    "vgg16": ((1, 3, 64, 48), 0.25),
    "resnet18": ((1, 3, 65, 65), 0.25),
    "inception-v3": ((1, 3, 107, 107), 0.25),
    "mobilenet-v3-small": ((1, 3, 96, 96), 0.5),
    "shufflenet-v2": ((1, 3, 64, 64), 0.5),
    "unet": ((1, 3, 64, 64), 0.25),
    "yolov2": ((1, 3, 96, 96), 0.25),
    "ssd-vgg16": ((1, 3, 300, 300), 0.0625),
    "voxelnet": (None, 0.25),
}
"""Sizes at which a volume takes `latency.tables.volume_tables` some milliseconds. Tensors of different heights: the
last four and shufflenet-v2; partial sums: mobilenet-v3-small; volumes that are summed: ssd-vgg16, voxelnet."""

Floats = NDArray[np.float64]


@pytest.fixture(scope="module", params=MODELS)
def graph(request: pytest.FixtureRequest) -> Graph:
    shape, width = MODELS[request.param]
    return zoo.build(request.param, shape, width=width)


class Phase(NamedTuple):
    """What tables say of one phase of every part of a volume."""

    needs: dict[int, tuple[Any, Any]]
    partials: list[tuple[int, ...]]
    seconds: Floats


@pytest.mark.parametrize("s_per_byte", [0.0, 1e-9])
def test_fills_in_what_the_tables_would_hold(graph: Graph, s_per_byte: float) -> None:
    cuts = candidate_cuts(Problem(graph, load_cluster("db-50", [graph])))
    cluster = boards(graph, s_per_byte)
    profiles = [device.profile for device in cluster.devices]
    filled, plain = Tables(graph, profiles), Tables(graph, profiles)
    fill(filled, cuts)
    pairs = [(start, end) for start in [0, *(cut + 1 for cut in cuts)] for end in cuts if start <= end]
    assert all(filled.index[pair] >= 0 for pair in pairs)
    assert (filled.index >= 0).sum() == len(pairs)
    rng = np.random.default_rng(1)
    for start, end in [pairs[i] for i in rng.permutation(len(pairs))[:40]]:
        plain.require(start - 1, end)
        made = [plain.numbers[n] for n in plain.geometry.volume(start - 1, end).made_in if n in plain.numbers]
        one, other = reading(filled, start, end), reading(plain, start, end)
        assert len(one[0]) == len(other[0])
        np.testing.assert_array_equal(one[1][made], other[1][made])
        assert one[2:] == other[2:]
        for found, wanted in zip(one[0], other[0], strict=True):
            assert found.partials == wanted.partials
            assert found.needs.keys() == wanted.needs.keys()
            for tensor, rows in found.needs.items():
                np.testing.assert_array_equal(rows, wanted.needs[tensor])
            # To the last digit: what a search finds may not depend on who tabulated a volume.
            np.testing.assert_array_equal(found.seconds, wanted.seconds)


def boards(graph: Graph, s_per_byte: float) -> Cluster:
    """The four devices of a case, all different."""
    cluster, devices = load_cluster("db-50", [graph]), []
    for k, device in enumerate(cluster.devices):
        data = device.profile.data
        segments = msgspec.structs.replace(
            data.segments, factor=1.0 + 0.1 * k, overhead_s=1e-3 * (k + 1), s_per_byte=s_per_byte * k
        )
        profile = ComputeProfile(msgspec.structs.replace(data, segments=segments))
        devices.append(dataclasses.replace(device, profile=profile))
    return dataclasses.replace(cluster, devices=tuple(devices))


def reading(tables: Tables, start: int, end: int) -> tuple[list[Phase], Any, int, int, bool]:
    """What the tables of a volume say of every part: phases, where tensors are made, height, reductions, kind."""
    needs, partials, _, phases, sums = (made.data if made else np.empty(0) for made in tables.lists())
    ints, volume = tables.ints.data.astype(np.int64), tables._volumes.data[tables.index[start, end]]
    height, band = volume[t.HEIGHT], volume[t.BAND]
    a, b = np.triu_indices(height + 1, 1)
    short = b - a < band
    cell = np.where(short, a * band + b - a, 0)
    found = []
    for row in phases[volume[t.PHASES] : volume[t.PHASES] + volume[t.N_PHASES]]:
        needed = {}
        for tensor, lo, hi, short_lo, short_hi in needs[row[t.NEEDS] : row[t.NEEDS] + row[t.N_NEEDS]].tolist():
            first = np.where(short, ints[short_lo + cell], ints[lo + a])
            stop = np.where(short, ints[short_hi + cell], ints[hi + b])
            needed[tensor] = np.where(first < stop, first, 0), np.where(first < stop, stop, 0)
        read = sorted(map(tuple, partials[row[t.PARTIALS] : row[t.PARTIALS] + row[t.N_PARTIALS]].tolist()))
        found.append(Phase(needed, read, seconds_of(tables, ints, volume, row, sums, (a, b, short, cell))))
    made = ints[volume[t.MADE_IN] : volume[t.MADE_IN] + len(tables.numbers)]
    return found, made, int(height), int(volume[t.REDUCES]), bool(volume[t.START_CLASS] >= 0)


def seconds_of(tables: Tables, ints: Any, volume: Any, row: Any, sums: Any, parts: tuple[Any, ...]) -> Floats:
    """Seconds of every part on every profile, as the kernel adds them up."""
    a, b, short, cell = parts
    seconds, found = tables.seconds.data, []
    for profile in range(len(tables.costs)):
        at = row[t.SECONDS] + row[t.STRIDE] * profile
        if volume[t.START_CLASS] >= 0:
            found.append(seconds[at + ints[volume[t.START_CLASS] + a] + ints[volume[t.STOP_CLASS] + b]])
            continue
        total = np.full(len(a), seconds[at + (volume[t.HEIGHT] + 1) * volume[t.BAND]])
        for first, last, place, stride in sums[row[t.SUMS] : row[t.SUMS] + row[t.N_SUMS]].tolist():
            total += seconds[place + stride * profile + np.where(short, 0, ints[last + b] - ints[first + a])]
        found.append(np.where(short, seconds[at + cell], total))
    return np.array(found)


@pytest.mark.parametrize("name", ["unet", "ssd-vgg16", "mobilenet-v3-small", "yolov2"])
def test_agrees_with_the_simulator(name: str) -> None:
    shape, width = MODELS[name]
    graph = zoo.build(name, shape, width=width)
    problem = Problem(graph, boards(graph, 1e-9))
    kernel, cuts = Kernel(graph, [problem.cluster]), candidate_cuts(problem)
    fill(kernel.tables, cuts)
    strategies = list(drawn(problem, cuts, 12))
    filled = (kernel.tables.index >= 0).sum()
    found = kernel.latency_s(**kernel.encode(strategies))
    assert (kernel.tables.index >= 0).sum() == filled
    np.testing.assert_allclose(found, [simulate(problem, s).latency_s for s in strategies], rtol=1e-9)


def drawn(problem: Problem, cuts: list[int], count: int) -> list[Strategy]:
    """Random strategies; cut points now and then so close that parts are empty inside."""
    rng, names, graph = np.random.default_rng(3), problem.cluster.names, problem.graph
    found = []
    for _ in range(count):
        chosen = sorted({*rng.choice(cuts, 3).tolist(), cuts[-1]})
        decisions = []
        for cut in chosen:
            height = graph.cuts[cut].height
            middle = rng.integers(0, height + 1)
            points = np.clip(middle + rng.integers(-3, 4, 3), 0, height) if rng.random() < 0.5 else None
            inner = rng.integers(0, height + 1, 3) if points is None else points
            decisions.append((cut, (0, *sorted(inner.tolist()), height)))
        found.append(Strategy.make(graph, names, decisions, head=names[0], method="random", seed=0, settings={}))
    return found


@pytest.mark.parametrize("walked", [False, True])
def test_a_device_whose_part_is_empty_inside_is_not_kept_busy(walked: bool) -> None:
    graph = zoo.build("unet", (1, 3, 64, 64), width=0.25)
    lowest = next(cut.index for cut in graph.cuts if len(cut.tensors) == 5)
    kernel, cuts = Kernel(graph, [boards(graph, 0.0)]), [lowest - 1, lowest]
    if walked:
        fill(kernel.tables, cuts)
    # Rows 1 and 2 of 64 own nothing of the map of 4 rows that the second volume makes.
    finish_s, _ = kernel.finish_s([cuts], [[[0, 64, 64, 64, 64], [0, 1, 2, 64, 64]]])
    assert finish_s[0, 1] == 0.0


def test_what_is_empty_inside_too_often_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = zoo.build("unet", (1, 3, 64, 64), width=0.25)
    monkeypatch.setattr(all_volumes, "MOST_SHORT", 65 * 4)
    tables = Kernel(graph, [load_cluster("db-50", [graph])]).tables
    fill(tables, list(range(len(graph.cuts))))
    bands = {int(tables._volumes.data[v][t.BAND]) for v in tables.index[tables.index >= 0]}
    assert bands == {1, 2, 4}


def test_stops_when_told() -> None:
    graph = zoo.build("vgg16", (1, 3, 64, 48), width=0.25)
    kernel = Kernel(graph, [load_cluster("db-50", [graph])])
    fill(kernel.tables, [2, 5, 17], lambda: bool((kernel.tables.index >= 0).any()))
    assert np.flatnonzero((kernel.tables.index >= 0).any(axis=0)).tolist() == [2]
    before = kernel.tables.index.copy()
    fill(kernel.tables, [2, 5, 17])
    assert (kernel.tables.index[before >= 0] == before[before >= 0]).all()
    assert (kernel.tables.index[:, 17] >= 0).sum() == 3
