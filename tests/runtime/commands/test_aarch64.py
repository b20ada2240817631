"""A worker on an emulated 64-bit ARM board computes the same rows as one of this machine."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installing.aarch64 import EmulatedBoard, emulated_board
from tests.runtime.commands.conftest import STRATEGY, deploy, distredge, write_cluster
from tests.runtime.conftest import DEVICES


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> EmulatedBoard:
    return emulated_board(tmp_path_factory.mktemp("aarch64"))


@contextlib.contextmanager
def _workers(board: EmulatedBoard, where: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """A worker of each name; the second one's on the emulated board."""
    workers = []
    try:
        for index, name in enumerate(DEVICES):
            python, environment = ((sys.executable,), None) if index != 1 else (board.python, board.environment())
            command = [*python, "-m", "distredge", "worker", "--cluster", "boards.toml", "--name", name]
            workers.append(
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=where, env=environment
                )
            )
        yield workers
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.communicate(timeout=60)


@pytest.mark.slow
def test_a_worker_on_an_emulated_board_computes_the_right_rows(
    board: EmulatedBoard, folder: Path, ports: list[int]
) -> None:
    machine = "import platform, onnxruntime; print(platform.machine(), onnxruntime.__version__)"
    seen = subprocess.run(
        [*board.python, "-c", machine], capture_output=True, text=True, timeout=120, check=False,
        env=board.environment(),
    )  # fmt: skip
    assert seen.stdout.startswith("aarch64 "), seen.stderr
    write_cluster(folder / "boards.toml", ports)
    assert distredge(folder, "keys", "boards.toml").returncode == 0
    with _workers(board, folder) as workers:
        assert workers[1].stdout is not None
        said = workers[1].stdout.readline()
        assert ", encrypted, onnxruntime " in said, said or workers[1].communicate(timeout=60)
        done = deploy(
            folder, *STRATEGY, "--cluster", "boards.toml", "--json", "--connect", "60", "--deadline", "60",
            "--repeat", "3",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["latencies_s"]) == 3
    assert 0 < found["largest_relative_difference"] <= 1e-5
