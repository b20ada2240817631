"""`distredge cluster init`: writes a cluster file, of boards that are described or that are set up by ssh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distredge.cli._cluster_lines import PROFILE, BoardLines, cluster_text, link_line, name_of, profile_threads
from distredge.cli._common import check_writable, print_json
from distredge.cli._options import Number, json_option, verbose_option
from distredge.cli._remote import Step, dry_run_option, say_steps, ssh_options
from distredge.cli.worker import PROVIDERS

if TYPE_CHECKING:
    from distredge.cli._cluster_wishes import Wanted
    from distredge.cluster_file import Provider

_MODEL = "mobilenet-v2"


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("boards", metavar="[[NAME=]USER@HOST]...", nargs=-1)
@click.option(
    "--device",
    "devices",
    metavar="NAME=ADDRESS[,PROFILE]",
    multiple=True,
    help="A board that is set up by hand, its address and its compute profile (default: default:pi3).",
)
@click.option("--rate-mbps", type=Number(0, above=True), default=100.0, show_default=True,
              help="Rate of every board's link, until it is measured.")  # fmt: skip
@click.option("--rtt-ms", type=Number(0), default=2.0, show_default=True, help="Its round trip.")
@click.option("--discover", "discover_s", type=Number(0, 300, above=True), metavar="SECONDS",
              help="Also take workers that announce themselves (`worker --announce`); 5 is usual.")  # fmt: skip
@click.option("--address", "addresses", metavar="NAME=ADDRESS[:PORT]", multiple=True,
              help="By ssh: where others reach a board's worker; default: the host that ssh reaches.")  # fmt: skip
@click.option("--model", "models", multiple=True, default=(_MODEL,), show_default=True,
              help="By ssh: zoo model that the quick profile covers; may stand several times.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 1024), help="By ssh: threads of every engine; default: all cores.")
@click.option("--profile", "profiles", metavar="NAME=PROFILE", multiple=True,
              help="By ssh: take a shipped profile, such as default:pi4, and measure none on that board.")  # fmt: skip
@click.option("--engine-python", "engine_pythons", metavar="NAME=PATH", multiple=True,
              help="By ssh: older Python of a board, whose ONNX Runtime computes (JetPack 4 and 5).")  # fmt: skip
@click.option("--provider", "providers", metavar="NAME=PROVIDER", multiple=True,
              help="By ssh: what computes on a board: cpu, cuda or tensorrt.")  # fmt: skip
@click.option("--no-profile", is_flag=True, help="By ssh: measure no profiles.")
@click.option("--no-probe", is_flag=True, help="By ssh: measure no links.")
@click.option("--yes", is_flag=True, help="By ssh: install without asking.")
@ssh_options
@dry_run_option
@json_option
@verbose_option
def init(
    path: Path,
    boards: tuple[str, ...],
    devices: tuple[str, ...],
    rate_mbps: float,
    rtt_ms: float,
    discover_s: float | None,
    addresses: tuple[str, ...],
    models: tuple[str, ...],
    threads: int | None,
    profiles: tuple[str, ...],
    engine_pythons: tuple[str, ...],
    providers: tuple[str, ...],
    no_profile: bool,
    no_probe: bool,
    yes: bool,
    ssh_option: tuple[str, ...],
    batch: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write a cluster file to start from.

    With USER@HOST it sets these boards up by ssh: it looks at each, asks, installs what a worker needs into a folder of
    its own, measures a quick profile and the link, makes keys, and writes all that into FILE and beside it. The same
    command again goes on where it ended, and takes further boards in.

    With --device it only writes what it is told. PROFILE is a shipped one, or a file of `distredge profile run`, by its
    path from where the cluster file will be. Workers at one address are given ports of their own.
    """
    from distredge.errors import ConfigError

    if boards and (devices or discover_s is not None):
        raise click.UsageError("give boards by ssh, or --device and --discover, and not both")
    if boards:
        from distredge.cli._cluster_set_up import set_up
        from distredge.cli._cluster_wishes import Wishes

        wanted = _wanted(boards, addresses, profiles, engine_pythons, providers)
        wishes = Wishes(
            path, wanted, models, threads, not no_profile, not no_probe,
            link_line("link", rate_mbps * 1e6, rtt_ms / 1e3), ssh_option, batch, yes, dry_run, as_json,
        )  # fmt: skip
        set_up(wishes)
        return
    by_ssh = (("--address", addresses), ("--threads", threads), ("--profile", profiles),
              ("--engine-python", engine_pythons), ("--provider", providers))  # fmt: skip
    for option, given in by_ssh:
        if given:
            raise click.UsageError(f"{option} is for boards by ssh; of others write it into the file afterwards")
    if discover_s is not None:
        from distredge.remote.discovery import discover

        found = discover(discover_s)
        if not found and not devices:
            raise ConfigError(
                f"no worker announced itself within {discover_s:g} s; start them with `distredge worker --announce`, "
                "or give the boards by name"
            )
        devices = (*devices, *(f"{worker.name}={worker.where}" for worker in found))
    if not devices:
        raise click.UsageError("give boards: USER@HOST for what is set up by ssh, or --device NAME=ADDRESS")
    _write_described(path, devices, link_line("link", rate_mbps * 1e6, rtt_ms / 1e3), dry_run, as_json)


