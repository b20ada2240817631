"""The planner `agent` as a whole."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys

import pytest

from distredge.cluster import Link, Requester, load_cluster
from distredge.errors import Infeasible
from distredge.latency import offload_latency_s, simulate
from distredge.model.graph import Graph
from distredge.planners import plan
from distredge.planners.annealing.lowest_latency import Search
from distredge.planners.budget import Budget
from distredge.planners.search import agents_starts
from distredge.problem import Problem


@pytest.mark.parametrize("case", ["db-50", "nd-xavier", "ld", "halp-pi4"])
@pytest.mark.parametrize("published", [True, False])
def test_is_never_worse_than_the_best_device(vgg: Graph, case: str, published: bool) -> None:
    problem = (Problem.as_published if published else Problem.lossless)(vgg, load_cluster(case, [vgg]))
    strategy = plan(problem, "agent", budget_s=1.0)
    assert strategy.planner.method == "agent"
    offload_s = offload_latency_s(problem)
    assert simulate(problem, strategy).latency_s <= offload_s * (1 + 1e-9)
    # What it says comes from the kernel: the simulator agrees.
    assert strategy.predicted["latency_s"] == pytest.approx(simulate(problem, strategy).latency_s, rel=1e-9)
    assert strategy.predicted["offload_latency_s"] == pytest.approx(offload_s, rel=1e-9)


def _with_room(graph: Graph) -> Problem:
    """Four Pi 4 behind links so fast that distributing pays even for a small model."""
    cluster = load_cluster("halp-pi4", [graph])
    first = dataclasses.replace(cluster.devices[0], uplink=Link(1e9), downlink=Link(1e9))
    devices = tuple(dataclasses.replace(first, name=f"pi-{k}") for k in range(4))
    requester = Requester(uplink=Link(1e9), downlink=Link(1e9))
    return Problem.as_published(graph, dataclasses.replace(cluster, devices=devices, requester=requester))


def test_is_near_a_long_search_where_distributing_pays(vgg: Graph) -> None:
    problem = _with_room(vgg)
    found = plan(problem, "agent", evaluations=20_000).predicted["latency_s"]
    searched = plan(problem, "search", evaluations=200_000).predicted["latency_s"]
    assert searched < 0.9 * offload_latency_s(problem)
    assert found <= 1.1 * searched


def test_evaluations_give_the_same_bytes(problem: Problem) -> None:
    one, same = (plan(problem, "agent", seed=3, evaluations=3_000).to_json() for _ in range(2))
    assert one == same


def test_a_budget_of_one_evaluation_gives_a_strategy(problem: Problem) -> None:
    strategy = plan(problem, "agent", evaluations=1)
    assert strategy.predicted["latency_s"] > 0


def test_one_device_is_enough(vgg: Graph) -> None:
    cluster = load_cluster("db-50", [vgg])
    problem = Problem(vgg, dataclasses.replace(cluster, devices=cluster.devices[:1]))
    strategy = plan(problem, "agent")
    assert strategy.predicted["latency_s"] == pytest.approx(offload_latency_s(problem), rel=1e-9)


def test_says_that_search_plans_where_it_does_not_apply(vgg: Graph, caplog: pytest.LogCaptureFixture) -> None:
    cluster = load_cluster("ld", [vgg])
    more = (*cluster.devices, dataclasses.replace(cluster.devices[0], name="one-more"))
    problem = Problem(vgg, dataclasses.replace(cluster, devices=more))
    with caplog.at_level(logging.WARNING):
        strategy = plan(problem, "agent", evaluations=3_000)
    assert strategy.planner.method == "search"
    assert "up to 16 devices" in caplog.text
    with caplog.at_level(logging.WARNING):
        strategy = plan(dataclasses.replace(problem, objective="throughput"), "agent", evaluations=500)
    assert "throughput" in caplog.text


def test_nobody_in_reach(vgg: Graph) -> None:
    cluster = load_cluster("db-50", [vgg])
    down = dataclasses.replace(cluster.devices[0].uplink, rate_bps=0.0)
    nobody = tuple(dataclasses.replace(d, uplink=down, downlink=down) for d in cluster.devices)
    with pytest.raises(Infeasible):
        plan(Problem(vgg, dataclasses.replace(cluster, devices=nobody)), "agent", evaluations=1_000)


def test_search_begins_from_what_the_agent_proposes(vgg: Graph) -> None:
    problem = _with_room(vgg)
    search = Search(problem, Budget(evaluations=20_000), 0, more_starts=agents_starts)
    given = agents_starts(search.pricer)
    assert len(given.cuts) > 0
    best_given_s = search.pricer.price(given, again=True).min()
    search.run()
    assert search.latency_s <= best_given_s
    small = Search(problem, Budget(evaluations=100), 0)
    assert len(agents_starts(small.pricer).cuts) == 0


def test_planning_needs_no_torch() -> None:
    command = (
        "import json, sys, distredge as de\n"
        "from distredge.model import zoo\n"
        "graph = zoo.build('vgg16', (1, 3, 64, 64), width=0.25)\n"
        "problem = de.Problem.as_published(graph, de.load_cluster('db-50', [graph]))\n"
        "strategy = de.plan(problem, 'agent')\n"
        "heavy = {'torch', 'gymnasium', 'stable_baselines3'} & {*sys.modules}\n"
        "print(json.dumps([strategy.planner.method, sorted(heavy)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=240)
    assert json.loads(done.stdout) == ["agent", []]
