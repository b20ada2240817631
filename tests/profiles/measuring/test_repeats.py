"""Repeated measurements and small fits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.profiles.measuring.least_squares import fit_nonnegative
from distredge.profiles.measuring.repeats import MOST_BURSTS, Series, middle, spread_of


def burst(level: float) -> np.ndarray:
    return np.array([level, level * 1.001, level * 0.999, level * 1.4])


def test_one_burst_is_never_enough() -> None:
    series = Series()
    assert not series.settled
    series.add(burst(1e-3))
    assert not series.settled


def test_two_fast_bursts_that_agree_settle_it_and_slow_ones_are_left_aside() -> None:
    series = Series()
    for level in (2.0e-3, 1.0e-3, 1.6e-3):
        series.add(burst(level))
        assert not series.settled
    series.add(burst(1.005e-3))
    assert series.settled
    assert series.seconds == pytest.approx(1.0025e-3, rel=1e-3)
    assert series.p95_s > 1.9e-3
    assert series.repeats == 16


def test_it_gives_up_after_some_bursts() -> None:
    series = Series()
    for i in range(MOST_BURSTS):
        assert not series.settled
        series.add(burst(1e-3 * 1.2**i))
    assert series.settled


def test_times_below_the_clocks_resolution_agree() -> None:
    series = Series()
    series.add(np.full(5, 2.0e-6))
    series.add(np.full(5, 2.4e-6))
    assert series.settled


def test_short_times_are_averaged_over_their_middle_half() -> None:
    assert middle(np.array([1e-6] * 10 + [2e-6] * 10 + [50e-6])) == pytest.approx(1.5e-6, rel=0.1)
    assert middle(np.array([1.0, 2.0, 100.0])) == 2.0
    assert spread_of(np.array([1.0, 1.0, 1.0])) == 0.0


@given(st.lists(st.floats(0.0, 10.0), min_size=2, max_size=3), st.integers(0, 1000))
def test_a_fit_finds_exact_coefficients(coefficients: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.uniform(0.5, 5.0, (len(coefficients), 12))
    values = np.asarray(coefficients) @ columns
    if values.min() > 1e-6:
        found = fit_nonnegative(columns.tolist(), values.tolist())
        assert np.allclose(np.asarray(found) @ columns, values, rtol=1e-6)


def test_a_fit_keeps_coefficients_from_falling_below_zero() -> None:
    x = np.linspace(1.0, 2.0, 8)
    fixed, slope = fit_nonnegative([[1.0] * 8, x.tolist()], (3 * x - 1).tolist())
    assert fixed == 0.0
    assert 2.0 < slope < 3.0
    # Weighted, a value that counts nothing changes nothing.
    assert fit_nonnegative([[1.0] * 3], [5.0, 5.0, 50.0], weights=[1.0, 1.0, 0.0]) == pytest.approx((5.0,))


def test_the_faster_half_of_a_burst_counts() -> None:
    series = Series()
    series.add(np.array([1.0, 1.0, 1.0, 1.0, 3.0, 4.0, 5.0]))
    series.add(np.array([1.0, 5.0, 2.0]), counts=np.array([False, True, False]))
    assert series.middles == [1.0, 5.0]
    assert series.seconds == 3.0
    assert series.repeats == 10
