"""Strategies built volume by volume cost what they cost as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.cluster import Link, Requester
from distredge.errors import ClusterError, StrategyError, Unsupported
from distredge.latency import StepSimulator, evaluate, simulate
from distredge.model.graph import Graph
from distredge.problem import Problem
from distredge.profiles.network import Trace

GRAPHS = ("chain", "residual", "excited")
TRACE = Trace([0.0, 0.01, 0.03], [2e5, 1e6, 5e4], period_s=0.05)


@pytest.fixture(scope="module")
def graphs(lab: Any) -> dict[str, Graph]:
    return {"chain": lab.chain(3, classes=3), "residual": lab.residual(), "excited": lab.excited()}


def problem_of(lab: Any, graph: Graph, traced: bool = False, **options: Any) -> Problem:
    boards = [lab.profile(graph, row_s, 1e-3, copy=(1e-4, 1e-7)) for row_s in (1e-3, 2e-3, 5e-4)]
    links = [Link(None, TRACE, 1e-3) if traced else Link(1e6, None, 1e-3), Link(2e6), Link(5e5)]
    return Problem(graph, lab.cluster(boards, links, Requester(uplink=Link(4e6), downlink=Link(4e6)), **options))


@st.composite
def volumes_of(draw: st.DrawFn, cuts: int, devices: int = 3, height: int = 8) -> list[tuple[int, tuple[int, ...]]]:
    chosen = [i for i in range(cuts - 1) if draw(st.booleans())] + [cuts - 1]
    rows = st.lists(st.integers(0, height), min_size=devices - 1, max_size=devices - 1).map(
        lambda inner: (0, *sorted(inner), height)
    )
    return [(cut, draw(rows)) for cut in chosen]


@settings(max_examples=60)
@given(st.data(), st.sampled_from(GRAPHS), st.booleans(), st.sampled_from(["independent", "shared"]))
def test_the_whole_costs_the_same(
    lab: Any, graphs: dict[str, Graph], data: st.DataObject, name: str, traced: bool, model: str
) -> None:
    graph = graphs[name]
    problem = problem_of(lab, graph, traced, link_model=model)
    volumes = data.draw(volumes_of(len(graph.cuts)))
    head = data.draw(st.integers(0, 2))
    dtype, wire = data.draw(st.sampled_from([("float32", "float32"), ("uint8", "float16")]))
    start_s = data.draw(st.sampled_from([0.0, 0.02]))
    steps = StepSimulator(problem, input_dtype=dtype, wire=wire, start_s=start_s)
    finishes = [steps.advance(cut, rows) for cut, rows in volumes]
    assert steps.volumes == len(volumes)
    strategy = lab.strategy(problem, volumes, head=problem.cluster.names[head], input_dtype=dtype, wire=wire)
    assert steps.finish(head) == pytest.approx(evaluate(problem, strategy, start_s=start_s), rel=1e-9)
    if model == "independent":
        # A volume's times do not depend on what is decided after it.
        timeline = simulate(problem, strategy, start_s=start_s)
        for number, finish_s in enumerate(finishes):
            for device, seconds in zip(problem.cluster.names, finish_s, strict=True):
                mine = [x for x in timeline.spans if (x.device, x.lane) == (device, "compute")]
                done = [x.stop_s for x in mine if 0 <= x.volume <= number]
                assert seconds == max(done, default=0.0)


def test_finish_times_by_hand(lab: Any) -> None:
    graph = lab.chain(2)
    profile = lab.profile(graph, 1e-3)
    steps = StepSimulator(Problem(graph, lab.cluster([profile] * 3, Link(1e6))), wire="int8")
    row = lab.row_bits / 1e6
    first = steps.advance(0, (0, 4, 4, 8))
    assert first == pytest.approx([5 * row + 4e-3, 0.0, 5 * row + 4e-3])
    # b needs all rows of the first convolution from both; the others have nothing more to do.
    second = steps.advance(1, np.array([0, 0, 8, 8]))
    assert second == pytest.approx([first[0], first[0] + row + 8e-3, first[2]])
    assert second.dtype == np.float64


def test_reset_starts_over(lab: Any, graphs: dict[str, Graph]) -> None:
    problem = problem_of(lab, graphs["chain"], traced=True)
    steps = StepSimulator(problem)
    first = steps.advance(2, (0, 8, 8, 8))
    latency_s = steps.finish(0)
    steps.reset()
    assert steps.volumes == 0
    assert steps.advance(2, (0, 8, 8, 8)).tolist() == first.tolist()
    steps.reset(start_s=0.035)
    # From there on the trace is slow.
    assert steps.advance(2, (0, 8, 8, 8))[0] > first[0]
    assert steps.finish(0) != latency_s
    steps.reset()
    assert steps.start_s == 0.035


def test_devices_in_another_order_and_number(lab: Any, graphs: dict[str, Graph]) -> None:
    problem = problem_of(lab, graphs["residual"])
    steps = StepSimulator(problem, ("c", "a"))
    assert steps.advance(2, (0, 3, 8)).shape == (2,)
    with pytest.raises(ClusterError, match="no device 'z'"):
        StepSimulator(problem, ("z",)).advance(2, (0, 8))


@pytest.mark.parametrize("cut", [-1, 0, 3])
def test_a_cut_follows_the_one_before(lab: Any, graphs: dict[str, Graph], cut: int) -> None:
    steps = StepSimulator(problem_of(lab, graphs["chain"]))
    steps.advance(0, (0, 2, 4, 8))
    with pytest.raises(StrategyError, match=rf"step: cut: found {cut}, accepted: 1 to 2"):
        steps.advance(cut, (0, 2, 4, 8))
    assert steps.volumes == 1


@pytest.mark.parametrize("rows", [(0, 8), (0, 2, 4, 7), (1, 2, 4, 8), (0, 5, 4, 8), (0, -1, 4, 8), (0, 2, 4, 6, 8)])
def test_rows_cover_the_reference(lab: Any, graphs: dict[str, Graph], rows: tuple[int, ...]) -> None:
    steps = StepSimulator(problem_of(lab, graphs["chain"]))
    with pytest.raises(StrategyError, match=r"step: rows: .*4 cut points from 0 to 8 that never fall"):
        steps.advance(0, rows)


def test_the_last_volume_ends_the_body(lab: Any, graphs: dict[str, Graph]) -> None:
    steps = StepSimulator(problem_of(lab, graphs["chain"]))
    steps.advance(1, (0, 2, 4, 8))
    with pytest.raises(StrategyError, match="the last volume must end the body"):
        steps.finish(0)


def test_what_steps_cannot_price_is_named(lab: Any) -> None:
    graph = lab.chain(2)
    problem = Problem(graph, lab.cluster([lab.profile(graph, 1e-3)], Link(1e6)))
    with pytest.raises(Unsupported, match="boundary first"):
        StepSimulator(problem, boundary_first=True)
