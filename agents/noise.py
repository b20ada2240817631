"""Exploration as in OSDS: Gaussian noise, added with a probability that falls from episode to episode."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise


class EpsilonNoise(ActionNoise):
    """Noise on the actions with probability epsilon at every step (DistrEdge, Algorithm 2).

    Epsilon is 1 - (episode * decay)^2, at least 0. The algorithm calls `reset` before the first episode and after
    every one, which is how episodes are counted.

    Args:
        n_actions: length of an action.
        variance: of the noise.
        decay: 1 / number of episodes until no noise is left.
        seed: of the noise; its generator is its own.
    """

    def __init__(self, n_actions: int, variance: float, decay: float, seed: int) -> None:
        super().__init__()
        self.n_actions = n_actions
        self.sigma = variance**0.5
        self.decay = decay
        self.episode = -1
        self._rng = np.random.default_rng(seed)

    @property
    def epsilon(self) -> float:
        """Probability of noise in the current episode."""
        return max(0.0, 1.0 - (max(0, self.episode) * self.decay) ** 2)

    def reset(self) -> None:
        """Begins the next episode."""
        self.episode += 1

    def __call__(self) -> NDArray[np.float32]:
        if self._rng.random() >= self.epsilon:
            return np.zeros(self.n_actions, np.float32)
        return self._rng.normal(0.0, self.sigma, self.n_actions).astype(np.float32)

    def __repr__(self) -> str:
        return f"EpsilonNoise(sigma={self.sigma:g}, epsilon={self.epsilon:g})"


class EpsilonNoises(VectorizedActionNoise):
    """The same for environments that step together; all their episodes count.

    stable-baselines3's own class copies a noise for each environment, random numbers included.

    Args:
        noise: of all environments.
        n_envs: how many there are.
    """

    def __init__(self, noise: EpsilonNoise, n_envs: int) -> None:
        super().__init__(noise, n_envs)
        self.noise = noise

    @property
    def epsilon(self) -> float:
        """Probability of noise now."""
        return self.noise.epsilon

    def reset(self, indices: Iterable[int] | None = None) -> None:
        """Begins the next episode in some environments, or the first one in all."""
        for _ in (0,) if indices is None else indices:
            self.noise.reset()

    def __call__(self) -> NDArray[np.float32]:
        return np.stack([self.noise() for _ in range(self.n_envs)])
