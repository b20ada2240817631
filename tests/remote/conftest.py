"""Boards without a network: a program called `ssh` that runs what it is given here, in a home of its own per board."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

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
export HOME="$boards/$host" LOGNAME="${{destination%@*}}"
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
