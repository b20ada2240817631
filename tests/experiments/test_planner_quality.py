"""The figures of `planner_quality`: what is counted, what is not, and what is on record."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from distredge.cluster import load_cluster
from distredge.experiments.common import published
from distredge.experiments.common.draw import drawn_problem
from distredge.experiments.common.quality import Outcome, published_ratio, summarise
from distredge.experiments.common.records import MethodRun, append, best_latency_s, compact, price, read
from distredge.experiments.common.regimes import REGIMES, fingerprint, make_problem
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.planners import plan
from distredge.problem import Problem


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.25)


def _outcome(regime: str = "paper", cluster: str = "db-50", bound_s: float = 0.01, **ips: float) -> Outcome:
    labels = {("search-long" if name == "long" else name): 1.0 / value for name, value in ips.items()}
    return Outcome(regime, "vgg16", cluster, 4, bound_s, labels)


def test_published_cases_are_the_32_of_the_paper() -> None:
    cases = published.cases()
    assert len(cases) == len(set(cases)) == 32
    assert all(load_cluster(cluster) for _, cluster in cases)
    assert published.ips("vgg16", "ld", "distredge") == 59
    assert published.ips("vgg16", "ld", "search") is None
    # The text: 1.3 to 3 times AOFL with 16 devices; Offload is the best rival in LC and LD.
    assert published_ratio("vgg16", "ld", "distredge", "aofl") == pytest.approx(59 / 21)
    assert published_ratio("vgg16", "ld", "distredge", "aofl", "offload") == pytest.approx(59 / 44.5)
    assert published_ratio("voxelnet", "db-50", "distredge", "aofl") is None


def test_auto_is_worse_by_more_than_a_thousandth_only() -> None:
    judged = [
        _outcome(auto=10.0, aofl=10.005),
        _outcome(auto=10.0, aofl=10.02),
        _outcome(auto=10.0, long=10.02),
        _outcome(aofl=10.0),
    ]
    assert [o.auto_not_best for o in judged] == [False, True, True, None]
    figures = summarise(judged)
    assert (figures["case_regimes"], figures["auto_not_best"]) == (3, 2)
    assert figures["auto_gap_worst"] == pytest.approx(0.002)


def test_the_best_known_may_come_from_an_earlier_run() -> None:
    o = dataclasses.replace(_outcome(search=9.95, long=10.0, auto=10.0), known_s=1 / 10.5)
    assert o.best_s == pytest.approx(1 / 10.5)
    assert o.search_gap == pytest.approx(10.5 / 9.95 - 1)
    # Methods are compared by what they find today.
    assert o.auto_not_best is False


def test_gap_and_time_of_the_search() -> None:
    late = dataclasses.replace(_outcome(search=9.95, long=10.0), reached=((0.1, 0.2), (0.7, 1 / 9.95)))
    never = dataclasses.replace(_outcome(cluster="ld", search=9.0, long=10.0), devices=16, reached=((0.1, 1 / 9.0),))
    figures = summarise([late, never, _outcome(search=10.0)])
    assert figures["search_cases"] == 2
    assert figures["search_gap_worst"] == pytest.approx(1 / 9)
    assert figures["search_seconds_4"] == 0.7
    assert figures["search_seconds_16"] is None
    assert figures["search_cases_not_near"] == 1


def test_what_the_bound_allows_and_what_is_reached() -> None:
    # DistrEdge reports 16 in DB at 50 Mbit/s: the goal is 24, and room for it a bound of 28.8.
    there = _outcome("ours", bound_s=1 / 30, search=25.0)
    tight = _outcome("ours", "da-50", bound_s=1 / 20, search=19.0)  # 13 published
    figures = summarise([there, tight, _outcome("lossless", search=23.9)])
    assert (figures["ours_cases"], figures["ours_over_published_1_5x"], figures["bound_allows_1_5x"]) == (2, 1, 1)
    assert figures["ours_over_published_1_5x_where_bound_allows"] == 1
    assert (figures["lossless_cases"], figures["lossless_over_published_1_5x"]) == (1, 0)


def test_nothing_counted_is_said() -> None:
    figures = summarise([])
    assert figures["cases"] == figures["random_cases"] == 0
    assert figures["auto_not_best"] is figures["search_gap_worst"] is figures["bound_allows_1_5x"] is None


def test_random_cases_are_counted_apart() -> None:
    drawn = Outcome("random", "vgg16", "random-0", 9, 0.01, {"auto": 0.2, "aofl": 0.1})
    figures = summarise([drawn])
    assert (figures["cases"], figures["random_cases"], figures["auto_not_best_random"]) == (0, 1, 1)


@pytest.mark.parametrize("regime", REGIMES)
def test_records_are_priced_again_and_known_by_their_cost_model(graph: Graph, tmp_path: Path, regime: str) -> None:
    problem = make_problem(graph, load_cluster("db-50"), regime)
    strategy = plan(problem, "deeperthings")
    path = tmp_path / "r.jsonl"
    wrong = 1.0  # what the record says of its latency; its strategy says more
    record = MethodRun("c", "search", 1.0, "wall", 0, wrong, 0.1, 0.1, 5, fingerprint(problem), (), compact(strategy))
    append(path, record)
    with open(path, "ab") as file:
        file.write(b'{"case": "c", "method": "cut o')  # killed while it wrote
    append(path, dataclasses.replace(record, method="modnn", strategy=None, reached=((0.5, 0.2),)))
    found = read(path)
    assert [r.method for r in found] == ["search", "modnn"]
    assert found[0].date
    assert found[0].cores >= 1
    assert found[1].reached == ((0.5, 0.2),)
    assert price(problem, found[0]) == pytest.approx(strategy.predicted["latency_s"], rel=1e-12)
    assert price(problem, found[1]) == wrong
    assert best_latency_s(problem, found) == pytest.approx(strategy.predicted["latency_s"], rel=1e-12)
    assert found[0].is_of(fingerprint(problem))
    assert not found[0].is_of(fingerprint(make_problem(graph, load_cluster("db-300"), regime)))


def test_a_record_of_another_model_has_no_price(graph: Graph) -> None:
    problem = make_problem(graph, load_cluster("db-50"), "paper")
    other = Problem(zoo.build("resnet18", (1, 3, 64, 64), width=0.25), problem.cluster)
    record = MethodRun("c", "search", 1.0, "wall", 0, 1.0, 0.1, 0.1, 5, 0.5, (), compact(plan(other, "offload")))
    assert price(problem, record) is None
    assert best_latency_s(problem, [record]) == math.inf


def test_random_cases_depend_on_their_number_alone() -> None:
    problems = [drawn_problem(number) for number in (3, 3, 4)]
    said = [
        json.dumps([p.graph.name, [(d.name, d.uplink.rate_bps) for d in p.cluster.devices], p.cluster.link_model])
        for p in problems
    ]
    assert said[0] == said[1] != said[2]
    for problem in problems:
        assert 2 <= len(problem.cluster.devices) <= 16
        rates = [d.uplink.rate_bps for d in problem.cluster.devices]
        assert all(rate is not None and 20e6 <= rate <= 1000e6 for rate in rates)
