"""Reads what the tools of boards print. Every function takes the text and touches nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_THROTTLE_BITS: Final = {
    0: "under-voltage",
    1: "processor frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
_SINCE_START = 16
"""From this bit on the same is told of the time since the board was started."""

_MODE = re.compile(r"NV Power Mode:\s*(\S+)\s*\n\s*(\d+)?")
_MODES = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>")
_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_CPU = re.compile(r"\bCPU \[([^\]]*)\]")
_HEAT = re.compile(r"\b([A-Za-z][\w-]*)@(-?\d+(?:\.\d+)?)C")
_LISTENER = re.compile(r'\(\("([^"]+)"')
_LISTENING = "0A"
"""A socket's state in /proc/net/tcp."""


@dataclass(frozen=True)
class Throttled:
    """What `vcgencmd get_throttled` says, in words.

    Attributes:
        now: what holds at this moment.
        since_start: what has held since the board was started.
    """

    now: tuple[str, ...]
    since_start: tuple[str, ...]


def throttled(text: str) -> Throttled | None:
    """Reads `vcgencmd get_throttled` of a Raspberry Pi, such as `throttled=0x50005`; None where it says nothing."""
    found = re.search(r"throttled=(0x[0-9a-fA-F]+|\d+)", text)
    if found is None:
        return None
    bits = int(found[1], 0)
    now, before = (
        tuple(words for bit, words in _THROTTLE_BITS.items() if bits >> (bit + shift) & 1)
        for shift in (0, _SINCE_START)
    )
    return Throttled(now, before)


@dataclass(frozen=True)
class PowerMode:
    """A power mode of a Jetson: its name, and its number where that is told."""

    name: str
    number: int | None


def power_mode(text: str) -> PowerMode | None:
    """Reads `nvpmodel -q` of a Jetson; None where it says no mode."""
    found = _MODE.search(text + "\n")
    return None if found is None else PowerMode(found[1], int(found[2]) if found[2] else None)


def power_modes(text: str) -> dict[int, str]:
    """Reads the lines `< POWER_MODEL ID=0 NAME=MAXN >` of /etc/nvpmodel.conf: number -> name."""
    return {
        int(number): name
        for line in text.splitlines()
        if not line.lstrip().startswith("#")
        for number, name in _MODES.findall(line)
    }


@dataclass(frozen=True)
class Tegrastats:
    """One line of a Jetson's `tegrastats`.

    Attributes:
        used_bytes, total_bytes: memory.
        cores_on, cores: how many are running, of how many.
        heat_c: sensor -> degrees Celsius.
    """

    used_bytes: int
    total_bytes: int
    cores_on: int
    cores: int
    heat_c: dict[str, float]


def tegrastats(text: str) -> Tegrastats | None:
    """Reads a line of `tegrastats`; None where there is none."""
    memory, processors = _RAM.search(text), _CPU.search(text)
    if memory is None or processors is None:
        return None
    cores = [core.strip() for core in processors[1].split(",")]
    # "PMIC@100C" (later "PMIC@50C") is a constant of the sensor's driver.
    heat = {name: float(value) for name, value in _HEAT.findall(text) if name.upper() != "PMIC"}
    used, total = (int(value) * 1024 * 1024 for value in memory.groups())
    return Tegrastats(used, total, sum(core != "off" for core in cores), len(cores), heat)


def power_save(text: str) -> dict[str, bool]:
    """Reads lines of an interface and `iw dev NAME get power_save`: interface -> whether its Wi-Fi saves power."""
    return {name: state == "on" for name, state in re.findall(r"^(\S+) Power save: (on|off)", text, re.MULTILINE)}


def listeners(text: str) -> dict[int, str]:
    """Reads `ss -ltnp`, or /proc/net/tcp and tcp6: TCP port -> program that listens there, "" where it is not told."""
    found: dict[int, str] = {}
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["LISTEN"] and len(words) > 3:
            port = words[3].rpartition(":")[2]
            program = _LISTENER.search(line)
            if port.isdigit():
                found[int(port)] = program[1] if program else found.get(int(port), "")
        elif len(words) > 3 and words[0].rstrip(":").isdigit() and words[3] == _LISTENING:
            found.setdefault(int(words[1].rpartition(":")[2], 16), "")
    return found


def addresses(text: str) -> tuple[tuple[str, str], ...]:
    """Reads `ip -o addr show up`: interface and address of each line, loopback ones included."""
    found = re.findall(r"^\d+:\s+(\S+)\s+inet6?\s+([0-9a-fA-F.:]+)", text, re.MULTILINE)
    return tuple((name.partition("@")[0], address) for name, address in found)


def memory(text: str) -> dict[str, int]:
    """Reads /proc/meminfo: name -> bytes."""
    return {name: int(value) * 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}


def free_disk(text: str) -> int | None:
    """Reads `df -Pk PATH`: bytes that are free; None where it says nothing."""
    lines = [line.split() for line in text.splitlines()]
    rows = [words for words in lines if len(words) > 4 and words[3].isdigit()]
    return int(rows[-1][3]) * 1024 if rows else None
