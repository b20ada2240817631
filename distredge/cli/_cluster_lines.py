"""A cluster file as `cluster init` writes it, and whether a file still is one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distredge.cluster_file import ClusterFile, DeviceFile, LinkFile, Provider

THREADS = 4
"""Of a worker, and cores of a computer, until the user says otherwise."""

PROFILE = "default:pi3"
"""Of a board of which nothing is known."""

HERE = "this-machine"

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_CORRECT = "  # of its processor, which its workers share: correct it"


@dataclass(frozen=True)
class BoardLines:
    """What a cluster file says of a board.

    Attributes:
        name, address, profile, threads: as it has them.
        links: a line for both directions, or one for each.
        ssh: where its ssh server is; None: not written.
        engine_python: older Python, in which its engine runs; None: not written.
        provider: what computes.
    """

    name: str
    address: str
    profile: str
    threads: int
    links: tuple[str, ...]
    ssh: str | None = None
    engine_python: str | None = None
    provider: Provider = "cpu"


def link_line(way: str, rate_bps: float | None, rtt_s: float) -> str:
    """Returns the line of a link; `way` is link, uplink or downlink, and a rate of None is unbounded."""
    rate = '"unbounded"' if rate_bps is None else f"{rate_bps:g}"
    return f"{way} = {{ rate_bps = {rate}, rtt_s = {rtt_s:g} }}"


def name_of(path: Path) -> str:
    """Returns the name of a cluster that is written to a file."""
    return _NOT_IN_NAMES.sub("-", path.stem).lstrip("-._")[:63] or "cluster"


def board_name(text: str) -> str:
    """Returns a device's name made of any text."""
    return _NOT_IN_NAMES.sub("-", text).strip("-._")[:63] or "board"


def profile_threads(folder: Path, profile: str) -> int:
    """Returns the threads that a profile was measured with; one that cannot be read is refused later, with the file."""
    from distredge.errors import ProfileError
    from distredge.profiles.compute import load_profile

    try:
        return load_profile(folder / profile if profile.endswith(".json") else profile).board.threads
    except ProfileError:
        return THREADS


def cluster_text(
    name: str, boards: Sequence[BoardLines], cores: Mapping[str, int] | None = None, shared_medium: bool = False
) -> str:
    """Returns a cluster file.

    Args:
        name: of the cluster.
        boards: in their order.
        cores: address -> cores of the computer there, where they are known.
        shared_medium: whether all links share one.
    """
    from distredge.cluster_file import FORMAT

    places = [place_of(board.address) for board in boards]
    hosts = _hosts(places)
    lines = [
        f'format = "{FORMAT}"',
        f'name = "{name}"',
        'link_model = "shared"',
        *(["shared_medium = true"] if shared_medium else []),
        "encrypted = true",
        "",
        # A rate given here would stay as it is when the boards' are measured.
        "[requester]  # its link is as fast as the fastest board's, unless one is given here",
    ]
    lines += [f'host = "{HERE}"'] if HERE in hosts.values() else []
    for host in dict.fromkeys(hosts.values()):
        known = next((count for place, count in (cores or {}).items() if hosts.get(place_of(place)) == host), None)
        said = '"all"' if host == HERE else f"{THREADS}{_CORRECT}" if known is None else str(known)
        lines += ["", "[[host]]", f'name = "{host}"', f"cores = {said}"]
    for board, place, ports in zip(boards, places, _ports([board.address for board in boards]), strict=True):
        lines += ["", "[[device]]", f'name = "{board.name}"', f'profile = "{board.profile}"']
        lines += [f'address = "{board.address}"', *ports, f"threads = {board.threads}"]
        lines += [f'engine_python = "{board.engine_python}"'] if board.engine_python is not None else []
        lines += [f'provider = "{board.provider}"'] if board.provider != "cpu" else []
        lines += [f'ssh = "{board.ssh}"'] if board.ssh is not None else []
        lines += [f'host = "{hosts[place]}"'] if place in hosts else []
        lines += board.links
    return "\n".join(lines) + "\n"


def boards_of(file: ClusterFile, text: str) -> tuple[BoardLines, ...] | None:
    """Returns the boards of a cluster file that is as it was written; None of one that was edited since."""
    boards = tuple(_board(device) for device in file.device)
    cores = {
        device.address: host.cores
        for device in file.device
        for host in file.host
        if host.name == device.host and isinstance(host.cores, int)
    }
    marked = _CORRECT in text
    again = cluster_text(file.name, boards, None if marked else cores, file.shared_medium)
    return boards if again == text else None


def _board(device: DeviceFile) -> BoardLines:
    ways: dict[str, LinkFile | None] = {"link": device.link, "uplink": device.uplink, "downlink": device.downlink}
    links = [
        link_line(way, link.rate_bps if isinstance(link.rate_bps, int | float) else None, link.rtt_s)
        for way, link in ways.items()
        if link is not None
    ]
    return BoardLines(
        device.name, device.address, device.profile, device.threads, tuple(links), device.ssh, device.engine_python,
        device.provider,
    )  # fmt: skip


def _ports(addresses: Sequence[str]) -> list[list[str]]:
    """What to write of ports: nothing for a worker that has its address to itself, else what the others leave."""
    from distredge.cluster_file import CONTROL_PORT, DATA_PORT
    from distredge.network_addresses import OWN

    asked = [(HERE if place in OWN else place, port) for place, port in map(_place_and_port, addresses)]
    taken = {(place, port) for place, port in asked if port is not None}
    written = []
    for place, port in asked:
        lines = []
        control = port
        if control is None:
            control = next(free for free in range(CONTROL_PORT, 65536) if (place, free) not in taken)
            lines += [f"control_port = {control}"] if control != CONTROL_PORT else []
        taken.add((place, control))
        data = next(free for free in (DATA_PORT, *range(control + 1, 65536)) if (place, free) not in taken)
        lines += [f"data_port = {data}"] if data != DATA_PORT else []
        taken.add((place, data))
        written.append(lines)
    return written


def _place_and_port(address: str) -> tuple[str, int | None]:
    """Computer and port of an address; one that cannot be read is refused later, with the file."""
    from distredge.network_addresses import read_address

    try:
        return read_address(address)
    except ValueError:
        return address, None


def place_of(address: str) -> str:
    """Returns the computer of an address, without its port."""
    return _place_and_port(address)[0]


def _hosts(places: Sequence[str]) -> dict[str, str]:
    """Computers on which several workers are, or a worker beside the requester: address -> name of the host."""
    from distredge.network_addresses import OWN

    several = [place for place in dict.fromkeys(places) if place in OWN or places.count(place) > 1]
    return {place: HERE if place in OWN else f"host-{k}" for k, place in enumerate(several)}
