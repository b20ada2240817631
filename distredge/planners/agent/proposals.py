"""Strategies that the trained agent proposes: its modes as they are, and samples around them.

Who has less than a small share of a map's rows gets none, since every share costs messages; how small varies from
sample to sample, as do how sharply shares differ, which volumes end where, and a bias for or against each device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.errors import Unsupported
from distredge.planners.agent.features import features
from distredge.planners.agent.policy import MOST_DEVICES, Modes, load_policy
from distredge.planners.annealing.strategy_arrays import joined, take

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distredge.planners.agent.policy import Policy
    from distredge.planners.annealing.batch_pricing import BatchPricer
    from distredge.planners.annealing.encoding import Codec
    from distredge.planners.annealing.strategy_arrays import Batch

Logits = NDArray[np.float32]

ORDERS = 2
"""Orders of the devices that are looked at, where they are free."""

LEAST_SHARES = (0.03, 0.01, 0.06, 0.1, 0.15)
"""Shares of a map's rows below which a device gets none; the first one for a mode as it is."""

SHARPNESS = (0.7, 1.6)
"""Range of factors on the logits of shares."""

BIAS = 0.5
"""Spread of a sample's bias for or against a device, on the logits."""

WARMTH = 1.5
"""How much less sure of its cuts a sample is than the policy."""


def propose(
    pricer: BatchPricer,
    count: int,
    seed: int,
    scheme: Sequence[int] | None = None,
    policy: Policy | None = None,
) -> Batch:
    """Returns strategies for a problem, each mode as it is first; they are not priced.

    Args:
        pricer: of the problem.
        count: how many, about: at least one of each mode, and each single device besides.
        seed: of the samples.
        scheme: indices into `graph.cuts` where volumes must end, the last cut among them; None: where the agent says.
        policy: None takes the shipped one.

    Raises:
        Unsupported: if there are more devices than the agent knows.
        FileError, MissingDependency: if there is no policy, or nothing to run it.
    """
    codec = pricer.codec
    devices = len(codec.names)
    if devices > MOST_DEVICES:
        raise Unsupported(f"the trained agent plans for up to {MOST_DEVICES} devices, here are {devices}")
    found = [alone(codec, scheme)]
    if devices > 1:
        orders = orders_of(pricer)
        policy = policy or load_policy()
        modes = policy(np.stack([features(pricer, order)[0] for order in orders]))
        found += decode(codec, modes, orders, count - devices, seed, scheme)
    return joined(found)


