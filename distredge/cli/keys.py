"""`distredge keys`: makes the keys of a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distredge.cli._common import print_json
from distredge.cli._options import json_option, verbose_option

if TYPE_CHECKING:
    from distredge.cluster_file import BoardEntry


@click.command()
@click.argument("cluster_name", metavar="CLUSTER")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write; default: 'keys' beside the cluster file.",
)
@json_option
@verbose_option
def keys(cluster_name: str, out: Path | None, as_json: bool) -> None:
    """Make a key pair for every device of CLUSTER and for the requester.

    Writes public.json, which everybody gets, and one NAME.secret (mode 0600) each, which goes to NAME alone; says what
    to copy to which board.
    """
    from distredge.cluster_file import read_boards
    from distredge.runtime.hosting.boards import check_addresses, keys_folder
    from distredge.runtime.protocol.security import REQUESTER_NAME, make_keys, write_keys

    boards = read_boards(cluster_name)
    check_addresses(boards)
    folder = keys_folder(cluster_name, out)
    files = write_keys(make_keys(boards.names), folder)
    copying = {board.name: _copying(board, Path(cluster_name), folder) for board in boards.devices}
    if as_json:
        print_json({"folder": str(folder), "files": [file.name for file in files], "copy": copying})
        return
    click.echo(f"wrote {len(files)} files to {folder}; {REQUESTER_NAME}.secret is for this machine and stays here")
    usual = keys_folder(cluster_name, None)
    if folder.resolve() != usual.resolve():
        click.echo(f"not the usual place, {usual}: give --keys {folder} to the commands here that take --cluster")
    for name, commands in copying.items():
        click.echo(f"{name}:" + ("" if commands else " is on this machine; nothing is to be copied"))
        for command in commands:
            click.echo(f"    {command}")
    start = f"distredge worker --cluster {Path(cluster_name).name} --name {boards.names[0]}"
    click.echo(f"then start each worker where its files are, as: {start}")


def _copying(board: BoardEntry, cluster_file: Path, folder: Path) -> list[str]:
    """The commands that bring a board what its worker reads, into the home of the user there."""
    from distredge.network_addresses import OWN
    from distredge.runtime.hosting.boards import KEYS_FOLDER
    from distredge.runtime.protocol.security import PUBLIC_FILE

    if board.address in OWN:
        return []
    # scp takes what stands before the first colon for the host.
    host = f"[{board.address}]" if ":" in board.address else board.address
    # Folder there -> files here that go into it.
    copies: dict[str, list[str]] = {"": [str(cluster_file)]}
    # A shipped profile is there already, and an absolute path is the same everywhere.
    profile = Path(board.profile)
    if profile.suffix == ".json" and board.memory_bytes is None and not profile.is_absolute():
        beside = "" if profile.parent == Path() else f"{profile.parent}/"
        copies.setdefault(beside, []).append(str(cluster_file.parent / profile))
    copies[f"{KEYS_FOLDER}/"] = [str(folder / name) for name in (PUBLIC_FILE, f"{board.name}.secret")]
    made = [to.rstrip("/") for to in copies if to]
    return [
        shlex.join(["ssh", board.address, "mkdir", "-p", "-m", "700", *made]),
        *(shlex.join(["scp", "-p", *files, f"{host}:{to}"]) for to, files in copies.items()),
    ]
