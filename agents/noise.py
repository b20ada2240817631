"""Exploration as in OSDS: Gaussian noise, added with a probability that falls from episode to episode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise


class EpsilonNoise(ActionNoise):
    """Noise on the actions with probability epsilon at every step (DistrEdge, Algorithm 2).

    Epsilon is 1 - (episode * decay)^2, at least 0; without a decay 1 - (share of the run)^2. The algorithm calls
    `reset` before the first episode and after every one, which is how episodes are counted.

    Args:
        n_actions: length of an action.
        variance: of the noise.
        decay: 1 / number of episodes until no noise is left; None spreads it over the run.
        seed: of the noise; its generator is its own.

    Attributes:
        share: says how much of the run's noisy part is over, 0 to 1; asked where there is no decay.
    """

    share: Callable[[], float] = staticmethod(lambda: 0.0)

    def __init__(self, n_actions: int, variance: float, decay: float | None, seed: int) -> None:
        super().__init__()
        self.n_actions = n_actions
        self.sigma = variance**0.5
        self.decay = decay
        self.episode = -1
        self._rng = np.random.default_rng(seed)

    @property
    def epsilon(self) -> float:
        """Probability of noise in the current episode."""
        over = self.share() if self.decay is None else max(0, self.episode) * self.decay
        return max(0.0, 1.0 - over**2)

    def reset(self) -> None:
        """Begins the next episode."""
        self.episode += 1

    def __call__(self) -> NDArray[np.float32]:
        if self._rng.random() >= self.epsilon:
            return np.zeros(self.n_actions, np.float32)
        return self._rng.normal(0.0, self.sigma, self.n_actions).astype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """Without the run, which a saved agent does not take along."""
        return {key: value for key, value in self.__dict__.items() if key != "share"}

    def chosen(self, shape: tuple[int, ...], probability: float) -> NDArray[np.bool_]:
        """Which of (n_envs, n_values) values get noise, each with a probability; `shape` are the two numbers."""
        return self._rng.random(shape) < probability

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on."""
        return {"episode": self.episode, "rng": self._rng.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from where another one was."""
        self.episode = state["episode"]
        self._rng.bit_generator.state = state["rng"]

    def __repr__(self) -> str:
        return f"EpsilonNoise(sigma={self.sigma:g}, epsilon={self.epsilon:g})"


class EpsilonNoises(VectorizedActionNoise):
    """The same for environments that step together; all their episodes count.

    stable-baselines3's own class copies a noise for each environment, random numbers included.

    Args:
        noise: of all environments.
        n_envs: how many there are.
        spread: standard deviation in the last environment over that in the first one.
        density: probability that a value of an action gets noise where the action does, in every other environment; in
            the rest all of them do.
    """

    def __init__(self, noise: EpsilonNoise, n_envs: int, spread: float = 1.0, density: float = 1.0) -> None:
        super().__init__(noise, n_envs)
        self.density = density
        self.noise = noise
        self.scales = np.geomspace(1.0, spread, n_envs)[:, None].astype(np.float32)

    @property
    def epsilon(self) -> float:
        """Probability of noise now."""
        return self.noise.epsilon

    def reset(self, indices: Iterable[int] | None = None) -> None:
        """Begins the next episode in some environments, or the first one in all."""
        for _ in (0,) if indices is None else indices:
            self.noise.reset()

    def __call__(self) -> NDArray[np.float32]:
        found = np.stack([self.noise() for _ in range(self.n_envs)]) * self.scales
        if self.density < 1.0:
            found[1::2] *= self.noise.chosen(found[1::2].shape, self.density)
        return found
