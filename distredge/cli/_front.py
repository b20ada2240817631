"""The front between objectives: a table, a chart, and a strategy file for each of its points."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import print_json
from distredge.cli._planning import ProgressLine, interruptible, save_chart

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.planners.figures import Point
    from distredge.problem import Problem


def plan_front(
    problem: Problem, budget: Budget, seed: int, folder: str, plot: str | None, as_json: bool, line: ProgressLine
) -> None:
    """Finds the front, writes its strategies into a folder and shows it."""
    from distredge.planners.tradeoff import has_watts, pareto

    budget.method = "pareto"
    try:
        with interruptible(budget):
            points = pareto(problem, budget, seed)
    finally:
        line.clear()
    paths = _save(points, folder)
    rows = [_row(point, path) for point, path in zip(points, paths, strict=True)]
    if not has_watts(problem):
        for row in rows:
            row["energy_j"] = None
    if as_json:
        print_json(
            {
                "model": problem.graph.name,
                "cluster": problem.cluster.name,
                "simulated": True,
                "seed": seed,
                "front": rows,
                "interrupted": budget.interrupted,
            }
        )
    else:
        _print(problem, rows)
        click.echo(f"written: {folder}")
    if plot is not None:
        _draw(problem, rows, plot)
        click.echo(f"written: {plot}", err=as_json)
    if budget.interrupted:
        click.echo("interrupted: this is the front so far", err=True)


def _save(points: Sequence[Point], folder: str) -> list[str]:
    from distredge.errors import FileError

    paths = [str(Path(folder) / f"{number:02}.json") for number in range(1, len(points) + 1)]
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for point, path in zip(points, paths, strict=True):
            point.strategy.save(path)
    except OSError as error:
        raise FileError(f"{folder}: cannot write the strategies: {error.strerror or error}") from error
    return paths


def _row(point: Point, path: str) -> dict[str, Any]:
    figures = point.figures
    return {
        "strategy": path,
        "latency_s": figures.latency_s,
        "images_per_s": figures.images_per_s,
        "energy_j": figures.energy_j,
        "devices": len(point.strategy.devices),
        "volumes": len(point.strategy.volumes),
        "lossless": point.strategy.lossless,
    }


def _print(problem: Problem, rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    links = problem.cluster.link_model
    table = Table(title=f"{problem.graph.name} on {problem.cluster.name}: front, simulated, {links} links")
    for heading in ("latency ms", "IPS, one at a time", "IPS, many in flight", "J per image", "devices", "volumes"):
        table.add_column(heading, justify="right")
    table.add_column("strategy")
    for row in rows:
        throughput, energy_j = row["images_per_s"], row["energy_j"]
        table.add_row(
            f"{row['latency_s'] * 1e3:.2f}",
            f"{1 / row['latency_s']:.2f}",
            f"{throughput:.2f}" if math.isfinite(throughput) else "unbounded",
            "" if energy_j is None else f"{energy_j:.3f}",
            str(row["devices"]),
            str(row["volumes"]),
            Path(row["strategy"]).name,
        )
    # A pipe has no width of its own, and 80 columns are too few.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _draw(problem: Problem, rows: Sequence[dict[str, Any]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    latency_ms, throughput = [row["latency_s"] * 1e3 for row in rows], [row["images_per_s"] for row in rows]
    energy_j = [row["energy_j"] for row in rows]
    if None in energy_j:
        axes.plot(latency_ms, throughput, "o-", color="tab:blue", drawstyle="steps-post")
    else:
        shown = axes.scatter(latency_ms, throughput, c=energy_j, cmap="viridis", s=40)
        figure.colorbar(shown, ax=axes, label="J per image")
    axes.set_xlabel("latency of one image, ms (simulated)")
    axes.set_ylabel("images per second, many in flight (simulated)")
    axes.set_title(f"{problem.graph.name} on {problem.cluster.name}: front of {len(rows)}")
    axes.grid(alpha=0.3)
    save_chart(figure, path)
