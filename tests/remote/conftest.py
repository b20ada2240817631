"""Boards without a network: a program called `ssh` that runs what it is given here, in a home of its own per board."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distredge.remote.look import HOME
from distredge.remote.wheel import own_wheel

ROOT = Path(__file__).resolve().parents[2]

# Reads ssh's arguments as ssh does. A file HOST.says beside a board's home is what ssh says instead of logging in.
# Every login and command is noted in `ssh.log`.
_SSH = """#!/bin/sh
boards={boards}
while [ $# -gt 0 ]; do
    case $1 in
        -S) socket=$2; shift 2;;
        -o|-p) shift 2;;
        -O) rm -f "$socket"; exit 0;;
        -N) login=1; shift;;
        -G) names=1; shift;;
        --) shift; destination=$1; shift; break;;
        *) shift;;
    esac
done
host=${{destination#*@}}
[ -n "$names" ] && {{ echo "hostname $host"; exit 0; }}
if [ -e "$boards/$host.says" ]; then cat "$boards/$host.says" >&2; exit 255; fi
if [ -n "$login" ]; then echo "$host login" >> "$boards/ssh.log"; touch "$socket"; exit 0; fi
[ -e "$socket" ] || {{ echo "no connection" >&2; exit 255; }}
echo "$host run" >> "$boards/ssh.log"
cd "$boards/$host" || exit 1
export HOME="$boards/$host" PATH="$boards/$host/bin:/usr/bin:/bin" LOGNAME="${{destination%@*}}"
unset PYTHONPATH XDG_DATA_HOME XDG_STATE_HOME XDG_CACHE_HOME XDG_RUNTIME_DIR
exec setsid -w sh -c "$1"
"""


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Returns a function that makes a board and returns its home; with `says`, ssh ends with that instead."""
    folder, programs = tmp_path / "boards", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(_SSH.format(boards=folder))
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    def make(host: str, says: str | None = None) -> Path:
        home = folder / host
        home.mkdir()
        if says is not None:
            (folder / f"{host}.says").write_text(says)
        return home

    return make


# A Python that makes "environments" whose programs are this test's own, and whose pip fails where `pip-fails` is.
_PYTHON = """#!/bin/sh
case "$*" in
    *EXTERNALLY-MANAGED*) echo "3.99 venv free $HOME/bin/python3";;
    "-m venv "*)
        mkdir -p "$3/bin"
        cp "$0" "$3/bin/python"
        printf '#!/bin/sh\\nPYTHONPATH=%s exec %s -m distredge "$@"\\n' {root} {python} > "$3/bin/distredge"
        chmod +x "$3/bin/distredge";;
    "-m pip "*)
        if [ -e "$HOME/pip-fails" ]; then echo "ERROR: No matching distribution found for onnx"; exit 1; fi
        for wheel; do :; done
        echo "Processing $wheel"
        echo "$*" > "${{0%/bin/python}}/pip-asked"
        [ -e "${{wheel%%\\[*}}" ] || exit 1;;
esac
"""


@pytest.fixture
def installable(boards: Callable[..., Path]) -> Callable[[str], Path]:
    """Returns a function that makes a board on which installing takes no time, and returns its home."""

    def make(host: str) -> Path:
        home = boards(host)
        program(home, "python3", _PYTHON.format(root=shlex.quote(str(ROOT)), python=shlex.quote(sys.executable)))
        return home

    return make


@pytest.fixture
def installed(installable: Callable[[str], Path]) -> Callable[..., Path]:
    """Returns a function that makes a board on which distredge is installed: what runs here, or another wheel."""

    def make(host: str, wheel: str | None = None) -> Path:
        home = installable(host)
        place = home / HOME / "venvs" / "before"
        (place / "bin").mkdir(parents=True)
        made = place / "bin" / "distredge"
        made.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m distredge "$@"\n')
        made.chmod(0o755)
        (place / "distredge-installed").write_text(f"version=0.0.9\nwheel={wheel or own_wheel().sha256}\n")
        (home / HOME / "venv").symlink_to("venvs/before")
        return home

    return make


def program(home: Path, name: str, text: str) -> None:
    """Puts a program on a board, in front of this machine's."""
    path = home / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
