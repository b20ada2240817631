"""The best strategies so far, which OSDS returns instead of the last one (DistrEdge, Algorithm 2)."""

from __future__ import annotations

import bisect
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.envs.volumes import Episode
from distredge.errors import Infeasible, Unsupported
from distredge.latency import evaluate
from distredge.latency.kernel.kernel import kernel_of
from distredge.model.wires import WIRE_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distredge.cluster import Cluster
    from distredge.envs.volumes import VolumesEnv
    from distredge.problem import Problem
    from distredge.strategy import Strategy

START_TIMES = 16
"""Times on the links' traces at which a strategy is judged."""

REMEMBERED = 16
"""Strategies that are remembered of a problem."""


def start_times(cluster: Cluster) -> NDArray[np.float64]:
    """Seconds on a cluster's traces at which strategies are judged, evenly over the longest; (1,) of 0 without one."""
    ends: list[Any] = [cluster.requester, *cluster.devices]
    links = [link for end in ends for link in (end.uplink, end.downlink)]
    period_s = max((link.trace.period_s for link in links if link.trace is not None), default=0.0)
    return np.arange(START_TIMES) * (period_s / START_TIMES) if period_s else np.zeros(1)


def mean_latency_s(problem: Problem, strategies: Sequence[Strategy]) -> NDArray[np.float64]:
    """(N,) seconds: the mean over the start times, infinite where a link is down at one of them."""
    times = start_times(problem.cluster)
    try:
        kernel = kernel_of(problem)
        arguments = kernel.encode(strategies)
        repeated: dict[str, Any] = {
            key: np.repeat(value, len(times), 0) for key, value in arguments.items() if key != "cluster"
        }
        found = kernel.latency_s(**repeated, start_s=np.tile(times, len(strategies)))
        return np.asarray(found.reshape(len(strategies), -1).mean(1))
    except Unsupported:
        return np.array([np.mean([_evaluated(problem, s, float(t)) for t in times]) for s in strategies])


def _evaluated(problem: Problem, strategy: Strategy, start_s: float) -> float:
    try:
        return evaluate(problem, strategy, start_s=start_s)
    except Infeasible:
        return math.inf


class BestStrategy:
    """Remembers the fastest strategies of all episodes on one problem.

    Under traces a strategy counts as fast as the mean over `start_times`, whenever its own episode started.

    Args:
        env: whose episodes they are.
        problem: index into its problems.

    Attributes:
        latency_s: of the fastest one; infinite before there is one.
        input_dtype: in which the input is sent.
        episode: number of the episode that found it, from 1; 0 for what was known before the first.
    """

    def __init__(self, env: VolumesEnv, problem: int = 0) -> None:
        self._env = env
        self.problem = env.problems[problem]
        self.latency_s = math.inf
        self.episode = 0
        self.input_dtype = env.input_dtype
        self._input_wire = WIRE_NUMBERS[env.input_dtype]
        self._times = start_times(self.problem.cluster)
        self._kept: list[tuple[float, Episode, int]] = []
        self._strategy: Strategy | None = None

    @property
    def strategy(self) -> Strategy | None:
        """The fastest strategy; None before there is one."""
        if self._strategy is None and self._kept:
            self._strategy = self._env.strategy(self._kept[0][1])
        return self._strategy

    @property
    def episodes(self) -> list[Episode]:
        """Episodes of the fastest strategies, all different, the fastest first."""
        return [episode for _, episode, _ in self._kept]

    @property
    def strategies(self) -> list[Strategy]:
        """The fastest strategies, all different, the fastest first."""
        return [self._env.strategy(episode) for episode in self.episodes]

    def offer(self, episode: Episode | None, number: int) -> bool:
        """Keeps the strategy of an episode, if it is among the fastest.

        Args:
            episode: that has ended.
            number: of the episode, from 1.

        Returns:
            Whether it is the fastest so far.
        """
        if episode is None or not episode.complete:
            return False
        latency_s = self._judged(episode)
        if not math.isfinite(latency_s):
            return False
        if len(self._kept) == REMEMBERED and latency_s >= self._kept[-1][0]:
            return False
        if any(latency_s == other_s and episode.volumes == other.volumes for other_s, other, _ in self._kept):
            return False
        bisect.insort_right(self._kept, (latency_s, episode, number), key=lambda kept: kept[0])
        del self._kept[REMEMBERED:]
        if latency_s >= self.latency_s:
            return False
        self.latency_s, self.episode, self._strategy = latency_s, number, None
        return True

    def _judged(self, episode: Episode) -> float:
        """Latency that counts: the episode's own where links do not vary."""
        if len(self._times) == 1 and episode.start_s == 0.0:
            return episode.latency_s
        cuts = np.array([[cut for cut, _ in episode.volumes]])
        rows = np.array([[points for _, points in episode.volumes]])
        count = len(self._times)
        try:
            found = kernel_of(self.problem).latency_s(
                np.repeat(cuts, count, 0), np.repeat(rows, count, 0), np.full(count, episode.head),
                input_wire=self._input_wire, start_s=self._times,
            )  # fmt: skip
            return float(found.mean())
        except Unsupported:
            return float(mean_latency_s(self.problem, [self._env.strategy(episode)])[0])

    def state(self) -> list[dict[str, Any]]:
        """Plain data of what is remembered, the fastest first: played again it is remembered again."""
        return [{"volumes": e.volumes, "start_s": e.start_s, "number": number} for _, e, number in self._kept]
