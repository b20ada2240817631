"""Planning anew while frames wait: what takes long is done before they run."""

from __future__ import annotations

import pytest

from distredge.cli._replanning import Replanner
from distredge.cluster import load_cluster
from distredge.model import zoo
from distredge.planners import plan
from distredge.planners.annealing import loading
from distredge.problem import Problem


@pytest.mark.parametrize(("method", "times"), [("auto", 1), ("search", 1), ("aofl", 0)])
def test_the_search_is_loaded_beforehand(monkeypatch: pytest.MonkeyPatch, method: str, times: int) -> None:
    graph = zoo.build("vgg16", (1, 3, 32, 32), width=0.0625)
    problem = Problem(graph, load_cluster("db-50", [graph]))
    strategy = plan(problem, "aofl", 1.0)
    loads: list[object] = []
    monkeypatch.setattr(loading, "_loaded", set())
    monkeypatch.setattr(loading, "_load_steps", loads.append)
    Replanner(problem, strategy, method)
    assert len(loads) == times
