"""Testbeds that go on after the command that started them, for other commands to use their boards.

``python -m distredge.testbed.standing``::

    stdin    one line of JSON, `Wanted`
    stdout   one line of JSON, `Standing`, once all is up; then it works until SIGTERM

The folder of one (``$XDG_STATE_HOME/distredge/testbeds/NAME``, readable by its owner alone) holds ``cluster.toml``, the
folder ``keys``, and ``standing.json``. Its boards compute at this machine's own speed, since a pace belongs to a
strategy; that is what the cluster file says too. What the kernel does not emulate, `Link.fixed_s`, is not there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import psutil
from msgspec import Struct

from distredge.child_processes import python_command, python_environment
from distredge.cluster import UNBOUNDED
from distredge.errors import ConfigError, DistredgeError, ExecutionError, FileError
from distredge.folders import user_folder
from distredge.profiles.compute import THIS_MACHINE
from distredge.writing import write

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Link
    from distredge.testbed.testbed import Mode

CLUSTER_FILE: Final = "cluster.toml"
STATE_FILE: Final = "standing.json"
END_S: Final = 20.0


class Wanted(Struct, frozen=True):
    """What is to stand: a cluster by name or path, from the folder in which its path holds, and how."""

    cluster: str
    folder: str
    mode: Literal["auto", "namespaces", "loopback"]


class Standing(Struct, frozen=True):
    """What stands: its owner's process and when that started, how, where the boards are; or why not."""

    pid: int = 0
    started_s: float = 0.0
    mode: str = ""
    boards: dict[str, str] = {}
    error: str = ""
    exit_code: int = 1

    @property
    def alive(self) -> bool:
        """Whether that very process runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started_s) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def state_folder(name: str) -> Path:
    """Where a testbed is remembered."""
    return user_folder("XDG_STATE_HOME", ".local", "state") / "distredge" / "testbeds" / name


def standing() -> dict[str, Standing]:
    """Returns the testbeds that stand, by name."""
    found = {}
    parent = state_folder("")
    for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            state = msgspec.json.decode((folder / STATE_FILE).read_bytes(), type=Standing)
            if state.alive:
                found[folder.name] = state
    return found


def set_up(cluster: str, name: str, mode: Mode) -> Standing:
    """Starts a testbed that goes on after this process.

    Args:
        cluster: name or path.
        name: of the testbed.
        mode: as `testbed.Testbed` takes it.

    Raises:
        ConfigError: if one of that name stands.
        ExecutionError: if it does not come up.
    """
    if name in standing():
        raise ConfigError(f"a testbed '{name}' stands already; give another --name, or end it: testbed down {name}")
    folder = state_folder(name)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise FileError(f"{folder}: cannot be made: {error.strerror}; set XDG_STATE_HOME to another place") from error
    with (folder / "owner.log").open("wb") as log:
        process = subprocess.Popen(
            python_command("distredge.testbed.standing", name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=python_environment(),
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(msgspec.json.encode(Wanted(cluster, os.getcwd(), mode)) + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
    if not line:
        process.wait()
        raise ExecutionError(f"the testbed did not come up; see {folder / 'owner.log'}")
    state = msgspec.json.decode(line, type=Standing)
    if state.error:
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        raise ConfigError(state.error) if state.exit_code == ConfigError.exit_code else ExecutionError(state.error)
    # It is not waited for: without this, Popen warns about it when it is collected.
    process.returncode = 0
    return state


def take_down(name: str) -> None:
    """Ends a testbed.

    Raises:
        ConfigError: if none of that name stands.
    """
    found = standing()
    if name not in found:
        known = ", ".join(found) or "none"
        raise ConfigError(f"no testbed '{name}' stands; standing: {known}")
    process = psutil.Process(found[name].pid)
    process.terminate()
    try:
        process.wait(END_S)
    except psutil.TimeoutExpired:
        process.kill()
    shutil.rmtree(state_folder(name), ignore_errors=True)


def cluster_text(cluster: Cluster, folder: Path) -> str:
    """Returns the cluster file of standing boards; traces are saved beside it."""
    asks = cluster.requester
    # One that was on a board is outside now, at an end of the switch that nothing narrows.
    up, down = (asks.uplink, asks.downlink) if asks.device is None else (UNBOUNDED, UNBOUNDED)
    lines = [
        'format = "distredge.cluster/1"',
        f'name = "{cluster.name}"',
        'description = "Emulated boards of a testbed, which compute at this machine\'s own speed"',
        'link_model = "shared"',
        f"encrypted = {str(cluster.encrypted).lower()}",
        "",
        "[requester]",
        f'name = "{asks.name}"',
        *_links(up, down, asks.name, folder),
    ]
    for device in cluster.devices:
        lines += [
            "",
            "[[device]]",
            f'name = "{device.name}"',
            f'profile = "{THIS_MACHINE}"',
            f'address = "{device.address}"',
            f"control_port = {device.control_port}",
            f"data_port = {device.data_port}",
            f"threads = {device.threads}",
            *_links(device.uplink, device.downlink, device.name, folder),
        ]
        if device.public_key is not None:
            lines.append(f'public_key = "{_escaped(device.public_key)}"')
    return "\n".join(lines) + "\n"


def _links(uplink: Link, downlink: Link, name: str, folder: Path) -> Iterator[str]:
    for kind, link in (("uplink", uplink), ("downlink", downlink)):
        if link.trace is not None:
            file = f"{name}-{kind}.csv"
            link.trace.save(folder / file)
            yield f'{kind} = {{ trace = "{file}" }}'
        else:
            rate = '"unbounded"' if link.rate_bps is None else f"{link.rate_bps:.0f}"
            yield f"{kind} = {{ rate_bps = {rate} }}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def main(name: str) -> None:
    """Owns a testbed until SIGTERM."""
    wanted = msgspec.json.decode(sys.stdin.buffer.readline(), type=Wanted)
    os.chdir(wanted.folder)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        _own(name, wanted)
    except DistredgeError as error:
        _say(Standing(error=str(error), exit_code=error.exit_code))
        sys.exit(error.exit_code)


def _own(name: str, wanted: Wanted) -> None:
    from distredge.cluster import load_cluster
    from distredge.runtime.protocol.security import write_keys
    from distredge.testbed.testbed import Testbed

    folder = state_folder(name)
    with Testbed(
        load_cluster(wanted.cluster),
        wanted.mode,
        paced=False,
        requester_inside=False,
    ) as bed:
        assert bed.keys is not None
        (folder / "keys").mkdir(mode=0o700)
        write_keys(bed.keys, folder / "keys")
        write(folder / CLUSTER_FILE, cluster_text(bed.cluster, folder))
        bed.shape()
        boards = {device.name: device.address for device in bed.cluster.devices}
        own = psutil.Process()
        state = Standing(own.pid, own.create_time(), bed.mode, boards)
        write(folder / STATE_FILE, msgspec.json.encode(state))
        _say(state)
        while True:
            time.sleep(3600.0)


def _end(number: int, frame: object) -> None:
    sys.exit(0)


def _say(state: Standing) -> None:
    with contextlib.suppress(OSError):
        os.write(1, msgspec.json.encode(state) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
