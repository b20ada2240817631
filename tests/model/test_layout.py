"""What holds for every layout: rows owned once, needs tiled exactly once, nothing used before it is made."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import StrategyError
from distredge.experiments.common.exact import random_grid, random_strategy
from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out, lay_out_decisions
from distredge.model.layout import HEAD, PARTIAL, REQUESTER, Layout
from distredge.model.nodes import Tensor
from distredge.model.operators import RULES, region_size, whole
from distredge.model.rows import Interval, Region
from distredge.strategy import Strategy


@pytest.fixture(scope="module")
def branched(net: Any) -> Graph:
    """Residual, pooling with ceil, squeeze-and-excite, upsampling, concatenation, two outputs and a head."""
    n = net((1, 3, 29, 17))
    x = n.node("Relu", n.conv("x", 4, pads=[1] * 4))
    low = n.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1)
    low = n.node("Add", [n.conv(low, 4, pads=[1] * 4), low])
    n.channels[low] = 4
    low = n.squeeze_excite(n.squeeze_excite(low, True), False)
    up = n.node("Resize", [low, "", "", n.constant([1, 4, 29, 17], np.int64)], mode="linear")
    joined = n.node("Concat", [up, x], axis=1)
    n.channels[joined] = 8
    mask = n.conv(joined, 2, pads=[1] * 4)
    scores = n.node("Gemm", [n.node("Flatten", n.node("GlobalAveragePool", low)), n.weight(4, 3)])
    graph: Graph = n.graph(mask, scores, low)
    return graph


def covered(tensor: Tensor, regions: list[Region]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How often regions cover each row and column."""
    count = np.zeros((tensor.height, tensor.width), np.int64)
    for region in regions:
        columns = region.cols or Interval(0, tensor.width)
        count[region.rows.start : region.rows.stop, columns.start : columns.stop] += 1
    return count


def check_layout(graph: Graph, layout: Layout) -> None:
    devices = range(len(layout.devices))
    for stage, device in itertools.product(range(len(layout.stages) + 1), (*devices, REQUESTER)):
        incoming = [t for t in layout.transfers if (t.stage, t.destination) == (stage, device)]
        if stage < len(layout.stages):
            if device == REQUESTER:
                assert not incoming
                continue
            needs = dict(layout.stages[stage].parts[device].inputs)
        else:
            needs = {n: whole(graph.tensors[n]) for n in graph.output_names} if device == REQUESTER else {}
        assert {t.tensor for t in incoming} == set(needs)
        for name, need in needs.items():
            tensor = layout.tensors[name]
            expected = covered(tensor, [need])
            assert (covered(tensor, [t.region for t in incoming if t.tensor == name]) == expected).all()
    for transfer in layout.transfers:
        assert transfer.produced < transfer.stage
        assert transfer.elements == region_size(layout.tensors[transfer.tensor], transfer.region) > 0
        if transfer.produced < 0:
            assert (transfer.source, transfer.tensor in graph.input_names) == (REQUESTER, True)
        else:
            made = layout.stages[transfer.produced].parts[transfer.source].outputs[transfer.tensor]
            assert made.contains(transfer.region)


def check_parts(graph: Graph, layout: Layout) -> None:
    """Every operator's inputs are there: computed in the part, or among its inputs, in full."""
    for part in (part for stage in layout.stages for part in stage.parts):
        held = dict(part.inputs)
        for index in part.finishes:
            name = graph.operators[index].outputs[0]
            assert name + PARTIAL in held
            held[name] = whole(graph.tensors[name])
        for item in part.operators:
            op = graph.operators[item.operator]
            for position in op.activations:
                everything = item.operator in (*graph.body.head, *graph.body.everywhere)
                need = (
                    whole(graph.tensors[op.inputs[position]])
                    if everything
                    else RULES[op.op_type].needs(graph, op, position, item.region)
                )
                assert need.empty or held[op.inputs[position]].contains(need)
            held.update((out, item.region) for out in op.outputs if out)
        for partial in part.partials:
            assert held[graph.operators[partial.operator].inputs[0]].contains(partial.region)
        for name, region in part.outputs.items():
            assert name.endswith(PARTIAL) or held[name].contains(region)


