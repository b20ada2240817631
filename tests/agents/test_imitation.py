"""DDPG: its two learning rates, its networks, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from distredge.agents.algorithms import make_agent
from distredge.agents.imitation import DDPG
from distredge.agents.noise import EpsilonNoise
from distredge.agents.settings import merge_hyperparameters

Observation = NDArray[np.float32]


class Aim(gym.Env[Observation, NDArray[np.float32]]):
    """One step: the reward is largest for actions at what is observed."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Any]:
        super().reset(seed=seed)
        self.aim = self.np_random.choice([-0.6, 0.6])
        return np.array([self.aim], np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, Any]:
        return np.zeros(1, np.float32), 1.0 - abs(float(action[0]) - self.aim), True, False, {}


def _agent(**hyperparameters: Any) -> DDPG:
    agent = make_agent(
        "ddpg", DummyVecEnv([Aim]), merge_hyperparameters("ddpg", hyperparameters, preset="osds"), seed=0
    )
    assert isinstance(agent, DDPG)
    return agent


def _rate(optimizer: torch.optim.Optimizer) -> float:
    (group,) = optimizer.param_groups
    return float(group["lr"])


def test_both_learning_rates_hold_after_ten_updates() -> None:
    agent = _agent(learning_starts=5, actor_layers=[8], critic_layers=[8])
    agent.learn(15)
    assert agent._n_updates == 10
    assert _rate(agent.actor.optimizer) == 1e-4
    assert _rate(agent.critic.optimizer) == 1e-3


def test_networks_of_the_paper() -> None:
    agent = _agent()

    def widths(network: torch.nn.Module) -> list[int]:
        return [m.out_features for m in network.modules() if isinstance(m, torch.nn.Linear)]

    assert widths(agent.actor) == [400, 200, 100, 1]
    assert widths(agent.critic) == [400, 200, 100, 100, 1]
    assert (agent.batch_size, agent.gamma) == (64, 0.99)
    assert isinstance(agent.action_noise, EpsilonNoise)
    assert agent.action_noise.sigma == pytest.approx(0.316, abs=1e-3)
    assert agent.action_noise.decay == pytest.approx(1 / 250)


def test_episodes_are_counted_by_the_noise() -> None:
    agent = _agent(actor_layers=[8], critic_layers=[8])
    agent.learn(7)
    assert isinstance(agent.action_noise, EpsilonNoise)
    assert agent.action_noise.episode == 7


def test_it_learns() -> None:
    agent = _agent(actor_layers=[32], critic_layers=[32], actor_learning_rate=1e-3, learning_starts=50)
    agent.learn(700)
    for aim in (-0.6, 0.6):
        action, _ = agent.predict(np.array([aim], np.float32), deterministic=True)
        assert action[0] == pytest.approx(aim, abs=0.25)


def test_saved_and_loaded_with_both_rates(tmp_path: Path) -> None:
    agent = _agent(actor_layers=[8], critic_layers=[8], actor_learning_rate=2e-4)
    agent.save(tmp_path / "agent.zip")
    again = DDPG.load(tmp_path / "agent.zip", env=DummyVecEnv([Aim]))
    assert (again.actor_learning_rate, again.critic_learning_rate) == (2e-4, 1e-3)
