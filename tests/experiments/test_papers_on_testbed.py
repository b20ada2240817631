"""The papers' plans on a testbed that is simulated: what is planned, compared and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from distredge.experiments.common.fidelity_beds import Bed
from distredge.experiments.papers_on_testbed import (
    CASES,
    HALP_CASE,
    MODEL,
    figures,
    measure,
    problem_of,
    show,
    strategy_of,
)
from distredge.latency import simulate
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.problem import Problem
from distredge.runtime.in_process import run_in_process
from distredge.strategy import Strategy


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.25)


@dataclasses.dataclass(frozen=True)
class _Frames:
    latencies_s: tuple[float, ...]
    outputs: Mapping[str, Any]
    frames: int
    invalid: int = 0
    dilation: float = 3.0
    processor_share: float = 0.5
    starts_s: tuple[float, ...] = ()


class _Simulated:
    """A testbed that computes each strategy in this process and takes the time simulated under shared links."""

    mode = "simulated"

    def __init__(self, wrong: bool) -> None:
        self.wrong = wrong

    def measure(
        self,
        problem: Problem,
        strategy: Strategy,
        inputs: Mapping[str, Any],
        frames: int = 20,
        in_flight: int = 1,
        warmup: int = 3,
    ) -> _Frames:
        shared = dataclasses.replace(problem.cluster, link_model="shared")
        latency_s = simulate(dataclasses.replace(problem, cluster=shared), strategy).latency_s
        outputs = run_in_process(problem.graph, strategy, inputs)
        if self.wrong:
            outputs = {name: np.roll(array, 1) for name, array in outputs.items()}
        return _Frames((latency_s,) * frames, outputs, frames)


def _rows(graph: Graph, case: str, wrong: bool = False) -> list[dict[str, Any]]:
    @contextmanager
    def bed_of(problem: Problem) -> Iterator[Bed]:
        yield _Simulated(wrong)

    return list(measure(graph, case, 3, bed_of))


def test_plans_are_made_as_published(graph: Graph) -> None:
    for case in CASES:
        problem = problem_of(graph, case)
        assert problem.cluster.link_model == "independent"
        assert problem.input_dtypes == problem.wires == ("float32",)
        assert problem.boundary_first == (case == HALP_CASE)


def test_measured_rows_are_compared_with_the_whole_model(graph: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows(graph, "db-50")
    # What was trained for the whole VGG-16 does not fit this one.
    assert [row["method"] for row in rows] == ["offload", "deepthings", "coedge", "aofl"]
    found = figures(rows)
    assert found["error_mean"] == pytest.approx(0.0, abs=1e-12)
    assert found["error_mean_independent"] > 0
    assert found["outputs_wrong"] == 0
    assert 0 <= found["difference_max"] < 1e-5
    assert set(found["speedup_db-50"]) == {"deepthings", "coedge", "aofl"}
    assert found["halp_speedup_pi4"] is None
    show(rows)
    assert "deepthings" in capsys.readouterr().out


def test_wrong_outputs_are_counted(graph: Graph) -> None:
    rows = _rows(graph, HALP_CASE, wrong=True)
    found = figures(rows)
    assert found["outputs_wrong"] == len(rows) == 2
    assert found["halp_speedup_pi4"] == pytest.approx(rows[0]["measured_s"] / rows[1]["measured_s"])


def test_frames_none_of_which_is_valid_have_no_time(graph: Graph) -> None:
    rows = [{**row, "measured_s": None} for row in _rows(graph, HALP_CASE)]
    found = figures(rows)
    assert (found["strategies"], found["error_mean"], found["halp_speedup_pi4"]) == (0, None, None)


def test_distredge_is_taken_from_the_record() -> None:
    whole = zoo.build(MODEL)
    for case in ("db-50", "na-nano"):
        strategy = strategy_of(problem_of(whole, case), case, "distredge")
        assert strategy is not None
        assert strategy.planner.method == "distredge"
        strategy.check(whole)
