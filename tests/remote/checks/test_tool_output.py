"""What boards' tools print is read as they mean it."""

from __future__ import annotations

import pytest

from distredge.remote.checks.tool_output import (
    PowerMode,
    Throttled,
    addresses,
    free_disk,
    listeners,
    memory,
    power_mode,
    power_modes,
    power_save,
    tegrastats,
    throttled,
)
from tests.remote.checks.samples import IP, NVPMODES_ORIN_NANO, PROC_NET_TCP, SS, TEGRASTATS_NANO, TEGRASTATS_ORIN


@pytest.mark.parametrize(
    ("text", "now", "since_start"),
    [
        ("throttled=0x0", (), ()),
        ("throttled=0x1", ("under-voltage",), ()),
        ("throttled=0x50000", (), ("under-voltage", "throttled")),
        ("throttled=0xe0008\n", ("soft temperature limit",),
         ("processor frequency capped", "throttled", "soft temperature limit")),
        ("throttled=0x20002", ("processor frequency capped",), ("processor frequency capped",)),
    ],
)  # fmt: skip
def test_throttled(text: str, now: tuple[str, ...], since_start: tuple[str, ...]) -> None:
    assert throttled(text) == Throttled(now, since_start)


@pytest.mark.parametrize("text", ["", "VCHI initialization failed", "throttled=", "error=1"])
def test_throttled_says_nothing(text: str) -> None:
    assert throttled(text) is None


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", PowerMode("MAXN", 0)),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2", PowerMode("MODE_15W_6CORE", 2)),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: 5W\n1", PowerMode("5W", 1)),
        ("NV Power Mode: 25W", PowerMode("25W", None)),
        ("NVPM ERROR: Error opening /var/lib/nvpmodel/status", None),
        ("", None),
    ],
)
def test_power_mode(text: str, mode: PowerMode | None) -> None:
    assert power_mode(text) == mode


def test_power_modes() -> None:
    assert power_modes(NVPMODES_ORIN_NANO) == {0: "15W", 1: "7W"}
    assert power_modes("<POWER_MODEL ID=8 NAME=MODE_20W_6CORE>") == {8: "MODE_20W_6CORE"}


def test_tegrastats() -> None:
    orin, nano = tegrastats(TEGRASTATS_ORIN), tegrastats(TEGRASTATS_NANO)
    assert orin is not None
    assert nano is not None
    assert (orin.used_bytes, orin.total_bytes) == (2453 * 2**20, 7620 * 2**20)
    assert (orin.cores_on, orin.cores, nano.cores_on, nano.cores) == (4, 6, 2, 4)
    assert orin.heat_c["tj"] == 47.031
    # The regulator's sensor tells a constant.
    assert max(nano.heat_c.values()) == 40.5
    assert tegrastats("") is None


def test_power_save() -> None:
    assert power_save("wlan0 Power save: on\nwlan1 Power save: off\nwlan2 \n") == {"wlan0": True, "wlan1": False}


def test_listeners() -> None:
    assert listeners(SS) == {22: "", 5700: "distredge", 8080: "node"}
    # The second is a connection, not a listener.
    assert listeners(PROC_NET_TCP) == {5700: ""}


def test_addresses() -> None:
    found = addresses(IP)
    assert ("eth0", "192.168.1.11") in found
    assert ("eth0", "fe80::dea6:32ff:fe01:2") in found
    assert ("veth12", "fe80::1") in found
    assert len(found) == 6


def test_memory_and_disk() -> None:
    assert memory("MemTotal:  16 kB\nMemAvailable: 8 kB\nHugePages_Total: 0\n") == {
        "MemTotal": 16384,
        "MemAvailable": 8192,
    }
    assert free_disk("Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda1 10 4 6 40% /\n") == 6144
    assert free_disk("df: no such file") is None
