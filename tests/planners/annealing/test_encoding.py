"""Strategies as arrays, and back."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from distredge.cluster import load_cluster
from distredge.model.graph import Graph
from distredge.planners.annealing.batch_pricing import BatchPricer
from distredge.planners.annealing.encoding import Codec
from distredge.planners.annealing.starts import starts
from distredge.planners.budget import Budget
from distredge.problem import Problem
from distredge.strategy import PlannerRef

ProblemIn = Callable[[Graph, str, str], Problem]


@pytest.mark.parametrize("regime", ["paper", "ours"])
def test_codec_keeps_strategies_as_they_are(problem_in: ProblemIn, resnet: Graph, regime: str) -> None:
    problem = problem_in(resnet, "na-nano", regime)
    codec = Codec(problem)
    batch, _ = starts(codec)
    rng = np.random.default_rng(0)
    batch.wires[:] = rng.choice(codec.choices.wires, batch.wires.shape)
    batch.boundary[:] = rng.integers(0, 2, batch.boundary.shape) * codec.choices.boundary
    planner = PlannerRef("search")
    strategies = [codec.strategy(batch, k, planner) for k in range(len(batch.cuts))]
    assert all(codec.fits(strategy) for strategy in strategies)
    again = codec.encode(strategies)
    for k, strategy in enumerate(strategies):
        strategy.check(problem.graph)
        assert codec.strategy(again, k, planner) == strategy
    pricer = BatchPricer(codec, Budget(evaluations=1))
    assert pricer.price(again) == pytest.approx(pricer.price(batch), rel=1e-12)


def test_interchangeable_devices_are_told_apart_by_what_matters(vgg: Graph) -> None:
    cluster = load_cluster("na-nano", [vgg])
    kinds = Codec(Problem(vgg, cluster)).choices.kinds.tolist()
    same = [
        (a.profile, a.uplink, a.downlink) == (b.profile, b.uplink, b.downlink)
        for a, b in itertools.combinations(cluster.devices, 2)
    ]
    assert [a == b for a, b in itertools.combinations(kinds, 2)] == same
