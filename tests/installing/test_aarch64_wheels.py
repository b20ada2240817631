"""A worker's packages are to be had for 64-bit ARM boards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installing.aarch64 import requirements, resolve


def test_markers_are_worked_out_for_the_boards_python() -> None:
    assert any(line.startswith("tomli") for line in requirements("3.10"))
    assert not any(line.startswith("tomli") for line in requirements("3.11"))
    assert any(line.startswith("onnxruntime") for line in requirements("3.13"))


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_wheels_of_a_worker_resolve(python: str, tmp_path: Path) -> None:
    wheels = resolve(python, tmp_path)
    compiled = [name for name in wheels if not name.endswith("-none-any.whl")]
    assert all("aarch64" in name for name in compiled), compiled
    for package in ("numpy", "onnx", "onnxruntime", "pyzmq", "msgspec", "psutil", "pillow"):
        assert any(name.startswith(f"{package}-") for name in compiled), package
    assert not any(name.startswith(("torch-", "scipy-", "numba-", "nvidia")) for name in wheels)
