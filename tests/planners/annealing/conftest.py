"""Problems of several kinds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from distredge.cluster import load_cluster
from distredge.model.graph import Graph
from distredge.problem import Problem


@pytest.fixture(scope="session")
def problem_in() -> Callable[[Graph, str, str], Problem]:
    """A problem of a model on a shipped cluster in a regime: "paper", "shared" (links) or "ours" (all is free)."""
    return _problem


def _problem(graph: Graph, case: str, regime: str) -> Problem:
    cluster = load_cluster(case, [graph])
    if regime == "paper":
        return Problem(graph, cluster, free_order=False)
    if regime == "shared":
        return Problem(graph, dataclasses.replace(cluster, link_model="shared"), free_order=False)
    wires = ("float32", "float16")
    return Problem(graph, cluster, allow_lossy=True, input_dtypes=("uint8",), wires=wires, boundary_first=True)
