"""What packed wires gain: plans on record are priced again, and allowing more never costs anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from distredge.experiments.common import packed_gain
from distredge.experiments.common.packed_gain import PACKED, PAYS, cases, figures, fill, gains, lossless_problem
from distredge.latency import evaluate, offload_latency_s
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.planners import plan


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.5)


def _load(graph: Graph) -> packed_gain.Load:
    return lambda name: graph


def test_cases_are_the_published_ones_and_those_on_gigabit() -> None:
    assert ("vgg16", "db-50") in cases()
    assert len(cases()) == len(set(cases())) >= 32


def test_a_problem_has_all_that_leaves_the_output_unchanged(graph: Graph) -> None:
    problem = lossless_problem(graph, "db-50")
    assert problem.cluster.link_model == "shared"
    assert PACKED in problem.wires
    assert problem.boundary_first
    assert not problem.allow_lossy
    assert lossless_problem(graph, "db-50", ("float32",)).wires == ("float32",)


def test_plans_are_kept_and_priced_again(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "packed.jsonl"
    asked: list[str] = []

    def planned(problem: object, method: str, budget_s: float) -> object:
        asked.append(method)
        return plan(problem, method, evaluations=2000)  # type: ignore[arg-type]

    monkeypatch.setattr(packed_gain, "plan", planned)
    monkeypatch.setattr(packed_gain, "cases", lambda: [("vgg16", "nd-nano"), ("vgg16", "da-50")])
    fill(_load(graph), path)
    assert asked == ["auto"] * 4
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"model": "cut o')  # killed while it wrote
    fill(_load(graph), path)
    assert asked == ["auto"] * 4
    found = list(gains(_load(graph), path))
    assert [case for case, _, _ in found] == ["vgg16 on nd-nano", "vgg16 on da-50"]
    assert all(gain >= 1.0 for _, _, gain in found)
    problem = lossless_problem(graph, "nd-nano")
    assert found[0][1] <= offload_latency_s(problem) / evaluate(problem, plan(problem, "offload")) * 100
    told = figures(_load(graph), path)
    assert told["packed_gain_cases"] == sum(over >= PAYS for _, over, _ in found)


def test_without_records_there_is_no_figure(graph: Graph, tmp_path: Path) -> None:
    told = figures(_load(graph), tmp_path / "none.jsonl")
    assert (told["packed_gain_mean"], told["packed_gain_cases"]) == (None, 0)
