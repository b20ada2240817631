"""Plays strategies and policies in an environment: strategies as the actions that make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.agents.memory import start_times

if TYPE_CHECKING:
    from distredge.envs.volumes import Episode, VolumesEnv

Volumes = Sequence[tuple[int, Sequence[int]]]
"""Index into `graph.cuts` and cut points (n_devices + 1) of each volume."""

Singles = NDArray[np.float32]
Policy = Callable[[Singles], Singles]
"""Says what to do: (n_features,) observation -> (n_values,) action."""


class Played(NamedTuple):
    """What an episode of L steps was.

    Attributes:
        observations: (L + 1, n_features), the one after the last step included.
        actions: (L, n_values).
        rewards: (L,).
        episode: what it decided.
    """

    observations: Singles
    actions: Singles
    rewards: NDArray[np.float64]
    episode: Episode


def play(env: VolumesEnv, policy: Policy, problem: int = 0, start_s: float = 0.0) -> Played:
    """Plays one episode.

    Args:
        env: of one model.
        policy: asked at every step.
        problem: index of the cluster.
        start_s: time on the links' traces at which the image starts.
    """
    seen, _ = env.reset(options={"cluster": problem, "start_s": start_s})
    observations, actions, rewards, done = [seen], [], [], False
    while not done:
        action = np.asarray(policy(seen), np.float32)
        seen, reward, done, _, _ = env.step(action)
        observations.append(seen)
        actions.append(action)
        rewards.append(float(reward))
    assert env.last_episode is not None
    return Played(np.stack(observations), np.stack(actions), np.array(rewards), env.last_episode)


def play_volumes(env: VolumesEnv, volumes: Volumes, problem: int = 0, start_s: float = 0.0) -> Played:
    """Plays the episode that decides certain volumes; arguments as of `play`.

    The environment chooses the head device by its own rule, and stops where a link is down.
    """
    actions = iter(actions_of(env, volumes, problem))
    return play(env, lambda _: next(actions), problem, start_s)


def actions_of(env: VolumesEnv, volumes: Volumes, problem: int = 0) -> Singles:
    """The actions that decide certain volumes, (L, n_values) float32 in [-1, 1].

    Values of devices that a smaller cluster lacks are 1. Where the agent chooses the cuts as well, its first value
    stands in the middle of the range of the cut.
    """
    graph = env.problems[problem].graph
    n_values = env.action_space.shape[0] if env.action_space.shape else 0
    chooses = n_values - (env.n_devices - 1)
    found = np.ones((len(volumes), n_values), np.float32)
    first, last = 0, len(graph.cuts) - 1
    for w, (cut, rows) in enumerate(volumes):
        if chooses:
            found[w, 0] = 2.0 * (cut - first + 0.5) / (last - first + 1) - 1.0
        inner = np.asarray(rows[1:-1], np.float64)
        found[w, chooses : chooses + len(inner)] = 2.0 * inner / rows[-1] - 1.0
        first = cut + 1
    return found


def shown(env: VolumesEnv, volumes: Volumes, problem: int) -> tuple[Singles, Singles]:
    """What a strategy shows to whom imitates it, at the start times of the cluster's traces.

    Returns:
        (M, n_features) observations and (M, n_values) actions.
    """
    played = [play_volumes(env, volumes, problem, float(t)) for t in start_times(env.problems[problem].cluster)]
    return (
        np.concatenate([one.observations[: len(one.actions)] for one in played]),
        np.concatenate([one.actions for one in played]),
    )
