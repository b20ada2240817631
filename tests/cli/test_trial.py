"""`distredge trial`: what it refuses, and that its file says all but who and where."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from numpy.typing import NDArray

from distredge.cli import trial
from distredge.runtime.requester.coordinator import Coordinator
from tests.runtime.commands.conftest import distredge


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--cluster", "this-machine", "--model", "mine.onnx"), "a model of the zoo"),
        (("--cluster", "none.toml"), "none.toml"),
        (("--cluster", "this-machine", "--out", "no/where.json"), "there is no folder 'no'"),
        (("--cluster", "this-machine", "--budget-s", "0"), "--budget-s"),
    ],
)
def test_what_cannot_be_used_is_refused_first(tmp_path: Path, args: tuple[str, ...], told: str) -> None:
    done = distredge(tmp_path, "trial", *args)
    assert done.returncode == 2
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_trial_of_this_machine(tmp_path: Path) -> None:
    told = ("--model", "squeezenet1.1", "--frames", "3", "--budget-s", "2", "--json")
    done = distredge(tmp_path, "trial", "--cluster", "this-machine", *told)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said == json.loads((tmp_path / "trial.json").read_text())
    assert said["format"] == "distredge.trial/1"
    assert list(said["devices"]) == [f"device-{number}" for number in range(4)]
    assert all(device["measured"] and device["operators"] for device in said["devices"].values())
    assert set(said["links"]) == set(said["devices"])
    assert said["run"]["frames"] == len(said["run"]["latencies_s"]) == 3
    assert said["run"]["largest_relative_difference"] <= 1e-5
    assert said["predicted_over_measured"] > 0
    assert said["left_out"] == said["not_measured"] == []
    assert not [secret for secret in ("worker-0", "127.0.0.1", str(Path.home())) if secret in done.stdout]


def test_what_has_no_time_left_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"profiles": (0.05, 0.0), "links": (0.0, 0.0), "plan": (1.0, 0.0), "run": (6.0, 0.0)}
    monkeypatch.setattr(trial, "_STEPS_S", steps)
    told = ("--model", "squeezenet1.1", "--frames", "1000", "--budget-s", "2", "--json")
    frame = Coordinator.infer

    def slow(self: Coordinator, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        time.sleep(0.5)
        return frame(self, inputs)

    monkeypatch.setattr(Coordinator, "infer", slow)
    done = distredge(tmp_path, "trial", "--cluster", "this-machine", *told)
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "trial.json").read_text())
    devices = list(said["devices"])
    assert said["left_out"] == [
        *({"device": name, "what": "profile"} for name in devices),
        *({"device": name, "what": "link"} for name in devices),
        {"device": None, "what": "run"},
    ]
    assert said["not_measured"] == devices
    assert said["links"] == {}
    assert 0 < said["run"]["frames"] < 1000
    assert said["run"]["largest_relative_difference"] <= 1e-5
    assert "profile: no profile of this machine within 0 s" in done.stderr
    assert f"run: its time was over after {said['run']['frames']} of 1000 frames" in done.stderr
    assert not [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def test_the_clock_ends_a_step_and_no_other() -> None:
    most_s, kept_s = trial._STEPS_S["run"]
    clock = trial._Clock(1000.0)
    assert clock.left_s("run") == most_s
    assert trial._Clock(trial._STEPS_S["links"][1]).left_s("links") == 0.0
    assert clock.bounded("run", lambda limit_s: None)
    late = trial._Clock(kept_s + 0.2)
    tidied = []

    def work(limit_s: float) -> None:
        assert 0 < limit_s <= 0.2
        try:
            time.sleep(60.0)
        finally:
            tidied.append(limit_s)

    assert not late.bounded("run", work)
    assert len(tidied) == 1
    assert not late.bounded("run", work), "there is no time left to begin"
    assert len(tidied) == 1
