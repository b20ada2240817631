"""Where `make install` takes torch from: decided by the GPU that is there and the index that answers."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "torch_index.py"
VERSION = "2.13.0"
OWN = f"cp{sys.version_info[0]}{sys.version_info[1]}"
OTHERS = "torch-2.12.0%2Bcpu-cp27-cp27mu-linux_ppc64le.whl"
"""Of which nobody has use."""

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="needs the repository")


@pytest.fixture(scope="module")
def torch_index() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torch_index", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def index() -> Iterator[str]:
    """An index as pip reads them, with one build of torch."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/whl/cpu/torch/"
            self.send_response(200 if found else 404)
            self.end_headers()
            names = [f"torch-{VERSION}%2Bcpu-{OWN}-{OWN}-manylinux_2_5_{platform.machine()}.whl", OTHERS]
            page = "".join(f'<a href="/whl/cpu/{name}">{name}</a>' for name in names)
            self.wfile.write(page.encode() if found else b"")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/whl/cpu"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No programs but those that a test puts there, Linux, no proxy."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_without_a_gpu_the_index_for_cpus_is_taken(torch_index: ModuleType, index: str, bare: Path) -> None:
    choice = torch_index.choose("", VERSION, index, bare)
    assert choice.index == index
    assert "no NVIDIA GPU is here" in choice.reason


@pytest.mark.parametrize("file", ["dev/nvidia0", "etc/nv_tegra_release"])
def test_with_a_gpu_pips_own_index_is_taken(torch_index: ModuleType, index: str, bare: Path, file: str) -> None:
    (bare / file).parent.mkdir()
    (bare / file).touch()
    choice = torch_index.choose("", VERSION, index, bare)
    assert choice.index == ""
    assert f"(/{file})" in choice.reason


@pytest.mark.parametrize(
    ("text", "is_there"),
    [("echo 'GPU 0: NVIDIA T4 (UUID: GPU-1)'", True), ("echo 'No devices were found'; exit 6", False)],
)
def test_nvidia_smi_is_asked(torch_index: ModuleType, bare: Path, text: str, is_there: bool) -> None:
    program(bare, "nvidia-smi", text)
    assert bool(torch_index.nvidia_gpu(bare)) is is_there


def test_what_the_user_names_wins(torch_index: ModuleType, bare: Path) -> None:
    assert torch_index.choose("https://example.org/simple", VERSION, "http://127.0.0.1:9", bare).index == (
        "https://example.org/simple"
    )


def test_other_systems_have_no_cuda_to_avoid(
    torch_index: ModuleType, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    choice = torch_index.choose("", VERSION, "http://127.0.0.1:9", bare)
    assert (choice.index, "Darwin" in choice.reason) == ("", True)


def test_an_index_that_refuses_is_named(torch_index: ModuleType, bare: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        choice = torch_index.choose("", VERSION, f"http://127.0.0.1:{bound.getsockname()[1]}", bare)
    assert choice.index == ""
    assert "cannot be reached" in choice.reason
    assert "may bring CUDA" in choice.reason


def test_an_index_that_is_silent_is_waited_for_no_longer_than_said(torch_index: ModuleType) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        trouble = torch_index.unusable(f"http://127.0.0.1:{silent.getsockname()[1]}", VERSION, 0.3)
    assert "0.3 s" in trouble or "timed out" in trouble


def test_an_index_that_speaks_no_http_is_named(torch_index: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as peer:
                peer.recv(4096)
                peer.sendall(b"SSH-2.0-other\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        said = torch_index.unusable(f"http://127.0.0.1:{server.getsockname()[1]}/whl", VERSION, 30.0)
        thread.join()
    assert said.startswith("cannot be reached (SSH-2.0-other")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("path", "version", "told"),
    [
        ("", "9.9.9", "has no torch 9.9.9"),
        ("", "2.13", "has no torch 2.13"),
        ("", "2.12.0", f"has no torch 2.12.0 for Python {sys.version_info[0]}.{sys.version_info[1]} on "),
        ("/elsewhere", VERSION, "cannot be reached"),
    ],
)
def test_an_index_without_the_version_is_not_taken(
    torch_index: ModuleType, index: str, path: str, version: str, told: str
) -> None:
    assert torch_index.unusable(index, VERSION) == ""
    assert torch_index.unusable(index, "") == ""
    assert torch_index.unusable(index + path, version).startswith(told)


@pytest.mark.parametrize(
    ("tags", "fits"),
    [
        ("cp311-cp311-manylinux_2_28_x86_64", True),
        ("cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64", True),
        ("cp310-abi3-manylinux_2_17_x86_64", False),
        ("cp311-cp311t-manylinux_2_28_x86_64", False),
        ("cp311-cp311-manylinux_2_39_x86_64", False),
        ("cp311-cp311-manylinux_2_28_aarch64", False),
        ("cp311-cp311-win_amd64", False),
        ("cp311-cp311-linux_x86_64", True),
        ("py3-none-any", True),
    ],
)
def test_a_wheel_is_for_this_python_processor_and_library(
    torch_index: ModuleType, monkeypatch: pytest.MonkeyPatch, tags: str, fits: bool
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 2))
    monkeypatch.setattr(sys, "abiflags", "")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    assert torch_index.fits(f"torch-{VERSION}+cpu-{tags}.whl") is fits
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert torch_index.fits(f"torch-{VERSION}+cpu-{tags}.whl") is (fits and tags.endswith("any"))


def test_the_pinned_version_is_read(torch_index: ModuleType, tmp_path: Path) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", torch_index.pinned(ROOT / "constraints.txt"))
    (tmp_path / "c.txt").write_text("torchvision==1\n")
    assert torch_index.pinned(tmp_path / "c.txt") == ""


def test_what_make_reads(index: str) -> None:
    command = [sys.executable, str(SCRIPT), "--constraints", str(ROOT / "constraints.txt"), "--given", index]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=dict(os.environ))
    assert done.stdout == f"{index}\n"
    assert done.stderr.count("\n") == 1
