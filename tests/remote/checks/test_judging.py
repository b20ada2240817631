"""What is judged of facts: findings, their state, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from distredge.cluster import Cluster, Device, Link, Requester
from distredge.cluster_file import BoardEntry
from distredge.profiles.compute import ComputeProfile, load_shipped
from distredge.profiles.schema import Board, Runtime
from distredge.remote.checks.facts import EngineFacts, Facts, read_facts
from distredge.remote.checks.findings import Finding
from distredge.remote.checks.profiles import check_profile
from distredge.remote.checks.settings import check_engine, check_installed, check_keys, check_settings
from distredge.remote.checks.surroundings import (
    check_clock,
    check_interfaces,
    check_names,
    check_ports,
    check_reach,
    virtual,
    written_bps,
)
from distredge.remote.checks.tool_output import PowerMode
from tests.remote.checks.samples import ORIN, PI

PROFILE = load_shipped("default:pi4")
GIGABIT, SLOW = Link(1e9), Link(50e6)


def device(name: str = "pi-0", address: str = "192.168.1.11", link: Link = SLOW, threads: int = 4) -> Device:
    return Device(name, PROFILE, link, link, address, threads=threads)


def by_what(findings: Iterable[Finding]) -> dict[str, Finding]:
    found = list(findings)
    made = {finding.what: finding for finding in found}
    assert len(made) == len(found)
    return made


@pytest.fixture
def pi() -> Facts:
    return read_facts(PI)


@pytest.fixture
def orin() -> Facts:
    return read_facts(ORIN)


def test_a_pi_in_trouble(pi: Facts) -> None:
    found = by_what(check_settings(device(threads=6), pi))
    assert {what: finding.state for what, finding in found.items()} == {
        "system": "bad",
        "python": "warning",
        "disk": "warning",
        "cores": "warning",
        "governor": "warning",
        "temperature": "bad",
        "throttling": "bad",
        "Wi-Fi": "warning",
        "memory": "ok",
    }
    assert "32-bit programs under a 64-bit kernel" in found["system"].detail
    assert "64-bit system" in found["system"].todo
    assert "venv" in found["python"].todo
    assert found["throttling"].detail == "now: under-voltage, throttled"
    assert "supply" in found["throttling"].todo
    assert found["temperature"].detail == "82 degrees at cpu-thermal; slowed down to cool: cpufreq-cpu0 by 25 %"
    assert "iw dev wlan0 set power_save off" in found["Wi-Fi"].todo
    assert "write threads = 4" in found["cores"].todo


def test_a_jetson_that_is_not_at_its_fastest(orin: Facts) -> None:
    found = by_what(check_settings(device("orin-0"), orin))
    assert {what for what, finding in found.items() if finding.state != "ok"} == {
        "governor",
        "power mode",
        "jetson_clocks",
    }
    assert found["power mode"].detail == "7W, 4 of 6 cores on: not the fastest"
    assert "sudo nvpmodel -m 0 (15W)" in found["power mode"].todo
    assert "sudo jetson_clocks" in found["jetson_clocks"].todo
    # A sensor that is off does not count.
    assert found["temperature"].detail == "47 degrees at cpu-thermal"
    fixed = replace(
        orin,
        governors=("performance",),
        frequencies_hz=((1.5104e9, 1.5104e9, 1.5104e9),),
        power_modes={0: "15W", 2: "MAXN_SUPER"},
        power_mode=PowerMode("MAXN_SUPER", 2),
    )
    assert {finding.state for finding in check_settings(device("orin-0"), fixed)} == {"ok"}


def test_old_pythons_and_other_processors(orin: Facts) -> None:
    old = replace(orin, pythons=("3.6.9",))
    assert "Old boards" in by_what(check_settings(device(), old))["python"].todo
    none = replace(orin, pythons=(), l4t="")
    assert by_what(check_settings(device(), none))["python"].detail.startswith("Python none")
    arm = replace(orin, architecture="armv7l", bits=32)
    assert "no wheels of ONNX Runtime" in by_what(check_settings(device(), arm))["system"].todo


def test_since_the_start_is_a_warning(pi: Facts) -> None:
    before = replace(pi, throttled=read_facts(PI.replace("0x50005", "0x50000")).throttled, cooled={}, heat_c={})
    found = by_what(check_settings(device(), before))
    assert (found["throttling"].state, "temperature" in found) == ("warning", False)
    silent = by_what(check_settings(device(), replace(pi, throttled=None)))
    assert "usermod -aG video" in silent["throttling"].todo


@pytest.mark.parametrize(("need", "state"), [(100e6, "ok"), (2.6e9, "warning"), (3.5e9, "bad")])
def test_memory_for_a_plan(pi: Facts, need: float, state: str) -> None:
    assert by_what(check_settings(device(), pi, int(need)))["memory"].state == state


def test_memory_that_the_cluster_file_promises(pi: Facts) -> None:
    greedy = replace(device(), memory_bytes=8 * 10**9)
    assert by_what(check_settings(greedy, pi))["memory"].state == "bad"


def test_interfaces(pi: Facts) -> None:
    def one(address: str | None, link: Link = SLOW, facts: Facts = pi) -> Finding:
        (found,) = check_interfaces(device(link=link), facts, address)
        return found

    assert (one("192.168.1.11").state, one("192.168.1.11").detail) == (
        "ok",
        "192.168.1.11 is at eth0, 100 Mbit/s",
    )
    slow = one("192.168.1.11", GIGABIT)
    assert (slow.state, "the cluster file has 1000 Mbit/s" in slow.detail) == ("bad", True)
    assert one("192.168.1.12").detail == "192.168.1.12 is at wlan0, Wi-Fi"
    bridge = one("172.17.0.1")
    assert (bridge.state, "docker0, a bridge of containers" in bridge.detail) == ("bad", True)
    assert 'address = "192.168.1.11" (eth0)' in bridge.todo
    lost = one("192.168.1.99")
    assert (lost.state, lost.detail) == (
        "bad",
        "no interface has 192.168.1.99; there are: eth0 192.168.1.11, wlan0 192.168.1.12",
    )
    assert one("127.0.0.1").state == "ok"
    assert list(check_interfaces(device(), pi, None)) == []
    cable = replace(pi, interfaces=(replace(pi.interfaces[1], name="l4tbr0"),))
    assert one("192.168.1.11", SLOW, cable).state == "warning"


@pytest.mark.parametrize(
    ("name", "is_virtual"),
    [("docker0", True), ("br-1f3c", True), ("virbr0", True), ("usb0", True), ("wg0", True), ("eth0", False),
     ("enp3s0", False), ("wlan0", False), ("end0", False)],
)  # fmt: skip
def test_virtual_interfaces(name: str, is_virtual: bool) -> None:
    assert bool(virtual(name)) is is_virtual


def test_ports(pi: Facts, orin: Facts) -> None:
    (taken,) = check_ports(device(), pi, False)
    assert (taken.state, taken.detail) == ("bad", "taken, and no worker answers: 5700 by distredge")
    (free,) = check_ports(replace(device(), control_port=6000, data_port=6001), pi, False)
    assert (free.state, free.detail) == ("ok", "6000, 6001 are free there")
    assert list(check_ports(device(), pi, True)) == []
    # Where nobody's listeners are told, nothing is known.
    assert list(check_ports(device(), orin, False)) == []


@pytest.fixture
def cluster() -> Cluster:
    others = (device("nano-0", "nano-0"), device("tx2-0", "tx2-0.local"), device("b", "192.168.1.13"))
    return Cluster("c", Requester(), (device(), *others, device("c", "192.168.1.14")))


def test_names(cluster: Cluster, pi: Facts) -> None:
    (found,) = check_names(cluster, cluster.device("pi-0"), pi)
    assert found.state == "bad"
    assert "'nano-0' is the board itself there (127.0.1.1)" in found.detail
    assert "'tx2-0.local' has no address there" in found.detail
    known = replace(pi, names={"nano-0": ("192.168.1.20",), "tx2-0.local": ("192.168.1.21",)})
    assert [finding.state for finding in check_names(cluster, cluster.device("pi-0"), known)] == ["ok"]


def test_reach(cluster: Cluster, pi: Facts) -> None:
    (found,) = check_reach(cluster, cluster.device("pi-0"), pi, dict.fromkeys(cluster.names, True))
    assert (found.state, found.detail) == ("bad", "does not reach b (port 5701)")
    # A worker that does not run is not the network's fault.
    (found,) = check_reach(cluster, cluster.device("pi-0"), pi, {**dict.fromkeys(cluster.names, True), "b": False})
    assert (found.state, found.detail) == ("ok", "reaches c")


@pytest.mark.parametrize(
    ("before_s", "after_s", "state", "said"),
    [
        (1795956254.0, 1795956254.5, "ok", "+0.00 s (give or take 0.25 s)"),
        (1795956244.0, 1795956244.5, "warning", "+10.00 s"),
        (1795956264.0, 1795956264.5, "warning", "-10.00 s"),
        (1895956264.0, 1895956264.5, "bad", "it says 2026-11-29, not set by the network: downloads by https fail"),
    ],
)
def test_clock(pi: Facts, before_s: float, after_s: float, state: str, said: str) -> None:
    (found,) = check_clock(device(), pi, before_s, after_s)
    assert (found.state, said in found.detail) == (state, True), found


def test_what_is_installed_and_which_keys(orin: Facts, pi: Facts) -> None:
    one = device()
    (same,) = check_installed(one, orin, "0.1.0", "c.toml")
    (other,) = check_installed(one, orin, "0.2.0", "c.toml")
    assert (same.state, other.state) == ("ok", "bad")
    assert "distredge cluster upgrade c.toml" in other.todo
    assert list(check_installed(one, pi, "0.1.0", "c.toml")) == []
    assert [f.state for f in check_keys(one, orin, "00ff", "c.toml")] == ["ok"]
    assert [f.state for f in check_keys(one, orin, "11ee", "c.toml")] == ["bad"]
    assert list(check_keys(one, pi, "00ff", "c.toml")) == []


def measured(**board: Any) -> Device:
    origin = msgspec.structs.replace(PROFILE.data.origin, kind="measured")
    about = Board(name="Orin", governor="performance", power_mode="15W", threads=4)
    data = msgspec.structs.replace(
        PROFILE.data,
        origin=origin,
        operators={},
        coefficients=None,
        device=msgspec.structs.replace(about, **board),
        runtime=Runtime(name="onnxruntime", version="1.30.0"),
    )
    return replace(device("orin-0"), profile=ComputeProfile(data))


def test_a_profile_of_another_time(orin: Facts) -> None:
    (modelled,) = check_profile(device(), orin, "")
    assert (modelled.state, "modelled" in modelled.detail) == ("warning", True)
    (other,) = check_profile(measured(throttled=True), orin, "onnxruntime 1.31.0")
    assert other.state == "warning"
    assert other.detail == (
        "when it was measured: engine was onnxruntime 1.30.0, is onnxruntime 1.31.0; governor was performance, is "
        "schedutil; power mode was 15W, is 7W; the board was slowed down to cool meanwhile"
    )
    same = measured(governor="schedutil", power_mode="7W")
    assert [found.state for found in check_profile(same, orin, "onnxruntime 1.30.0")] == ["ok"]
    assert [found.state for found in check_profile(measured(), None, "")] == ["ok"]
    (threads,) = check_profile(measured(threads=2), None, "")
    assert "threads was 2, is 4" in threads.detail


def test_rates_over_two_links() -> None:
    assert written_bps(GIGABIT, SLOW) == 50e6
    assert written_bps(Link(), GIGABIT) == 1e9
    assert written_bps(Link()) is None


def test_what_a_board_says_before_it_breaks_off() -> None:
    facts = read_facts(PI[: PI.index("@@ governor")])
    assert (facts.complete, facts.bits, facts.governors) == (False, 32, ())
    empty = read_facts("")
    assert next(iter(check_settings(device(), empty))).what == "python"


@pytest.mark.parametrize(
    ("engine", "state", "told"),
    [
        (None, "bad", "engine_python = /usr/bin/python3.6: cannot be run there"),
        (EngineFacts("3.6.9", {"numpy": "1.19.5"}, "onnxruntime ImportError: no", ()), "bad", "without onnxruntime"),
        (EngineFacts("3.5.2", {}, "", ()), "bad", "needs Python 3.6"),
        (
            EngineFacts("3.6.9", {"numpy": "1.19.5", "onnxruntime": "1.10.0"}, "", ("CPUExecutionProvider",)),
            "bad",
            "it has no CUDAExecutionProvider, only CPUExecutionProvider",
        ),
        (
            EngineFacts("3.6.9", {"numpy": "1.19.5", "onnxruntime": "1.10.0"}, "", ("CUDAExecutionProvider",)),
            "ok",
            "Python 3.6.9, numpy 1.19.5, onnxruntime 1.10.0, CUDAExecutionProvider",
        ),
    ],
)
def test_the_engine_of_an_old_board(pi: Facts, engine: EngineFacts | None, state: str, told: str) -> None:
    entry = BoardEntry(
        "nano-0", "192.168.1.11", 5700, 5701, None, 4, None, "default:nano", None, "/usr/bin/python3.6", "cuda"
    )
    (found,) = check_engine(device("nano-0"), replace(pi, engine=engine), entry)
    assert (found.what, found.state) == ("engine", state)
    assert told in found.detail
    assert not [*check_engine(device("nano-0"), pi, replace(entry, engine_python=None))]