@given(st.integers(0, 10**6), st.booleans())
def test_invariants(branched: Graph, seed: int, grid: bool) -> None:
    rng = np.random.default_rng(seed)
    strategy = random_grid(branched, rng) if grid else random_strategy(branched, rng)
    layout = lay_out(branched, strategy)
    check_layout(branched, layout)
    check_parts(branched, layout)
    for stage in layout.stages:
        if stage.volume == HEAD:
            assert [not part.empty for part in stage.parts] == [d == strategy.head.device for d in strategy.devices]
        assert [part.device for part in stage.parts] == list(range(len(strategy.devices)))


@given(st.integers(0, 10**6), st.booleans())
def test_every_partial_result_is_made_once(branched: Graph, seed: int, grid: bool) -> None:
    rng = np.random.default_rng(seed)
    layout = lay_out(branched, random_grid(branched, rng) if grid else random_strategy(branched, rng))
    shares: dict[int, list[Region]] = {}
    for item in (i for stage in layout.stages for part in stage.parts for i in part.partials):
        shares.setdefault(item.operator, []).append(item.region)
    assert len(shares) == 3
    for index, regions in shares.items():
        assert (covered(branched.tensors[branched.operators[index].inputs[0]], regions) == 1).all()
        stacked = layout.tensors[branched.operators[index].outputs[0] + PARTIAL]
        assert stacked.shape == (len(regions), 4, 1, 1)


def test_one_device_does_everything_once(branched: Graph) -> None:
    cut = branched.cuts[-1]
    layout = lay_out(branched, Strategy.make(branched, ["only"], [(cut.index, [0, cut.height])], head="only"))
    assert layout.recompute_ratio(branched) == 0.0
    assert layout.macs(branched) == sum(branched.macs)
    assert all(t.local or REQUESTER in (t.source, t.destination) for t in layout.transfers)
    sizes = [branched.tensors[n].size_bytes for n in (*branched.input_names, *branched.output_names)]
    assert layout.bytes_sent == sum(sizes)


def test_empty_shares_do_nothing_and_get_nothing(branched: Graph) -> None:
    cut = branched.cuts[-1]
    rows = [0, 0, cut.height, cut.height]
    layout = lay_out(branched, Strategy.make(branched, ["a", "b", "c"], [(cut.index, rows)], head="b"))
    assert all(stage.parts[d].empty for stage in layout.stages for d in (0, 2))
    assert all({t.source, t.destination} <= {1, REQUESTER} for t in layout.transfers)


def test_a_halo_is_recomputed_and_counted(net: Any) -> None:
    n = net((1, 1, 10, 1))
    graph = n.graph(n.conv(n.conv("x", 1, (3, 1)), 1, (3, 1)))
    layout = lay_out(graph, Strategy.make(graph, ["a", "b"], [(1, [0, 3, 6])], head="a"))
    first = [part.operators[0].region.rows for part in layout.stages[0].parts]
    assert first == [Interval(0, 5), Interval(3, 8)]
    assert layout.recompute_ratio(graph) == pytest.approx((5 + 5 + 3 + 3) / (8 + 6) - 1)


def test_phases_of_a_volume(branched: Graph) -> None:
    cut = branched.cuts[-1]
    strategy = Strategy.make(branched, ["a", "b"], [(cut.index, [0, 15, cut.height])], head="b")
    layout = lay_out(branched, strategy)
    assert [(stage.volume, stage.phase) for stage in layout.stages] == [(0, 0), (0, 1), (0, 2), (HEAD, 0)]
    carried = [t for t in layout.transfers if t.stage == 1 and not t.tensor.endswith(PARTIAL)]
    assert carried
    assert all(t.local for t in carried)
    crossing = [t for t in layout.transfers if t.stage in (1, 2) and not t.local]
    assert {t.tensor.endswith(PARTIAL) for t in crossing} == {True}


def test_same_plan_with_and_without_the_cache(branched: Graph) -> None:
    strategies = [random_strategy(branched, np.random.default_rng(seed)) for seed in range(20)]
    warm = [lay_out(branched, s) for s in strategies]
    for strategy, layout in zip(strategies, warm, strict=True):
        fresh = Graph(branched.proto, "net")
        assert lay_out(fresh, strategy).transfers == layout.transfers
        assert lay_out(fresh, strategy).stages == layout.stages


def test_the_last_volume_must_end_the_body(branched: Graph) -> None:
    strategy = Strategy.make(branched, ["a"], [(0, [0, branched.cuts[0].height])], head="a")
    with pytest.raises(StrategyError, match="the end of the body"):
        lay_out(branched, strategy)
    with pytest.raises(StrategyError, match="must end the body"):
        lay_out_decisions(branched, ["a"], [], head=0)
