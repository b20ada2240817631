"""The script that reads a board, run by a real shell with tools that say what a board's say."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from distredge.errors import ExecutionError
from distredge.remote.checks.collecting import read_boards, read_here
from distredge.remote.checks.facts import script
from distredge.remote.checks.tool_output import PowerMode, Throttled
from distredge.remote.fleet import logged_in
from distredge.remote.ssh import read_destination
from tests.remote.checks.samples import IP, TEGRASTATS_NANO

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="boards run Linux")


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Returns a function that puts a program on the board's path."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, says: str) -> None:
        (folder / f"{name}.txt").write_text(says)
        (folder / name).write_text(f'#!/bin/sh\ncat "{folder}/{name}.txt"\n')
        (folder / name).chmod(0o755)

    return make


def test_this_machine_is_read(tool: Callable[[str, str], None], tmp_path: Path) -> None:
    made = tmp_path / "made"
    commands = [(f"$(touch${{IFS}}{made})", 1), (f"`touch${{IFS}}{made}`", 1), (f"';touch {made};'", 1)]
    tool("vcgencmd", "throttled=0x50000\n")
    tool("nvpmodel", "NV Power Mode: MAXN\n0\n")
    tool("tegrastats", TEGRASTATS_NANO + "\n")
    tool("ip", IP)
    tool("timedatectl", "NTPSynchronized=yes\n")
    with socket.socket() as listening, socket.socket() as bound:
        for one in (listening, bound):
            one.bind(("127.0.0.1", 0))
        listening.listen()
        open_port, closed_port = listening.getsockname()[1], bound.getsockname()[1]
        peers = [("127.0.0.1", open_port), ("127.0.0.1", closed_port), ("nowhere.invalid", 1), *commands]
        reading = read_here(script(peers))
    facts = reading.facts
    assert facts.complete
    # Hosts are words to the shell, whatever stands in them.
    assert not made.exists()
    assert (facts.architecture, facts.bits) == (os.uname().machine, 64)
    assert facts.cores is not None
    assert facts.memory_bytes is not None
    assert facts.free_disk_bytes is not None
    assert facts.throttled == Throttled((), ("under-voltage", "throttled"))
    assert facts.power_mode == PowerMode("MAXN", 0)
    assert facts.tegrastats is not None
    assert facts.tegrastats.cores == 4
    assert [one.address for one in facts.interfaces if one.name == "docker0"] == ["172.17.0.1"]
    assert facts.synchronised is True
    assert open_port in facts.listeners
    assert closed_port not in facts.listeners
    assert facts.reached["127.0.0.1", open_port] is True
    assert facts.reached["127.0.0.1", closed_port] is False
    assert facts.names["127.0.0.1"] == ("127.0.0.1",)
    assert facts.names.get("nowhere.invalid", ()) == ()
    assert reading.before_s <= (facts.clock_s or 0.0) <= reading.after_s


def test_a_machine_that_does_not_answer_is_left(tool: Callable[[str, str], None]) -> None:
    with pytest.raises(ExecutionError, match=r"did not answer within 0\.3 s"):
        read_here("sleep 60\n" + script([]), 0.3)


def test_boards_are_read_and_one_that_fails_stops_no_other(boards: Callable[..., Path]) -> None:
    home = boards("pi-0")
    boards("pi-1")
    installed = home / ".local" / "share" / "distredge" / "venv" / "bin" / "distredge"
    installed.parent.mkdir(parents=True)
    installed.write_text("#!/bin/sh\necho distredge 0.0.9\n")
    installed.chmod(0o755)
    (home / "keys").mkdir()
    (home / "keys" / "public.json").write_text("{}")
    destinations = {name: read_destination(f"pi@{name}") for name in ("pi-0", "pi-1")}
    scripts = {"pi-0": script([], "keys"), "pi-1": "echo nothing"}
    with logged_in(destinations) as found:
        readings, failed = read_boards(found.done, scripts, 30)
    assert list(readings) == ["pi-0"]
    assert readings["pi-0"].facts.distredge == ("0.0.9",)
    assert readings["pi-0"].facts.public_keys.startswith("44136fa355b3678a")
    assert "broke off" in failed["pi-1"]


def test_the_older_python_of_an_engine(tmp_path: Path) -> None:
    engine = read_here(script([], engine_python=sys.executable)).facts.engine
    assert engine is not None
    assert engine.python == platform.python_version()
    assert engine.modules == {name: version(name) for name in ("numpy", "onnxruntime")}
    assert "CPUExecutionProvider" in engine.providers
    assert engine.lacking == ""
    bare = tmp_path / "bare python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    found = read_here(script([], engine_python=str(bare))).facts.engine
    assert found is not None
    assert found.lacking.startswith("numpy ModuleNotFoundError: ")
    assert read_here(script([], engine_python=str(tmp_path / "none"))).facts.engine is None
    assert read_here(script([])).facts.engine is None
