"""Scripts and files on boards: what arrives, what is refused, and that nothing outlives what started it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distredge.errors import ConfigError, TransportError
from distredge.remote.ssh import Result, SshError, connections, host_name, read_destination


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("pi@nano-0", "pi", "nano-0", None),
        ("nano-0.local", None, "nano-0.local", None),
        ("pi@192.168.1.4:2222", "pi", "192.168.1.4", 2222),
        ("ssh://pi@nano-0:22/", "pi", "nano-0", 22),
        ("pi@[fd00::1]:2200", "pi", "fd00::1", 2200),
    ],
)
def test_destinations_are_read(text: str, user: str | None, host: str, port: int | None) -> None:
    found = read_destination(text)
    assert (found.user, found.host, found.port) == (user, host, port)


@pytest.mark.parametrize(
    "text", ["", "@", "-oProxyCommand=x", "pi@-x", "pi@a b", "pi@nano:0", "pi@nano:70000", "a:b:c"]
)
def test_what_is_no_destination_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="accepted: user@host"):
        read_destination(text)


def test_a_script_runs_in_the_boards_home(boards: Callable[..., Path]) -> None:
    home = boards("nano-0")
    with connections() as board_at:
        board = board_at(read_destination("pi@nano-0"), ())
        board.login(may_ask=False)
        done = board.run('read line; pwd; echo "$line" >&2; exit 3', b"a 'quoted' line\n")
        assert host_name(board.destination) == "nano-0"
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{home}\n", "a 'quoted' line\n")
    assert done.said == "a 'quoted' line"
    log = (home.parent / "ssh.log").read_text()
    assert log == "nano-0 login\nnano-0 run\n"


def test_a_file_is_there_whole_with_its_mode(boards: Callable[..., Path]) -> None:
    home = boards("nano-0")
    content = bytes(range(256)) * 400
    with connections() as board_at:
        board = board_at(read_destination("pi@nano-0"), ())
        board.login(may_ask=False)
        board.put(content, "a folder/it's.secret", 0o600)
        with pytest.raises(TransportError, match=r"nano-0: .*/none: cannot be written"):
            board.put(b"x", "a folder/it's.secret/none")
    path = home / "a folder" / "it's.secret"
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["it's.secret"]


def test_a_file_of_which_the_connection_brought_a_part_is_not_taken(boards: Callable[..., Path]) -> None:
    home = boards("nano-0")
    (home / "it").write_bytes(b"before")
    with connections() as board_at:
        board = board_at(read_destination("pi@nano-0"), ())
        board.login(may_ask=False)
        scripts: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(board, "run", lambda script, data, timeout_s: scripts.append(script) or Result(0, "", ""))
            board.put(b"0123456789", "it")
        cut = board.run(scripts[0], b"01234")
    assert (cut.ok, cut.said) == (False, "broke off")
    assert (home / "it").read_bytes() == b"before"
    assert [entry.name for entry in home.iterdir()] == ["it"]


def test_what_a_board_says_commands_no_terminal(boards: Callable[..., Path]) -> None:
    boards("nano-0")
    script = r"printf 'a\033]0;title\007b\033[31mred\033[0m\tend\r\n'"
    with connections() as board_at:
        board = board_at(read_destination("pi@nano-0"), ())
        board.login(may_ask=False)
        assert board.run(script).stdout == "a]0;titlebred\tend\n"
        assert board.work(script, None, 30).stdout == "a]0;titlebred\tend"


@pytest.mark.parametrize(
    ("says", "reason", "told"),
    [
        ("ssh: connect to host nano-0 port 22: Connection refused", "refused", "is its ssh server on"),
        ("ssh: Could not resolve hostname nano-0: Name or service not known", "unknown host", "no host of this name"),
        ("ssh: connect to host nano-0 port 22: Connection timed out", "timeout", "does not answer"),
        ("ssh: connect to host nano-0 port 22: No route to host", "unreachable", "is it on"),
        ("pi@nano-0: Permission denied (publickey,password).", "denied", "ssh-copy-id pi@nano-0"),
        ("Host key verification failed.", "unknown key", "StrictHostKeyChecking=accept-new"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "changed key",
            "ssh-keygen -R nano-0",
        ),
        ("something new", "lost", "something new"),
    ],
)
def test_why_a_board_cannot_be_reached(boards: Callable[..., Path], says: str, reason: str, told: str) -> None:
    boards("nano-0", says + "\n")
    with connections() as board_at, pytest.raises(SshError) as caught:
        board_at(read_destination("pi@nano-0"), ()).login(may_ask=False)
    assert caught.value.reason == reason
    assert str(caught.value).startswith("pi@nano-0: ")
    assert told in str(caught.value)


def test_a_script_that_takes_too_long_is_given_up(boards: Callable[..., Path]) -> None:
    boards("nano-0")
    with connections() as board_at:
        board = board_at(read_destination("pi@nano-0"), ())
        board.login(may_ask=False)
        started_s = time.monotonic()
        with pytest.raises(SshError, match="no answer within 0 s"):
            board.run("sleep 30", timeout_s=0.3)
        assert time.monotonic() - started_s < 15


def test_work_tells_its_lines_and_its_end(boards: Callable[..., Path]) -> None:
    boards("nano-0")
    told: list[str] = []
    with connections() as board_at:
        board = board_at(read_destination("pi@nano-0"), ())
        board.login(may_ask=False)
        done = board.work("echo one; echo two >&2; exit 4", told.append, 30)
    assert (done.returncode, told, done.stdout) == (4, ["one", "two"], "one\ntwo")


def test_work_ends_with_its_time_and_tidies_up(boards: Callable[..., Path]) -> None:
    home = boards("nano-0")
    script = "trap 'echo gone > tidied; exit 1' TERM; sleep 60 & echo $! > sleeper; echo up; wait"
    with connections() as board_at:
        board = board_at(read_destination("pi@nano-0"), ())
        board.login(may_ask=False)
        with pytest.raises(SshError, match="it was ended"):
            board.work(script, None, 1.0)
    until_s = time.monotonic() + 20
    while not (home / "tidied").exists():
        assert time.monotonic() < until_s
    sleeper = int((home / "sleeper").read_text())
    while _runs(sleeper):
        assert time.monotonic() < until_s


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
