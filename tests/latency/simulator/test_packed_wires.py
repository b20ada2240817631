"""What packed rows cost: fewer bytes on the way, and the processors' time at both ends."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from distredge.cluster import Link
from distredge.latency import simulate
from distredge.latency.kernel.kernel import kernel_of
from distredge.model.graph import Graph
from distredge.model.zero_shares import assume_zero_shares
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.schema import Messages

ROW_S, RATE = 0.01, 1e6
COMPRESS, EXPAND = 1e-5, 3e-5


@pytest.fixture
def chain(lab: Any) -> Graph:
    graph: Graph = lab.chain(2)
    assume_zero_shares(graph, dict.fromkeys(graph.tensors, 0.5))
    return graph


def _problem(lab: Any, graph: Graph, link_model: str) -> Problem:
    plain = lab.profile(graph, ROW_S)
    messages = Messages(compress_s_per_byte=COMPRESS, expand_s_per_byte=EXPAND)
    profile = ComputeProfile(msgspec.structs.replace(plain.data, messages=messages))
    return Problem(graph, dataclasses.replace(lab.cluster([profile] * 2, Link(RATE)), link_model=link_model))


@pytest.mark.parametrize("link_model", ["independent", "shared"])
def test_bytes_follow_from_the_share_of_zeros(lab: Any, chain: Graph, link_model: str) -> None:
    problem = _problem(lab, chain, link_model)
    volumes = [(0, (0, 4, 8)), (1, (0, 4, 8))]
    sent = {w: simulate(problem, lab.strategy(problem, volumes, wire=w)).link_bytes for w in _WIRES}
    row = lab.row_bits // 8
    assert sent["float32"]["a>b"] == row
    # Half of the elements, and a bit for each.
    assert sent["float32-packed"]["a>b"] == -(-row * (4 * 8 // 2 + 1) // (4 * 8))
    assert sent["float16-packed"]["a>b"] == -(-row * (4 * 8 // 4 + 1) // (4 * 8))
    assert {found["requester>a"] for found in sent.values()} == {5 * row}


@pytest.mark.parametrize("share", [0.0, 0.03])
def test_a_tensor_with_few_zeros_travels_plain(lab: Any, chain: Graph, share: float) -> None:
    assume_zero_shares(chain, dict.fromkeys(chain.tensors, share))
    problem = _problem(lab, chain, "shared")
    volumes = [(0, (0, 4, 8)), (1, (0, 4, 8))]
    plain, packed = (
        simulate(problem, lab.strategy(problem, volumes, wire=w)).latency_s for w in ("float32", "float32-packed")
    )
    assert packed == plain


def test_both_ends_are_charged_for_float32_bytes(lab: Any, chain: Graph) -> None:
    # All rows on one device: it receives the plain image, computes, and sends 8 rows packed; nobody else waits.
    problem = _problem(lab, chain, "shared")
    packed = lab.strategy(problem, [(1, (0, 8, 8))], wire="float32-packed")
    plain = lab.strategy(problem, [(1, (0, 8, 8))])
    found_s, plain_s = (simulate(problem, s).latency_s for s in (packed, plain))
    row = lab.row_bits // 8
    small = -(-row * 17 // 32)
    assert found_s - plain_s == pytest.approx(8 * (COMPRESS * row - (row - small) * 8 / RATE))
    found = kernel_of(problem)
    assert found.latency_s(**found.encode([packed, plain])) == pytest.approx([found_s, plain_s], rel=1e-9)


def test_unpacking_delays_the_part_that_needs_the_rows(lab: Any, chain: Graph) -> None:
    problem = _problem(lab, chain, "shared")
    # The first volume on a, the second on b: 8 rows cross once between them, and 8 go to the requester.
    volumes = [(0, (0, 8, 8)), (1, (0, 0, 8))]
    found_s, plain_s = (
        simulate(problem, lab.strategy(problem, volumes, wire=w)).latency_s for w in ("float32-packed", "float32")
    )
    row = lab.row_bits // 8
    small = -(-row * 17 // 32)
    expected = 8 * ((2 * COMPRESS + EXPAND) * row - 2 * (row - small) * 8 / RATE)
    assert found_s - plain_s == pytest.approx(expected)


_WIRES = ("float32", "float32-packed", "float16", "float16-packed")
