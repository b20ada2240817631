from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.cluster import load_cluster
from distredge.errors import Infeasible
from distredge.latency import evaluate, offload_latency_s
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.planners import METHODS, plan
from distredge.planners.lower_bound import lower_bound_s
from distredge.problem import Problem
from distredge.strategy import Strategy

GRAPHS = [
    zoo.build("vgg16", (1, 3, 33, 40), width=0.25),
    zoo.build("resnet18", (1, 3, 64, 64), width=0.25),
    zoo.build("mobilenet-v2", (1, 3, 65, 65), width=0.25),
]


@pytest.mark.parametrize("case", ["da-50", "db-300", "dc-50", "nd-xavier", "lb", "this-machine"])
def test_below_every_method(vgg: Graph, case: str) -> None:
    problem = Problem(vgg, load_cluster(case))
    bound_s = lower_bound_s(problem)
    assert bound_s > 0
    for method in (name for name in METHODS if name != "distredge"):
        assert bound_s <= plan(problem, method, evaluations=40).predicted["latency_s"]


@settings(max_examples=40)
@given(data=st.data())
def test_below_random_strategies(with_edges: Any, data: st.DataObject) -> None:
    graph = data.draw(st.sampled_from(GRAPHS))
    cluster = load_cluster(data.draw(st.sampled_from(["da-50", "db-300", "dc-300", "na-nano", "this-machine"])))
    cluster = dataclasses.replace(cluster, link_model=data.draw(st.sampled_from(["independent", "shared"])))
    dtype = data.draw(st.sampled_from(["float32", "uint8"]))
    cluster = with_edges(cluster, data.draw(st.sampled_from([0.0, 1e-9, 3e-8])))
    problem = Problem(graph, cluster, input_dtypes=(dtype,))
    inner = data.draw(st.sets(st.integers(0, len(graph.cuts) - 2), max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    count = len(cluster.devices)
    volumes = []
    for index in [*sorted(inner), len(graph.cuts) - 1]:
        height = graph.cuts[index].height
        volumes.append((index, (0, *np.sort(rng.integers(0, height + 1, count - 1)), height)))
    head = cluster.names[int(rng.integers(count))]
    strategy = Strategy.make(graph, cluster.names, volumes, head=head, input_dtype=dtype)
    assert lower_bound_s(problem) <= evaluate(problem, strategy)


@pytest.mark.parametrize("s_per_byte", [0.0, 1e-7])
def test_exact_for_one_device(vgg: Graph, with_edges: Any, s_per_byte: float) -> None:
    cluster = load_cluster("da-50")
    alone = Problem(vgg, with_edges(dataclasses.replace(cluster, devices=cluster.devices[:1]), s_per_byte))
    # What is relaxed for one device is its best seconds per row.
    bound_s = lower_bound_s(alone)
    assert bound_s <= offload_latency_s(alone)
    assert bound_s == pytest.approx(offload_latency_s(alone), rel=0.02)


def test_faster_links_do_not_raise_it(vgg: Graph) -> None:
    assert lower_bound_s(Problem(vgg, load_cluster("db-300"))) < lower_bound_s(Problem(vgg, load_cluster("db-50")))


def test_unreachable_cluster_is_said(vgg: Graph) -> None:
    cluster = load_cluster("da-50")
    dead = dataclasses.replace(cluster.devices[0].uplink, rate_bps=0.0)
    devices = tuple(dataclasses.replace(d, uplink=dead, downlink=dead) for d in cluster.devices)
    with pytest.raises(Infeasible):
        lower_bound_s(Problem(vgg, dataclasses.replace(cluster, devices=devices)))
