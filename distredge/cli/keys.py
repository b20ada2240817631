"""`distredge keys`: makes the keys of a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from distredge.cli._common import print_json
from distredge.cli._options import json_option, verbose_option


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

    Writes public.json, which everybody gets, and one NAME.secret (mode 0600) each, which goes to NAME alone.
    """
    from distredge.cluster import load_cluster
    from distredge.runtime.hosting.boards import keys_folder
    from distredge.runtime.protocol.security import REQUESTER_NAME, make_keys, write_keys

    cluster = load_cluster(cluster_name)
    folder = keys_folder(cluster_name, out)
    files = write_keys(make_keys(cluster.names), folder)
    if as_json:
        print_json({"folder": str(folder), "files": [file.name for file in files]})
        return
    click.echo(f"wrote {len(files)} files to {folder}; requester: public.json and {REQUESTER_NAME}.secret stay here")
    for device in cluster.devices:
        click.echo(f"  {device.name}: copy public.json and {device.name}.secret, e.g. scp {folder}/public.json "
                   f"{folder}/{device.name}.secret {device.address}:keys/")  # fmt: skip