def _write_described(path: Path, devices: tuple[str, ...], link: str, dry_run: bool, as_json: bool) -> None:
    from distredge.cluster import load_cluster
    from distredge.errors import FileError
    from distredge.runtime.hosting.boards import check_addresses
    from distredge.writing import write

    if path.exists():
        raise FileError(f"{path}: is there already; give another name")
    check_writable(path)
    text = cluster_text(name_of(path), [_described(device, path.parent, link) for device in devices])
    if dry_run:
        say_steps([Step("here", f"writes {path}", text)], as_json)
        return
    try:
        write(path, text)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    name = str(path) if path.suffix == ".toml" else f"./{path}"
    try:
        made = load_cluster(name)
        check_addresses(made)
    except BaseException:
        path.unlink()
        raise
    if as_json:
        print_json({"cluster": made.name, "file": str(path), "devices": list(made.names)})
        return
    click.echo(f"wrote {path}; next: distredge keys {name}, which says what to copy to which board")


def _described(text: str, folder: Path, link: str) -> BoardLines:
    """What `--device` says of a board."""
    from distredge.errors import ConfigError

    name, equals, rest = text.partition("=")
    address, _, profile = rest.partition(",")
    if not (name and equals and address) or not text.isprintable() or '"' in text:
        raise ConfigError(f"--device: found '{text}', accepted: NAME=ADDRESS or NAME=ADDRESS,PROFILE")
    return BoardLines(name, address, profile or PROFILE, profile_threads(folder, profile or PROFILE), (link,))


def _wanted(
    boards: tuple[str, ...],
    addresses: tuple[str, ...],
    profiles: tuple[str, ...],
    engine_pythons: tuple[str, ...],
    providers: tuple[str, ...],
) -> tuple[Wanted, ...]:
    """What the command line says of each board."""
    from distredge.cli._cluster_wishes import Wanted
    from distredge.errors import ConfigError
    from distredge.remote.ssh import read_destination

    found = []
    for text in boards:
        name, equals, rest = text.partition("=")
        destination = read_destination(rest if equals else text)
        found.append(Wanted(name if equals else None, destination))
    texts = [board.destination.text for board in found]
    for text in texts:
        if texts.count(text) > 1 and any(b.name is None for b in found if b.destination.text == text):
            raise ConfigError(f"{text}: stands twice; give its workers names: NAME={text}")
    _check_meant(found, addresses, "--address")
    _check_meant(found, profiles, "--profile")
    _check_meant(found, engine_pythons, "--engine-python")
    _check_meant(found, providers, "--provider")
    return tuple(
        board._replace(
            address=_of(board, addresses),
            profile=_of(board, profiles),
            engine_python=_of(board, engine_pythons),
            provider=_provider(_of(board, providers)),
        )
        for board in found
    )


def _provider(text: str | None) -> Provider:
    from distredge.errors import ConfigError

    for provider in PROVIDERS:
        if provider == (text or "cpu"):
            return provider
    raise ConfigError(f"--provider: found '{text}', accepted: {', '.join(PROVIDERS)}")


def _check_meant(boards: Sequence[Wanted], values: tuple[str, ...], option: str) -> None:
    """Refuses an option that is no NAME=VALUE, or is of no board that is given."""
    from distredge.errors import ConfigError, did_you_mean

    names = {name: None for board in boards for name in _names(board)}
    for text in values:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or '"' in value or not value.isprintable():
            raise ConfigError(f"{option}: found '{text}', accepted: NAME=VALUE")
        if name not in names:
            raise ConfigError(f"{option}: no board '{name}' is given{did_you_mean(name, names)}")


def _of(board: Wanted, values: tuple[str, ...]) -> str | None:
    """What an option NAME=VALUE says of a board."""
    said = {name: value for name, _, value in (text.partition("=") for text in values)}
    return next((said[name] for name in _names(board) if name in said), None)


def _names(board: Wanted) -> tuple[str, ...]:
    """By which an option may call a board: its name, or its host."""
    host = (board.destination.host, board.destination.text)
    return host if board.name is None else (board.name, *host)