def best_proposals(
    pricer: BatchPricer, count: int, kept: int, seed: int, policy: Policy | None = None
) -> tuple[Batch, NDArray[np.float64]]:
    """Returns the fastest of some proposals by the kernel, the fastest first, and their latencies, (kept,) seconds.

    Args:
        pricer: of the problem; its tables are filled.
        count: how many are made, as of `propose`.
        kept: how many to return at most; fewer if no more can run.
        seed: of the samples.
        policy: None takes the shipped one.

    Raises:
        Unsupported, FileError, MissingDependency: as `propose`.
    """
    batch = propose(pricer, count, seed, policy=policy)
    about = np.argsort(pricer.price(batch, exact=False), kind="stable")[: kept + kept // 2]
    # Each device alone stays, however little a rough price flatters it.
    batch = take(batch, np.union1d(about, np.arange(len(pricer.codec.names))))
    seconds = pricer.price(batch, again=True)
    order = np.argsort(seconds, kind="stable")[:kept]
    order = order[np.isfinite(seconds[order])]
    return take(batch, order), seconds[order]


def alone(codec: Codec, scheme: Sequence[int] | None = None) -> Batch:
    """Each device alone; `scheme` as of `propose`, None: in one volume."""
    count, ends = len(codec.names), [int(codec.candidates[-1])] if scheme is None else list(scheme)
    batch = codec.empty(count)
    batch.cuts[:, : len(ends)] = ends
    has_all = np.arange(count + 1)[None] > np.arange(count)[:, None]
    batch.rows[:, : len(ends)] = codec.choices.heights[ends][None, :, None] * has_all[:, None]
    batch.head[:] = np.arange(count)
    return batch


def orders_of(pricer: BatchPricer) -> NDArray[np.int64]:
    """Orders of devices to look at, (n_orders, n_devices): as given, and with who is well connected in the middle."""
    codec = pricer.codec
    given = np.arange(len(codec.names))
    if not codec.choices.free_order or len(set(codec.choices.kinds.tolist())) < 2:
        return given[None]
    arrays = pricer.kernel.links
    access = arrays.access.reshape(-1, arrays.profile_of.shape[1] + 1, 2)[0][given].min(axis=1)
    rising = np.lexsort((codec.choices.kinds, access))
    middle = np.concatenate([rising[::2], rising[1::2][::-1]])
    return np.unique(np.stack([given, middle]), axis=0)[:ORDERS]


class _Variation(NamedTuple):
    """How each of N samples departs from what the policy says.

    Attributes:
        sharp: (N,) factors on the logits of shares.
        bias: (N, n_devices) added to them.
        least: (N,) shares below which a device gets none.
        warmth: (N,) divisors of all other logits; 0: what is likelier is chosen.
    """

    sharp: Logits
    bias: Logits
    least: Logits
    warmth: Logits


def decode(
    codec: Codec, modes: Modes, orders: NDArray[np.int64], count: int, seed: int, scheme: Sequence[int] | None = None
) -> list[Batch]:
    """Turns what a policy says into strategies, a batch for each order of the devices.

    Args:
        codec: of the problem.
        modes: what the policy says of each order.
        orders: (n_orders, n_devices).
        count: strategies in all, about.
        seed: of the samples.
        scheme: as of `propose`.
    """
    rng = np.random.default_rng((seed, 150))
    number = modes.cut.shape[2]
    each = max(1, count // (len(orders) * number))
    found = []
    for k, order in enumerate(orders):
        mode = np.tile(np.arange(number), each)
        varied = _variation(rng, len(mode), len(order), number)
        found.append(_strategies(codec, Modes(*(m[k] for m in modes)), mode, varied, order, rng, scheme))
    return found


def _variation(rng: np.random.Generator, size: int, devices: int, plain: int) -> _Variation:
    """Variations of which the first `plain` are none."""
    sharp = np.exp(rng.uniform(np.log(SHARPNESS[0]), np.log(SHARPNESS[1]), size))
    bias = rng.normal(0.0, BIAS, (size, devices)) * rng.random((size, 1))
    least = rng.choice(LEAST_SHARES, size)
    warmth = rng.uniform(0.0, WARMTH, size)
    sharp[:plain], bias[:plain], least[:plain], warmth[:plain] = 1.0, 0.0, LEAST_SHARES[0], 0.0
    return _Variation(*(array.astype(np.float32) for array in (sharp, bias, least, warmth)))


def _strategies(
    codec: Codec,
    modes: Modes,
    mode: NDArray[np.int64],
    varied: _Variation,
    order: NDArray[np.int64],
    rng: np.random.Generator,
    scheme: Sequence[int] | None,
) -> Batch:
    """Strategies of one order: `mode` says which of the policy's each is made of, `varied` how it departs from it."""
    size, devices = len(mode), len(order)
    candidates = codec.choices.candidates
    batch = codec.empty(size)
    if scheme is None:
        places, ended = _ends(modes.cut[:, mode].T, varied, batch.cuts.shape[1], rng)
        cuts = candidates[places]
    else:
        cuts = np.broadcast_to(np.asarray(scheme, np.int64), (size, len(scheme)))
        places, ended = np.minimum(np.searchsorted(candidates, cuts), len(candidates) - 1), np.ones(cuts.shape, bool)
    kept = cuts.shape[1]
    logits = np.ascontiguousarray(modes.share.transpose(2, 1, 0))[mode[:, None], places]
    logits = logits * varied.sharp[:, None, None] + varied.bias[:, None]
    batch.cuts[:, :kept] = np.where(ended, cuts, -1)
    batch.rows[:, :kept, 1:] = _points(logits, varied.least, codec.choices.heights[cuts])
    batch.order[:] = order
    if codec.choices.boundary:
        batch.boundary[:, :kept] = ended & _chosen(modes.boundary[places, mode[:, None]], varied, rng)
    gumbel = rng.gumbel(size=(size, devices)) * varied.warmth[:, None]
    batch.head[:] = np.argmax(modes.head[:, mode].T + gumbel, axis=1)
    return batch


def _ends(
    logits: Logits, varied: _Variation, most: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where volumes end: (N, n) places among the candidates, in order, and (N, n) which of those are meant.

    Args:
        logits: (N, n_candidates) that a volume ends there; the last candidate always ends one.
        varied: how samples depart from that.
        most: volumes that a strategy may have; of more, the last ones are one.
        rng: of the samples.
    """
    ends = _chosen(logits, varied, rng)
    ends[:, -1] = True
    count = ends.sum(axis=1)
    kept = min(int(count.max()), most)
    number = np.cumsum(ends, axis=1) - 1
    number[:, -1] = np.minimum(number[:, -1], kept - 1)
    sample, place = np.nonzero(ends & (number < kept))
    places = np.full((len(ends), kept), logits.shape[1] - 1)
    # In rising order, so that the last candidate stays in the last place where there is no room for more.
    places[sample, number[sample, place]] = place
    return places, np.arange(kept)[None] < count[:, None]


def _chosen(logits: Logits, varied: _Variation, rng: np.random.Generator) -> NDArray[np.bool_]:
    """What is chosen by logits, (N, n): what is likelier, or at random where a variation is warm."""
    warmth = np.maximum(varied.warmth[:, None], 1e-3).astype(np.float32)
    chance = 1.0 / (1.0 + np.exp(-np.clip(logits / warmth, -30.0, 30.0)))
    return np.asarray(rng.random(logits.shape, np.float32) < chance)


def _points(logits: Logits, least: Logits, heights: NDArray[np.int64]) -> NDArray[np.int32]:
    """(N, n, n_devices) cut points but the first, of shares with logits of that shape and maps of (N, n) rows."""
    share = np.exp(logits - logits.max(axis=2, keepdims=True))
    share /= share.sum(axis=2, keepdims=True)
    share *= share >= np.minimum(least[:, None, None], 0.9 * share.max(axis=2, keepdims=True))
    total = np.cumsum(share, axis=2, dtype=np.float64)
    return np.asarray(np.rint(total * (heights / total[:, :, -1])[:, :, None]), np.int32)
