"""The simulator against the cost formulas of published planners, where their assumptions hold.

The formulas are written down here from what is known of the papers, apart from the code that is tested:

- AOFL (Zhou et al., "Adaptive Parallel Execution of Deep Neural Networks on Heterogeneous Edge Devices", SEC 2019):
  t_f = transfer of the first input + transfer of the last output + sum of the fused layers' compute; transfers go from
  and to one source device and are summed over the remote devices.
- DPFP (Li, Iosifidis, Zhang): t(i, j) = t_com + the longest compute of any server; t_com = bits / rate of one pipe that
  all servers share. First block: all input rows; later ones: the halos alone; the last one also gathers all outputs but
  the host's own.
- HALP (Li, Iosifidis, Zhang, ICC 2022): the rows that others need are computed and sent first, so that a layer takes
  max(compute, exchange); one after the other they take compute + exchange.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from distredge.cluster import Link, Requester
from distredge.latency import evaluate
from distredge.model.rows import even_cuts
from distredge.problem import Problem

RATE = 1e6
ROW_S = 1e-3
HEIGHT = 8


def input_rows(points: Sequence[int], layers: int, height: int = HEIGHT) -> list[int]:
    """Input rows that each share needs of `layers` fused 3x3 convolutions: one more per layer and inner edge."""
    return [min(height, b + layers) - max(0, a - layers) for a, b in itertools.pairwise(points)]


def compute_s(points: Sequence[int], layers: int, row_s: float = ROW_S) -> list[float]:
    """Compute of each share: the rows of every one of the fused layers."""
    return [row_s * sum(input_rows([a, b], above)[0] for above in range(layers)) for a, b in itertools.pairwise(points)]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("devices", [1, 2])
def test_aofl_fused_block_of_a_source_with_one_uplink(lab: Any, layers: int, devices: int) -> None:
    # The source's link is the only narrow one, and equal shares finish together: sharing it takes as long as one
    # transfer after the other.
    graph = lab.chain(layers)
    profile = lab.profile(graph, ROW_S)
    narrow = Link(RATE)
    cluster = lab.cluster([profile] * devices, Link(), Requester("source", narrow, narrow), link_model="shared")
    problem = Problem(graph, cluster)
    points = even_cuts(HEIGHT, devices)
    transfer_in = sum(input_rows(points, layers)) * lab.row_bits / RATE
    transfer_out = HEIGHT * lab.row_bits / RATE
    t_f = transfer_in + transfer_out + max(compute_s(points, layers))
    assert evaluate(problem, lab.strategy(problem, [(layers - 1, points)])) == pytest.approx(t_f, rel=1e-9)


def test_aofl_sum_of_blocks_merged_at_the_source(lab: Any) -> None:
    # Blocks in turn on the source itself (no transfer) and on one remote device, as its dynamic programme adds them up.
    graph = lab.chain(4)
    source, remote = lab.profile(graph, ROW_S), lab.profile(graph, ROW_S / 4)
    cluster = lab.cluster([source, remote], [Link(RATE), Link(2 * RATE)], Requester(device="a"))
    problem = Problem(graph, cluster)
    here, there = (0, HEIGHT, HEIGHT), (0, 0, HEIGHT)
    whole = HEIGHT * lab.row_bits / RATE
    expected = 0.0
    for layers, row_s, transfers in ((1, ROW_S, 0.0), (2, ROW_S / 4, 2 * whole), (1, ROW_S, 0.0)):
        expected += transfers + layers * HEIGHT * row_s
    strategy = lab.strategy(problem, [(0, here), (2, there), (3, here)])
    assert evaluate(problem, strategy) == pytest.approx(expected, rel=1e-12)


def dpfp_s(lab: Any, blocks: Sequence[int], servers: int) -> float:
    """Sum of t(i, j) over blocks of so many layers each, equal shares, and the gather to the host."""
    points = even_cuts(HEIGHT, servers)
    total = 0.0
    for number, layers in enumerate(blocks):
        rows = sum(input_rows(points, layers)) - (HEIGHT if number else 0)
        if number == len(blocks) - 1:
            rows += HEIGHT - (points[1] - points[0])
        total += rows * lab.row_bits / RATE + max(compute_s(points, layers))
    return total


def on_one_pipe(lab: Any, blocks: Sequence[int], servers: int) -> float:
    """The simulator's latency, less the head: every bit passes one medium of RATE, no link of its own is slower."""
    graph = lab.chain(sum(blocks), classes=3)
    profile = lab.profile(graph, ROW_S)
    link = Link(2 * RATE)
    requester = Requester(uplink=link, downlink=link)
    cluster = lab.cluster([profile] * servers, link, requester, link_model="shared", shared_medium=True)
    problem = Problem(graph, cluster)
    ends = [sum(blocks[: i + 1]) - 1 for i in range(len(blocks))]
    strategy = lab.strategy(problem, [(end, even_cuts(HEIGHT, servers)) for end in ends])
    head = 2 * ROW_S + 3 * 32 / RATE  # Flatten, Gemm, three scores to the requester
    return evaluate(problem, strategy) - head


