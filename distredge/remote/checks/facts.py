"""What a script tells of a board, as values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from shlex import quote
from typing import Final

from distredge.remote.checks import tool_output
from distredge.remote.checks.tool_output import PowerMode, Tegrastats, Throttled

_DECIMAL = re.compile(r"[0-9]{1,11}(\.[0-9]*)?")
_SECTION = re.compile(r"^@@ (\w+)\n", re.MULTILINE)
_END: Final = "end"
_MILLI = 1e-3


@dataclass(frozen=True)
class Interface:
    """A network interface that is up, with one of its addresses.

    Attributes:
        name, address: its own.
        wireless: whether it is Wi-Fi.
        rate_bps: that the two ends of the cable settled on; None where that is not told.
    """

    name: str
    address: str
    wireless: bool
    rate_bps: float | None


@dataclass(frozen=True)
class EngineFacts:
    """What an older Python has for an engine.

    Attributes:
        python: its version.
        modules: version of `numpy` and `onnxruntime`, those that it has.
        lacking: why one of them cannot be had; "" if both can.
        providers: of its ONNX Runtime.
    """

    python: str
    modules: dict[str, str]
    lacking: str
    providers: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What is known of a board; None, "" and empty where its tools do not say.

    Attributes:
        complete: whether the script came to its end.
        clock_s: its clock, seconds since 1970.
        architecture, bits: what the kernel computes with, and how wide its programs' addresses are.
        system, board: names of the operating system and of the board.
        l4t: release of a Jetson's system.
        cores: processors that are on.
        memory_bytes, free_memory_bytes: all, and what a program could take.
        free_disk_bytes: in the user's home.
        pythons: versions that are installed.
        engine: what the older Python says in which the worker's engine runs; None: there is none, or it says nothing.
        externally_managed: whether Debian's pip refuses to install outside a virtual environment.
        distredge: versions that are installed, the one that `cluster init` installs first.
        public_keys: digest of the public keys that `cluster start` copied; "" without them.
        governors: of the processors, each once.
        frequencies_hz: of each processor, lowest and highest that is allowed, and highest that it can.
        heat_c: sensor -> degrees Celsius.
        cooled: what is slowed down to cool: its name and how far, 0 to 1.
        throttled: a Raspberry Pi's word on it.
        power_mode, power_modes: a Jetson's, and number -> name of all that it has.
        tegrastats: a Jetson's.
        interfaces: that are up.
        power_save: Wi-Fi interface -> whether it saves power.
        listeners: TCP port -> program that listens there.
        synchronised: whether the clock is set by the network.
        names: host -> its addresses there, for all hosts of other boards.
        reached: host and port of another board -> whether something accepts connections there.
    """

    complete: bool
    clock_s: float | None
    architecture: str
    bits: int | None
    system: str
    board: str
    l4t: str
    cores: int | None
    memory_bytes: int | None
    free_memory_bytes: int | None
    free_disk_bytes: int | None
    pythons: tuple[str, ...]
    engine: EngineFacts | None
    externally_managed: bool
    distredge: tuple[str, ...]
    public_keys: str
    governors: tuple[str, ...]
    frequencies_hz: tuple[tuple[float, float, float], ...]
    heat_c: dict[str, float]
    cooled: dict[str, float]
    throttled: Throttled | None
    power_mode: PowerMode | None
    power_modes: dict[int, str]
    tegrastats: Tegrastats | None
    interfaces: tuple[Interface, ...]
    power_save: dict[str, bool]
    listeners: dict[int, str]
    synchronised: bool | None
    names: dict[str, tuple[str, ...]]
    reached: dict[tuple[str, int], bool]


def script(peers: Iterable[tuple[str, int]], keys: str = "", engine_python: str | None = None) -> str:
    """Returns the script that reads a board.

    Args:
        peers: host and port of what the board must reach: the other boards' workers.
        keys: folder of its worker's keys, from the user's home.
        engine_python: older Python in which its worker's engine runs; None: the worker's own.
    """
    lines = "\n".join(f"{host} {port}" for host, port in peers)
    text = (resources.files("distredge.remote.checks") / "facts.sh").read_text(encoding="utf-8")
    # What a tool complains of goes nowhere: a tool that is not there is the rule.
    return f"exec 2>/dev/null\nPEERS={quote(lines)}\nKEYS={quote(keys)}\nENGINE={quote(engine_python or '')}\n{text}"


