from __future__ import annotations

import pytest

from distredge.cluster import load_cluster
from distredge.latency import simulate
from distredge.model.graph import Graph
from distredge.planners import plan
from distredge.problem import Problem


@pytest.mark.parametrize("case", ["da-50", "dc-300", "na-nano", "lb"])
@pytest.mark.parametrize("evaluations", [1, 40])
def test_never_worse_than_offload(vgg: Graph, case: str, evaluations: int) -> None:
    problem = Problem(vgg, load_cluster(case))
    strategy = plan(problem, evaluations=evaluations)
    assert simulate(problem, strategy).latency_s <= problem.offload_latency_s


@pytest.mark.parametrize("method", ["search", "auto"])
def test_same_seed_and_evaluations_give_the_same_bytes(problem: Problem, method: str) -> None:
    first = plan(problem, method, evaluations=120, seed=7)
    assert first.to_json() == plan(problem, method, evaluations=120, seed=7).to_json()


def test_says_why_in_one_sentence(problem: Problem) -> None:
    settings = plan(problem, evaluations=40).planner.settings
    assert settings["chosen"] in ("offload", "deepthings", "search")
    reason = str(settings["reason"])
    assert "best single device" in reason
    assert "\n" not in reason


def test_more_evaluations_are_not_worse(problem: Problem) -> None:
    seconds = [plan(problem, "search", evaluations=n).predicted["latency_s"] for n in (10, 60, 300)]
    assert seconds == sorted(seconds, reverse=True)
