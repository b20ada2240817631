"""The planner `search` as a whole."""

from __future__ import annotations

import dataclasses

import pytest

from distredge.cluster import load_cluster
from distredge.errors import Infeasible
from distredge.latency import offload_latency_s, simulate
from distredge.model.graph import Graph
from distredge.planners import plan
from distredge.problem import Problem


def test_leaves_out_a_device_that_cannot_be_reached(vgg: Graph) -> None:
    cluster = load_cluster("db-50", [vgg])
    down = dataclasses.replace(cluster.devices[1].uplink, rate_bps=0.0)
    device = dataclasses.replace(cluster.devices[1], uplink=down, downlink=down)
    problem = Problem(vgg, dataclasses.replace(cluster, devices=(cluster.devices[0], device, *cluster.devices[2:])))
    strategy = plan(problem, "search", evaluations=5_000)
    assert device.name not in strategy.devices
    nobody = tuple(dataclasses.replace(d, uplink=down, downlink=down) for d in cluster.devices)
    with pytest.raises(Infeasible):
        plan(Problem(vgg, dataclasses.replace(cluster, devices=nobody)), "search", evaluations=100)


def test_one_device_is_enough(vgg: Graph) -> None:
    cluster = load_cluster("db-50", [vgg])
    problem = Problem(vgg, dataclasses.replace(cluster, devices=cluster.devices[:1]))
    strategy = plan(problem, "search", evaluations=2_000)
    assert strategy.predicted["latency_s"] == pytest.approx(offload_latency_s(problem), rel=1e-9)


def test_prices_what_the_kernel_does_not_by_the_simulator(vgg: Graph) -> None:
    cluster = dataclasses.replace(load_cluster("db-50", [vgg]), shared_medium=True)
    assert cluster.link_model == "independent"
    problem = Problem(vgg, cluster)
    strategy = plan(problem, "search", evaluations=60)
    assert strategy.predicted["latency_s"] <= offload_latency_s(problem) * (1 + 1e-9)
    assert strategy.predicted["latency_s"] == pytest.approx(simulate(problem, strategy).latency_s, rel=1e-12)


def test_latency_limit_that_cannot_be_met_says_what_came_closest(vgg: Graph) -> None:
    problem = Problem(vgg, load_cluster("db-50", [vgg]), latency_limit_s=1e-6)
    with pytest.raises(Infeasible, match=r"0\.001 ms .closest: \d"):
        plan(problem, "search", evaluations=2_000)
