"""`distredge compare`: plans with several methods and shows what each would cost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import EXIT_INTERRUPTED, print_json
from distredge.cli._options import Number, json_option, seed_option, verbose_option
from distredge.cli._planning import (
    ProgressLine,
    about_links,
    check_chart,
    interruptible,
    problem_options,
    save_chart,
    say_assumption,
)
from distredge.writing import as_text

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy


@click.command()
@problem_options
@click.option("--methods", default="all", show_default=True, help="Names with commas between them, or all.")
@click.option(
    "--strategy", "files", multiple=True, metavar="FILE", help="Also this strategy file, such as a run's; repeatable."
)
@click.option("--budget", "budget_s", type=Number(0, above=True), default=10.0, show_default=True,
              help="Seconds for each method.")  # fmt: skip
@click.option("--evaluations", type=int, help="Strategies that each method may price, instead of seconds.")
@click.option("--plot", metavar="FILE", help="Also draw a bar chart (.png, .svg or .pdf).")
@seed_option
@json_option
@verbose_option
def compare(
    load: Callable[[], Problem],
    methods: str,
    files: tuple[str, ...],
    budget_s: float,
    evaluations: int | None,
    plot: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Plan with several methods and print a table; every figure in it but planning time is simulated.

    All of them may use what leaves the output unchanged: pixels as input, and boundary rows first and packed rows
    wherever that makes a method's own strategy faster. --as-published restricts all to what the papers have.

    Offload, the best single device, is always among them. "x bound" is latency over a computed lower bound that no
    strategy can beat. Ctrl-C ends the method at work and leaves the others out.
    """
    from distredge.planners import of_method
    from distredge.planners.budget import Budget
    from distredge.planners.lower_bound import lower_bound_s

    names = _names(methods)
    seconds = None if evaluations is not None else budget_s
    Budget(seconds, evaluations)
    check_chart(plot)
    problem = load()
    bound_s = min(lower_bound_s(made) for made in {of_method(problem, name) for name in names})
    rows = [_file_row(problem, path) for path in files]
    planned, interrupted = _rows(problem, names, seconds, evaluations, seed)
    not_run = names[len(planned) :]
    rows += planned
    for row in rows:
        if "refused" not in row:
            row["over_bound"] = row["latency_s"] / bound_s
    say_assumption(problem.cluster)
    if as_json:
        found = _as_json(problem, rows, bound_s, seconds, evaluations, seed)
        print_json({**found, "interrupted": interrupted, "not_run": not_run})
    else:
        _print_table(problem, rows, bound_s)
    if plot is not None:
        _draw(problem, rows, bound_s, plot)
        click.echo(f"written: {plot}", err=as_json)
    if interrupted:
        left = f"{', '.join(not_run)} not run" if not_run else f"{names[-1]} ended early"
        click.echo(f"interrupted: {left}", err=True)
        sys.exit(EXIT_INTERRUPTED)


def _rows(
    problem: Problem, names: list[str], seconds: float | None, evaluations: int | None, seed: int
) -> tuple[list[dict[str, Any]], bool]:
    """Returns a row for each method that came to an end, and whether the user interrupted.

    The first Ctrl-C leaves the method at work its best so far; a second one leaves it out.
    """
    from distredge.planners.budget import Budget

    rows: list[dict[str, Any]] = []
    line = ProgressLine()
    try:
        for name in names:
            budget = Budget(seconds, evaluations, line)
            with interruptible(budget):
                rows.append(_row(problem, name, budget, seed))
            line.clear()
            if budget.interrupted:
                if "refused" not in rows[-1]:
                    rows[-1]["cut_short"] = rows[-1]["cut_short"] or "interrupted"
                return rows, True
    except KeyboardInterrupt:
        line.clear()
        return rows, True
    return rows, False


def _names(methods: str) -> list[str]:
    from distredge.planners import METHODS, resolve

    if methods.strip() == "all":
        return ["offload", *(name for name in METHODS if name != "offload")]
    wanted = dict.fromkeys(name.strip() for name in methods.split(",") if name.strip())
    if not wanted:
        raise click.UsageError("--methods names no method")
    for name in wanted:
        resolve(name)
    return list(dict.fromkeys(["offload", *wanted]))


