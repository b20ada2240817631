"""A worker on a board: what it is given, started as a unit of systemd or a plain process, ended, its log read."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path, PurePosixPath
from string import Template
from typing import Final, Literal

from distredge.cluster_file import BoardEntries, BoardEntry
from distredge.errors import ClusterError, ExecutionError, FileError
from distredge.remote.look import HOME, INSTALLED, VENV
from distredge.remote.ssh import Board
from distredge.runtime.hosting.boards import KEYS_FOLDER
from distredge.runtime.protocol.security import PUBLIC_FILE, read_keys

Runner = Literal["systemd", "process", "auto"]

START_S: Final = 120.0
"""Within which a worker must wait for its requester; the first start on a slow card reads all its packages."""

STOP_S: Final = 10
"""Before a worker that does not end is killed."""

_QUIET_TRIES: Final = 75
_UNITS: Final = ".config/systemd/user"
_SSH_LINE: Final = re.compile(rb'^[ \t]*ssh[ \t]*=[ \t]*"[^"\n]*"[ \t]*(#[^\n]*)?\n', re.MULTILINE)

# A process id comes again: with it stand when that process began, in ticks since the start, and which start that was.
_HELPERS: Final = """
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"
boot() { cat /proc/sys/kernel/random/boot_id 2>/dev/null; }
begun() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | grep -v '^Z' | cut -d' ' -f20; }
alive() {
    [ -r worker.pid ] && read -r pid begin at < worker.pid && [ -n "$begin" ] &&
        [ "$(begun "$pid")" = "$begin" ] && [ "$(boot)" = "$at" ]
}
"""

_STATE: Final = """
sed 's/^/installed./' {installed} 2>/dev/null
systemctl --user show-environment >/dev/null 2>&1 && echo systemd=yes
echo "linger=$(loginctl show-user "$(id -un)" -p Linger --value 2>/dev/null)"
echo "user=$(id -un)"
[ -e {units}/{unit} ] && echo "unit=$(systemctl --user is-active {unit} 2>/dev/null)"
cd {folder} 2>/dev/null || exit 0
alive && echo "pid=$pid"
[ -r worker.stamp ] && echo "stamp=$(cat worker.stamp)"
[ -r worker.options ] && echo "options=$(cat worker.options)"
exit 0
"""

_START_PROCESS: Final = """
cd {folder} || exit 1
[ -e worker.log ] && mv -f worker.log worker.log.1
setsid nohup "$HOME"/{command} > worker.log 2>&1 < /dev/null &
pid=$!
echo "$pid $(begun $pid) $(boot)" > worker.pid
left={tries}
until grep -q 'waits for' worker.log; do
    left=$((left - 1))
    if ! alive || [ $left -le 0 ]; then
        alive && kill "$pid"
        rm -f worker.pid
        grep . worker.log | tail -n 3 >&2
        exit 1
    fi
    sleep 0.2
done
echo {stamp} > worker.stamp
echo {options} > worker.options
echo "$pid"
"""

# Where the user cannot read the journal, a unit that has been active for a while counts as up.
_START_UNIT: Final = """
cd {folder} || exit 1
began=$(date +%s)
said() {{ journalctl --user -u {unit} --since "@$began" -o cat --no-pager -q 2>/dev/null; }}
systemctl --user daemon-reload && systemctl --user enable {unit} >/dev/null 2>&1
systemctl --user restart {unit} || exit 1
left={tries}
until said | grep -q 'waits for'; do
    left=$((left - 1))
    now=$(systemctl --user is-active {unit})
    [ "$now" = active ] && [ -z "$(said)" ] && [ $left -le {enough} ] && break
    if [ "$now" = failed ] || [ "$now" = inactive ] || [ $left -le 0 ]; then
        said | grep . | tail -n 3 >&2
        exit 1
    fi
    sleep 0.2
done
echo {stamp} > worker.stamp
echo {options} > worker.options
systemctl --user show {unit} -p MainPID --value
"""

_STOP: Final = """
if [ -e {units}/{unit} ]; then
    systemctl --user is-active {unit} >/dev/null 2>&1 && echo ended
    systemctl --user disable --now {unit} >/dev/null 2>&1
    rm -f {units}/{unit}
    systemctl --user daemon-reload >/dev/null 2>&1
fi
cd {folder} 2>/dev/null || exit 0
if alive; then
    kill "$pid"
    left={tries}
    while alive; do
        left=$((left - 1))
        [ $left -le 0 ] && kill -9 "$pid"
        [ $left -le -25 ] && exit 1
        sleep 0.2
    done
    echo ended
