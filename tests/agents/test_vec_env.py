"""The native vector environment under stable-baselines3."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from distredge import metric_names
from distredge.agents.vec_env import KernelVecEnv
from distredge.cluster import load_cluster
from distredge.envs.split_rows import SplitRowsEnv
from distredge.envs.vector import VolumesVectorEnv
from distredge.errors import ConfigError
from distredge.problem import Problem


def _env(problem: Problem) -> SplitRowsEnv:
    return SplitRowsEnv(problem.graph, problem.cluster, partition=[9, 17])


def test_same_contract_as_sb3s_own(problem: Problem) -> None:
    count = 3
    native = KernelVecEnv(VolumesVectorEnv(_env(problem), count))
    own = DummyVecEnv([lambda: _env(problem)] * count)
    for vec in (native, own):
        vec.seed(0)
    assert np.array_equal(native.reset(), own.reset())
    rng = np.random.default_rng(0)
    for _ in range(5):
        actions = rng.uniform(-1, 1, (count, 3)).astype(np.float32)
        one, other = native.step(actions), own.step(actions)
        for a, b in zip(one[:3], other[:3], strict=True):
            assert a == pytest.approx(b, abs=1e-6)
            assert a.dtype == b.dtype
        for info, expected in zip(one[3], other[3], strict=True):
            last = expected.pop("terminal_observation", None)
            assert (last is None) == ("terminal_observation" not in info)
            if last is not None:
                assert info.pop("terminal_observation") == pytest.approx(last, abs=1e-6)
            assert info == pytest.approx(expected, rel=1e-9)
    assert native.get_attr("n_devices") == own.get_attr("n_devices") == [4] * count
    assert native.env_is_wrapped(type(None)) == [False] * count  # type: ignore[arg-type]
    native.close()


def test_pictures_of_each_copy(problem: Problem) -> None:
    env = SplitRowsEnv(problem.graph, problem.cluster, partition=[9, 17], render_mode="rgb_array")
    vec = KernelVecEnv(VolumesVectorEnv(env, 2))
    assert vec.render_mode == "rgb_array"
    vec.reset()
    vec.step(np.array([[-0.5, 0.0, 0.5], [1.0, 1.0, 1.0]], np.float32))
    one, other = vec.get_images()
    assert one is not None
    assert other is not None
    assert one.dtype == np.uint8
    assert one.shape == other.shape
    assert one.shape[2] == 3
    assert not np.array_equal(one, other)
    single = SplitRowsEnv(problem.graph, problem.cluster, partition=[9, 17], render_mode="rgb_array")
    single.reset()
    single.step(np.array([-0.5, 0.0, 0.5], np.float32))
    assert np.array_equal(one, single.render())
    tiled = vec.render()
    assert tiled is not None
    assert tiled.shape[0] * tiled.shape[1] >= 2 * one.shape[0] * one.shape[1]


def test_no_pictures_without_a_mode(problem: Problem) -> None:
    vec = KernelVecEnv(VolumesVectorEnv(_env(problem), 2))
    with pytest.warns(UserWarning, match="'rgb_array'"):
        assert vec.get_images() == [None, None]


def test_attributes_and_methods(problem: Problem) -> None:
    vec = KernelVecEnv(VolumesVectorEnv(_env(problem), 2))
    vec.reset()
    assert vec.get_attr("last_episode") == [None, None]
    with pytest.raises(ResetNeeded, match="environment 1: no episode"):
        vec.env_method("strategy", indices=[1])
    actions = np.array([[-0.5, 0.0, 0.5], [1.0, 1.0, 1.0]], np.float32)
    for _ in range(2):
        vec.step(actions)
    first, second = vec.env_method("strategy", method="mine")
    assert first.planner.method == "mine"
    assert first.volumes != second.volumes
    assert [episode.head for episode in vec.get_attr("last_episode")] == [0, 0]
    assert vec.get_attr("graph", indices=[0]) == [problem.graph]
    vec.set_attr("note", 3)
    assert vec.get_attr("note") == [3, 3]
    with pytest.raises(NotImplementedError, match="set it for all"):
        vec.set_attr("note", 3, indices=[0])
    with pytest.raises(NotImplementedError, match="make another one"):
        vec.set_attr("reward_scale", "paper")
    with pytest.raises(NotImplementedError, match="accepted: strategy"):
        vec.env_method("step", actions[0])


def test_options_of_each_copy(problem: Problem) -> None:
    clusters = [problem.cluster, load_cluster("da-50")]
    vec = KernelVecEnv(VolumesVectorEnv(SplitRowsEnv(problem.graph, clusters, partition=[9, 17]), 2))
    vec.set_options([{"cluster": 1}, {"cluster": 0}])
    vec.reset()
    assert [info["cluster"] for info in vec.reset_infos] == [1, 0]
    vec.set_options({"cluster": 1})
    vec.reset()
    assert [info["cluster"] for info in vec.reset_infos] == [1, 1]
    vec.set_options([{"cluster": 1}, {}])
    with pytest.raises(ConfigError, match=r"options\[1\]"):
        vec.reset()


def test_under_sb3s_own_wrappers(problem: Problem) -> None:
    def vec() -> KernelVecEnv:
        return KernelVecEnv(VolumesVectorEnv(_env(problem), 4))

    agent = PPO("MlpPolicy", vec(), n_steps=4, batch_size=8, seed=0, device="cpu")
    rewards, lengths = evaluate_policy(agent, VecMonitor(vec()), n_eval_episodes=6, return_episode_rewards=True)
    assert lengths == [2] * 6
    assert all(reward == pytest.approx(rewards[0]) for reward in rewards)  # the policy is deterministic, so is the env
    normalised = VecNormalize(VecMonitor(vec()))
    assert normalised.reset().shape == (4, 8)
    agent = PPO("MlpPolicy", normalised, n_steps=4, batch_size=8, seed=0, device="cpu")
    agent.learn(64)
    assert len(agent.ep_info_buffer or ()) >= 16
    assert np.isfinite(normalised.obs_rms.mean).all()  # type: ignore[union-attr]


def test_an_agent_learns_in_it(problem: Problem) -> None:
    vec = KernelVecEnv(VolumesVectorEnv(_env(problem), 16))

    def mean_reward(agent: PPO) -> float:
        obs = vec.reset()
        total = []
        for _ in range(20):
            actions, _ = agent.predict(obs, deterministic=False)
            obs, _, dones, infos = vec.step(actions)
            total += [info[metric_names.SPEEDUP] for info, done in zip(infos, dones, strict=True) if done]
        return float(np.mean(total))

    agent = PPO("MlpPolicy", vec, n_steps=16, batch_size=64, seed=0, learning_rate=3e-3, gamma=1.0, device="cpu")
    before = mean_reward(agent)
    agent.learn(8000)
    assert mean_reward(agent) > 1.2 * before
