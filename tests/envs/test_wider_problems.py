"""Several models, clusters of unequal size, and what is seen of the last cut points."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_env_of_gymnasium
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

import distredge.envs
from distredge import metric_names
from distredge.cluster import Cluster
from distredge.envs.observation import MODEL_FEATURES
from distredge.envs.partition import PartitionEnv
from distredge.envs.signature import Signature
from distredge.envs.split_rows import SplitRowsEnv
from distredge.envs.vector import VolumesVectorEnv
from distredge.envs.volumes import VolumesEnv
from distredge.errors import ConfigError
from distredge.latency import evaluate
from distredge.model import zoo
from distredge.model.graph import Graph


@pytest.fixture(scope="module")
def graphs() -> list[Graph]:
    return [zoo.build(name, (1, 3, 64, 64), width=0.125) for name in ("vgg16", "resnet18")]


@pytest.mark.parametrize("make", [SplitRowsEnv, PartitionEnv])
def test_both_checkers(make: type[VolumesEnv], graphs: list[Graph], trio: Cluster, pair: Cluster) -> None:
    for arguments in (
        {"observe_rows": True},
        {"cluster": [trio, pair, "db-50"], "observe_cluster": True, "observe_rows": True},
        {"model": graphs, "cluster": ["db-50", pair]},
    ):
        env = gym.make(make.env_id, **{"model": graphs[0], "cluster": "db-50", **arguments}).unwrapped
        check_env_of_gymnasium(env, skip_render_check=True)
        check_env_of_sb3(env)


def test_the_last_cut_points_are_seen(graphs: list[Graph]) -> None:
    env = SplitRowsEnv(graphs[0], "db-50", partition=[4, 9, 17], observe_rows=True)
    plain = SplitRowsEnv(graphs[0], "db-50", partition=[4, 9, 17])
    obs, _ = env.reset()
    before, _ = plain.reset()
    assert np.array_equal(obs[:-3], before)
    assert obs[-3:].tolist() == [-1, -1, -1]
    for index in (4, 9, 17):
        action = np.array([0.5, -0.5, 0.0], np.float32)
        obs, *_ = env.step(action)
        before, *_ = plain.step(action)
        assert np.array_equal(obs[:-3], before)
        assert obs[-3:] == pytest.approx([-0.5, 0.0, 0.5], abs=1.0 / graphs[0].cuts[index].height)


@pytest.mark.parametrize("make", [SplitRowsEnv, PartitionEnv])
def test_absent_devices_have_nothing(make: type[VolumesEnv], graphs: list[Graph], pair: Cluster) -> None:
    env = make(graphs[0], ["db-50", pair], observe_cluster=True, observe_rows=True)  # type: ignore[call-arg]
    assert env.n_devices == 4
    at = dict(zip(env.process.blocks, np.cumsum([0, *env.process.blocks.values()]).tolist(), strict=False))
    rng = np.random.default_rng(0)
    obs, info = env.reset(options={"cluster": 1})
    assert info["cluster"] == 1
    done = False
    seen = [obs]
    while not done:
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        obs, _, done, _, info = env.step(action)
        seen.append(obs)
    for obs in seen:
        assert obs[2:4].tolist() == [-1, -1]
        assert obs[at["cluster"] :][:8].tolist()[2:4] == [1, 1]
        assert obs[at["cluster"] :][:8].tolist()[6:8] == [1, 1]
        assert obs[at["presence"] :][:4].tolist() == [1, 1, -1, -1]
    for obs in seen[1:]:
        assert obs[at["rows"] :].tolist()[1:] == [1, 1]
    strategy = env.strategy()
    assert strategy.devices == pair.names
    assert info[metric_names.LATENCY_S] == pytest.approx(evaluate(env.problem, strategy), rel=1e-9)


@pytest.mark.parametrize("make", [SplitRowsEnv, PartitionEnv])
def test_room_for_more_devices_is_that_of_a_larger_cluster_beside(
    make: type[VolumesEnv], graphs: list[Graph], pair: Cluster
) -> None:
    beside = make(graphs[0], ["db-50", pair], observe_cluster=True)  # type: ignore[call-arg]
    alone = make(graphs[0], pair, observe_cluster=True, max_devices=4)  # type: ignore[call-arg]
    assert alone.signature == beside.signature
    if isinstance(alone, SplitRowsEnv):
        alone = SplitRowsEnv(
            graphs[0],
            pair,
            observe_cluster=True,
            max_devices=4,
            partition=beside.partition,  # type: ignore[attr-defined]
        )
    rng = np.random.default_rng(0)
    assert np.array_equal(alone.reset()[0], beside.reset(options={"cluster": 1})[0])
    done = False
    while not done:
        action = rng.uniform(-1, 1, alone.action_space.shape).astype(np.float32)
        (obs, reward, done, _, _), (seen, *other) = alone.step(action), beside.step(action)
        assert np.array_equal(obs, seen)
        assert other[:2] == [reward, done]
    check_env_of_sb3(alone)
    with pytest.raises(ConfigError, match="max_devices: found 1, accepted: at least 2"):
        make(graphs[0], pair, max_devices=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
@pytest.mark.parametrize("make", [SplitRowsEnv, PartitionEnv])
def test_copies_of_several_models_do_what_single_ones_do(
    make: type[VolumesEnv], mode: str, graphs: list[Graph], pair: Cluster, trio: Cluster
) -> None:
    shared = Cluster("shared", trio.requester, trio.devices, "shared")
    env = make(graphs, [pair, "db-50", shared], observe_rows=True, observe_cluster=True)  # type: ignore[call-arg]
    assert env.observe_model
    assert env.process.blocks["next_volume"] == MODEL_FEATURES + make(graphs[0]).process.blocks["next_volume"]
    assert [steps.hard.tolist() for steps in env.process.steps] == [[False, False, True]] * 2
    count = 12
    vector = VolumesVectorEnv(env, count, mode)
    options = {"model": [i % 2 for i in range(count)], "cluster": [i % 3 for i in range(count)]}
    obs, infos = vector.reset(seed=3, options=options)
    singles = [env.twin() for _ in range(count)]
    for i, single in enumerate(singles):
        first, info = single.reset(options={key: value[i] for key, value in options.items()})
        assert np.array_equal(obs[i], first)
        assert (info["model"], info["cluster"]) == (i % 2, i % 3)
        assert single.problem is not env.problems[0]
        assert single.graph is graphs[i % 2]
    rng = np.random.default_rng(1)
    over = np.zeros(count, bool)
    models = set()
    for _ in range(10):
        actions = rng.uniform(-1, 1, vector.action_space.shape).astype(np.float32)
        obs, rewards, done, _, infos = vector.step(actions)
        for i, single in enumerate(singles):
            if over[i]:
                own, info = single.reset(options={key: int(infos[key][i]) for key in ("model", "cluster")})
                assert (rewards[i], done[i]) == (0.0, False)
            else:
                own, reward, ended, _, info = single.step(actions[i])
                assert rewards[i] == pytest.approx(reward, rel=1e-9)
                assert done[i] == ended
                if ended:
                    episode = vector.last_episode(i)
                    assert episode is not None
                    assert single.last_episode is not None
                    assert episode.volumes == single.last_episode.volumes
                if ended and mode == "SameStep":
                    assert infos["final_obs"][i] == pytest.approx(own, abs=1e-6)
                    own, info = single.reset(options={key: int(infos[key][i]) for key in ("model", "cluster")})
            assert obs[i] == pytest.approx(own, abs=1e-6)
            assert {key: infos[key][i] for key in info} == pytest.approx(info, rel=1e-9)
        over = done if mode == "NextStep" else over
        models |= set(infos["model"].tolist())
    assert models == {0, 1}


def test_models_are_told_apart(graphs: list[Graph]) -> None:
    env = SplitRowsEnv(graphs, "db-50")
    seen = [env.reset(options={"model": m})[0] for m in (0, 1)]
    assert not np.array_equal(seen[0][-MODEL_FEATURES:], seen[1][-MODEL_FEATURES:])
    assert {env.reset(seed=s)[1]["model"] for s in range(10)} == {0, 1}
    assert SplitRowsEnv(graphs, "db-50", observe_model=False).observation_space.shape == (8,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": []}, "model: found"),
        ({"partition": [9, 17]}, "partition: found .* None with several models"),
    ],
)
def test_wrong_arguments(graphs: list[Graph], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SplitRowsEnv(**{"model": graphs, **arguments})


def test_wrong_options(graphs: list[Graph]) -> None:
    env = SplitRowsEnv(graphs, "db-50")
    for model in (2, -1, 0.5, "0", True):
        with pytest.raises(ConfigError, match="options: model: found"):
            env.reset(options={"model": model})


def test_signatures_name_what_differs(graphs: list[Graph], pair: Cluster) -> None:
    plain, rows = (SplitRowsEnv(graphs[0], "db-50", observe_rows=r).signature for r in (False, True))
    assert plain.env == distredge.envs.SPLIT_ROWS
    assert Signature.from_json("agent", plain.to_json()) == plain
    plain.check("agent", SplitRowsEnv(graphs[1], "da-300").signature)
    for other, message in (
        (rows, "observed: found .*rows"),
        (PartitionEnv(graphs[0]).signature, "env: found 'distredge/Partition-v0'"),
        (SplitRowsEnv(graphs[0], pair).signature, "n_devices: found 2"),
    ):
        with pytest.raises(ConfigError, match=f"agent: {message}"):
            plain.check("agent", other)
    with pytest.raises(ConfigError, match="agent: environment: found"):
        Signature.from_json("agent", {"env": 3})