fi
rm -f worker.pid worker.stamp worker.options
"""

_LOGS: Final = """
if [ -e {units}/{unit} ]; then exec journalctl --user -u {unit} -n {lines} -o short-iso --no-pager{journal}; fi
cd {folder} 2>/dev/null || {{ echo "no worker of this cluster was started here" >&2; exit 1; }}
exec tail -n {lines}{tail} worker.log
"""


@dataclass(frozen=True)
class Place:
    """Where a worker is on a board, and how it is started.

    Attributes:
        cluster, name: its own.
        file: name of the cluster file.
        options: of `distredge worker`, beside file and name.
    """

    cluster: str
    name: str
    file: str
    options: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Of its files, from the user's home."""
        return f"{HOME}/workers/{self.cluster}/{self.name}"

    @property
    def unit(self) -> str:
        """Name of its unit."""
        return f"distredge-{self.cluster}-{self.name}.service"

    @property
    def command(self) -> str:
        """What is run, from the user's home; for its shell and for systemd alike."""
        return shlex.join([f"{VENV}/bin/distredge", "worker", *self._arguments(self.file)])

    def unit_text(self) -> str:
        """The unit, from the template that is shipped."""
        template = Template((resources.files("distredge.remote") / "data" / "distredge-worker.service").read_text())
        words = [f"%h/{VENV}/bin/distredge", "worker", *self._arguments(f"%h/{self.folder}/{self.file}")]
        command = " ".join(f'"{word}"' if " " in word else word for word in words)
        return template.safe_substitute(NAME=self.name, CLUSTER=self.cluster, COMMAND=command)

    def _arguments(self, file: str) -> list[str]:
        return ["--cluster", file, "--name", self.name, *self.options]


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
    """
    answer = board.run(_HELPERS + _filled(_STATE, place)).stdout
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


def start_script(place: Place, runner: Runner) -> str:
    """The script that starts a worker, for people to read; `auto` shows a plain process."""
    script = _START_UNIT if runner == "systemd" else _START_PROCESS
    return _HELPERS + _filled(script, place, "STAMP", int(START_S / 0.2))


def stop_script(place: Place) -> str:
    """The script that ends a worker."""
    return _HELPERS + _filled(_STOP, place, tries=STOP_S * 5)


def _begin(board: Board, place: Place, runner: Literal["systemd", "process"], stamp: str) -> int:
    """Starts a worker whose files are there; returns its process."""
    if runner == "systemd":
        board.put(place.unit_text().encode(), f"{_UNITS}/{place.unit}")
    script = _START_UNIT if runner == "systemd" else _START_PROCESS
    done = board.run(_HELPERS + _filled(script, place, stamp, int(START_S / 0.2)), timeout_s=START_S + 30)
    if not done.ok:
        if runner == "systemd":
            stop(board, place)
        said = done.said.removeprefix("error: ")
        raise ExecutionError(f"{board.destination.text}: worker '{place.name}' does not come up: {said}")
    return int(done.stdout.split()[-1])


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
    script = _LOGS.format(
        units=_UNITS, unit=place.unit, folder=place.folder, lines=lines, journal=" -f" if follow else "",
        tail=" -F" if follow else "",
    )  # fmt: skip
    done = board.work(_HELPERS + script, tell)
    if not done.ok:
        raise ExecutionError(f"{board.destination.text}: worker '{place.name}': no log: {done.said}")


def _filled(script: str, place: Place, stamp: str = "", tries: int = 0) -> str:
    return script.format(
        installed=INSTALLED, units=_UNITS, unit=place.unit, folder=place.folder, command=place.command, stamp=stamp,
        options=shlex.quote(shlex.join(place.options)), tries=tries, enough=tries - _QUIET_TRIES,
    )  # fmt: skip


def _stamp(place: Place, files: Mapping[str, tuple[bytes, int]], installed: Mapping[str, str], runner: str) -> str:
    """Of all that a worker is started with, and behind it of the wheel: another stamp, another start."""
    made = hashlib.sha256(f"{place}{runner}".encode())
    for path, (content, mode) in sorted(files.items()):
        made.update(f"{path} {mode} {len(content)}\n".encode())
        made.update(content)
    return f"{made.hexdigest()[:32]}-{_wheel_of(installed)}"


def _wheel_of(installed: Mapping[str, str]) -> str:
    return installed.get("wheel", "")[:12]
