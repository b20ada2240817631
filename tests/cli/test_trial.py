"""`distredge trial`: what it refuses, and that its file says all but who and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
    assert not [secret for secret in ("worker-0", "127.0.0.1", str(Path.home())) if secret in done.stdout]
