"""How warm a board is, from what Linux says of its sensors."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from distredge.runtime.worker.thermometer import READ_S, Thermometer


def _zone(folder: Path, number: int, kind: str, milli_c: str) -> None:
    zone = folder / f"thermal_zone{number}"
    zone.mkdir(exist_ok=True)
    (zone / "type").write_text(f"{kind}\n")
    (zone / "temp").write_text(f"{milli_c}\n")


def test_the_hottest_processor_of_a_jetson(tmp_path: Path) -> None:
    """Its power manager always reads 100 degrees, and zones of parts that are asleep cannot be read."""
    _zone(tmp_path, 0, "CPU-therm", "51500")
    _zone(tmp_path, 1, "GPU-therm", "54250")
    _zone(tmp_path, 2, "PMIC-Die", "100000")
    _zone(tmp_path, 3, "CV0-therm", "nothing")
    _zone(tmp_path, 4, "AO-therm", "61000")
    assert Thermometer(zones=tmp_path).read_c() == 54.25


def test_any_other_sensor_where_none_is_known(tmp_path: Path) -> None:
    _zone(tmp_path, 0, "acpitz", "47800")
    _zone(tmp_path, 1, "battery", "60000")
    _zone(tmp_path, 2, "odd", "-274000")
    assert Thermometer(zones=tmp_path).read_c() == 47.8


def test_it_is_read_once_a_second(tmp_path: Path) -> None:
    now_s = [5.0]
    _zone(tmp_path, 0, "cpu_thermal", "40000")
    found = Thermometer(lambda: now_s[0], tmp_path)
    assert found.read_c() == 40.0
    _zone(tmp_path, 0, "cpu_thermal", "41000")
    assert found.read_c() == 40.0
    now_s[0] += READ_S
    assert found.read_c() == 41.0


def test_without_zones_what_psutil_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sensor:
        current = 66.0

    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: {"k10temp": [Sensor]}, raising=False)
    assert Thermometer(zones=tmp_path).read_c() == 66.0
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    assert Thermometer(zones=tmp_path).read_c() is None


def test_a_sensor_that_fails_is_not_the_workers_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, list[object]]:
        raise RuntimeError("no such chip")

    monkeypatch.setattr(psutil, "sensors_temperatures", broken, raising=False)
    assert Thermometer(zones=tmp_path).read_c() is None
