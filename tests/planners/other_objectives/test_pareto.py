from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from distredge.cluster import Cluster, Link, load_cluster
from distredge.errors import Infeasible, PlannerError, Unsupported
from distredge.latency import offload_latency_s, simulate
from distredge.latency.kernel.kernel import kernel_of
from distredge.latency.simulator.figures import Figures, measure
from distredge.model.graph import Graph
from distredge.planners import plan
from distredge.planners.annealing.encoding import Codec
from distredge.planners.annealing.starts import starts
from distredge.planners.annealing.strategy_arrays import Batch
from distredge.planners.budget import Budget, PlanningProgress
from distredge.planners.objectives import Point, is_feasible, unbeaten, value
from distredge.planners.other_objectives.aimed_search import AimedSearch
from distredge.planners.other_objectives.batch_figures import FiguresPricer
from distredge.planners.other_objectives.one_objective import has_watts
from distredge.planners.other_objectives.pareto import MOST_POINTS, front, pareto, spread
from distredge.problem import Objective, Problem


@pytest.fixture
def cluster(vgg: Graph) -> Cluster:
    return load_cluster("na-nano", [vgg])


def test_figures_are_the_simulators(vgg: Graph, cluster: Cluster) -> None:
    problem = Problem(vgg, cluster, boundary_first=True)
    strategy = plan(problem, "search", evaluations=5_000)
    first = [dataclasses.replace(v, boundary_first=True) for v in strategy.volumes]
    strategy = strategy.replace(volumes=tuple(first))
    figures, timeline = measure(problem, strategy), simulate(problem, strategy)
    assert figures.latency_s == timeline.latency_s
    assert figures.energy_j == pytest.approx(sum(timeline.energy_j.values()))


def test_period_is_what_many_images_in_flight_come_to(vgg: Graph, cluster: Cluster) -> None:
    problem = Problem(vgg, cluster, objective="throughput")
    strategy = plan(problem, "search", evaluations=60)
    timeline = simulate(problem, strategy, frames=200, in_flight=30)
    mean_s = max(span.stop_s for span in timeline.spans) / 200
    period_s = measure(problem, strategy).period_s
    assert period_s < mean_s < 1.1 * period_s


def test_throughput_is_better_than_that_of_the_fastest_plan(vgg: Graph, cluster: Cluster) -> None:
    problem = Problem(vgg, cluster, objective="throughput")
    fastest = plan(Problem(vgg, cluster), "search", evaluations=20_000)
    found = plan(problem, "search", evaluations=300)
    assert measure(problem, found).period_s < measure(problem, fastest).period_s


@pytest.mark.parametrize("objective", ["throughput", "energy"])
def test_the_seed_decides_what_is_found(vgg: Graph, cluster: Cluster, objective: Objective) -> None:
    problem = Problem(vgg, cluster, objective=objective)
    one, again = (plan(problem, "search", evaluations=20_000, seed=3).to_json() for _ in range(2))
    assert one == again


def test_the_seed_decides_the_front(vgg: Graph, cluster: Cluster) -> None:
    problem = Problem(vgg, cluster)
    one, again = ([p.strategy.to_json() for p in pareto(problem, Budget(evaluations=30_000), 1)] for _ in range(2))
    assert one == again


def test_more_budget_finds_no_less_throughput(vgg: Graph, cluster: Cluster) -> None:
    problem = Problem(vgg, cluster, objective="throughput")
    short, long = (measure(problem, plan(problem, "search", evaluations=n)).period_s for n in (300, 60_000))
    assert long < short


def test_what_only_the_simulator_prices_is_walked_one_by_one(vgg: Graph, cluster: Cluster) -> None:
    fast = Link(1e9, None, 0.0)
    devices = tuple(dataclasses.replace(d, uplink=fast, downlink=fast) for d in cluster.devices)
    medium = dataclasses.replace(cluster, devices=devices, shared_medium=True)
    problem = Problem(vgg, medium, objective="throughput")
    with pytest.raises(Unsupported):
        kernel_of(problem)
    alone = measure(problem, plan(problem, "offload"))
    assert measure(problem, plan(problem, "search", evaluations=200)).period_s < alone.period_s
    assert len(pareto(problem, Budget(evaluations=200), 0)) > 1


