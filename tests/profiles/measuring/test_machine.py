"""What the system tells of a board, read from a folder that stands for /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from distredge.model.capture import load_model
from distredge.profiles.measuring import bench
from distredge.profiles.measuring.machine import describe, largest_cache_bytes, throttled


def _caches(root: Path, *sizes: str) -> Path:
    for index, size in enumerate(sizes):
        folder = root / f"devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    return root


@pytest.mark.parametrize(
    ("sizes", "wanted"), [(("32K", "48K", "1024K"), 1 << 20), (("64K", "4M"), 4 << 20), ((), 0), (("odd",), 0)]
)
def test_the_largest_cache_is_found(tmp_path: Path, sizes: tuple[str, ...], wanted: int) -> None:
    assert largest_cache_bytes(_caches(tmp_path, *sizes)) == wanted


def test_throttling_is_counted(tmp_path: Path) -> None:
    assert throttled(tmp_path) is None
    folder = tmp_path / "devices/system/cpu/cpu0/thermal_throttle"
    folder.mkdir(parents=True)
    (folder / "core_throttle_count").write_text("0\n")
    assert throttled(tmp_path) is False
    (folder / "core_throttle_count").write_text("3\n")
    assert throttled(tmp_path) is True


def test_clock_and_governor_are_written_down(tmp_path: Path) -> None:
    folder = tmp_path / "devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_governor").write_text("ondemand\n")
    (folder / "scaling_cur_freq").write_text("1500000\n")
    board = describe(2, tmp_path)
    assert (board.governor, board.clock_hz, board.threads) == ("ondemand", 1.5e9, 2)


def test_memory_that_ages_caches_is_no_more_than_a_frame_and_the_caches_ask_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = load_model("mobilenet-v2", (1, 3, 32, 32), width=0.25)
    bench._old_memory.cache_clear()
    try:
        monkeypatch.setattr(bench, "largest_cache_bytes", lambda: 1 << 20)
        assert bench._old_memory().nbytes == 8 << 20
        assert bench.bytes_between(graph) == min(2 * bench.graph_bytes(graph), 8 << 20)
        bench._old_memory.cache_clear()
        monkeypatch.setattr(bench, "largest_cache_bytes", lambda: 480 << 20)
        assert bench._old_memory().nbytes == 128 << 20
        assert bench.bytes_between(graph) == 2 * bench.graph_bytes(graph)
    finally:
        bench._old_memory.cache_clear()
