"""The formula of a part's seconds: one for numbers and arrays, and its compiled twin."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from distredge.cluster import load_cluster
from distredge.latency.costs.part_costs import part_costs
from distredge.latency.tables import part_seconds as compiled
from distredge.model import zoo
from distredge.model.laying_out import lay_out_decisions
from distredge.model.layout import PARTIAL
from distredge.model.operators import region_size
from distredge.model.volumes import Decision
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.part_costs import PartTerms, part_seconds

SECONDS = st.floats(0.0, 10.0, allow_subnormal=False)
PART = st.tuples(SECONDS, st.floats(0.1, 10.0), SECONDS, SECONDS, st.integers(0, 1 << 40))


@njit
def _compiled(overhead_s: float, factor: float, element_s: float, operators_s: float, elements: int) -> float:
    return compiled.part_s(overhead_s, factor, element_s, operators_s, elements)


@given(PART)
def test_the_compiled_formula_is_the_same(part: tuple[float, float, float, float, int]) -> None:
    overhead_s, factor, element_s, operators_s, elements = part
    assert _compiled(*part) == part_seconds(PartTerms(overhead_s, factor, element_s), operators_s, elements)


@given(st.lists(PART, min_size=1, max_size=5))
def test_arrays_of_boards_are_priced_as_each_board(parts: list[tuple[float, float, float, float, int]]) -> None:
    overhead_s, factor, element_s, operators_s, elements = (np.array(column) for column in zip(*parts, strict=True))
    found = part_seconds(PartTerms(overhead_s, factor, element_s), operators_s, elements.astype(np.float64))
    assert found.tolist() == [part_seconds(PartTerms(*part[:3]), *part[3:]) for part in parts]


def test_partial_results_do_not_count_as_what_enters_and_leaves() -> None:
    graph = zoo.build("mobilenet-v3-small", (1, 3, 64, 64), width=0.5)
    cluster = load_cluster("db-50", [graph])
    device = cluster.devices[0]
    data = device.profile.data
    segments = msgspec.structs.replace(data.segments, s_per_byte=1e-3)
    profile = ComputeProfile(msgspec.structs.replace(data, segments=segments))
    problem = Problem(graph, dataclasses.replace(cluster, devices=(dataclasses.replace(device, profile=profile),)))
    last = graph.cuts[-1]
    layout = lay_out_decisions(graph, (device.name,), [Decision(last, (0, last.height))], 0)
    part = layout.stages[0].parts[0]
    assert any(name.endswith(PARTIAL) for name in part.outputs)
    maps = [(n, r) for n, r in (*part.inputs.items(), *part.outputs.items()) if not n.endswith(PARTIAL)]
    costs = part_costs(problem, device.name)
    edge_s = 1e-3 * 4 * sum(region_size(graph.tensors[name], region) for name, region in maps)
    inside_s = data.segments.overhead_s + data.segments.factor * costs.operators_s(part)
    assert costs.part_s(part) == pytest.approx(inside_s + edge_s, rel=1e-12)
