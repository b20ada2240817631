"""Where the search starts: single devices, and shares by speed over many partition schemes and subsets."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.planners.annealing.strategy_arrays import take
from distredge.planners.common.linear_models import cut_points, s_per_byte
from distredge.planners.common.volume_costs import Floats, VolumeCosts

if TYPE_CHECKING:
    from distredge.planners.annealing.encoding import Codec
    from distredge.planners.annealing.strategy_arrays import Batch, Choices


def starts(codec: Codec) -> tuple[Batch, int]:
    """Strategies of many kinds, cheap to make; what they cost says which are good.

    Returns:
        The strategies, and how many at their beginning leave everything to one device.
    """
    chain, choices = VolumeCosts(codec.problem), codec.choices
    alone, shares = _alone(chain, choices), _shares(chain)
    last = codec.candidates[-1]
    made: list[tuple[tuple[int, ...], Floats]] = [((last,), share) for share in alone]
    made += [(scheme, share) for scheme in _schemes(codec) for share in shares]
    batch = codec.empty(len(made))
    points: dict[tuple[int, int], Any] = {}
    for k, (scheme, share) in enumerate(made):
        batch.cuts[k, : len(scheme)] = scheme
        for w, cut in enumerate(scheme):
            # Shares live as long as `made`.
            key = id(share), int(choices.heights[cut])
            if key not in points:
                points[key] = cut_points(key[1], share)
            batch.rows[k, w] = points[key]
        batch.head[k] = int(np.argmin(np.where(share > 0, chain.head_s, np.inf)))
    return batch, len(alone)


def _alone(chain: VolumeCosts, choices: Choices) -> list[Floats]:
    """Each device alone, interchangeable ones once."""
    count = len(chain.devices)
    return [np.eye(count)[k] for k in range(count) if all(choices.kinds[k] != choices.kinds[j] for j in range(k))]


def _shares(chain: VolumeCosts) -> list[Floats]:
    """Shares of the first m of several rankings, by speed and by speed with the input's way."""
    alone_s = chain.alive_bytes(0) * s_per_byte(chain.problem, chain.devices) + chain.body_s
    count = len(chain.devices)
    found: dict[tuple[float, ...], Floats] = {}
    for ranking in (np.argsort(chain.body_s, kind="stable"), np.argsort(alone_s, kind="stable")):
        for size in range(2, count + 1):
            used = np.zeros(count, bool)
            used[ranking[:size]] = True
            if not np.isfinite(alone_s[used]).all():
                continue
            for weights in (chain.speed, 1.0 / alone_s, np.sqrt(chain.speed), np.ones(count)):
                share = np.where(used, weights, 0.0)
                found.setdefault(tuple(np.round(share / share.sum(), 6)), share)
    return list(found.values())


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
