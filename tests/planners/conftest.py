"""A small model on shipped clusters."""

from __future__ import annotations

import pytest

from distredge.cluster import load_cluster
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.problem import Problem


@pytest.fixture(scope="session")
def vgg() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.25)


@pytest.fixture(scope="session")
def resnet() -> Graph:
    return zoo.build("resnet50", (1, 3, 64, 64), width=0.25)


@pytest.fixture
def problem(vgg: Graph) -> Problem:
    return Problem(vgg, load_cluster("db-50"))
