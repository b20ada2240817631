"""What a worker takes on a board stays within its goals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distredge.experiments.bench import lean_worker

ROOT = Path(__file__).resolve().parents[2]


def test_sizes_are_those_of_files(tmp_path: Path) -> None:
    for name, size in (("big/a", 3_000_000), ("big.libs/b", 1_000_000), ("small/c", 10_000), ("big-1.dist-info/d", 9)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "small" / "link").symlink_to(tmp_path / "big" / "a")
    assert lean_worker.largest(tmp_path) == {"big": 4.0, "small": 0.0}
    assert lean_worker.size_mb(tmp_path / "big") == 3.0


@pytest.mark.slow
def test_a_worker_is_lean() -> None:
    script = ROOT / "experiments" / "bench" / "lean_worker.py"
    if not script.exists() or not sys.platform.startswith("linux"):
        pytest.skip("needs the repository and Linux")
    done = subprocess.run(
        [sys.executable, script, "--quick"], capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert 50 < found["worker_install_mb"] <= found["install_goal_mb"]
    assert 10 < found["worker_idle_mb"] <= found["idle_goal_mb"]
