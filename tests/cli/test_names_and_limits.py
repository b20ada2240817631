"""Names that are no text, outputs that cannot show them, and machines on which nothing more can be opened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import distredge
from distredge.model.capture import load_model
from distredge.strategy import Strategy
from distredge.writing import as_text
from tests.runtime.conftest import small_cnn

CLUSTER = b"""format = "distredge.cluster/1"
name = "test"
[requester]
link = { rate_bps = "unbounded" }
[[device]]
name = "a"
profile = "default:nano"
link = { rate_bps = 1e9 }
[[device]]
name = "b"
profile = "default:nano"
link = { rate_bps = 1e9 }
"""
LOCALES = {
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "C": {"LC_ALL": "C"},
    "ASCII": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.fixture
def folder(tmp_path: Path) -> bytes:
    """A folder, a model and a cluster whose names are no UTF-8."""
    made = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(made)
    with open(made + b"/m\xe8.onnx", "wb") as file:
        file.write(small_cnn().SerializeToString())
    with open(made + b"/c\xe8.toml", "wb") as file:
        file.write(CLUSTER)
    return made


def _run(
    entry: str, *arguments: bytes | str, locale: str = "UTF-8", limit: int = 0
) -> subprocess.CompletedProcess[bytes]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONUTF8", "PYTHONIO"))}
    root = str(Path(distredge.__file__).parents[1])
    code = f"from distredge.cli.main import {entry}; {entry}()"
    if limit:
        code = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit})); {code}"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        timeout=200,
        env={**kept, "PYTHONPATH": root, **LOCALES[locale]},
    )


@pytest.mark.parametrize("locale", LOCALES)
def test_files_whose_names_are_no_text(folder: bytes, locale: str) -> None:
    model, cluster, out = folder + b"/m\xe8.onnx", folder + b"/c\xe8.toml", folder + b"/s\xe8.json"
    told = ("--model", model, "--cluster", cluster)
    done = _run("main", "plan", *told, "--method", "modnn", "--out", out, locale=locale)
    assert done.returncode == 0, done.stderr
    # click itself puts question marks into an output that is ASCII.
    assert (b"written: " if locale == "ASCII" else b"written: " + out) in done.stdout
    timeline, chart = folder + b"/t\xe8.json", folder + b"/g\xe8.png"
    done = _run("main", "simulate", out, *told, "--timeline", timeline, "--gantt", chart, locale=locale)
    assert done.returncode == 0, done.stderr
    assert {out, timeline, chart} <= {folder + b"/" + name for name in os.listdir(folder)}
    assert Strategy.load(os.fsdecode(out)).model.name == "m\ufffd"


@pytest.mark.parametrize("locale", LOCALES)
def test_what_is_refused_is_named(folder: bytes, locale: str) -> None:
    for arguments in (
        ("--model", folder + b"/no\xe8.onnx", "--cluster", "db-50"),
        ("--model", "squeezenet", "--cluster", folder + b"/no\xe8.toml"),
        ("--model", "squeezenet", "--cluster", "db-50", "--out", folder + b"/no\xe8/s.json"),
        ("--model", "squeezenet", "--cluster", b"no\xe8"),
    ):
        done = _run("main", "plan", *arguments, locale=locale)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(b"error: ")
        assert b"no" in done.stderr
        assert b"Unicode" not in done.stderr
        assert done.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_runs_in_folders_whose_names_are_no_text(folder: bytes) -> None:
    told = ("--model", folder + b"/m\xe8.onnx", "--cluster", folder + b"/c\xe8.toml")
    done = _run("train_agent_main", *told, "--episodes", "2", "-f", folder + b"/r\xe8", "--no-progress")
    assert done.returncode == 0, done.stderr
    (run,) = os.listdir(folder + b"/r\xe8")
    assert any(name.startswith(b"events.out") for name in os.listdir(folder + b"/r\xe8/" + run))


def test_a_name_as_text() -> None:
    assert as_text("café") == "café"
    assert as_text(os.fsdecode(b"caf\xe9")) == "caf\ufffd"
    assert as_text("caf\udcc3\udca9") == "café"


def test_what_the_output_has_no_form_for_is_escaped() -> None:
    done = _run("main", "plan", "--model", "squeezenet", "--cluster", "dé", locale="ASCII")
    assert done.returncode == 2
    assert b"Unicode" not in done.stderr


@pytest.mark.parametrize("limit", [12, 45])
def test_without_descriptors_it_says_so(tmp_path: Path, limit: int) -> None:
    onnx.save(small_cnn(), str(tmp_path / "small.onnx"))
    graph = load_model(str(tmp_path / "small.onnx"))
    last = len(graph.cuts) - 1
    strategy = Strategy.make(graph, ["worker-0"], [(last, [0, graph.cuts[last].height])], head="worker-0")
    strategy.save(tmp_path / "s.json")
    done = _run(
        "deploy_strategy_main", str(tmp_path / "s.json"), "--model", str(tmp_path / "small.onnx"),
        "--cluster", "this-machine", limit=limit,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"too many open files: this process may have" in done.stderr
    assert b"Traceback" not in done.stderr
