"""Judges how a board is set up: its system, its Python, its memory, how fast it is allowed to be and for how long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from distredge.cluster import Device
from distredge.cluster_file import BoardEntry
from distredge.remote.checks.facts import Facts
from distredge.remote.checks.findings import Finding
from distredge.runtime.provider_options import PROVIDERS

OLDEST_PYTHON: Final = (3, 10)
OLDEST_ENGINE_PYTHON: Final = (3, 6)
_LEAST_DISK_BYTES: Final = 500_000_000
_WORKER_BYTES: Final = 80_000_000
"""What a worker takes before it holds a plan."""
_HOT_C: Final = 80.0
"""From about here on boards slow down."""
_ARM: Final = ("aarch64", "armv7l", "armv6l", "armv8l")
_64_BIT: Final = ("aarch64", "x86_64", "arm64", "amd64", "riscv64")


def check_settings(device: Device, facts: Facts, need_bytes: int | None = None) -> Iterator[Finding]:
    """Yields what a board's own tools say of it.

    Args:
        device: of the cluster file.
        facts: of its board.
        need_bytes: what a plan takes on it; None: no plan is given.
    """
    for check in (_system, _python, _disk, _cores, _governor, _heat, _throttled, _power_mode, _clocks, _wifi):
        yield from check(device, facts)
    yield from check_memory(device, facts, need_bytes)


def _system(device: Device, facts: Facts) -> Iterator[Finding]:
    name = ", ".join(text for text in (facts.board, facts.system, facts.architecture) if text)
    if facts.bits == 32 or (facts.architecture and facts.architecture not in _64_BIT):
        kernel = " under a 64-bit kernel" if facts.architecture in _64_BIT else ""
        todo = (
            "install the 64-bit system: for 32-bit ARM there are no wheels of ONNX Runtime"
            if facts.architecture in _ARM
            else "install a 64-bit system"
        )
        yield Finding(device.name, "system", "bad", f"{name}: 32-bit programs{kernel}", todo)
    elif name:
        yield Finding(device.name, "system", "ok", f"{name}, {facts.bits or 64}-bit")


def _python(device: Device, facts: Facts) -> Iterator[Finding]:
    usable = [version for version in facts.pythons if _version(version) >= OLDEST_PYTHON]
    said = ", ".join(facts.pythons) or "none"
    if not usable:
        todo = (
            "a Jetson with JetPack 4 or 5: see 'Old boards' in docs/boards.md"
            if facts.l4t
            else "install Python 3.10 or later"
        )
        yield Finding(device.name, "python", "bad", f"Python {said}; a worker needs 3.10 or later", todo)
        return
    if facts.externally_managed and not facts.distredge:
        yield Finding(
            device.name, "python", "warning",
            f"Python {said}, managed by the system: pip refuses to install outside a virtual environment",
            "python3 -m venv ~/.local/share/distredge/venv and that one's pip, or let `distredge cluster init` do it",
        )  # fmt: skip
        return
    yield Finding(device.name, "python", "ok", f"Python {said}")


def check_engine(device: Device, facts: Facts, entry: BoardEntry) -> Iterator[Finding]:
    """Yields whether the older Python in which a board's engine runs has what that needs.

    Args:
        device: of the cluster file.
        facts: of its board.
        entry: what the cluster file says of the engine.
    """
    if entry.engine_python is None:
        return
    engine, wanted = facts.engine, PROVIDERS[entry.provider][0]
    if engine is None:
        detail = f"engine_python = {entry.engine_python}: cannot be run there, or does not answer within ten seconds"
        yield Finding(device.name, "engine", "bad", detail, "correct it in the cluster file, or install it there")
        return
    has = ", ".join([f"Python {engine.python}", *(f"{name} {version}" for name, version in engine.modules.items())])
    if _version(engine.python) < OLDEST_ENGINE_PYTHON:
        yield Finding(device.name, "engine", "bad", f"{has}; an engine needs Python 3.6 or later")
    elif engine.lacking:
        todo = f"on the board: {entry.engine_python} -m pip install --user numpy, and NVIDIA's ONNX Runtime for it"
        yield Finding(device.name, "engine", "bad", f"{has}; without {engine.lacking}", todo)
    elif wanted not in engine.providers:
        detail = f"{has}; it has no {wanted}, only {', '.join(engine.providers)}"
        todo = "install NVIDIA's build of ONNX Runtime for it, or write another provider into the cluster file"
        yield Finding(device.name, "engine", "bad", detail, todo)
    else:
        yield Finding(device.name, "engine", "ok", f"{has}, {wanted}")


def check_installed(device: Device, facts: Facts, version: str, cluster_file: str) -> Iterator[Finding]:
    """Yields whether what is installed on a board is this version.

    Args:
        device: of the cluster file.
        facts: of its board.
        version: of Distredge here.
        cluster_file: as the command was given it.
    """
    if facts.distredge and facts.distredge[0] != version:
        todo = f"distredge cluster upgrade {cluster_file}, or install {version} there"
        yield Finding(device.name, "installed", "bad", f"distredge {facts.distredge[0]} there, {version} here", todo)
    elif facts.distredge:
        yield Finding(device.name, "installed", "ok", f"distredge {version}")


def check_keys(device: Device, facts: Facts, digest: str, cluster_file: str) -> Iterator[Finding]:
    """Yields whether the public keys on a board are those of this machine.

    Args:
        device: of the cluster file.
        facts: of its board.
        digest: SHA-256 of this machine's file of public keys; "" without one.
        cluster_file: as the command was given it.
    """
    if facts.public_keys and digest and facts.public_keys != digest:
        todo = f"distredge cluster start {cluster_file} copies them anew"
        yield Finding(device.name, "key files", "bad", "its public keys are not this machine's", todo)
    elif facts.public_keys and digest:
        yield Finding(device.name, "key files", "ok", "the public keys there are this machine's")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _disk(device: Device, facts: Facts) -> Iterator[Finding]:
    free = facts.free_disk_bytes
    if free is None:
        return
    detail = f"{free / 1e9:.1f} GB free in the home folder"
    if free < _LEAST_DISK_BYTES:
        yield Finding(device.name, "disk", "warning", detail, "a worker's packages take 250 MB, kept weights more")
    else:
        yield Finding(device.name, "disk", "ok", detail)


def _cores(device: Device, facts: Facts) -> Iterator[Finding]:
    if facts.cores is None:
        return
    detail = f"{facts.cores} on, {device.threads} of the engine's threads in the cluster file"
    if device.threads > facts.cores:
        todo = f"write threads = {facts.cores} for it and measure its profile with as many, or switch the cores on"
        yield Finding(device.name, "cores", "warning", detail, todo)
    else:
        yield Finding(device.name, "cores", "ok", detail)


def check_memory(device: Device, facts: Facts, need_bytes: int | None) -> Iterator[Finding]:
    """Yields whether a board has the memory that a plan takes, or else that the cluster file promises."""
    free, total = facts.free_memory_bytes, facts.memory_bytes
    if free is None or total is None:
        return
    has = f"{free / 1e6:.0f} of {total / 1e6:.0f} MB free"
    if need_bytes is None:
        promised = device.memory_bytes
        if promised is not None and promised > total:
            todo = f"write memory_bytes = {int(0.8 * free)} for it, or measure its profile anew"
            yield Finding(device.name, "memory", "bad", f"{has}; plans may take {promised / 1e6:.0f} MB of it", todo)
        else:
            yield Finding(device.name, "memory", "ok", has)
        return
    takes = f"the plan takes {need_bytes / 1e6:.0f} MB beside the engine's workspace and {_WORKER_BYTES / 1e6:.0f} MB"
    if need_bytes + _WORKER_BYTES > free:
        todo = "end other programs there, or plan with --respect-memory and a smaller memory_bytes for it"
        yield Finding(device.name, "memory", "bad", f"{has}; {takes}", todo)
    elif need_bytes + _WORKER_BYTES > 0.8 * free:
        yield Finding(device.name, "memory", "warning", f"{has}; {takes}", "little is left: end other programs there")
    else:
        yield Finding(device.name, "memory", "ok", f"{has}; {takes}")


def _governor(device: Device, facts: Facts) -> Iterator[Finding]:
    if not facts.governors:
        return
    said = ", ".join(facts.governors)
    if facts.governors == ("performance",):
        yield Finding(device.name, "governor", "ok", said)
        return
    todo = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    detail = f"{said}: the processor slows down between frames, and speeds up late"
    yield Finding(device.name, "governor", "warning", detail, todo)


def _heat(device: Device, facts: Facts) -> Iterator[Finding]:
    heat = {**facts.heat_c, **(facts.tegrastats.heat_c if facts.tegrastats else {})}
    # Sensors that are off tell nonsense, such as 0 or -256 degrees.
    heat = {name: value for name, value in heat.items() if 0 < value < 150}
    cooled = ", ".join(f"{name} by {100 * share:.0f} %" for name, share in facts.cooled.items())
    if not heat and not cooled:
        return
    hottest = max(heat, key=lambda name: heat[name], default="")
    detail = f"{heat[hottest]:.0f} degrees at {hottest}" if hottest else ""
    if cooled:
        told = f"{detail}; slowed down to cool: {cooled}".lstrip("; ")
        yield Finding(device.name, "temperature", "bad", told, "a heat sink, a fan, or more room around the board")
    elif hottest and heat[hottest] >= _HOT_C:
        yield Finding(device.name, "temperature", "warning", detail, "it slows down about here: cool it")
    else:
        yield Finding(device.name, "temperature", "ok", detail)


def _throttled(device: Device, facts: Facts) -> Iterator[Finding]:
    if facts.throttled is None:
        if "raspberry" in facts.board.lower():
            yield Finding(
                device.name, "throttling", "warning", "vcgencmd says nothing",
                "sudo usermod -aG video $USER on the board, and log in anew; in Ubuntu: apt install libraspberrypi-bin",
            )  # fmt: skip
        return
    now, before = ", ".join(facts.throttled.now), ", ".join(facts.throttled.since_start)
    power = "a supply and a cable that give the board's amperes" if "under-voltage" in now + before else ""
    heat = "a heat sink or a fan" if re.search("limit|throttled|capped", now + before) else ""
    todo = "; ".join(text for text in (power, heat) if text)
    if now:
        yield Finding(device.name, "throttling", "bad", f"now: {now}", todo)
    elif before:
        yield Finding(device.name, "throttling", "warning", f"since it was started: {before}", todo)
    else:
        yield Finding(device.name, "throttling", "ok", "none since it was started")


def _power_mode(device: Device, facts: Facts) -> Iterator[Finding]:
    mode = facts.power_mode
    if mode is None:
        if facts.l4t:
            yield Finding(
                device.name, "power mode", "warning", "nvpmodel says nothing", "on the board: sudo nvpmodel -q"
            )
        return
    most = _fastest(facts.power_modes)
    cores = ""
    if facts.tegrastats is not None and facts.tegrastats.cores_on < facts.tegrastats.cores:
        cores = f", {facts.tegrastats.cores_on} of {facts.tegrastats.cores} cores on"
    if mode.name.upper().startswith("MAXN") or (most is not None and facts.power_modes[most] == mode.name):
        yield Finding(device.name, "power mode", "ok", f"{mode.name}{cores}")
        return
    better = "sudo nvpmodel -m N with the mode of most watts in /etc/nvpmodel.conf"
    if most is not None:
        better = f"sudo nvpmodel -m {most} ({facts.power_modes[most]})"
    todo = f"{better}; then measure its profile anew, or leave it as the profile was measured"
    yield Finding(device.name, "power mode", "warning", f"{mode.name}{cores}: not the fastest", todo)


def _fastest(modes: dict[int, str]) -> int | None:
    """The mode without limits, or of most watts; None where the names say neither."""
    unlimited = [number for number, name in modes.items() if name.upper().startswith("MAXN")]
    if unlimited:
        return unlimited[-1]
    watts = {number: found for number, name in modes.items() if (found := re.search(r"(\d+)W", name.upper()))}
    return max(watts, key=lambda number: int(watts[number][1]), default=None)


def _clocks(device: Device, facts: Facts) -> Iterator[Finding]:
    if not facts.l4t or not facts.frequencies_hz:
        return
    if all(low == high for low, high, _ in facts.frequencies_hz):
        yield Finding(device.name, "jetson_clocks", "ok", f"clocks are fixed at {_ghz(facts)}")
    else:
        todo = "sudo jetson_clocks, after every start of the board"
        yield Finding(device.name, "jetson_clocks", "warning", f"clocks vary up to {_ghz(facts)}", todo)


def _ghz(facts: Facts) -> str:
    return f"{max(high for _, high, _ in facts.frequencies_hz) / 1e9:.2f} GHz"


def _wifi(device: Device, facts: Facts) -> Iterator[Finding]:
    for name, saves in facts.power_save.items():
        if saves:
            todo = f"sudo iw dev {name} set power_save off; to keep it: NetworkManager's wifi.powersave = 2"
            detail = f"{name} sleeps between packets: round trips of 100 ms come of it"
            yield Finding(device.name, "Wi-Fi", "warning", detail, todo)
        else:
            yield Finding(device.name, "Wi-Fi", "ok", f"{name} does not save power")
