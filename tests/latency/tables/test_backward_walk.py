"""The backward walk for one part, for many parts at once and compiled find the same rows."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.latency.tables import columns as t
from distredge.latency.tables.all_volumes import fill
from distredge.latency.tables.volume_geometry import PartRows, RowSpans, rising_needs
from distredge.latency.tables.volume_tables import Tables
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.rows import Region
from distredge.model.volumes import BackwardWalk, PhasePart, Share, VolumeShare, volume_between, volume_share
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.schema import Board, Measured, Origin, ProfileFile, Runtime

MODELS = {
    "vgg16": (1, 3, 75, 67),
    "resnet18": (1, 3, 97, 65),
    "mobilenet-v3-small": (1, 3, 97, 97),
    "shufflenet-v2": (1, 3, 99, 99),
    "inception-v3": (1, 3, 107, 107),
    "unet": (1, 3, 80, 48),
    "yolov2": (1, 3, 96, 96),
    "ssd-vgg16": (1, 3, 300, 300),
}
"""Odd sizes where the model allows them. Partial sums: mobilenet-v3-small; tensors of different heights: the last
four."""


@functools.cache
def _graph(name: str) -> Graph:
    return zoo.build(name, MODELS[name], width=0.0625 if name == "ssd-vgg16" else 0.25)


@functools.cache
def _tables(name: str) -> Tables:
    """Filled by the compiled walk; the seconds of a part are a sum of its operators' rows with weights of their own."""
    graph, rng = _graph(name), np.random.default_rng(7)
    operators = {}
    for signature in graph.signatures:
        if signature is not None and signature.key not in operators:
            weight = float(rng.uniform(1.0, 2.0))
            times = weight, 2.0 * weight
            operators[signature.key] = Measured(
                rows=(1, 2), median_s=times, p95_s=times, spread=(0.0, 0.0), repeats=(1, 1)
            )
    profile = ComputeProfile(
        ProfileFile(
            name="weights",
            device=Board(name="weights"),
            runtime=Runtime(name="onnxruntime"),
            origin=Origin(kind="measured", date="2026-11-28"),
            operators=operators,
        )
    )
    tables = Tables(graph, [profile])
    fill(tables, list(range(len(graph.cuts))))
    return tables


@st.composite
def _volumes(draw: st.DrawFn) -> tuple[str, int, int, list[tuple[int, int]]]:
    """A model, the cuts before (-1: the input) and at the end of a volume, and parts [a, b) of its rows."""
    name = draw(st.sampled_from(sorted(MODELS)))
    cuts = _graph(name).cuts
    last = draw(st.integers(0, len(cuts) - 1))
    first = draw(st.integers(-1, last - 1))
    point = st.integers(0, cuts[last].height)
    parts = draw(st.lists(st.tuples(point, point).map(lambda p: (min(p), max(p))), min_size=1, max_size=6))
    return name, first, last, parts


def _plans(name: str, first: int, last: int, parts: list[tuple[int, int]]) -> list[VolumeShare]:
    graph = _graph(name)
    cut, start = graph.cuts[last], graph.cuts[first].position if first >= 0 else 0
    volume = volume_between(graph, start, cut.position)
    return [volume_share(graph, volume, Share(cut.height, 0, a, b, 0, 0)) for a, b in parts]


@given(_volumes())
def test_one_part_and_many_at_once(drawn: tuple[str, int, int, list[tuple[int, int]]]) -> None:
    name, first, last, parts = drawn
    graph, (a, b) = _graph(name), np.array(parts).T
    cut, start = graph.cuts[last], graph.cuts[first].position if first >= 0 else 0
    volume = volume_between(graph, start, cut.position)
    walk = BackwardWalk(graph, volume, PartRows(graph, functools.partial(rising_needs, graph), cut.height, a, b))
    walk.run()
    for k, plan in enumerate(_plans(*drawn)):
        computed = {i: rows for piece in plan.parts for i, rows in (*piece.operators, *piece.partials)}
        assert _of_part(walk.computed, k) == {i: (r.rows.start, r.rows.stop) for i, r in computed.items()}
        assert _of_part(walk.kept, k) == {n: r for piece in plan.parts for n, r in _rows(piece.outputs).items()}
        for q, piece in enumerate(plan.parts):
            assert _of_part(walk.inputs[q], k) == _rows(piece.inputs)
            assert piece.carried.items() <= walk.carried[q].items()


@given(_volumes())
def test_one_part_and_compiled(drawn: tuple[str, int, int, list[tuple[int, int]]]) -> None:
    name, first, last, parts = drawn
    tables = _tables(name)
    assert tables.index[first + 1, last] >= 0
    for (a, b), plan in zip(parts, _plans(*drawn), strict=True):
        for q, piece in enumerate(plan.parts if a < b else ()):
            needs, seconds = _of_tables(tables, first, last, q, a, b)
            assert needs == {n: rows for n, rows in _rows(piece.inputs).items() if n not in piece.carried}
            assert seconds == pytest.approx(_weighted(tables, piece), rel=1e-12)


def _of_part(spans: dict[object, RowSpans], part: int) -> dict[object, tuple[int, int]]:
    found = {key: (int(span.start[part]), int(span.stop[part])) for key, span in spans.items()}
    return {key: (start, stop) for key, (start, stop) in found.items() if start < stop}


def _rows(regions: dict[str, Region]) -> dict[object, tuple[int, int]]:
    return {name: (region.rows.start, region.rows.stop) for name, region in regions.items()}


def _weighted(tables: Tables, piece: PhasePart) -> float:
    found = 0.0
    for index, region in (*piece.operators, *piece.partials):
        table = tables.costs[0].table(index)
        found += 0.0 if table is None else table[region.rows.size]
    return found


def _of_tables(
    tables: Tables, first: int, last: int, phase: int, a: int, b: int
) -> tuple[dict[object, tuple[int, int]], float]:
    """What tables say that one part needs in a phase, and how long that takes."""
    needs, _, _, phases, sums = (made.data if made else np.empty(0) for made in tables.lists())
    ints, volume = tables.ints.data, tables._volumes.data[tables.index[first + 1, last]]
    names = list(tables.numbers)
    row, band = phases[volume[t.PHASES] + phase], volume[t.BAND]
    short, cell = b - a < band, a * band + b - a
    found: dict[object, tuple[int, int]] = {}
    for tensor, lo, hi, short_lo, short_hi in needs[row[t.NEEDS] : row[t.NEEDS] + row[t.N_NEEDS]].tolist():
        rows = (ints[short_lo + cell], ints[short_hi + cell]) if short else (ints[lo + a], ints[hi + b])
        if rows[0] < rows[1]:
            found[names[tensor]] = int(rows[0]), int(rows[1])
    seconds, at = tables.seconds.data, row[t.SECONDS]
    if volume[t.START_CLASS] >= 0:
        return found, float(seconds[at + ints[volume[t.START_CLASS] + a] + ints[volume[t.STOP_CLASS] + b]])
    if short:
        return found, float(seconds[at + cell])
    chosen = sums[row[t.SUMS] : row[t.SUMS] + row[t.N_SUMS]].tolist()
    return found, sum(float(seconds[place + ints[stop + b] - ints[start + a]]) for start, stop, place, _ in chosen)
