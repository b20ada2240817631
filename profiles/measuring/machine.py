"""The board that measures: what it is, which cores are quiet, how hot and how busy it is, and its pace."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from distredge.processors import usable_cores
from distredge.profiles.schema import Board

SYS = Path("/sys")
_LOOK_S = 0.2


def describe(threads: int, root: Path = SYS) -> Board:
    """Returns the board as far as the system tells."""
    return Board(
        name=_board_name(),
        processor=_processor(),
        power_mode=_power_mode(),
        clock_hz=_clock_hz(root),
        governor=_read(root / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        threads=threads,
        cores=usable_cores(),
        temperature_c=temperature_c(),
        throttled=throttled(root),
    )


def largest_cache_bytes(root: Path = SYS) -> int:
    """Returns the size of the largest cache that the first core reads through; 0 where the system does not tell."""
    sizes = [_read(path) for path in root.glob("devices/system/cpu/cpu0/cache/index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return max((int(s[:-1]) * units[s[-1]] for s in sizes if s[:-1].isdigit() and s[-1] in units), default=0)


def temperature_c() -> float | None:
    """Returns the highest temperature that a sensor shows."""
    read = getattr(psutil, "sensors_temperatures", None)
    found = [s.current for sensors in (read() if read else {}).values() for s in sensors if 0 < s.current < 150]
    return max(found, default=None)


def throttled(root: Path = SYS) -> bool | None:
    """Returns whether the board says that it has slowed itself down since it started; None when it cannot say."""
    flags = _command("vcgencmd", "get_throttled").partition("=")[2].strip()
    if flags.startswith("0x"):
        # Bits 1 to 3 are now, 17 to 19 since the start: frequency capped, throttled, soft temperature limit.
        return bool(int(flags, 16) & 0xE000E)
    counts = [_read(p) for p in root.glob("devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")]
    numbers = [int(c) for c in counts if c.isdigit()]
    return any(numbers) if numbers else None


def quiet_cores(count: int) -> tuple[int, ...]:
    """Returns the least busy of the cores that this process may use."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    busy = psutil.cpu_percent(interval=_LOOK_S, percpu=True)
    order = sorted(allowed, key=lambda core: (busy[core] if core < len(busy) else 0.0, -core))
    return tuple(order[:count])


@contextlib.contextmanager
def pinned(threads: int, pid: int | None = None) -> Iterator[tuple[int, ...]]:
    """Keeps this process, and the threads it starts meanwhile, on the quietest cores.

    Args:
        threads: cores.
        pid: of a process beside it, whose threads are kept there, too; None: of none.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    before = os.sched_getaffinity(0)
    cores = quiet_cores(threads)
    os.sched_setaffinity(0, cores)
    for thread in Path(f"/proc/{pid}/task").glob("*") if pid is not None else ():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, before)


@dataclass
class Watch:
    """Follows how undisturbed the machine is, by timing a fixed kernel now and then.

    The kernel is a matrix product that stays in the processor's cache: it slows down when the clock falls, when
    another program takes the core, or when a virtual machine's host is busy.
    """

    seconds: list[float] = field(default_factory=list)
    _matrix: np.ndarray[tuple[int, int], np.dtype[np.float32]] = field(init=False, repr=False)
    _started: float = field(default_factory=time.perf_counter)
    _cpu: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        # Small enough that the linear algebra library does not start threads of its own.
        self._matrix = rng.standard_normal((64, 64), dtype=np.float32)
        self._out = np.empty_like(self._matrix)
        self._cpu = _cpu_seconds()
        for _ in range(3):
            self.look()

    def look(self) -> float:
        """Times the kernel; returns its time over its best so far (1 when undisturbed)."""
        times = []
        for _ in range(9):
            begin = time.perf_counter()
            for _ in range(16):
                np.dot(self._matrix, self._matrix, out=self._out)
            times.append(time.perf_counter() - begin)
        self.seconds.append(float(np.median(times)))
        return self.seconds[-1] / self._best_s

    @property
    def _best_s(self) -> float:
        # Not the smallest, which one lucky moment decides.
        return float(np.quantile(self.seconds, 0.1))

    @property
    def pace(self) -> float:
        """95th percentile of the kernel's time over its best."""
        return float(np.quantile(self.seconds, 0.95)) / self._best_s

    @property
    def load(self) -> float:
        """Share of all processors that other programs have used since the watch began, 0 to 1."""
        busy, own = _cpu_seconds()
        passed = (time.perf_counter() - self._started) * (psutil.cpu_count() or 1)
        others = (busy - self._cpu[0]) - (own - self._cpu[1])
        return min(1.0, max(0.0, others / max(passed, 1e-9)))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _board_name() -> str:
    # A device tree names the board on Arm; DMI does on a PC.
    model = _read(Path("/proc/device-tree/model"))
    if model:
        return model
    vendor, product = (_read(SYS / "class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    return f"{vendor} {product}".strip() or platform.node() or platform.machine()


def _processor() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return f"{value.strip()}, {psutil.cpu_count() or 1} cores"
    return f"{platform.machine()}, {psutil.cpu_count() or 1} cores"


def _power_mode() -> str:
    lines = _command("nvpmodel", "-q").splitlines()
    found = [line.partition(":")[2].strip() for line in lines if "Power Mode" in line]
    return found[0] if found else ""


def _clock_hz(root: Path) -> float | None:
    text = _read(root / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if text.isdigit():
        return float(text) * 1e3
    try:
        current = float(psutil.cpu_freq().current)
    except (AttributeError, NotImplementedError, OSError):
        return None
    return current * 1e6 if current > 0 else None


def _command(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _cpu_seconds() -> tuple[float, float]:
    total = psutil.cpu_times()
    busy = sum(total) - total.idle - getattr(total, "iowait", 0.0) - getattr(total, "guest", 0.0)
    mine = 0.0
    # An engine's process is this program's.
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            mine += times.user + times.system
    return float(busy), mine
