"""What brings the sum of operators nearest to measured segments, and how far off that still is. Pure arithmetic.

A part takes overhead_s + factor * (sum of its operators) + s_per_byte * (bytes in and out). A handful of segments,
measured while other programs ran, can be matched by an overhead of milliseconds. So the fit is of relative errors, and
a few segments that stand out hardly count; each coefficient lies between physical bounds; and the factor and what the
edge costs are there only where that lowers the error on segments that the fit has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.profiles.measuring.least_squares import fit_robust, relative_errors
from distredge.profiles.measuring.segments import Check
from distredge.profiles.schema import Segments

FACTORS: Final = (0.9, 1.1)
"""A segment computes the same kernels as its operators do: beyond this, one or the other was disturbed."""

SLOWEST_LAYOUT: Final = 16.0
"""Changing a map's layout takes at most so many times as long as copying it."""

_NO_COPY_S_PER_BYTE = 1e-10
_LEAST_CHECKS = 4
_FOLDS = 10
_LEAST_S = 1e-6
_BETTER = 0.97
"""More terms must bring the error on segments left out below this share of what it is without them."""

_TERMS: Final = ((), ("edge",), ("factor",), ("edge", "factor"))
"""What may be fitted together; "edge" is the overhead and the seconds per byte."""


@dataclass(frozen=True)
class ExpectedError:
    """How far off predictions are expected to be: absolute relative errors of segments left out of the fit.

    Attributes:
        mean, p95: over the segments that were drawn at random, as `verify` draws them.
        segments: how many.
    """

    mean: float
    p95: float
    segments: int


class Beside(NamedTuple):
    """What a run of a segment took beside its kernels.

    Attributes:
        seconds: without changes of layout inside, with those at its edge.
        kernels: how many ran; the profiler that tells their times takes some time for each.
        edge_bytes: bytes that enter and leave it, as `profiles.part_costs` counts them.
    """

    seconds: float
    kernels: int
    edge_bytes: int


def correction(
    checks: Sequence[Check], besides: Sequence[Beside] = (), copy_s_per_byte: float = 0.0
) -> tuple[Segments, ExpectedError | None]:
    """Returns the correction of some measured segments, and the error to expect with it.

    What starting a segment and its edge cost is seen in the same runs that told the kernels' times, where a slow phase
    of the machine cancels out. These runs had a profiler, so that the overhead is at most what they say, and the
    seconds per byte about as much; within that, the segments decide. Where nothing tells kernels' times the segments
    decide alone.

    Args:
        checks: measured segments.
        besides: what runs took beside their kernels.
        copy_s_per_byte: of packing and placing rows on the same board; 0 unknown.

    Returns:
        The correction, without fitted terms where there are fewer than four segments; and the error, None likewise.
    """
    edge = _edge_bounds(besides, SLOWEST_LAYOUT * (copy_s_per_byte or _NO_COPY_S_PER_BYTE))
    if len(checks) < _LEAST_CHECKS:
        return Segments(), None
    fit = _Fit(checks, edge)
    chosen: tuple[str, ...] = _TERMS[0]
    for terms in _TERMS[1:]:
        if _typical(fit.left_out(terms)) < _BETTER * _typical(fit.left_out(chosen)):
            chosen = terms
    errors = fit.left_out(chosen)
    overhead_s, factor, s_per_byte = fit.coefficients(chosen, np.arange(len(checks)))
    drawn = errors[np.array([check.drawn for check in checks])]
    drawn = drawn if len(drawn) else errors
    expected = ExpectedError(float(drawn.mean()), float(np.quantile(drawn, 0.95)), len(drawn))
    return Segments(factor=factor, overhead_s=overhead_s, s_per_byte=s_per_byte), expected


def _edge_bounds(besides: Sequence[Beside], most_s_per_byte: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Least and most overhead and seconds per byte; what goes with the number of kernels is the profiler's."""
    if len(besides) < _LEAST_CHECKS:
        return (0.0, math.inf), (0.0, most_s_per_byte)
    columns = [[1.0] * len(besides), [float(b.edge_bytes) for b in besides], [float(b.kernels) for b in besides]]
    seconds = [max(b.seconds, _LEAST_S) for b in besides]
    bounds = [(0.0, float(np.median(seconds))), (0.0, most_s_per_byte), (0.0, math.inf)]
    overhead_s, s_per_byte, _ = fit_robust(columns, seconds, bounds)
    return (0.0, overhead_s), (s_per_byte / 2, min(2 * s_per_byte, most_s_per_byte))


def _typical(errors: NDArray[np.float64]) -> float:
    """Mean error, of which a segment that was disturbed beyond use has no more than one that is off by half."""
    return float(np.minimum(errors, 0.5).mean())


class _Fit:
    def __init__(self, checks: Sequence[Check], edge: tuple[tuple[float, float], tuple[float, float]]) -> None:
        self._columns = np.array([[1.0, c.sum_s, float(c.edge_bytes)] for c in checks]).T
        self._values = np.array([c.measured_s for c in checks])
        least_s = float(self._values.min())
        self._edge = (min(edge[0][0], least_s), min(edge[0][1], least_s)), edge[1]
        self._errors: dict[tuple[str, ...], NDArray[np.float64]] = {}

    def coefficients(self, terms: Sequence[str], of: NDArray[np.intp]) -> tuple[float, float, float]:
        """Overhead, factor and seconds per byte that fit some of the checks; a term that is not there says nothing."""
        overhead, s_per_byte = self._edge if "edge" in terms else ((0.0, 0.0), (0.0, 0.0))
        bounds = [overhead, FACTORS if "factor" in terms else (1.0, 1.0), s_per_byte]
        found = fit_robust(self._columns[:, of].tolist(), self._values[of].tolist(), bounds)
        return found[0], found[1], found[2]

    def left_out(self, terms: tuple[str, ...]) -> NDArray[np.float64]:
        """Absolute relative error of each check, (checks,), by a fit that has not seen it."""
        if terms not in self._errors:
            count = len(self._values)
            everything = np.arange(count)
            errors = np.empty(count)
            for fold in range(min(_FOLDS, count)):
                out = everything % min(_FOLDS, count) == fold
                found = self.coefficients(terms, everything[~out])
                errors[out] = np.abs(relative_errors(self._columns[:, out].tolist(), self._values[out].tolist(), found))
            self._errors[terms] = errors
        return self._errors[terms]
