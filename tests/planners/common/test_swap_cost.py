"""What going over to another plan costs, worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

from distredge.cluster import Cluster, Device, Link, Requester, load_cluster
from distredge.model.graph import Graph
from distredge.model.segments import build
from distredge.planners.common.swap_cost import Held, Needs, needs, operators, swap_s
from distredge.strategy import Strategy


def _cluster(up_bps: float | None = None, **down_bps: float | None) -> Cluster:
    profile = load_cluster("db-50").devices[0].profile
    devices = tuple(Device(name, profile, downlink=Link(rate)) for name, rate in down_bps.items())
    return Cluster("test", Requester(uplink=Link(up_bps)), devices)


def test_the_slowest_worker_counts_its_constants_and_its_operators() -> None:
    cluster = _cluster(a=8e6, b=80e6)
    needed = {"a": Needs(2, 3_000_000), "b": Needs(10, 1_000_000)}
    assert swap_s(cluster, needed, {"a": 0.5, "b": 0.1}) == pytest.approx(3.0 + 2 * 0.5)
    assert swap_s(cluster, needed, {"a": 0.5, "b": 1.0}) == pytest.approx(0.1 + 10 * 1.0)


def test_workers_share_the_requesters_uplink() -> None:
    cluster = _cluster(16e6, a=None, b=80e6)
    needed = {"a": Needs(1, 3_000_000), "b": Needs(1, 1_000_000)}
    assert swap_s(cluster, needed, {"a": 0.5, "b": 0.7}) == pytest.approx(2.0 + 0.7)


def test_what_lies_on_the_requesters_own_board_crosses_no_link() -> None:
    cluster = _cluster(8e6, a=8e6, b=8e6)
    cluster = dataclasses.replace(cluster, requester=dataclasses.replace(cluster.requester, device="a"))
    needed = {"a": Needs(1, 9_000_000), "b": Needs(0, 1_000_000)}
    assert swap_s(cluster, needed, {"a": 0.5, "b": 0.5}) == pytest.approx(1.0)


def test_nothing_to_load_over_links_without_bounds_costs_nothing() -> None:
    assert swap_s(_cluster(a=None), {"a": Needs(0, 10**9)}, {"a": 60.0}) == 0.0


def test_a_link_that_is_down_takes_for_ever() -> None:
    assert swap_s(_cluster(a=0.0), {"a": Needs(0, 1)}, {"a": 1.0}) == math.inf


def test_a_worker_needs_what_it_has_not(vgg: Graph) -> None:
    """The other half of the rows: sub-models of its own, the constants of the same layers."""
    last = len(vgg.cuts) - 1
    height = vgg.cuts[last].height
    strategy = Strategy.make(vgg, ("a", "b"), [(last, (0, height // 2, height))], head="a")
    first, second = (build(vgg, strategy, name) for name in ("a", "b"))
    count = sum(operators(segment.model) for segment in first.segments)
    assert count > len(first.segments)
    sent_bytes = sum(len(segment.model) for segment in first.segments)
    assert needs(vgg, first, Held.of(first)) == Needs(0, sent_bytes)
    constants = {name: value for name, value in vgg.constants.items() if vgg.weight_hash(name) in first.weights}
    everything = needs(vgg, first, Held())
    assert everything == Needs(count, sent_bytes + sum(value.nbytes for value in constants.values()))
    of_the_head = first.weights - second.weights
    lacking = [value.nbytes for name, value in constants.items() if vgg.weight_hash(name) in of_the_head]
    assert needs(vgg, first, Held.of(second)) == Needs(count, sent_bytes + sum(lacking))
