"""The campaign's command on records of its own: it goes on where it stopped, and says what is on record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distredge.experiments import fidelity
from distredge.experiments.common.fidelity_beds import LocalFrames, LocalWorkers
from distredge.experiments.common.fidelity_draw import SetUp, drafts
from distredge.experiments.common.fidelity_measure import missing_keys, run_of
from distredge.experiments.common.fidelity_records import read
from distredge.experiments.common.fidelity_strategies import make_strategy
from distredge.latency import evaluate
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile, load_shipped, user_profile_path


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("mobilenet-v2", (1, 3, 64, 64))


@pytest.fixture
def command(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command with a simulated testbed and a shipped profile; returns its exit code."""
    own = load_shipped("default:this-machine")
    stop_after: list[int] = []
    measured: list[str] = []

    def run_set_up(
        set_up: SetUp, graph: Graph, own: ComputeProfile, done: set[str], note: Any, failed: Any
    ) -> Iterator[Any]:
        assert user_profile_path().is_file()
        problem = Problem(graph, set_up.cluster(own))
        for draft in drafts(set_up):
            key = f"{set_up.name}-{draft.number}"
            if key not in missing_keys(set_up, done):
                continue
            if stop_after and len(measured) == stop_after[0]:
                raise KeyboardInterrupt
            measured.append(key)
            strategy = make_strategy(problem, draft)
            frames = LocalFrames((1.1 * evaluate(problem, strategy),) * 3, 0.5, {})
            yield run_of([frames], LocalWorkers({}), problem, set_up, draft, strategy, "strategy", key)

    monkeypatch.setattr(fidelity, "run_set_up", run_set_up)
    monkeypatch.setattr(fidelity, "load", lambda name: graph)
    monkeypatch.setattr(fidelity, "_own_profile", lambda path, quick: own)
    monkeypatch.setattr(fidelity, "warm", lambda: None)
    monkeypatch.setattr(fidelity.packed_gain, "fill", lambda *args: None)
    monkeypatch.setattr(fidelity.packed_gain, "pi4_figures", lambda load: {"search_over_bound_pi4": 0.9})
    own.save(tmp_path / "this-machine.json")

    def run(*arguments: str, stop: int | None = None) -> tuple[int, list[str]]:
        stop_after[:] = [] if stop is None else [stop]
        measured.clear()
        monkeypatch.setattr("sys.argv", ["fidelity.py", *arguments, "--out", str(tmp_path)])
        return fidelity.main(), list(measured)

    return run


def test_a_stopped_campaign_goes_on(command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, measured = command("--full", "--only", "test-unpaced-0", stop=2)
    assert (code, len(measured)) == (130, 2)
    assert len(read(tmp_path / "runs.jsonl")) == 2
    code, measured = command("--full", "--only", "test-unpaced-0")
    assert (code, len(measured)) == (0, 2)
    assert len(read(tmp_path / "runs.jsonl")) == 4
    assert (tmp_path / "fidelity.png").is_file()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["strategies_unpaced"] == 4
    assert told["error_mean_unpaced"] == pytest.approx(1 - 1 / 1.1, abs=0.02)
    assert told["complete"] is False
    assert told["search_over_bound_pi4"] == 0.9
    code, measured = command("--records")
    assert (code, measured) == (0, [])
    code, measured = command("--full", "--only", "test-unpaced-0", "--again")
    assert (code, len(measured)) == (0, 4)


def test_a_quick_run_records_nothing(command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, measured = command("--quick")
    assert code == 0
    assert {key.rsplit("-", 1)[0] for key in measured} == set(fidelity.QUICK_SET_UPS)
    assert read(tmp_path / "runs.jsonl") == []
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["strategies"] == 0
    assert told["quick"]["strategies"] == len(measured)


def test_records_of_another_profile_keep_what_was_predicted_then(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("--full", "--only", "test-unpaced-0")
    (tmp_path / "this-machine.json").unlink()
    command("--records")
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["strategies_unpaced"], told["stale"]) == (4, 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--quick", "--again"), "--again: found without --full"), (("--full", "--only", "nothing"), "found 'nothing'")],
)
def test_options_that_mean_nothing_are_refused(
    command: Any, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
