"""A worker on a board: what it is given, started as a unit of systemd or a plain process, ended, its log read."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from distredge.cluster_file import BoardEntries, BoardEntry
from distredge.errors import ClusterError, ExecutionError, FileError
from distredge.remote.ssh import Board
from distredge.remote.worker_scripts import (
    START_S,
    STOP_S,
    UNITS,
    Place,
    Runner,
    logs_script,
    start_script,
    state_script,
    stop_script,
)
from distredge.runtime.hosting.boards import KEYS_FOLDER
from distredge.runtime.protocol.security import PUBLIC_FILE, read_keys

_SSH_LINE: Final = re.compile(
    rb"""^[ \t]*(ssh|"ssh"|'ssh')[ \t]*=[ \t]*("[^"\n]*"|'[^'\n]*')[ \t]*(#[^\n]*|\r)?(\n|\Z)""", re.MULTILINE
)


@dataclass(frozen=True)
class State:
    """What ssh sees of a worker.

    Attributes:
        runner: how it runs; None: it does not.
        pid: of the process; None: not known.
        unit: what systemd says of its unit; None: there is none.
        installed: version and wheel of distredge there; empty: none.
        stamp: of what it was started with; None: never started.
        options: of `distredge worker`, with which it was started.
        systemd, lingers: whether there are units of the user, and whether they go on after the last logout.
        user: who is logged in.
    """

    runner: Literal["systemd", "process"] | None
    pid: int | None
    unit: str | None
    installed: Mapping[str, str]
    stamp: str | None
    options: tuple[str, ...]
    systemd: bool
    lingers: bool
    user: str


@dataclass(frozen=True)
class Started:
    """How a worker was started.

    Attributes:
        runner: what it runs as.
        pid: its process; None: not known.
        fresh: whether it was started now; else it ran with the very same.
        advice: what could be better, "" if nothing.
    """

    runner: Literal["systemd", "process"]
    pid: int | None
    fresh: bool
    advice: str


def needed_files(
    cluster_path: Path, boards: BoardEntries, entry: BoardEntry, keys: Path | None
) -> dict[str, tuple[bytes, int]]:
    """Returns what one board's worker reads and nothing else: path in its folder -> content, mode.

    Of the cluster file the ssh destinations of the boards stay here.

    Args:
        cluster_path: of the cluster file.
        boards: what it holds.
        entry: the board.
        keys: folder of keys; None: without encryption.

    Raises:
        FileError: if a file cannot be read.
        KeyFileError: if the board's key cannot be used.
        ClusterError: if its profile has no place on the board.
    """
    try:
        files = {cluster_path.name: (_SSH_LINE.sub(b"", cluster_path.read_bytes()), 0o644)}
        if entry.profile.endswith(".json") and entry.memory_bytes is None:
            path = PurePosixPath(entry.profile)
            if path.is_absolute() or ".." in path.parts:
                raise ClusterError(
                    f"{cluster_path}: device '{entry.name}': profile: found '{entry.profile}', accepted: a path below "
                    "the cluster file's folder, or memory_bytes beside it"
                )
            files[str(path)] = ((boards.folder / path).read_bytes(), 0o644)
        if keys is not None:
            read_keys(keys, entry.name)
            for file, mode in ((PUBLIC_FILE, 0o644), (f"{entry.name}.secret", 0o600)):
                files[f"{KEYS_FOLDER}/{file}"] = ((keys / file).read_bytes(), mode)
    except OSError as error:
        raise FileError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return files


def state(board: Board, place: Place) -> State:
    """Asks by ssh how a worker is.

    Raises:
        SshError: if the board cannot be reached.
        ExecutionError: if it answers with something else.
    """
    answer = board.run(state_script(place)).stdout
    try:
        return _state(answer)
    except ValueError as error:
        raise ExecutionError(f"{board.destination.text}: does not say how its worker is: {error}") from error


def _state(answer: str) -> State:
    said = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    installed = {key.partition(".")[2]: value for key, value in said.items() if key.startswith("installed.")}
    unit, pid = said.get("unit"), said.get("pid")
    runner: Literal["systemd", "process"] | None = "systemd" if unit == "active" else "process" if pid else None
    return State(
        runner, int(pid) if pid else None, unit, installed, said.get("stamp"),
        tuple(shlex.split(said.get("options", ""))), "systemd" in said,
        said.get("linger") == "yes", said.get("user", ""),
    )  # fmt: skip


