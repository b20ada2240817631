"""Small least-squares fits in plain NumPy: what a board can run without SciPy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def fit_nonnegative(
    columns: Sequence[Sequence[float]], values: Sequence[float], known: Sequence[float] | None = None
) -> tuple[float, ...]:
    """Returns the coefficients >= 0 of a sum of columns that is nearest to `values` in relative terms.

    Minimises sum(((known + model) / value - 1)^2) over all choices of coefficients that are 0, which is exact for the
    two or three columns that it is used for.

    Args:
        columns: (k, n) each column's values.
        values: (n,) positive.
        known: (n,) part of each value that is known already; None is 0.
    """
    target = np.maximum(np.asarray(values, dtype=np.float64), 1e-12)
    goal = 1.0 - (np.asarray(known, dtype=np.float64) / target if known is not None else np.zeros(len(target)))
    table = (np.asarray(columns, dtype=np.float64) / target).T
    scale = np.maximum(np.abs(table).max(axis=0), 1e-300)
    table = table / scale
    best, best_error = np.zeros(table.shape[1]), np.inf
    count = table.shape[1]
    for size in range(1, count + 1):
        for kept in itertools.combinations(range(count), size):
            solution = np.zeros(count)
            solution[list(kept)] = np.linalg.lstsq(table[:, kept], goal, rcond=None)[0]
            error = float(np.square(table @ solution - goal).sum())
            if (solution >= 0).all() and error < best_error:
                best, best_error = solution, error
    return tuple(float(v) for v in best / scale)
