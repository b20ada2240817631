"""The command `train-agent`."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from distredge.agents import observers
from distredge.agents.hyperparameters import default_hyperparameters
from distredge.agents.settings import read_config
from distredge.agents.training import EpisodeReport
from distredge.cli._common import run
from distredge.cli._planning import INDEPENDENT
from distredge.errors import did_you_mean
from distredge.latency import evaluate, offload, offload_latency_s
from distredge.planners.budget import Budget
from distredge.problem import Problem
from distredge.strategy import Strategy

QUICK = ("--model", "vgg16", "--cluster", "db-50", "--set", "actor_layers=[16]", "--set", "critic_layers=[16]")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Problem) -> Path:
    """An empty folder to work in; VGG-16 is a narrow one, which loads at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "distredge.cli.train_agent.load_problem", lambda *given, **options: dataclasses.replace(problem)
    )
    return tmp_path


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        run("distredge.cli.train_agent:train_agent", "train-agent", arguments)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_twice_the_same_bytes_in_two_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert _run(*QUICK, "--episodes", "5", "--seed", "1", "-f", "runs") == 0
    one, two = folder / "runs" / "vgg16_db-50_ddpg_1", folder / "runs" / "vgg16_db-50_ddpg_1_2"
    assert (one / "strategy.json").read_bytes() == (two / "strategy.json").read_bytes()
    out = capsys.readouterr().out
    assert "runs/vgg16_db-50_ddpg_1/strategy.json" in out
    assert "tensorboard --logdir runs/vgg16_db-50_ddpg_1_2" in out
    # Its devices have no addresses: nothing can be deployed on them.
    assert "distredge simulate runs/vgg16_db-50_ddpg_1/strategy.json --cluster db-50 --gantt g.png" in out
    assert "deploy-strategy" not in out
    assert "x the best single device" in out
    assert {p.name for p in one.iterdir() if p.is_file() and not p.name.startswith("events")} == {
        "agent.onnx",
        "state.npz",
        "strategy.json",
        "config.yaml",
        "run.json",
        "model.zip",
        "progress.csv",
    }


def test_json(folder: Path, capsys: pytest.CaptureFixture[str], problem: Problem) -> None:
    assert _run(*QUICK, "-n", "4", "--json", "--eval-freq", "2", "--save-freq", "2") == 0
    said = json.loads(capsys.readouterr().out)
    strategy = Strategy.load(said["strategy"])
    assert said["latency_s"] == strategy.predicted["latency_s"] == pytest.approx(evaluate(problem, strategy), rel=1e-9)
    assert said["speedup_over_offload"] == pytest.approx(offload_latency_s(problem) / said["latency_s"])
    assert (said["episodes"], said["interrupted"]) == (4, False)
    assert (said["link_model"], said["assumption"], said["options"]) == ("independent", INDEPENDENT, problem.options)
    assert {p.name for p in Path(said["run"]).glob("*.zip")} == {"model.zip", "checkpoint_2.zip", "checkpoint_4.zip"}


def test_ctrl_c_keeps_what_was_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = observers.ProgressCsv.episode

    def interrupt(self: Any, report: EpisodeReport) -> None:
        write(self, report)
        if report.number == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(observers.ProgressCsv, "episode", interrupt)
    before = signal.getsignal(signal.SIGINT)
    assert _run(*QUICK, "-n", "50", "--seed", "2") == 130
    assert signal.getsignal(signal.SIGINT) is before
    made = folder / "runs" / "vgg16_db-50_ddpg_2"
    about = json.loads((made / "run.json").read_text())
    assert (about["episodes"], about["interrupted"]) == (3, True)
    assert Strategy.load(made / "strategy.json").predicted["latency_s"] == about["latency_s"]
    assert (made / "model.zip").exists()
    assert "interrupted after 3 episodes" in capsys.readouterr().err


