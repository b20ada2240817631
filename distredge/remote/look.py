"""What is on a board: one script of POSIX sh that changes nothing, and what its answer means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from distredge.errors import ExecutionError
from distredge.remote.ssh import Board

LOOK_S: Final = 30.0

PYTHON: Final = (3, 10)
"""The oldest that runs a worker."""

NEEDED_BYTES: Final = 900 * 10**6
"""Free space that installing takes: packages, and what pip unpacks meanwhile."""

MACHINES: Final = ("x86_64", "aarch64", "arm64")
"""For which there are packages of all that a worker needs."""

HOME: Final = ".local/share/distredge"
"""Folder of all that is put on a board, from the user's home."""

VENV: Final = f"{HOME}/venv"
INSTALLED: Final = f"{VENV}/distredge-installed"
"""Stands in a virtual environment that was made by us, and whole: its lines say what it holds."""

LOOK: Final = f"""
say() {{ printf '%s=%s\\n' "$1" "$2"; }}
say system "$(uname -s)"
say machine "$(uname -m)"
say name "$(uname -n)"
say bits "$(getconf LONG_BIT 2>/dev/null)"
say cores "$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)"
say memory_kb "$(sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo 2>/dev/null)"
say free_kb "$(df -Pk "$HOME" | sed -n '2p' | tr -s ' ' | cut -d' ' -f4)"
[ -w "$HOME" ] && say writable yes
say model "$(tr -d '\\000' 2>/dev/null < /proc/device-tree/model)"
say l4t "$(head -n 1 /etc/nv_tegra_release 2>/dev/null)"
say user "$(id -un)"
say boot "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    path=$(command -v $python) || continue
    say python "$("$path" -c '
import sys, sysconfig, os
try:
    import ensurepip, venv
    has = "venv"
except ImportError:
    has = "bare"
managed = os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED"))
managed = managed and "managed" or "free"
print("%d.%d %s %s %s" % (sys.version_info[0], sys.version_info[1], has, managed, sys.executable))
' 2>/dev/null)"
done
export XDG_RUNTIME_DIR="${{XDG_RUNTIME_DIR:-/run/user/$(id -u)}}"
systemctl --user show-environment >/dev/null 2>&1 && say systemd yes
say linger "$(loginctl show-user "$(id -un)" -p Linger --value 2>/dev/null)"
sed 's/^/installed./' {INSTALLED} 2>/dev/null
[ -d {VENV} ] && [ ! -e {INSTALLED} ] && say unfinished yes
exit 0
"""


@dataclass(frozen=True)
class Python:
    """A Python of a board: where, which, whether it makes virtual environments, whether its system manages it."""

    path: str
    version: tuple[int, int]
    makes_venv: bool
    managed: bool


