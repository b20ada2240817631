"""Shares of a volume: every row of every tensor has one owner."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from distredge.model.nodes import Tensor
from distredge.model.rows import Interval
from distredge.model.volumes import Share

CUTS = st.lists(st.integers(0, 300), min_size=1, max_size=6).map(lambda x: (0, *sorted(x), max(x) + 1))


def owned(cuts: tuple[int, ...], height: int) -> list[Interval]:
    """The rows of a tensor of some height that each share owns."""
    tensor = Tensor("t", (1, 1, height, 1), "float32", 2, 3)
    return [Share(cuts[-1], 0, top, bottom, 0, 0).of(tensor).rows for top, bottom in itertools.pairwise(cuts)]


@given(CUTS, st.integers(1, 300))
def test_every_row_of_every_tensor_is_owned_once(cuts: tuple[int, ...], height: int) -> None:
    assert [row for rows in owned(cuts, height) for row in range(*rows)] == list(range(height))


@given(CUTS, st.integers(1, 300), st.integers(1, 300))
def test_tiles_own_every_column_once(cuts: tuple[int, ...], height: int, width: int) -> None:
    tensor = Tensor("t", (1, 1, height, width), "float32", 2, 3)
    tiles = [Share(1, cuts[-1], 0, 1, left, right).of(tensor) for left, right in itertools.pairwise(cuts)]
    columns = [tile.cols for tile in tiles if tile.cols is not None]
    assert [column for cols in columns for column in range(*cols)] == list(range(width))
    assert all(tile.rows == (0, height) for tile in tiles)


def test_odd_heights() -> None:
    assert owned((0, 113, 225), 113) == [(0, 56), (56, 113)]
    assert owned((0, 113, 225), 57) == [(0, 28), (28, 57)]
