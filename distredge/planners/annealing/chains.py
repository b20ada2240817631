"""Chains: strategies on their way, as arrays that compiled code changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.planners.annealing.strategy_arrays import take

if TYPE_CHECKING:
    from distredge.planners.annealing.strategy_arrays import Batch

BEGINS = -1
"""Of `Chains.left`: the proposal begins a trial."""


class Chains(NamedTuple):
    """Strategies on their way.

    Attributes:
        states: (N,) generators.
        current: strategies, a `Batch`.
        seconds: their latencies, (N,).
        proposed: changed copies of them.
        found: latencies of those, (N,).
        best: the best that each chain has met.
        best_s: their latencies, (N,).
        heat: (N,) temperatures, relative to the latency.
        saved: where a chain on trial came from.
        saved_s: their latencies, (N,).
        left: (N,) steps that a chain has left on trial; 0 when it is on none, `BEGINS` when its proposal begins one.
    """

    states: NDArray[np.uint64]
    current: Any
    seconds: NDArray[np.float64]
    proposed: Any
    found: NDArray[np.float64]
    best: Any
    best_s: NDArray[np.float64]
    heat: NDArray[np.float64]
    saved: Any
    saved_s: NDArray[np.float64]
    left: NDArray[np.int64]


def make_chains(batch: Batch, seconds: NDArray[np.float64], seed: int, stream: int) -> Chains:
    """Chains that start from the strategies of a batch.

    Args:
        batch: N strategies, which are copied.
        seconds: (N,) their latencies.
        seed: of the generators.
        stream: which of the streams of generators with this seed.
    """
    size, everything = len(seconds), np.arange(len(seconds))
    states = np.random.default_rng((seed, stream)).integers(1, 2**63, size, dtype=np.uint64)
    current, proposed, best, saved = (take(batch, everything) for _ in range(4))
    return Chains(
        states=states,
        current=current,
        seconds=seconds.copy(),
        proposed=proposed,
        found=np.empty(size),
        best=best,
        best_s=seconds.copy(),
        heat=np.zeros(size),
        saved=saved,
        saved_s=seconds.copy(),
        left=np.zeros(size, np.int64),
    )


def resample(chains: Chains) -> None:
    """Replaces the worst eighth of the chains, none of fewer than eight, by copies of the best."""
    order = np.argsort(chains.seconds, kind="stable")
    n = len(order) // 8
    for array in (*chains.current, chains.seconds, *chains.saved, chains.saved_s, chains.left):
        array[order[len(order) - n :]] = array[order[:n]]
