"""`distredge show`: describes a model, operator by operator."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import check_writable, print_json
from distredge.cli._options import input_shape_option, json_option, verbose_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distredge.model.describe import OperatorLine
    from distredge.model.graph import Graph


@click.command()
@click.argument("model")
@input_shape_option
@click.option("--strategy", type=click.Path(path_type=Path), help="Show the volumes of this strategy in the picture.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the graph with its cuts (.svg, .png or .pdf)."
)
@json_option
@verbose_option
def show(
    model: str, input_shape: tuple[int, ...] | None, strategy: Path | None, plot: Path | None, as_json: bool
) -> None:
    """Describe MODEL: what each operator costs, whether it can be split by rows, and where cuts may lie.

    MODEL is a name of the zoo, an .onnx file or package.module:callable.
    """
    from distredge.model.capture import load_model
    from distredge.model.describe import describe

    if strategy is not None and plot is None:
        raise click.UsageError("--strategy is for the picture: give --plot FILE too")
    check_writable(plot)
    graph = load_model(model, input_shape)
    lines = describe(graph)
    if plot is not None:
        _plot(graph, plot, strategy)
    if as_json:
        print_json(_figures(graph, lines))
        return
    _print(graph, lines)
    if plot is not None:
        click.echo(f"picture: {plot}")


def _plot(graph: Graph, plot: Path, strategy: Path | None) -> None:
    from distredge.model.picture import draw
    from distredge.strategy import Strategy

    plan = None
    if strategy is not None:
        plan = Strategy.load(strategy)
        plan.check(graph)
    draw(graph, plot, plan)


def _figures(graph: Graph, lines: Sequence[OperatorLine]) -> dict[str, Any]:
    """The same for machines."""
    return {
        "model": graph.name,
        "topology": graph.topology,
        "inputs": {n: list(s) for n, s in zip(graph.input_names, graph.input_shapes, strict=True)},
        "outputs": {n: list(s) for n, s in zip(graph.output_names, graph.output_shapes, strict=True)},
        "opset": graph.opset,
        "check": None if graph.check is None else asdict(graph.check),
        "macs": sum(graph.macs),
        "macs_in_head": _head_macs(graph),
        "lossy_because": graph.lossy_because,
        "head_begins_at": _head_begins_at(graph),
        "parameters": graph.parameters,
        "weight_bytes": sum(array.nbytes for array in graph.constants.values()),
        "operators": [asdict(line) for line in lines],
        "cuts": [
            {"index": c.index, "tensors": c.tensors, "reference": c.reference, "height": c.height} for c in graph.cuts
        ],
    }


def _head_begins_at(graph: Graph) -> dict[str, str] | None:
    from distredge.model.describe import head_share

    found = head_share(graph)
    if found.begins is None:
        return None
    return {"operator": found.begins.name, "type": found.begins.op_type, "why": found.why}


def _head_macs(graph: Graph) -> int:
    return sum(graph.macs[i] for i in graph.body.head)


def _print(graph: Graph, lines: Sequence[OperatorLine]) -> None:
    from distredge.model.describe import LARGE_HEAD, head_share

    rows: list[tuple[str, ...]] = [("#", "operator", "type", "output", "MMAC", "weights", "split", "cut", "")]
    rows += [_row(line) for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in _RIGHT else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
    total = sum(graph.macs)
    in_body = 1 - _head_macs(graph) / total if total else 0.0
    inputs, outputs = (
        ", ".join(f"{name} {'x'.join(map(str, graph.tensors[name].shape))}" for name in names)
        for names in (graph.input_names, graph.output_names)
    )
    click.echo(
        f"\n{graph.name}: {total / 1e9:.4g} GMAC, {graph.parameters / 1e6:.4g} M parameters, opset {graph.opset}"
    )
    click.echo(f"from {inputs} to {outputs}")
    if graph.check is not None:
        click.echo(str(graph.check))
    click.echo(f"{len(graph.cuts)} cuts; {100 * in_body:.4g} % of the multiply-adds can be split by rows")
    if graph.lossy_because:
        click.echo(f"every split of it is lossy: {graph.lossy_because}")
    found = head_share(graph)
    if found.begins is not None and found.share > LARGE_HEAD:
        click.echo(
            f"warning: {100 * found.share:.4g} % of the multiply-adds are in the head, which runs whole on one device; "
            f"it begins at '{found.begins.name}' ({found.begins.op_type}): {found.why}"
        )
    click.echo("[size]: the row axis; weights in kB; cut n*m: m tensors cross cut n, which lies after the operator")


_RIGHT = (0, 4, 5, 7)


def _row(line: OperatorLine) -> tuple[str, ...]:
    sizes = [f"[{size}]" if axis == line.row_axis else str(size) for axis, size in enumerate(line.shape)]
    cut = "" if line.cut is None else f"{line.cut}" + (f"*{len(line.live)}" if len(line.live) > 1 else "")
    return (
        str(line.index),
        line.name if len(line.name) <= _NAME else f"...{line.name[3 - _NAME :]}",
        line.op_type,
        "x".join(sizes),
        f"{line.macs / 1e6:,.2f}" if line.macs else "",
        f"{line.weight_bytes / 1e3:,.1f}" if line.weight_bytes else "",
        line.split,
        cut,
        line.why,
    )


_NAME = 36
"""Characters of an operator's name; of longer ones the end says more."""
