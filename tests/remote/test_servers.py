"""The whole way over real ssh: servers on loopback ports of this machine, each with a home of its own as a "board".

Installs from PyPI, so it needs a network; skips where there is no sshd.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

from distredge.remote.look import HOME
from distredge.remote.ssh import SshError, connections, read_destination
from tests.remote.conftest import ROOT
from tests.remote.sshd import PASSWORD, Servers, as_boards, free_port, user, with_password
from tests.runtime.commands.conftest import ports  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Boards(NamedTuple):
    """Where each is, its home, and what `ssh` must be told to get in."""

    destinations: dict[str, str]
    homes: dict[str, Path]
    options: tuple[str, ...]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Boards]:
    """Two ssh servers that let this user in with one key."""
    made = Servers(tmp_path / "servers")
    destinations, homes = {}, {}
    with contextlib.ExitStack() as stack:
        for name in ("one", "two"):
            homes[name] = made.folder / name
            homes[name].mkdir()
            port = stack.enter_context(made.started(name, as_boards(homes[name])))
            destinations[name] = f"{user()}@127.0.0.1:{port}"
        yield Boards(destinations, homes, made.options)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a command in a folder of its own."""
    folder = tmp_path / "requester"
    folder.mkdir()

    def start(*args: str, program: str = "main") -> subprocess.Popen[str]:
        code = f"from distredge.cli.main import {program}; {program}()"
        return subprocess.Popen(
            [sys.executable, "-c", code, *args],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def _done(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, (out, err)
    return out, err


def test_from_bare_boards_to_a_deploy(
    servers: Boards, command: Callable[..., subprocess.Popen[str]], ports: list[int]  # noqa: F811
) -> None:  # fmt: skip
    ssh = tuple(part for option in servers.options for part in ("--ssh-option", option))
    boards = [f"{name}={where}" for name, where in servers.destinations.items()]
    where = [f"--address={name}=127.9.8.{1 + k}:{ports[2 * k]}" for k, name in enumerate(servers.destinations)]
    # The engine of the second runs under a Python beside its worker's, which so gets no ONNX Runtime.
    older = ("--engine-python", f"two={sys.executable}")
    told = ("cluster", "init", "c.toml", *boards, *where, "--model", "squeezenet1.1", "--yes", *older, *ssh)
    # A third one at which nobody listens stops neither of the others.
    out, err = _done(command(*told, f"gone=pi@127.0.0.1:{free_port()}", "--json"), 1)
    assert json.loads(out)["devices"] == ["one", "two"]
    assert "gone (pi@127.0.0.1:" in err
    assert "it refuses the connection" in err
    # Nothing is installed or measured twice.
    _, err = _done(command(*told))
    assert "installs" not in err
    started = json.loads(_done(command("cluster", "start", "c.toml", "--json", *ssh))[0])
    try:
        assert all(said["started"] for said in started.values())
        again = json.loads(_done(command("cluster", "start", "c.toml", "--json", *ssh))[0])
        assert {name: said["pid"] for name, said in again.items()} == {n: s["pid"] for n, s in started.items()}
        seen = json.loads(_done(command("cluster", "status", "c.toml", "--json", *ssh))[0])
        assert [state["ssh"]["runner"] for state in seen.values()] == ["process", "process"]
        assert seen["two"]["engine"] == f"onnxruntime {version('onnxruntime')} (Python {platform.python_version()})"
        measured = json.loads((servers.homes["two"].parents[1] / "requester" / "two.json").read_text())
        assert measured["runtime"]["version"] == seen["two"]["engine"].partition(" ")[2]
        places = {name: (home / HOME / "venv").resolve() for name, home in servers.homes.items()}
        assert [name for name, place in places.items() if list(place.glob("lib/*/*/onnxruntime"))] == ["one"]
        # A worker is known to run from its environment, which is so kept.
        assert all(_runs_from(started[name]["pid"], place) for name, place in places.items())
        _done(
            command(
                "plan", "--model", "squeezenet1.1", "--cluster", "c.toml", "--method", "deepthings", "--out", "s.json"
            )
        )
        ran = command("s.json", "--cluster", "c.toml", "--repeat", "3", "--json", program="deploy_strategy_main")
        said = json.loads(_done(ran)[0])
        assert said["largest_relative_difference"] <= 1e-5
        assert said["workers"] == "boards"
        tried = ("trial", "--cluster", "c.toml", "--model", "squeezenet1.1", "--no-profile", "--budget-s", "3")
        _done(command(*tried, "--frames", "3", *ssh))
        out, _ = _done(command("cluster", "logs", "c.toml", "--lines", "1", *ssh))
        assert {line.partition(":")[0] for line in out.splitlines()} == {"one", "two"}
    finally:
        stopped = json.loads(_done(command("cluster", "stop", "c.toml", "--json", *ssh))[0])
    assert stopped == {"stopped": ["one", "two"], "failed": {}}
    file = (servers.homes["one"].parents[1] / "requester" / "trial.json").read_text()
    assert json.loads(file)["run"]["frames"] == 3
    assert not [secret for secret in (*servers.destinations.values(), "127.9.8.", '"one"') if secret in file]


def _runs_from(pid: int, place: Path) -> bool:
    return any(bytes(place) in Path(f"/proc/{pid}/{file}").read_bytes() for file in ("cmdline", "maps"))


def test_an_interrupted_installation_leaves_nothing(
    servers: Boards, command: Callable[..., subprocess.Popen[str]]
) -> None:
    ssh = tuple(part for option in servers.options for part in ("--ssh-option", option))
    process = command("cluster", "init", "c.toml", f"one={servers.destinations['one']}", "--yes", *ssh)
    venvs = servers.homes["one"] / HOME / "venvs"
    until_s = time.monotonic() + 120
    while not list(venvs.glob("*/bin/pip")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    while [path.name for path in venvs.iterdir()] != ["lock"]:
        assert time.monotonic() < until_s + 60
        time.sleep(0.1)
    assert not (servers.homes["one"] / HOME / "venv").exists()


def test_why_a_server_cannot_be_reached(servers: Boards, tmp_path: Path) -> None:
    where = read_destination(servers.destinations["one"])
    known = next(option for option in servers.options if option.startswith("UserKnownHostsFile"))
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    with connections() as board_at:
        for options, reason in (
            (("UserKnownHostsFile=/dev/null", *servers.options[:2]), "unknown key"),
            ((f"IdentityFile={other}", *servers.options[1:]), "denied"),
        ):
            with pytest.raises(SshError) as caught:
                board_at(where, options).login(may_ask=False)
            assert caught.value.reason == reason
        # The board was set up anew: another host key than the one that is known.
        path = Path(known.partition("=")[2])
        host = (tmp_path / "other.pub").read_text().rsplit(" ", 1)[0]
        path.write_text(f"[127.0.0.1]:{where.port} {host}\n")
        with pytest.raises(SshError, match="ssh-keygen -R") as caught:
            board_at(where, servers.options).login(may_ask=False)
        assert caught.value.reason == "changed key"


class Typed(NamedTuple):
    """What a command that had a terminal ended with: its exit code, what was shown, whether typing shows again."""

    returncode: int
    shown: str
    echoes: bool


def _at_a_terminal(folder: Path, code: str, args: Sequence[str], types: Sequence[str]) -> Typed:
    """Runs Python at a terminal, and types a line whenever it is asked something; none left: nothing."""
    master, terminal = pty.openpty()
    answers, shown = list(types), b""
    # The terminal is the session's, so that ssh finds it as /dev/tty.
    own = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    process = subprocess.Popen(
        [sys.executable, "-c", own + code, *args], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    until_s = time.monotonic() + 120
    asked = 0
    try:
        while process.poll() is None or select.select([master], [], [], 0)[0]:
            assert time.monotonic() < until_s, shown
            if select.select([master], [], [], 0.1)[0]:
                shown += os.read(master, 65536)
            if shown.count(b"password:") + shown.count(b"[y/N]:") > asked:
                asked += 1
                if answers:
                    # Echo is off by then: ssh turns it off before it asks.
                    os.write(master, answers.pop(0).encode() + b"\n")
        echoes = bool(termios.tcgetattr(terminal)[3] & termios.ECHO)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(terminal)
    return Typed(process.returncode, shown.decode(errors="replace"), echoes)


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A board that takes a password and no key: where it is, and what `ssh` must be told."""
    made = Servers(tmp_path / "servers")
    home = made.folder / "one"
    home.mkdir()
    prefix = with_password(made.folder)
    with made.started("one", as_boards(home), prefix=prefix, password=True) as port:
        yield f"{user()}@127.0.0.1:{port}", made.options[2:]


_INIT = "from distredge.cli.main import main; main()"


def _init_words(where: str, options: tuple[str, ...]) -> tuple[str, ...]:
    ssh = tuple(part for option in options for part in ("--ssh-option", option))
    return ("cluster", "init", "c.toml", f"one={where}", "--no-profile", "--no-probe", *ssh)


@pytest.mark.parametrize(
    ("types", "told"),
    [
        (("nonsense", PASSWORD, "n"), "Install? [y/N]: n"),  # at the second time it is right, and it goes on
        (("a", "b", "c"), "it refuses the login: no key or password that it accepts"),
    ],
)
def test_a_password_is_typed(
    asking: tuple[str, tuple[str, ...]], tmp_path: Path, types: tuple[str, ...], told: str
) -> None:
    said = _at_a_terminal(tmp_path, _INIT, _init_words(*asking), types)
    assert told in said.shown
    assert said.returncode != 0, said.shown
    assert said.shown.count("password:") == len(types) - types.count("n")
    assert said.echoes
    assert not (tmp_path / "c.toml").exists()
    assert PASSWORD not in said.shown


@pytest.mark.parametrize("more", [(), ("--batch",)])
def test_where_nobody_can_type_a_password_nobody_is_asked(
    asking: tuple[str, tuple[str, ...]], command: Callable[..., subprocess.Popen[str]], more: tuple[str, ...]
) -> None:
    _, err = _done(command(*_init_words(*asking), "--yes", *more), 1)
    assert "it refuses the login" in err
    assert "ssh-copy-id -p" in err
    assert "password:" not in err


def test_a_password_that_nobody_types_is_not_waited_for_for_ever(
    asking: tuple[str, tuple[str, ...]], tmp_path: Path
) -> None:
    code = f"from distredge.remote import ssh; ssh.CONNECT_S = ssh.PASSWORD_S = 2.0; {_INIT}"
    said = _at_a_terminal(tmp_path, code, _init_words(*asking), ())
    assert "no login within 4 s" in said.shown
    assert said.returncode == 1
    assert said.echoes, "the terminal shows what is typed as before"
