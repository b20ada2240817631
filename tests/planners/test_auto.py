from __future__ import annotations

import dataclasses

import pytest

from distredge.cluster import Link, load_cluster
from distredge.errors import Infeasible, PlannerError
from distredge.latency import offload_latency_s, simulate
from distredge.latency.simulator.figures import measure
from distredge.model.graph import Graph
from distredge.planners import METHODS, plan
from distredge.planners.auto import QUICK
from distredge.problem import Problem


@pytest.mark.parametrize("case", ["da-50", "dc-300", "na-nano", "lb"])
@pytest.mark.parametrize("evaluations", [1, 40])
def test_never_worse_than_offload(vgg: Graph, case: str, evaluations: int) -> None:
    problem = Problem(vgg, load_cluster(case))
    strategy = plan(problem, evaluations=evaluations)
    assert simulate(problem, strategy).latency_s <= offload_latency_s(problem)


@pytest.mark.parametrize("method", ["search", "auto"])
def test_same_seed_and_evaluations_give_the_same_bytes(problem: Problem, method: str) -> None:
    first = plan(problem, method, evaluations=120, seed=7)
    assert first.to_json() == plan(problem, method, evaluations=120, seed=7).to_json()


def test_says_why_in_one_sentence(problem: Problem) -> None:
    settings = plan(problem, evaluations=40).planner.settings
    assert settings["chosen"] in (*QUICK, "search")
    reason = str(settings["reason"])
    assert "best single device" in reason
    assert "\n" not in reason


def test_more_evaluations_are_not_worse(problem: Problem) -> None:
    seconds = [plan(problem, "search", evaluations=n).predicted["latency_s"] for n in (10, 60, 300)]
    assert seconds == sorted(seconds, reverse=True)


def test_asks_for_the_host_of_workers_of_one_computer(vgg: Graph) -> None:
    cluster = load_cluster("this-machine")
    apart = tuple(dataclasses.replace(device, host=None) for device in cluster.devices)
    unsaid = dataclasses.replace(cluster, link_model="independent", devices=apart)
    strategy = plan(Problem(vgg, unsaid), evaluations=3_000)
    assert len(strategy.devices) > 1
    assert f"its {len(strategy.devices)} workers run on one computer: name it as their host" in str(
        strategy.planner.settings["reason"]
    )
    for named in (cluster, load_cluster("db-50")):
        assert "one computer" not in str(plan(Problem(vgg, named), evaluations=40).planner.settings["reason"])


def test_workers_that_share_one_core_are_one_worker(vgg: Graph) -> None:
    cluster = load_cluster("this-machine")
    for cores, workers in ((1, 1), (4, 4)):
        problem = Problem.lossless(vgg, dataclasses.replace(cluster, hosts={"this-machine": cores}))
        strategy = plan(problem, evaluations=20_000)
        assert len(strategy.devices) <= workers
        assert (strategy.planner.settings["chosen"] == "offload") == (cores == 1)


def test_says_when_distributing_does_not_pay(vgg: Graph) -> None:
    cluster = load_cluster("db-50")
    slow = Link(1e3)
    devices = tuple(dataclasses.replace(d, uplink=slow, downlink=slow) for d in cluster.devices[1:])
    problem = Problem(vgg, dataclasses.replace(cluster, devices=(cluster.devices[0], *devices)))
    strategy = plan(problem, evaluations=3_000)
    assert strategy.planner.settings["chosen"] == "offload"
    assert strategy.planner.settings["reason"].startswith("distributing does not pay here")


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("search", "auto", "distredge")])
def test_no_published_planner_beats_it(vgg: Graph, method: str) -> None:
    problem = Problem(vgg, load_cluster("na-xavier"))
    try:
        other = plan(problem, method, evaluations=30)
    except PlannerError:
        return
    assert plan(problem, evaluations=20_000).predicted["latency_s"] <= other.predicted["latency_s"] * 1.001


def test_a_limit_that_cannot_be_met_says_what_came_closest(vgg: Graph) -> None:
    with pytest.raises(Infeasible, match="closest"):
        plan(Problem(vgg, load_cluster("db-50"), latency_limit_s=1e-6), evaluations=500)


def test_goes_by_the_objective(vgg: Graph) -> None:
    problem = Problem(vgg, load_cluster("na-nano"), objective="throughput")
    strategy = plan(problem, evaluations=150)
    alone = plan(problem, "offload")
    assert measure(problem, strategy).period_s <= measure(problem, alone).period_s
    assert "between images" in strategy.planner.settings["reason"]
