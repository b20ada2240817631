"""Parts that compute first what others wait for, as stages of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out
from distredge.model.layout import REQUESTER, Layout, Transfer
from distredge.model.rows import even_cuts
from distredge.model.strips import by_strips, find_strips
from distredge.strategy import Strategy

DEVICES = ("a", "b", "c")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.0625)


def laid_out(graph: Graph, first: bool) -> Layout:
    """Three equal shares in volumes of one convolution, two, and the rest."""
    ends = (0, 1, 3, len(graph.cuts) - 1)
    strategy = Strategy.make(graph, DEVICES, [(i, even_cuts(graph.cuts[i].height, 3)) for i in ends], head="b")
    strategy = strategy.replace(volumes=tuple(replace(v, boundary_first=first) for v in strategy.volumes))
    return lay_out(graph, strategy)


def test_without_them_the_layout_stays_as_it_is(graph: Graph) -> None:
    layout = laid_out(graph, first=False)
    assert find_strips(graph, layout) == {}
    assert by_strips(graph, layout) is layout


def test_strips_are_the_rows_that_neighbours_need(graph: Graph) -> None:
    # 64 rows in shares of 21, 22 and 21; the next convolution needs one row more on each side.
    layout = laid_out(graph, first=True)
    found = find_strips(graph, layout)
    output = graph.cuts[0].reference
    rows = [
        [None if piece is None else tuple(piece.outputs[output].rows) for piece in found[0, device]]
        for device in range(3)
    ]
    assert rows == [
        [None, (20, 21), (0, 20)],
        [(21, 22), (42, 43), (22, 42)],
        [(43, 44), None, (44, 64)],
    ]


def test_stages_of_strips_send_what_the_parts_sent(graph: Graph) -> None:
    """Rows by rows: who gets what from whom is the same, but for the stage that makes it."""
    layout = laid_out(graph, first=True)
    split = by_strips(graph, layout)
    assert [stage.index for stage in split.stages] == list(range(len(split.stages)))
    assert len(split.stages) == len(layout.stages) + 2 * 2  # later maps are too small to have rows between
    assert split.bytes_sent == layout.bytes_sent
    assert rows_sent(split.transfers) == rows_sent(layout.transfers)
    for transfer in split.transfers:
        if transfer.produced >= 0:
            made = split.stages[transfer.produced].parts[transfer.source].outputs[transfer.tensor].rows
            assert made.start <= transfer.region.rows.start
            assert transfer.region.rows.stop <= made.stop
        if transfer.destination != REQUESTER:
            part = split.stages[transfer.stage].parts[transfer.destination]
            assert part.after == -1
            assert transfer.tensor in part.inputs


def rows_sent(transfers: tuple[Transfer, ...]) -> dict[tuple[str, int, int], list[int]]:
    """(tensor, source, destination) -> every row of every transfer, sorted."""
    found: dict[tuple[str, int, int], list[int]] = {}
    for t in transfers:
        found.setdefault((t.tensor, t.source, t.destination), []).extend(range(*t.region.rows))
    return {key: sorted(rows) for key, rows in found.items()}


def test_strips_run_one_after_the_other_on_the_same_inputs(graph: Graph) -> None:
    layout = laid_out(graph, first=True)
    split = by_strips(graph, layout)
    middle = [stage.parts[1] for stage in split.stages[:3]]
    assert [part.after for part in middle] == [-1, 0, 1]
    assert middle[0].inputs == middle[1].inputs == middle[2].inputs == layout.stages[0].parts[1].inputs
    outer = [stage.parts[0] for stage in split.stages[:3]]
    assert [part.empty for part in outer] == [True, False, False]
    assert [part.after for part in outer[1:]] == [-1, 1]


def test_a_volume_with_a_reduction_runs_in_one_piece() -> None:
    graph = zoo.build("resnet50", (1, 3, 64, 64), width=0.0625)
    last = len(graph.cuts) - 1
    assert graph.operators[graph.body.operators[-1]].op_type == "GlobalAveragePool"
    strategy = Strategy.make(graph, DEVICES[:2], [(last, [0, 1, 2])], head="a")
    strategy = strategy.replace(volumes=(replace(strategy.volumes[0], boundary_first=True),))
    assert find_strips(graph, lay_out(graph, strategy)) == {}
