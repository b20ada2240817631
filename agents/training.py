"""Runs the training of an agent and tells observers of every episode."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from distredge.agents.algorithms import load_parameters, make_agent, one_torch_thread
from distredge.agents.memory import BestStrategy
from distredge.agents.vec_env import KernelVecEnv
from distredge.envs.vector import VolumesVectorEnv
from distredge.folders import settle_caches
from distredge.latency import offload_latency_s

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from distredge.agents.settings import TrainingConfig
    from distredge.envs.volumes import VolumesEnv


@dataclass(frozen=True)
class EpisodeReport:
    """What observers hear of an episode.

    Attributes:
        number: of the episode, from 1.
        reward: sum over its steps.
        latency_s: end-to-end latency of its strategy; infinite when a link is down.
        improved: whether its strategy is the fastest so far.
        best: the fastest so far.
        offload_latency_s: latency of the best single device.
        epsilon: probability of exploration noise; None when the algorithm explores otherwise.
        evaluation_latency_s: latency without exploration, when it was evaluated after this episode.
        training: what the algorithm reports of its updates, such as `train/critic_loss`.
    """

    number: int
    reward: float
    latency_s: float
    improved: bool
    best: BestStrategy
    offload_latency_s: float
    epsilon: float | None
    evaluation_latency_s: float | None
    training: Mapping[str, float]


class Observer(Protocol):
    """Is told of every episode."""

    def episode(self, report: EpisodeReport) -> None:
        """Called after every episode."""


@dataclass(frozen=True)
class Trained:
    """What a training run found.

    Attributes:
        best: the fastest strategy; `best.strategy` is None when every episode met a link that is down.
        agent: as it was when that was found.
        episodes: finished ones.
        steps: split decisions taken in all episodes.
        updates: of the networks.
        seconds: that it took.
        stopped: whether it was stopped before its last episode.
    """

    best: BestStrategy
    agent: BaseAlgorithm
    episodes: int
    steps: int
    updates: int
    seconds: float
    stopped: bool


def run_training(
    env: VolumesEnv,
    config: TrainingConfig,
    *,
    observers: Sequence[Observer] = (),
    should_stop: Callable[[], bool] = lambda: False,
    checkpoint: Callable[[BaseAlgorithm, int], None] | None = None,
    trained_agent: str | Path | None = None,
) -> Trained:
    """Trains an agent in an environment.

    Args:
        env: of one cluster.
        config: algorithm, length, seed and hyper-parameters.
        observers: told of every episode.
        should_stop: asked after every episode.
        checkpoint: called with the agent and the episode's number every `config.save_freq` episodes.
        trained_agent: saved agent whose networks to begin with.

    Raises:
        ConfigError, MissingDependency: if the agent cannot be made.
    """
    settle_caches()
    with one_torch_thread():
        n_envs = config.hyperparameters["n_envs"]
        # Without SB3's Monitor: episodes are counted here, and its records would hold the time of day.
        vec = DummyVecEnv([lambda: env]) if n_envs == 1 else KernelVecEnv(VolumesVectorEnv(env, n_envs))
        agent = make_agent(config.algo, vec, config.hyperparameters, config.seed, config.device)
        agent.set_logger(Logger(None, []))
        if trained_agent is not None:
            load_parameters(agent, trained_agent)
        callback = _EpisodeCallback(env, vec, config, observers, should_stop, checkpoint)
        start_s = time.perf_counter()
        # The callback ends the run at its last episode; no episode has more steps than this.
        agent.learn((config.episodes + n_envs) * env.max_volumes, callback, log_interval=None)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start_s
        callback.best.restore(agent)
    return Trained(
        callback.best,
        agent,
        callback.episodes,
        agent.num_timesteps,
        int(getattr(agent, "_n_updates", 0)),
        seconds,
        callback.episodes < config.episodes,
    )


@dataclass(eq=False)
class _EpisodeCallback(BaseCallback):
    """Turns SB3's steps into episodes."""

    env: VolumesEnv
    vec: DummyVecEnv | KernelVecEnv
    config: TrainingConfig
    observers: Sequence[Observer]
    should_stop: Callable[[], bool]
    checkpoint: Callable[[BaseAlgorithm, int], None] | None

    def __post_init__(self) -> None:
        super().__init__()
        self.best = BestStrategy()
        self.episodes = 0
        self._rewards = np.zeros(self.vec.num_envs)
        self._twin: VolumesEnv | None = None

    def _on_step(self) -> bool:
        self._rewards += self.locals["rewards"]
        return all(self._end_of_episode(i) for i in np.flatnonzero(self.locals["dones"]).tolist())

    def _end_of_episode(self, index: int) -> bool:
        """Tells of the episode that has ended in one environment; returns whether training goes on."""
        self.episodes += 1
        number = self.episodes
        vector = self.vec.vector if isinstance(self.vec, KernelVecEnv) else None
        episode = self.env.last_episode if vector is None else vector.last_episode(index)
        assert episode is not None
        improved = self.best.offer(self.env, episode, number, self.model)
        evaluation_s = None
        if self.config.eval_freq and number % self.config.eval_freq == 0:
            evaluation_s, better = self._evaluate(number)
            improved = improved or better
        if self.checkpoint and self.config.save_freq and number % self.config.save_freq == 0:
            self.checkpoint(self.model, number)
        report = EpisodeReport(
            number,
            float(self._rewards[index]),
            episode.latency_s,
            improved,
            self.best,
            offload_latency_s(episode.problem),
            getattr(getattr(self.model, "action_noise", None), "epsilon", None),
            evaluation_s,
            {k: float(v) for k, v in self.logger.name_to_value.items() if k.startswith("train/")},
        )
        self._rewards[index] = 0.0
        for observer in self.observers:
            observer.episode(report)
        return number < self.config.episodes and not self.should_stop()

    def _evaluate(self, number: int) -> tuple[float, bool]:
        """Plays an episode without exploration; returns its latency and whether it is the fastest so far."""
        if self._twin is None:
            self._twin = self.env.twin()
        obs, _ = self._twin.reset(options={"start_s": 0.0})
        done = False
        while not done:
            action: Any = self.model.predict(obs, deterministic=True)[0]
            obs, _, done, _, _ = self._twin.step(np.asarray(action, np.float32))
        episode = self._twin.last_episode
        assert episode is not None
        return episode.latency_s, self.best.offer(self._twin, episode, number, self.model)
