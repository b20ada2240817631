"""Interval arithmetic against a direct count."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from distredge.model.rows import (
    EMPTY,
    Interval,
    Region,
    Window,
    even_cuts,
    hull,
    intersect,
    intersect_region,
    region_hull,
    touching,
    window_input,
)

INTERVALS = st.builds(lambda a, n: Interval(a, a + n), st.integers(-20, 40), st.integers(0, 20))
WINDOWS = st.builds(Window, st.integers(1, 5), st.integers(0, 7), st.integers(1, 9))


def rows(interval: Interval) -> set[int]:
    return set(range(interval.start, interval.stop))


@given(st.lists(INTERVALS))
def test_hull_is_the_smallest_that_holds_all(intervals: list[Interval]) -> None:
    every = set().union(*(rows(i) for i in intervals))
    found = hull(intervals)
    assert rows(found) >= every
    if every:
        assert (found.start, found.stop) == (min(every), max(every) + 1)
    else:
        assert found == EMPTY


@given(INTERVALS, INTERVALS)
def test_intersection(one: Interval, other: Interval) -> None:
    assert rows(intersect(one, other)) == rows(one) & rows(other)
    assert one.contains(other) == (rows(other) <= rows(one))


@given(INTERVALS, st.integers(1, 30))
def test_clip(interval: Interval, size: int) -> None:
    assert rows(interval.clip(size)) == rows(interval) & set(range(size))


@given(st.lists(st.builds(Region, INTERVALS, st.none() | INTERVALS)))
def test_region_hull_holds_all(regions: list[Region]) -> None:
    found = region_hull(regions)
    assert all(found.contains(region) for region in regions)
    assert found.empty == all(region.empty for region in regions)


@given(st.builds(Region, INTERVALS, st.none() | INTERVALS), st.builds(Region, INTERVALS, st.none() | INTERVALS))
def test_region_intersection(one: Region, other: Region) -> None:
    def cells(region: Region) -> set[tuple[int, int]]:
        columns = rows(region.cols) if region.cols is not None else set(range(-20, 60))
        return set(itertools.product(rows(region.rows), columns))

    assert cells(intersect_region(one, other)) == cells(one) & cells(other)


@given(WINDOWS, INTERVALS.filter(lambda i: i.start >= 0), st.integers(1, 40))
def test_what_a_window_reads(window: Window, out: Interval, size: int) -> None:
    read = {o * window.stride - window.pad + tap for o in rows(out) for tap in range(window.extent)}
    clipped, before, after = window_input(window, out, size)
    if not read:
        assert (clipped, before, after) == (EMPTY, 0, 0)
        return
    assert rows(clipped) == set(range(min(read), max(read) + 1)) & set(range(size))
    assert before == max(0, -min(read))
    assert after == max(0, max(read) + 1 - size)


@given(WINDOWS, INTERVALS.filter(lambda i: i.start >= 0 and i.size), st.integers(1, 40))
def test_touching_reads_at_least_a_row_and_no_more_than_it_must(window: Window, out: Interval, size: int) -> None:
    def touches(interval: Interval) -> bool:
        reach = window.reach(interval)
        return reach.stop > 0 and reach.start < size

    found = touching(window, out, size)
    assert found.contains(out)
    assert touches(found)
    if found != out:
        assert not touches(out)
        shorter = (
            Interval(found.start, found.stop - 1) if found.start == out.start else Interval(found.start + 1, found.stop)
        )
        assert not touches(shorter)


@given(st.integers(0, 300), st.integers(1, 16))
def test_even_shares_differ_by_at_most_a_row(height: int, parts: int) -> None:
    cuts = even_cuts(height, parts)
    shares = [b - a for a, b in itertools.pairwise(cuts)]
    assert (len(shares), cuts[0], cuts[-1]) == (parts, 0, height)
    assert max(shares) - min(shares) <= 1
