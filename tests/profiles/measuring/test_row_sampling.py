"""Which rows are measured: few on a straight line, every step of a staircase."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.profiles.measuring.row_sampling import RowSampler


def explored(sampler: RowSampler, seconds: dict[int, float]) -> dict[int, float]:
    """What a sampler asks for until it has enough."""
    known: dict[int, float] = {}
    while rows := sampler.next(known, 4):
        assert not known.keys() & set(rows)
        known.update((r, seconds[r]) for r in rows)
    return known


@given(st.integers(1, 500), st.integers(2, 40))
def test_it_ends_with_the_whole_and_one_row_measured_and_keeps_its_limit(rows: int, points: int) -> None:
    sampler = RowSampler(rows, points, start=min(points, 13))
    known = explored(sampler, {r: 1.0 + r * (1 + 0.5 * math.sin(r)) for r in range(1, rows + 1)})
    assert {1, rows} <= known.keys()
    assert len(known) <= max(points, len(sampler.starting()))


def test_a_straight_line_needs_no_more_than_the_start() -> None:
    sampler = RowSampler(224)
    known = explored(sampler, {r: 0.1 + r for r in range(1, 225)})
    assert len(known) == len(sampler.starting())


def test_every_row_of_a_low_tensor_is_measured() -> None:
    assert set(RowSampler(7).starting()) == set(range(1, 8))


@pytest.mark.parametrize("step", [4, 6, 14])
def test_a_staircase_is_followed(step: int) -> None:
    rows = 56
    seconds = {r: float(-(-r // step)) for r in range(1, rows + 1)}
    known = explored(RowSampler(rows, points=48), seconds)
    grid = np.arange(1, rows + 1)
    told = np.interp(grid, sorted(known), [seconds[r] for r in sorted(known)])
    error = np.abs(told - [seconds[r] for r in grid]) / [seconds[r] for r in grid]
    assert error.mean() < 0.03


def test_a_dip_that_a_starting_point_meets_survives() -> None:
    seconds = {r: float(r) - (12.0 if 54 <= r <= 62 else 0.0) for r in range(1, 113)}
    known = explored(RowSampler(112), seconds)
    assert known[56] < known[max(r for r in known if r < 53)]
    assert sum(1 for r in known if 48 <= r <= 68) >= 4
