"""Figures of strategies, what chains are after, and what boards draw, as arrays that compiled code takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.planners.annealing.strategy_arrays import Batch

Floats = NDArray[np.float64]

FIGURES = 4
LATENCY, PERIOD, ENERGY, EXCESS = range(FIGURES)
"""Columns of a batch's figures: seconds, seconds, joules, and the logarithm of 1 + memory beyond the limits, as a share
of them, summed."""


class BoardArrays(NamedTuple):
    """What a cluster's N boards draw and hold.

    Attributes:
        idle_w: (N,) watts of a board that the strategy names; 0 where unknown.
        extra_w: (N,) watts more while it computes.
        named: whether a strategy names every board, or those alone that have something to do.
        limit_bytes: (N,) memory of each; infinite where there is no limit.
    """

    idle_w: Floats
    extra_w: Floats
    named: bool
    limit_bytes: Floats


class Aims(NamedTuple):
    """What N chains are after.

    Attributes:
        weights: (N, 3) of the logarithms of latency, period and energy.
        limit: (N,) logarithm of the longest latency.
    """

    weights: Floats
    limit: Floats


class Shelves(NamedTuple):
    """The best strategies that were met, by range of latency and by weights; the last one is the nearest to allowed.

    Attributes:
        first, step: logarithms of the lowest latency, and of the ratio of neighbouring ranges.
        ranges: number of ranges.
        limit: logarithm of the longest latency that is allowed.
        weights: (M, 3) as of `Aims`.
        worth: (ranges * M + 1,) logarithm of what each is worth; infinite where nothing has been met.
        figures: (ranges * M + 1, FIGURES).
        plans: the strategies.
    """

    first: float
    step: float
    ranges: int
    limit: float
    weights: Floats
    worth: Floats
    figures: Floats
    plans: Batch
