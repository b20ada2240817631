"""On small cases all strategies are priced, and the search must find the best.

Every strategy of two or three devices, three to six operators and few rows is enumerated on the kernel, which other
tests hold equal to the simulator. That is exact under all link models and options; so no other solver is asked.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.cluster import Cluster, Device, Link, Requester
from distredge.latency import simulate
from distredge.latency.kernel.kernel import kernel_of
from distredge.latency.simulator.figures import Figures, measure
from distredge.model.graph import Graph
from distredge.planners import plan
from distredge.planners.annealing.encoding import Codec
from distredge.planners.annealing.lowest_latency import Search
from distredge.planners.annealing.strategy_arrays import Batch
from distredge.planners.budget import Budget
from distredge.planners.objectives import unbeaten
from distredge.planners.other_objectives.batch_figures import FiguresPricer
from distredge.planners.other_objectives.pareto import pareto
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.schema import Board, Measured, Origin, Power, ProfileFile, Runtime, Segments
from distredge.strategy import PlannerRef

CHANNELS, WIDTH = 4, 16

# Operators by letter: a convolution 3x3, one of stride 2, one 1x1, a pooling 2x2, a sum with what came two before.
CASES: list[tuple[str, int, int, dict[str, Any]]] = [
    ("cccc", 4, 3, {}),
    ("cccccc", 5, 2, {}),
    ("cpccp", 7, 3, {}),
    ("csc1c", 6, 2, {}),
    ("cc+c", 4, 3, {}),
    ("cpc", 6, 3, {"free_order": True}),
    ("cscc", 6, 2, {"free_order": True, "wires": ("float32", "float16"), "allow_lossy": True}),
    ("ccc", 6, 2, {"boundary_first": True, "free_order": True}),
    ("cpc", 6, 3, {"boundary_first": True}),
    ("cccc", 4, 3, {"link_model": "shared"}),
    ("cpcc", 6, 2, {"link_model": "shared", "home": True}),
    ("cc+c", 4, 2, {"link_model": "shared", "shared_medium": True}),
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("operators", "height", "devices", "options"), CASES)
def test_search_finds_the_best_of_all_strategies(
    operators: str, height: int, devices: int, options: dict[str, Any], seed: int
) -> None:
    problem = _problem(operators, height, devices, dict(options), seed)
    best_s = min(float(np.nanmin(seconds)) for seconds in _all_latencies(problem))
    search = Search(problem, Budget(evaluations=120_000), seed)
    strategy = search.run()
    assert search.latency_s == pytest.approx(best_s, rel=1e-9)
    assert simulate(problem, strategy).latency_s == pytest.approx(best_s, rel=1e-9)


@pytest.mark.parametrize(("operators", "height", "devices", "options"), CASES)
def test_search_finds_the_best_for_other_objectives_and_the_front(
    operators: str, height: int, devices: int, options: dict[str, Any]
) -> None:
    problem = _problem(operators, height, devices, dict(options), 0)
    figures = np.concatenate(list(_all_figures(problem)))
    limit_s = float(np.sqrt(figures[:, 0].min() * figures[np.argmin(figures[:, 1]), 0]))
    for limited in (problem, dataclasses.replace(problem, latency_limit_s=limit_s)):
        allowed = figures if limited is problem else figures[figures[:, 0] <= limit_s]
        for objective, column in (("throughput", 1), ("energy", 2)):
            asked = dataclasses.replace(limited, objective=objective)
            found = measure(asked, plan(asked, "search", evaluations=120_000))
            best = (found.latency_s, found.period_s, found.energy_j)[column]
            assert best == pytest.approx(allowed[:, column].min(), rel=1e-9)
    true = figures[unbeaten(figures)]
    found = np.array([_row(point.figures) for point in pareto(problem, Budget(evaluations=120_000), 0)])
    # Nearly all that is found is on the front, and nearly all of the front is near something found.
    assert np.mean([(np.abs(true / row - 1).max(axis=1) < 1e-9).any() for row in found]) > 0.8
    span = np.ptp(np.log(true), axis=0) + 1e-9
    apart = [(np.abs(np.log(found / row)) / span).max(axis=1).min() for row in true]
    assert np.quantile(apart, 0.9) < 0.2


def _row(figures: Figures) -> tuple[float, float, float]:
    return figures.latency_s, figures.period_s, figures.energy_j


def test_distributing_is_best_in_some_cases_and_not_in_others() -> None:
    chosen = set()
    for operators, height, devices, options in CASES:
        for seed in range(3):
            problem = _problem(operators, height, devices, dict(options), seed)
            strategy = Search(problem, Budget(evaluations=5_000), 0).run()
            working = np.diff([v.rows for v in strategy.volumes], axis=1).any(axis=0).sum()
            chosen.add((int(working), len(strategy.volumes) > 1))
    assert {working for working, _ in chosen} == {1, 2, 3}
    assert {several for _, several in chosen} == {False, True}


def _all_latencies(problem: Problem) -> Iterator[np.ndarray]:
    """Latencies of all strategies, in batches."""
    codec = Codec(problem)
    for batch in _all_strategies(problem):
        yield kernel_of(problem).latency_s(
            batch.cuts,
            batch.rows,
            batch.head,
            order=batch.order,
            wire=batch.wires,
            input_wire=codec.input_wire,
            boundary_first=batch.boundary,
        )


def _all_figures(problem: Problem) -> Iterator[np.ndarray]:
    """Latency, period and energy of all strategies, in batches."""
    pricer = FiguresPricer(Codec(problem), Budget(evaluations=10**9))
    for batch in _all_strategies(problem):
        yield pricer.figures(batch)[:, :3]


def _all_strategies(problem: Problem) -> Iterator[Batch]:
    """All strategies, in batches; cuts, rows, head, order and boundary in every combination."""
    codec, graph = Codec(problem), problem.graph
    count = len(problem.cluster.devices)
    orders = list(itertools.permutations(range(count))) if problem.free_order else [tuple(range(count))]
    inner = range(len(graph.cuts) - 1)
    for cuts in itertools.chain.from_iterable(itertools.combinations(inner, n) for n in range(len(graph.cuts))):
        ends = (*cuts, len(graph.cuts) - 1)
        splits = [_splits(graph.cuts[end].height, count) for end in ends]
        rows = np.array([np.stack(chosen) for chosen in itertools.product(*splits)], np.int32)
        first = list(itertools.product((0, 1), repeat=len(ends))) if problem.boundary_first else [(0,) * len(ends)]
        for head, order, boundary in itertools.product(range(count), orders, first):
            batch = codec.empty(len(rows))
            batch.cuts[:, : len(ends)] = ends
            batch.rows[:, : len(ends)] = rows
            batch.head[:] = head
            batch.order[:] = order
            batch.boundary[:, : len(ends)] = boundary
            yield batch


def _splits(height: int, devices: int) -> list[np.ndarray]:
    inner = itertools.combinations_with_replacement(range(height + 1), devices - 1)
    return [np.array([0, *points, height]) for points in inner]


def test_enumeration_counts_what_there_is() -> None:
    problem = _problem("cc", 3, 2, {}, 0)
    sizes = [len(seconds) for seconds in _all_latencies(problem)]
    assert sum(sizes) == 2 * (4 + 4 * 4)


def test_codec_gives_back_the_enumerated_strategies() -> None:
    problem = _problem("ccc", 4, 2, {}, 0)
    batch = Codec(problem).empty(1)
    batch.cuts[0, :2], batch.rows[0, :2] = (0, 2), ((0, 1, 4), (0, 3, 4))
    strategy = Codec(problem).strategy(batch, 0, PlannerRef("search"))
    expected_s = kernel_of(problem).latency_s(batch.cuts, batch.rows, 0)[0]
    assert simulate(problem, strategy).latency_s == pytest.approx(expected_s, rel=1e-9)


def _problem(operators: str, height: int, devices: int, options: dict[str, Any], seed: int) -> Problem:
    rng = np.random.default_rng((seed, *operators.encode()))
    graph = _graph(operators, height, head=bool(seed % 2))
    rates, fixed = rng.choice([1e5, 2e6, 8e6, 40e6], devices), rng.choice([0.0, 2e-4], devices)
    links = [Link(float(rate_bps), fixed_s=float(fixed_s)) for rate_bps, fixed_s in zip(rates, fixed, strict=True)]
    boards = [_board(graph, float(rng.uniform(1, 4)), rng) for _ in range(devices)]
    cluster = Cluster(
        "lab",
        Requester(device="b" if options.pop("home", False) else None),
        tuple(Device("abc"[i], board, link, link) for i, (board, link) in enumerate(zip(boards, links, strict=True))),
        link_model=options.pop("link_model", "independent"),
        shared_medium=options.pop("shared_medium", False),
    )
    return Problem(graph, cluster, **{"free_order": False, **options})


def _board(graph: Graph, slow: float, rng: np.random.Generator) -> ComputeProfile:
    """A board whose times rise with the rows in uneven steps."""
    known = {}
    for signature in graph.signatures:
        if signature is not None:
            count = max(signature.rows, 1)
            times = tuple(np.cumsum(rng.uniform(0.2e-3, 1e-3, count) * slow).tolist())
            spread = (0.0,) * count
            known[signature.key] = Measured(
                rows=tuple(range(1, count + 1)), median_s=times, p95_s=times, spread=spread, repeats=(5,) * count
            )
    return ComputeProfile(
        ProfileFile(
            name="board",
            device=Board(name="board"),
            runtime=Runtime(name="onnxruntime"),
            origin=Origin(kind="measured", date="2026-11-22"),
            segments=Segments(factor=1.0, overhead_s=float(rng.choice([0.0, 2e-4]))),
            power=Power(idle_w=1.0, busy_w=1.0 + 10.0 / slow),
            operators=known,
        )
    )


def _graph(operators: str, height: int, head: bool) -> Graph:
    nodes, constants, made = list[onnx.NodeProto](), list[onnx.TensorProto](), ["x"]
    for number, letter in enumerate(operators):
        name = f"y{number}"
        if letter == "+":
            nodes.append(helper.make_node("Add", [made[-1], made[-2]], [name], name=name))
        elif letter == "p":
            nodes.append(helper.make_node("MaxPool", [made[-1]], [name], name, kernel_shape=[2, 2], strides=[2, 2]))
        else:
            size, stride = (1, 1) if letter == "1" else (3, 2 if letter == "s" else 1)
            pad = size // 2
            weights = np.random.default_rng(number).standard_normal((CHANNELS, CHANNELS, size, size), np.float32)
            constants.append(numpy_helper.from_array(weights, f"w{number}"))
            sizes = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
            nodes.append(helper.make_node("Conv", [made[-1], f"w{number}"], [name], name, **sizes))
        made.append(name)
    last, shape = made[-1], None
    if head:
        nodes.append(helper.make_node("GlobalAveragePool", [last], ["mean"], name="mean"))
        nodes.append(helper.make_node("Flatten", ["mean"], ["scores"], name="scores"))
        last, shape = "scores", [1, CHANNELS]
    proto = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, height, WIDTH])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return Graph(onnx.shape_inference.infer_shapes(model), "small")
