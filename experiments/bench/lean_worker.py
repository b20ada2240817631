"""What a worker takes on a board: disk for `pip install 'distredge[engine]'`, and memory while it waits.

    python experiments/bench/lean_worker.py [--quick] [--aarch64]

A wheel of this repository is installed, with what it requires, into a fresh virtual environment without pip, from the
index that pip is set up with; then a worker with keys of its own runs there and is asked nothing. The goals are at
most 250 MB (all files of the environment, the compiled ones that pip makes included) and 80 MB
(resident, shared libraries included). Python 3.10, for which ONNX Runtime still requires sympy, takes about 290 MB, and
about 200 MB with pip's --no-compile.

--aarch64 also adds up the wheels that a 64-bit ARM board would install, unpacked but not compiled. --quick leaves it
at the installation for this machine. Linux, about half a minute.

Prints one JSON object: `skipped` with the reason where no index of packages is reached.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

INSTALL_GOAL_MB = 250
IDLE_GOAL_MB = 80

_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = ("distredge", "agents", "envs", "experiments", "profiles")
_ARM = ("--only-binary=:all:", "--platform", "manylinux_2_28_aarch64", "--platform", "manylinux_2_27_aarch64",
        "--platform", "manylinux_2_26_aarch64", "--platform", "manylinux2014_aarch64")  # fmt: skip
_PACKAGES = 8
_PATIENCE_S = 600


class NotToBeHad(Exception):
    """What a worker requires cannot be fetched: there is no index."""


def pip(*words: str | Path) -> None:
    """Runs this Python's pip to its end.

    Raises:
        NotToBeHad: if no index is reached.
    """
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    # What PYTHONPATH leads to would count as installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, env=environment)
    if "No matching distribution" in done.stderr:
        raise NotToBeHad(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise SystemExit(f"pip {' '.join(map(str, words))}: {done.stderr.strip()}")


def wheel(folder: Path) -> Path:
    """A wheel of a copy of the sources, so that nothing of earlier builds gets into it."""
    copy = folder / "sources"
    for name in _SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(_ROOT / name, copy / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(_ROOT / name, copy / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copy)
    return next(folder.glob("distredge-*.whl"))


def size_mb(folder: Path) -> float:
    """Size of all files under a folder, 10**6 bytes; links do not count."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def largest(packages: Path) -> dict[str, float]:
    """The largest folders of an environment, MB each, libraries that came beside a package counted with it."""
    sizes: dict[str, float] = {}
    for path in packages.iterdir():
        if path.is_dir() and not path.name.endswith(".dist-info"):
            name = path.name.removesuffix(".libs")
            sizes[name] = sizes.get(name, 0.0) + size_mb(path)
    first = sorted(sizes, key=lambda name: -sizes[name])[:_PACKAGES]
    return {name: round(sizes[name], 1) for name in first}


def idle_mb(python: Path, folder: Path) -> float:
    """Resident memory of a worker that waits for a requester, 10**6 bytes."""

    def distredge(*words: str) -> None:
        subprocess.run([python, "-I", "-m", "distredge", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    distredge("cluster", "init", "lean.toml", "--device", "board=127.0.0.1")
    text = (folder / "lean.toml").read_text(encoding="utf-8")
    # Ports that the system chooses: others may be in use.
    (folder / "lean.toml").write_text(
        text.replace('address = "127.0.0.1"', 'address = "127.0.0.1"\ncontrol_port = 0\ndata_port = 0'),
        encoding="utf-8",
    )
    distredge("keys", "lean.toml")
    command = [str(python), "-I", "-m", "distredge", "worker", "--cluster", "lean.toml", "--name", "board"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as worker:
        try:
            if worker.stdout is None or not worker.stdout.readline().startswith("worker 'board'"):
                raise SystemExit("the worker did not start")
            status = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii")
        finally:
            worker.terminate()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(resident.split()[1]) * 1024 / 1e6


def measure(folder: Path, aarch64: bool) -> dict[str, object]:
    """Installs and runs a worker in a folder and returns what it takes."""
    made = wheel(folder)
    place = folder / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    pip("--python", python, "install", f"{made}[engine]")
    found: dict[str, object] = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "worker_install_mb": round(size_mb(place), 1),
        "worker_idle_mb": round(idle_mb(python, folder), 1),
        "install_goal_mb": INSTALL_GOAL_MB,
        "idle_goal_mb": IDLE_GOAL_MB,
        "largest_mb": largest(next(place.glob("lib/python*/site-packages"))),
    }
    if aarch64:
        site = folder / "aarch64"
        pip("install", "--no-compile", "--target", site, *_ARM, f"{made}[engine]")
        found["aarch64_unpacked_mb"] = round(size_mb(site), 1)
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="This machine's installation alone.")
    parser.add_argument("--aarch64", action="store_true", help="Also the wheels of a 64-bit ARM board.")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        raise SystemExit("resident memory is read from /proc: run this on Linux")
    with tempfile.TemporaryDirectory(prefix="lean-worker-") as name:
        try:
            found = measure(Path(name), options.aarch64 and not options.quick)
        except NotToBeHad as error:
            # `make bench` goes on with the others.
            found = {"skipped": f"the packages of a worker cannot be had: {error}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
