"""Options that a method does not know, given to its strategy."""

from __future__ import annotations

import dataclasses

import pytest

from distredge.cluster import load_cluster
from distredge.latency import evaluate
from distredge.model.graph import Graph
from distredge.planners import plan
from distredge.planners.budget import Budget
from distredge.planners.common.converting import converted
from distredge.problem import Problem


@pytest.mark.parametrize("method", ["modnn", "aofl", "deeperthings"])
def test_only_what_computes_first_changes_and_only_where_it_is_faster(vgg: Graph, method: str) -> None:
    cluster = load_cluster("db-300")
    plain = plan(Problem.lossless(vgg, cluster, boundary_first=False), method, evaluations=10_000)
    problem = Problem.lossless(vgg, cluster)
    found = converted(problem, plain, Budget(evaluations=10_000))
    as_they_were = [dataclasses.replace(volume, boundary_first=False) for volume in found.volumes]
    assert found.replace(volumes=tuple(as_they_were)) == plain
    assert evaluate(problem, found) <= evaluate(problem, plain)
    by_command = plan(problem, method, evaluations=10_000)
    assert by_command.volumes == found.volumes


def test_it_pays_for_a_strategy_of_many_exchanges(vgg: Graph) -> None:
    problem = Problem.lossless(vgg, load_cluster("db-300"))
    plain = plan(dataclasses.replace(problem, boundary_first=False), "modnn")
    found = converted(problem, plain, Budget(evaluations=10_000))
    assert any(volume.boundary_first for volume in found.volumes)
    assert evaluate(problem, found) < evaluate(problem, plain)


def test_nothing_is_priced_where_nothing_is_offered_or_more_than_the_latency_counts(vgg: Graph) -> None:
    cluster = load_cluster("db-300")
    strategy = plan(Problem(vgg, cluster), "modnn")
    alone = plan(Problem(vgg, cluster), "offload")
    free = Problem.lossless(vgg, cluster)
    cases = [
        (Problem(vgg, cluster), strategy),
        (dataclasses.replace(free, objective="throughput"), strategy),
        (free, alone),
    ]
    for problem, given in cases:
        budget = Budget(evaluations=5)
        assert converted(problem, given, budget) is given
        assert budget.done == 0


def test_a_method_that_overlaps_by_itself_keeps_its_own_choice(vgg: Graph) -> None:
    problem = Problem.lossless(vgg, load_cluster("db-300"))
    strategy = plan(dataclasses.replace(problem, boundary_first=False), "modnn")
    assert converted(problem, strategy, Budget(evaluations=50), overlaps=True) is strategy


def test_the_budget_ends_it(vgg: Graph) -> None:
    problem = Problem.lossless(vgg, load_cluster("db-300"))
    strategy = plan(dataclasses.replace(problem, boundary_first=False), "modnn")
    budget = Budget(evaluations=4)
    assert evaluate(problem, converted(problem, strategy, budget)) <= evaluate(problem, strategy)
    assert budget.done == 4
