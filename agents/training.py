"""Runs the training of an agent and tells observers of every episode."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from distredge.agents.algorithms import errors_explained, load_parameters, make_agent, one_torch_thread, vec_env
from distredge.agents.evaluation import KeptPolicy, policy_latencies_s
from distredge.agents.memory import BestStrategy
from distredge.agents.playing import play_volumes, shown
from distredge.agents.resuming import load_state, save_state
from distredge.agents.vec_env import KernelVecEnv
from distredge.folders import settle_caches
from distredge.latency import offload_latency_s
from distredge.planners.budget import Budget

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from distredge.agents.demonstrations import Decided
    from distredge.agents.playing import Played
    from distredge.agents.settings import TrainingConfig
    from distredge.envs.volumes import Episode, VolumesEnv

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpisodeReport:
    """What observers hear of an episode.

    Attributes:
        number: of the episode, from 1.
        reward: sum over its steps.
        latency_s: end-to-end latency of its strategy; infinite when a link is down.
        improved: whether its strategy is the fastest so far.
        best: the fastest so far, on the same cluster.
        offload_latency_s: latency of the best single device.
        epsilon: probability of exploration noise; None when the algorithm explores otherwise.
        evaluation_latency_s: latency without exploration, when it was played after this episode: the mean over the
            clusters that are trained on.
        training: what the algorithm reports of its updates, such as `train/critic_loss`.
        cluster: name of the episode's cluster.
        actions: (L, n_values) float32 of its steps.
        steps: of all episodes so far.
        updates: of the networks so far.
        held_out_speedups: of the policy over the best device, on each held-out cluster, when it was played after this
            episode.
        share: of the run that is over, 0 to 1.
        seconds: of training so far, those of the runs that it goes on from included.
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
    cluster: str = ""
    actions: NDArray[np.float32] | None = None
    steps: int = 0
    updates: int = 0
    held_out_speedups: Mapping[str, float] = field(default_factory=dict)
    share: float = 0.0
    seconds: float = 0.0


class Observer(Protocol):
    """Is told of every episode."""

    def episode(self, report: EpisodeReport) -> None:
        """Called after every episode."""


@dataclass(frozen=True)
class Trained:
    """What a training run found.

    Attributes:
        bests: the fastest strategies on each cluster; `strategy` is None when every episode met a link that is down.
        agent: the one that is kept (`KeptPolicy`).
        policy_s: latency of its strategy without exploration on each cluster.
        episodes: finished ones.
        steps: split decisions taken in all episodes.
        updates: of the networks.
        seconds: of training, without the demonstrations, those of the runs that it goes on from included.
        stopped: whether it was stopped before its end, be it during the demonstrations.
    """

    bests: tuple[BestStrategy, ...]
    agent: BaseAlgorithm
    policy_s: tuple[float, ...]
    episodes: int
    steps: int
    updates: int
    seconds: float
    stopped: bool

    @property
    def best(self) -> BestStrategy:
        """The fastest strategy on the first cluster."""
        return self.bests[0]


def run_training(
    env: VolumesEnv,
    config: TrainingConfig,
    *,
    observers: Sequence[Observer] = (),
    should_stop: Callable[[], bool] = lambda: False,
    checkpoint: Callable[[BaseAlgorithm, int], None] | None = None,
    trained_agent: str | Path | None = None,
    demonstrations: Sequence[Sequence[Decided]] = (),
    held_out: VolumesEnv | None = None,
    budget: Budget | None = None,
    resume: str | Path | None = None,
    state_file: str | Path | None = None,
) -> Trained:
    """Trains an agent in an environment.

    Args:
        env: of one model on some clusters.
        config: algorithm, length, seed and hyper-parameters.
        observers: told of every episode.
        should_stop: asked after every episode.
        checkpoint: called with the agent and the episode's number every `config.save_freq` episodes.
        trained_agent: saved agent whose networks to begin with.
        demonstrations: strategies to play first, of each cluster.
        held_out: environment of clusters that are not trained on.
        budget: that ends it, one evaluation an episode; None makes one of `config` now.
        resume: state of a run, from `resuming.save_state`, to go on from; its episodes and seconds add to these.
        state_file: where to leave the state of this one, at its end and every `config.save_freq` episodes.

    Raises:
        ConfigError, FileError, MissingDependency: if the agent cannot be made or the state cannot be taken.
    """
    settle_caches()
    budget = budget or Budget(config.budget_s, config.episodes)
    with one_torch_thread(), errors_explained():
        n_envs = config.hyperparameters["n_envs"]
        vec = vec_env(env, config)
        agent = make_agent(config.algo, vec, config.hyperparameters, config.seed, config.device)
        agent.set_logger(Logger(None, []))
        if trained_agent is not None:
            load_parameters(agent, trained_agent)
        run = TrainingRun(env, vec, agent, config, budget, observers, should_stop, checkpoint, held_out, state_file)
        if resume is not None:
            load_state(run, resume)
        # What goes on has them in its replay buffer.
        run.show(demonstrations, stored=resume is None)
        run.start_s = time.perf_counter()
        if not budget.expired():
            # The callback ends the run; no episode has more steps than this.
            longest = 10**9 if config.episodes is None else (config.episodes + n_envs) * env.max_volumes
            agent.learn(longest, run, log_interval=None, reset_num_timesteps=resume is None)  # type: ignore[arg-type]
        seconds = run.seconds
        run.stopped = run.stopped or budget.interrupted
        if run.episodes == run.episodes_before and not run.stopped:
            _log.warning("the demonstrations used up the budget: no episode was played, nothing was learned")
        if state_file is not None:
            save_state(run, state_file, seconds)
        policy_s = run.end()
    return Trained(
        tuple(run.bests),
        agent,
        policy_s,
        run.episodes,
        agent.num_timesteps,
        int(getattr(agent, "_n_updates", 0)),
        seconds,
        run.stopped,
    )


