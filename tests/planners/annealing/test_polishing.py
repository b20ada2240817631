"""Polish: what it is given, and better in a few steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from distredge.latency import simulate
from distredge.model.graph import Graph
from distredge.planners.annealing import polishing
from distredge.planners.annealing.batch_pricing import BatchPricer
from distredge.planners.annealing.encoding import Codec
from distredge.planners.annealing.loading import load
from distredge.planners.annealing.polishing import polish
from distredge.planners.annealing.starts import best_rows, starts
from distredge.planners.annealing.strategy_arrays import Batch, take
from distredge.planners.budget import Budget
from distredge.problem import Problem
from distredge.strategy import PlannerRef

ProblemIn = Callable[[Graph, str, str], Problem]
REGIMES = ("paper", "ours", "shared")


def given(pricer: BatchPricer, count: int) -> Batch:
    """The best of the search's starts that several devices share: often no more than one device is best here."""
    batch, alone = starts(pricer.codec)
    batch = take(batch, np.arange(alone, len(batch.cuts)))
    return take(batch, best_rows(pricer.price(batch), count))


def pricer_of(problem: Problem) -> BatchPricer:
    pricer = load(problem, Budget(evaluations=10**6))
    pricer.fill()
    return pricer


def equal(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("regime", REGIMES)
def test_is_better_than_what_it_is_given_and_says_exactly_by_how_much(
    problem_in: ProblemIn, vgg: Graph, regime: str, count: int
) -> None:
    problem = problem_in(vgg, "db-50", regime)
    pricer = pricer_of(problem)
    batch = given(pricer, count)
    before_s = pricer.price(batch).min()
    budget = Budget(evaluations=3000)
    found, seconds = polish(pricer, batch, budget, 1, 5)
    assert 2900 < budget.done <= 3000
    assert seconds[0] < 0.99 * before_s
    assert budget.best_latency_s == seconds[0]
    assert len(seconds) == 5
    assert (np.diff(seconds) >= 0).all()
    for k in range(len(seconds)):
        strategy = pricer.codec.strategy(found, k, PlannerRef("polish", 1))
        assert simulate(problem, strategy).latency_s == pytest.approx(seconds[k], rel=1e-9)
    assert len({pricer.codec.strategy(found, k, PlannerRef("polish", 1)).to_json() for k in range(5)}) == 5


@pytest.mark.parametrize("regime", REGIMES)
def test_result_depends_on_the_seed_alone(problem_in: ProblemIn, vgg: Graph, regime: str) -> None:
    problem = problem_in(vgg, "db-50", regime)
    pricer, fresh = pricer_of(problem), BatchPricer(Codec(problem), Budget(1.0))
    batch = given(pricer, 4)
    found = [polish(p, batch, Budget(evaluations=2000), seed)[0] for p, seed in ((pricer, 3), (fresh, 3), (pricer, 4))]
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


@pytest.mark.parametrize("evaluations", [1, 2, 7, 30, 100])
@pytest.mark.parametrize("regime", ["paper", "shared"])
def test_is_never_worse_than_the_best_given(problem_in: ProblemIn, vgg: Graph, regime: str, evaluations: int) -> None:
    pricer = pricer_of(problem_in(vgg, "db-50", regime))
    batch = given(pricer, 3)
    budget = Budget(evaluations=evaluations)
    found, seconds = polish(pricer, batch, budget, 0)
    # All that is given is priced in any case.
    assert budget.done <= max(evaluations, 3)
    assert seconds[0] <= pricer.price(batch).min()
    assert pricer.price(found)[0] == seconds[0]


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_ends_with_its_seconds(
    problem_in: ProblemIn, vgg: Graph, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that goes by steps: each takes a tenth of a millisecond, some half of them more."""
    pricer, now = pricer_of(problem_in(vgg, "db-50", "shared")), 0.0
    batch, rng, call = given(pricer, 4), np.random.default_rng(0), polishing.steps_call

    def timed(of: BatchPricer, pricing: object, steps: int, *others: object) -> object:
        nonlocal now
        now += 1e-4 * steps * (1.0 + spread * rng.random())
        return call(of, pricing, steps, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(polishing, "steps_call", timed)
    budget = Budget(0.02, clock=lambda: now)
    _, seconds = polish(pricer, batch, budget, 0)
    assert 0.017 < now < 0.0215
    assert seconds[0] < pricer.price(batch).min()


def test_without_any_time_it_returns_the_best_given(problem_in: ProblemIn, vgg: Graph) -> None:
    pricer = pricer_of(problem_in(vgg, "db-50", "shared"))
    batch, times = given(pricer, 4), iter(range(1000))
    found, seconds = polish(pricer, batch, Budget(0.5, clock=lambda: float(next(times))), 0, 2)
    before = pricer.price(batch)
    assert seconds[0] == before.min()
    assert equal(take(found, [0]), take(batch, [int(before.argmin())]))


def test_nothing_comes_of_strategies_that_cannot_run(problem_in: ProblemIn, vgg: Graph) -> None:
    problem = problem_in(vgg, "db-50", "paper")
    dead = dataclasses.replace(problem.cluster.devices[0].uplink, rate_bps=0.0)
    devices = tuple(dataclasses.replace(d, uplink=dead, downlink=dead) for d in problem.cluster.devices)
    pricer = pricer_of(Problem(vgg, dataclasses.replace(problem.cluster, devices=devices), free_order=False))
    found, seconds = polish(pricer, given(pricer_of(problem), 2), Budget(evaluations=100), 0)
    assert len(found.cuts) == len(seconds) == 0
