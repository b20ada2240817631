"""A small model on a published case, and networks small enough to train in a moment."""

from __future__ import annotations

from typing import Any

import pytest

from distredge.agents.settings import TrainingConfig
from distredge.cluster import load_cluster
from distredge.model import zoo
from distredge.problem import Problem


@pytest.fixture(scope="session")
def problem() -> Problem:
    graph = zoo.build("vgg16", width=0.125)
    return Problem(graph, load_cluster("db-50", [graph]))


@pytest.fixture
def small() -> dict[str, Any]:
    return {"actor_layers": [16], "critic_layers": [16], "learning_starts": 6}


@pytest.fixture
def config(small: dict[str, Any]) -> TrainingConfig:
    return TrainingConfig(preset="osds", episodes=8, seed=3, hyperparameters=small)
