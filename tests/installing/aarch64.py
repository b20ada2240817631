"""What a worker on a 64-bit ARM board installs, and such a board made of an emulator and Debian's packages."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PLATFORMS = (*(f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28)), "manylinux2014_aarch64")
"""Of glibc 2.28 and older: Debian 10, Ubuntu 20.04 (JetPack 5) and all that is newer."""

_FETCH_S = 240
_DEBIAN = (
    "python3.11-minimal libpython3.11-minimal libpython3.11-stdlib python3.11 libc6 libgcc-s1 libstdc++6 zlib1g "
    "libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libuuid1 libcrypt1"
).split()
_CORES = 2
# A Raspberry Pi 4's. The emulator passes this machine's own on, in which ONNX Runtime finds no ARM core and crashes.
_CPUINFO = (
    "processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
)


def requirements(python: str) -> list[str]:
    """What `distredge[engine]` requires under a version of Python, such as "3.10".

    pip works markers out for the Python that runs it, so they are worked out here.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = []
    for line in [*project["dependencies"], *project["optional-dependencies"]["engine"]]:
        requirement, _, marker = line.partition(";")
        if not marker or _holds(marker, python):
            found.append(requirement.strip())
    return found


def _holds(marker: str, python: str) -> bool:
    from packaging.markers import Marker

    return Marker(marker).evaluate({"python_version": python, "platform_machine": "aarch64", "sys_platform": "linux"})


def pip_options(python: str) -> list[str]:
    """Options that make pip choose wheels for that Python on 64-bit ARM."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]


def resolve(python: str, folder: Path) -> list[str]:
    """File names of the wheels that a worker installs; skips the test where the index is not reached.

    Args:
        python: its version.
        folder: empty.
    """
    report = folder / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--target", str(folder / "site")]
    command += [*pip_options(python), "--report", str(report), *requirements(python)]
    done = run(command)
    if "Could not fetch URL" in done.stderr or "Connection" in done.stderr:
        pytest.skip(f"PyPI is not reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return [
        item["download_info"]["url"].rpartition("/")[2]
        for item in json.loads(report.read_text(encoding="utf-8"))["install"]
    ]


def run(
    command: Sequence[str | Path], folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end."""
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=_FETCH_S, check=False, cwd=folder,
        env={**os.environ, **environment},
    )  # fmt: skip


@dataclass(frozen=True)
class EmulatedBoard:
    """Programs of a 64-bit ARM board, run by qemu's user-mode emulation; they see this machine's files and network.

    Attributes:
        python: the words that start its Python.
        site: its packages.
    """

    python: tuple[str, ...]
    site: Path

    def environment(self) -> dict[str, str]:
        """The variables of a process of its Python."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(self.site)))}


def emulated_board(folder: Path) -> EmulatedBoard:
    """Makes one of Debian's emulator, Debian's Python for arm64 and wheels from PyPI; skips, saying what is missing.

    Nothing is installed on this machine: packages are unpacked into the folder, of which apt keeps its lists there too.

    Args:
        folder: empty, on a file system with 1 GB free.
    """
    if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
        pytest.skip("the emulator is fetched for Linux on x86-64 alone")
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"'{program}' is not here: the ARM board is made of Debian's packages")
    root, native = folder / "root", folder / "native"
    _unpack(folder / "arm64", "arm64", _DEBIAN, root)
    _unpack(folder / "amd64", "amd64", ["qemu-user-static"], native)
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text("".join(_CPUINFO.format(core=core) for core in range(_CORES)))
    site = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", site]
    done = run([*command, *pip_options("3.11"), *requirements("3.11")])
    if done.returncode:
        pytest.skip(f"the packages of a worker cannot be had: {done.stderr.strip().splitlines()[-1]}")
    emulator = native / "usr" / "bin" / "qemu-aarch64-static"
    return EmulatedBoard((str(emulator), "-L", str(root), str(root / "usr" / "bin" / "python3.11")), site)


def _unpack(folder: Path, architecture: str, packages: Sequence[str], into: Path) -> None:
    """Downloads packages of an architecture and unpacks them, with lists of apt's that are this folder's own."""
    state, cache = folder / "state", folder / "cache"
    for made in (state / "lists" / "partial", cache / "archives" / "partial", into):
        made.mkdir(parents=True)
    (state / "status").touch()
    config = folder / "apt.conf"
    config.write_text(
        f'APT::Architecture "{architecture}";\nAPT::Architectures {{ "{architecture}"; }};\n'
        f'Dir::State "{state}";\nDir::State::status "{state}/status";\nDir::Cache "{cache}";\n'
        f'APT::Sandbox::User "root";\nAcquire::http::Timeout "20";\nAcquire::Retries "1";\n'
    )
    for words in (["update"], ["download", *packages]):
        done = run(["apt-get", "-qq", *words], folder, APT_CONFIG=str(config))
        if done.returncode:
            pytest.skip(f"Debian's packages for {architecture} cannot be had: {(done.stderr or done.stdout).strip()}")
    for package in folder.glob("*.deb"):
        done = run(["dpkg-deb", "-x", package, into])
        assert done.returncode == 0, done.stderr
