"""What is sent to boards, and that installing leaves all of it or nothing."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distredge.errors import ExecutionError
from distredge.remote.install import install, is_current, wheel_path
from distredge.remote.look import HOME, look
from distredge.remote.ssh import Board, connections, read_destination
from distredge.remote.wheel import own_wheel
from tests.remote.conftest import ROOT, program


@pytest.fixture
def at() -> Iterator[Callable[[str], Board]]:
    """Logs in to boards."""
    with connections() as board_at:

        def login(host: str) -> Board:
            board = board_at(read_destination(f"pi@{host}"), ())
            board.login(may_ask=False)
            return board

        yield login


def test_the_wheel_is_the_same_twice_and_runs(tmp_path: Path) -> None:
    wheel = own_wheel()
    own_wheel.cache_clear()
    assert own_wheel().sha256 == wheel.sha256
    with zipfile.ZipFile(io.BytesIO(wheel.content)) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert {"distredge/agents/__init__.py", "distredge/py.typed", "distredge/remote/data/Dockerfile.jetpack"} <= {
        *names
    }
    assert not [name for name in names if "__pycache__" in name or "results/" in name or name.startswith("tests")]
    done = subprocess.run(
        [sys.executable, "-m", "distredge", "--version"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wheel.version in done.stdout


@pytest.mark.slow
def test_the_wheel_holds_what_setuptools_would_put_into_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, symlinks=True, ignore=shutil.ignore_patterns("results", ".git", "__pycache__", "tests")
    )
    code = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=source, capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs = zipfile.ZipFile(tmp_path / built.stdout.split()[-1]).namelist()
    ours = zipfile.ZipFile(io.BytesIO(own_wheel().content)).namelist()
    assert {n for n in ours if n.startswith("distredge/")} == {n for n in theirs if n.startswith("distredge/")}


def test_installing_is_whole_and_once(installable: Callable[[str], Path], at: Callable[[str], Board]) -> None:
    home, board, wheel = installable("nano-0"), at("nano-0"), own_wheel()
    told: list[str] = []
    assert install(board, look(board), wheel, told.append)
    assert told[0].startswith("Processing ")
    place = (home / HOME / "venv").resolve()
    assert f"wheel={wheel.sha256}" in (place / "distredge-installed").read_text()
    assert not (home / wheel_path(wheel)).exists()
    found = look(board)
    assert (found.installed["version"], found.unfinished) == (wheel.version, False)
    assert not install(board, found, wheel)


def test_what_was_in_use_stays_until_the_new_one_is_whole(
    installed: Callable[..., Path], at: Callable[[str], Board]
) -> None:
    home, board, wheel = installed("nano-0", "another"), at("nano-0"), own_wheel()
    (home / "pip-fails").touch()
    with pytest.raises(ExecutionError, match=r"cannot install: pip failed: ERROR: No matching.*nothing of it is left"):
        install(board, look(board), wheel)
    assert os.readlink(home / HOME / "venv") == "venvs/before"
    assert sorted(path.name for path in (home / HOME / "venvs").iterdir()) == ["before", "lock"]
    (home / "pip-fails").unlink()
    assert install(board, look(board), wheel)
    assert look(board).installed["wheel"] == wheel.sha256


def test_a_board_that_cannot_run_a_worker_is_left_alone(
    installable: Callable[[str], Path], at: Callable[[str], Board]
) -> None:
    home, board = installable("nano-0"), at("nano-0")
    program(home, "uname", "#!/bin/sh\n[ $1 = -m ] && echo armv7l || echo Linux\n")
    with pytest.raises(ExecutionError, match="nano-0: its processor is armv7l, accepted: x86_64, aarch64"):
        install(board, look(board), own_wheel())
    assert not (home / HOME).exists()


def test_an_environment_that_a_worker_runs_from_is_kept(
    installed: Callable[..., Path], at: Callable[[str], Board]
) -> None:
    home, board, wheel = installed("nano-0", "another"), at("nano-0"), own_wheel()
    venvs = home / HOME / "venvs"
    for name in ("old", "running"):
        (venvs / name / "bin").mkdir(parents=True)
    sleep = venvs / "running" / "bin" / "python"
    sleep.symlink_to(shutil.which("sleep") or "sleep")
    with subprocess.Popen([sleep, "600"]) as worker:
        try:
            assert install(board, look(board), wheel)
            (new,) = {path.name for path in venvs.iterdir()} - {"before", "running", "lock"}
        finally:
            worker.kill()
    # With the next installation it goes: nothing runs from it any more.
    another = replace(wheel, sha256="0" * 64)
    assert install(board, look(board), another)
    assert {path.name for path in venvs.iterdir()} == {new, f"{wheel.version}-{'0' * 12}", "lock"}


def test_a_board_without_wheels_of_onnx_runtime_is_told_of_an_older_python(
    installable: Callable[[str], Path], at: Callable[[str], Board]
) -> None:
    home, board = installable("nano-0"), at("nano-0")
    python = home / "bin" / "python3"
    python.write_text(python.read_text().replace("found for onnx", "found for onnxruntime>=1.17"))
    (home / "pip-fails").touch()
    with pytest.raises(ExecutionError, match=r"for onnxruntime.*--engine-python NAME=PATH; nothing of it is left"):
        install(board, look(board), own_wheel())
    with pytest.raises(ExecutionError) as caught:
        install(board, look(board), own_wheel(), engine=False)
    assert "--engine-python" not in str(caught.value)


def test_without_an_engine_pip_is_asked_for_none(
    installable: Callable[[str], Path], at: Callable[[str], Board]
) -> None:
    home, board, wheel = installable("nano-0"), at("nano-0"), own_wheel()
    assert install(board, look(board), wheel, engine=False)
    asked = (home / HOME / "venv" / "pip-asked").read_text()
    assert "--no-compile" in asked
    assert "[engine]" not in asked
    found = look(board)
    assert is_current(found, wheel, engine=False)
    assert not is_current(found, wheel)
    assert install(board, found, wheel)
    assert "[engine]" in (home / HOME / "venv" / "pip-asked").read_text()
    assert is_current(look(board), wheel, engine=False), "one with more will do"


def test_an_environment_with_an_engine_is_followed_by_one_with_an_engine(
    installed: Callable[..., Path], at: Callable[[str], Board]
) -> None:
    """Another worker of the board may compute with it."""
    home, board, wheel = installed("nano-0", "another"), at("nano-0"), own_wheel()
    assert install(board, look(board), wheel, engine=False)
    assert "[engine]" in (home / HOME / "venv" / "pip-asked").read_text()
    assert is_current(look(board), wheel)