@pytest.mark.parametrize("reports", [1, 2, 5])
def test_an_interrupt_returns_what_was_found(vgg: Graph, cluster: Cluster, reports: int) -> None:
    problem = Problem(vgg, cluster)
    seen: list[PlanningProgress] = []

    def interrupt(progress: PlanningProgress) -> None:
        seen.append(progress)
        if len(seen) == reports:
            raise KeyboardInterrupt

    budget = Budget(evaluations=10**9, progress=interrupt)
    points = pareto(problem, budget, 0)
    assert points
    assert budget.interrupted
    assert budget.spent() < 1


def test_limit_on_latency_holds_and_costs_throughput(vgg: Graph, cluster: Cluster) -> None:
    free = Problem(vgg, cluster, objective="throughput")
    limit_s = 1.05 * offload_latency_s(free)
    limited = dataclasses.replace(free, latency_limit_s=limit_s)
    found = plan(limited, "search", evaluations=200)
    assert found.predicted["latency_s"] <= limit_s
    assert measure(free, found).period_s >= measure(free, plan(free, "search", evaluations=200)).period_s


def test_energy_under_a_limit_on_latency(vgg: Graph, cluster: Cluster) -> None:
    problem = Problem(vgg, cluster, objective="energy")
    assert has_watts(problem)
    fastest = plan(Problem(vgg, cluster), "search", evaluations=20_000)
    limit_s = 1.05 * offload_latency_s(problem)
    found = plan(dataclasses.replace(problem, latency_limit_s=limit_s), "search", evaluations=200)
    assert found.predicted["latency_s"] <= limit_s
    assert measure(problem, found).energy_j <= measure(problem, fastest).energy_j


def test_energy_without_watts_is_refused(vgg: Graph) -> None:
    with pytest.raises(PlannerError, match="watts"):
        plan(Problem(vgg, load_cluster("this-machine", [vgg]), objective="energy"), "search", evaluations=20)


def test_memory_limits_hold_or_say_what_came_closest(vgg: Graph, cluster: Cluster) -> None:
    def with_memory(size_bytes: int) -> Problem:
        devices = tuple(dataclasses.replace(d, memory_bytes=size_bytes) for d in cluster.devices)
        return Problem(vgg, dataclasses.replace(cluster, devices=devices), respect_memory=True)

    alone = measure(with_memory(1), plan(Problem(vgg, cluster), "offload"))
    need_bytes = alone.excess_bytes + 1
    problem = with_memory(need_bytes - 1)
    strategy = plan(problem, "search", evaluations=200)
    peaks = simulate(problem, strategy).peak_memory_bytes
    assert len(strategy.devices) > 1
    assert max(peaks.values()) < need_bytes
    with pytest.raises(Infeasible, match=r"MB too much"):
        plan(with_memory(1_000), "search", evaluations=100)


