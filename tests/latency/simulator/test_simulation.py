"""The reference simulator on cases that are worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from distredge.cluster import Link, Requester
from distredge.errors import ClusterError, ConfigError, Infeasible, ProfileError
from distredge.latency import evaluate, offload, simulate, throughput
from distredge.model.graph import Graph
from distredge.problem import Problem
from distredge.profiles.network import Trace
from distredge.strategy import Strategy
from distredge.timeline import Timeline

RATE = 1e6
ROW_S = 1e-3


def link(rate_bps: float | None = RATE, fixed_s: float = 0.0) -> Link:
    return Link(rate_bps, None, fixed_s)


def spans(timeline: Timeline, device: str, lane: str) -> list[tuple[float, float, int]]:
    """(start, stop, bytes) of what a lane did."""
    return [(s.start_s, s.stop_s, s.bytes) for s in timeline.spans if (s.device, s.lane) == (device, lane)]


@pytest.fixture(scope="module")
def chain(lab: Any) -> Graph:
    graph: Graph = lab.chain()
    return graph


def pair(lab: Any, graph: Graph, links: Any = None, requester: Requester | None = None, **options: Any) -> Problem:
    """Two boards of 1 ms per row."""
    profile = lab.profile(graph, ROW_S, **options.pop("profile", {}))
    return Problem(graph, lab.cluster([profile, profile], links or link(), requester, **options))


def test_one_device_is_input_operators_and_output(lab: Any, chain: Graph) -> None:
    profile = lab.profile(chain, ROW_S, start_s=0.005)
    problem = Problem(chain, lab.cluster([profile], [(link(RATE, 0.002), link(2 * RATE, 0.003))]))
    strategy = lab.strategy(problem, [(1, (0, 8))])
    timeline = simulate(problem, strategy)
    there, back = 0.003 + 8 * lab.row_bits / (2 * RATE), 0.002 + 8 * lab.row_bits / RATE
    compute = 2 * (0.005 + 8 * ROW_S)
    assert timeline.latency_s == pytest.approx(there + compute + back, rel=1e-12)
    assert evaluate(problem, strategy) == timeline.latency_s
    assert spans(timeline, "a", "compute") == [pytest.approx((there, there + compute, 0))]
    assert timeline.devices == ("a", "requester")
    assert timeline.bytes_sent == 2 * 8 * lab.row_bits / 8
    assert timeline.details["recompute_ratio"] == 0.0
    # Receiving and sending of one message overlap; the path covers all of the latency without a gap.
    assert sum(timeline.shares.values()) == pytest.approx(timeline.latency_s)
    assert timeline.bound_by == "a compute"


def test_a_part_costs_its_overhead_and_its_factor(lab: Any, chain: Graph) -> None:
    problem = Problem(chain, lab.cluster([lab.profile(chain, ROW_S, segments=(0.5, 0.02))], link(None)))
    one = lab.strategy(problem, [(1, (0, 8))])
    two = lab.strategy(problem, [(0, (0, 8)), (1, (0, 8))])
    assert evaluate(problem, one) == pytest.approx(0.02 + 0.5 * 16 * ROW_S)
    assert evaluate(problem, two) == pytest.approx(2 * 0.02 + 0.5 * 16 * ROW_S)


def test_staircases_are_looked_up_at_the_rows_that_are_computed(lab: Any, chain: Graph) -> None:
    stairs = [0.004, 0.004, 0.004, 0.004, 0.009, 0.007, 0.009, 0.009]
    profile = lab.profile(chain, seconds={"Conv": stairs})
    problem = Problem(chain, lab.cluster([profile, profile], link(None)))
    # Fused, each half of the second convolution (4 rows) needs 5 rows of the first: one of halo.
    fused = simulate(problem, lab.strategy(problem, [(1, (0, 4, 8))]))
    assert fused.latency_s == pytest.approx(0.009 + 0.004)
    assert fused.details["recompute_ratio"] == pytest.approx(2 / 16)
    # Six rows take less than five.
    uneven = simulate(problem, lab.strategy(problem, [(1, (0, 5, 8))]))
    assert max(stop for _, stop, _ in spans(uneven, "a", "compute")) == pytest.approx(0.007 + 0.009)


def test_two_devices_exchange_a_halo(lab: Any, chain: Graph) -> None:
    problem = pair(lab, chain, link(RATE, 0.001))
    timeline = simulate(problem, lab.strategy(problem, [(0, (0, 4, 8)), (1, (0, 4, 8))]))
    first = 0.001 + 5 * lab.row_bits / RATE  # the requester's link is unbounded: each device's own counts
    halo = 0.002 + lab.row_bits / RATE  # both ends have a fixed cost
    result = 0.001 + 4 * lab.row_bits / RATE
    assert timeline.latency_s == pytest.approx(first + 4 * ROW_S + halo + 4 * ROW_S + result, rel=1e-12)
    size = lab.row_bits / 8
    assert timeline.link_bytes == {
        "a>b": size,
        "a>requester": 4 * size,
        "b>a": size,
        "b>requester": 4 * size,
        "requester>a": 5 * size,
        "requester>b": 5 * size,
    }


def test_an_empty_share_costs_nothing(lab: Any, chain: Graph) -> None:
    problem = pair(lab, chain)
    alone = lab.strategy(problem, [(1, (0, 8, 8))])
    timeline = simulate(problem, alone)
    assert timeline.latency_s == pytest.approx(2 * 8 * lab.row_bits / RATE + 16 * ROW_S)
    assert [s for s in timeline.spans if s.device == "b"] == []
    assert "b" in timeline.devices
    assert timeline.peak_memory_bytes["b"] == 0


def test_several_tensors_are_one_message_with_one_fixed_cost(lab: Any) -> None:
    graph = lab.residual()
    problem = pair(lab, graph, link(RATE, 0.1))
    timeline = simulate(problem, lab.strategy(problem, [(1, (0, 4, 8)), (2, (0, 2, 8))]))
    messages = [s for s in timeline.spans if (s.device, s.lane, s.peer) == ("a", "send", "b")]
    # Rows 2 and 3 of both a and b, which the sum needs below them.
    assert [(s.name, s.bytes) for s in messages] == [("a, b", 2 * 2 * lab.row_bits / 8)]
    assert messages[0].length_s == pytest.approx(0.2 + 4 * lab.row_bits / RATE)


def test_messages_of_one_pair_follow_each_other(lab: Any) -> None:
    graph = lab.residual()
    problem = pair(lab, graph, link(RATE))
    # Rows 2 and 3 of a are needed twice: as the halo of b (3 and 4 there) and by the sum.
    timeline = simulate(problem, lab.strategy(problem, [(0, (0, 8, 8)), (1, (0, 4, 8)), (2, (0, 4, 8))]))
    sent = sorted((s.stage, s.start_s, s.stop_s, s.bytes) for s in timeline.spans if s.device == "a" and s.peer == "b")
    row = lab.row_bits / RATE
    done = 8 * row + 8 * ROW_S
    halo, kept = sent[0], sent[1]
    assert halo == pytest.approx((1, done, done + 5 * row, 5 * lab.row_bits / 8))
    assert kept == pytest.approx((2, done, done + 9 * row, 4 * lab.row_bits / 8))


@pytest.mark.parametrize(("wire", "share"), [("float32", 1.0), ("float16", 0.5), ("int8", 0.25)])
def test_the_wire_dtype_counts_between_volumes(lab: Any, chain: Graph, wire: str, share: float) -> None:
    problem = pair(lab, chain)
    timeline = simulate(problem, lab.strategy(problem, [(0, (0, 4, 8)), (1, (0, 4, 8))], wire=wire))
    assert timeline.link_bytes["a>b"] == share * lab.row_bits / 8
    # What the requester gets was made by a volume of that wire too; what it sends was not.
    assert timeline.link_bytes["a>requester"] == share * 4 * lab.row_bits / 8
    assert timeline.link_bytes["requester>a"] == 5 * lab.row_bits / 8


def test_uint8_input_has_a_quarter_of_the_bytes(lab: Any, chain: Graph) -> None:
    problem = pair(lab, chain)
    rows = [(1, (0, 8, 8))]
    whole, small = (simulate(problem, lab.strategy(problem, rows, input_dtype=d)) for d in ("float32", "uint8"))
    assert small.link_bytes["requester>a"] * 4 == whole.link_bytes["requester>a"]
    assert whole.latency_s - small.latency_s == pytest.approx(0.75 * 8 * lab.row_bits / RATE)


@pytest.mark.parametrize("encrypted", [False, True])
def test_copies_and_encryption_cost_at_both_ends(lab: Any, chain: Graph, encrypted: bool) -> None:
    costs = {"copy": (0.01, 1e-4), "encrypt_s_per_byte": 1e-3}
    problem = pair(lab, chain, profile=costs, encrypted=encrypted)
    timeline = simulate(problem, lab.strategy(problem, [(0, (0, 4, 8)), (1, (0, 4, 8))]))
    per_byte = 1e-4 + (1e-3 if encrypted else 0.0)

    def end(rows: int) -> float:
        return 0.01 + per_byte * rows * lab.row_bits / 8

    def wire(rows: int) -> float:
        return rows * lab.row_bits / RATE

    # The requester packs and places nothing.
    expected = wire(5) + end(5) + 4 * ROW_S + end(1) + wire(1) + end(1) + 4 * ROW_S + end(4) + wire(4)
    assert timeline.latency_s == pytest.approx(expected, rel=1e-12)
    (sent,) = [s for s in timeline.spans if (s.device, s.lane, s.peer) == ("a", "send", "b")]
    (got,) = [s for s in timeline.spans if (s.device, s.lane, s.peer) == ("b", "receive", "a")]
    assert sent.length_s == pytest.approx(end(1) + wire(1))
    assert got.length_s == pytest.approx(wire(1) + end(1))
    assert got.start_s == pytest.approx(sent.start_s + end(1))


def test_a_requester_on_a_device_pays_nothing_there(lab: Any, chain: Graph) -> None:
    costs = {"copy": (0.01, 0.0)}
    problem = pair(lab, chain, [link(RATE, 0.001), link(2 * RATE, 0.004)], Requester(device="a"), profile=costs)
    own = simulate(problem, lab.strategy(problem, [(1, (0, 8, 8))]))
    assert own.latency_s == pytest.approx(16 * ROW_S)
    assert own.bytes_sent == 0
    # The other device is reached over that board's links, at the smaller of both rates.
    other = simulate(problem, lab.strategy(problem, [(1, (0, 0, 8))], head="b"))
    message = 0.005 + 8 * lab.row_bits / RATE + 0.01
    assert other.latency_s == pytest.approx(2 * message + 16 * ROW_S)
    best, latency_s = offload(problem)
    assert (best.devices, latency_s) == (("a",), pytest.approx(16 * ROW_S))


def test_the_board_of_a_requester_may_be_left_out(lab: Any, chain: Graph) -> None:
    problem = pair(lab, chain, [link(RATE), link(2 * RATE)], Requester(device="a"))
    strategy = Strategy.make(chain, ("b",), [(1, (0, 8))], head="b")
    assert evaluate(problem, strategy) == pytest.approx(16 * lab.row_bits / RATE + 16 * ROW_S)


def test_the_head_runs_on_its_device(lab: Any) -> None:
    graph = lab.chain(1, classes=3)
    problem = pair(lab, graph, link(RATE, 0.001))
    here, there = (simulate(problem, lab.strategy(problem, [(0, (0, 8, 8))], head=name)) for name in "ab")
    body = 0.001 + 8 * lab.row_bits / RATE + 8 * ROW_S
    head = 2 * ROW_S  # Flatten and Gemm have one row each
    scores = 0.001 + 3 * 32 / RATE
    assert here.latency_s == pytest.approx(body + head + scores)
    assert there.latency_s == pytest.approx(body + 0.002 + 8 * lab.row_bits / RATE + head + scores)
    assert [s.name for s in there.spans if s.device == "b" and s.lane == "compute"] == ["head"]
    # Gathered from both devices, the head waits for the part that is not its own.
    split = simulate(problem, lab.strategy(problem, [(0, (0, 4, 8))], head="b"))
    parts = 0.001 + 5 * lab.row_bits / RATE + 4 * ROW_S
    assert split.latency_s == pytest.approx(parts + 0.002 + 4 * lab.row_bits / RATE + head + scores)


def test_partial_sums_are_a_barrier(lab: Any) -> None:
    graph = lab.excited()
    problem = pair(lab, graph, [link(RATE, 0.05), link(RATE, 0.05)])
    timeline = simulate(problem, lab.strategy(problem, [(2, (0, 4, 8))]))
    stages = sorted({s.stage for s in timeline.spans if s.lane == "compute"})
    partials = [s for s in timeline.spans if s.lane == "send" and s.name.endswith("#partial")]
    assert stages == [0, 1]
    # Two channels of float32 each way.
    assert sorted((s.device, s.peer, s.bytes) for s in partials) == [("a", "b", 8), ("b", "a", 8)]
    for device in "ab":
        before, after = (s for s in timeline.spans if s.device == device and s.lane == "compute")
        arrived = max(s.stop_s for s in timeline.spans if s.device == device and s.name.endswith("#partial"))
        assert before.stop_s < arrived == after.start_s


@pytest.mark.parametrize(("links", "names"), [("up", ("b", "a")), ("down", ("requester", "b"))])
@pytest.mark.parametrize("model", ["independent", "shared"])
def test_a_link_that_is_down_is_named(lab: Any, chain: Graph, links: str, names: tuple[str, str], model: str) -> None:
    broken = (link(0.0), link()) if links == "up" else (link(), link(0.0))
    problem = pair(lab, chain, [link(), broken], link_model=model)
    with pytest.raises(Infeasible, match=rf"from '{names[0]}' to '{names[1]}'.*rate 0"):
        simulate(problem, lab.strategy(problem, [(0, (0, 4, 8)), (1, (0, 8, 8))]))
    # Nothing has to cross it when b has nothing to do.
    assert evaluate(problem, lab.strategy(problem, [(1, (0, 8, 8))])) > 0
    assert offload(problem)[0].devices == ("a",)


def test_offload_names_what_is_down_when_all_is(lab: Any, chain: Graph) -> None:
    with pytest.raises(Infeasible, match=r"no device of cluster 'lab'.*from 'requester' to 'a'"):
        offload(pair(lab, chain, link(0.0)))


@pytest.mark.parametrize("model", ["independent", "shared"])
def test_a_trace_is_integrated_across_its_changes(lab: Any, chain: Graph, model: str) -> None:
    # 8 rows have 2048 bits: 1000 in the first second, 1000 in the two seconds at 500, 48 at 4800.
    trace = Trace([0.0, 1.0, 3.0], [1000.0, 500.0, 4800.0], period_s=10.0)
    profile = lab.profile(chain, 1.0)
    problem = Problem(chain, lab.cluster([profile], [(link(None), Link(None, trace))], link_model=model))
    strategy = lab.strategy(problem, [(1, (0, 8))])
    assert evaluate(problem, strategy) == pytest.approx(3.01 + 16.0)
    # Started later: 500 bits up to second 3, then 1548 at 4800.
    assert simulate(problem, strategy, start_s=2.0).latency_s == pytest.approx(1.0 + 1548 / 4800 + 16.0)
    # The trace starts again after 10 s: 480 bits, then 1000, then 568 at 500.
    assert simulate(problem, strategy, start_s=9.9).latency_s == pytest.approx(0.1 + 1.0 + 568 / 500 + 16.0)
    assert simulate(problem, strategy, start_s=19.9).latency_s == pytest.approx(0.1 + 1.0 + 568 / 500 + 16.0)


def test_a_trace_is_followed_by_messages_in_the_middle(lab: Any, chain: Graph) -> None:
    # Down while the result should leave, at 16 s; it goes on at 20 s.
    trace = Trace([0.0, 15.0, 20.0], [1e9, 0.0, 2048.0], period_s=100.0)
    problem = Problem(chain, lab.cluster([lab.profile(chain, 1.0)], [(Link(None, trace), link(None))]))
    assert evaluate(problem, lab.strategy(problem, [(1, (0, 8))])) == pytest.approx(21.0)


def test_a_trace_that_never_carries_anything_is_infeasible(lab: Any, chain: Graph) -> None:
    trace = Trace([0.0, 1.0], [0.0, 0.0])
    problem = Problem(chain, lab.cluster([lab.profile(chain, 1.0)], [(link(), Link(0.0, trace))]))
    with pytest.raises(Infeasible, match="from 'requester' to 'a'"):
        evaluate(problem, lab.strategy(problem, [(1, (0, 8))]))


def test_shared_links_slow_what_crosses_them_together(lab: Any, chain: Graph) -> None:
    narrow = Requester(uplink=link(), downlink=link())
    fused = [(1, (0, 4, 8))]
    alone, shared = (
        evaluate(problem, lab.strategy(problem, fused))
        for problem in (pair(lab, chain, requester=narrow, link_model=m) for m in ("independent", "shared"))
    )
    # Fused, each half needs 6 rows of the input; the requester's links carry both halves at once.
    compute, one_way = 9 * ROW_S, 10 * lab.row_bits / RATE
    assert alone == pytest.approx(compute + one_way)
    assert shared == pytest.approx(compute + 2 * one_way)


def test_a_shared_medium_carries_each_bit_twice(lab: Any, chain: Graph) -> None:
    # Over an access point a bit from a to b takes airtime up and down.
    problem = pair(lab, chain, requester=Requester(device="a"), link_model="shared", shared_medium=True)
    latency_s = evaluate(problem, lab.strategy(problem, [(1, (0, 0, 8))], head="b"))
    assert latency_s == pytest.approx(2 * 8 * lab.row_bits / (RATE / 2) + 16 * ROW_S)


@pytest.mark.parametrize(
    ("rate_bps", "bottleneck"), [(1e5, "a compute"), (1e4, "requester>a link")], ids=["compute", "link"]
)
def test_several_images_in_flight(lab: Any, chain: Graph, rate_bps: float, bottleneck: str) -> None:
    # The way there takes 8 rows of float32; the way back a quarter of that.
    profile = lab.profile(chain, 0.01)
    problem = Problem(chain, lab.cluster([profile], link(rate_bps)))
    strategy = lab.strategy(problem, [(1, (0, 8))], wire="int8")
    there, back, compute = 8 * lab.row_bits / rate_bps, 2 * lab.row_bits / rate_bps, 16 * 0.01
    single = simulate(problem, strategy, frames=3)
    assert single.frame_latency_s == pytest.approx((there + compute + back,) * 3)
    assert single.throughput_per_s == pytest.approx(1 / (there + compute + back))
    many = simulate(problem, strategy, frames=12, in_flight=4)
    assert many.frame_latency_s[0] == pytest.approx(there + compute + back)
    assert many.frame_latency_s[1] == pytest.approx(there + compute + back + max(there, compute))
    assert many.throughput_per_s == pytest.approx(1 / max(there, compute))
    assert many.bottleneck == bottleneck
    for in_flight in (1, 2, 3, 4, 8):
        one = throughput(problem, strategy, in_flight)
        assert one.images_per_s is not None
        assert one.bound_per_s is not None
        assert one.images_per_s <= one.bound_per_s
    found = throughput(problem, strategy, in_flight=4)
    assert found.resource == bottleneck
    # One device after one link: several in flight keep the busiest of the two at work.
    assert found.images_per_s == pytest.approx(found.bound_per_s)
    assert [s.frame for s in many.spans if s.lane == "compute"] == list(range(12))


@pytest.mark.parametrize(
    ("up_bps", "down_bps", "medium", "own", "bottleneck"),
    [
        (1e5, 1e9, False, None, "requester uplink"),
        (1e9, 1e5, False, None, "b downlink"),
        (1e6, 1e6, True, None, "medium"),
        (1e5, 1e9, False, "a", "a uplink"),
    ],
)
def test_what_connections_share_is_named_as_the_bottleneck(
    lab: Any, chain: Graph, up_bps: float, down_bps: float, medium: bool, own: str | None, bottleneck: str
) -> None:
    profile = lab.profile(chain, 1e-6)
    ends = (Link(up_bps if own else 1e9), Link(down_bps)), (Link(1e9), Link(down_bps))
    cluster = lab.cluster(
        [profile] * 2, list(ends), Requester(uplink=Link(up_bps), downlink=Link(1e9), device=own),
        link_model="shared", shared_medium=medium,
    )  # fmt: skip
    problem = Problem(chain, cluster)
    strategy = lab.strategy(problem, [(1, (0, 3, 8))], head="b", wire="int8")
    assert simulate(problem, strategy, frames=6, in_flight=3).bottleneck == bottleneck


def test_throughput_of_fewer_images_than_may_be_in_flight(lab: Any, chain: Graph) -> None:
    problem = Problem(chain, lab.cluster([lab.profile(chain, 0.01)], link(None)))
    strategy = lab.strategy(problem, [(1, (0, 8))])
    assert simulate(problem, strategy, frames=3, in_flight=8).throughput_per_s == pytest.approx(1 / 0.16)
    one = simulate(problem, strategy)
    assert (one.throughput_per_s, one.bottleneck) == (None, None)


def test_energy_is_idle_watts_and_busy_ones_while_computing(lab: Any, chain: Graph) -> None:
    powered, silent = lab.profile(chain, ROW_S, watts=(2.0, 7.0)), lab.profile(chain, ROW_S)
    problem = Problem(chain, lab.cluster([powered, silent, powered], link()))
    timeline = simulate(problem, lab.strategy(problem, [(1, (0, 4, 8, 8))]), frames=2)
    busy_s = 2 * 9 * ROW_S
    total_s = sum(timeline.frame_latency_s)
    idle_j = 2.0 * total_s
    assert timeline.energy_j == pytest.approx({"a": idle_j + 5.0 * busy_s, "c": idle_j})


def test_memory_is_weights_and_live_rows(lab: Any, chain: Graph) -> None:
    problem = pair(lab, chain)
    row = lab.row_bits / 8
    weights = 2 * 2 * 2 * 9 * 4
    fused = simulate(problem, lab.strategy(problem, [(1, (0, 4, 8))])).peak_memory_bytes
    # 6 rows in, 5 between, 4 out: the largest sum is that of the first convolution.
    assert fused == {"a": weights + 11 * row, "b": weights + 11 * row}
    parted = simulate(problem, lab.strategy(problem, [(0, (0, 4, 8)), (1, (0, 4, 8))])).peak_memory_bytes
    assert parted == {"a": weights + 9 * row, "b": weights + 9 * row}
    alone = simulate(problem, lab.strategy(problem, [(1, (0, 8, 8))])).peak_memory_bytes
    assert alone == {"a": weights + 16 * row, "b": 0}


def test_rows_kept_for_a_later_volume_take_memory(lab: Any) -> None:
    graph = lab.residual()
    problem = Problem(graph, lab.cluster([lab.profile(graph, ROW_S)], link()))
    timeline = simulate(problem, lab.strategy(problem, [(0, (0, 8)), (1, (0, 8)), (2, (0, 8))]))
    # The sum has a, b and y alive, 8 rows each.
    assert timeline.peak_memory_bytes == {"a": 2 * 2 * 2 * 9 * 4 + 24 * lab.row_bits / 8}


def test_errors_say_what_is_missing(lab: Any, chain: Graph) -> None:
    problem = pair(lab, chain)
    strategy = lab.strategy(problem, [(1, (0, 4, 8))])
    other = lab.residual()
    lacking = Problem(other, lab.cluster([lab.profile(chain, ROW_S)] * 2, link()))
    with pytest.raises(ProfileError, match="Add"):
        simulate(lacking, lab.strategy(lacking, [(2, (0, 4, 8))]))
    with pytest.raises(ClusterError, match="has no device 'b'"):
        simulate(Problem(chain, lab.cluster([lab.profile(chain, ROW_S)], link())), strategy)


@pytest.mark.parametrize(
    "wrong", [{"frames": 0}, {"in_flight": 0}, {"start_s": -1.0}, {"start_s": math.inf}, {"start_s": math.nan}]
)
def test_arguments_are_checked(lab: Any, chain: Graph, wrong: dict[str, Any]) -> None:
    problem = pair(lab, chain)
    with pytest.raises(ConfigError, match=rf"simulate: {next(iter(wrong))}: found"):
        simulate(problem, lab.strategy(problem, [(1, (0, 4, 8))]), **wrong)
