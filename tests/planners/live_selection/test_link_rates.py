"""The rates of the moment are found from what transfers took, whichever link has changed."""

from __future__ import annotations

import dataclasses
import math

import pytest

from distredge.cluster import Cluster, Link, Requester, load_cluster
from distredge.model.capture import load_model
from distredge.planners.live_selection.link_rates import FALL_BACK_S, AccessLink, LinkRates
from distredge.planners.live_selection.pricing import Price
from distredge.problem import Problem
from distredge.strategy import Strategy

MBPS = 1e6


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """Three boards on cables; the requester's access is wireless."""
    found = load_cluster("halp-pi4")
    link = Link(20 * MBPS, None, 1e-4)
    devices = tuple(dataclasses.replace(d, uplink=Link(90 * MBPS), downlink=Link(90 * MBPS)) for d in found.devices)
    requester = Requester(uplink=link, downlink=link, profile=found.devices[0].profile)
    return dataclasses.replace(found, requester=requester, devices=devices, link_model="shared")


@pytest.fixture(scope="module")
def price(cluster: Cluster) -> Price:
    problem = Problem(load_model("mobilenet-v1-1.0-224"), cluster, input_dtypes=("uint8",))
    return Price(problem, _thirds(problem))


def _thirds(problem: Problem) -> Strategy:
    """A third of the rows for each board, in three volumes, so that rows cross every link."""
    cuts = problem.graph.cuts
    volumes = [
        (cut.index, tuple(round(k * cut.height / 3) for k in range(4)))
        for cut in (cuts[len(cuts) // 3], cuts[2 * len(cuts) // 3], cuts[-1])
    ]
    names = problem.cluster.names
    return Strategy.make(problem.graph, names, volumes, head=names[0], input_dtype=problem.input_dtypes[0])


def _changed(cluster: Cluster, name: str, way: str, factor: float) -> Cluster:
    def slower(link: Link) -> Link:
        assert link.rate_bps is not None
        return dataclasses.replace(link, rate_bps=factor * link.rate_bps)

    if name == "requester":
        asks = cluster.requester
        return dataclasses.replace(
            cluster, requester=dataclasses.replace(asks, **{f"{way}link": slower(getattr(asks, f"{way}link"))})
        )
    devices = [
        dataclasses.replace(d, **{f"{way}link": slower(getattr(d, f"{way}link"))}) if d.name == name else d
        for d in cluster.devices
    ]
    return dataclasses.replace(cluster, devices=tuple(devices))


def _run(rates: LinkRates, price: Price, real: Cluster, frames: int, now_s: float = 0.0) -> None:
    for number in range(frames):
        rates.observe(price.at(real).transfers, price.at(rates.cluster()).transfers, now_s + 0.1 * number)


def test_what_is_as_predicted_changes_nothing(cluster: Cluster, price: Price) -> None:
    rates = LinkRates(cluster)
    _run(rates, price, cluster, 5)
    assert rates.factors[AccessLink("requester", "up")] == pytest.approx(1.0, abs=1e-6)
    assert price.at(rates.cluster()).latency_s == pytest.approx(price.at(cluster).latency_s, rel=0.02)


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 3.0])
def test_follows_the_requesters_link(cluster: Cluster, price: Price, factor: float) -> None:
    rates = LinkRates(cluster)
    real = _changed(cluster, "requester", "up", factor)
    _run(rates, price, real, 12)
    assert rates.factors[AccessLink("requester", "up")] == pytest.approx(factor, rel=0.1)
    assert price.at(rates.cluster()).latency_s == pytest.approx(price.at(real).latency_s, rel=0.05)
    _run(rates, price, cluster, 12, 2.0)
    assert rates.factors[AccessLink("requester", "up")] == pytest.approx(1.0, rel=0.1)
    # What other links were blamed for meanwhile, and frames no longer tell of, fades.
    rates.fall_back(3.0 + 5 * FALL_BACK_S)
    _run(rates, price, cluster, 12, 3.0 + 5 * FALL_BACK_S)
    assert price.at(rates.cluster()).latency_s == pytest.approx(price.at(cluster).latency_s, rel=0.02)


@pytest.mark.parametrize("way", ["up", "down"])
def test_finds_the_device_whose_link_is_slow(cluster: Cluster, price: Price, way: str) -> None:
    name = cluster.names[1]
    real = _changed(cluster, name, way, 0.05)
    rates = LinkRates(cluster)
    _run(rates, price, real, 15)
    assert rates.factors[AccessLink(name, way)] == pytest.approx(0.05, rel=0.3)  # type: ignore[arg-type]
    assert rates.factors[AccessLink("requester", "up")] == pytest.approx(1.0, abs=0.3)
    assert price.at(rates.cluster()).latency_s == pytest.approx(price.at(real).latency_s, rel=0.15)


def test_one_medium_has_one_factor(cluster: Cluster, price: Price) -> None:
    air = dataclasses.replace(cluster, shared_medium=True)
    rates = LinkRates(air)
    real = air
    for name in ("requester", *air.names):
        for way in ("up", "down"):
            real = _changed(real, name, way, 0.5)
    _run(rates, price, real, 12)
    assert list(rates.factors) == [AccessLink("", "air")]
    assert rates.factors[AccessLink("", "air")] == pytest.approx(0.5, rel=0.1)


def test_what_nothing_tells_of_falls_back_to_the_cluster_file(cluster: Cluster, price: Price) -> None:
    rates = LinkRates(cluster)
    _run(rates, price, _changed(cluster, "requester", "up", 0.25), 12)
    learnt = rates.factors[AccessLink("requester", "up")]
    rates.fall_back(1.1 + FALL_BACK_S)
    rates.fall_back(1.1 + FALL_BACK_S)
    assert math.log(rates.factors[AccessLink("requester", "up")]) == pytest.approx(math.log(learnt) / math.e, rel=0.01)
    rates.fall_back(100 * FALL_BACK_S)
    assert rates.factors[AccessLink("requester", "up")] == pytest.approx(1.0)


def test_members_of_one_computer_use_no_link(cluster: Cluster) -> None:
    inside = dataclasses.replace(cluster, requester=Requester(device=cluster.names[0]))
    problem = Problem(load_model("mobilenet-v1-1.0-224"), inside)
    price = Price(problem, _thirds(problem))
    rates = LinkRates(inside)
    _run(rates, price, _changed(inside, cluster.names[0], "up", 0.2), 12)
    assert rates.factors[AccessLink(cluster.names[0], "up")] == pytest.approx(0.2, rel=0.3)
    assert not any(link.owner == "requester" for link in rates.factors)
