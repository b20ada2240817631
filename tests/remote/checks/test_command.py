"""`distredge doctor --cluster` on workers of this machine, and on boards behind an `ssh` that runs things here."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.commands.conftest import Done, distredge

Found = dict[tuple[str, str], dict[str, str]]


@pytest.fixture
def free() -> Iterator[list[int]]:
    """Four ports at which nobody listens; whoever reuses addresses may bind them."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in sockets]


def write_cluster(folder: Path, free: list[int], **more: str) -> None:
    """A cluster file of two boards at this machine's loopback address."""
    lines = ['format = "distredge.cluster/1"', 'name = "c"', "[requester]", 'link = { rate_bps = "unbounded" }']
    for index, name in enumerate(("alpha", "beta")):
        lines += ["[[device]]", f'name = "{name}"', 'profile = "default:pi4"', "link = { rate_bps = 1e12 }"]
        lines += [f"control_port = {free[2 * index]}", f"data_port = {free[2 * index + 1]}", more.get(name, "")]
    (folder / "c.toml").write_text("\n".join(lines))


@contextlib.contextmanager
def worker(folder: Path, name: str) -> Iterator[None]:
    command = [sys.executable, "-m", "distredge", "worker", "--cluster", "c.toml", "--name", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(f"worker '{name}'"), process.communicate(timeout=20)
            yield
        finally:
            process.terminate()
            process.communicate(timeout=20)


def doctor(folder: Path, *args: str) -> tuple[Done, Found]:
    done = distredge(folder, "doctor", "--cluster", "c.toml", "--json", *args)
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert {state: sum(f["state"] == state for f in told["findings"]) for state in ("ok", "warning", "bad")} == {
        state: told[state] for state in ("ok", "warning", "bad")
    }
    return done, {(finding["board"], finding["what"]): finding for finding in told["findings"]}


def test_boards_of_which_one_is_not_there(tmp_path: Path, free: list[int]) -> None:
    write_cluster(tmp_path, free)
    assert distredge(tmp_path, "keys", "c.toml").returncode == 0
    with worker(tmp_path, "alpha"):
        done, found = doctor(tmp_path, "--timeout", "10")
        assert done.returncode == 1
        assert found["alpha", "worker"]["state"] == "ok"
        assert "1000000 Mbit/s in the cluster file" in found["alpha", "throughput"]["detail"]
        silent = found["beta", "worker"]
        assert (silent["state"], "nothing listens there" in silent["detail"]) == ("bad", True)
        assert "distredge worker --cluster c.toml --name beta" in silent["do"]
        assert found["beta", "ports"]["detail"].endswith("are free there")
        assert found["this-machine", "system"]["state"] == "ok"
        for_people = distredge(tmp_path, "doctor", "--cluster", "c.toml", "--timeout", "10", "--no-rates")
        assert "bad      beta         worker " in for_people.stdout
        assert "-> distredge cluster start c.toml" in for_people.stdout
        assert for_people.stdout.splitlines()[-1].endswith(" bad")
        assert distredge(tmp_path, "keys", "c.toml", "--out", "other").returncode == 0
        _, found = doctor(tmp_path, "--timeout", "10", "--no-rates", "--keys", "other")
        told = found.get(("alpha", "keys")) or found["alpha", "worker"]
        assert told["state"] == "bad"
        assert "keys" in told["detail"] + told["do"]
        assert ("alpha", "throughput") not in found


def test_a_port_that_another_program_has(tmp_path: Path, free: list[int]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        write_cluster(tmp_path, [port, *free[1:]])
        assert distredge(tmp_path, "keys", "c.toml").returncode == 0
        _, found = doctor(tmp_path, "--timeout", "3")
    assert found["alpha", "ports"]["state"] == "bad"
    assert f"no worker answers: {port} by " in found["alpha", "ports"]["detail"]
    assert "something at 127.0.0.1 does not answer" in found["alpha", "worker"]["detail"]


def test_without_keys_the_rest_is_looked_at(tmp_path: Path, free: list[int]) -> None:
    write_cluster(tmp_path, free, alpha='address = "no-such-board.invalid"', beta='address = "192.0.2.1"')
    done, found = doctor(tmp_path)
    assert done.returncode == 1
    assert (found["requester", "keys"]["state"], "distredge keys" in found["requester", "keys"]["detail"]) == (
        "bad",
        True,
    )
    assert found["alpha", "name"]["detail"].startswith("'no-such-board.invalid' has no address here")
    assert (found["beta", "ssh"]["state"], "--ssh beta=user@host" in found["beta", "ssh"]["do"]) == ("warning", True)


def test_boards_by_ssh(tmp_path: Path, free: list[int], boards: Callable[..., Path]) -> None:
    boards("one")
    boards("two", says="ssh: connect to host two port 22: Connection refused")
    write_cluster(tmp_path, free, alpha='ssh = "pi@one"')
    assert distredge(tmp_path, "keys", "c.toml").returncode == 0
    done, found = doctor(tmp_path, "--ssh", "beta=pi@two", "--timeout", "20", "--batch")
    assert done.returncode == 1
    assert found["alpha", "system"]["state"] == "ok"
    assert found["alpha", "clock"]["state"] == "ok"
    refused = found["beta", "ssh"]
    assert (refused["state"], "refuses the connection" in refused["detail"]) == ("bad", True)
    assert ("this-machine", "system") not in found


def test_a_plan_that_takes_more_than_a_board_has(tmp_path: Path, free: list[int], graph: Any) -> None:
    import onnx

    from tests.runtime.conftest import make_strategy, small_cnn

    write_cluster(tmp_path, free)
    assert distredge(tmp_path, "keys", "c.toml").returncode == 0
    onnx.save(small_cnn(), str(tmp_path / "small.onnx"))
    make_strategy(graph, [(1, 1)]).save(tmp_path / "s.json")
    _, found = doctor(tmp_path, "--strategy", "s.json", "--model", "small.onnx", "--timeout", "5")
    assert "the plan takes " in found["this-machine", "memory"]["detail"]
    make_strategy(graph, [(1, 1, 1)]).save(tmp_path / "three.json")
    args = ("--cluster", "c.toml", "--strategy", "three.json", "--model", "small.onnx")
    done = distredge(tmp_path, "doctor", *args)
    assert (done.returncode, "has no device 'gamma'" in done.stderr) == (2, True)


@pytest.fixture
def graph() -> Any:
    from distredge.model.capture import from_onnx
    from tests.runtime.conftest import small_cnn

    return from_onnx(small_cnn())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--strategy", "s.json"), "--strategy is for --cluster FILE"),
        (("--ssh", "a=b"), "--ssh is for --cluster FILE"),
        (("--cluster", "missing.toml"), "missing.toml"),
        (("--cluster", "c.toml", "--ssh", "alpha"), "accepted: NAME=USER@HOST"),
        (("--cluster", "c.toml", "--ssh", "alfa=pi@x"), "did you mean 'alpha'"),
        (("--cluster", "c.toml", "--ssh", "alpha=-oProxy x"), "accepted: user@host"),
        (("--cluster", "c.toml", "--timeout", "0"), "accepted"),
        (("--cluster", "c.toml", "--strategy", "missing.json"), "missing.json"),
    ],
)
def test_wrong_input(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    write_cluster(tmp_path, [6001, 6002, 6003, 6004])
    done = distredge(tmp_path, "doctor", *args)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
