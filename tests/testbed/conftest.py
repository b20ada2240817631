"""A small CNN on clusters of two emulated boards, and where they can run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distredge.cluster import Cluster, Device, Link, Requester
from distredge.model.capture import from_onnx
from distredge.model.graph import Graph
from distredge.problem import Problem
from distredge.profiles.compute import load_profile
from distredge.strategy import Strategy
from distredge.testbed.commands import why_no_namespaces
from tests.runtime.conftest import make_strategy, small_cnn

needs_namespaces = pytest.mark.skipif(why_no_namespaces() is not None, reason=str(why_no_namespaces()))
MODES = [pytest.param("namespaces", marks=needs_namespaces), "loopback"]


LINK = Link(40e6)


def make_cluster(link: Link = LINK, boards: tuple[str, ...] = ("alpha", "beta"), **options: Any) -> Cluster:
    """Boards as slow as a Pi 3 behind equal links, and a requester whose link does not limit."""
    profile = load_profile("default:pi3")
    devices = tuple(Device(name, profile, link, link) for name in boards)
    return Cluster("box", Requester(), devices, "shared", **options)


@pytest.fixture(scope="session")
def graph() -> Graph:
    return from_onnx(small_cnn())


@pytest.fixture(scope="session")
def image() -> dict[str, NDArray[Any]]:
    return {"image": np.random.default_rng(3).standard_normal((1, 3, 33, 21), dtype=np.float32)}


@pytest.fixture(scope="session")
def strategy(graph: Graph) -> Strategy:
    return make_strategy(graph, [(2, 1), (1, 1)])


@pytest.fixture(scope="session")
def problem(graph: Graph) -> Problem:
    return Problem(graph, make_cluster())
