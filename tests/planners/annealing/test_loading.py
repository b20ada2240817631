"""Loading what is compiled is no planning, and is said where it takes long."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import pytest

from distredge.cluster import load_cluster
from distredge.latency import compiling
from distredge.latency.tables import volume_tables
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.planners.annealing import loading
from distredge.planners.budget import Budget
from distredge.problem import Problem

ProblemIn = Callable[[Graph, str, str], Problem]


def test_time_for_loading_does_not_count() -> None:
    now = 0.0
    budget = Budget(1.0, clock=lambda: now)
    part = budget.share(0.5)
    with part.paused():
        now += 30.0
    assert budget.elapsed_s == part.elapsed_s == 0.0
    now += 0.25
    assert part.spent() == 0.5
    assert budget.spent() == 0.25


@pytest.mark.parametrize("regime", ["paper", "ours"])
def test_it_is_loaded_once_on_stopped_time_and_said_only_if_it_must_be_compiled(
    problem_in: ProblemIn, vgg: Graph, regime: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problem, now, asked = problem_in(vgg, "db-50", regime), 0.0, 0
    # Compiled here, if it has to be: that may be said as well.
    loading.load(problem, Budget(evaluations=1))
    caplog.clear()
    monkeypatch.setattr(loading, "_loaded", set())

    def is_cached(*_: object) -> bool:
        nonlocal now, asked
        now, asked = now + 30.0, asked + 1
        return asked > 1

    monkeypatch.setattr(compiling, "is_cached", is_cached)
    budget = Budget(1.0, clock=lambda: now)
    with caplog.at_level(logging.WARNING, logger="distredge"):
        for said in (1, 1):
            pricer = loading.load(problem, budget)
            assert pricer.general == (regime == "ours")
            assert len(caplog.records) == said
            assert asked == 1
    assert budget.elapsed_s == 0.0
    assert budget.done == 0
    monkeypatch.setattr(loading, "_loaded", set())
    loading.load(problem, budget)
    assert (asked, len(caplog.records)) == (2, 1)


def test_time_for_measuring_what_rows_are_packed_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def measure(_: Graph) -> dict[str, float]:
        nonlocal now
        now += 30.0
        return {}

    monkeypatch.setattr(volume_tables, "zero_shares", measure)
    graph = zoo.build("vgg16", (1, 3, 32, 32), width=0.0625)
    cluster = dataclasses.replace(load_cluster("db-50", [graph]), link_model="shared")
    budget = Budget(1.0, clock=lambda: now)
    loading.load(Problem.lossless(graph, cluster), budget)
    assert now == 30.0
    assert budget.elapsed_s == 0.0