@pytest.mark.parametrize("blocks", [(1,), (3,), (1, 1), (2, 1), (1, 2, 3)], ids=str)
def test_dpfp_blocks_of_two_servers_on_one_pipe(lab: Any, blocks: tuple[int, ...]) -> None:
    # Two equal shares have equal halos, so that both servers wait for the whole of t_com.
    assert on_one_pipe(lab, blocks, 2) == pytest.approx(dpfp_s(lab, blocks, 2), rel=1e-9)


@pytest.mark.parametrize("servers", [3, 4])
def test_dpfp_bounds_more_servers_from_above(lab: Any, servers: int) -> None:
    # Outer shares have fewer rows to get: they start before t_com is over, where the formula waits for it.
    found, bound = on_one_pipe(lab, (2, 1, 1), servers), dpfp_s(lab, (2, 1, 1), servers)
    assert 0.5 * bound < found < bound


@pytest.mark.parametrize("rate_bps", [1e4, 1e5, 1e6])
def test_halp_layers_without_overlap_take_compute_and_exchange(lab: Any, rate_bps: float) -> None:
    # Every layer a volume of its own. Two equal neighbours compute alike and then swap one row each way at once.
    layers = 4
    graph = lab.chain(layers)
    profile = lab.profile(graph, ROW_S)
    problem = Problem(graph, lab.cluster([profile] * 2, Link(rate_bps)))
    points = even_cuts(HEIGHT, 2)
    row_s = lab.row_bits / rate_bps
    compute, exchange = 4 * ROW_S, row_s
    ends = 5 * row_s + 4 * row_s  # input and result of each half
    found = evaluate(problem, lab.strategy(problem, [(i, points) for i in range(layers)]))
    assert found == pytest.approx(ends + layers * compute + (layers - 1) * exchange, rel=1e-12)
    # The first layer has nothing to overlap with.
    assert found >= ends + compute + (layers - 1) * max(compute, exchange)


@pytest.mark.parametrize("exchange_rows", [0.5, 3.0, 20.0], ids=["compute", "between", "exchange"])
@pytest.mark.parametrize("boundary_row_s", [0.0, ROW_S], ids=["free", "as any"])
def test_halp_layers_with_overlap_take_the_longer_of_both(
    lab: Any, exchange_rows: float, boundary_row_s: float
) -> None:
    # HALP's formula leaves out the time after which the boundary row is there; with a row that takes none they agree.
    layers, height = 4, 16
    graph = lab.chain(layers, height=height)
    profile = lab.profile(graph, seconds={"Conv": [boundary_row_s, *(r * ROW_S for r in range(2, height + 1))]})
    exchange = exchange_rows * ROW_S
    problem = Problem(graph, lab.cluster([profile] * 2, Link(lab.row_bits / exchange)))
    strategy = lab.strategy(problem, [(i, (0, 8, 16)) for i in range(layers)])
    strategy = strategy.replace(volumes=tuple(replace(v, boundary_first=True) for v in strategy.volumes))
    compute = boundary_row_s + 7 * ROW_S
    layer = max(compute, boundary_row_s + exchange)
    # The last layer has nothing to send first: the requester waits for all of it.
    expected = 9 * exchange + (layers - 1) * layer + 8 * ROW_S + 8 * exchange
    assert evaluate(problem, strategy) == pytest.approx(expected, rel=1e-12)


def test_halp_secondaries_exchange_with_the_host_alone(lab: Any) -> None:
    # The host's zone in the middle has at least a row, so that a layer's halo never reaches the other secondary.
    layers = 3
    graph = lab.chain(layers)
    profile = lab.profile(graph, ROW_S)
    problem = Problem(graph, lab.cluster([profile] * 3, Link(RATE)))
    points = (0, 3, 5, HEIGHT)
    row_s = lab.row_bits / RATE
    found = evaluate(problem, lab.strategy(problem, [(i, points) for i in range(layers)], head="b"))
    assert found == pytest.approx(_chain_of_three(points, layers, row_s), rel=1e-12)
    # Overlap could save no more than this: the secondaries' input, their layers, and their result.
    assert found >= 4 * row_s + 3 * ROW_S + (layers - 1) * max(3 * ROW_S, row_s) + 3 * row_s


def _chain_of_three(points: Sequence[int], layers: int, exchange: float) -> float:
    """finish[k] = compute[k] + the latest of its own last layer and the neighbours' rows: the recurrence of a chain."""
    rows = [b - a for a, b in itertools.pairwise(points)]
    done = [n * exchange + r * ROW_S for n, r in zip(input_rows(points, 1), rows, strict=True)]
    for _ in range(layers - 1):
        ready = [
            max(done[k], *(done[j] + exchange for j in (k - 1, k + 1) if 0 <= j < len(done))) for k in range(len(done))
        ]
        done = [t + r * ROW_S for t, r in zip(ready, rows, strict=True)]
    return max(t + r * exchange for t, r in zip(done, rows, strict=True))