def _file_row(problem: Problem, path: str) -> dict[str, Any]:
    """Figures of a strategy that was planned before; its planning time is not known here."""
    from pathlib import Path

    from distredge.strategy import Strategy

    strategy = Strategy.load(path)
    strategy.check(problem.graph)
    _check_options(problem, strategy, path)
    label = f"{strategy.planner.method} ({as_text(Path(path).name)})"
    return {"method": label, "file": path, **_figures(problem, strategy), "planning_s": None, "cut_short": None}


def _check_options(problem: Problem, strategy: Strategy, path: str) -> None:
    """Refuses what the other methods may not use: neither they nor the bound would compare with it."""
    from distredge.errors import StrategyError
    from distredge.model.wires import EXACT_WIRES, is_packed

    used = {volume.wire for volume in strategy.volumes}
    wires, packed = used - set(EXACT_WIRES), {wire for wire in used if is_packed(wire)}
    published = problem.regime == "as published"
    if strategy.input.file:
        raise StrategyError(
            f"{path}: sends pictures in their files, which no method plans with; `distredge plan --pictures` says what "
            "that gains"
        )
    if strategy.input.element_dtype not in problem.input_dtypes:
        how = "leave --as-published away" if published else f"give --input-dtype {strategy.input.element_dtype}"
        needed = f"{strategy.input.element_dtype} input; {how}"
    elif wires and not problem.allow_lossy:
        needed = f"{', '.join(sorted(wires))} between volumes; give --allow-lossy"
    elif packed and problem.cluster.link_model == "independent":
        needed = f"{', '.join(sorted(packed))} between volumes; give --link-model shared"
    elif not (strategy.lossless or problem.allow_lossy):
        needed = f"a lossy model ({problem.graph.lossy_because}); give --allow-lossy"
    elif not problem.boundary_first and any(volume.boundary_first for volume in strategy.volumes):
        needed = "boundary rows first; give --boundary-first"
    elif published and strategy.devices != tuple(name for name in problem.cluster.names if name in strategy.devices):
        needed = "the devices in another order; leave --as-published away"
    else:
        return
    raise StrategyError(f"{path}: was planned with {needed} to compare it with methods that may do the same")


def _row(problem: Problem, method: str, budget: Budget, seed: int) -> dict[str, Any]:
    """Figures of one method, or why it has none; loading or compiling code does not count as planning."""
    from distredge.errors import DistredgeError
    from distredge.planners import of_method, run

    try:
        strategy = run(of_method(problem, method), method, budget, seed)
    except DistredgeError as error:
        return {"method": method, "refused": " ".join(str(error).split())}
    planning_s = budget.elapsed_s
    figures = _figures(problem, strategy)
    return {"method": method, **figures, "planning_s": planning_s, "cut_short": budget.cut_short}


def _figures(problem: Problem, strategy: Strategy) -> dict[str, Any]:
    from distredge.latency import offload_latency_s, simulate
    from distredge.model.laying_out import lay_out

    layout = lay_out(problem.graph, strategy)
    timeline = simulate(problem, strategy)
    return {
        "latency_s": timeline.latency_s,
        "images_per_s": timeline.images_per_s,
        "bytes_sent": layout.bytes_sent,
        "recompute_ratio": layout.recompute_ratio(problem.graph),
        "speedup_over_offload": offload_latency_s(problem) / timeline.latency_s,
        "volumes": len(strategy.volumes),
        "lossless": strategy.lossless,
        "settings": dict(strategy.planner.settings),
    }


