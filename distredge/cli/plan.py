"""`distredge plan`: finds a strategy, or the front between objectives, and writes it."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import EXIT_INTERRUPTED, check_folder, check_writable, print_json
from distredge.cli._options import Number, json_option, seed_option, verbose_option
from distredge.cli._planning import (
    ProgressLine,
    about_links,
    check_chart,
    interruptible,
    problem_and_file_options,
    say_assumption,
)  # fmt: skip
from distredge.model.wires import is_file

if TYPE_CHECKING:
    from distredge.media.jpeg import MeanFile
    from distredge.planners import Planner
    from distredge.planners.budget import Budget
    from distredge.planners.common.jpeg_input import InputChoice
    from distredge.problem import Objective, Problem
    from distredge.strategy import Strategy

_OBJECTIVES = ("latency", "throughput", "energy")
_DEFAULT_OUT, _DEFAULT_FOLDER = "strategy.json", "front"


@click.command()
@problem_and_file_options
@click.option("--method", default="auto", show_default=True, help="Planning method; an unknown name lists them.")
@click.option("--agent", "agent_file", metavar="FILE", help="With --method agent: your own, a run's agent.onnx.")
@click.option(
    "--budget",
    "budget_s",
    type=Number(0, above=True),
    default=1.0,
    show_default=True,
    help="Seconds of planning; loading and compiling do not count.",
)
@click.option("--evaluations", type=int, help="Strategies to price, instead of seconds: the seed decides the result.")
@click.option(
    "--objective",
    type=click.Choice(_OBJECTIVES),
    default="latency",
    show_default=True,
    help="What auto and search look for.",
)
@click.option("--latency-limit-ms", type=Number(0, above=True), help="Longest latency that a plan may have.")
@click.option(
    "--pictures",
    metavar="DIR|PATTERN",
    help="Pictures like those that will come: where their JPEG files are better than pixels, these are sent.",
)
@click.option("--respect-memory", is_flag=True, help="Only plans that fit the devices' memory.")
@click.option("--pareto", is_flag=True, help="The front between latency, throughput and energy instead of one plan.")
@click.option("--plot", metavar="FILE", help="Also draw the front of --pareto (.png, .svg or .pdf).")
@click.option(
    "--out",
    help=f"Strategy file to write (default: {_DEFAULT_OUT}); a folder (default: {_DEFAULT_FOLDER}) of --pareto.",
)
@seed_option
@json_option
@verbose_option
def plan(
    load: Callable[[], Problem],
    input_dtype: str | None,
    method: str,
    agent_file: str | None,
    budget_s: float,
    evaluations: int | None,
    objective: Objective,
    latency_limit_ms: float | None,
    pictures: str | None,
    respect_memory: bool,
    pareto: bool,
    plot: str | None,
    out: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Find a strategy for a model on a cluster.

    It may use all that leaves the output unchanged: pixels as input, packed rows, boundary rows first, any order and
    subset of the devices; --as-published restricts it to what the papers have.

    All figures are simulated. Ctrl-C ends the search early and writes the best strategy so far (exit code 130).
    """
    from distredge.planners import resolve
    from distredge.planners.budget import Budget

    resolve(method)
    if pareto and method not in ("auto", "search"):
        raise click.UsageError(f"--pareto is found by search, not by {method}: leave --method away")
    if agent_file is not None and method != "agent":
        raise click.UsageError(f"--agent is for --method agent, not for {method}")
    if pareto and objective != "latency":
        raise click.UsageError("--pareto weighs all objectives: leave --objective away")
    if plot is not None and not pareto:
        raise click.UsageError("--plot draws the front of --pareto; `distredge show` and `simulate` draw one strategy")
    in_files = input_dtype is not None and is_file(input_dtype)
    if in_files and pictures is None:
        raise click.UsageError("--input-dtype jpeg is priced with files like those that will come: give --pictures")
    if pictures is not None and input_dtype is not None and not in_files:
        raise click.UsageError(
            f"--pictures says whether files are better than pixels, and --input-dtype {input_dtype} rules them out: "
            "leave one of them away"
        )
    if pareto and pictures is not None:
        raise click.UsageError("--pictures is for one plan: leave --pareto away")
    Budget(None if evaluations is not None else budget_s, evaluations)
    check_chart(plot)
    if pareto:
        check_folder(out or _DEFAULT_FOLDER)
    else:
        check_writable(out or _DEFAULT_OUT)
    limit_s = None if latency_limit_ms is None else latency_limit_ms * 1e-3
    problem = dataclasses.replace(load(), objective=objective, latency_limit_s=limit_s, respect_memory=respect_memory)
    files = None if pictures is None else _mean_file(problem, pictures)
    line = ProgressLine("fastest" if pareto or objective != "latency" else "best")
    budget = Budget(None if evaluations is not None else budget_s, evaluations, line)
    if pareto:
        from distredge.cli._front import plan_front

        plan_front(problem, budget, seed, out or _DEFAULT_FOLDER, plot, as_json, line)
    else:
        _plan_one(problem, method, agent_file, budget, seed, out or _DEFAULT_OUT, as_json, line, files, in_files)
    if budget.interrupted:
        sys.exit(EXIT_INTERRUPTED)


