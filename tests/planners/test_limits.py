"""What holds for every method: limits, objectives that cannot be weighed, and what `auto` says about one device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from distredge.cluster import Cluster, load_cluster
from distredge.errors import ConfigError, Infeasible, PlannerError
from distredge.latency import offload_latency_s
from distredge.model.graph import Graph
from distredge.planners import METHODS, plan
from distredge.planners.budget import Budget
from distredge.planners.other_objectives.one_objective import has_watts
from distredge.planners.other_objectives.pareto import pareto
from distredge.problem import Problem


@pytest.fixture
def cluster(vgg: Graph) -> Cluster:
    return load_cluster("na-nano", [vgg])


def _with(cluster: Cluster, change: Callable[[int], dict[str, object]]) -> Cluster:
    devices = (dataclasses.replace(d, **change(k)) for k, d in enumerate(cluster.devices))  # type: ignore[arg-type]
    return dataclasses.replace(cluster, devices=tuple(devices))


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"distredge"}))
def test_no_method_returns_a_plan_that_is_too_slow(vgg: Graph, cluster: Cluster, method: str) -> None:
    with pytest.raises(Infeasible, match=r"limit|latency"):
        plan(Problem(vgg, cluster, latency_limit_s=1e-6), method, evaluations=30)


@pytest.mark.parametrize("method", ["offload", "modnn", "deepthings", "dpfp", "search", "auto"])
def test_no_method_returns_a_plan_that_exceeds_memory(vgg: Graph, cluster: Cluster, method: str) -> None:
    small = _with(cluster, lambda k: {"memory_bytes": 1_000_000})
    with pytest.raises(Infeasible, match="memory"):
        plan(Problem(vgg, small, respect_memory=True), method, evaluations=30)


def test_a_plan_at_the_limit_is_returned(vgg: Graph, cluster: Cluster) -> None:
    free = Problem(vgg, cluster)
    limited = dataclasses.replace(free, latency_limit_s=offload_latency_s(free))
    assert plan(limited, "offload").predicted["latency_s"] == offload_latency_s(free)


@pytest.mark.parametrize("method", ["offload", "search", "auto"])
def test_a_board_without_watts_does_not_count_as_one_that_draws_none(vgg: Graph, cluster: Cluster, method: str) -> None:
    profile = load_cluster("this-machine", [vgg]).devices[0].profile
    assert profile.busy_w is None
    mixed = _with(cluster, lambda k: {"profile": profile} if k == 1 else {})
    problem = Problem(vgg, mixed)
    assert not has_watts(problem)
    with pytest.raises(PlannerError, match=f"energy: the profiles of {mixed.names[1]} in cluster"):
        plan(dataclasses.replace(problem, objective="energy"), method, evaluations=30)
    assert pareto(problem, Budget(evaluations=200), 0)


def test_auto_does_not_speak_of_distributing_over_one_device(vgg: Graph, cluster: Cluster) -> None:
    alone = dataclasses.replace(cluster, devices=cluster.devices[:1])
    reason = str(plan(Problem(vgg, alone), evaluations=200).planner.settings["reason"])
    assert "distributed strategy" not in reason
    assert reason.endswith("nothing found is better")


@pytest.mark.parametrize("method", ["offload", "search"])
def test_a_model_whose_parts_are_rounded_differently_is_planned_only_where_that_is_allowed(
    vgg: Graph, cluster: Cluster, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vgg, "lossy_because", "output 'y' is rounded to float16")
    with pytest.raises(ConfigError, match=r"output 'y' is rounded to float16: every split of it is lossy; .*--allow-l"):
        plan(Problem(vgg, cluster), method, evaluations=30)
    assert not plan(Problem(vgg, cluster, allow_lossy=True), method, evaluations=30).lossless
    with pytest.raises(ConfigError, match="every split of it is lossy"):
        pareto(Problem(vgg, cluster), Budget(evaluations=30), 0)
