"""Installing on a board: a virtual environment of its own, made anew for every wheel and taken into use when whole.

`~/.local/share/distredge/venv` leads to the environment in use, `venvs/WHEEL` beside it. One that fails on the way, or
whose installer is gone, is removed, and what was in use before stays so. The one before that is kept, and those from
which a process runs; others go.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Final

from distredge.errors import ExecutionError
from distredge.remote.look import HOME, INSTALLED, Found
from distredge.remote.ssh import Board
from distredge.remote.wheel import Wheel

INSTALL_S: Final = 1800.0
"""Within which a board must have installed: pip on a slow card and a slow line."""

_SCRIPT: Final = """
umask 022
place={home}/venvs/{key}
wheel={home}/venvs/{key}.wheel
exec 9>{home}/venvs/lock
if command -v flock >/dev/null; then flock -w 900 9 || {{ echo "another installation goes on here"; exit 1; }}; fi
if [ ! -e "$place/distredge-installed" ]; then
    undo() {{ rm -rf "$place" "$wheel"; echo "$1"; exit 1; }}
    trap 'wait; undo "ended on the way; what was installed is removed"' TERM INT HUP
    rm -rf "$place"
    {python} -m venv "$place" 9>&- || undo "no virtual environment could be made"
    # Compiled is what a worker imports, by importing it below; all that comes with it would take a fifth more space.
    "$place/bin/python" -m pip install --no-compile --no-input --disable-pip-version-check --progress-bar off \\
        "$wheel/{name}"{extra} 9>&- || undo "pip failed"
    unset PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX
    "$place/bin/python" -c 'import distredge.cli.main, distredge.cli.worker, distredge.runtime.worker.worker{engine}' \\
        9>&- || undo "does not run here"
    printf 'version=%s\\nwheel=%s\\nengine=%s\\n' {version} {sha256} {has_engine} > "$place/distredge-installed"
    trap - TERM INT HUP
fi
rm -rf "$wheel"
before=$(readlink {home}/venv)
ln -sfn "venvs/{key}" {home}/venv
for other in {home}/venvs/*; do
    case ${{other##*/}} in {key}|"${{before##*/}}"|lock) continue;; esac
    # A worker that was not started again since, or is of another cluster, still loads from its own.
    grep -qsF "/venvs/${{other##*/}}/" /proc/[0-9]*/cmdline /proc/[0-9]*/maps || rm -rf "$other"
done
"""


def is_current(found: Found, wheel: Wheel, engine: bool = True) -> bool:
    """Whether a board has this very wheel in use, and an ONNX Runtime beside it where one is wanted."""
    return found.installed.get("wheel") == wheel.sha256 and (found.installed.get("engine") != "no" or not engine)


def install_script(python: str, wheel: Wheel, engine: bool = True) -> str:
    """The script that installs on a board, once the wheel is there.

    Args:
        python: path of the Python that makes the environment.
        wheel: what is installed.
        engine: whether an ONNX Runtime comes with it.
    """
    return _SCRIPT.format(
        home=HOME, key=_key(wheel, engine), python=shlex.quote(python), name=wheel.name, version=wheel.version,
        sha256=wheel.sha256, extra="'[engine]'" if engine else "", engine=", onnxruntime" if engine else "",
        has_engine="yes" if engine else "no",
    )  # fmt: skip


def wheel_path(wheel: Wheel, engine: bool = True) -> str:
    """Where a wheel is put on a board."""
    return f"{HOME}/venvs/{_key(wheel, engine)}.wheel/{wheel.name}"


def install(
    board: Board, found: Found, wheel: Wheel, tell: Callable[[str], None] | None = None, engine: bool = True
) -> bool:
    """Installs on a board what runs here; returns whether there was anything to do.

    Args:
        board: logged in to.
        found: what is on it.
        wheel: of this distredge.
        tell: told what pip says.
        engine: whether an ONNX Runtime is installed with it; else the board has one under an older Python. Where the
            environment in use has one it is installed again: another worker of the board may compute with it.

    Raises:
        SshError: if the connection is lost.
        ExecutionError: if it cannot be installed; nothing of it is left then.
    """
    if is_current(found, wheel, engine):
        return False
    engine = engine or (bool(found.installed) and found.installed.get("engine") != "no")
    fault, python = found.fault(), found.python
    if fault is not None or python is None:
        raise ExecutionError(f"{board.destination.text}: {fault}")
    board.put(wheel.content, wheel_path(wheel, engine), timeout_s=INSTALL_S)
    done = board.work(install_script(python.path, wheel, engine), tell, INSTALL_S)
    if not done.ok:
        why = next((line for line in reversed(done.stdout.splitlines()) if "ERROR" in line or "rror:" in line), "")
        said = f"{done.said}: {why.strip()}" if why and why.strip() != done.said else done.said
        if engine and "onnxruntime" in why:
            said += "; where an older Python of the board has an ONNX Runtime, name it: --engine-python NAME=PATH"
        raise ExecutionError(f"{board.destination.text}: cannot install: {said}; nothing of it is left there")
    if board.run(f"cat {INSTALLED}").stdout.find(wheel.sha256) < 0:
        raise ExecutionError(f"{board.destination.text}: cannot install: {INSTALLED} is of something else")
    return True


def _key(wheel: Wheel, engine: bool) -> str:
    return f"{wheel.version}-{wheel.sha256[:12]}{'' if engine else '-bare'}"