def _as_json(
    problem: Problem,
    rows: list[dict[str, Any]],
    bound_s: float,
    seconds: float | None,
    evaluations: int | None,
    seed: int,
) -> dict[str, Any]:
    from distredge.latency import offload_latency_s

    return {
        "model": problem.graph.name,
        "cluster": problem.cluster.name,
        **about_links(problem.cluster),
        "options": problem.options,
        "simulated": True,
        "budget_s": seconds,
        "evaluations": evaluations,
        "seed": seed,
        "offload_latency_s": offload_latency_s(problem),
        "lower_bound_s": bound_s,
        "methods": rows,
    }


def _print_table(problem: Problem, rows: list[dict[str, Any]], bound_s: float) -> None:
    from rich.console import Console
    from rich.table import Table

    # A pipe has no width of its own, and 80 columns are too few.
    console = Console(width=None if sys.stdout.isatty() else 110)
    narrow = console.width < 100
    table = Table(
        title=f"{problem.graph.name} on {problem.cluster.name}: simulated, {problem.regime}, "
        f"{problem.cluster.link_model} links",
        padding=(0, 0) if narrow else (0, 1),
    )
    table.add_column("method", no_wrap=not narrow, overflow="fold")
    for heading in ("latency ms", "IPS", "x offload", "x bound", "sent MB", "halo %", "volumes", "planning s"):
        table.add_column(heading.replace(" ", "\n") if narrow else heading, justify="right", no_wrap=narrow)
    done = [row for row in rows if "refused" not in row]
    best_s = min((row["latency_s"] for row in done), default=0.0)
    for row in done:
        table.add_row(
            row["method"],
            f"{row['latency_s'] * 1e3:.2f}",
            f"{row['images_per_s']:.2f}",
            f"{row['speedup_over_offload']:.2f}",
            f"{row['over_bound']:.2f}",
            f"{row['bytes_sent'] / 1e6:.2f}",
            f"{row['recompute_ratio'] * 100:.1f}",
            str(row["volumes"]),
            "" if row["planning_s"] is None else f"{row['planning_s']:.2f}",
            style="bold" if row["latency_s"] == best_s else None,
        )
    console.print(table)
    click.echo(f"every method: {problem.options_in_words}")
    _print_best(done, bound_s)
    if lossy := [row["method"] for row in done if not row["lossless"]]:
        click.echo(f"lossy, {problem.graph.lossy_because or 'rows travel in less than float32'}: {', '.join(lossy)}")
    for row in rows:
        if "refused" in row:
            click.echo(f"{row['method']} does not apply: {row['refused']}")
        elif row["cut_short"]:
            click.echo(f"{row['method']} was cut short: {row['cut_short']}")
        elif row["speedup_over_offload"] < 1 - 1e-9:
            click.echo(f"{row['method']} is slower than the best single device")


def _print_best(done: list[dict[str, Any]], bound_s: float) -> None:
    bound = f"lower bound: {bound_s * 1e3:.2f} ms, {1 / bound_s:.2f} IPS, for any strategy under these options"
    best = min(done, key=lambda row: row["latency_s"], default=None)
    if best is None:
        click.echo(bound)
        return
    click.echo(f"{bound}; the best, {best['method']}, takes {best['over_bound']:.2f} times as long")
    click.echo("simulated: all columns but planning s, which is measured here")


def _draw(problem: Problem, rows: list[dict[str, Any]], bound_s: float, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from distredge.latency import offload_latency_s

    done = [row for row in rows if "refused" not in row]
    figure, axes = plt.subplots(figsize=(max(5.0, 1.5 + 0.6 * len(done)), 4), layout="constrained")
    bars = axes.bar([row["method"] for row in done], [row["images_per_s"] for row in done], color="tab:blue")
    for label in axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2):
        # The line of the best single device crosses many of them.
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.axhline(
        1 / offload_latency_s(problem), color="tab:red", linestyle="--", linewidth=1, label="best single device"
    )
    axes.axhline(1 / bound_s, color="tab:gray", linestyle=":", linewidth=1, label="no strategy can do better")
    axes.set_ylabel("images per second (simulated)")
    axes.set_title(f"{problem.graph.name} on {problem.cluster.name}")
    axes.tick_params(axis="x", rotation=60)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    save_chart(figure, path)
