"""`deploy-strategy` on workers that it starts on this machine, or that run in the background."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distredge.cli._deployment import difference, magnitude
from tests.runtime.commands.conftest import LOCAL, STRATEGY, at_frame, deploy, distredge
from tests.runtime.conftest import DEVICES, make_strategy


def test_on_this_machine(folder: Path) -> None:
    done = deploy(
        folder, *STRATEGY, "--cluster", "local.toml", "--repeat", "3", "--in-flight", "2", "--json",
        "--timeline", "t.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["largest_relative_difference"] <= 1e-5
    assert (found["workers"], found["encrypted"], found["lossless"]) == ("local", True, True)
    assert len(found["latencies_s"]) == 3
    assert min(found["latency_s"], found["predicted_latency_s"], found["throughput_per_s"]) > 0
    assert min(found["prepared_s"], found["weights_sent_bytes"]) > 0
    assert found["outputs"] == {"scores": [1, 40]}
    assert found["input"] == "noise"
    assert json.loads((folder / "t.json").read_text())["traceEvents"]


def test_with_a_log_for_tensorboard(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("matplotlib")
    done = deploy(folder, *STRATEGY, "--cluster", "local.toml", "--repeat", "2", "--log", "log")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "log: tensorboard --logdir log"
    for line in ("frames", "mean_100", "predicted", "offload"):
        (events,) = (folder / "log" / line).iterdir()
        assert b"strategy/latency_ms" in events.read_bytes()
        assert b"strategy/images_per_s" in events.read_bytes()
    (own,) = (path for path in (folder / "log").iterdir() if path.is_file())
    for tag in (b"strategy/timeline", b"strategy/splits", b"devices/busy_share/"):
        assert tag in own.read_bytes()


def test_as_a_process_of_its_own(folder: Path) -> None:
    code = "from distredge.cli.main import deploy_strategy_main; deploy_strategy_main()"
    command = [sys.executable, "-c", code, *STRATEGY, "--cluster", "local.toml", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["largest_relative_difference"] <= 1e-5


def test_for_people_and_in_plaintext(folder: Path) -> None:
    done = deploy(folder, *STRATEGY, "--cluster", "local.toml", "--plaintext")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "small on test: 3 worker processes of this machine, volumes: 2, lossless, PLAINTEXT"
    assert lines[1].startswith("  output scores: shape 1x40, largest ")
    assert lines[2].startswith("largest difference from the whole model in one piece: ")
    assert lines[3].startswith("measured ")
    assert lines[-1].startswith("the input was noise: what counts is the latency and the difference")


def test_differences() -> None:
    wanted = {"a": np.array([1.0, -4.0], np.float32), "b": np.zeros((1, 2), np.float32)}
    assert difference(wanted, wanted) == 0.0
    assert difference(wanted, wanted | {"a": np.array([1.0, -3.0], np.float32)}) == 0.25
    assert difference(wanted, wanted | {"b": np.array([[0.0, 0.5]], np.float32)}) == 0.5
    for bad in (np.nan, np.inf, -np.inf):
        broken = wanted | {"b": np.array([[0.0, bad]], np.float32)}
        assert difference(wanted, broken) == difference(broken, wanted) == math.inf
    assert difference(wanted, wanted | {"b": np.zeros((2, 1), np.float32)}) == math.inf
    assert difference(wanted, {"a": wanted["a"]}) == math.inf
    assert magnitude(wanted["a"]) == 4.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(lambda a: 1.01 * a, "the output differs from the whole model's"), (lambda a: a * np.nan, "NaN or infinite")],
)
def test_a_wrong_output_is_an_error_after_the_figures(folder: Path, monkeypatch, wrong, said: str) -> None:
    from distredge.cli import deploy_strategy as command

    right = command.whole_model
    monkeypatch.setattr(command, "whole_model", lambda *a: {n: wrong(v) for n, v in right(*a).items()})
    done = deploy(folder, *STRATEGY, *LOCAL)
    assert done.returncode == 1
    assert "measured " in done.stdout
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    done = deploy(folder, *STRATEGY, *LOCAL, "--json")
    assert (done.returncode, json.loads(done.stdout)["correct"]) == (1, False)
    assert deploy(folder, *STRATEGY, *LOCAL, "--no-check").returncode == 0


def test_a_lossy_strategy_says_so(folder: Path, graph) -> None:
    make_strategy(graph, [(2, 1, 1), (1, 1, 2)], wire="float16").save(folder / "lossy.json")
    done = deploy(folder, "lossy.json", "--model", "small.onnx", *LOCAL)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("largest difference")]
    assert line.endswith(" (lossy)")


def test_classes_only_of_weights_that_were_trained(folder: Path) -> None:
    from distredge.model.capture import load_model

    assert load_model(folder / "small.onnx").weights_from == "file"
    zoo_graph = load_model("mobilenet-v1-0.25-128")
    assert zoo_graph.weights_from == "random"
    make_strategy(zoo_graph, [(1, 1, 1)]).save(folder / "zoo.json")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "black.png")
    told = ("zoo.json", "--model", "mobilenet-v1-0.25-128", *LOCAL, "--image", "black.png")
    done = deploy(folder, *told)
    assert done.returncode == 0, done.stderr
    assert "weights: random (seed 0): the classes mean nothing; give --weights FILE\n" in done.stdout
    assert "%" not in done.stdout
    found = json.loads(deploy(folder, *told, "--json").stdout)
    assert (found["weights"], found["classes"]) == ("random", [])


def test_an_interrupted_run_says_what_it_measured(folder: Path, monkeypatch) -> None:
    at_frame(monkeypatch, 4, _interrupt)
    done = deploy(folder, *STRATEGY, *LOCAL, "--repeat", "9", "--timeline", "t.json")
    assert (done.returncode, done.stderr.strip()) == (130, "error: interrupted")
    assert done.stdout.startswith("ended early: 2 of 9 frames done, median latency ")
    assert json.loads((folder / "t.json").read_text())["traceEvents"]


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_background_workers(folder: Path) -> None:
    missing = distredge(folder, "cluster", "status", "local.toml")
    assert missing.returncode == 1
    assert "no workers of 'test' run" in missing.stderr
    try:
        started = distredge(folder, "cluster", "start", "local.toml", "--json")
        assert started.returncode == 0, started.stderr
        assert set(json.loads(started.stdout)) == set(DEVICES)
        again = distredge(folder, "cluster", "start", "local.toml")
        assert again.returncode == 1
        assert "run already" in again.stderr
        for path in (folder / "state").rglob("*.secret"):
            assert path.stat().st_mode & 0o777 == 0o600
        for _ in range(2):
            done = deploy(folder, *STRATEGY, "--cluster", "local.toml", "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["workers"] == "background"
        assert distredge(folder, "cluster", "status", "local.toml").returncode == 0
    finally:
        stopped = distredge(folder, "cluster", "stop", "local.toml", "--json")
    assert sorted(json.loads(stopped.stdout)["stopped"]) == sorted(DEVICES)
    assert not list((folder / "state").rglob("*.secret"))
    assert distredge(folder, "cluster", "status", "local.toml").returncode == 1
