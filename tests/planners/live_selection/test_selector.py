"""Whole runs without sockets: frames take what the simulator says at rates that only it knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from distredge.cluster import Cluster, Link, Requester, load_cluster
from distredge.latency import simulate
from distredge.model.capture import load_model
from distredge.planners.live_selection.choosing import Choice
from distredge.planners.live_selection.selector import REMEMBERED_S, Selector
from distredge.planners.model_choice import MOBILENET_V1
from distredge.problem import Problem
from distredge.strategy import Strategy

NAMES = ("mobilenet-v1-1.0-224", "mobilenet-v1-1.0-160", "mobilenet-v1-1.0-128")
LIMIT_S = 0.1
PERIOD_S = 0.15

Plan = tuple[Problem, Strategy]


def _boards(rate_bps: float) -> Cluster:
    found = load_cluster("halp-pi4")
    link = Link(rate_bps, None, 1e-4)
    requester = Requester(uplink=link, downlink=link, profile=found.devices[0].profile)
    return dataclasses.replace(found, requester=requester, link_model="shared")


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    """Each model in halves on two of three boards."""
    found = []
    for name in NAMES:
        problem = Problem(load_model(name), _boards(25e6), input_dtypes=("uint8",))
        cuts = problem.graph.cuts
        ends = [cuts[len(cuts) // 4], cuts[len(cuts) // 2], cuts[-1]]
        volumes = [(cut.index, (0, cut.height // 2, cut.height)) for cut in ends]
        devices = problem.cluster.names[:2]
        strategy = Strategy.make(problem.graph, devices, volumes, head=devices[0], input_dtype="uint8")
        found.append((problem, strategy))
    return found


def _selector(plans: Sequence[Plan], limit_s: float = LIMIT_S) -> Selector:
    return Selector(_boards(25e6), plans, [MOBILENET_V1[name] for name in NAMES], limit_s)


def _frame(plan: Plan, rate_bps: float, slower: float = 1.0):
    """What a frame takes at a rate; everything takes `slower` times as long."""
    real = dataclasses.replace(plan[0], cluster=_boards(rate_bps / slower))
    timeline = simulate(real, plan[1])
    return timeline.latency_s * slower, timeline


def _run(
    selector: Selector, plans: Sequence[Plan], rates_bps: Sequence[float], slower: float = 1.0, now_s: float = 0.0
):
    """Runs a frame at each rate; returns what was chosen and what it took."""
    chosen = []
    for number, rate_bps in enumerate(rates_bps):
        at_s = now_s + number * PERIOD_S
        choice, predicted_s = selector.choose(at_s)
        latency_s, timeline = _frame(plans[choice.index], rate_bps, slower)
        selector.ended(choice.index, latency_s, timeline, at_s, predicted_s)
        chosen.append((choice.index, latency_s))
    return chosen


def test_follows_the_channel_down_and_up(plans: list[Plan]) -> None:
    selector = _selector(plans)
    found = _run(selector, plans, [40e6] * 10 + [7e6] * 15 + [40e6] * 30)
    assert {index for index, _ in found[2:10]} == {0}
    late = [latency_s > LIMIT_S for _, latency_s in found]
    assert late[10], "nobody can know before the first frame"
    assert sum(late) <= 3
    assert {index for index, _ in found[13:25]} == {2}
    assert [index for index, _ in found[-5:]] == [0] * 5
    assert selector.switches <= 5, "up once, down twice, up twice"


def test_boards_that_are_slower_than_their_profile_are_learnt(plans: list[Plan]) -> None:
    selector = _selector(plans, 0.12)
    assert selector.choose(0.0)[0].index == 0
    for index, plan in enumerate(plans):
        latency_s, timeline = _frame(plan, 25e6)
        selector.ended(index, 2.0 * latency_s, timeline, 0.0)
    truth = [2.0 * _frame(plan, 25e6)[0] for plan in plans]
    assert selector.predicted_s(0.0) == pytest.approx(truth, rel=0.02)
    assert selector.choose(0.0)[0].index != 0


def test_one_frame_that_took_long_does_not_condemn_a_variant(plans: list[Plan]) -> None:
    selector = _selector(plans)
    _run(selector, plans, [40e6] * 6)
    selector.ended(0, 5.0, None, 1.0)
    assert selector.choose(1.0)[0].index == 0


def test_a_variant_that_failed_again_and_again_is_tried_again_later(plans: list[Plan]) -> None:
    selector = _selector(plans, 0.12)
    _run(selector, plans, [40e6])
    for _ in range(5):
        selector.ended(0, 5.0, None, 1.0)
    assert selector.choose(1.0)[0].index == 1
    assert selector.choose(2.0 + REMEMBERED_S)[0].index == 0


def test_nothing_in_time_takes_the_fastest(plans: list[Plan]) -> None:
    selector = _selector(plans, 0.001)
    choice, predicted_s = selector.choose(0.0)
    assert (choice.index, choice.fits) == (2, False)
    assert predicted_s > 0.001


def test_a_variant_that_cannot_run_is_not_chosen(plans) -> None:
    selector = _selector(plans, limit_s=60.0)
    assert selector.choose(0.0)[0].index == 0
    assert selector.choose(0.1, lost=[0])[0].index == 1
    assert selector.choose(0.2, lost=[0, 1])[0] == Choice(2, True)
    assert selector.choose(0.3)[0].index == 0
