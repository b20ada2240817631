"""The decision process that also chooses where volumes end."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_env_of_gymnasium
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

import distredge.envs
from distredge import metric_names
from distredge.cluster import Cluster, load_cluster
from distredge.envs.partition import PartitionEnv, volume_end
from distredge.envs.split_rows import SplitRowsEnv
from distredge.latency import evaluate, offload_latency_s
from distredge.model import zoo
from distredge.model.graph import Graph


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("mobilenet-v2", (1, 3, 96, 96), width=0.25)


@pytest.fixture(scope="module")
def db50() -> Cluster:
    return load_cluster("db-50")


@pytest.mark.parametrize(
    "arguments",
    [{}, {"cluster": ["db-50", "da-50"], "observe_cluster": True}, {"render_mode": "ansi"}],
    ids=["default", "clusters", "ansi"],
)
def test_both_checkers(graph: Graph, arguments: dict[str, Any]) -> None:
    env = gym.make(distredge.envs.PARTITION, model=graph, **{"cluster": "db-50", **arguments}).unwrapped
    check_env_of_gymnasium(env, skip_render_check=env.render_mode is None)
    check_env_of_sb3(env)


@given(st.floats(-1, 1), st.integers(0, 40), st.integers(0, 40))
def test_every_end_is_a_location_that_is_left(action: float, first: int, more: int) -> None:
    assert first <= volume_end(action, first, first + more) <= first + more


def test_ends_have_equal_shares() -> None:
    found = [volume_end(a, 3, 6) for a in np.linspace(-1, 1, 4001)]
    counts = np.bincount(found)
    assert counts[:3].tolist() == [0, 0, 0]
    assert counts[3:] == pytest.approx(1000, abs=1)
    assert (volume_end(-1.0, 3, 6), volume_end(1.0, 3, 6)) == (3, 6)


def test_an_episode_is_priced_like_its_strategy(graph: Graph, db50: Cluster) -> None:
    env = PartitionEnv(graph, db50)
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(6):
        env.reset()
        done, steps = False, 0
        while not done:
            obs, reward, done, _, info = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
            assert obs in env.observation_space
            steps += 1
        strategy = env.strategy()
        assert len(strategy.volumes) == steps == info["volume"] <= env.max_volumes
        assert info[metric_names.LATENCY_S] == pytest.approx(evaluate(env.problem, strategy), rel=1e-9)
        assert reward == offload_latency_s(env.problem) / info[metric_names.LATENCY_S]
        lengths.add(steps)
    assert len(lengths) > 1


def test_same_decisions_cost_the_same_in_both_environments(graph: Graph, db50: Cluster) -> None:
    last = len(graph.cuts) - 1
    free, given_ = PartitionEnv(graph, db50), SplitRowsEnv(graph, db50, partition=[9, last])
    for env in (free, given_):
        env.reset()
    rows = np.array([-0.4, 0.1, 0.7], np.float32)
    end = 2.0 * (9 + 0.5) / (last + 1) - 1.0
    for choice in (end, 1.0):
        one = free.step(np.array([choice, *rows], np.float32))
        other = given_.step(rows)
        assert one[1:] == other[1:]
    assert free.strategy() == given_.strategy()


def test_longest_episode_cuts_everywhere(graph: Graph, db50: Cluster) -> None:
    env = PartitionEnv(graph, db50)
    env.reset()
    places = []
    done = False
    while not done:
        obs, _, done, _, info = env.step(np.array([-1, -0.5, 0.0, 0.5], np.float32))
        places.append(obs[8:10])
    assert info["volume"] == env.max_volumes == len(graph.cuts)
    assert (np.diff(places, axis=0) >= 0).all()
    assert places[-1].tolist() == [1.0, 1.0]


def test_what_is_seen_first_is_the_input(graph: Graph, db50: Cluster) -> None:
    obs, _ = PartitionEnv(graph, db50).reset()
    height, channels = np.log(96) / np.log(64) - 1, np.log(3) / np.log(64) - 1
    assert obs == pytest.approx([-1] * 4 + [height, channels, 2 / 15 - 1, 1 / 4 - 1, -1, -1], abs=1e-6)


def test_pickles(graph: Graph) -> None:
    env = PartitionEnv(graph, ["db-50", "da-50"], observe_cluster=True)
    twin = pickle.loads(pickle.dumps(env))  # noqa: S301 - made on the line
    for one in (env, env.twin(), twin):
        assert one.observation_space == env.observation_space
        assert np.array_equal(one.reset(seed=1)[0], twin.reset(seed=1)[0])


def test_docstring_has_gymnasiums_headings() -> None:
    def headings(env: type[gym.Env[Any, Any]]) -> list[str]:
        return [line.strip() for line in (env.__doc__ or "").splitlines() if line.strip().startswith("## ")]

    assert headings(PartitionEnv) == headings(SplitRowsEnv) != []
