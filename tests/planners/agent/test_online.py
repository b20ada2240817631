"""Planning while links change: known plans at new rates, and the rest of an image that is under way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from distredge.cluster import load_cluster
from distredge.errors import ClusterError, ConfigError, Infeasible, StrategyError, Unsupported
from distredge.latency import evaluate
from distredge.latency.kernel.kernel import Kernel
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.rows import even_cuts
from distredge.planners.agent.online import PlanMemory, at_rates, descend, implied_rates, remaining, with_failures
from distredge.problem import Problem
from distredge.strategy import Strategy

RATES = np.array([60e6, 50e6, 70e6, 80e6])


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.25)


@pytest.fixture(scope="module")
def problem(graph: Graph) -> Problem:
    return Problem.as_published(graph, at_rates(load_cluster("dynamic-nano", [graph]), RATES))


def _even(problem: Problem, *cuts: int) -> Strategy:
    graph, names = problem.graph, problem.cluster.names
    volumes = [(cut, even_cuts(graph.cuts[cut].height, len(names))) for cut in cuts]
    return Strategy.make(graph, names, volumes, head=names[0])


def _plan(problem: Problem) -> Strategy:
    last = len(problem.graph.cuts) - 1
    return _even(problem, last // 3, 2 * last // 3, last)


def _finish_s(problem: Problem, strategy: Strategy, done: int, rates: NDArray[np.float64]) -> list[float]:
    kernel = Kernel(problem.graph, (at_rates(problem.cluster, rates),))
    encoded = kernel.encode([strategy])
    encoded["cuts"][:, done:] = -1
    finish_s, _ = kernel.finish_s(**encoded)
    return [float(seconds) for seconds in finish_s[0]]


def test_rates_take_the_place_of_traces_and_nothing_else_changes(graph: Graph) -> None:
    before = load_cluster("dynamic-nano", [graph])
    after = at_rates(before, [(10e6, 20e6)] * 4)
    for old, new in zip(before.devices, after.devices, strict=True):
        assert (new.uplink.rate_bps, new.downlink.rate_bps) == (10e6, 20e6)
        assert new.uplink == dataclasses.replace(old.uplink, trace=None, rate_bps=10e6)
        assert new.profile is old.profile


@given(factors=st.lists(st.floats(0.05, 3.0), min_size=4, max_size=4))
def test_rates_are_read_off_the_times_of_a_volume(problem: Problem, factors: list[float]) -> None:
    plan, true = _plan(problem), RATES * np.array(factors)
    found = implied_rates(problem, plan, 1, _finish_s(problem, plan, 1, true), RATES)
    np.testing.assert_allclose(found, np.stack((true, true), axis=1), rtol=0.02)


def test_a_device_that_has_done_nothing_keeps_its_estimate(problem: Problem) -> None:
    graph, names = problem.graph, problem.cluster.names
    cut, last = 2, len(graph.cuts) - 1
    height = graph.cuts[cut].height
    volumes = [(cut, [0, height // 2, height, height, height]), (last, even_cuts(graph.cuts[last].height, 4))]
    plan = Strategy.make(graph, names, volumes, head=names[0])
    found = implied_rates(problem, plan, 1, _finish_s(problem, plan, 1, RATES / 2), RATES)
    np.testing.assert_allclose(found[:, 0], RATES * [0.5, 0.5, 1, 1], rtol=0.02)


@pytest.mark.parametrize("done", [1, 2])
def test_the_rest_of_an_image_leaves_a_link_that_has_failed(problem: Problem, done: int) -> None:
    plan, true = _plan(problem), RATES * [1, 1, 0.03, 1]
    found = remaining(problem, plan, done, _finish_s(problem, plan, done, true), RATES)
    assert found.volumes[:done] == plan.volumes[:done]
    assert [v.ends_at for v in found.volumes] == [v.ends_at for v in plan.volumes]
    found.check(problem.graph)
    now = dataclasses.replace(problem, cluster=at_rates(problem.cluster, true))
    if done == 1:
        assert evaluate(now, found) < 0.9 * evaluate(now, plan)
    assert evaluate(now, found) <= evaluate(now, plan) * (1 + 1e-6)


@given(factors=st.lists(st.floats(0.1, 2.0), min_size=4, max_size=4), done=st.integers(0, 3))
def test_a_descent_is_never_worse_and_keeps_what_is_done(problem: Problem, factors: list[float], done: int) -> None:
    plan = _plan(problem)
    now = dataclasses.replace(problem, cluster=at_rates(problem.cluster, RATES * np.array(factors)))
    found = descend(Kernel(now.graph, (now.cluster,)), now, plan, done)
    found.check(problem.graph)
    assert found.volumes[:done] == plan.volumes[:done]
    assert evaluate(now, found) <= evaluate(now, plan) * (1 + 1e-9)


def test_what_cannot_be_decided_anew_is_refused(problem: Problem) -> None:
    plan = _plan(problem)
    for done in (0, 3):
        with pytest.raises(StrategyError, match=r"done: found \d, accepted: 1 to 2 volumes"):
            remaining(problem, plan, done, [0.1] * 4, RATES)
    first = dataclasses.replace(plan.volumes[0], boundary_first=True)
    with pytest.raises(Unsupported, match="boundary first"):
        remaining(problem, plan.replace(volumes=(first, *plan.volumes[1:])), 1, [0.1] * 4, RATES)


@given(rates=st.lists(st.floats(1e6, 1e9), min_size=4, max_size=4))
def test_a_memory_gives_the_fastest_of_its_plans(problem: Problem, rates: list[float]) -> None:
    last = len(problem.graph.cuts) - 1
    plans = [_plan(problem), _even(problem, last), _even(problem, 1, last)]
    memory = PlanMemory(problem)
    for plan in [*plans, plans[0]]:
        memory.add(plan)
    assert len(memory) == 3
    found, latency_s = memory.best(rates)
    now = dataclasses.replace(problem, cluster=at_rates(problem.cluster, rates))
    assert latency_s == pytest.approx(min(evaluate(now, plan) for plan in plans))
    assert evaluate(now, found) == pytest.approx(latency_s)


@pytest.mark.parametrize("shape", [(3,), (5,), (1,), (), (1, 2), (4, 1), (4, 3), (2, 4), (4, 2, 1)])
def test_rates_of_another_number_of_links_are_refused(problem: Problem, shape: tuple[int, ...]) -> None:
    plan, rates = _plan(problem), np.full(shape, 1e6)
    memory = PlanMemory(problem)
    memory.add(plan)
    for ask in (
        lambda: memory.best(rates),
        lambda: at_rates(problem.cluster, rates),
        lambda: remaining(problem, plan, 1, [0.1] * 4, rates),
    ):
        with pytest.raises(ConfigError, match=r"rates_bps: found \(.*\), accepted: shape \(4,\) or \(4, 2\)"):
            ask()


def test_rates_that_are_none_are_refused(problem: Problem) -> None:
    memory = PlanMemory(problem)
    memory.add(_plan(problem))
    for rate in (-1.0, np.nan, np.inf):
        with pytest.raises(ClusterError, match="accepted: a finite number >= 0"):
            memory.best(RATES * [1, 1, rate, 1])


def test_where_every_plan_needs_a_link_that_is_down_there_is_none(problem: Problem) -> None:
    memory, last = PlanMemory(problem), len(problem.graph.cuts) - 1
    memory.add(_plan(problem))
    for rates in (np.zeros(4), RATES * [1, 1, 0, 1]):
        with pytest.raises(Infeasible, match="each of 1 strategies needs a link that is down"):
            memory.best(rates)
    height = problem.graph.cuts[last].height
    alone = Strategy.make(
        problem.graph, problem.cluster.names, [(last, [0, *[height] * 4])], head=problem.cluster.names[0]
    )
    memory.add(alone)
    assert memory.best(RATES * [1, 1, 0, 1])[0] == alone


def test_a_plan_of_another_model_or_other_devices_is_refused(problem: Problem) -> None:
    memory = PlanMemory(problem)
    memory.add(_plan(problem))
    other = zoo.build("resnet18", (1, 3, 64, 64), width=0.25)
    with pytest.raises(StrategyError, match="for another model"):
        memory.add(_plan(Problem.as_published(other, problem.cluster)))
    renamed = [dataclasses.replace(device, name=f"other-{device.name}") for device in problem.cluster.devices]
    cluster = dataclasses.replace(problem.cluster, devices=tuple(renamed))
    with pytest.raises(ClusterError, match="has no device 'other-"):
        memory.add(_plan(Problem.as_published(problem.graph, cluster)))
    grid = _plan(problem)
    width = problem.graph.tensors[grid.volumes[0].reference].width
    columns = dataclasses.replace(grid.volumes[0], columns=(0, width))
    with pytest.raises(Unsupported, match="columns"):
        memory.add(grid.replace(volumes=(columns, *grid.volumes[1:])))
    assert len(memory) == 1
    assert np.isfinite(memory.best(RATES)[1])


def test_a_full_memory_forgets_what_was_used_the_longest_time_ago(problem: Problem) -> None:
    last = len(problem.graph.cuts) - 1
    first, second, third = _even(problem, last), _even(problem, 1, last), _even(problem, 2, last)
    memory = PlanMemory(problem, most=2)
    with pytest.raises(StrategyError, match="found no strategy"):
        memory.best(RATES)
    for plan in (first, second, first, third):
        memory.add(plan)
    now = at_rates(problem.cluster, RATES)
    expected = min((first, third), key=lambda plan: evaluate(dataclasses.replace(problem, cluster=now), plan))
    assert memory.best(RATES)[0].volumes == expected.volumes
    assert len(memory) == 2


def test_what_stays_makes_no_room(problem: Problem) -> None:
    last = len(problem.graph.cuts) - 1
    memory = PlanMemory(problem, most=1)
    memory.add(_even(problem, last), stays=True)
    for cut in (1, 2, 3):
        memory.add(_even(problem, cut, last))
    assert len(memory) == 2
    memory.add(_even(problem, last))
    assert len(memory) == 2


def test_failures_leave_one_link() -> None:
    found = with_failures([1.0, 2.0, 3.0, 4.0], 0.1)
    assert len(found) == 14 == len({tuple(row) for row in found.tolist()})
    assert all(0 < (row == 0.1).sum() < 4 for row in found)
    assert with_failures([1.0], 0.1).shape == (0, 1)
    many = with_failures(np.arange(1.0, 9.0), 0.1)
    assert sorted((many == 0.1).sum(axis=1)) == [1] * 8 + [7] * 8
