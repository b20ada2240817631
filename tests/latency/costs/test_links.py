"""Rates of links and how those in use share them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.cluster import Cluster, Link, Requester
from distredge.latency.costs.links import ClusterLinks, Rate, finish, max_min
from distredge.latency.simulator.simulation import Simulation, part_seconds
from distredge.model.laying_out import lay_out
from distredge.model.rows import even_cuts
from distredge.problem import Problem
from distredge.profiles.network import Trace


def share(flows: list[tuple[int, ...]], capacities: list[float]) -> list[float]:
    return max_min(flows, [(1.0,) * len(flow) for flow in flows], capacities)


def test_two_flows_halve_what_they_share() -> None:
    assert share([(0,), (0,)], [10.0]) == [5.0, 5.0]


def test_a_flow_that_is_held_up_elsewhere_leaves_the_rest_to_the_other() -> None:
    assert share([(0, 1), (0, 2)], [10.0, 2.0, 100.0]) == [2.0, 8.0]


def test_three_flows_on_two_links() -> None:
    # The textbook line: one flow over both links, one on each; link 1 is the tighter.
    assert share([(0, 1), (0,), (1,)], [10.0, 6.0]) == [3.0, 7.0, 3.0]


def test_three_flows_fill_one_link_after_the_other() -> None:
    # 4 on link 1 for two; the third takes what they leave of link 0; link 2 bounds nobody.
    assert share([(0, 1), (0, 1), (0, 2)], [12.0, 4.0, 50.0]) == [2.0, 2.0, 8.0]


def test_weights_are_what_a_unit_of_rate_takes() -> None:
    # On air for 1/10 + 1/10 and 1/10 + 1/2 of a second per bit: equal rates r with 0.8 r = 1.
    found = max_min([(0,), (0,)], [(0.2,), (0.6,)], [1.0])
    assert found == pytest.approx([1.25, 1.25])


def test_unbounded_links_bound_nobody() -> None:
    assert share([(0,), (1,)], [math.inf, 3.0]) == [math.inf, 3.0]
    assert share([], []) == []


def test_a_link_that_is_down_stops_its_flows_alone() -> None:
    assert share([(0,), (0, 1), (1,)], [0.0, 5.0]) == [0.0, 0.0, 5.0]


@st.composite
def sharings(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], list[tuple[float, ...]], list[float]]:
    capacities = draw(st.lists(st.sampled_from([0.0, 1.0, 3.0, 7.5, 100.0, math.inf]), min_size=1, max_size=5))
    number = st.integers(0, len(capacities) - 1)
    flows = [tuple(f) for f in draw(st.lists(st.lists(number, min_size=1, max_size=3, unique=True), max_size=6))]
    weights = [tuple(draw(st.sampled_from([0.25, 1.0, 2.0])) for _ in flow) for flow in flows]
    return flows, weights, capacities


@given(sharings())
def test_no_capacity_is_exceeded_and_every_flow_has_a_full_link_on_which_none_is_faster(
    sharing: tuple[list[tuple[int, ...]], list[tuple[float, ...]], list[float]],
) -> None:
    # Bertsekas, Gallager, "Data Networks", 6.5.2: a feasible allocation is max-min fair when each flow crosses a
    # saturated link on which it is among the fastest.
    flows, weights, capacities = sharing
    rates = max_min(flows, weights, capacities)
    load = [0.0] * len(capacities)
    fastest = [0.0] * len(capacities)
    for flow, weight, rate in zip(flows, weights, rates, strict=True):
        for resource, taken in zip(flow, weight, strict=True):
            load[resource] += taken * rate
            fastest[resource] = max(fastest[resource], rate)
    for used, capacity in zip(load, capacities, strict=True):
        assert used <= capacity * (1 + 1e-9) or (math.isinf(used) and math.isinf(capacity))
    for flow, rate in zip(flows, rates, strict=True):
        full = [r for r in flow if load[r] >= capacities[r] * (1 - 1e-9)]
        if math.isinf(rate):
            assert all(math.isinf(capacities[r]) for r in flow)
        else:
            assert any(rate >= fastest[r] * (1 - 1e-9) for r in full)


# Quarters of a second and whole bits: where a link goes down just as a message ends, rounding would decide.
_QUARTERS = st.integers(0, 160).map(lambda n: n / 4)
_TRACES = st.lists(
    st.tuples(st.integers(1, 20).map(lambda n: n / 4), st.sampled_from([0.0, 64.0, 256.0, 4096.0])),
    min_size=1,
    max_size=5,
).filter(lambda rows: any(rate > 0 for _, rate in rows))


def trace_of(rows: list[tuple[float, float]]) -> Trace:
    times = [0.0]
    for length, _ in rows:
        times.append(times[-1] + length)
    return Trace(times[:-1], [rate for _, rate in rows], period_s=times[-1])


@given(_TRACES, _QUARTERS, _QUARTERS, st.integers(0, 20_000))
def test_a_transfer_over_one_trace_ends_when_the_trace_says(
    rows: list[tuple[float, float]], zero_s: float, start_s: float, bits: int
) -> None:
    trace = trace_of(rows)
    link = Link(None, trace)
    end = finish(Rate(Link()), Rate(link, zero_s), start_s, bits)
    assert end + zero_s == pytest.approx(trace.finish(start_s + zero_s, bits), rel=1e-9, abs=1e-6)


@given(_TRACES, _QUARTERS, st.lists(_QUARTERS, min_size=1, max_size=6))
def test_a_rate_is_its_trace_whatever_is_asked_before(
    rows: list[tuple[float, float]], zero_s: float, times_s: list[float]
) -> None:
    trace = trace_of(rows)
    used = Rate(Link(None, trace), zero_s)
    for time_s in times_s:
        rate, change_s = used.piece(time_s)
        assert (rate, change_s) == Rate(Link(None, trace), zero_s).piece(time_s)
        middle_s = (time_s + change_s) / 2
        assert change_s > time_s
        assert rate == trace.rate_at(middle_s + zero_s)


def test_constant_rates() -> None:
    fast, slow, down = (Rate(Link(rate)) for rate in (None, 100.0, 0.0))
    assert fast.piece(3.0) == (math.inf, math.inf)
    assert finish(fast, slow, 2.0, 50.0) == 2.5
    assert finish(fast, fast, 2.0, 50.0) == 2.0
    assert math.isinf(finish(slow, down, 2.0, 50.0))
    assert finish(slow, down, 2.0, 0.0) == 2.0


def test_two_traces_are_followed_at_the_smaller_rate_of_every_instant() -> None:
    up = Rate(Link(None, Trace([0.0, 1.0], [10.0, 100.0], period_s=4.0)))
    down = Rate(Link(None, Trace([0.0, 2.0], [50.0, 20.0], period_s=4.0)))
    # 10 in the first second, 50 in the next, then 20 a second.
    assert finish(up, down, 0.0, 80.0) == pytest.approx(3.0)


def test_a_network_puts_the_requester_last(lab: Any) -> None:
    graph = lab.chain()
    profile = lab.profile(graph, copy=(0.1, 0.01), encrypt_s_per_byte=0.5)
    links = [(Link(1e6, None, 0.001), Link(2e6, None, 0.002)), (Link(3e6, None, 0.003), Link(4e6, None, 0.004))]
    cluster = lab.cluster([profile, profile], links, Requester("me", Link(9e6, None, 0.009)))
    network = ClusterLinks.of(cluster, ("b", "a"))
    assert network.names == ("b", "a", "me")
    assert [rate.constant for rate in network.up] == [3e6, 1e6, 9e6]
    assert network.fixed_s(-1, 0) == pytest.approx(0.009 + 0.004)
    assert network.fixed_s(1, 0) == pytest.approx(0.001 + 0.004)
    # Under independent links handling lies on the way, and the requester's takes no time.
    assert [end.way_s(10) for end in network.sends] == pytest.approx([0.2, 0.2, 0.0])
    assert [end.way_s(10) for end in network.receives] == pytest.approx([0.2, 0.2, 0.0])
    assert [end.busy_s(10) for end in (*network.sends, *network.receives)] == [0.0] * 6
    assert [network.crosses(*pair) for pair in ((0, 0), (0, 1), (0, -1))] == [False, True, True]
    secret = ClusterLinks.of(Cluster("lab", cluster.requester, cluster.devices, "independent", encrypted=True), ("a",))
    assert secret.sends[0].total_s(10) == pytest.approx(0.1 + 0.1 + 5.0)


class _Watched(Simulation):
    """Keeps what flowed between two instants."""

    def run(self, frames: int = 1, in_flight: int = 1) -> None:
        self.seen: list[tuple[float, float, list[tuple[int, int, float]]]] = []
        super().run(frames, in_flight)

    def _flow(self, now: float, until: float) -> float:
        before = [(c.source, c.destination) for c in self._flowing]
        after = super()._flow(now, until)
        self.seen.append((now, after, [(a, b, r) for (a, b), r in zip(before, self._rates_used, strict=True)]))
        return after

    def _fair_rates(self, now: float) -> list[float]:
        self._rates_used = super()._fair_rates(now)
        return self._rates_used


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from([1e4, 3e4, 1e5, None]), min_size=4, max_size=4),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
)
def test_no_link_ever_carries_more_than_it_can(
    lab: Any, rates: list[float | None], medium: bool, traced: bool, in_flight: int
) -> None:
    graph = lab.chain(3)
    profile = lab.profile(graph, 1e-3)
    trace = Trace([0.0, 0.02, 0.05], [2e4, 1e5, 5e3], period_s=0.1)
    links: list[Link] = [Link(rate) for rate in rates[:2]] + [Link(None, trace) if traced else Link(rates[2])]
    requester = Requester(uplink=Link(rates[3]), downlink=Link(rates[3]))
    cluster = lab.cluster([profile] * 3, links, requester, link_model="shared", shared_medium=medium)
    problem = Problem(graph, cluster)
    cuts = [even_cuts(8, 3), (0, 2, 4, 8), (0, 4, 5, 8)]
    layout = lay_out(graph, lab.strategy(problem, list(enumerate(cuts))))
    simulation = _Watched(layout, part_seconds(problem, layout), ClusterLinks.of(cluster, layout.devices))
    simulation.run(4, in_flight)
    carried: dict[tuple[int, int], float] = {}
    network = ClusterLinks.of(cluster, layout.devices)
    for start, stop, flows in simulation.seen:
        air = 0.0
        for side, ends in ((0, network.up), (1, network.down)):
            for device, rate in enumerate(ends):
                place = device if device < 3 else -1
                load = sum(flow[2] for flow in flows if flow[side] == place)
                capacity, change = rate.piece(start)
                assert stop <= change or not any(flow[side] == place for flow in flows)
                assert load <= capacity * (1 + 1e-9)
        for source, destination, rate_bps in flows:
            up, down = network.up[source].piece(start)[0], network.down[destination].piece(start)[0]
            air += rate_bps * (1 / up + 1 / down) if math.isfinite(rate_bps) else 0.0
            if math.isfinite(rate_bps):
                carried[source, destination] = carried.get((source, destination), 0.0) + rate_bps * (stop - start)
        assert not medium or air <= 1 + 1e-9
    wanted: dict[tuple[int, int], float] = {}
    for transfer in layout.transfers:
        if not transfer.local:
            pair = transfer.source, transfer.destination
            wanted[pair] = wanted.get(pair, 0.0) + 4 * 8.0 * transfer.size_bytes
    for pair, bits in carried.items():
        assert bits == pytest.approx(wanted[pair], rel=1e-6)