def _fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException | None) -> None:
    """An error after an episode; None for Ctrl-C."""

    def fail(self: Any, report: EpisodeReport) -> None:
        if report.number == number and error is None:
            signal.raise_signal(signal.SIGINT)
        elif report.number == number and error is not None:
            raise error

    monkeypatch.setattr(observers.ProgressCsv, "episode", fail)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(28, "No space left on device"), 2, "vgg16_db-50_osds_ddpg_0: the run cannot go on: No space left"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_failed_run_has_saved_is_kept(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    with monkeypatch.context() as patch:
        _fail_at(patch, 3, error)
        assert _run(*QUICK, "--preset", "osds", "-n", "6", "--save-freq", "2") == code
    made = folder / "runs" / "vgg16_db-50_osds_ddpg_0"
    assert {"checkpoint_2.zip", "state.npz"} <= {path.name for path in made.iterdir()}
    err = capsys.readouterr().err
    assert "kept runs/vgg16_db-50_osds_ddpg_0: --resume runs/vgg16_db-50_osds_ddpg_0 goes on" in err
    assert said in err
    assert _run("--resume", str(made), "-n", "2", "--compare-search-s", "0") == 0


def test_of_a_run_that_failed_before_it_saved_anything_nothing_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fail_at(monkeypatch, 1, OSError(28, "No space left on device"))
    assert _run(*QUICK, "--preset", "osds", "-n", "6", "--save-freq", "2") == 2
    assert not list((folder / "runs").iterdir())
    assert "kept" not in capsys.readouterr().err


def test_a_policy_that_needs_a_link_that_is_down(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Problem
) -> None:
    dead = dataclasses.replace(problem.cluster.devices[0].uplink, rate_bps=0.0)
    devices = (dataclasses.replace(problem.cluster.devices[0], uplink=dead), *problem.cluster.devices[1:])
    broken = dataclasses.replace(problem, cluster=dataclasses.replace(problem.cluster, devices=devices))
    monkeypatch.setattr(
        "distredge.cli.train_agent.load_problem", lambda model, cluster, **options: dataclasses.replace(broken)
    )
    assert _run(*QUICK, "-n", "3", "--compare-search-s", "0", "--eval-cluster", "db-50") == 0
    out = capsys.readouterr().out
    assert "policy          none by itself, without exploration: its strategy needs a link that is down" in out
    assert "none on db-50, which it was not trained on: its strategy needs" in out


def test_another_preset_than_that_of_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ("-n", "2", "--compare-search-s", "0")
    assert _run(*QUICK, "-n", "2", "--set", "tau=0.2", "--compare-search-s", "0") == 0
    first = str(folder / "runs" / "vgg16_db-50_ddpg_0" / "config.yaml")
    assert _run("--config", first, "--preset", "osds", *short) == 0
    own = read_config(folder / "runs" / "vgg16_db-50_osds_ddpg_0" / "config.yaml")["hyperparameters"]
    paper = default_hyperparameters("ddpg", preset="osds")
    assert own == {**paper, "tau": 0.2, "actor_layers": [16], "critic_layers": [16]}
    assert _run("--config", first, "--algo", "td3", *short) == 0
    own = read_config(folder / "runs" / "vgg16_db-50_td3_0" / "config.yaml")["hyperparameters"]
    assert own == {**default_hyperparameters("td3"), "tau": 0.2, "actor_layers": [16], "critic_layers": [16]}
    # One that names no preset is meant for any.
    Path("my.yaml").write_text("hyperparameters: {demonstrations: 64}\n")
    assert _run(*QUICK, "--config", "my.yaml", "--preset", "osds", *short) == 0
    own = read_config(folder / "runs" / "vgg16_db-50_osds_ddpg_0_2" / "config.yaml")["hyperparameters"]
    assert own["demonstrations"] == 64
    capsys.readouterr()
    for option in (("--preset", "osds"), ("--algo", "td3")):
        assert _run("--resume", str(Path(first).parent), *option) == 2
        assert f"leave {option[0]} away" in capsys.readouterr().err


def test_file_and_command_line(folder: Path) -> None:
    Path("my.yaml").write_text("episodes: 7\nseed: 9\nhyperparameters: {gamma: 0.5, tau: 0.1}\n")
    assert _run(*QUICK, "--config", "my.yaml", "-n", "3", "--set", "tau=0.2") == 0
    saved = read_config(folder / "runs" / "vgg16_db-50_ddpg_9" / "config.yaml")
    assert (saved["episodes"], saved["seed"], saved["model"]) == (3, 9, "vgg16")
    own = saved["hyperparameters"]
    assert (own["gamma"], own["tau"], own["batch_size"], own["actor_layers"]) == (0.5, 0.2, 64, [16])


def test_a_runs_own_configuration_repeats_it(folder: Path) -> None:
    assert _run(*QUICK, "-n", "4") == 0
    first = folder / "runs" / "vgg16_db-50_ddpg_0"
    assert _run("--config", str(first / "config.yaml")) == 0
    second = folder / "runs" / "vgg16_db-50_ddpg_0_2"
    assert (first / "strategy.json").read_bytes() == (second / "strategy.json").read_bytes()


def test_the_input_shape_is_part_of_the_configuration(folder: Path) -> None:
    assert _run(*QUICK, "-n", "2", "--input-shape", "1,3,64,64") == 0
    assert read_config(folder / "runs" / "vgg16_db-50_ddpg_0" / "config.yaml")["input_shape"] == [1, 3, 64, 64]


def test_goes_on_from_a_run(folder: Path) -> None:
    assert _run(*QUICK, "-n", "4") == 0
    assert _run(*QUICK, "-n", "2", "-i", "runs/vgg16_db-50_ddpg_0") == 0
    made = folder / "runs" / "vgg16_db-50_ddpg_0_2"
    assert Strategy.load(made / "strategy.json").planner.settings["continued"] is True
    assert json.loads((made / "run.json").read_text())["trained_agent"].endswith("vgg16_db-50_ddpg_0/model.zip")


def test_progress_bar_only_when_asked_for_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*QUICK, "-n", "2") == 0
    assert capsys.readouterr().err == f"{INDEPENDENT}\n"
    assert _run(*QUICK, "-n", "2", "--progress") == 0
    assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cluster", "db-50"), "missing option '--model'"),
        (("--model", "vgg16"), "missing option '--cluster'"),
        ((*QUICK, "--algo", "ddgp"), did_you_mean("ddgp", ["ddpg"])),
        ((*QUICK, "--set", "batchsize=3"), "did you mean 'batch_size'"),
        ((*QUICK, "--set", "batch_size"), "key=value"),
        ((*QUICK, "--algo", "sac", "--set", "epsilon_decay=0.1"), "sac has no hyper-parameter 'epsilon_decay'"),
        ((*QUICK, "-n", "0"), "episodes: found 0"),
        ((*QUICK, "--alpha", "2"), "alpha: found 2.0"),
        ((*QUICK, "--config", "none.yaml"), "none.yaml: cannot read"),
        ((*QUICK, "-i", "none"), "none: no saved agent here"),
        ((*QUICK, "--device", "gpu"), "device: found 'gpu'"),
    ],
)
def test_one_line_and_2_on_bad_usage(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert _run(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not list((folder / "runs").glob("*"))


def test_says_what_it_gained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*QUICK, "-n", "20", "--preset", "distredge", "--compare-search-s", "0.05") == 0
    out = capsys.readouterr().out
    assert "search          " in out
    assert "policy          " in out
    assert "in 0.05 s: " in out
    about = json.loads((folder / "runs" / "vgg16_db-50_ddpg_0" / "run.json").read_text())
    assert about["gain_over_search"] == pytest.approx(about["search_latency_s"] / about["latency_s"] - 1.0)
    assert about["environment"]["env"] == "distredge/SplitRows-v0"


def test_an_interrupted_comparison_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def search(problem: Problem, method: str, budget: Budget, seed: int) -> Strategy:
        signal.raise_signal(signal.SIGINT)
        assert budget.expired()
        return offload(problem)[0]

    monkeypatch.setattr("distredge.agents.osds.run", search)
    assert _run(*QUICK, "--preset", "osds", "--cluster", "again", "-n", "20", "--compare-search-s", "9") == 0
    out = capsys.readouterr().out
    assert "search  " not in out
    about = json.loads((folder / "runs" / "vgg16_db-50_db-50_osds_ddpg_0" / "run.json").read_text())
    for entry in about["clusters"]:
        assert (entry["search_latency_s"], entry["search_s"], entry["gain_over_search"]) == (None, 0.0, None)


def test_nothing_is_compared_with_a_run_that_was_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distredge.agents.osds.run", lambda *given: pytest.fail("a search"))
    _fail_at(monkeypatch, 2, None)
    assert _run(*QUICK, "--preset", "osds", "-n", "3", "--compare-search-s", "9") == 130


def test_what_does_not_fit_is_refused_before_the_demonstrations(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*QUICK, "--preset", "osds", "-n", "1", "--compare-search-s", "0") == 0
    run_folder = folder / "runs" / "vgg16_db-50_osds_ddpg_0"
    monkeypatch.setattr("distredge.agents.osds.prepare", lambda *given: pytest.fail("demonstrations"))
    capsys.readouterr()
    assert _run(*QUICK, "--set", "actor_layers=[8]", "-i", str(run_folder)) == 2
    assert "accepted: one trained with the same --algo, layers" in capsys.readouterr().err
    about = run_folder / "run.json"
    about.write_text(about.read_text().replace("SplitRows-v0", "SplitRows-v9"))
    for option in ((*QUICK, "-i"), ("--resume",)):
        assert _run(*option, str(run_folder)) == 2
        assert "found 'distredge/SplitRows-v9'" in capsys.readouterr().err


def test_several_clusters_leave_a_strategy_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*QUICK, "--cluster", "again", "-n", "20", "--compare-search-s", "0", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [entry["cluster"] for entry in said["clusters"]] == ["db-50", "db-50"]
    paths = {entry["strategy"] for entry in said["clusters"]}
    assert len(paths) == 2
    assert all(Strategy.load(path).predicted for path in paths)


def test_what_goes_on_keeps_the_scheme_and_takes_the_limit_that_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run(*QUICK, "-n", "6", "--compare-search-s", "0") == 0
    monkeypatch.setattr("distredge.agents.osds.choose_scheme", lambda *given: pytest.fail("it has its scheme"))
    assert _run("--resume", "runs/vgg16_db-50_ddpg_0", "--budget", "0.5") == 0
    saved = read_config(folder / "runs" / "vgg16_db-50_ddpg_0_2" / "config.yaml")
    assert (saved["episodes"], saved["budget_s"]) == (None, 0.5)


def test_goes_on_from_the_state_of_a_run(folder: Path) -> None:
    assert _run(*QUICK, "-n", "6", "--compare-search-s", "0") == 0
    assert _run("--resume", "runs/vgg16_db-50_ddpg_0", "-n", "4") == 0
    about = json.loads((folder / "runs" / "vgg16_db-50_ddpg_0_2" / "run.json").read_text())
    assert about["episodes"] == 10
    assert about["trained_agent"].endswith("state.npz")


def test_an_agent_of_another_environment_version_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*QUICK, "-n", "4", "--compare-search-s", "0") == 0
    path = folder / "runs" / "vgg16_db-50_ddpg_0" / "run.json"
    path.write_text(path.read_text().replace("SplitRows-v0", "SplitRows-v9"))
    capsys.readouterr()
    assert _run(*QUICK, "-n", "4", "-i", "runs/vgg16_db-50_ddpg_0") == 2
    assert "found 'distredge/SplitRows-v9'" in capsys.readouterr().err


def test_a_budget_of_seconds_ends_a_run(folder: Path) -> None:
    assert _run(*QUICK, "--budget", "0.5", "--compare-search-s", "0") == 0
    about = json.loads((folder / "runs" / "vgg16_db-50_ddpg_0" / "run.json").read_text())
    assert about["episodes"] < 1_000_000
    assert not about["interrupted"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "odss"), "did you mean 'osds'"),
        (("--set", "demonstration=3"), "did you mean 'demonstrations'"),
        (("--set", "offload_memory=3"), "accepted: true or false"),
        (("--budget", "0"), "accepted: a number above 0"),
        (("--resume", "nowhere"), "no state of a training run here"),
        (("--resume", "nowhere", "-i", "elsewhere"), "leave --config and -i away"),
    ],
)
def test_bad_usage_of_what_was_added(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert _run(*QUICK, *arguments) == 2
    assert message in capsys.readouterr().err
