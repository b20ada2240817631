"""`distredge profile`: what its commands write and refuse."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from distredge.cli.profile import profile
from distredge.errors import ConfigError, FileError, MissingDependency, ModelError, ProfileError
from distredge.model.capture import load_model
from distredge.profiles.compute import load_profile
from distredge.profiles.measuring import board
from distredge.runtime.old_python_engine import OldPythonEngine

AMPLE_S = "3600"
"""More seconds than a test may take: measuring ends when there is nothing left to measure."""


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(profile, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    load_model("squeezenet1.1", (1, 3, 48, 48), width=0.25).save(path)
    return path


@pytest.fixture(scope="module")
def measured(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "board.json"
    result = call("run", "--model", str(small), "--quick", "--budget-s", AMPLE_S, "--out", str(path), "--json")
    figures = json.loads(result.stdout)
    assert figures["profile"] == str(path)
    assert figures["points"] >= figures["operators"] > 10
    assert figures["size_bytes"] == path.stat().st_size < 300_000
    return path


def test_run_names_the_profile_after_its_file_and_keeps_the_models(measured: Path, small: Path) -> None:
    loaded = load_profile(measured)
    assert loaded.name == "board"
    assert loaded.data.models == (str(small),)


def test_run_goes_on_with_its_file_and_says_what_it_found(measured: Path, small: Path) -> None:
    before = load_profile(measured).data.operators
    result = call("run", "--model", str(small), "--quick", "--budget-s", AMPLE_S, "--out", str(measured))
    assert result.exit_code == 0
    assert "operators at" in result.stdout
    assert "a segment takes" in result.stdout
    assert "missing" not in result.stderr
    assert load_profile(measured).data.operators == before


def test_an_engine_under_another_python_is_measured_through_its_process(
    small: Path, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A board with such an engine has no ONNX Runtime for the worker's own Python.
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = tmp_path / "old.json"
    one = ("run", "--model", str(small), "--quick", "--out", str(path))
    with pytest.raises(MissingDependency, match="onnxruntime is needed"):
        call(*one)
    result = call(*one, "--budget-s", AMPLE_S, "--engine-python", sys.executable)
    said = f"onnxruntime {version('onnxruntime')} (Python {platform.python_version()})"
    assert f"{said}, CPUExecutionProvider" in result.stdout
    assert not [line for line in result.stderr.splitlines() if line.startswith("missing")]
    found = load_profile(path)
    assert f"{found.runtime.name} {found.runtime.version}" == said
    assert set(found.data.operators or {}) == set(load_profile(measured).data.operators or {})
    again = call("verify", str(path), "--engine-python", sys.executable, "--segments", "2", "--json")
    figures = json.loads(again.stdout)
    assert figures["segments"] == 2
    monkeypatch.undo()
    with pytest.raises(ProfileError, match=r"found onnxruntime .* \(Python .*give --engine-python"):
        call("verify", str(path))
    with pytest.raises(ProfileError, match="measure anew with --restart"):
        call(*one)
    with pytest.raises(ConfigError, match=r"engine's Python: found 'python3\.599', which cannot be run"):
        call(*one, "--engine-python", "python3.599")


def test_run_says_what_its_budget_did_not_suffice_for(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.json"
    monkeypatch.setattr(board, "QUICK", replace(board.QUICK, budget_s=0.0))
    result = call("run", "--model", str(small), "--quick", "--out", str(path))
    assert result.exit_code == 0
    assert "missing: " in result.stderr
    assert "operators are not finished" in result.stderr
    assert "run the same command again" in result.stderr
    with pytest.raises(ProfileError, match="profile run"):
        call("verify", str(path))


def test_what_ends_a_run_by_a_signal_is_an_interrupt(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the engine's process and what it wrote on the way go, too."""
    closed: list[bool] = []
    close = OldPythonEngine.close
    monkeypatch.setattr(OldPythonEngine, "close", lambda self: closed.append(True) or close(self))
    monkeypatch.setattr(board.Measuring, "run", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        result = call(
            "run", "--model", str(small), "--engine-python", sys.executable, "--out", str(tmp_path / "p.json")
        )
    finally:
        signal.signal(signal.SIGTERM, ignored)
    assert (result.exit_code, closed) == (1, [True])
    assert "Aborted" in result.stderr


def test_verify_takes_the_models_from_the_profile(measured: Path) -> None:
    figures = json.loads(call("verify", str(measured), "--segments", "2", "--json").stdout)
    assert figures["segments"] == 2
    assert abs(figures["bias"]) <= figures["verify_mean_error"]
    assert figures["pace"] >= 1
    text = call("verify", str(measured), "--segments", "2", "--seed", "3").stdout
    assert "mean error" in text


def test_diff_plot_and_validate(measured: Path, small: Path, tmp_path: Path) -> None:
    figures = json.loads(call("diff", "nano", "tx2", "--model", str(small), "--json").stdout)
    assert 0 < figures["mean_ratio"] < 1
    assert "geometric mean" in call("diff", str(measured), str(measured)).stdout
    picture = tmp_path / "p.png"
    assert "operators" in call("plot", str(measured), "--out", str(picture)).stdout
    assert picture.stat().st_size > 10_000
    assert json.loads(call("validate", "nano", str(measured), "--json").stdout)[str(measured)]["kind"] == "measured"
    assert "modelled profile of NVIDIA Jetson Nano: valid" in call("validate", "nano", "--model", str(small)).stdout


def test_bad_usage_is_refused(measured: Path, tmp_path: Path) -> None:
    assert call("run").exit_code == 2
    with pytest.raises(ConfigError, match=r"has no CUDAExecutionProvider; it has: .*install NVIDIA's build"):
        call("run", "--model", "vgg16", "--provider", "cuda")
    with pytest.raises(ModelError, match="vgg17"):
        call("run", "--model", "vgg17", "--out", str(tmp_path / "p.json"))
    with pytest.raises(ProfileError, match="accepted: one measured on this board"):
        call("verify", "nano", "--model", "vgg16")
    with pytest.raises(ProfileError, match="cannot be read"):
        call("validate", str(tmp_path / "none.json"))
    with pytest.raises(ProfileError, match="distredge profile run"):
        call("validate", str(measured), "--model", "resnet18")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threads", "100000"), "--threads: found 100000, accepted: 1 to "),
        (("--name", ""), "--name: found ''"),
        (("--budget-s", "nan"), "'--budget-s': found 'nan', accepted: a number of at least 0.1"),
    ],
)
def test_run_refuses(small: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = call("run", "--model", str(small), "--out", str(tmp_path / "p.json"), *arguments)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "p.json").exists()


@pytest.mark.parametrize("command", ["run", "plot"])
def test_a_missing_folder_is_told_before_the_work(small: Path, tmp_path: Path, command: str) -> None:
    files = ["default:pi3"] if command == "plot" else []
    with pytest.raises(FileError, match="there is no folder"):
        call(command, *files, "--model", str(small), "--out", str(tmp_path / "none" / "p.png"))


def test_validate_shows_what_a_modelled_profile_admits() -> None:
    said = call("validate", "default:orin-nano").stdout
    assert "modelled profile of" in said
    assert "Figures left out of the fit within" in said
    assert "use with care" in said
