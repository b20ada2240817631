"""`distredge schema`: prints the JSON schema of a file format."""

from __future__ import annotations

import json
from typing import Any

import click

from distredge.cli._common import load_object, print_json
from distredge.cli._options import json_option, verbose_option

FORMATS = {
    "strategy": "distredge.strategy:StrategyFile",
    "cluster": "distredge.cluster_file:ClusterFile",
    "profile": "distredge.profiles.schema:ProfileFile",
    "menu": "distredge.planners.live_selection.menu:MenuFile",
}
"""Format -> the structure that its reader checks files against."""


@click.command()
@click.argument("name", type=click.Choice(list(FORMATS)))
@json_option
@verbose_option
def schema(name: str, as_json: bool) -> None:
    """Print the JSON schema of the file format NAME (cluster files and menus are TOML of the same structure).

    It is JSON in any case; with --json it is on one line.
    """
    if as_json:
        print_json(json_schema(name))
    else:
        click.echo(json.dumps(json_schema(name), indent=1))


def json_schema(name: str) -> dict[str, Any]:
    """Returns the JSON schema of a file format."""
    import msgspec

    found = msgspec.json.schema(load_object(FORMATS[name]))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"distredge.{name}/1", **found}
