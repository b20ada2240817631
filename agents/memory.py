"""The best strategy so far, which OSDS returns instead of the last one (DistrEdge, Algorithm 2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from distredge.latency import evaluate

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from distredge.envs.volumes import Episode, VolumesEnv
    from distredge.strategy import Strategy


class BestStrategy:
    """Remembers the fastest strategy of all episodes, and the agent as it was then.

    Attributes:
        latency_s: of the fastest one; infinite before there is one.
        strategy: None before there is one.
        episode: number of the episode that found it, from 1; 0 before there is one.
    """

    def __init__(self) -> None:
        self.latency_s = math.inf
        self.strategy: Strategy | None = None
        self.episode = 0
        self._weights: dict[str, Any] = {}

    def offer(self, env: VolumesEnv, episode: Episode | None, number: int, agent: BaseAlgorithm | None = None) -> bool:
        """Keeps the strategy of an episode, if it is faster than all before.

        Args:
            env: where the episode was.
            episode: that has ended.
            number: of the episode, from 1.
            agent: whose weights to keep with it.

        Returns:
            Whether it is faster.
        """
        if episode is None or not episode.complete:
            return False
        latency_s = _latency_s(env, episode)
        if latency_s >= self.latency_s:
            return False
        self.latency_s, self.strategy, self.episode = latency_s, env.strategy(episode), number
        if agent is not None:
            self._weights = {name: value.clone() for name, value in agent.policy.state_dict().items()}
        return True

    def restore(self, agent: BaseAlgorithm) -> None:
        """Gives an agent the weights that it had when the best strategy was found."""
        if self._weights:
            agent.policy.load_state_dict(self._weights)


def _latency_s(env: VolumesEnv, episode: Episode) -> float:
    """Latency of an image that starts at time 0, so that episodes at other times of a trace compare."""
    if episode.start_s == 0.0:
        return episode.latency_s
    return evaluate(episode.problem, env.strategy(episode))
