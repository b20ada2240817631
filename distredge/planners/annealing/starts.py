"""Where the search starts: single devices, and shares by speed over many partition schemes and subsets."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.latency.beside import beside
from distredge.planners.annealing.strategy_arrays import take
from distredge.planners.common.linear_models import s_per_byte
from distredge.planners.common.volume_costs import Floats, VolumeCosts

if TYPE_CHECKING:
    from distredge.planners.annealing.encoding import Codec
    from distredge.planners.annealing.strategy_arrays import Batch, Choices
    from distredge.problem import Problem
    from distredge.profiles.compute import ComputeProfile

KEPT = 16
"""Sets of profiles of which it is kept with a graph what the whole model takes on them."""


def starts(codec: Codec) -> tuple[Batch, int]:
    """Strategies of many kinds, cheap to make; what they cost says which are good.

    What boards take for the whole model is worked out once per graph and set of profiles: where only rates change,
    all this takes a fraction of a millisecond.

    Returns:
        The strategies, and how many at their beginning leave everything to one device.
    """
    problem, heights = codec.problem, codec.choices.heights
    body_s, head_s = _whole_model_s(problem)
    alone, shares, schemes = _alone(codec.choices), _shares(problem, body_s), _schemes(codec)
    # By number of rows: only few differ.
    tall, of_cut = np.unique(heights, return_inverse=True)
    points = _cut_points(tall, np.concatenate([alone, shares]))
    heads = np.argmin(np.where(np.concatenate([alone, shares]) > 0, head_s, np.inf), axis=1)
    batch = codec.empty(len(alone) + len(schemes) * len(shares))
    last = codec.candidates[-1]
    runs: list[tuple[tuple[int, ...], slice, slice]] = [((last,), slice(0, len(alone)), slice(0, len(alone)))]
    for k, scheme in enumerate(schemes):
        at = len(alone) + k * len(shares)
        runs.append((scheme, slice(at, at + len(shares)), slice(len(alone), None)))
    for scheme, place, kind in runs:
        batch.cuts[place, : len(scheme)] = scheme
        batch.rows[place, : len(scheme)] = points[kind][:, of_cut[list(scheme)]]
        batch.head[place] = heads[kind]
    return batch, len(alone)


def _whole_model_s(problem: Problem) -> tuple[Floats, Floats]:
    """Seconds of the body as one volume, and of the head, on each device, (n_devices,) both."""
    boards = {device.profile: device.name for device in problem.cluster.devices}

    def look_up() -> dict[ComputeProfile, tuple[float, float]]:
        costs = VolumeCosts(problem, list(boards.values()))
        return dict(zip(boards, zip(costs.body_s.tolist(), costs.head_s.tolist(), strict=True), strict=True))

    known = beside(problem.graph).get("whole model", frozenset(boards), look_up, KEPT)
    body_s, head_s = np.array([known[device.profile] for device in problem.cluster.devices]).T
    return body_s, head_s


def _cut_points(heights: NDArray[np.int64], shares: Floats) -> NDArray[np.int64]:
    """(n_shares, n_heights, n_devices + 1), as `linear_models.cut_points` has them one by one."""
    total = np.cumsum(shares, axis=1)
    found = np.zeros((len(shares), len(heights), shares.shape[1] + 1), np.int64)
    found[:, :, 1:] = np.rint(heights[None, :, None] * total[:, None, :] / total[:, None, -1:])
    found[:, :, -1] = heights
    return np.minimum(found, heights[None, :, None])


def _alone(choices: Choices) -> Floats:
    """(n, n_devices) shares: each device alone, interchangeable ones once."""
    _, first = np.unique(choices.kinds, return_index=True)
    return np.eye(len(choices.kinds))[np.sort(first)]


def _shares(problem: Problem, body_s: Floats) -> Floats:
    """(n, n_devices) shares of the first m of several rankings, by speed and by speed with the input's way."""
    graph, count = problem.graph, len(body_s)
    input_bytes = sum(graph.tensors[name].size_bytes for name in graph.input_names)
    alone_s = input_bytes * s_per_byte(problem, problem.cluster.names) + body_s
    speed = 1.0 / np.maximum(body_s, 1e-12)
    weights = np.stack([speed, 1.0 / alone_s, np.sqrt(speed), np.ones(count)])
    # Place of each device in a ranking: the first m have places below m.
    places = [np.argsort(np.argsort(by, kind="stable")) for by in (body_s, alone_s)]
    used = np.array([place < size for place in places for size in range(2, count + 1)], bool).reshape(-1, count)
    used = used[np.isfinite(np.where(used, alone_s, 0.0)).all(axis=1)]
    shares = np.where(used[:, None, :], weights, 0.0).reshape(-1, count)
    _, first = np.unique(np.round(shares / shares.sum(axis=1, keepdims=True), 6), axis=0, return_index=True)
    different: Floats = shares[np.sort(first)]
    return different


def _schemes(codec: Codec) -> list[tuple[int, ...]]:
    """One volume, a volume every few cuts, and a volume per resolution."""
    cuts, heights = codec.candidates, codec.choices.heights
    last = cuts[-1]
    found: set[tuple[int, ...]] = {(last,)}
    for volumes in (2, 3, 4, 6, 8, 12, 18, 27, len(cuts)):
        if volumes <= min(len(cuts), codec.most_volumes):
            places = np.linspace(0, len(cuts) - 1, volumes + 1)[1:]
            found.add(tuple(sorted({cuts[round(p)] for p in places} | {last})))
    smaller = [a for a, b in itertools.pairwise(cuts) if heights[b] < heights[a]]
    found.add(tuple(sorted({*smaller[-codec.most_volumes + 1 :], last})))
    return sorted(found)


def shuffled(batch: Batch, rng: np.random.Generator) -> Batch:
    """A copy in which every strategy has its devices in random order, each with its shares."""
    found = take(batch, np.arange(len(batch.cuts)))
    slabs = np.argsort(rng.random(found.order.shape), axis=1)
    found.order[:] = np.take_along_axis(batch.order, slabs, axis=1)
    found.head[:] = np.argmax(slabs == batch.head[:, None], axis=1)
    sizes = np.take_along_axis(np.diff(batch.rows, axis=2), slabs[:, None, :], axis=2)
    found.rows[:, :, 1:] = np.cumsum(sizes, axis=2)
    return found


def best_rows(seconds: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of the `count` lowest finite latencies, repeated in turn when there are fewer.

    Args:
        seconds: (N,) latencies.
        count: how many are wanted.

    Returns:
        (count,) indices, the lowest first; (0,) if no latency is finite.
    """
    order = np.argsort(seconds, kind="stable")
    order = order[np.isfinite(seconds[order])]
    return np.resize(order[:count], count) if len(order) else order
