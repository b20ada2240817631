"""Power sensors that software can read: INA3221 (Jetson), the Raspberry Pi 5's PMIC, RAPL (Intel and AMD).

The Raspberry Pi 4 and older have none. Figures are watts of the whole module where the sensor sees it, else of the
processor; `where` says which.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SYS = Path("/sys")
_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "5V_IN", "VDD_MUX", "SYS_VIN")
"""INA3221 channels that carry the module's whole input; the others are parts of it and must not be added to it."""


@dataclass(frozen=True)
class Sensor:
    """A power sensor.

    Attributes:
        name: which one.
        where: "module", "package" or "rail".
        mean_w: returns the mean watts over so many seconds.
    """

    name: str
    where: str
    mean_w: Callable[[float], float]


def find_sensor(root: Path = SYS) -> Sensor | None:
    """Returns the first sensor that answers, or None."""
    return _ina3221(root) or _old_ina3221(root) or _pi5() or _rapl(root)


def _number(path: Path) -> float:
    return float(path.read_text().strip())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _sampled(read_w: Callable[[], float], every_s: float = 0.05) -> Callable[[float], float]:
    def mean_w(seconds: float) -> float:
        values = [read_w()]
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop:
            time.sleep(every_s)
            values.append(read_w())
        return sum(values) / len(values)

    return mean_w


def _answers(read_w: Callable[[], float]) -> bool:
    try:
        read_w()
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    return True


def _ina3221(root: Path) -> Sensor | None:
    """hwmon: in[123]_input in mV, curr[123]_input in mA, in[123]_label (kernel.org, Documentation/hwmon/ina3221)."""
    for folder in sorted(root.glob("class/hwmon/hwmon*")):
        if _text(folder / "name") != "ina3221":
            continue
        labels = {_text(folder / f"in{i}_label"): i for i in (1, 2, 3) if (folder / f"curr{i}_input").exists()}
        total = [labels[rail] for rail in _TOTAL_RAILS if rail in labels]
        channels = total[:1] or sorted(labels.values())
        if not channels:
            continue

        def read_w(folder: Path = folder, channels: list[int] = channels) -> float:
            return sum(_number(folder / f"in{i}_input") * _number(folder / f"curr{i}_input") for i in channels) * 1e-6

        if _answers(read_w):
            return Sensor("INA3221", "module" if total else "rail", _sampled(read_w))
    return None


def _old_ina3221(root: Path) -> Sensor | None:
    """L4T before JetPack 5: rail_name_N and in_powerN_input in mW below the I2C driver."""
    for folder in sorted(root.glob("bus/i2c/drivers/ina3221x/*/iio:device*")):
        for i in (0, 1, 2):
            if _text(folder / f"rail_name_{i}") not in _TOTAL_RAILS:
                continue
            path = folder / f"in_power{i}_input"

            def read_w(path: Path = path) -> float:
                return _number(path) * 1e-3

            if _answers(read_w):
                return Sensor("INA3221", "module", _sampled(read_w))
    return None


def pmic_w(text: str) -> float:
    """Returns the watts that `vcgencmd pmic_read_adc` shows.

    The chip tells volts and amperes of its outputs, not of its input: 1.1451 * sum(V * I) + 0.5879 estimates that
    (pitop documentation). Devices on USB and the 5 V rail are not seen.

    Raises:
        ValueError: if the text holds no rail.
    """
    found: dict[str, dict[str, float]] = {"current": {}, "volt": {}}
    for name, kind, value in re.findall(r"(\w+)_[AV] (current|volt)\(\d+\)=([\d.]+)[AV]", text):
        found[kind][name] = float(value)
    rails = found["current"].keys() & found["volt"].keys()
    if not rails:
        raise ValueError("no rail in the output of vcgencmd pmic_read_adc")
    return 1.1451 * sum(found["current"][r] * found["volt"][r] for r in rails) + 0.5879


def _pi5() -> Sensor | None:
    if shutil.which("vcgencmd") is None:
        return None

    def read_w() -> float:
        done = subprocess.run(["vcgencmd", "pmic_read_adc"], capture_output=True, text=True, timeout=5, check=True)
        return pmic_w(done.stdout)

    return Sensor("Raspberry Pi 5 PMIC", "module", _sampled(read_w, 0.2)) if _answers(read_w) else None


def _rapl(root: Path) -> Sensor | None:
    """Energy counters of every processor package, in microjoules, that wrap at max_energy_range_uj."""
    folders = [f for f in sorted(root.glob("class/powercap/intel-rapl:*")) if f.name.count(":") == 1]
    folders = [f for f in folders if _text(f / "name").startswith("package")]

    def energies() -> list[float]:
        return [_number(f / "energy_uj") for f in folders]

    def mean_w(seconds: float) -> float:
        before, begin = energies(), time.perf_counter()
        time.sleep(seconds)
        passed = time.perf_counter() - begin
        used = 0.0
        for folder, first, last in zip(folders, before, energies(), strict=True):
            used += last - first if last >= first else last - first + _number(folder / "max_energy_range_uj")
        return used * 1e-6 / passed

    return Sensor("RAPL", "package", mean_w) if folders and _answers(lambda: sum(energies())) else None
