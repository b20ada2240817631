"""Small least-squares fits in plain NumPy: what a board can run without SciPy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

_REWEIGHTINGS = 20
_SMALL_ERROR = 0.01
"""Relative error below which one value counts no more than another."""


def fit_nonnegative(
    columns: Sequence[Sequence[float]], values: Sequence[float], weights: Sequence[float] | None = None
) -> tuple[float, ...]:
    """Returns the coefficients >= 0 of a sum of columns that is nearest to `values` in relative terms.

    Minimises sum((weight * (model / value - 1))^2) over all choices of coefficients that are 0, which is exact for the
    two or three columns that it is used for.

    Args:
        columns: (k, n) each column's values.
        values: (n,) positive.
        weights: (n,) of the values; None is 1.
    """
    target = np.maximum(np.asarray(values, dtype=np.float64), 1e-12)
    goal = np.ones(len(target)) if weights is None else np.asarray(weights, dtype=np.float64)
    table = (np.asarray(columns, dtype=np.float64) * goal / target).T
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


def fit_robust(columns: Sequence[Sequence[float]], values: Sequence[float]) -> tuple[float, ...]:
    """Returns coefficients >= 0 as `fit_nonnegative` does, but for the least sum of absolute relative errors.

    So a few values that were disturbed, or are of another kind, hardly count.
    """
    found = fit_nonnegative(columns, values)
    for _ in range(_REWEIGHTINGS):
        model = np.asarray(columns, dtype=np.float64).T @ np.asarray(found)
        errors = np.abs(model / np.maximum(np.asarray(values, dtype=np.float64), 1e-12) - 1.0)
        found = fit_nonnegative(columns, values, (1.0 / np.sqrt(np.maximum(errors, _SMALL_ERROR))).tolist())
    return found
