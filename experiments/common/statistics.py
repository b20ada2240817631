"""How well predictions fit what was measured: errors, order, and whether one thing is slower than another."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from scipy.stats import spearmanr

APART = 0.10
"""Two measured latencies that differ by less are not compared: noise could have put them in order."""

RESAMPLES = 4000


def errors_of(predicted: Sequence[float], measured: Sequence[float]) -> list[float]:
    """Signed relative errors, predicted / measured - 1.

    Args:
        predicted: (n,) seconds.
        measured: (n,) seconds, > 0.
    """
    return [p / m - 1.0 for p, m in zip(predicted, measured, strict=True)]


def mean_and_p95(errors: Iterable[float]) -> tuple[float | None, float | None]:
    """Mean and 95th percentile of the magnitudes of some errors; None, None without any."""
    sizes = np.abs(list(errors))
    if not len(sizes):
        return None, None
    return float(sizes.mean()), float(np.quantile(sizes, 0.95))


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Spearman's rank correlation (ties take their mean rank); None where it is not defined.

    Args:
        predicted: (n,) seconds.
        measured: (n,) seconds.
    """
    if len(predicted) < 3 or len(set(predicted)) < 2 or len(set(measured)) < 2:
        return None
    return float(spearmanr(predicted, measured).statistic)


def mean_rank_correlation(
    keys: Sequence[Hashable], predicted: Sequence[float], measured: Sequence[float]
) -> float | None:
    """Mean of the rank correlations inside each group of equal keys, weighted by the groups' sizes.

    Groups of fewer than three, or whose values are all equal, do not count; None where none counts.

    Args:
        keys: (n,) which group each belongs to.
        predicted: (n,) seconds.
        measured: (n,) seconds.
    """
    total, count = 0.0, 0
    for members in _grouped(keys).values():
        found = rank_correlation([predicted[i] for i in members], [measured[i] for i in members])
        if found is not None:
            total += found * len(members)
            count += len(members)
    return total / count if count else None


def pairs_in_order(
    keys: Sequence[Hashable], predicted: Sequence[float], measured: Sequence[float], apart: float = APART
) -> tuple[int, int]:
    """How many pairs inside the groups were predicted in the right order, of how many that count.

    A pair counts when the larger measured latency exceeds the smaller one by more than `apart`. Equal predictions of
    such a pair are wrong.

    Args:
        keys: (n,) which group each belongs to.
        predicted: (n,) seconds.
        measured: (n,) seconds, > 0.
        apart: relative difference above which a pair counts.
    """
    right = counted = 0
    for members in _grouped(keys).values():
        for i, j in itertools.combinations(members, 2):
            low, high = (i, j) if measured[i] <= measured[j] else (j, i)
            if measured[high] > (1.0 + apart) * measured[low]:
                counted += 1
                right += predicted[high] > predicted[low]
    return right, counted


def ratio_of_medians(
    numerators: Sequence[float], denominators: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The ratio of two medians, and its lower bound by the percentile bootstrap (one-sided).

    Args:
        numerators: (n,) samples, at least one.
        denominators: (m,) samples, > 0, at least one.
        confidence: share of resamples whose ratio lies above the bound.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    above, below = (np.asarray(samples, dtype=np.float64) for samples in (numerators, denominators))
    ratios = _medians(above, rng) / _medians(below, rng)
    return float(np.median(above) / np.median(below)), float(np.quantile(ratios, 1.0 - confidence))


def _medians(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    picked = rng.integers(len(samples), size=(RESAMPLES, len(samples)))
    return np.asarray(np.median(samples[picked], axis=1))


def _grouped(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        groups[key].append(index)
    return groups
