"""One line for everything that can be wrong with what a user gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distredge.strategy import Head
from tests.runtime.commands.conftest import LOCAL, STRATEGY, Done, deploy, distredge, write_cluster
from tests.runtime.conftest import make_strategy


@pytest.fixture
def cases(folder: Path, graph, ports: list[int]) -> Path:
    """Files that are not what they should be, and boards at which nobody listens."""
    (folder / "broken.json").write_text("{")
    (folder / "note.png").write_text("no picture")
    (folder / "broken.onnx").write_bytes(b"no model")
    (folder / "broken.toml").write_text("= nothing")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "picture.png")
    make_strategy(graph, [(1, 1)]).replace(devices=("alpha", "nobody"), head=Head("alpha")).save(folder / "who.json")
    write_cluster(folder / "away.toml", ports)
    return folder


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("nothing.json", *LOCAL), 2, "nothing.json: "),
        (("broken.json", *LOCAL), 2, "broken.json: "),
        ((*STRATEGY, "--cluster", "nothing.toml"), 2, "nothing.toml"),
        ((*STRATEGY, "--cluster", "broken.toml"), 2, "broken.toml: "),
        ((*STRATEGY, "--cluster", "db-51"), 2, "did you mean"),
        (("s.json", "--model", "broken.onnx", *LOCAL), 2, "broken.onnx"),
        (("s.json", "--model", "nothing.onnx", *LOCAL), 2, "nothing.onnx"),
        (("s.json", *LOCAL), 2, "'small', which is not in the zoo"),
        ((*STRATEGY, *LOCAL, "--input-shape", "1,3,32,32"), 2, "small"),
        ((*STRATEGY, *LOCAL, "--timeline", "nowhere/t.json"), 2, "nowhere/t.json: "),
        ((*STRATEGY, *LOCAL, "--log", "s.json/log"), 2, "s.json/log: cannot be made: 's.json' is not a folder"),
        (("s.json", "--model", "mobilenet-v2", *LOCAL), 2, "the strategy is for another model"),
        (("who.json", "--model", "small.onnx", *LOCAL), 2, "has no device 'nobody'"),
        ((*STRATEGY, *LOCAL, "--image", "nothing.png"), 2, "small: does not say how a picture becomes its input"),
        ((*STRATEGY, "--cluster", "away.toml"), 2, "make keys with: distredge keys CLUSTER.toml"),
        (
            (*STRATEGY, "--cluster", "away.toml", "--plaintext", "--connect", "0.5"),
            1,
            "cannot reach workers 'alpha' at",
        ),
        ((*STRATEGY, *LOCAL, "--deadline", "0"), 2, "deadline"),
        ((*STRATEGY, *LOCAL, "--repeat", "0"), 2, "repeat"),
        ((*STRATEGY, "--cluster", "db-50"), 2, "have no addresses of their own"),
        ((*STRATEGY, "--cluster", "db-50", "--plaintext"), 2, "this cluster is for planning and simulation"),
        ((*STRATEGY, *LOCAL, "--keys", "somewhere"), 2, "fresh keys are made for each run"),
        ((*STRATEGY, *LOCAL, "--connect", "0.001"), 1, "does not come up in time"),
    ],
)
def test_one_line_for_what_is_wrong(cases: Path, args: tuple[str, ...], code: int, text: str) -> None:
    done = deploy(cases, *args)
    _is_one_line(done, code, text)
    assert done.stdout == ""


def _is_one_line(done: Done, code: int, text: str) -> None:
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (
            ("worker", "--cluster", "away.toml", "--name", "alpha"),
            2,
            "public.json: is not here; keys are made once",
        ),
        (("worker", "--cluster", "away.toml", "--name", "delta"), 2, "has no device 'delta'"),
        (
            ("worker", "--cluster", "away.toml", "--name", "alpha", "--plaintext", "--bind", "*"),
            1,
            "only with encryption",
        ),
        (
            ("worker", "--cluster", "away.toml", "--name", "alpha", "--plaintext", "--bind", "192.0.2.77"),
            1,
            "cannot bind",
        ),
        (
            ("worker", "--cluster", "away.toml", "--name", "alpha", "--plaintext", "--provider", "tensorrt"),
            2,
            "this build of ONNX Runtime",
        ),
        (
            ("worker", "--cluster", "away.toml", "--name", "alpha", "--cache", "c", "--no-cache"),
            2,
            "--cache says where to keep weights and --no-cache to keep none",
        ),
        (
            ("worker", "--cluster", "away.toml", "--name", "alpha", "--plaintext", "--cache", "away.toml/kept"),
            2,
            "no folder to keep constants in",
        ),
        (
            ("worker", "--cluster", "away.toml", "--name", "alpha", "--plaintext", "--engine-python", "python3.599"),
            2,
            "engine's Python: found 'python3.599', which cannot be run: No such file or directory",
        ),
        (
            ("worker", "--cluster", "away.toml", "--name", "alpha", "--plaintext", "--engine-python", "/bin/false"),
            2,
            "the engine's process under /bin/false ended with exit code 1",
        ),
        (("worker", "--cluster", "db-50", "--name", "nano-0"), 2, "have no addresses of their own"),
        (("worker", "--cluster", "db-50", "--name", "nano-0", "--plaintext"), 2, "for planning and simulation"),
        (("keys", "nothing.toml"), 2, "nothing.toml"),
        (("cluster", "start", "away.toml"), 2, "start their workers there: on 127.0.0.1: distredge worker"),
        (("probe", "--cluster", "away.toml", "--plaintext", "--timeout", "0.5"), 1, "cannot be reached within 0.5 s"),
        (("probe", "--cluster", "local.toml", "--between", "alpha", "delta"), 2, "has no device 'delta'"),
    ],
)
def test_one_line_for_what_is_wrong_elsewhere(cases: Path, args: tuple[str, ...], code: int, text: str) -> None:
    _is_one_line(distredge(cases, *args), code, text)


def test_an_unknown_method_for_planning_anew(folder: Path) -> None:
    done = deploy(folder, *STRATEGY, *LOCAL, "--replan", "aofll")
    assert (done.returncode, "did you mean 'aofl'" in done.stderr) == (2, True), done.stderr
