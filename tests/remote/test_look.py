"""What is said of boards: the real script here, and what keeps a worker from being installed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from distredge.remote.look import LOOK, VENV, read_answer

_PI = {
    "system": "Linux",
    "machine": "aarch64",
    "name": "nano-0",
    "bits": "64",
    "cores": "4",
    "memory_kb": "3884136",
    "free_kb": "20000000",
    "writable": "yes",
    "model": "Raspberry Pi 4 Model B Rev 1.4",
    "l4t": "",
    "user": "pi",
    "python": "3.11 venv managed /usr/bin/python3",
    "linger": "no",
}


def _answer(**other: str | None) -> str:
    return "".join(f"{key}={value}\n" for key, value in {**_PI, **other}.items() if value is not None)


def test_the_script_says_what_is_here(tmp_path: Path) -> None:
    marker = tmp_path / VENV / "distredge-installed"
    marker.parent.mkdir(parents=True)
    marker.write_text("version=0.0.9\nwheel=abc\n")
    done = subprocess.run(
        ["sh", "-c", LOOK], cwd=tmp_path, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    found = read_answer(done.stdout)
    assert found.system == "Linux"
    assert found.bits == 64
    assert found.cores >= 1
    assert found.memory_bytes is not None
    assert found.free_bytes is not None
    assert found.writable
    assert found.installed == {"version": "0.0.9", "wheel": "abc"}
    assert not found.unfinished


def test_a_usual_board_has_no_fault() -> None:
    found = read_answer(_answer())
    assert found.fault() is None
    assert found.python is not None
    assert found.python.managed
    assert found.in_words() == "Raspberry Pi 4 Model B Rev 1.4, 64 bits, 4 cores, 3.7 GiB, 20.5 GB free, Python 3.11"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"system": "Darwin"}, "its system is Darwin"),
        ({"machine": "armv7l", "bits": "32"}, "its processor is armv7l"),
        ({"bits": "32"}, "32 bits under a 64-bit kernel"),
        ({"writable": None}, "home cannot be written"),
        ({"free_kb": "100000"}, "102 MB are free"),
        ({"python": None}, "found Python none, accepted: 3.10 or newer; install one"),
        ({"python": "3.6 venv free /usr/bin/python3", "l4t": "# R32"}, "found Python 3.6, .*Dockerfile.jetpack"),
        ({"python": "3.11 bare managed /usr/bin/python3"}, "sudo apt install python3.11-venv"),
    ],
)
def test_what_keeps_a_worker_out_is_named(other: dict[str, str | None], told: str) -> None:
    fault = read_answer(_answer(**other)).fault()
    assert fault is not None
    assert re.search(told, fault), fault


def test_the_newest_python_that_makes_environments_is_taken() -> None:
    more = "python=3.13 bare free /usr/bin/python3.13\npython=3.12 venv free /usr/bin/python3.12\npython=\n"
    found = read_answer(_answer() + more)
    assert found.python is not None
    assert found.python.path == "/usr/bin/python3.12"
