"""`distredge doctor`: says what works and what does not, on this machine or on the boards of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from distredge.cli._common import print_json
from distredge.cli._options import Number, json_option, verbose_option
from distredge.cli._remote import ssh_options
from distredge.cli.worker import PROVIDERS

if TYPE_CHECKING:
    from distredge.cluster_file import Provider
    from distredge.remote.checks.findings import Finding

_WIDTH = 16
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--cluster", "cluster_name", help="Look at the boards of this cluster file, by ssh and by their workers.")
@click.option("--ssh", "ssh", multiple=True, metavar="NAME=USER@HOST",
              help="Where ssh finds a board, where the cluster file does not say it; once per board.")  # fmt: skip
@click.option("--strategy", type=click.Path(path_type=Path), help="Whether the boards have the memory that it takes.")
@click.option("--model", "model_name", help="The strategy's model, where it is not in the zoo.")
@click.option("--rates/--no-rates", default=True, show_default=True,
              help="Measure the links; leave it where workers are busy.")  # fmt: skip
@click.option("--keys", "keys_path", type=_FOLDER, help="Folder of keys; default: 'keys' beside the cluster file.")
@click.option("--plaintext", is_flag=True, help="The workers run without encryption.")
@click.option("--engine-python", metavar="PATH",
              help="Of this machine: the older Python whose ONNX Runtime computes, as for `worker`.")  # fmt: skip
@click.option("--provider", type=click.Choice(PROVIDERS), default="cpu", show_default=True,
              help="Of this machine: what computes.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=Number(0, 600, above=True), default=20.0, show_default=True,
              help="Seconds for each board and each step.")  # fmt: skip
@ssh_options
@json_option
@verbose_option
def doctor(
    cluster_name: str | None,
    ssh: tuple[str, ...],
    strategy: Path | None,
    model_name: str | None,
    rates: bool,
    keys_path: Path | None,
    plaintext: bool,
    engine_python: str | None,
    provider: Provider,
    timeout_s: float,
    ssh_option: tuple[str, ...],
    batch: bool,
    as_json: bool,
) -> None:
    """Say what works and what does not; exit code 1 when something is bad.

    Without --cluster: whether a worker can run on this machine. With it: what is wrong on which board, and what to do;
    boards are only read, by one shell script each, and nothing on them is changed.
    """
    if cluster_name is None:
        for name, given in (("--ssh", ssh), ("--strategy", strategy), ("--model", model_name), ("--keys", keys_path)):
            if given:
                raise click.UsageError(f"{name} is for --cluster FILE")
        _here(engine_python, provider, as_json)
        return
    if engine_python is not None or provider != "cpu":
        raise click.UsageError("--engine-python and --provider are of this machine; boards' stand in the cluster file")
    from distredge.cli._doctor_cluster import examine
    from distredge.cli._doctor_judging import Wishes

    wishes = Wishes(cluster_name, ssh, strategy, model_name, rates, keys_path, plaintext, timeout_s, ssh_option, batch)
    _say(cluster_name, examine(wishes), as_json)


def _here(engine_python: str | None, provider: Provider, as_json: bool) -> None:
    from distredge.cli._doctor_here import look_around

    findings = []
    for finding in look_around(engine_python, provider):
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.state:8} {finding.what:{_WIDTH}} {finding.detail}")
    if as_json:
        print_json({"findings": [{"what": f.what, "state": f.state, "detail": f.detail} for f in findings]})
    if any(f.state == "bad" for f in findings):
        raise SystemExit(1)


def _say(cluster: str, findings: list[Finding], as_json: bool) -> None:
    counts = {state: sum(f.state == state for f in findings) for state in ("ok", "warning", "bad")}
    if as_json:
        told = [
            {"board": f.board, "what": f.what, "state": f.state, "detail": f.detail, "do": f.todo} for f in findings
        ]
        print_json({"cluster": cluster, "findings": told, **counts})
    else:
        width = max((len(f.board) for f in findings), default=0)
        for finding in findings:
            click.echo(f"{finding.state:8} {finding.board:{width}} {finding.what:{_WIDTH}} {finding.detail}")
            if finding.todo:
                click.echo(f"{'':8} {'':{width}} {'':{_WIDTH}} -> {finding.todo}")
        click.echo(", ".join(f"{count} {state}" for state, count in counts.items()))
    if counts["bad"]:
        raise SystemExit(1)
