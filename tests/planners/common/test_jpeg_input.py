"""Pictures travel in their files where that is priced lower, and not where it is not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from distredge.cli._replanning import Replanner
from distredge.cli.main import distredge
from distredge.cluster import load_cluster
from distredge.errors import DistredgeError, Infeasible, PlannerError
from distredge.latency import evaluate
from distredge.latency.simulator.figures import measure
from distredge.latency.simulator.offload import offload_in_files
from distredge.model import zoo
from distredge.planners import plan
from distredge.planners.common.jpeg_input import choose_input
from distredge.problem import Problem
from distredge.strategy import InputSpec, Strategy

SMALL = InputSpec("jpeg", 20_000, 100_000)
LARGE = InputSpec("jpeg", 140_000, 600_000)


@pytest.fixture(scope="module")
def problem() -> Problem:
    graph = zoo.build("vgg16", (1, 3, 224, 224), width=0.0625)
    return Problem.lossless(graph, load_cluster("db-50", [graph]))


@pytest.fixture(scope="module")
def planned(problem: Problem) -> Strategy:
    return plan(problem, "aofl", 1.0)


@pytest.fixture(scope="module")
def alone(problem: Problem) -> Strategy:
    return plan(problem, "offload", 1.0)


def test_files_are_taken_where_they_are_sooner(problem: Problem, planned: Strategy) -> None:
    choice = choose_input(problem, planned, SMALL)
    assert choice.in_files
    assert choice.strategy.input == SMALL
    assert choice.files_latency_s < choice.rows_latency_s
    assert choice.rows_latency_s == evaluate(problem, planned)
    assert choice.strategy.predicted["latency_s"] == choice.files_latency_s == evaluate(problem, choice.strategy)
    assert choice.files_latency_s <= evaluate(problem, planned.replace(input=SMALL))
    assert choice.files_latency_s <= offload_in_files(problem, SMALL)[1]
    assert choice.strategy.predicted["offload_latency_s"] <= planned.predicted["offload_latency_s"]
    assert Strategy.from_json(choice.strategy.to_json()) == choice.strategy


def test_files_that_are_larger_than_all_rows_change_nothing(problem: Problem, planned: Strategy) -> None:
    choice = choose_input(problem, planned, LARGE)
    assert choice.strategy is planned
    assert choice.files_latency_s == choice.rows_latency_s


def test_and_not_where_they_are_not(problem: Problem, alone: Strategy) -> None:
    choice = choose_input(problem, alone, LARGE)
    assert not choice.in_files
    assert choice.strategy is alone
    assert choice.files_latency_s > choice.rows_latency_s
    insisted = choose_input(problem, alone, LARGE, insists=True)
    assert insisted.in_files
    assert insisted.strategy.predicted["latency_s"] == choice.files_latency_s


@pytest.mark.parametrize("objective", ["throughput", "energy"])
def test_the_objective_decides(problem: Problem, planned: Strategy, objective: str) -> None:
    asked = dataclasses.replace(problem, objective=objective)
    choice = choose_input(asked, planned, SMALL)
    figures = [measure(asked, strategy) for strategy in (choice.strategy, planned)]
    if objective == "throughput":
        assert figures[0].period_s <= figures[1].period_s
    else:
        assert figures[0].energy_j <= figures[1].energy_j


def test_limits_hold(problem: Problem, alone: Strategy) -> None:
    asked = dataclasses.replace(problem, latency_limit_s=evaluate(problem, alone) * 1.0001)
    choice = choose_input(asked, alone, LARGE)
    assert choice.files_latency_s == float("inf")
    assert choice.strategy is alone
    with pytest.raises(Infeasible, match="the limit is"):
        choose_input(asked, alone, LARGE, insists=True)


def test_what_sends_no_pixels_is_refused(problem: Problem, planned: Strategy) -> None:
    with pytest.raises(PlannerError, match="the plan's input is float32"):
        choose_input(problem, planned.replace(input=InputSpec()), SMALL)


@pytest.mark.parametrize("given", [SMALL, LARGE])
def test_planning_anew_keeps_files_where_they_still_pay(problem: Problem, planned: Strategy, given: InputSpec) -> None:
    replanner = Replanner(problem, choose_input(problem, planned, given, insists=True).strategy, "offload")
    replanner(frozenset())
    strategy = replanner.made[-1].strategy
    assert strategy.input == (given if given is SMALL else InputSpec("uint8"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two smooth JPEG files and a PNG."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    ramp = np.linspace(0, 255, 320).astype(np.uint8)
    picture = Image.fromarray(np.stack([np.tile(ramp, (240, 1))] * 3, -1))
    picture.save(folder / "a.jpg")
    picture.resize((160, 120)).save(folder / "b.jpg")
    picture.save(folder / "c.png")
    return folder


def _plan(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    command = ["plan", "--model", "mobilenet-v1", "--cluster", "db-50", "--method", "offload"]
    done = CliRunner().invoke(distredge, [*command, "--out", str(tmp_path / "s.json"), *arguments])
    if isinstance(done.exception, DistredgeError):
        # What `main` makes of it.
        return done.exception.exit_code, str(done.exception)
    return done.exit_code, done.output


def test_the_command(tmp_path: Path, pictures: Path) -> None:
    sizes = [(pictures / name).stat().st_size for name in ("a.jpg", "b.jpg")]
    code, output = _plan(tmp_path, "--pictures", str(pictures), "--json")
    assert code == 0, output
    told = json.loads(output[output.index("{") :])["input"]
    assert (told["dtype"], told["files"], told["other_pictures"]) == ("jpeg", 2, 1)
    assert (told["file_bytes"], told["file_pixels"]) == (round(sum(sizes) / 2), (320 * 240 + 160 * 120) // 2)
    assert told["jpeg_latency_s"] < told["uint8_latency_s"]
    strategy = Strategy.load(tmp_path / "s.json")
    assert strategy.input == InputSpec("jpeg", told["file_bytes"], told["file_pixels"])
    assert strategy.predicted["latency_s"] == told["jpeg_latency_s"]
    code, output = _plan(tmp_path, "--pictures", str(pictures / "*.jpg"))
    assert "pictures travel in their files: in JPEG files" in output
    code, output = _plan(tmp_path, "--json")
    assert json.loads(output[output.index("{") :])["input"] == {"dtype": "uint8"}
    simulated = CliRunner().invoke(distredge, ["simulate", str(tmp_path / "s.json"), "--cluster", "db-50"])
    assert simulated.exit_code == 0, simulated.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input-dtype", "jpeg"], "give --pictures"),
        (["--pictures", "{absent}"], "no such file or folder"),
        (["--pictures", "{pictures}/*.png"], "none of them a JPEG file"),
        (["--pictures", ""], "found an empty name"),
        (["--pictures", "{cut}"], "cut.jpg: a damaged image: its header cannot be read"),
        (["--pictures", "{pictures}", "--input-dtype", "float32"], "--input-dtype float32 rules them out"),
        (["--pictures", "{pictures}", "--input-dtype", "uint8"], "--input-dtype uint8 rules them out"),
        (["--pictures", "{pictures}", "--as-published"], "only where pixels may travel"),
        (["--input-dtype", "jpeg", "--pictures", "{pictures}", "--as-published"], "--as-published means float32"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, pictures: Path, arguments: list[str], said: str) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes((pictures / "a.jpg").read_bytes()[:4])
    filled = [a.format(absent=tmp_path / "absent", pictures=pictures, cut=cut) for a in arguments]
    code, output = _plan(tmp_path, *filled)
    assert code == 2
    assert said in " ".join(output.split())
    assert not (tmp_path / "s.json").exists()


def test_insisting(tmp_path: Path, pictures: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(pictures / "noise.jpg", quality=97)
    assert (pictures / "noise.jpg").stat().st_size > 3 * 224 * 224
    pattern = str(pictures / "noise.jpg")
    _plan(tmp_path, "--pictures", pattern)
    assert Strategy.load(tmp_path / "s.json").input == InputSpec("uint8")
    code, _ = _plan(tmp_path, "--pictures", pattern, "--input-dtype", "jpeg")
    assert code == 0
    assert Strategy.load(tmp_path / "s.json").input.file
