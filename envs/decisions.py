"""What actions decide and what environments tell of it, for many episodes at once: loops that numba compiles.

`begin` starts episodes, `decide` turns actions into volumes, `report` fills in observations, rewards and infos;
between the last two somebody prices the new volumes. `cut_points` and `volume_end` say in numpy what `decide` does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distredge.envs._compiled import digest, entry, inlined

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Singles = NDArray[np.float32]
Flags = NDArray[np.bool_]

N_FLOATS, N_INTS, N_FLAGS = 5, 3, 2
LATENCY_S, IMAGES_PER_S, SPEEDUP, OFFLOAD_S, START_S = range(N_FLOATS)
DECIDED, CLUSTER, MODEL = range(N_INTS)
DONE, FEASIBLE = range(N_FLAGS)
"""Rows of `Told.floats`, `Told.ints` and `Told.flags`."""

FILES = ("envs.decisions",)
"""Modules that the loops are compiled from."""


class Rules(NamedTuple):
    """What is the same in all episodes of an environment of M models, and P problems: models times clusters.

    Attributes:
        n_values: numbers of an action before the cut points: 1 if the first one says where a volume ends, else 0.
        ends: (n,) where the given volumes of each model end, one model after the other; not read with `n_values` 1.
        ends_at: (M,) where those of a model begin.
        features: (n, n_features) what is seen of the next volume at each place, one model after the other.
        features_at: (M,) where those of a model begin.
        heights: (n,) rows of each cut, one model after the other.
        heights_at: (M + 1,) where those of a model begin.
        model, cluster, n_devices: (P,) of each problem.
        offload_s: (P,) seconds of the best single device.
        reward_s: (P,) seconds that are worth a reward of 1.
        with_rows: whether the cut points of the last volume are seen.
    """

    n_values: int
    ends: Ints
    ends_at: Ints
    features: Singles
    features_at: Ints
    heights: Ints
    heights_at: Ints
    model: Ints
    cluster: Ints
    n_devices: Ints
    offload_s: Floats
    reward_s: Floats
    with_rows: bool


class Episodes(NamedTuple):
    """The episodes of n environments on up to N devices, of up to L volumes.

    Attributes:
        problem: (n,) of each.
        n_decided: (n,) volumes decided.
        next_cut: (n,) the first cut that is left.
        head: (n,) head device; 0 before the last volume.
        cuts: (n, L) where volumes end; -1 for those not decided.
        rows: (n, L * (N + 1)) cut points, D + 1 for each volume on the D devices of the episode's cluster.
        finish_s: (n, N) when each device has done the volumes decided; 0 where there is no device.
        latency_s: (n,) of the whole strategy, NaN if it is not whole.
        start_s: (n,) time on the links' traces at which the image starts.
        tail: (n, n_fixed) what is seen of the cluster.
        shares: (N,) room for the cut points of an action.
    """

    problem: Ints
    n_decided: Ints
    next_cut: Ints
    head: Ints
    cuts: Ints
    rows: NDArray[np.int32]
    finish_s: Floats
    latency_s: Floats
    start_s: Floats
    tail: Singles
    shares: Floats


class Ended(NamedTuple):
    """The last episode that ended in each of n environments; arrays as in `Episodes`, `latency_s` NaN before one."""

    problem: Ints
    n_decided: Ints
    head: Ints
    cuts: Ints
    rows: NDArray[np.int32]
    latency_s: Floats
    start_s: Floats


class Told(NamedTuple):
    """What is told of n environments besides observations: rewards, (N_FLOATS, n), (N_INTS, n), (N_FLAGS, n)."""

    rewards: Floats
    floats: Floats
    ints: Ints
    flags: Flags


def cut_points(action: ArrayLike, height: ArrayLike) -> Ints:
    """Maps actions to the cut points of volumes: sorted, -1 to 0 and 1 to `height`, rounded half up.

    Args:
        action: (n_envs, n_devices - 1), or (n_devices - 1,) of a single environment, each in [-1, 1].
        height: (n_envs,), or a single number: rows of the volumes' reference tensors.

    Returns:
        (n_envs, n_devices + 1) or (n_devices + 1,) int64 cut points, 0 first and `height` last (DistrEdge, equation of
        the action's mapping).
    """
    shares = np.clip((np.sort(np.asarray(action, np.float64), axis=-1) + 1.0) / 2.0, 0.0, 1.0)
    heights = np.asarray(height, np.int64)[..., None]
    inner_points = np.floor(shares * heights + 0.5).astype(np.int64)
    return np.concatenate([np.zeros_like(heights), inner_points, heights], axis=-1)


def volume_end(action: ArrayLike, first: ArrayLike, last: int) -> Ints:
    """Maps actions to where volumes end: each candidate location has an equal share of the range from -1 to 1.

    Args:
        action: (n_envs,), or a single number, from -1 to 1; what lies outside is cut off.
        first: alike, the first candidate, an index into `graph.cuts`.
        last: the last one, for all.

    Returns:
        Alike, int64, indices from `first` to `last`.
    """
    count = last - np.asarray(first, np.int64) + 1
    share = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0) / 2.0
    return np.asarray(first + np.minimum(count - 1, np.floor(share * count).astype(np.int64)), np.int64)


@inlined
def decide_one(rules: Any, episodes: Any, k: Any, action: Any) -> Any:
    """Notes the volume that an action decides in episode k; returns the cut at which it ends.

    The n_devices - 1 values of a cluster smaller than the largest are the first ones of those for the largest.
    """
    p = episodes.problem[k]
    model, n_devices = rules.model[p], rules.n_devices[p]
    first, w = episodes.next_cut[k], episodes.n_decided[k]
    heights_at = rules.heights_at[model]
    last = rules.heights_at[model + 1] - heights_at - 1
    if rules.n_values == 0:
        end = rules.ends[rules.ends_at[model] + w]
    else:
        left = last - first + 1
        share = (min(max(action[0], -1.0), 1.0) + 1.0) / 2.0
        end = first + min(left - 1, int(np.floor(share * left)))
    height = rules.heights[heights_at + end]
    shares, rows, at = episodes.shares, episodes.rows, w * (n_devices + 1)
    for j in range(n_devices - 1):
        value, x = action[rules.n_values + j], j
        while x > 0 and shares[x - 1] > value:
            shares[x] = shares[x - 1]
            x -= 1
        shares[x] = value
    rows[k, at] = 0
    for j in range(n_devices - 1):
        share = min(max((shares[j] + 1.0) / 2.0, 0.0), 1.0)
        rows[k, at + j + 1] = int(np.floor(share * height + 0.5))
    rows[k, at + n_devices] = height
    episodes.cuts[k, w] = end
    episodes.n_decided[k] = w + 1
    episodes.next_cut[k] = end + 1
    episodes.head[k] = 0
    if end == last:
        most = -1
        for j in range(n_devices):
            size = rows[k, at + j + 1] - rows[k, at + j]
            if size > most:
                most = size
                episodes.head[k] = j
    return end


@inlined
def settle_one(episodes: Any, k: Any, n_devices: Any, latency_s: Any) -> None:
    """Notes the latency of episode k, NaN if it is not whole; where a link that is needed is down all takes forever."""
    finish_s = episodes.finish_s
    down = latency_s == np.inf
    for j in range(n_devices):
        down = down or finish_s[k, j] == np.inf
    if down:
        latency_s = np.inf
        for j in range(n_devices):
            finish_s[k, j] = np.inf
    episodes.latency_s[k] = latency_s


@inlined
def tell_one(rules: Any, episodes: Any, k: Any, latency_s: Any, done: Any, obs: Any, told: Any) -> None:
    """Fills in observation and info of episode k, which has taken so long; `done` says whether it is over."""
    p = episodes.problem[k]
    model, n_devices, offload_s, w = rules.model[p], rules.n_devices[p], rules.offload_s[p], episodes.n_decided[k]
    most, n_features, n_fixed = episodes.finish_s.shape[1], rules.features.shape[1], episodes.tail.shape[1]
    for j in range(most):
        x = episodes.finish_s[k, j] / offload_s
        share = 1.0 if x == np.inf else x / (1.0 + x)
        obs[k, j] = 2.0 * share - 1.0
    place = rules.features_at[model] + (w if rules.n_values == 0 else episodes.next_cut[k])
    for j in range(n_features):
        obs[k, most + j] = rules.features[place, j]
    at = most + n_features
    for j in range(n_fixed):
        obs[k, at + j] = episodes.tail[k, j]
    at += n_fixed
    if rules.with_rows:
        begin = (w - 1) * (n_devices + 1)
        for j in range(most - 1):
            if w == 0:
                obs[k, at + j] = -1.0
            elif j < n_devices - 1:
                height = float(episodes.rows[k, begin + n_devices])
                obs[k, at + j] = 2.0 * (episodes.rows[k, begin + j + 1] / height) - 1.0
            else:
                obs[k, at + j] = 1.0
    told.floats[LATENCY_S, k] = latency_s
    told.floats[IMAGES_PER_S, k] = 1.0 / latency_s if done else 0.0
    told.floats[SPEEDUP, k] = offload_s / latency_s if done else 0.0
    told.floats[OFFLOAD_S, k] = offload_s
    told.floats[START_S, k] = episodes.start_s[k]
    told.ints[DECIDED, k] = w
    told.ints[CLUSTER, k] = rules.cluster[p]
    told.ints[MODEL, k] = model
    told.flags[FEASIBLE, k] = latency_s != np.inf


@inlined
def latest_one(rules: Any, episodes: Any, k: Any) -> Any:
    """When the last device has done the volumes decided in episode k."""
    found = 0.0
    for j in range(rules.n_devices[episodes.problem[k]]):
        found = max(found, episodes.finish_s[k, j])
    return found


@inlined
def report_one(rules: Any, episodes: Any, ended: Any, k: Any, obs: Any, told: Any) -> None:
    """Fills in all that is told of the step of episode k, and keeps the episode if it is over."""
    latency_s = episodes.latency_s[k]
    p = episodes.problem[k]
    done = latency_s == latency_s
    if not done:
        latency_s = latest_one(rules, episodes, k)
    tell_one(rules, episodes, k, latency_s, done, obs, told)
    told.flags[DONE, k] = done
    told.rewards[k] = rules.reward_s[p] / latency_s if done else 0.0
    if done:
        ended.problem[k], ended.n_decided[k], ended.head[k] = p, episodes.n_decided[k], episodes.head[k]
        ended.latency_s[k], ended.start_s[k] = latency_s, episodes.start_s[k]
        for w in range(episodes.n_decided[k]):
            ended.cuts[k, w] = episodes.cuts[k, w]
        for x in range(episodes.n_decided[k] * (rules.n_devices[p] + 1)):
            ended.rows[k, x] = episodes.rows[k, x]


def _compiled_around(stamp: str) -> tuple[Any, Any]:
    """What is told without a step; in each function `stamp` is a constant."""

    @entry
    def begin(
        rules: Any, episodes: Any, which: Any, problem: Any, start_s: Any, tail: Any, obs: Any, told: Any
    ) -> None:
        """Begins an episode in some environments, and fills in observations and infos.

        Args:
            rules: `Rules`.
            episodes: `Episodes`; changed.
            which: (m,) the environments.
            problem: (m,) as in `Episodes`.
            start_s: (m,) alike.
            tail: (m, n_fixed) alike.
            obs: (n, n_observed) float32, filled in.
            told: `Told`, filled in but for rewards and what is done.
        """
        len(stamp)
        for x in range(len(which)):
            k = which[x]
            episodes.problem[k], episodes.start_s[k] = problem[x], start_s[x]
            for w in range(episodes.n_decided[k]):
                episodes.cuts[k, w] = -1
            episodes.n_decided[k] = episodes.next_cut[k] = episodes.head[k] = 0
            for j in range(episodes.finish_s.shape[1]):
                episodes.finish_s[k, j] = 0.0
            for j in range(episodes.tail.shape[1]):
                episodes.tail[k, j] = tail[x, j]
            tell_one(rules, episodes, k, 0.0, False, obs, told)

    @entry
    def tell(rules: Any, episodes: Any, which: Any, obs: Any, told: Any) -> None:
        """Fills in what is seen of some environments, (m,), and their infos, without a step; arguments as of `begin`.

        Of an episode that has ended that is its last observation.
        """
        len(stamp)
        for x in range(len(which)):
            k = which[x]
            latency_s = episodes.latency_s[k] if episodes.n_decided[k] > 0 else np.nan
            done = latency_s == latency_s
            if not done:
                latency_s = latest_one(rules, episodes, k)
            tell_one(rules, episodes, k, latency_s, done, obs, told)

    return begin, tell


def _compiled_parts(stamp: str) -> tuple[Any, Any]:
    """What comes before and after the pricing of a step by other means; in each function `stamp` is a constant."""

    @entry
    def decide(rules: Any, episodes: Any, which: Any, actions: Any) -> None:
        """Notes the volumes that actions, (n, n_values + N - 1) float64, decide in some environments, (m,)."""
        len(stamp)
        for x in range(len(which)):
            decide_one(rules, episodes, which[x], actions[which[x]])

    @entry
    def report(rules: Any, episodes: Any, ended: Any, which: Any, obs: Any, told: Any) -> None:
        """Fills in what is told of some environments, (m,), whose `finish_s` and `latency_s` are those of the prefix.

        Arguments as of `begin`; `ended` is `Ended`, changed where an episode is over.
        """
        len(stamp)
        for x in range(len(which)):
            k = which[x]
            settle_one(episodes, k, rules.n_devices[episodes.problem[k]], episodes.latency_s[k])
            report_one(rules, episodes, ended, k, obs, told)

    return decide, report


begin, tell = _compiled_around(digest(*FILES))
decide, report = _compiled_parts(digest(*FILES))
