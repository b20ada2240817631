"""What the commands that reach boards by ssh share: options, logging in, progress, what failed where."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from distredge.cli._common import print_json
from distredge.cli._interrupts import Interrupts

if TYPE_CHECKING:
    from distredge.cluster_file import BoardEntries
    from distredge.remote.fleet import Outcome
    from distredge.remote.ssh import Board, Destination

F = TypeVar("F", bound=Callable[..., Any])


def ssh_options(command: F) -> F:
    """Adds `--ssh-option` and `--batch`, passed as `ssh_option` and `batch`."""
    command = click.option("--batch", is_flag=True, help="Never ask for passwords or about host keys.")(command)
    return click.option(
        "--ssh-option",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_checked,
        help="For ssh -o, such as IdentityFile=PATH; may stand several times.",
    )(command)


def _checked(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        key, equals, rest = value.partition("=")
        if not (key.isalnum() and equals and rest):
            raise click.BadParameter(f"found '{value}', accepted: KEY=VALUE such as IdentityFile=PATH", param=option)
    return values


def dry_run_option(command: F) -> F:
    """Adds `--dry-run`, passed as `dry_run`."""
    return click.option("--dry-run", is_flag=True, help="Print what would be run where, and do nothing.")(command)


def ssh_of(boards: BoardEntries, names: Sequence[str] = ()) -> dict[str, Destination]:
    """Where the devices of a cluster file are for ssh: all that say so, or those of these names.

    Raises:
        ClusterError: if there is no such device, or one of those named says nothing.
    """
    from distredge.errors import ClusterError
    from distredge.remote.ssh import read_destination

    wanted = [boards.device(name) for name in names] or boards.devices
    found = {entry.name: read_destination(entry.ssh) for entry in wanted if entry.ssh is not None}
    silent = [entry.name for entry in wanted if entry.ssh is None]
    if silent and (names or not found):
        raise ClusterError(
            f"cluster '{boards.name}': {', '.join(silent)}: the cluster file does not say where ssh finds it; write "
            'ssh = "user@host" under the device'
        )
    return found


@contextlib.contextmanager
def reached(
    destinations: Mapping[str, Destination], ssh_option: Sequence[str], batch: bool
) -> Iterator[Outcome[Board]]:
    """Logs in to boards; somebody at a terminal may be asked for passwords. SIGTERM ends it as Ctrl-C does."""
    from distredge.remote.fleet import logged_in

    with Interrupts(), logged_in(destinations, ssh_option, may_ask=not batch and sys.stdin.isatty()) as boards:
        yield boards


@contextlib.contextmanager
def progress(names: Sequence[str]) -> Iterator[Callable[[str, str], None]]:
    """Shows on a terminal's stderr a line for each board that says what goes on there."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    # What a board says may stand in square brackets, which are no markup there.
    said = TextColumn("{task.fields[now]}", markup=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), said)
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        tasks = {name: shown.add_task(name, total=1, now="") for name in names}

        def tell(name: str, now: str) -> None:
            shown.update(tasks[name], now=now[:90])

        yield tell


def say_failed(failed: Mapping[str, str]) -> None:
    """Names on stderr the boards on which something went wrong, each with what and what to do."""
    for name, why in failed.items():
        click.echo(f"{name}: {why}", err=True)


def end_with(failed: Mapping[str, str]) -> None:
    """Ends the command with 1 where something went wrong on a board."""
    if failed:
        raise SystemExit(1)


class Step(NamedTuple):
    """Of a dry run: where ("here", or a destination of ssh), what is done, and the script that does it, if one does."""

    where: str
    what: str
    script: str = ""


def say_steps(steps: Sequence[Step], as_json: bool) -> None:
    """Prints what a command would do, in its order."""
    if as_json:
        print_json({"dry_run": [step._asdict() for step in steps]})
        return
    if any(step.script and step.where != "here" for step in steps):
        click.echo("# what is indented runs on the board, by: ssh -T -x -a DESTINATION exec sh -c SCRIPT")
    for step in steps:
        click.echo(f"# {step.where}: {step.what}")
        for line in step.script.strip("\n").splitlines():
            click.echo(f"    {line}")
