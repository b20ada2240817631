"""What `cluster init` by ssh is asked for, whether it can be used, and what boards that were looked at are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from distredge.cli._cluster_lines import PROFILE, BoardLines, board_name, boards_of, place_of
from distredge.cli._common import check_writable
from distredge.cluster_file import PROGRAM
from distredge.errors import ConfigError, FileError

if TYPE_CHECKING:
    from distredge.cluster_file import Provider
    from distredge.remote.look import Found
    from distredge.remote.ssh import Destination

# Words of a board's own name for its model -> shipped profile; the first that fits counts.
_MODELS: Final = {
    "Raspberry Pi 3": "pi3",
    "Raspberry Pi 4": "pi4",
    "Raspberry Pi 5": "pi5",
    "Xavier NX": "xavier-nx",
    "Xavier": "xavier",
    "Orin Nano": "orin-nano",
    "AGX Orin": "agx-orin",
    "Jetson Nano": "nano",
    "TX2": "tx2",
}


class Wanted(NamedTuple):
    """What is said of a board.

    Its name (None: its host's), where ssh finds it, its worker's address, its profile, the older Python in which its
    engine runs, and what computes.
    """

    name: str | None
    destination: Destination
    address: str | None = None
    profile: str | None = None
    engine_python: str | None = None
    provider: Provider = "cpu"


class Wishes(NamedTuple):
    """What the command line asks for."""

    path: Path
    boards: tuple[Wanted, ...]
    models: tuple[str, ...]
    threads: int | None
    measures: bool
    probes: bool
    link: str
    ssh_option: tuple[str, ...]
    batch: bool
    yes: bool
    dry_run: bool
    as_json: bool


class Named(NamedTuple):
    """A board that was looked at: what it is called, what was asked for, what was found, where its worker is."""

    name: str
    wanted: Wanted
    found: Found
    address: str
    threads: int


def check(wishes: Wishes) -> None:
    """Refuses what cannot be used, before anything is done.

    Raises:
        InputError: naming it.
    """
    from distredge.model import zoo
    from distredge.profiles.compute import load_profile

    check_writable(wishes.path)
    if wishes.path.suffix != ".toml":
        raise ConfigError(f"FILE: found '{wishes.path}', accepted: a name that ends in .toml")
    for model in wishes.models:
        if zoo.find(model) is None:
            raise ConfigError(f"--model: found '{model}', accepted: a model of the zoo, which boards have too")
    for board in wishes.boards:
        if board.profile is not None and not board.profile.endswith(".json"):
            load_profile(board.profile)
        if board.engine_python is not None and not re.match(PROGRAM, board.engine_python):
            raise ConfigError(f"--engine-python: found '{board.engine_python}', accepted: a path on the board")
        if board.name is not None and board_name(board.name) != board.name:
            raise ConfigError(f"found '{board.name}', accepted: a name of letters, digits, '.', '_' and '-'")


def known_boards(path: Path) -> tuple[BoardLines, ...]:
    """Returns the boards of a file that this command wrote before; none where there is no file.

    Raises:
        FileError: if it was edited since.
    """
    from distredge.cluster_file import read_cluster_file

    if not path.exists():
        return ()
    file, where, _ = read_cluster_file(as_path(path))
    boards = boards_of(file, path.read_text(encoding="utf-8"))
    if boards is None:
        raise FileError(
            f"{where}: is there already and was edited since it was written; give another name, or set the boards up "
            "into another file and copy their lines"
        )
    return boards


def check_names(wishes: Wishes, known: tuple[BoardLines, ...]) -> None:
    """Refuses a name that stands for two boards, and another engine for a board than the file has.

    Raises:
        ConfigError: naming it.
    """
    taken = {board.name: board.ssh for board in known}
    for board in wishes.boards:
        where = taken.setdefault(board.name, board.destination.text) if board.name is not None else None
        if where not in (None, board.destination.text):
            raise ConfigError(
                f"{board.name}={board.destination.text}: the name is {where}'s already; give the board another"
            )
        if board.engine_python is None and board.provider == "cpu":
            continue
        for lines in known:
            same = lines.ssh == board.destination.text and board.name in (None, lines.name)
            if same and (lines.engine_python, lines.provider) != (board.engine_python, board.provider):
                raise ConfigError(
                    f"{lines.name}: {wishes.path} has it with engine_python {lines.engine_python or 'missing'} and "
                    f"provider {lines.provider}, and this command leaves what is there: change it in the file, measure "
                    "the board's profile anew, and start it again"
                )


def as_path(path: Path) -> str:
    """Returns a path as it is not taken for the name of a shipped cluster."""
    return str(path) if path.suffix == ".toml" else f"./{path}"


def key_of(board: Wanted) -> str:
    """Returns how a board is called before it has a name."""
    return board.destination.text if board.name is None else f"{board.name} ({board.destination.text})"


def name_boards(wishes: Wishes, looked: Mapping[Wanted, Found], known: tuple[BoardLines, ...]) -> list[Named]:
    """Gives boards their names and the addresses of their workers.

    Args:
        wishes: what is asked for.
        looked: boards -> what was found on them.
        known: those of the file that is there; their names are taken.
    """
    from distredge.network_addresses import is_loopback, is_numeric
    from distredge.remote.ssh import host_name

    taken = {board.name: board.ssh for board in known}
    written = {board.name: board for board in known}
    made = []
    places = {board: board.address or host_name(board.destination, wishes.ssh_option) for board in looked}
    for board, found in looked.items():
        host = board.destination.host
        name = board.name or next((n for n, ssh in taken.items() if ssh == board.destination.text), None)
        if name is None:
            own = found.name if is_numeric(host) or is_loopback(host) else host
            name = base = board_name(own.partition(".")[0])
            number = 2
            while name in taken:
                name, number = f"{base}-{number}", number + 1
        taken[name] = board.destination.text
        beside = sum(place_of(place) == place_of(places[board]) for place in places.values())
        threads = wishes.threads or max(1, found.cores // beside)
        wanted = board
        if name in written:
            lines = written[name]
            wanted = board._replace(engine_python=lines.engine_python, provider=lines.provider)
        made.append(Named(name, wanted, found, places[board], threads))
    return made


def shipped_profile(model: str) -> str:
    """Returns the modelled profile of a kind of board; where it is not known, that of the slowest."""
    return next((f"default:{name}" for words, name in _MODELS.items() if words in model), PROFILE)
