"""Says where `make install` takes torch from.

PyPI's torch for Linux brings CUDA, several GB, which a machine without an NVIDIA GPU has no use for. There the index
of builds for CPUs is taken if it answers within a few seconds and has a wheel of the version of `constraints.txt` for
this Python, processor and C library. Nothing beside Python is needed, since this runs before anything is installed.

Standard output: the address for pip's `--index-url`; nothing for pip's own index. Standard error: the choice and why.
"""

from __future__ import annotations

import argparse
import http.client
import platform
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
ANSWER_S = 5.0
"""Within which the index answers, name look-up included."""
_MOST_BYTES = 16 * 1024 * 1024
_GPU_FILES = ("dev/nvidia0", "etc/nv_tegra_release")


@dataclass(frozen=True)
class Choice:
    """An index, "" for pip's own, and the reason in words."""

    index: str
    reason: str


def choose(given: str, version: str, cpu_index: str = CPU_INDEX, root: Path = Path("/")) -> Choice:
    """Decides.

    Args:
        given: what the user asked for; wins unless it is empty.
        version: of torch, as pinned; "" takes any.
        cpu_index: the index of builds for CPUs.
        root: of the file system in which a GPU's files are looked for.
    """
    if given:
        return Choice(given, "torch from the index that TORCH_INDEX names")
    gpu = nvidia_gpu(root)
    if gpu:
        return Choice("", f"an NVIDIA GPU is here ({gpu}): torch with CUDA, several GB, from pip's own index")
    if platform.system() != "Linux":
        return Choice("", f"torch from pip's own index, whose builds for {platform.system()} have no CUDA")
    trouble = unusable(cpu_index, version)
    if trouble:
        instead = "torch from pip's own index, which may bring CUDA, several GB"
        return Choice("", f"no NVIDIA GPU is here, but {cpu_index} {trouble}: {instead}")
    return Choice(cpu_index, f"no NVIDIA GPU is here: torch for CPUs from {cpu_index}")


def nvidia_gpu(root: Path = Path("/")) -> str:
    """Returns what shows that there is an NVIDIA GPU; "" without one."""
    for name in _GPU_FILES:
        if (root / name).exists():
            return f"/{name}"
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        said = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=ANSWER_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "nvidia-smi lists it" if said.startswith("GPU ") else ""


def unusable(index: str, version: str, answer_s: float = ANSWER_S) -> str:
    """Returns why torch cannot be had from an index; "" if it can.

    Args:
        index: its address.
        version: of torch; "" takes any.
        answer_s: within which it must have answered.
    """
    page: list[str] = []
    trouble: list[str] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(f"{index.rstrip('/')}/torch/", timeout=answer_s) as answer:
                page.append(answer.read(_MOST_BYTES).decode(errors="replace"))
        except (OSError, ValueError, http.client.HTTPException) as error:
            trouble.append(f"cannot be reached ({getattr(error, 'reason', error)})")

    # A name server that does not answer holds a look-up for longer than any time limit of a connection.
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(answer_s)
    if trouble:
        return trouble[0]
    if not page:
        return f"does not answer within {answer_s:g} s"
    wheels = {urllib.parse.unquote(name) for name in re.findall(r"torch-[^<>\"/#]+\.whl", page[0])}
    of_version = [name for name in wheels if not version or re.match(rf"torch-{re.escape(version)}[+-]", name)]
    if not of_version:
        return f"has no torch {version}".rstrip()
    if not any(map(fits, of_version)):
        python = ".".join(map(str, sys.version_info[:2]))
        return f"has no torch {version} for Python {python} on {platform.machine()}".replace("  ", " ")
    return ""


def fits(wheel: str) -> bool:
    """Whether a wheel is for this Python, processor and C library."""
    *_, pythons, abis, platforms = wheel.removesuffix(".whl").split("-")
    own = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    abi = f"{own}t" if "t" in sys.abiflags else own
    if not ({own, "py3"} & set(pythons.split(".")) and {abi, "abi3", "none"} & set(abis.split("."))):
        return False
    return any(map(_runs, platforms.split(".")))


def _runs(tag: str) -> bool:
    """Whether what is built for a platform's tag runs here."""
    if tag == "any":
        return True
    found = re.fullmatch(r"(?:(?P<old>linux|manylinux1|manylinux2010|manylinux2014)|manylinux_(\d+)_(\d+))_(\w+)", tag)
    if found is None or found[4] != platform.machine():
        return False
    library, version = platform.libc_ver()
    if library != "glibc":
        return False
    if found["old"] is not None:
        # Any glibc of today will do.
        return True
    return (int(found[2]), int(found[3])) <= tuple(map(int, version.split(".")[:2]))


def pinned(constraints: Path) -> str:
    """Returns the version of torch that a file of constraints pins; "" if it pins none."""
    found = re.search(r"^torch==(\S+)", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def main() -> None:
    """Prints the choice."""
    parser = argparse.ArgumentParser(description="Say where torch is to be taken from.")
    parser.add_argument("--given", default="", help="An index that the user asked for; wins.")
    parser.add_argument("--cpu-index", default=CPU_INDEX, help="The index of builds for CPUs.")
    parser.add_argument("--constraints", type=Path, default=Path("constraints.txt"), help="Pins the version of torch.")
    arguments = parser.parse_args()
    choice = choose(arguments.given, pinned(arguments.constraints), arguments.cpu_index)
    print(choice.reason, file=sys.stderr)
    print(choice.index)


if __name__ == "__main__":
    main()
