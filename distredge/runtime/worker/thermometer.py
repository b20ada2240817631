"""How warm a board is, from Linux's thermal zones, or else from what psutil finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

ZONES: Final = Path("/sys/class/thermal")

READ_S: Final = 1.0
"""Between two readings: some sensors take milliseconds."""

_PROCESSORS: Final = ("cpu", "gpu", "soc", "pkg", "core", "k10temp", "zenpower", "tj", "big", "little")
"""Parts of the names of sensors that sit where a board computes."""

_OTHERS: Final = ("pmic", "batt", "charger", "wifi", "iwl", "nvme")
"""The same of those that say nothing of it: a Jetson's power manager always reads 100 degrees."""

_LOWEST_C, _HIGHEST_C = -40.0, 150.0


class Thermometer:
    """Reads the hottest processor sensor; the hottest of all where none is known to be one.

    Args:
        clock: monotonic, seconds.
        zones: folder of thermal zones.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, zones: Path = ZONES) -> None:
        self._clock = clock
        self._zones = zones
        self._read_s = float("-inf")
        self._latest_c: float | None = None

    def read_c(self) -> float | None:
        """Degrees Celsius, a second old at most; None where there is no sensor."""
        now_s = self._clock()
        if now_s >= self._read_s + READ_S:
            self._read_s = now_s
            self._latest_c = _hottest_c([*_zones(self._zones)] or [*_sensors()])
        return self._latest_c


def _hottest_c(readings: list[tuple[str, float]]) -> float | None:
    told = [(name.lower(), c) for name, c in readings if _LOWEST_C < c < _HIGHEST_C]
    of_processors = [c for name, c in told if any(part in name for part in _PROCESSORS)]
    rest = [c for name, c in told if not any(part in name for part in _OTHERS)]
    return max(of_processors or rest, default=None)


def _zones(folder: Path) -> Iterator[tuple[str, float]]:
    """Name and degrees of every thermal zone that can be read; a Jetson refuses those of parts that are asleep."""
    for zone in folder.glob("thermal_zone*"):
        try:
            yield (zone / "type").read_text().strip(), int((zone / "temp").read_text()) / 1000.0
        except (OSError, ValueError):
            continue


def _sensors() -> Iterator[tuple[str, float]]:
    import psutil

    # Not on every system.
    read: Callable[[], Mapping[str, Any]] = getattr(psutil, "sensors_temperatures", dict)
    try:
        found = read()
    except Exception:  # drivers of sensors are what they are; a worker computes without them
        return
    for chip, sensors in found.items():
        for sensor in sensors:
            yield chip, sensor.current