def test_where_memory_counts_starts_are_priced_in_a_part_of_the_budget(
    vgg: Graph, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tuple(dataclasses.replace(d, memory_bytes=10**9) for d in cluster.devices)
    problem = Problem(vgg, dataclasses.replace(cluster, devices=small), respect_memory=True)
    now, volumes = 0.0, list[set[int]]()
    budget = Budget(1.0, clock=lambda: now)
    run = AimedSearch(FiguresPricer(Codec(problem), budget), 0, [(1.0, 0.0, 0.0)], 1, 0.25)
    figures = run.pricer.figures

    def slow(batch: Batch) -> np.ndarray:
        nonlocal now
        now += 0.1
        volumes.append(set((batch.cuts >= 0).sum(axis=1).tolist()))
        return figures(batch)

    monkeypatch.setattr(run.pricer, "figures", slow)
    batch, found = run._priced(starts(run.codec)[0])
    assert volumes == [{1}, {2}, {3}]
    assert len(batch.cuts) == len(found)
    assert np.isfinite(found).all()


def test_front_holds_no_point_that_another_one_beats(vgg: Graph, cluster: Cluster) -> None:
    problem = Problem(vgg, cluster)
    points = pareto(problem, Budget(evaluations=900), 0)
    for one in points:
        assert measure(problem, one.strategy) == one.figures
        for other in points:
            if other is not one:
                a, b = other.figures, one.figures
                assert a.latency_s > b.latency_s or a.period_s > b.period_s or a.energy_j > b.energy_j
    assert [p.figures.latency_s for p in points] == sorted(p.figures.latency_s for p in points)
    assert len(points) > 1


def test_front_is_dense(vgg: Graph, cluster: Cluster) -> None:
    """Between the fastest and what is best in throughput no stretch of the latency is left out."""
    problem = Problem(vgg, cluster)
    points = pareto(problem, Budget(evaluations=100_000), 0)
    assert 20 <= len(points) <= MOST_POINTS
    best = min(points, key=lambda p: p.figures.period_s)
    latencies = np.log([p.figures.latency_s for p in points if p.figures.latency_s <= best.figures.latency_s])
    assert np.diff(latencies).max() < 0.35 * np.ptp(latencies)


def test_fronts_without_watts_are_of_two_objectives(vgg: Graph) -> None:
    problem = Problem(vgg, load_cluster("this-machine", [vgg]))
    points = pareto(problem, Budget(evaluations=60_000), 0)
    assert {p.figures.energy_j for p in points} == {0.0}
    periods = [p.figures.period_s for p in points]
    assert periods == sorted(periods, reverse=True)


def test_narrow_wires_are_kept_only_where_they_gain(vgg: Graph, cluster: Cluster) -> None:
    problem = Problem(vgg, cluster, wires=("float32", "float16"), allow_lossy=True, objective="energy")
    strategy = plan(problem, "search", evaluations=20_000)
    wide = strategy.replace(volumes=tuple(dataclasses.replace(v, wire="float32") for v in strategy.volumes))
    assert strategy.lossless or measure(problem, wide).energy_j > measure(problem, strategy).energy_j


def test_spread_keeps_the_best_in_each_column_and_what_is_apart() -> None:
    rows = np.array([[1.0, 9.0], [1.001, 8.99], [2.0, 5.0], [3.0, 3.0], [9.0, 1.0]])
    assert spread(rows, 2).tolist() == [0, 4]
    assert spread(rows, 10).tolist() == [0, 2, 3, 4]
    assert spread(rows[:1], 10).tolist() == [0]


def test_unbeaten_of_made_up_rows() -> None:
    rows = np.array([[2.0, 2.0], [1.0, 3.0], [2.0, 3.0], [1.0, 3.0], [3.0, 1.0]])
    assert unbeaten(rows).tolist() == [1, 0, 4]


def test_front_of_made_up_points(vgg: Graph, cluster: Cluster) -> None:
    strategy = plan(Problem(vgg, cluster), "offload")
    made = [(1.0, 5.0, 3.0), (2.0, 5.0, 3.0), (2.0, 4.0, 9.0), (3.0, 4.0, 2.0), (4.0, 4.5, 2.5), (1.0, 5.0, 3.0)]
    kept = front([Point(strategy, Figures(*figures)) for figures in made])
    assert [(p.figures.latency_s, p.figures.period_s, p.figures.energy_j) for p in kept] == [made[0], made[2], made[3]]


def test_front_respects_limits(vgg: Graph, cluster: Cluster) -> None:
    problem = Problem(vgg, cluster)
    limited = dataclasses.replace(problem, latency_limit_s=offload_latency_s(problem))
    points = pareto(limited, Budget(evaluations=200), 0)
    assert all(p.figures.latency_s <= offload_latency_s(problem) for p in points)
    with pytest.raises(Infeasible, match="closest"):
        pareto(dataclasses.replace(problem, latency_limit_s=1e-6), Budget(evaluations=100), 0)


def test_value_ranks_whatever_is_feasible_before_what_is_not(vgg: Graph, cluster: Cluster) -> None:
    problem = Problem(vgg, cluster, objective="throughput", latency_limit_s=1.0, respect_memory=True)
    ranked = [
        Figures(1.0, 2.0),
        Figures(0.5, 1e6),
        Figures(1.1, 0.1),
        Figures(0.5, 0.1, excess_bytes=10**9),
        Figures(math.inf),
    ]
    values = [value(problem, figures) for figures in ranked]
    assert values == sorted(values)
    assert [is_feasible(v) for v in values] == [True, True, False, False, False]
