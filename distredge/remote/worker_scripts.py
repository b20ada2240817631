"""The scripts of POSIX sh by which a worker on a board is started, ended and asked, and where it is there."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Final, Literal

from distredge.remote.look import HOME, INSTALLED, VENV

Runner = Literal["systemd", "process", "auto"]

START_S: Final = 120.0
"""Within which a worker must wait for its requester; the first start on a slow card reads all its packages."""

STOP_S: Final = 10
"""Before a worker that does not end is killed."""

_QUIET_TRIES: Final = 75
UNITS: Final = ".config/systemd/user"
"""Of a user's units, from the home."""

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
        file = f"%h/{self.folder}/{_for_systemd(self.file)}"
        words = [f"%h/{VENV}/bin/distredge", "worker", *self._arguments(file)]
        command = " ".join(f'"{word}"' if " " in word else word for word in words)
        return template.safe_substitute(NAME=self.name, CLUSTER=self.cluster, COMMAND=command)

    def _arguments(self, file: str) -> list[str]:
        return ["--cluster", file, "--name", self.name, *self.options]


def _for_systemd(name: str) -> str:
    """A file's name as systemd reads it between quotes."""
    for character, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        name = name.replace(character, written)
    return name


def state_script(place: Place) -> str:
    """The script that says how a worker is."""
    return _HELPERS + _filled(_STATE, place)


def start_script(place: Place, runner: Runner, stamp: str = "STAMP") -> str:
    """The script that starts a worker whose files are there; "auto": as a plain process."""
    script = _START_UNIT if runner == "systemd" else _START_PROCESS
    return _HELPERS + _filled(script, place, stamp, int(START_S / 0.2))


def stop_script(place: Place) -> str:
    """The script that ends a worker."""
    return _HELPERS + _filled(_STOP, place, tries=STOP_S * 5)


def logs_script(place: Place, lines: int, follow: bool) -> str:
    """The script that writes the last lines of a worker's log, and with `follow` those that come."""
    return _HELPERS + _LOGS.format(
        units=UNITS, unit=place.unit, folder=place.folder, lines=lines, journal=" -f" if follow else "",
        tail=" -F" if follow else "",
    )  # fmt: skip


def _filled(script: str, place: Place, stamp: str = "", tries: int = 0) -> str:
    return script.format(
        installed=INSTALLED, units=UNITS, unit=place.unit, folder=place.folder, command=place.command, stamp=stamp,
        options=shlex.quote(shlex.join(place.options)), tries=tries, enough=tries - _QUIET_TRIES,
    )  # fmt: skip
