"""`distredge cluster logs` and `upgrade`, and what `start`, `stop` and `status` do by ssh."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from distredge.cli._common import print_json
from distredge.cli._options import json_option, verbose_option
from distredge.cli._remote import (
    Step,
    dry_run_option,
    end_with,
    progress,
    reached,
    say_failed,
    say_steps,
    ssh_of,
    ssh_options,
)

if TYPE_CHECKING:
    from distredge.cluster_file import BoardEntries
    from distredge.remote.ssh import Board
    from distredge.remote.worker_scripts import Place, Runner
    from distredge.remote.workers import State

RUNNERS = ("auto", "systemd", "process")


class Ssh(NamedTuple):
    """How boards are reached."""

    options: tuple[str, ...]
    batch: bool


def start_boards(
    path: Path,
    boards: BoardEntries,
    runner: Runner,
    options: tuple[str, ...],
    keys: Path | None,
    ssh: Ssh,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Starts the workers of boards whose ssh is known, and says how to start the others.

    Args:
        path: of the cluster file.
        boards: what it holds.
        runner: how they run.
        options: of every worker.
        keys: folder of keys; None: without encryption.
        ssh: how they are reached.
        dry_run: whether it is only said.
        as_json: one object for machines.

    Raises:
        InputError: if files that a board needs are missing or wrong; nothing is started then.
        SystemExit: with 1 where one did not start.
    """
    from distredge.remote.fleet import each
    from distredge.remote.worker_scripts import start_script
    from distredge.remote.workers import needed_files, start
    from distredge.runtime.hosting.boards import check_addresses

    check_addresses(boards)
    destinations = ssh_of(boards)
    places = _places(path, boards, options)
    files = {name: needed_files(path, boards, boards.device(name), keys) for name in destinations}
    if dry_run:
        steps = []
        for name, destination in destinations.items():
            copied = ", ".join(f"{file} (mode {mode:o})" for file, (_, mode) in files[name].items())
            steps += [
                Step(destination.text, f"copies into ~/{places[name].folder}: {copied}"),
                Step(destination.text, "starts the worker", start_script(places[name], runner)),
            ]
        say_steps(steps, as_json)
        return
    with reached(destinations, ssh.options, ssh.batch) as at, progress(list(at.done)) as tell:

        def one(name: str, board: Board) -> dict[str, Any]:
            tell(name, "starts")
            said = start(board, places[name], files[name], runner)
            return {"runner": said.runner, "pid": said.pid, "started": said.fresh, "advice": said.advice}

        done = each(at.done, one)
    failed = {**at.failed, **done.failed}
    by_hand = [entry.name for entry in boards.devices if entry.name not in destinations]
    if as_json:
        print_json({**done.done, **{name: {"error": why} for name, why in failed.items()}})
    else:
        for name, said in done.done.items():
            how = "a unit of systemd" if said["runner"] == "systemd" else f"process {said['pid']}"
            click.echo(f"{name}: {how}, {'started' if said['started'] else 'ran already with the very same'}")
            if said["advice"]:
                click.echo(f"    {said['advice']}")
        say_failed(failed)
        for name in by_hand:
            click.echo(f"{name}: start it there: distredge worker --cluster {path.name} --name {name}")
    end_with(failed)


def stop_boards(path: Path, boards: BoardEntries, ssh: Ssh, dry_run: bool, as_json: bool) -> None:
    """Ends the workers of boards whose ssh is known; arguments as of `start_boards`.

    Raises:
        SystemExit: with 1 where that failed.
    """
    from distredge.remote.fleet import each
    from distredge.remote.worker_scripts import stop_script
    from distredge.remote.workers import stop

    destinations = ssh_of(boards)
    places = _places(path, boards)
    if dry_run:
        where = destinations.items()
        say_steps([Step(at.text, "ends the worker", stop_script(places[name])) for name, at in where], as_json)
        return
    with reached(destinations, ssh.options, ssh.batch) as at:
        done = each(at.done, lambda name, board: stop(board, places[name]))
    failed = {**at.failed, **done.failed}
    if as_json:
        print_json({"stopped": [name for name, ran in done.done.items() if ran], "failed": failed})
    else:
        for name, ran in done.done.items():
            click.echo(f"{name}: {'ended' if ran else 'did not run'}")
        say_failed(failed)
    end_with(failed)


def states_of(path: Path, boards: BoardEntries, ssh: Ssh) -> dict[str, dict[str, Any]]:
    """Returns what ssh sees of each worker, or why it sees nothing; for `in_words` and machines."""
    from distredge.remote.fleet import each
    from distredge.remote.workers import state

    places = _places(path, boards)
    with reached(ssh_of(boards), ssh.options, ssh.batch) as at:
        found = each(at.done, lambda name, board: state(board, places[name]))
    failed = {**at.failed, **found.failed}
    seen = {name: _seen(found.done[name]) for name in found.done}
    return {**seen, **{name: {"error": why} for name, why in failed.items()}}


