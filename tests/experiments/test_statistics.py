"""Figures of predictions against measurements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.experiments.common.statistics import (
    errors_of,
    mean_and_p95,
    mean_rank_correlation,
    pairs_in_order,
    rank_correlation,
    ratio_of_medians,
)


def test_errors_are_relative_to_what_was_measured() -> None:
    assert errors_of([1.1, 0.5], [1.0, 1.0]) == pytest.approx([0.1, -0.5])
    mean, p95 = mean_and_p95([-0.1] * 19 + [0.5])
    assert mean == pytest.approx(0.12)
    assert p95 == pytest.approx(np.quantile([0.1] * 19 + [0.5], 0.95))
    assert mean_and_p95([]) == (None, None)


def test_rank_correlation_counts_ranks_alone() -> None:
    assert rank_correlation([1, 2, 30], [0.1, 0.2, 0.3]) == pytest.approx(1.0)
    assert rank_correlation([3, 2, 1], [0.1, 0.2, 0.3]) == pytest.approx(-1.0)
    # d = (0, 1, -1, 0): 1 - 6 * 2 / (4 * 15).
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_mean_rank_correlation_is_weighted_and_leaves_small_groups_out() -> None:
    keys = ["a"] * 3 + ["b"] * 4 + ["c"]
    predicted = [1, 2, 3, 4, 3, 2, 1, 9]
    measured = [1, 2, 3, 1, 2, 3, 4, 1]
    assert mean_rank_correlation(keys, predicted, measured) == pytest.approx((3 - 4) / 7)
    assert mean_rank_correlation(["a", "b"], [1, 2], [1, 2]) is None


def test_pairs_count_inside_a_group_and_only_when_apart() -> None:
    keys = ["a", "a", "a", "b"]
    measured = [1.0, 1.05, 2.0, 9.0]
    # 1.0 and 1.05 are too close; (1.0, 2.0) is right, (1.05, 2.0) wrong; "b" has no partner.
    assert pairs_in_order(keys, [1.0, 3.0, 2.0, 0.1], measured) == (1, 2)
    assert pairs_in_order(["a", "a"], [1.0, 1.0], [1.0, 2.0]) == (0, 1)
    assert pairs_in_order(keys, measured, measured, apart=0.01) == (3, 3)


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=12))
def test_a_perfect_prediction_has_every_pair_right(measured: list[float]) -> None:
    right, counted = pairs_in_order(["k"] * len(measured), measured, measured)
    assert right == counted


def test_ratio_of_medians_is_bounded_from_below() -> None:
    rng = np.random.default_rng(1)
    slow, fast = 1.3 + 0.02 * rng.standard_normal(15), 1.0 + 0.02 * rng.standard_normal(15)
    ratio, low = ratio_of_medians(list(slow), list(fast))
    assert 1.2 < low <= ratio < 1.4
    same, same_low = ratio_of_medians(list(fast), list(fast[::-1]))
    assert same == pytest.approx(1.0)
    assert same_low < 1.0
    assert ratio_of_medians([2.0], [1.0]) == (2.0, 2.0)


def test_the_bound_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    kept = 0
    for trial in range(200):
        a, b = rng.lognormal(0.0, 0.1, 25), rng.lognormal(0.0, 0.1, 25)
        kept += ratio_of_medians(list(a), list(b), seed=trial)[1] <= 1.0
    assert kept >= 0.9 * 200
