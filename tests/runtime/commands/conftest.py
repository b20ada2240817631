"""Commands run in this process, on a small model: on this machine, or on "boards" at fixed ports."""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest

from distredge.cli._common import run
from tests.runtime.conftest import DEVICES, make_strategy, small_cnn

STRATEGY = ("s.json", "--model", "small.onnx")
LOCAL = ("--cluster", "local.toml")


class Done(NamedTuple):
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


def deploy(folder: Path, *args: str) -> Done:
    """Runs `deploy-strategy` in a folder."""
    return run_command("distredge.cli.deploy_strategy:deploy_strategy", "deploy-strategy", folder, args)


def distredge(folder: Path, *args: str) -> Done:
    """Runs `distredge` in a folder."""
    return run_command("distredge.cli.main:distredge", "distredge", folder, args)


def run_command(target: str, program: str, folder: Path, args: tuple[str, ...]) -> Done:
    """Runs a command in this process, which has imported what it needs already."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        with pytest.raises(SystemExit) as ended:
            run(target, program, args)
    assert isinstance(ended.value.code, int)
    return Done(ended.value.code, out.getvalue(), err.getvalue())


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """Six ports at which nobody listens, and which the system gives to nobody else meanwhile.

    They are bound without listening; whoever reuses addresses, as ZeroMQ does, may bind them too.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(6)]
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in sockets]


def write_cluster(path: Path, ports: Sequence[int]) -> None:
    """Writes a cluster file for the three devices: a control and a data port each; 0 for this machine's own workers."""
    lines = ['format = "distredge.cluster/1"', 'name = "test"', "[requester]", 'link = { rate_bps = "unbounded" }']
    for index, name in enumerate(DEVICES):
        lines += ["[[device]]", f'name = "{name}"', 'profile = "default:nano"', "link = { rate_bps = 1e9 }"]
        control, data = ports[2 * index : 2 * index + 2]
        lines += [f"control_port = {control}", f"data_port = {data}"]
    path.write_text("\n".join(lines))


@pytest.fixture
def folder(tmp_path: Path, graph) -> Path:
    """A model, a strategy for three devices, and a cluster of this machine with their names."""
    onnx.save(small_cnn(), str(tmp_path / "small.onnx"))
    make_strategy(graph, [(2, 1, 1), (1, 1, 2)]).save(tmp_path / "s.json")
    write_cluster(tmp_path / "local.toml", [0] * 6)
    return tmp_path


@pytest.fixture
def boards(
    folder: Path, ports: list[int], request: pytest.FixtureRequest
) -> Iterator[tuple[Path, list[subprocess.Popen[str]]]]:
    """Three workers at fixed ports, with keys, each its own `distredge worker`; its parameter is their options."""
    write_cluster(folder / "boards.toml", ports)
    made = distredge(folder, "keys", "boards.toml")
    assert made.returncode == 0, made.stderr
    workers = []
    try:
        for name in DEVICES:
            own = ["--cluster", "boards.toml", "--name", name, "--cache", "kept", *getattr(request, "param", ())]
            command = [sys.executable, "-m", "distredge", "worker", *own]
            workers.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
            )
        yield folder, workers
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.communicate(timeout=20)


def at_frame(monkeypatch, number: int, act: Callable[[], None]) -> None:
    """Does something as this frame begins; the first one is 1 and is not measured."""
    from distredge.runtime.requester.coordinator import Coordinator

    begun = []
    infer = Coordinator.infer

    def counted(self: Coordinator, *args: Any) -> Any:
        begun.append(1)
        if len(begun) == number:
            act()
        return infer(self, *args)

    monkeypatch.setattr(Coordinator, "infer", counted)