def in_words(seen: Mapping[str, Any]) -> str:
    """Returns the line of `cluster status` about what ssh sees."""
    if "error" in seen:
        return f"ssh: {seen['error']}"
    runs = {"systemd": "a unit of systemd", "process": f"process {seen['pid']}"}.get(seen["runner"], "not running")
    if seen["runner"] is None and seen["unit"] is not None:
        runs += f", its unit is {seen['unit']}"
    version = seen["installed_version"]
    return f"ssh: {runs}; {'nothing' if version is None else f'distredge {version}'} is installed"


@click.command()
@click.argument("cluster_name", metavar="CLUSTER")
@click.option("--name", "names", multiple=True, help="A board; may stand several times. Default: all.")
@click.option("--lines", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Last lines of each.")
@click.option("--follow", is_flag=True, help="Go on with the lines that come, until Ctrl-C.")
@ssh_options
@json_option
@verbose_option
def logs(
    cluster_name: str,
    names: tuple[str, ...],
    lines: int,
    follow: bool,
    ssh_option: tuple[str, ...],
    batch: bool,
    as_json: bool,
) -> None:
    """Show what workers on boards have said."""
    from distredge.cluster_file import read_boards
    from distredge.remote import workers
    from distredge.remote.fleet import each

    if follow and as_json:
        raise click.UsageError("--json: one object is not written while lines come; leave --follow away")
    boards = read_boards(cluster_name)
    destinations = ssh_of(boards, names)
    places = _places(Path(cluster_name), boards)
    found: dict[str, list[str]] = {name: [] for name in destinations}

    def one(name: str, board: Board) -> None:
        def tell(line: str) -> None:
            found[name].append(line)
            if follow:
                click.echo(f"{name}: {line}")

        workers.logs(board, places[name], lines, follow, tell)

    with reached(destinations, ssh_option, batch) as at:
        done = each(at.done, one)
    failed = {**at.failed, **done.failed}
    if as_json:
        print_json({"logs": {name: found[name] for name in done.done}, "failed": failed})
    else:
        for name in [] if follow else done.done:
            for line in found[name]:
                click.echo(f"{name}: {line}")
        say_failed(failed)
    end_with(failed)


@click.command()
@click.argument("cluster_name", metavar="CLUSTER")
@ssh_options
@dry_run_option
@json_option
@verbose_option
def upgrade(cluster_name: str, ssh_option: tuple[str, ...], batch: bool, dry_run: bool, as_json: bool) -> None:
    """Install this very distredge on boards that have another one, and start their workers again."""
    from distredge.cluster_file import read_boards
    from distredge.remote.fleet import each
    from distredge.remote.install import install, install_script, is_current
    from distredge.remote.look import look
    from distredge.remote.wheel import own_wheel
    from distredge.remote.workers import restart, state

    path = Path(cluster_name)
    boards = read_boards(cluster_name)
    destinations = ssh_of(boards)
    places = _places(path, boards)
    wheel = own_wheel()
    # Workers at one place run from one environment.
    with_engine = {where.text for name, where in destinations.items() if boards.device(name).engine_python is None}
    engines = {name: where.text in with_engine for name, where in destinations.items()}
    if dry_run:
        does = f"installs distredge {wheel.version} where another is in use, and starts the worker again if it ran"
        scripts = {name: install_script("PYTHON", wheel, engines[name]) for name in destinations}
        say_steps([Step(where.text, does, scripts[name]) for name, where in destinations.items()], as_json)
        return
    with reached(destinations, ssh_option, batch) as at, progress(list(at.done)) as tell:

        def one(name: str, board: Board) -> dict[str, Any]:
            tell(name, "looks")
            found = look(board)
            before = found.installed.get("version")
            runner = state(board, places[name]).runner
            fresh = not is_current(found, wheel, engines[name])
            install(board, found, wheel, lambda line: tell(name, f"pip: {line}"), engines[name])
            restarted = restart(board, places[name]) if runner is not None else False
            return {"before": before, "now": wheel.version, "installed": fresh, "restarted": restarted}

        done = each(at.done, one)
    failed = {**at.failed, **done.failed}
    if as_json:
        print_json({**done.done, **{name: {"error": why} for name, why in failed.items()}})
    else:
        for name, said in done.done.items():
            what = f"{said['before'] or 'nothing'} before, {said['now']} now" if said["installed"] else "had it already"
            click.echo(f"{name}: {what}{'; its worker was started again' if said['restarted'] else ''}")
        say_failed(failed)
    end_with(failed)


def _places(path: Path, boards: BoardEntries, options: tuple[str, ...] = ()) -> dict[str, Place]:
    from distredge.remote.worker_scripts import Place

    return {name: Place(boards.name, name, path.name, options) for name in boards.names}


def _seen(found: State) -> dict[str, Any]:
    return {
        "runner": found.runner,
        "pid": found.pid,
        "unit": found.unit,
        "installed_version": found.installed.get("version"),
    }
