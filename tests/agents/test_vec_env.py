"""The native vector environment under stable-baselines3."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from distredge import metric_names
from distredge.agents.vec_env import KernelVecEnv
from distredge.envs.split_rows import SplitRowsEnv
from distredge.envs.vector import VolumesVectorEnv
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
