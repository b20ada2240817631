"""Volumes that compute and send first what others wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from distredge.cluster import Link
from distredge.latency import evaluate, simulate
from distredge.latency.costs.boundary_first import strip_seconds
from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out
from distredge.problem import Problem
from distredge.strategy import Strategy
from distredge.timeline import Span

ROW_S, RATE = 1e-3, 1e6


def case(
    lab: Any,
    graph: Graph,
    volumes: Sequence[tuple[int, Sequence[int]]],
    first: Sequence[bool],
    links: Link | None = None,
    **profile: Any,
) -> tuple[Problem, Strategy]:
    """Boards of 1 ms per row; `first` says which volumes send their boundary first."""
    board = lab.profile(graph, ROW_S, **profile)
    problem = Problem(graph, lab.cluster([board] * (len(volumes[0][1]) - 1), links or Link(RATE)))
    strategy = lab.strategy(problem, volumes)
    made = (replace(v, boundary_first=b) for v, b in zip(strategy.volumes, first, strict=True))
    return problem, strategy.replace(volumes=tuple(made))


def strips(problem: Problem, strategy: Strategy) -> dict[tuple[int, int], tuple[float, float]]:
    return strip_seconds(problem, lay_out(problem.graph, strategy))


def test_strips_recompute_their_halo(lab: Any) -> None:
    # a's last row, 9, needs rows 8 to 10 of the convolution before; its other nine need rows 0 to 9.
    graph = lab.chain(3, height=20)
    problem, strategy = case(lab, graph, [(1, (0, 10, 20)), (2, (0, 10, 20))], [True, True])
    lead, whole = (1 + 3) * ROW_S, (1 + 3 + 9 + 10) * ROW_S
    assert strips(problem, strategy) == {(0, k): (pytest.approx(lead), pytest.approx(whole)) for k in (0, 1)}
    timeline = simulate(problem, strategy)
    assert timeline.latency_s == evaluate(problem, strategy)

    def of(lane: str, stage: int, peer: str = "") -> Span:
        (found,) = [s for s in timeline.spans if (s.device, s.lane, s.stage, s.peer) == ("a", lane, stage, peer)]
        return found

    first, halo, second = of("compute", 0), of("send", 1, "b"), of("compute", 1)
    assert first.length_s == pytest.approx(whole)
    assert halo.start_s == pytest.approx(first.start_s + lead)
    # The halo arrives while a still computes: it goes on at once.
    assert halo.stop_s < first.stop_s == second.start_s


def test_every_strip_pays_the_overhead_of_a_part(lab: Any) -> None:
    graph = lab.chain(2, height=30)
    problem, strategy = case(
        lab, graph, [(0, (0, 10, 20, 30)), (1, (0, 10, 20, 30))], [True, False], segments=(1.0, 0.5)
    )
    found = strips(problem, strategy)
    assert found[0, 0] == found[0, 2] == pytest.approx((0.5 + ROW_S, 1.0 + 10 * ROW_S))
    # In the middle both neighbours wait.
    assert found[0, 1] == pytest.approx((1.0 + 2 * ROW_S, 1.5 + 10 * ROW_S))
    assert set(found) == {(0, 0), (0, 1), (0, 2)}


@pytest.mark.parametrize(
    ("rows", "why"),
    [((0, 1, 20), "the share is the strip"), ((0, 0, 20), "nobody waits"), ((0, 20, 20), "nobody waits")],
    ids=str,
)
def test_parts_without_strips_run_whole(lab: Any, rows: tuple[int, ...], why: str) -> None:
    graph = lab.chain(2, height=20)
    problem, strategy = case(lab, graph, [(0, rows), (1, rows)], [True, True])
    assert (0, 0) not in strips(problem, strategy), why


def test_the_requester_waits_for_all_of_the_last_volume(lab: Any) -> None:
    graph = lab.chain(1)
    problem, strategy = case(lab, graph, [(0, (0, 4, 8))], [True])
    plain = strategy.replace(volumes=(replace(strategy.volumes[0], boundary_first=False),))
    assert strips(problem, strategy) == {}
    assert evaluate(problem, strategy) == evaluate(problem, plain)


def test_a_volume_of_several_phases_runs_whole(lab: Any) -> None:
    problem, strategy = case(lab, lab.excited(), [(1, (0, 4, 8)), (2, (0, 4, 8))], [True, True])
    assert strips(problem, strategy) == {}


def test_only_volumes_that_say_so(lab: Any) -> None:
    graph = lab.chain(3, height=20)
    volumes = [(i, (0, 10, 20)) for i in range(3)]
    for first in ([False] * 3, [True, False, False], [False, True, False]):
        problem, strategy = case(lab, graph, volumes, first)
        assert {stage for stage, _ in strips(problem, strategy)} == {i for i, chosen in enumerate(first) if chosen}


def test_hiding_the_exchange_pays_where_links_are_slow(lab: Any) -> None:
    graph = lab.chain(4, height=20)
    volumes = [(i, (0, 10, 20)) for i in range(4)]
    slow = Link(lab.row_bits / (5 * ROW_S))
    hidden, plain = (evaluate(*case(lab, graph, volumes, [b] * 4, slow)) for b in (True, False))
    # Three exchanges of 5 ms each are hidden behind the other nine rows.
    assert plain - hidden == pytest.approx(3 * 5 * ROW_S)