@dataclass(eq=False)
class TrainingRun(BaseCallback):
    """A run under way: turns SB3's steps into episodes."""

    env: VolumesEnv
    vec: DummyVecEnv | KernelVecEnv
    agent: BaseAlgorithm
    config: TrainingConfig
    budget: Budget
    observers: Sequence[Observer]
    should_stop: Callable[[], bool]
    checkpoint: Callable[[BaseAlgorithm, int], None] | None
    held_out: VolumesEnv | None
    state_file: str | Path | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self.twin = self.env.twin()
        self.bests = [BestStrategy(self.env, k) for k in range(len(self.env.problems))]
        self.kept = KeptPolicy()
        self.episodes = 0
        self.stopped = False
        self.episodes_before, self.seconds_before = 0, 0.0
        self.start_s = time.perf_counter()
        self._rewards = np.zeros(self.vec.num_envs)
        self._actions: list[list[NDArray[np.float32]]] = [[] for _ in range(self.vec.num_envs)]
        self._places = {id(problem): k for k, problem in enumerate(self.env.problems)}
        self._new_best = False
        self._offload_s = [offload_latency_s(problem) for problem in self.env.problems]
        self._imitates = bool(getattr(self.agent, "imitation_weight", 0.0))
        noise: Any = getattr(self.agent, "action_noise", None)
        if noise is not None:
            getattr(noise, "noise", noise).share = self._noisy_share

    @property
    def seconds(self) -> float:
        """Seconds of training so far, with those of the runs that it goes on from."""
        return self.seconds_before + time.perf_counter() - self.start_s

    @property
    def share(self) -> float:
        """Share of the run that is over, 0 to 1, with the runs that it goes on from."""
        own: float = self.budget.spent()
        if self.budget.evaluations is not None and self.episodes_before:
            whole = self.episodes_before + self.budget.evaluations
            return (self.episodes_before + self.budget.done) / whole
        if self.budget.seconds is not None and self.seconds_before:
            return (self.seconds_before + own * self.budget.seconds) / (self.seconds_before + self.budget.seconds)
        return own

    def _noisy_share(self) -> float:
        """The same of the part in which noise is added."""
        last: float = self.config.hyperparameters.get("imitation_last", 0.0)
        return min(1.0, self.share / max(1e-9, 1.0 - last))

    def begin_again(self) -> None:
        """Takes what the memory holds after a state was loaded as new, and judges the agent that is kept anew."""
        self._new_best = any(best.episodes for best in self.bests)
        if not self.kept.weights:
            return
        latest = {name: value.clone() for name, value in self.agent.policy.state_dict().items()}
        self.kept.restore(self.agent)
        if self.config.hyperparameters["greedy_freq"]:
            self.kept.figure = self._figure(policy_latencies_s(self.agent, self.twin)[0])
        self.agent.policy.load_state_dict(latest)

    def random_state(self) -> dict[str, Any]:
        """State of the environments' random generator, plain data."""
        return dict(self._generator.bit_generator.state)

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Sets that state."""
        self._generator.bit_generator.state = state

    @property
    def _generator(self) -> np.random.Generator:
        return self.vec.vector.np_random if isinstance(self.vec, KernelVecEnv) else self.env.np_random

    def show(self, demonstrations: Sequence[Sequence[Decided]], *, stored: bool = True) -> None:
        """Plays demonstrations: the memory keeps the best, and a replay buffer takes all, if they are to be stored."""
        for k, strategies in enumerate(demonstrations):
            for volumes in strategies:
                played = play_volumes(self.twin, volumes, k)
                self._new_best = self.bests[k].offer(played.episode, 0) or self._new_best
                if stored:
                    _store(self.agent, played)
        self._imitate()

    def _on_rollout_start(self) -> None:
        self._imitate()

    def _imitate(self) -> None:
        """Shows the agent the best strategies, where they are new ones."""
        if not self._imitates:
            return
        agent: Any = self.agent
        agent.imitate_only = self.share > 1.0 - self.config.hyperparameters["imitation_last"]
        if not self._new_best:
            return
        self._new_best = False
        parts = [shown(self.twin, best.episodes[0].volumes, k) for k, best in enumerate(self.bests) if best.episodes]
        agent.imitate(np.concatenate([obs for obs, _ in parts]), np.concatenate([actions for _, actions in parts]))

    def _on_step(self) -> bool:
        self._rewards += self.locals["rewards"]
        for i, action in enumerate(self.locals["actions"]):
            self._actions[i].append(action)
        return all(self._end_of_episode(i) for i in np.flatnonzero(self.locals["dones"]).tolist())

    def _end_of_episode(self, index: int) -> bool:
        """Tells of the episode that has ended in one environment; returns whether training goes on."""
        self.episodes += 1
        self.budget.spend()
        number = self.episodes
        vector = self.vec.vector if isinstance(self.vec, KernelVecEnv) else None
        episode = self.env.last_episode if vector is None else vector.last_episode(index)
        assert episode is not None
        k = self._places[id(episode.problem)]
        improved = self.bests[k].offer(episode, number)
        own: int = self.config.hyperparameters["greedy_freq"]
        if improved:
            self._new_best = True
            if not own:
                self.kept.take(self.agent, self.bests[k].latency_s)
        evaluation_s, evaluation = self._evaluate(number, own)
        if self.config.save_freq and number % self.config.save_freq == 0:
            if self.checkpoint is not None:
                self.checkpoint(self.agent, number)
            if self.state_file is not None:
                save_state(self, self.state_file, self.seconds)
        self._tell(index, episode, k, improved, evaluation_s, evaluation)
        self.stopped = self.should_stop() or self.budget.interrupted
        return not (self.stopped or self.budget.expired())

    def _tell(
        self,
        index: int,
        episode: Episode,
        k: int,
        improved: bool,
        evaluation_s: float | None,
        evaluation: Mapping[str, float],
    ) -> None:
        report = EpisodeReport(
            self.episodes,
            float(self._rewards[index]),
            episode.latency_s,
            improved,
            self.bests[k],
            self._offload_s[k],
            getattr(getattr(self.agent, "action_noise", None), "epsilon", None),
            evaluation_s,
            {key: float(v) for key, v in self.logger.name_to_value.items() if key.startswith("train/")},
            episode.problem.cluster.name,
            np.array(self._actions[index], np.float32),
            self.agent.num_timesteps,
            int(getattr(self.agent, "_n_updates", 0)),
            evaluation,
            self.share,
            self.seconds,
        )
        self._rewards[index] = 0.0
        self._actions[index] = []
        for observer in self.observers:
            observer.episode(report)

    def _evaluate(self, number: int, own: int) -> tuple[float | None, dict[str, float]]:
        """Plays without exploration where it is time to; returns the mean latency, and those of held-out clusters."""
        asked = bool(self.config.eval_freq) and number % self.config.eval_freq == 0
        if not asked and (not own or number % own):
            return None, {}
        mean_s = float(np.mean(self._play_greedily(number)))
        if not asked or self.held_out is None:
            return (mean_s if asked else None), {}
        seconds, problems = policy_latencies_s(self.agent, self.held_out)[0], self.held_out.problems
        speedups = [offload_latency_s(problem) / s for problem, s in zip(problems, seconds, strict=True)]
        return mean_s, dict(zip([problem.cluster.name for problem in problems], speedups, strict=True))

    def _play_greedily(self, number: int) -> list[float]:
        """Plays on every cluster without exploration, and keeps the agent if it was never faster."""
        found, episodes = policy_latencies_s(self.agent, self.twin)
        for k, episode in enumerate(episodes):
            if self.bests[k].offer(episode, number):
                self._new_best = True
                if not self.config.hyperparameters["greedy_freq"]:
                    self.kept.take(self.agent, self.bests[k].latency_s)
        if self.config.hyperparameters["greedy_freq"]:
            self.kept.offer(self.agent, self._figure(found))
        return found

    def _figure(self, seconds: Sequence[float]) -> float:
        """What an agent is judged by: its latencies on all clusters, as shares of the best device's, on average."""
        return float(np.mean(np.asarray(seconds) / self._offload_s))

    def end(self) -> tuple[float, ...]:
        """Gives the agent the weights that are kept; returns its latency without exploration on each cluster."""
        if self.config.hyperparameters["greedy_freq"]:
            self._play_greedily(self.episodes)
        self.kept.restore(self.agent)
        return tuple(policy_latencies_s(self.agent, self.twin)[0])


def _store(agent: BaseAlgorithm, played: Played) -> None:
    """Puts the steps of an episode into the replay buffer, if the algorithm has one."""
    buffer: Any = getattr(agent, "replay_buffer", None)
    if buffer is None:
        return
    count, n_envs = len(played.actions), buffer.n_envs
    # A buffer of several environments takes as many steps at a time; the last ones are repeated.
    for first in range(0, count, n_envs):
        at = np.minimum(np.arange(first, first + n_envs), count - 1)
        buffer.add(
            played.observations[at], played.observations[at + 1], played.actions[at], played.rewards[at],
            at == count - 1, [{}] * n_envs,
        )  # fmt: skip
