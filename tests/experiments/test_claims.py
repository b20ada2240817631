"""The linear world in which the papers' claims are looked at, and what explains a ratio."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from distredge.cluster import load_cluster
from distredge.experiments.claims import LinearProfile, as_assumed, dpfp, servers, why
from distredge.latency import evaluate, offload_latency_s
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.planners import plan
from distredge.planners.published.aofl import plan_on_all
from distredge.problem import Problem


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.25)


def test_an_assumed_board_takes_as_long_for_the_whole_model_and_half_for_half(graph: Graph) -> None:
    # Links on which messages take none of the processor's time: the assumed boards' cost none.
    cluster = dataclasses.replace(servers("dpfp-gtx1080ti-40g", 3), link_model="independent")
    problem = Problem(graph, cluster)
    assumed = Problem(graph, as_assumed(graph, cluster))
    assert offload_latency_s(assumed) == pytest.approx(offload_latency_s(problem), rel=1e-9)
    profile = assumed.cluster.devices[0].profile
    assert isinstance(profile, LinearProfile)
    signature = next(s for s in graph.signatures if s is not None and s.macs)
    rows = signature.out_shape[1]
    assert profile.operator_s(signature, rows // 2) == pytest.approx(profile.operator_s(signature, rows) / 2)


def test_dpfp_reduces_the_latency_in_its_own_world(graph: Graph) -> None:
    row = dpfp(graph, "dpfp-gtx1080ti-100g", (3,))
    assert row["servers"] == 3
    assert 0 < row["assumed"] < 1 - 1 / 3
    assert row["modelled"] <= row["limit"] < 1


def test_aofl_on_all_devices_leaves_none_out() -> None:
    # Two Xavier and two Nano at 300 Mbit/s: AOFL's own rule leaves the Nanos out.
    graph = zoo.build("vgg16", (1, 3, 224, 224), width=0.5)
    problem = Problem(graph, load_cluster("db-300"))
    everybody = plan_on_all(problem)
    assert all(np.diff(v.rows).min() > 0 for v in everybody.volumes)
    chosen = plan(problem, "aofl")
    assert any(np.diff(v.rows).min() == 0 for v in chosen.volumes)
    assert evaluate(problem, chosen) <= evaluate(problem, everybody)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"over_aofl": 1.2}, ""),
        ({"over_aofl": 3.2}, "misjudges"),
        ({}, "AOFL leaves out 2 of 4 devices; after 4000 episodes the best known is still 1.50 times as fast"),
        ({"aofl_uses": 4, "best_known_over_aofl": 1.01}, "nothing known is 1.1 times as fast as AOFL"),
    ],
)
def test_why_a_ratio_is_outside_the_band(changed: dict[str, Any], said: str) -> None:
    row = {
        "over_aofl": 1.0,
        "aofl_uses": 2,
        "devices": 4,
        "best_known_over_aofl": 1.5,
        "episodes": 4000,
        **changed,
    }
    assert (why(row) == said) if not said else said in why(row)