@dataclass(frozen=True)
class Found:
    """What is on a board.

    Attributes:
        system, machine, name: as `uname` says.
        bits: of its programs; a 64-bit kernel may have 32-bit ones.
        cores: that may be used.
        memory_bytes, free_bytes: in all; free where the user's home is. None: unknown.
        writable: whether the home is.
        model: of the board, where its firmware says it.
        l4t: NVIDIA's release line, on JetPack boards.
        user: who is logged in.
        pythons: that were found.
        systemd: whether it runs units for the user.
        lingers: whether these go on after the last logout.
        installed: version and wheel of distredge in the environment of its own; empty: none.
        unfinished: whether an environment is there that never became whole.
        boot: of this start of the computer; two that have the same are one. "": unknown.
    """

    system: str
    machine: str
    name: str
    bits: int
    cores: int
    memory_bytes: int | None
    free_bytes: int | None
    writable: bool
    model: str
    l4t: str
    user: str
    pythons: tuple[Python, ...]
    systemd: bool
    lingers: bool
    installed: Mapping[str, str]
    unfinished: bool
    boot: str = ""

    @property
    def python(self) -> Python | None:
        """The newest that runs a worker and makes virtual environments; the system's own first among equals."""
        fit = [python for python in self.pythons if python.version >= PYTHON and python.makes_venv]
        return max(fit, key=lambda python: python.version, default=None)

    def fault(self) -> str | None:
        """What keeps a worker from being installed here, and what to do; None: nothing."""
        if self.system != "Linux":
            return f"its system is {self.system or 'unknown'}, accepted: Linux; start its worker there by hand"
        if self.machine not in MACHINES:
            return f"its processor is {self.machine}, accepted: {', '.join(MACHINES)}; install a 64-bit system"
        if self.bits != 64:
            return (
                f"its programs are of {self.bits} bits under a 64-bit kernel, and there are no packages for them: "
                "install a 64-bit system"
            )
        if not self.writable:
            return "the user's home cannot be written"
        if self.python is None:
            return self._no_python()
        if self.free_bytes is not None and self.free_bytes < NEEDED_BYTES and not self.installed:
            return (
                f"{self.free_bytes / 1e6:.0f} MB are free in the user's home, "
                f"accepted: at least {NEEDED_BYTES / 1e6:.0f} MB"
            )
        return None

    def _no_python(self) -> str:
        wanted = ".".join(map(str, PYTHON))
        bare = next((python for python in self.pythons if python.version >= PYTHON), None)
        if bare is not None:
            version = ".".join(map(str, bare.version))
            return (
                f"its Python {version} makes no virtual environments: run there sudo apt install python{version}-venv"
            )
        versions = ", ".join(".".join(map(str, python.version)) for python in self.pythons) or "none"
        advice = "; install one"
        if self.l4t:
            advice += " beside this JetPack's, which --engine-python NAME=PATH then names, or use Dockerfile.jetpack"
        return f"found Python {versions}, accepted: {wanted} or newer{advice}"

    def in_words(self) -> str:
        """One line for people."""
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**30:.1f} GiB"
        python = self.python
        return (
            f"{self.model or self.machine}, {self.bits} bits, {self.cores} cores{memory}"
            + ("" if self.free_bytes is None else f", {self.free_bytes / 1e9:.1f} GB free")
            + ("" if python is None else f", Python {'.'.join(map(str, python.version))}")
            + (f", distredge {self.installed.get('version')}" if self.installed else "")
        )


def look(board: Board) -> Found:
    """Looks at a board.

    Raises:
        SshError: if it cannot be reached.
        ExecutionError: if it answers with something else.
    """
    done = board.run(LOOK, timeout_s=LOOK_S)
    try:
        return read_answer(done.stdout)
    except (KeyError, ValueError) as error:
        raise ExecutionError(
            f"{board.destination.text}: does not say what it is ({error}): {done.said}; it needs a POSIX shell"
        ) from error


def read_answer(text: str) -> Found:
    """Returns what the script's answer says.

    Raises:
        KeyError: if something is missing.
        ValueError: if a number is none.
    """
    said: dict[str, str] = {}
    pythons: dict[tuple[int, int], Python] = {}
    installed = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if not equals:
            continue
        if key == "python":
            python = _python(value)
            if python is not None:
                pythons.setdefault(python.version, python)
        elif key.startswith("installed."):
            installed[key.removeprefix("installed.")] = value
        else:
            said[key] = value.strip()
    return Found(
        system=said["system"],
        machine=said["machine"],
        name=said["name"],
        bits=int(said["bits"] or 0),
        cores=int(said["cores"]),
        memory_bytes=_kilobytes(said["memory_kb"]),
        free_bytes=_kilobytes(said["free_kb"]),
        writable="writable" in said,
        model=said["model"],
        l4t=said["l4t"],
        user=said["user"],
        pythons=tuple(pythons.values()),
        systemd="systemd" in said,
        lingers=said["linger"] == "yes",
        installed=installed,
        unfinished="unfinished" in said,
        boot=said.get("boot", ""),
    )


def _python(text: str) -> Python | None:
    parts = text.split(" ", 3)
    if len(parts) != 4:
        return None
    major, _, minor = parts[0].partition(".")
    return Python(parts[3], (int(major), int(minor)), parts[1] == "venv", parts[2] == "managed")


def _kilobytes(text: str) -> int | None:
    return int(text) * 1024 if text else None