def read_facts(text: str) -> Facts:
    """Returns what a board's script printed."""
    pieces = _SECTION.split(text)
    parts = {name: body.strip() for name, body in zip(pieces[1::2], pieces[2::2], strict=True)}

    def said(name: str) -> str:
        return parts.get(name, "")

    memory = tool_output.memory(said("memory"))
    return Facts(
        complete=_END in parts,
        clock_s=_number(said("clock").removesuffix(".N").removesuffix(".%N")),
        architecture=said("architecture"),
        bits=_whole(said("bits")),
        system=said("system").strip("\"'"),
        board=said("board"),
        l4t=said("l4t").lstrip("# "),
        cores=_whole(said("cores")),
        memory_bytes=memory.get("MemTotal"),
        free_memory_bytes=memory.get("MemAvailable"),
        free_disk_bytes=tool_output.free_disk(said("disk")),
        pythons=tuple(dict.fromkeys(re.findall(r"^\d+\.\d+\.\d+$", said("pythons"), re.MULTILINE))),
        engine=_engine(said("engine")),
        externally_managed="EXTERNALLY-MANAGED" in said("managed"),
        distredge=tuple(re.findall(r"^distredge(?:,? version)? (\S+)$", said("distredge"), re.MULTILINE)),
        public_keys=said("keys").partition(" ")[0],
        governors=tuple(dict.fromkeys(said("governor").split())),
        frequencies_hz=_frequencies(said("frequency")),
        heat_c={name: value * _MILLI for name, value in _pairs(said("temperature"))},
        cooled=_cooled(said("cooling")),
        throttled=tool_output.throttled(said("throttled")),
        power_mode=tool_output.power_mode(said("power_mode")),
        power_modes=tool_output.power_modes(said("power_modes")),
        tegrastats=tool_output.tegrastats(said("tegrastats")),
        interfaces=_interfaces(said("interfaces"), said("speeds")),
        power_save=tool_output.power_save(said("power_save")),
        listeners=tool_output.listeners(said("listening")),
        synchronised={"yes": True, "no": False}.get(said("synchronised").partition("=")[2]),
        names=_names(said("names")),
        reached={
            (host, int(port)): answer == "yes"
            for host, port, answer in re.findall(r"^(\S+) (\d+) (yes|no)$", said("reached"), re.MULTILINE)
        },
    )


def _engine(text: str) -> EngineFacts | None:
    """Lines of a word and what it has, as the script prints them."""
    told = dict(line.partition(" ")[::2] for line in text.splitlines())
    if "python" not in told:
        return None
    modules: dict[str, str] = {name: told[name] for name in ("numpy", "onnxruntime") if name in told}
    return EngineFacts(told["python"], modules, told.get("without", ""), tuple(told.get("providers", "").split()))


def _number(text: str) -> float | None:
    return float(text) if _DECIMAL.fullmatch(text) else None


def _whole(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _frequencies(text: str) -> tuple[tuple[float, float, float], ...]:
    """Lines of three numbers in kHz."""
    found = re.findall(r"^(\d+) (\d+) (\d+)$", text, re.MULTILINE)
    return tuple((1e3 * int(low), 1e3 * int(high), 1e3 * int(most)) for low, high, most in found)


def _pairs(text: str) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in re.findall(r"^(\S+) (-?\d+)$", text, re.MULTILINE)]


def _cooled(text: str) -> dict[str, float]:
    """What is slowed down, fans left out: lines of a kind, its state and its highest state."""
    found = re.findall(r"^(.+) (\d+) (\d+)$", text, re.MULTILINE)
    return {
        kind: int(state) / int(most)
        for kind, state, most in found
        if int(most) > 0 and int(state) > 0 and re.search(r"cpu|gpu|freq|processor|throttle|balanced", kind.lower())
    }


def _interfaces(text: str, speeds: str) -> tuple[Interface, ...]:
    kinds = {line.split()[0]: line.split()[1:] for line in speeds.splitlines() if len(line.split()) > 1}
    found = []
    for name, address in tool_output.addresses(text):
        kind = kinds.get(name, [])
        rate = int(kind[1]) * 1e6 if len(kind) > 1 and kind[1].isdigit() else None
        found.append(Interface(name, address, kind[:1] == ["wireless"], rate))
    return tuple(found)


def _names(text: str) -> dict[str, tuple[str, ...]]:
    lines = [line.split() for line in text.splitlines()]
    return {words[0]: tuple(words[1:]) for words in lines if words}
