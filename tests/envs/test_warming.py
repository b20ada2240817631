"""Compiling the environments' loops beforehand."""

from __future__ import annotations

import logging

import pytest

from distredge.cluster import load_cluster
from distredge.envs import episodes
from distredge.envs.partition import PartitionEnv
from distredge.envs.split_rows import SplitRowsEnv
from distredge.envs.warming import warm
from distredge.model import zoo


@pytest.mark.parametrize("kind", [SplitRowsEnv, PartitionEnv])
@pytest.mark.parametrize("case", ["db-50", "ld"])
def test_nothing_is_left_to_compile(
    kind: type[SplitRowsEnv | PartitionEnv],
    case: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warm()
    monkeypatch.setattr(episodes, "_looked", set())
    graph = zoo.build("resnet18", (1, 3, 64, 64), width=0.125)
    env = kind(graph, load_cluster(case, [graph]))
    env.reset(seed=0)
    env.action_space.seed(0)
    with caplog.at_level(logging.WARNING):
        env.step(env.action_space.sample())
    assert episodes._looked, "the compiled step was not used"
    assert "compiling" not in caplog.text
