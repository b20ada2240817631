"""The front between objectives: a table, a chart, and a strategy file for each of its points."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import print_json
from distredge.cli._planning import ProgressLine, about_links, interruptible, save_chart, say_assumption

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.planners.objectives import Point
    from distredge.problem import Problem


def plan_front(
    problem: Problem, budget: Budget, seed: int, folder: str, plot: str | None, as_json: bool, line: ProgressLine
) -> None:
    """Finds the front, writes its strategies into a folder and shows it."""
    from distredge.planners.objectives import without_watts
    from distredge.planners.other_objectives.one_objective import has_watts
    from distredge.planners.other_objectives.pareto import pareto

    budget.method = "pareto"
    try:
        with interruptible(budget):
            points = pareto(problem, budget, seed)
    finally:
        line.clear()
    paths = _save(points, folder)
    if others := left_over(folder, paths):
        click.echo(f"{folder} also holds strategies of an earlier run: {others[0]} to {others[-1]}", err=True)
    rows = [_row(point, path) for point, path in zip(points, paths, strict=True)]
    if not has_watts(problem):
        for row in rows:
            row["energy_j"] = None
        unknown = ", ".join(without_watts(problem))
        click.echo(f"without energy: the profiles of {unknown} do not say idle and busy watts", err=True)
    say_assumption(problem.cluster)
    if as_json:
        print_json(
            {
                "model": problem.graph.name,
                "cluster": problem.cluster.name,
                **about_links(problem.cluster),
                "options": problem.options,
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


def left_over(folder: str, paths: Sequence[str]) -> list[str]:
    """Names of strategies in a folder that were not written now: fronts differ in size."""
    now = {Path(path).name for path in paths}
    return sorted(path.name for path in Path(folder).glob("[0-9][0-9].json") if path.name not in now)


def _row(point: Point, path: str) -> dict[str, Any]:
    figures = point.figures
    return {
        "strategy": path,
        "latency_s": figures.latency_s,
        "throughput_per_s": figures.images_per_s if math.isfinite(figures.images_per_s) else None,
        "energy_j": figures.energy_j,
        "devices": len(point.strategy.devices),
        "volumes": len(point.strategy.volumes),
        "lossless": point.strategy.lossless,
    }


def _print(problem: Problem, rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    links = problem.cluster.link_model
    table = Table(
        title=f"{problem.graph.name} on {problem.cluster.name}: front, simulated, {problem.regime}, {links} links"
    )
    for heading in ("latency ms", "IPS, one at a time", "IPS, many in flight", "J per image", "devices", "volumes"):
        table.add_column(heading, justify="right")
    table.add_column("strategy")
    for row in rows:
        throughput, energy_j = row["throughput_per_s"], row["energy_j"]
        table.add_row(
            f"{row['latency_s'] * 1e3:.2f}",
            f"{1 / row['latency_s']:.2f}",
            "unbounded" if throughput is None else f"{throughput:.2f}",
            "" if energy_j is None else f"{energy_j:.3f}",
            str(row["devices"]),
            str(row["volumes"]),
            Path(row["strategy"]).name,
        )
    # A pipe has no width of its own, and 80 columns are too few.
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    click.echo(f"options: {problem.options_in_words}")


def _draw(problem: Problem, rows: Sequence[dict[str, Any]], path: str) -> None:
    """Draws throughput, and where watts are known energy, over latency; a line joins what is best in the two shown."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    latency_ms = [row["latency_s"] * 1e3 for row in rows]
    # What has no bound cannot be drawn.
    throughput = [math.nan if row["throughput_per_s"] is None else row["throughput_per_s"] for row in rows]
    energy_j = [row["energy_j"] for row in rows]
    throughput_label, energy_label = "images per second, many in flight (simulated)", "J per image (simulated)"
    panels: list[tuple[list[float], str, bool, list[float], str]]
    if None in energy_j:
        panels = [(throughput, throughput_label, True, [], "")]
    else:
        panels = [
            (throughput, throughput_label, True, energy_j, energy_label),
            (energy_j, energy_label, False, throughput, throughput_label),
        ]
    figure, all_axes = plt.subplots(1, len(panels), figsize=(6.5 * len(panels), 4), layout="constrained", squeeze=False)
    for axes, (shown, label, rises, color, color_label) in zip(all_axes[0], panels, strict=True):
        best = _best_so_far(shown, rises)
        axes.step([latency_ms[k] for k in best], [shown[k] for k in best], where="post", color="tab:blue", linewidth=1)
        if color:
            points = axes.scatter(latency_ms, shown, c=color, cmap="viridis", s=30, zorder=2)
            figure.colorbar(points, ax=axes, label=color_label)
        else:
            axes.scatter(latency_ms, shown, color="tab:blue", s=20, zorder=2)
        axes.set_xlabel("latency of one image, ms (simulated)")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{problem.graph.name} on {problem.cluster.name}: front of {len(rows)}")
    save_chart(figure, path)


def _best_so_far(values: Sequence[float], rises: bool) -> list[int]:
    """Places, by rising latency, of values that are better than all before them."""
    found: list[int] = []
    for k, value in enumerate(values):
        if not found or (value > values[found[-1]] if rises else value < values[found[-1]]):
            found.append(k)
    return found
