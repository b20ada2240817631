"""What a policy is worth by itself: played without exploration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from distredge.agents.memory import start_times
from distredge.agents.playing import play

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from distredge.envs.volumes import Episode, VolumesEnv


def policy_latencies_s(agent: BaseAlgorithm, env: VolumesEnv) -> tuple[list[float], list[Episode]]:
    """Plays an agent without exploration on every cluster of an environment, once per start time.

    Args:
        agent: of this environment or one with the same signature.
        env: stepped and reset.

    Returns:
        The mean latency in seconds on each cluster, infinite where a link is down, and the episode of the first start
        time.
    """

    def act(seen: Any) -> Any:
        return agent.predict(seen, deterministic=True)[0]

    found, first = [], []
    for k, problem in enumerate(env.problems):
        episodes = [play(env, act, k, float(start_s)).episode for start_s in start_times(problem.cluster)]
        found.append(float(np.mean([episode.latency_s for episode in episodes])))
        first.append(episodes[0])
    return found, first


class KeptPolicy:
    """The weights of an agent that are worth keeping.

    Attributes:
        figure: of the agent that is kept, the lower the better; infinite before there is one.
    """

    def __init__(self) -> None:
        self.figure = math.inf
        self.weights: dict[str, Any] = {}

    def offer(self, agent: BaseAlgorithm, figure: float) -> None:
        """Keeps the weights if the figure is lower than ever."""
        if figure < self.figure:
            self.take(agent, figure)

    def take(self, agent: BaseAlgorithm, figure: float) -> None:
        """Keeps the weights."""
        self.figure = figure
        self.weights = {name: value.clone() for name, value in agent.policy.state_dict().items()}

    def restore(self, agent: BaseAlgorithm) -> None:
        """Gives an agent the weights that are kept; it stays as it is where there are none."""
        if self.weights:
            agent.policy.load_state_dict(self.weights)
