"""`cluster init` by ssh: looks, asks, installs, measures, writes; a board that fails stops none of the others."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distredge.cli._cluster_lines import BoardLines, board_name, cluster_text, link_line, name_of, profile_threads
from distredge.cli._cluster_wishes import (
    Named,
    Wanted,
    Wishes,
    as_path,
    check,
    check_names,
    key_of,
    known_boards,
    name_boards,
    shipped_profile,
)
from distredge.cli._common import print_json
from distredge.cli._remote import Step, progress, reached, say_failed, say_steps
from distredge.errors import ConfigError, ExecutionError, FileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from distredge.remote.look import Found
    from distredge.remote.measuring import LinkMeasured
    from distredge.remote.ssh import Board
    from distredge.remote.wheel import Wheel


def set_up(wishes: Wishes) -> None:
    """Sets boards up and writes their cluster file.

    Raises:
        InputError: if something that was given cannot be used.
        SystemExit: with 1 where something failed on a board; those that worked are in the file.
    """
    from distredge.remote.fleet import each
    from distredge.remote.look import look
    from distredge.remote.wheel import own_wheel

    check(wishes)
    known = known_boards(wishes.path)
    check_names(wishes, known)
    wheel = own_wheel()
    if wishes.dry_run:
        _say_steps(wishes, wheel)
        return
    keyed = {key_of(board): board for board in wishes.boards}
    with reached({key: b.destination for key, b in keyed.items()}, wishes.ssh_option, wishes.batch) as boards:
        failed = dict(boards.failed)

        def fit(key: str, board: Board) -> Found:
            found = look(board)
            fault = found.fault()
            if fault is not None:
                raise ExecutionError(f"{board.destination.text}: {fault}")
            return found

        looked = each(boards.done, fit)
        failed |= looked.failed
        say_failed(failed)
        named = name_boards(wishes, {keyed[key]: found for key, found in looked.done.items()}, known)
        links = {board.name: boards.done[key_of(board.wanted)] for board in named}
        _ask(wishes, named, wheel)
        with progress(list(links)) as tell:
            by_name = {board.name: board for board in named}
            # Workers of one computer would disturb each other's profiles.
            turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
            engines = _with_engine(board.wanted for board in named)

            def one(name: str, board: Board) -> BoardLines:
                engine = board.destination.text in engines
                with turns[by_name[name].found.boot or name]:
                    return _set_up_one(wishes, by_name[name], board, wheel, engine, tell, known)

            done = each(links, one)
        say_failed(done.failed)
        failed |= done.failed
        lines = _merged(known, {name: done.done[name] for name in links if name in done.done})
        if not done.done:
            if wishes.as_json:
                print_json({"cluster": name_of(wishes.path), "file": None, "devices": [], "failed": failed})
            raise SystemExit(1)
        cores = {board.address: board.found.cores for board in named}
        _write(wishes.path, lines, cores)
        if wishes.probes:
            # One line for both directions is what stands there until they are measured.
            fresh = {name: links[name] for name, board in done.done.items() if len(board.links) == 1}
            unmeasured, lines = _probe(wishes.path, fresh, lines, cores)
            say_failed(unmeasured)
            failed |= unmeasured
    _report(wishes, list(done.done), failed)


def _ask(wishes: Wishes, named: list[Named], wheel: Wheel) -> None:
    """Says what is on the boards and what is going to be done, and asks before something is installed."""
    from distredge.remote.install import is_current
    from distredge.remote.look import HOME

    for board in named:
        click.echo(f"{board.name} ({board.wanted.destination.text}): {board.found.in_words()}", err=True)
    engines = _with_engine(board.wanted for board in named)
    lacking = [b.name for b in named if not is_current(b.found, wheel, b.wanted.destination.text in engines)]
    if not lacking:
        return
    click.echo(
        f"installs distredge {wheel.version} and what a worker needs (some 240 MB, by pip) into ~/{HOME} on: "
        f"{', '.join(lacking)}; --dry-run prints the commands",
        err=True,
    )
    if wishes.yes:
        return
    if wishes.as_json or not sys.stdin.isatty():
        raise ConfigError("nobody can be asked whether to install on these boards; accepted: --yes")
    click.confirm("Install?", abort=True, err=True)


def _set_up_one(
    wishes: Wishes,
    named: Named,
    board: Board,
    wheel: Wheel,
    engine: bool,
    tell: Callable[[str, str], None],
    known: tuple[BoardLines, ...],
) -> BoardLines:
    """Installs on one board and measures its profile; returns what the cluster file says of it."""
    from distredge.remote.install import install
    from distredge.remote.measuring import measure_profile

    name = named.name
    tell(name, "sends distredge")
    wanted = named.wanted
    install(board, named.found, wheel, lambda line: tell(name, f"pip: {line}"), engine)
    there = next((lines for lines in known if lines.name == name), None)
    if there is not None:
        tell(name, "done")
        return there
    profile = wanted.profile
    if profile is None and wishes.measures:
        profile = f"{name}.json"
        path = wishes.path.parent / profile
        _check_replaceable(path)
        tell(name, f"measures a quick profile of {', '.join(wishes.models)}")
        content = measure_profile(
            board, name, wishes.models, named.threads, provider=wanted.provider, engine_python=wanted.engine_python
        )
        with _written(path):
            from distredge.writing import write

            write(path, content)
    tell(name, "done")
    threads = named.threads
    if wanted.profile is not None and wishes.threads is None:
        threads = profile_threads(wishes.path.parent, wanted.profile)
    profile = profile or shipped_profile(named.found.model)
    return BoardLines(
        name, named.address, profile, threads, (wishes.link,), wanted.destination.text, wanted.engine_python,
        wanted.provider,
    )  # fmt: skip


def _with_engine(boards: Iterable[Wanted]) -> set[str]:
    """Where an ONNX Runtime is installed: where some worker computes itself; all there run from one environment."""
    return {board.destination.text for board in boards if board.engine_python is None}


def _check_replaceable(path: Path) -> None:
    """Refuses to write a profile over a file that is none."""
    from distredge.errors import ProfileError
    from distredge.profiles.compute import load_profile

    if path.exists():
        try:
            load_profile(path)
        except ProfileError:
            raise FileError(f"{path}: is there and no profile; give the board another name: NAME=USER@HOST") from None


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error


def _merged(known: tuple[BoardLines, ...], done: Mapping[str, BoardLines]) -> list[BoardLines]:
    merged = {board.name: board for board in known}
    merged |= {name: lines for name, lines in done.items() if name not in merged}
    return list(merged.values())


def _write(path: Path, lines: list[BoardLines], cores: Mapping[str, int]) -> None:
    """Writes the file, and keys for those that have none; what cannot be used is taken back."""
    from distredge.cluster_file import read_boards
    from distredge.remote.key_set import complete_keys
    from distredge.runtime.hosting.boards import check_addresses, keys_folder
    from distredge.writing import write

    before = path.read_text(encoding="utf-8") if path.exists() else None
    with _written(path):
        write(path, cluster_text(name_of(path), lines, cores))
    try:
        made = read_boards(as_path(path))
        check_addresses(made)
        complete_keys(keys_folder(path, None), made.names)
    except BaseException:
        if before is None:
            path.unlink()
        else:
            write(path, before)
        raise


def _probe(
    path: Path, boards: Mapping[str, Board], lines: list[BoardLines], cores: Mapping[str, int]
) -> tuple[dict[str, str], list[BoardLines]]:
    """Starts the workers of these boards, measures their links, ends them, and writes what was measured.

    Workers that run already go on as they are.
    """
    from distredge.cluster_file import read_boards
    from distredge.remote.fleet import each
    from distredge.remote.measuring import measure_links, peers_of
    from distredge.remote.worker_scripts import Place
    from distredge.remote.workers import needed_files, start, state, stop
    from distredge.runtime.hosting.boards import cluster_keys, keys_folder

    cluster = read_boards(as_path(path))
    folder = keys_folder(path, None)
    places = {name: Place(cluster.name, name, path.name) for name in boards}

    if not boards:
        return {}, lines
    # Before a worker is started, so that one whose start is interrupted is ended too.
    ours: dict[str, Board] = {}

    def start_one(name: str, board: Board) -> None:
        if state(board, places[name]).runner is None:
            ours[name] = board
            start(board, places[name], needed_files(path, cluster, cluster.device(name), folder), "process")

    try:
        with progress(list(boards)) as tell:
            started = each(boards, start_one)
            keys = cluster_keys(cluster, folder)
            peers = peers_of(cluster, list(started.done), keys)
            found, failed = measure_links(peers, keys, lambda name: tell(name, "measures its link"))
    finally:
        each(ours, lambda name, board: stop(board, places[name]))
    measured = [board if board.name not in found else _with_links(board, *found[board.name]) for board in lines]
    _write(path, measured, cores)
    return {**started.failed, **failed}, measured


def _with_links(board: BoardLines, uplink: LinkMeasured, downlink: LinkMeasured) -> BoardLines:
    """What the file says of a board once its links are measured."""
    ways = {"uplink": uplink, "downlink": downlink}
    return replace(board, links=tuple(_link_line(way, link) for way, link in ways.items()))


def _link_line(way: str, link: LinkMeasured) -> str:
    rate_bps = None if link.rate_bps is None else float(f"{link.rate_bps:.3g}")
    return link_line(way, rate_bps, float(f"{link.rtt_s:.2g}"))


def _report(wishes: Wishes, names: list[str], failed: Mapping[str, str]) -> None:
    path = wishes.path
    if wishes.as_json:
        print_json({"cluster": name_of(path), "file": str(path), "devices": names, "failed": dict(failed)})
    else:
        click.echo(f"wrote {path} with {', '.join(names)}; next: distredge cluster start {path}")
    if failed:
        click.echo(
            f"{len(failed)} of {len(wishes.boards)} boards: see above; the same command again goes on with them",
            err=True,
        )
        raise SystemExit(1)


def _say_steps(wishes: Wishes, wheel: Wheel) -> None:
    from distredge.remote.install import install_script, wheel_path
    from distredge.remote.look import LOOK
    from distredge.remote.measuring import profile_script

    engines = _with_engine(wishes.boards)
    steps = []
    for board in wishes.boards:
        where = board.destination.text
        name = board.name or board_name(board.destination.host)
        engine = where in engines
        steps += [
            Step(where, "looks at the board, changes nothing", LOOK),
            Step(where, f"is sent {wheel.name}, {len(wheel.content) / 1e6:.1f} MB, as ~/{wheel_path(wheel, engine)}"),
            Step(where, "installs, unless this wheel is in use", install_script("PYTHON", wheel, engine)),
        ]
        if wishes.measures and board.profile is None:
            threads = wishes.threads or 1
            script = profile_script(name, wishes.models, threads, board.provider, board.engine_python)
            steps.append(Step(where, f"measures a quick profile, which comes back as {name}.json", script))
        if wishes.probes:
            steps.append(Step(where, "starts a worker as `cluster start --dry-run` says, and ends it"))
    probes = ", and the links' rates as measured" if wishes.probes else ""
    steps.append(Step("here", f"writes {wishes.path}, keys, and the profiles beside it{probes}"))
    say_steps(steps, wishes.as_json)