def _plan_one(
    problem: Problem,
    method: str,
    agent_file: str | None,
    budget: Budget,
    seed: int,
    out: str,
    as_json: bool,
    line: ProgressLine,
    files: MeanFile | None,
    in_files: bool,
) -> None:
    from distredge.planners import of_method, run

    problem = of_method(problem, method)
    try:
        with interruptible(budget):
            strategy = run(problem, method, budget, seed, None if agent_file is None else _own_agent(agent_file))
    finally:
        line.clear()
    choice = None
    if files is not None:
        from distredge.planners.common.jpeg_input import choose_input
        from distredge.strategy import InputSpec

        choice = choose_input(problem, strategy, InputSpec("jpeg", files.size_bytes, files.pixels), in_files)
        strategy = choice.strategy
    strategy.save(out)
    _tell(problem, strategy, out, budget.interrupted, as_json, choice, files)


def _mean_file(problem: Problem, pictures: str) -> MeanFile:
    """Looks at the pictures; before planning, since that takes its time."""
    from distredge.media.jpeg import mean_file
    from distredge.media.pictures import find_pictures

    if "uint8" not in problem.input_dtypes:
        raise click.UsageError(
            f"--pictures: {problem.graph.name} gets {' or '.join(problem.input_dtypes)} here, and pictures travel in "
            "files only where pixels may travel: leave it away, or --as-published"
        )
    return mean_file(find_pictures(pictures))


def _own_agent(path: str) -> Planner:
    from distredge.agents.exported import plan_with

    return functools.partial(plan_with, path=path)


def _figures(problem: Problem, strategy: Strategy) -> dict[str, float | None]:
    """What a strategy costs, simulated; None where it has no bound, and where a board's watts are not known."""
    from distredge.latency.simulator.figures import measure

    figures = measure(problem, strategy)
    profiles = [problem.cluster.device(name).profile for name in strategy.devices]
    known = all(profile.idle_w is not None and profile.busy_w is not None for profile in profiles)
    return {
        **strategy.predicted,
        "throughput_per_s": figures.images_per_s if math.isfinite(figures.images_per_s) else None,
        "energy_j": figures.energy_j if known else None,
    }


def _tell(
    problem: Problem,
    strategy: Strategy,
    out: str,
    interrupted: bool,
    as_json: bool,
    choice: InputChoice | None,
    files: MeanFile | None,
) -> None:
    figures = _figures(problem, strategy)
    say_assumption(problem.cluster)
    latency_s, alone_s = strategy.predicted["latency_s"], strategy.predicted["offload_latency_s"]
    slower = latency_s > alone_s * (1 + 1e-9)
    if as_json:
        print_json(
            {
                "model": problem.graph.name,
                "cluster": problem.cluster.name,
                **about_links(problem.cluster),
                "options": problem.options,
                "objective": problem.objective,
                "strategy": out,
                "method": strategy.planner.method,
                "settings": dict(strategy.planner.settings),
                "simulated": figures,
                "input": _about_input(strategy, choice, files),
                "slower_than_offload": slower,
                "lossless": strategy.lossless,
                "interrupted": interrupted,
            }
        )
        return
    if interrupted:
        click.echo("interrupted: this is the best so far", err=True)
    click.echo(f"{problem.regime}: {problem.options_in_words}, {problem.cluster.link_model} links")
    click.echo(
        f"{strategy.planner.method}: {latency_s * 1e3:.2f} ms, {1 / latency_s:.2f} IPS, "
        f"{alone_s / latency_s:.2f} x the best single device ({alone_s * 1e3:.2f} ms); simulated"
    )
    if problem.objective == "throughput" and (throughput := figures["throughput_per_s"]) is not None:
        click.echo(f"throughput: {throughput:.2f} IPS with many in flight; simulated")
    if problem.objective == "energy" and (energy_j := figures["energy_j"]) is not None:
        click.echo(f"energy: {energy_j:.3f} J per image; simulated")
    if reason := strategy.planner.settings.get("reason"):
        click.echo(str(reason))
    if choice is not None and files is not None:
        click.echo(_input_in_words(choice, files))
    if slower and problem.objective == "latency":
        click.echo(
            "warning: this strategy is slower than the best single device; use --method auto or offload", err=True
        )
    if not strategy.lossless:
        click.echo(f"warning: this strategy is lossy: {strategy.lossy_because}", err=True)
    click.echo(f"written: {out}")


def _about_input(strategy: Strategy, choice: InputChoice | None, files: MeanFile | None) -> dict[str, Any]:
    """What travels, and what the two forms of pictures cost where they were compared; null for what cannot be."""
    about: dict[str, Any] = {"dtype": strategy.input.dtype}
    if choice is None or files is None:
        return about
    files_s = choice.files_latency_s
    return {
        **about,
        "uint8_latency_s": choice.rows_latency_s,
        "jpeg_latency_s": files_s if math.isfinite(files_s) else None,
        "files": files.files,
        "other_pictures": files.others,
        "file_bytes": files.size_bytes,
        "file_pixels": files.pixels,
    }


def _input_in_words(choice: InputChoice, files: MeanFile) -> str:
    files_s = choice.files_latency_s
    priced = f"{1e3 * files_s:.2f} ms" if math.isfinite(files_s) else "beyond the limits"
    count = "1 file" if files.files == 1 else f"{files.files} files"
    others = f" ({files.others} others)" if files.others else ""
    taken = "pictures travel in their files" if choice.in_files else "pictures travel as rows of pixels"
    return (
        f"{taken}: in JPEG files {priced}, as pixels {1e3 * choice.rows_latency_s:.2f} ms; simulated with "
        f"{count}{others} of {files.size_bytes / 1e3:.1f} kB and {files.pixels / 1e6:.2f} Mpixel on average"
    )
