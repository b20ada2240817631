"""Planning anew while frames wait: what takes long is done before they run, and what is taken suits what is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from distredge.cli._replanning import Replanner
from distredge.cluster import load_cluster
from distredge.model import zoo
from distredge.planners import plan
from distredge.planners.annealing import loading
from distredge.problem import Problem
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.requester.open_plans import Prepared
from distredge.strategy import InputSpec, Strategy


@pytest.mark.parametrize(("method", "times"), [("auto", 1), ("search", 1), ("aofl", 0)])
def test_the_search_is_loaded_beforehand(monkeypatch: pytest.MonkeyPatch, method: str, times: int) -> None:
    graph = zoo.build("vgg16", (1, 3, 32, 32), width=0.0625)
    problem = Problem(graph, load_cluster("db-50", [graph]))
    strategy = plan(problem, "aofl", 1.0)
    loads: list[object] = []
    monkeypatch.setattr(loading, "_loaded", set())
    monkeypatch.setattr(loading, "_load_steps", loads.append)
    Replanner(problem, strategy, method)
    assert len(loads) == times


@dataclass
class Running:
    """A coordinator as far as planning anew asks it."""

    deployment: Deployment
    prepared_ever: dict[str, Prepared]
    in_flight: int = 1
    took: dict[Deployment, float] = field(default_factory=dict)
    dynamic_rows: bool = False
    decoding: tuple[str, ...] = ()

    def decodes_files(self, worker: str) -> bool:
        return worker in self.decoding

    def takes_dynamic_rows(self, worker: str) -> bool:
        return self.dynamic_rows

    def took_s(self, deployment: Deployment) -> float | None:
        return self.took.get(deployment)


LOST = "nano-1"


@pytest.fixture(scope="module")
def problem() -> Problem:
    graph = zoo.build("vgg16", (1, 3, 64, 64), width=0.25)
    return Problem(graph, load_cluster("db-50", [graph]))


def _replanner(problem: Problem, model_s: float, in_flight: int = 1) -> tuple[Replanner, Running]:
    """One that runs an even split in three volumes, whose sub-models took so many seconds each."""
    graph = problem.graph
    cuts = [graph.cuts[k] for k in (3, 8, len(graph.cuts) - 1)]
    names = problem.cluster.names
    rows = [(cut.index, [round(k * cut.height / len(names)) for k in range(len(names) + 1)]) for cut in cuts]
    strategy = Strategy.make(graph, names, rows, head=names[0])
    deployment = deploy(graph, strategy)
    prepared = {
        name: Prepared(len(program.segments), 0.1, len(program.segments) * model_s)
        for name, program in zip(names, deployment.programs, strict=True)
    }
    return Replanner(problem, strategy, "aofl"), Running(deployment, prepared, in_flight)


def _loads(before: Deployment, after: Deployment) -> int:
    held = {name: set(before.models(k)) for k, name in enumerate(before.devices)}
    return sum(model not in held[name] for k, name in enumerate(after.devices) for model in after.models(k))


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("left", [500, None])
def test_engines_that_take_minutes_keep_the_cuts(
    problem: Problem, left: int | None, in_flight: int, capsys: pytest.CaptureFixture[str]
) -> None:
    replanner, running = _replanner(problem, 120.0, in_flight)
    replanner.follow(running, lambda: left)
    made = replanner(frozenset({LOST}))
    before = running.deployment
    assert [v.ends_at for v in made.strategy.volumes] == [v.ends_at for v in before.strategy.volumes]
    assert 0 < _loads(before, made) <= len(before.strategy.volumes)
    assert f"lost {LOST}: goes on with" in (said := capsys.readouterr().err)
    assert "the lost rows dealt out anew, about" in said
    (figures,) = replanner.figures()
    assert (figures["taken"], figures["lost"], figures["prepared_s"]) == ("dealt", [LOST], None)
    # Of what a worker has loaded, in three times two minutes at most, no neighbour loads all anew.
    assert 60 < figures["predicted_swap_s"] < 3 * 120
    if left is not None:
        assert figures["frames_to_come"] == left
    running.took[made] = 130.0
    assert replanner.figures()[0]["prepared_s"] == 130.0


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize(("model_s", "left"), [(0.1, 1), (0.1, 2000), (0.1, None), (2.0, 100_000)])
def test_where_loading_is_short_beside_the_frames_to_come_the_fastest_plan_wins(
    problem: Problem, model_s: float, left: int | None, in_flight: int, capsys: pytest.CaptureFixture[str]
) -> None:
    replanner, running = _replanner(problem, model_s, in_flight)
    replanner.follow(running, lambda: left)
    replanner(frozenset({LOST}))
    assert "; planned anew, about" in capsys.readouterr().err
    (figures,) = replanner.figures()
    assert figures["taken"] == "planned"
    assert 0 < figures["predicted_swap_s"] < 10


def test_with_dynamic_rows_the_same_cuts_load_nothing(problem: Problem) -> None:
    replanner, running = _replanner(problem, 120.0)
    running.dynamic_rows = True
    replanner.follow(running, lambda: 500)
    made = replanner(frozenset({LOST}))
    (figures,) = replanner.figures()
    assert figures["taken"] == "dealt"
    before = running.deployment
    held = {name: set(before.models(k, True)) for k, name in enumerate(before.devices)}
    assert all(model in held[name] for k, name in enumerate(made.devices) for model in made.models(k, True))
    assert figures["predicted_swap_s"] < 10


def test_the_frame_that_waits_counts_where_no_other_comes(problem: Problem) -> None:
    replanner, running = _replanner(problem, 0.5)
    replanner.follow(running, lambda: 0)
    replanner(frozenset({LOST}))
    (figures,) = replanner.figures()
    assert (figures["taken"], figures["frames_to_come"]) == ("dealt", 1.0)


def test_what_never_came_to_run_is_not_taken_again(problem: Problem) -> None:
    """As where a worker has not the memory for it: asked again, with the same workers lost, it is another plan."""
    replanner, running = _replanner(problem, 120.0)
    replanner.follow(running, lambda: 10)
    made = [replanner(frozenset({LOST})) for _ in range(7)]
    taken = [figures["taken"] for figures in replanner.figures()]
    dealt = [one.strategy for one, how in zip(made, taken, strict=True) if how == "dealt"]
    assert len(dealt) >= 2
    assert all(one not in dealt[:k] for k, one in enumerate(dealt))
    assert taken[-1] == "planned"


def test_of_those_that_have_loaded_nothing_the_others_seconds_are_expected(problem: Problem) -> None:
    replanner, running = _replanner(problem, 120.0)
    running.prepared_ever = {LOST: running.prepared_ever[LOST]}
    replanner.follow(running, lambda: 10)
    replanner(frozenset({LOST}))
    assert replanner.figures()[0]["predicted_swap_s"] >= 120.0


def test_before_anything_runs_it_is_planned_from_scratch(problem: Problem) -> None:
    replanner, running = _replanner(problem, 120.0)
    made = replanner(frozenset({LOST}))
    (figures,) = replanner.figures()
    assert (figures["taken"], figures["predicted_swap_s"], figures["prepared_s"]) == ("planned", None, None)
    assert made.devices == tuple(name for name in running.deployment.devices if name != LOST)


@pytest.mark.parametrize("model_s", [0.1, 120.0])
@pytest.mark.parametrize("all_decode", [True, False])
def test_files_go_only_to_workers_that_decode_them(all_decode: bool, model_s: float) -> None:
    """Of those that are left any may get the input that did not before; one without Pillow would refuse the plan."""
    graph = zoo.build("vgg16", (1, 3, 224, 224), width=0.25)
    problem = Problem(graph, load_cluster("db-50", [graph]))
    replanner, running = _replanner(problem, model_s)
    files = running.deployment.strategy.replace(input=InputSpec("jpeg", 20_000, 100_000))
    running.deployment = deploy(graph, files)
    names = problem.cluster.names
    running.decoding = tuple(name for name in names if name != LOST)[: None if all_decode else 1]
    replanner = Replanner(problem, files, "aofl")
    replanner.follow(running, lambda: 500)
    made = replanner(frozenset({LOST}))
    assert made.strategy.input == (files.input if all_decode else InputSpec("uint8"))
    assert replanner.made[-1].taken == ("planned" if model_s < 1 else "dealt")
