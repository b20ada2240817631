"""The chain's prices equal those of the layout and the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distredge.cluster import load_cluster
from distredge.latency.simulator.simulation import part_seconds
from distredge.model import zoo
from distredge.model.laying_out import lay_out_decisions
from distredge.model.layout import part_macs
from distredge.model.operators import region_size
from distredge.model.volumes import Decision
from distredge.planners.common.linear_models import cut_points, fit_lines
from distredge.planners.common.volume_costs import VolumeCosts
from distredge.problem import Problem

SHAPES = {"ssd-vgg16": (1, 3, 300, 300)}


def _points(rng: np.random.Generator, height: int, devices: int) -> NDArray[np.int64]:
    return np.array([0, *np.sort(rng.integers(0, height + 1, devices - 1)), height])


@pytest.mark.parametrize("s_per_byte", [0.0, 1e-8])
@pytest.mark.parametrize("model", ["vgg16", "resnet50", "mobilenet-v2", "ssd-vgg16"])
def test_every_volume_costs_what_its_layout_costs(with_edges: Any, model: str, s_per_byte: float) -> None:
    graph = zoo.build(model, SHAPES.get(model, (1, 3, 65, 64)), width=0.25)
    problem = Problem(graph, with_edges(load_cluster("db-50"), s_per_byte))
    chain, names = VolumeCosts(problem), problem.cluster.names
    rng = np.random.default_rng(1)
    for _ in range(12):
        start, end = (int(i) for i in np.sort(rng.choice(chain.last + 1, 2, replace=False)))
        points, decisions, before = _points(rng, chain.height(end), 4), [], None
        if start:
            before = _points(rng, chain.height(start), 4)
            decisions.append(Decision(graph.cuts[start - 1], tuple(int(x) for x in before)))
        decisions.append(Decision(graph.cuts[end - 1], tuple(int(x) for x in points)))
        if end != chain.last:
            decisions.append(Decision(graph.cuts[-1], (0, *[graph.cuts[-1].height] * 4)))
        layout = lay_out_decisions(graph, names, decisions, 0)
        stages = [stage for stage in layout.stages if stage.volume == (1 if start else 0)]
        assert len(stages) == 1
        stage, seconds = stages[0], part_seconds(problem, layout)
        piece = chain.slices(end, [points])[start]
        np.testing.assert_allclose(piece.compute_s[0], [seconds.get((stage.index, k), 0.0) for k in range(4)])
        np.testing.assert_allclose(piece.macs[0], [part_macs(graph, part) for part in stage.parts], rtol=1e-6)
        needed = [sum(4 * region_size(layout.tensors[n], r) for n, r in p.inputs.items()) for p in stage.parts]
        np.testing.assert_array_equal(chain.needed_bytes(piece)[0], needed)
        coming = [t for t in layout.transfers if t.stage == stage.index and not t.local]
        fetched = [sum(t.size_bytes for t in coming if t.destination == k) for k in range(4)]
        np.testing.assert_array_equal(chain.fetched_bytes(piece, [before if start else points])[0], fetched)
        if layout.has_head:
            head_s = part_seconds(problem, lay_out_decisions(graph, names, decisions, 2))[len(layout.stages) - 1, 2]
            assert chain.head_s[2] == pytest.approx(head_s)


def test_whole_blocks_of_a_residual_network_have_one_tensor_alive(resnet: zoo.Graph) -> None:
    chain = VolumeCosts(Problem(resnet, load_cluster("db-50")))
    inner = [resnet.cuts[location - 1] for location in chain.whole_blocks[1:-1]]
    assert all(len(cut.tensors) == 1 for cut in inner)
    assert 16 <= len(inner) < len(resnet.cuts)


def test_layers_add_up_to_the_body(problem: Problem) -> None:
    chain = VolumeCosts(problem)
    assert chain.layer_macs.sum() == sum(problem.graph.macs[i] for i in problem.graph.body.operators)
    overhead = np.array([c.profile.segment_overhead_s for c in chain.costs])
    np.testing.assert_allclose(chain.whole_s.sum(axis=1) - (chain.last - 1) * overhead, chain.body_s)


def test_lines_rank_the_boards_as_their_speeds_do() -> None:
    graph = zoo.build("vgg16", (1, 3, 64, 64), width=0.5)
    chain = VolumeCosts(Problem(graph, load_cluster("dc-50")))
    lines = fit_lines(chain)
    assert all(line.s_per_mac > 0 and line.fixed_s >= 0 for line in lines)
    by_line = sorted(
        range(4), key=lambda k: lines[k].s_per_mac * chain.layer_macs.sum() + lines[k].fixed_s * chain.last
    )
    assert by_line == sorted(range(4), key=lambda k: chain.body_s[k])


@pytest.mark.parametrize(
    ("height", "shares", "points"),
    [
        (7, [1, 1, 1, 1], (0, 2, 4, 5, 7)),
        (10, [0, 1, 0], (0, 0, 10, 10)),
        (1, [1, 1], (0, 0, 1)),
        (9, [2, 1], (0, 6, 9)),
    ],
)
def test_cut_points_follow_the_shares(height: int, shares: list[float], points: tuple[int, ...]) -> None:
    assert cut_points(height, shares) == points
