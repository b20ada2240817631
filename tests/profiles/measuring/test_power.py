"""Power sensors, read from made-up system folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from distredge.profiles.measuring.power import find_sensor, pmic_w

PMIC = """\
 3V7_WL_SW_A current(0)=0.10000000A
   1V8_SYS_A current(2)=0.20000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   1V8_SYS_V volt(10)=1.80000000V
    EXT5V_V volt(24)=5.10000000V
"""


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


def test_ina3221_reads_the_modules_input_and_nothing_twice(tmp_path: Path) -> None:
    write(
        tmp_path / "class/hwmon/hwmon3",
        name="ina3221",
        in1_label="VDD_IN",
        in1_input="5000",
        curr1_input="2000",
        in2_label="VDD_CPU_GPU_CV",
        in2_input="5000",
        curr2_input="900",
    )
    sensor = find_sensor(tmp_path)
    assert sensor is not None
    assert (sensor.name, sensor.where) == ("INA3221", "module")
    assert sensor.mean_w(0.0) == pytest.approx(10.0)


def test_ina3221_without_an_input_channel_adds_its_rails(tmp_path: Path) -> None:
    write(tmp_path / "class/hwmon/hwmon0", name="coretemp")
    write(
        tmp_path / "class/hwmon/hwmon1",
        name="ina3221",
        in1_label="GPU",
        in1_input="1000",
        curr1_input="3000",
        in2_label="CPU",
        in2_input="1000",
        curr2_input="500",
    )
    sensor = find_sensor(tmp_path)
    assert sensor is not None
    assert sensor.where == "rail"
    assert sensor.mean_w(0.0) == pytest.approx(3.5)


def test_the_older_jetson_driver(tmp_path: Path) -> None:
    write(
        tmp_path / "bus/i2c/drivers/ina3221x/6-0040/iio:device0",
        rail_name_0="POM_5V_IN",
        in_power0_input="4321",
        rail_name_1="POM_5V_GPU",
        in_power1_input="1000",
    )
    sensor = find_sensor(tmp_path)
    assert sensor is not None
    assert sensor.mean_w(0.0) == pytest.approx(4.321)


def test_rapl_counts_packages_not_their_parts_and_survives_the_wrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "class/powercap/intel-rapl:0"
    write(package, name="package-0", energy_uj="900", max_energy_range_uj="1000")
    write(tmp_path / "class/powercap/intel-rapl:0:0", name="core", energy_uj="1", max_energy_range_uj="1000")
    sensor = find_sensor(tmp_path)
    assert sensor is not None
    assert sensor.name == "RAPL"
    times = iter([10.0, 12.0])
    monkeypatch.setattr("distredge.profiles.measuring.power.time.perf_counter", lambda: next(times))
    monkeypatch.setattr(
        "distredge.profiles.measuring.power.time.sleep", lambda s: (package / "energy_uj").write_text("300")
    )
    assert sensor.mean_w(2.0) == pytest.approx(400e-6 / 2)


def test_no_sensor_or_one_that_does_not_answer_is_none(tmp_path: Path) -> None:
    assert find_sensor(tmp_path) is None
    write(tmp_path / "class/powercap/intel-rapl:0", name="package-0", energy_uj="none")
    assert find_sensor(tmp_path) is None


def test_the_raspberry_pi_5s_rails_are_added_and_corrected() -> None:
    assert pmic_w(PMIC) == pytest.approx(1.1451 * (0.37 + 0.36) + 0.5879)
    with pytest.raises(ValueError, match="no rail"):
        pmic_w("error")
