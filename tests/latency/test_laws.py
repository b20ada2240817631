"""What holds for every strategy on every cluster."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.cluster import Cluster, Link, Requester
from distredge.latency import evaluate, simulate
from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out
from distredge.model.layout import REQUESTER
from distredge.problem import Problem
from distredge.profiles.modelled import profile_rows
from distredge.strategy import Strategy

HEIGHT = 8
GRAPHS = ("chain", "residual", "excited")


class Case(NamedTuple):
    """A random small cluster as plain numbers, and a strategy for it."""

    graph: str
    rates: tuple[tuple[float, float], ...]
    fixed_s: tuple[float, ...]
    seconds: tuple[tuple[float, ...], ...]
    copies: tuple[tuple[float, float], ...]
    own: int | None
    volumes: tuple[tuple[int, tuple[int, ...]], ...]
    head: int


@pytest.fixture(scope="module")
def graphs(lab: Any) -> dict[str, Graph]:
    return {"chain": lab.chain(3, classes=3), "residual": lab.residual(), "excited": lab.excited()}


_CUTS = {"chain": 3, "residual": 3, "excited": 3}
_RATES = st.sampled_from([2e4, 1e5, 1e6, 3e7])
_TIMES = st.floats(0.0, 0.02)


def test_the_graphs_have_the_cuts_that_cases_are_drawn_for(graphs: dict[str, Graph]) -> None:
    assert {name: len(graph.cuts) for name, graph in graphs.items()} == _CUTS


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.integers(1, 4))
    name = draw(st.sampled_from(GRAPHS))
    cuts = [i for i in range(_CUTS[name] - 1) if draw(st.booleans())] + [_CUTS[name] - 1]
    inner = st.lists(st.integers(0, HEIGHT), min_size=count - 1, max_size=count - 1)
    volumes = tuple((cut, (0, *sorted(draw(inner)), HEIGHT)) for cut in cuts)
    return Case(
        graph=name,
        rates=tuple((draw(_RATES), draw(_RATES)) for _ in range(count + 1)),
        fixed_s=tuple(draw(_TIMES) for _ in range(count)),
        # More rows may take less time: nothing here relies on rising times.
        seconds=tuple(tuple(draw(_TIMES) for _ in range(HEIGHT)) for _ in range(count)),
        copies=tuple((draw(_TIMES), draw(st.sampled_from([0.0, 1e-5]))) for _ in range(count)),
        own=draw(st.none() | st.integers(0, count - 1)),
        volumes=volumes,
        head=draw(st.integers(0, count - 1)),
    )


def build(
    lab: Any, graphs: dict[str, Graph], case: Case, watts: tuple[float, float] | None = None, **options: Any
) -> tuple[Problem, Strategy]:
    graph = graphs[case.graph]
    profiles = []
    for seconds, copies in zip(case.seconds, case.copies, strict=True):
        times = {s.op_type: seconds[: max(1, s.rows)] for s in graph.signatures if s is not None}
        profiles.append(lab.profile(graph, seconds=times, copy=copies, watts=watts))
    links = [
        (Link(up, None, fixed_s), Link(down, None, fixed_s))
        for (up, down), fixed_s in zip(case.rates, case.fixed_s, strict=False)
    ]
    own = None if case.own is None else "abcd"[case.own]
    requester = Requester("requester", Link(case.rates[-1][0]), Link(case.rates[-1][1]), own)
    cluster: Cluster = lab.cluster(profiles, links, requester, **options)
    problem = Problem(graph, cluster)
    return problem, lab.strategy(problem, case.volumes, head="abcd"[case.head])


def latency_of(lab: Any, graphs: dict[str, Graph], case: Case, **options: Any) -> float:
    return evaluate(*build(lab, graphs, case, **options))


@given(cases(), st.data())
def test_more_bandwidth_never_makes_a_strategy_slower(
    lab: Any, graphs: dict[str, Graph], case: Case, data: st.DataObject
) -> None:
    faster = case._replace(
        rates=tuple(
            (up * data.draw(st.sampled_from([1.0, 1.5, 10.0])), down * data.draw(st.sampled_from([1.0, 1.5, 10.0])))
            for up, down in case.rates
        )
    )
    assert latency_of(lab, graphs, faster) <= latency_of(lab, graphs, case) * (1 + 1e-12)


@given(cases(), st.data())
def test_a_device_no_slower_at_any_row_count_never_makes_a_strategy_slower(
    lab: Any, graphs: dict[str, Graph], case: Case, data: st.DataObject
) -> None:
    factors = st.floats(0.0, 1.0)
    faster = case._replace(seconds=tuple(tuple(s * data.draw(factors) for s in row) for row in case.seconds))
    assert latency_of(lab, graphs, faster) <= latency_of(lab, graphs, case) * (1 + 1e-12)


@given(cases(), st.booleans())
def test_sharing_links_never_makes_one_image_faster(
    lab: Any, graphs: dict[str, Graph], case: Case, medium: bool
) -> None:
    alone = latency_of(lab, graphs, case)
    assert latency_of(lab, graphs, case, link_model="shared", shared_medium=medium) >= alone * (1 - 1e-9)


@given(cases(), st.integers(1, 3), st.sampled_from(["independent", "shared"]))
def test_every_byte_sent_is_received_once(
    lab: Any, graphs: dict[str, Graph], case: Case, frames: int, model: str
) -> None:
    problem, strategy = build(lab, graphs, case, link_model=model)
    timeline = simulate(problem, strategy, frames=frames, in_flight=2)
    sent = Counter((s.frame, s.stage, s.device, s.peer, s.bytes, s.name) for s in timeline.spans if s.lane == "send")
    received = Counter(
        (s.frame, s.stage, s.peer, s.device, s.bytes, s.name) for s in timeline.spans if s.lane == "receive"
    )
    assert sent == received
    layout = lay_out(problem.graph, strategy)
    names = (*layout.devices, "requester")
    wanted: Counter[tuple[int, str, str]] = Counter()
    for transfer in layout.transfers:
        board = {transfer.source, transfer.destination} == {case.own, REQUESTER}
        if not transfer.local and not board:
            wanted[transfer.stage, names[transfer.source], names[transfer.destination]] += transfer.size_bytes
    for frame in range(frames):
        # One message for each stage and pair: no two spans share the key. What stays on a board is shown without bytes.
        found = {key[1:4]: key[4] for key in sent if key[0] == frame and key[4]}
        assert len(found) == sum(1 for key in sent.elements() if key[0] == frame and key[4])
        assert found == {key: size for key, size in wanted.items() if size}


@given(cases(), st.integers(1, 4), st.sampled_from(["independent", "shared"]))
def test_a_device_computes_one_part_at_a_time(
    lab: Any, graphs: dict[str, Graph], case: Case, in_flight: int, model: str
) -> None:
    problem, strategy = build(lab, graphs, case, link_model=model)
    timeline = simulate(problem, strategy, frames=4, in_flight=in_flight)
    for device in problem.cluster.names:
        mine = [s for s in timeline.spans if (s.device, s.lane) == (device, "compute")]
        busy = sorted((s.start_s, s.stop_s) for s in mine)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(busy))
        # All parts of all images, in stage order within each.
        for frame in range(4):
            starts = [s.start_s for s in sorted(mine, key=lambda s: s.stage) if s.frame == frame]
            assert starts == sorted(starts)
        assert len({s.stage for s in mine}) * 4 == len(mine)


@given(cases(), st.sampled_from(["independent", "shared"]))
def test_nothing_starts_before_what_it_needs_and_the_path_fills_the_latency(
    lab: Any, graphs: dict[str, Graph], case: Case, model: str
) -> None:
    problem, strategy = build(lab, graphs, case, link_model=model)
    timeline = simulate(problem, strategy)
    computing = {(s.device, s.stage): s for s in timeline.spans if s.lane == "compute"}
    for span in timeline.spans:
        assert 0 <= span.start_s <= span.stop_s <= timeline.latency_s * (1 + 1e-12)
        if span.lane == "receive" and (span.device, span.stage) in computing:
            assert span.stop_s <= computing[span.device, span.stage].start_s
    for device in problem.cluster.names:
        total = sum(s.length_s for (name, _), s in computing.items() if name == device)
        assert timeline.latency_s >= total * (1 - 1e-12)
    path = [timeline.spans[i] for i in timeline.critical_path]
    assert path[0].start_s == 0
    assert path[-1].stop_s == (timeline.latency_s if case.own is None else pytest.approx(timeline.latency_s))
    assert all(a.stop_s >= b.start_s for a, b in itertools.pairwise(path))
    assert sum(timeline.shares.values()) == pytest.approx(timeline.latency_s, abs=1e-15)
    assert max(timeline.shares.values()) <= timeline.latency_s * (1 + 1e-12)


@settings(max_examples=30)
@given(cases())
def test_figures_of_one_image(lab: Any, graphs: dict[str, Graph], case: Case) -> None:
    problem, strategy = build(lab, graphs, case)
    timeline = simulate(problem, strategy)
    layout = lay_out(problem.graph, strategy)
    free = sum(
        t.size_bytes for t in layout.transfers if not t.local and {t.source, t.destination} == {case.own, REQUESTER}
    )
    assert timeline.bytes_sent == layout.bytes_sent - free == sum(timeline.link_bytes.values())
    assert all(0 <= share <= 1 + 1e-12 for lanes in timeline.utilisation.values() for share in lanes.values())
    # The same question gets the same answer, whatever was asked of the problem before.
    assert simulate(problem, strategy) == timeline
    assert latency_of(lab, graphs, case) == pytest.approx(timeline.latency_s, rel=1e-9)


@given(cases(), st.data())
def test_one_device_takes_its_operators_and_input_and_output(
    lab: Any, graphs: dict[str, Graph], case: Case, data: st.DataObject
) -> None:
    cuts = [i for i in range(_CUTS[case.graph] - 1) if data.draw(st.booleans())] + [_CUTS[case.graph] - 1]
    alone = case._replace(
        rates=(case.rates[0], case.rates[-1]), fixed_s=case.fixed_s[:1], seconds=case.seconds[:1],
        copies=case.copies[:1], own=None, volumes=tuple((cut, (0, HEIGHT)) for cut in cuts), head=0,
    )  # fmt: skip
    model = data.draw(st.sampled_from(["independent", "shared"]))
    problem, strategy = build(lab, graphs, alone, link_model=model)
    graph, profile = problem.graph, problem.cluster.devices[0].profile
    operators_s = sum(float(profile.operator_s(s, profile_rows(s))) for s in graph.signatures if s is not None)
    (up_bps, down_bps), (own_up_bps, own_down_bps) = alone.rates
    fixed_s, (copy_s, copy_s_per_byte) = alone.fixed_s[0], alone.copies[0]
    sizes = [sum(graph.tensors[n].size_bytes for n in names) for names in (graph.input_names, graph.output_names)]
    rates = min(own_up_bps, down_bps), min(up_bps, own_down_bps)
    messages_s = [
        fixed_s + copy_s + size * (copy_s_per_byte + 8 / rate) for size, rate in zip(sizes, rates, strict=True)
    ]
    assert evaluate(problem, strategy) == pytest.approx(messages_s[0] + operators_s + messages_s[1], rel=1e-9)


@given(cases(), st.integers(1, 3), st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_energy_is_at_least_that_of_idle_boards(
    lab: Any, graphs: dict[str, Graph], case: Case, frames: int, idle_w: float, more_w: float
) -> None:
    problem, strategy = build(lab, graphs, case, watts=(idle_w, idle_w + more_w))
    timeline = simulate(problem, strategy, frames=frames, in_flight=2)
    end_s = max((span.stop_s for span in timeline.spans), default=0.0)
    assert set(timeline.energy_j) == set(strategy.devices)
    for name, energy_j in timeline.energy_j.items():
        busy_s = sum(s.length_s for s in timeline.spans if (s.device, s.lane) == (name, "compute"))
        # Images whose outputs the requester's own board makes end with their last part.
        assert energy_j >= idle_w * end_s * (1 - 1e-9)
        assert energy_j >= idle_w * end_s + more_w * busy_s - 1e-9
        assert energy_j <= (idle_w + more_w) * max(end_s, timeline.latency_s * frames) * (1 + 1e-9) + 1e-12
