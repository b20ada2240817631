"""Going on without some devices: the same cuts, every row dealt out once, and few parts changed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.segments import build
from distredge.planners.common.dealing import METHOD, without
from distredge.planners.common.swap_cost import Held, needs
from distredge.strategy import Strategy

DEVICES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.0625)


def _strategy(graph: Graph, rows: list[list[int]], head: str = "a") -> Strategy:
    """Two volumes, the first at the cut of 32 rows."""
    middle = next(cut.index for cut in graph.cuts if cut.height == 32)
    last = len(graph.cuts) - 1
    return Strategy.make(graph, DEVICES, [(middle, rows[0]), (last, rows[1])], head=head)


def test_the_ways_to_deal_out_the_rows_of_one(graph: Graph) -> None:
    strategy = _strategy(graph, [[0, 12, 20, 24, 32], [0, 0, 1, 1, 2]])
    ways = without(strategy, ["b", "z"])
    assert [tuple(volume.rows for volume in way[0].volumes) for way in ways] == [
        ((0, 20, 24, 32), (0, 1, 1, 2)),
        ((0, 12, 24, 32), (0, 0, 1, 2)),
        ((0, 20, 24, 32), (0, 0, 1, 2)),
        ((0, 18, 24, 32), (0, 0, 1, 2)),
        ((0, 16, 21, 32), (0, 0, 0, 2)),
    ]
    for (one,) in ways:
        one.check(graph)
        assert (one.devices, one.head.device, one.planner.method) == (("a", "c", "d"), "a", METHOD)
        assert [volume.ends_at for volume in one.volumes] == [volume.ends_at for volume in strategy.volumes]


def test_parts_that_get_no_rows_have_nothing_to_load(graph: Graph) -> None:
    strategy = _strategy(graph, [[0, 12, 20, 24, 32], [0, 0, 1, 1, 2]])
    held = {name: Held.of(build(graph, strategy, name)) for name in DEVICES}

    def loads(one: Strategy) -> dict[str, int]:
        return {name: needs(graph, build(graph, one, name), held[name]).operators for name in one.devices}

    before, after, turns, both, every = (loads(one) for (one,) in without(strategy, ["b"]))
    assert (before["a"] > turns["a"] > 0, before["c"], before["d"]) == (True, 0, 0)
    assert (after["a"], after["c"] > turns["c"] > 0, after["d"]) == (0, True, 0)
    assert before["a"] == after["c"] == turns["a"] + turns["c"]
    assert (turns["d"], both["d"]) == (0, 0)
    assert every["d"] > 0


def test_a_lost_head_goes_to_any_other(graph: Graph) -> None:
    ways = without(_strategy(graph, [[0, 8, 16, 24, 32], [0, 0, 1, 1, 2]], head="c"), ["c"])
    assert all([one.head.device for one in way] == ["a", "b", "d"] for way in ways)


def test_where_nobody_is_left_there_is_no_way(graph: Graph) -> None:
    assert without(_strategy(graph, [[0, 8, 16, 24, 32], [0, 0, 1, 1, 2]]), DEVICES) == ()


@given(
    points=st.lists(st.integers(0, 32), min_size=3, max_size=3),
    gone=st.sets(st.sampled_from(DEVICES), min_size=1, max_size=3),
)
def test_every_row_is_dealt_out_once(graph: Graph, points: list[int], gone: set[str]) -> None:
    strategy = _strategy(graph, [[0, *sorted(points), 32], [0, 1, 1, 2, 2]])
    ways = without(strategy, gone)
    assert ways
    for one in itertools.chain.from_iterable(ways):
        one.check(graph)
        assert set(one.devices) == set(DEVICES) - gone
    # The first way takes nobody's rows away.
    rows = dict(zip(DEVICES, itertools.pairwise(strategy.volumes[0].rows), strict=True))
    for name, (start, stop) in zip(ways[0][0].devices, itertools.pairwise(ways[0][0].volumes[0].rows), strict=True):
        assert start <= rows[name][0] <= rows[name][1] <= stop
