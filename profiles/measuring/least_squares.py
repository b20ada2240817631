"""Small least-squares fits in plain NumPy: what a board can run without SciPy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_REWEIGHTINGS = 10
_SMALL_ERROR = 0.01
"""Relative error below which one value counts no more than another."""


def fit_nonnegative(
    columns: Sequence[Sequence[float]], values: Sequence[float], weights: Sequence[float] | None = None
) -> tuple[float, ...]:
    """Returns the coefficients >= 0 of a sum of columns that is nearest to `values` in relative terms.

    Minimises sum((weight * (model / value - 1))^2).

    Args:
        columns: (k, n) each column's values.
        values: (n,) positive.
        weights: (n,) of the values; None is 1.
    """
    return fit_between(columns, values, [(0.0, np.inf)] * len(columns), weights)


def fit_between(
    columns: Sequence[Sequence[float]],
    values: Sequence[float],
    bounds: Sequence[tuple[float, float]],
    weights: Sequence[float] | None = None,
) -> tuple[float, ...]:
    """Returns the coefficients within bounds of a sum of columns that is nearest to `values` in relative terms.

    Minimises sum((weight * (model / value - 1))^2) over all choices of coefficients that lie at a bound, which is exact
    for the two or three columns that it is used for.

    Args:
        columns: (k, n) each column's values.
        values: (n,) positive.
        bounds: (k, 2) least and most of each coefficient.
        weights: (n,) of the values; None is 1.
    """
    target = np.maximum(np.asarray(values, dtype=np.float64), 1e-12)
    goal = np.ones(len(target)) if weights is None else np.asarray(weights, dtype=np.float64)
    table = (np.asarray(columns, dtype=np.float64) * goal / target).T
    scale = np.maximum(np.abs(table).max(axis=0), 1e-300)
    table = table / scale
    least, most = (np.asarray(bounds, dtype=np.float64) * scale[:, None]).T
    best, best_error = np.clip(np.zeros(len(scale)), least, most), np.inf
    choices = [(least,) if low == high else (None, least, most) for low, high in zip(least, most, strict=True)]
    for kinds in itertools.product(*choices):
        solution = np.array([0.0 if kind is None else kind[place] for place, kind in enumerate(kinds)])
        if not np.isfinite(solution).all():
            continue
        free = [place for place, kind in enumerate(kinds) if kind is None]
        if free:
            solution[free] = np.linalg.lstsq(table[:, free], goal - table @ solution, rcond=None)[0]
        error = float(np.square(table @ solution - goal).sum())
        if (solution >= least).all() and (solution <= most).all() and error < best_error:
            best, best_error = solution, error
    return tuple(float(v) for v in best / scale)


def fit_robust(
    columns: Sequence[Sequence[float]], values: Sequence[float], bounds: Sequence[tuple[float, float]]
) -> tuple[float, ...]:
    """Returns coefficients as `fit_between` does, but for the least sum of absolute relative errors.

    So a few values that were disturbed, or are of another kind, hardly count.

    Args:
        columns: (k, n) each column's values.
        values: (n,) positive.
        bounds: (k, 2) least and most of each coefficient.
    """
    found = fit_between(columns, values, bounds)
    for _ in range(_REWEIGHTINGS):
        errors = np.abs(relative_errors(columns, values, found))
        found = fit_between(columns, values, bounds, (1.0 / np.sqrt(np.maximum(errors, _SMALL_ERROR))).tolist())
    return found


def relative_errors(
    columns: Sequence[Sequence[float]], values: Sequence[float], coefficients: Sequence[float]
) -> NDArray[np.float64]:
    """Returns model / value - 1 of each value, (n,) float64; the arguments are as in `fit_between`."""
    model = np.asarray(columns, dtype=np.float64).T @ np.asarray(coefficients, dtype=np.float64)
    found: NDArray[np.float64] = model / np.maximum(np.asarray(values, dtype=np.float64), 1e-12) - 1.0
    return found