def start(board: Board, place: Place, files: Mapping[str, tuple[bytes, int]], runner: Runner) -> Started:
    """Starts a worker with these files; one that runs with the very same goes on.

    Args:
        board: logged in to.
        place: of the worker.
        files: as `needed_files` returns them.
        runner: "auto": a unit where the user's units go on after the last logout, else a plain process.

    Raises:
        SshError: if the connection is lost.
        ExecutionError: if nothing is installed there, or it does not come up: with what it says.
    """
    where = board.destination.text
    now = state(board, place)
    if not now.installed:
        raise ExecutionError(f"{where}: distredge is not installed there; run: distredge cluster upgrade CLUSTER.toml")
    if runner == "systemd" and not now.systemd:
        raise ExecutionError(f"{where}: runs no units for its user; accepted: --runner process")
    chosen: Literal["systemd", "process"] = "process"
    if runner == "systemd" or (runner == "auto" and now.systemd and now.lingers):
        chosen = "systemd"
    advice = ""
    if now.systemd and not now.lingers:
        ends = "ends with the last logout" if chosen == "systemd" else "does not come back when the board starts anew"
        advice = f"it {ends}; to change that, run there: sudo loginctl enable-linger {now.user}"
    stamp = _stamp(place, files, now.installed, chosen)
    if now.runner == chosen and now.stamp == stamp:
        return Started(chosen, now.pid, False, advice)
    stop(board, place)
    for path, (content, mode) in files.items():
        board.put(content, f"{place.folder}/{path}", mode)
    return Started(chosen, _begin(board, place, chosen, stamp), True, advice)


def restart(board: Board, place: Place) -> bool:
    """Starts a worker again, as it runs, if another distredge was installed meanwhile; returns whether it did.

    Raises:
        SshError: if the connection is lost.
        ExecutionError: if it does not come up: with what it says.
    """
    now = state(board, place)
    files, _, wheel = (now.stamp or "").partition("-")
    if now.runner is None or wheel == _wheel_of(now.installed):
        return False
    stop(board, place)
    _begin(board, replace(place, options=now.options), now.runner, f"{files}-{_wheel_of(now.installed)}")
    return True


def _begin(board: Board, place: Place, runner: Literal["systemd", "process"], stamp: str) -> int | None:
    """Starts a worker whose files are there; returns its process, None where the board does not say it."""
    if runner == "systemd":
        board.put(place.unit_text().encode(), f"{UNITS}/{place.unit}")
    done = board.run(start_script(place, runner, stamp), timeout_s=START_S + 30)
    if not done.ok:
        if runner == "systemd":
            stop(board, place)
        said = done.said.removeprefix("error: ")
        raise ExecutionError(f"{board.destination.text}: worker '{place.name}' does not come up: {said}")
    words = done.stdout.split()[-1:]
    return int(words[0]) if words and words[0].isdecimal() else None


def stop(board: Board, place: Place) -> bool:
    """Ends a worker; returns whether one ran.

    Raises:
        SshError: if the board cannot be reached.
        ExecutionError: if it cannot be ended.
    """
    done = board.run(stop_script(place), timeout_s=STOP_S + 30.0)
    if not done.ok:
        raise ExecutionError(f"{board.destination.text}: worker '{place.name}' cannot be ended: {done.said}")
    return "ended" in done.stdout.split()


def logs(board: Board, place: Place, lines: int, follow: bool, tell: Callable[[str], None]) -> None:
    """Tells the last lines of a worker's log, and with `follow` those that come.

    Raises:
        SshError: if the connection is lost.
        ExecutionError: if there is no log.
    """
    done = board.work(logs_script(place, lines, follow), tell)
    if not done.ok:
        raise ExecutionError(f"{board.destination.text}: worker '{place.name}': no log: {done.said}")


def _stamp(place: Place, files: Mapping[str, tuple[bytes, int]], installed: Mapping[str, str], runner: str) -> str:
    """Of all that a worker is started with, and behind it of the wheel: another stamp, another start."""
    made = hashlib.sha256(f"{place}{runner}".encode())
    for path, (content, mode) in sorted(files.items()):
        made.update(f"{path} {mode} {len(content)}\n".encode())
        made.update(content)
    return f"{made.hexdigest()[:32]}-{_wheel_of(installed)}"


def _wheel_of(installed: Mapping[str, str]) -> str:
    return installed.get("wheel", "")[:12]
