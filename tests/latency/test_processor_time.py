"""What messages, and neighbours on one computer, take of the processor's time under shared links, against formulas."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.cluster import Cluster, Link, Requester
from distredge.latency import evaluate
from distredge.latency.kernel.kernel import kernel_of
from distredge.latency.simulator.figures import measure
from distredge.latency.simulator.simulation import run
from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out
from distredge.model.rows import even_cuts
from distredge.planners import plan
from distredge.planners.annealing.encoding import Codec
from distredge.planners.lower_bound import lower_bound_s
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.schema import Copy, Handling, Messages

ROW_S, HEIGHT = 1e-3, 8
OWN_S, IO_S, SECRET_S = 3e-4, 2e-4, 5e-4
EACH = Handling(own=Copy(fixed_s=OWN_S), io=Copy(fixed_s=IO_S), io_encrypted=Copy(fixed_s=SECRET_S))
COSTS = Messages(send=EACH, receive=EACH)


def board(
    lab: Any, graph: Graph, messages: Messages = COSTS, cores: int | None = None, row_s: float = ROW_S
) -> ComputeProfile:
    """A board on which a row of any operator takes `row_s` seconds."""
    data = lab.profile(graph, row_s).data
    device = msgspec.structs.replace(data.device, cores=cores)
    return ComputeProfile(msgspec.structs.replace(data, device=device, messages=messages))


def shared(lab: Any, profiles: Sequence[ComputeProfile], link: Link | None = None, **options: Any) -> Cluster:
    found: Cluster = lab.cluster(profiles, link or Link(), **{"link_model": "shared", **options})
    return found


def both(problem: Problem, strategy: Any) -> float:
    """The simulator's latency, which is the kernel's."""
    latency_s = evaluate(problem, strategy)
    found = kernel_of(problem)
    assert found.latency_s(**found.encode([strategy]))[0] == pytest.approx(latency_s, rel=1e-9)
    return latency_s


@pytest.mark.parametrize("volumes", [1, 2, 4])
def test_two_equal_workers_that_exchange_over_links_that_cost_nothing(lab: Any, volumes: int) -> None:
    graph = lab.chain(volumes)
    problem = Problem(graph, shared(lab, [board(lab, graph)] * 2))
    found = both(problem, lab.strategy(problem, [(i, even_cuts(HEIGHT, 2)) for i in range(volumes)]))
    # On one core more than there are threads: sending and receiving take the worker's time, the transport's lies on
    # the way; all messages of an exchange are handled at once on both workers.
    exchange = 2 * OWN_S + 2 * IO_S
    # The requester handles nothing, since it has no profile: both inputs arrive at 0 and lie on the way for IO_S.
    into, out = IO_S + OWN_S, OWN_S + IO_S
    assert found == pytest.approx(into + volumes * 4 * ROW_S + (volumes - 1) * exchange + out, rel=1e-12)


@pytest.mark.parametrize("cores", [1, 2])
def test_the_transport_takes_the_workers_time_where_no_core_is_to_spare(lab: Any, cores: int) -> None:
    graph = lab.chain(2)
    problem = Problem(graph, shared(lab, [board(lab, graph, cores=cores)] * 3))
    points = even_cuts(HEIGHT, 3)
    found = run(problem, lay_out(graph, lab.strategy(problem, [(0, points), (1, points)])))
    middle = [work for work in found.frames[0].works if work.device == 1]
    each = OWN_S + IO_S if cores == 1 else OWN_S
    assert middle[0].free_s - middle[0].stop_s == pytest.approx(2 * each)
    assert middle[1].receive_s == pytest.approx(2 * each)


def test_encrypted_messages_cost_what_encrypted_ones_do(lab: Any) -> None:
    graph = lab.chain(1)
    profile = board(lab, graph)
    latencies = []
    for encrypted in (False, True):
        problem = Problem(graph, shared(lab, [profile], encrypted=encrypted))
        latencies.append(both(problem, lab.strategy(problem, [(0, (0, HEIGHT))])))
    assert latencies[0] == pytest.approx(HEIGHT * ROW_S + 2 * (OWN_S + IO_S), rel=1e-12)
    assert latencies[1] == pytest.approx(HEIGHT * ROW_S + 2 * (OWN_S + SECRET_S), rel=1e-12)


def test_without_figures_of_messages_those_of_copies_count(lab: Any) -> None:
    graph = lab.chain(1)
    profile = lab.profile(graph, ROW_S, copy=(2e-3, 0.0), encrypt_s_per_byte=1e-6)
    problem = Problem(graph, shared(lab, [profile], encrypted=True))
    size = HEIGHT * lab.row_bits / 8
    found = both(problem, lab.strategy(problem, [(0, (0, HEIGHT))]))
    assert found == pytest.approx(HEIGHT * ROW_S + 2 * (2e-3 + 1e-6 * size), rel=1e-12)


def test_the_requester_hands_out_one_message_after_the_other(lab: Any) -> None:
    graph = lab.chain(1)
    requester = Requester(profile=board(lab, graph))
    free = board(lab, graph, Messages())
    problem = Problem(graph, shared(lab, [free] * 4, requester=requester))
    found = both(problem, lab.strategy(problem, [(0, even_cuts(HEIGHT, 4))]))
    # The last worker gets its rows after four messages; its result is the last of four that arrive as far apart.
    assert found == pytest.approx(4 * OWN_S + IO_S + 2 * ROW_S + IO_S + OWN_S, rel=1e-12)


def test_results_that_arrive_together_are_placed_one_after_the_other(lab: Any) -> None:
    graph = lab.chain(1)
    receive_only = Messages(receive=EACH)
    requester = Requester(profile=board(lab, graph, receive_only))
    problem = Problem(graph, shared(lab, [board(lab, graph, Messages())] * 4, requester=requester))
    found = both(problem, lab.strategy(problem, [(0, even_cuts(HEIGHT, 4))]))
    assert found == pytest.approx(2 * ROW_S + IO_S + 4 * OWN_S, rel=1e-12)
    assert measure(problem, lab.strategy(problem, [(0, even_cuts(HEIGHT, 4))])).period_s == pytest.approx(2 * ROW_S)


def test_messages_sent_first_interrupt_computing(lab: Any) -> None:
    graph = lab.chain(2)
    send_only = Messages(send=EACH)
    problem = Problem(graph, shared(lab, [board(lab, graph, send_only)] * 2))
    strategy = lab.strategy(problem, [(0, (0, 4, 8)), (1, (0, 4, 8))])
    strategy = strategy.replace(volumes=tuple(dataclasses.replace(v, boundary_first=True) for v in strategy.volumes))
    found = run(problem, lay_out(graph, strategy), strips={(0, 0): (ROW_S, 4 * ROW_S), (0, 1): (ROW_S, 4 * ROW_S)})
    for work in found.frames[0].works:
        if work.stage == 0:
            assert work.free_s == work.stop_s == pytest.approx(4 * ROW_S + OWN_S)
            assert work.outgoing[0].ready_s == pytest.approx(ROW_S + OWN_S + IO_S)
    assert both(problem, strategy) == pytest.approx(2 * (4 * ROW_S + OWN_S) + IO_S, rel=1e-12)


def test_a_requester_on_a_device_handles_both_ends(lab: Any) -> None:
    graph = lab.chain(1)
    profile = board(lab, graph, cores=1)
    slow = Link(1e3, None, 1.0)
    problem = Problem(graph, shared(lab, [profile], slow, requester=Requester(device="a")))
    # No link is crossed; input and result are each sent and received by the board's own processor.
    found = both(problem, lab.strategy(problem, [(0, (0, HEIGHT))]))
    assert found == pytest.approx(HEIGHT * ROW_S + 4 * (OWN_S + IO_S), rel=1e-12)
    assert found == pytest.approx(lower_bound_s(problem), rel=1e-6)


@pytest.mark.parametrize(("cores", "factor"), [(8, 1.0), (4, 1.0), (3, 4 / 3), (2, 2.0), (1, 4.0)])
def test_workers_of_a_host_share_its_cores(lab: Any, cores: int, factor: float) -> None:
    graph = lab.chain(2)
    cluster = shared(lab, [board(lab, graph, Messages())] * 4)
    devices = tuple(dataclasses.replace(device, host="h") for device in cluster.devices)
    problem = Problem(graph, dataclasses.replace(cluster, devices=devices, hosts={"h": cores}))
    strategy = lab.strategy(problem, [(i, even_cuts(HEIGHT, 4)) for i in range(2)])
    assert both(problem, strategy) == pytest.approx(2 * 2 * ROW_S * factor, rel=1e-12)
    # Those that have nothing to do leave their cores to others.
    alone = lab.strategy(problem, [(i, (0, HEIGHT, HEIGHT, HEIGHT, HEIGHT)) for i in range(2)])
    assert both(problem, alone) == pytest.approx(2 * HEIGHT * ROW_S, rel=1e-12)


def test_a_host_has_one_access_link_and_needs_none_inside(lab: Any) -> None:
    graph = lab.chain(2)
    rate = 1e5
    cluster = shared(lab, [board(lab, graph, Messages())] * 2, Link(rate))
    devices = tuple(dataclasses.replace(device, host="h") for device in cluster.devices)
    # The second device's own link is not used.
    devices = (devices[0], dataclasses.replace(devices[1], uplink=Link(1.0), downlink=Link(1.0)))
    problem = Problem(graph, dataclasses.replace(cluster, devices=devices, hosts={"h": 2}))
    found = both(problem, lab.strategy(problem, [(i, (0, 4, HEIGHT)) for i in range(2)]))
    # Five rows for each of both over one link, which they share; the exchange of a row takes no time.
    assert found == pytest.approx((10 + 8) * lab.row_bits / rate + 2 * 4 * ROW_S, rel=1e-12)


_CORES = st.sampled_from([None, 1, 2])
_TIMES = st.sampled_from([0.0, 1e-4, 2e-3])
_HANDLING = st.builds(
    Handling,
    own=st.builds(Copy, fixed_s=_TIMES),
    io=st.builds(Copy, fixed_s=_TIMES, s_per_byte=st.sampled_from([0.0, 1e-6])),
)
_MESSAGES = st.builds(Messages, send=_HANDLING, receive=_HANDLING)


@st.composite
def problems(draw: st.DrawFn, lab: Any, graph: Graph) -> Problem:
    count = draw(st.integers(1, 4))
    profiles = [
        board(lab, graph, draw(_MESSAGES), draw(_CORES), draw(st.sampled_from([1e-3, 5e-3]))) for _ in range(count)
    ]
    cluster = shared(
        lab, profiles, Link(draw(st.sampled_from([1e5, 1e7, None])), None, draw(_TIMES)),
        requester=Requester(
            uplink=Link(1e7), downlink=Link(1e7), device=draw(st.sampled_from([None, "a"])),
            profile=draw(st.none() | st.sampled_from(profiles)),
        ),
    )  # fmt: skip
    hosts = [draw(st.sampled_from([None, "h"])) for _ in range(count)]
    devices = tuple(dataclasses.replace(d, host=h) for d, h in zip(cluster.devices, hosts, strict=True))
    return Problem(graph, dataclasses.replace(cluster, devices=devices, hosts={"h": draw(st.integers(1, 4))}))


@settings(max_examples=150)
@given(st.data())
def test_the_bound_is_below_what_the_search_finds(lab: Any, data: st.DataObject) -> None:
    graph = lab.chain(3, classes=3)
    problem = data.draw(problems(lab, graph))
    found = plan(problem, "search", evaluations=2000)
    assert lower_bound_s(problem) <= evaluate(problem, found) * (1 + 1e-9)


@settings(max_examples=60)
@given(st.data(), st.integers(1, 4))
def test_images_come_no_faster_than_the_busiest_processor_or_link_allows(
    lab: Any, data: st.DataObject, in_flight: int
) -> None:
    graph = lab.chain(3, classes=3)
    problem = data.draw(problems(lab, graph))
    count = len(problem.cluster.devices)
    inner = st.lists(st.integers(0, HEIGHT), min_size=count - 1, max_size=count - 1).map(sorted)
    strategy = lab.strategy(problem, [(i, (0, *data.draw(inner), HEIGHT)) for i in range(3)])
    frames = 6
    simulation = run(problem, lay_out(graph, strategy), frames, in_flight)
    period_s = measure(problem, strategy).period_s
    assert max(frame.done_s for frame in simulation.frames) >= frames * period_s * (1 - 1e-9)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["own", "io"]), st.sampled_from(["send", "receive"]), st.sampled_from([1e-4, 5e-3]))
def test_costlier_messages_never_make_it_faster(
    lab: Any, data: st.DataObject, part: str, end: str, more_s: float
) -> None:
    # With one link for all that bounds nobody: where rates are shared, delaying one message may speed up others.
    graph = lab.chain(3)
    cluster = shared(lab, [board(lab, graph, data.draw(_MESSAGES), data.draw(_CORES)) for _ in range(3)])
    cuts = [data.draw(st.tuples(st.integers(0, 8), st.integers(0, 8)).map(sorted)) for _ in range(3)]
    problem = Problem(graph, cluster)
    strategy = lab.strategy(problem, [(i, (0, *inner, HEIGHT)) for i, inner in enumerate(cuts)])
    which = data.draw(st.integers(0, 2))
    old = cluster.devices[which].profile
    handling = getattr(old.messages, end)
    copy = getattr(handling, part)
    copy = msgspec.structs.replace(copy, fixed_s=copy.fixed_s + more_s)
    messages = msgspec.structs.replace(old.messages, **{end: msgspec.structs.replace(handling, **{part: copy})})
    slower = ComputeProfile(msgspec.structs.replace(old.data, messages=messages))
    devices = list(cluster.devices)
    devices[which] = dataclasses.replace(devices[which], profile=slower)
    other = Problem(graph, dataclasses.replace(cluster, devices=tuple(devices)))
    assert evaluate(other, strategy) >= evaluate(problem, strategy) * (1 - 1e-12)


@pytest.mark.parametrize("rows", [(0, 4, 4, 8), (0, 3, 6, 8), (0, 2, 4, 8)])
def test_one_more_message_never_makes_it_faster(lab: Any, rows: tuple[int, ...]) -> None:
    # A row that the third device takes over makes one more message for the first; nobody computes anything.
    graph = lab.chain(2)
    free = board(lab, graph, row_s=0.0)
    problem = Problem(graph, shared(lab, [free] * 3))
    fewer = lab.strategy(problem, [(0, (0, HEIGHT, HEIGHT, HEIGHT)), (1, (0, HEIGHT, HEIGHT, HEIGHT))])
    more = lab.strategy(problem, [(0, (0, HEIGHT, HEIGHT, HEIGHT)), (1, rows)])
    assert both(problem, more) > both(problem, fewer)


def test_devices_of_different_hosts_are_not_interchangeable(lab: Any) -> None:
    graph = lab.chain(2)
    cluster = shared(lab, [board(lab, graph)] * 5)
    hosts = ("h", "h", "i", None, None)
    devices = tuple(dataclasses.replace(d, host=h) for d, h in zip(cluster.devices, hosts, strict=True))
    problem = Problem(graph, dataclasses.replace(cluster, devices=devices, hosts={"h": 2, "i": 2}))
    kinds = list(Codec(problem).choices.kinds)
    assert kinds[0] == kinds[1]
    assert kinds[3] == kinds[4]
    assert len({kinds[0], kinds[2], kinds[3]}) == 3
    independent = Problem(graph, dataclasses.replace(problem.cluster, link_model="independent"))
    assert len(set(Codec(independent).choices.kinds)) == 1


def test_independent_links_know_neither_messages_nor_hosts(lab: Any) -> None:
    graph = lab.chain(2)
    cluster = shared(lab, [board(lab, graph, cores=1)] * 3, link_model="independent")
    devices = tuple(dataclasses.replace(device, host="h") for device in cluster.devices)
    problem = Problem(graph, dataclasses.replace(cluster, devices=devices, hosts={"h": 1}))
    found = both(problem, lab.strategy(problem, [(i, (0, 4, HEIGHT, HEIGHT)) for i in range(2)]))
    assert math.isclose(found, 2 * 4 * ROW_S, rel_tol=1e-12)
