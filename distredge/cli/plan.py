"""`distredge plan`: finds a strategy and writes it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from distredge.cli._common import (
    EXIT_INTERRUPTED,
    Number,
    check_writable,
    json_option,
    print_json,
    seed_option,
    verbose_option,
)
from distredge.cli._planning import ProgressLine, interruptible, problem_options

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Strategy


@click.command()
@problem_options
@click.option("--method", default="auto", show_default=True, help="Planning method; an unknown name lists them.")
@click.option("--budget", "budget_s", type=Number(0, above=True), default=1.0, show_default=True, help="Seconds.")
@click.option("--evaluations", type=int, help="Strategies to price, instead of seconds: the seed decides the result.")
@click.option("--out", default="strategy.json", show_default=True, help="Strategy file to write.")
@seed_option
@json_option
@verbose_option
def plan(
    load: Callable[[], Problem],
    method: str,
    budget_s: float,
    evaluations: int | None,
    out: str,
    seed: int,
    as_json: bool,
) -> None:
    """Find a strategy for a model on a cluster.

    Ctrl-C ends the search early and writes the best strategy so far.
    """
    from distredge.planners import resolve, run
    from distredge.planners.budget import Budget

    resolve(method)
    check_writable(out)
    line = ProgressLine()
    Budget(None if evaluations is not None else budget_s, evaluations)
    problem = load()
    budget = Budget(None if evaluations is not None else budget_s, evaluations, line)
    with interruptible(budget):
        strategy = run(problem, method, budget, seed)
    line.clear()
    _write(strategy, out)
    _tell(strategy, out, budget.interrupted, as_json)
    if budget.interrupted:
        sys.exit(EXIT_INTERRUPTED)


def _write(strategy: Strategy, out: str) -> None:
    from distredge.errors import FileError

    try:
        strategy.save(out)
    except OSError as error:
        raise FileError(f"{out}: cannot write the strategy: {error.strerror or error}") from error


def _tell(strategy: Strategy, out: str, interrupted: bool, as_json: bool) -> None:
    latency_s, alone_s = strategy.predicted["latency_s"], strategy.predicted["offload_latency_s"]
    slower = latency_s > alone_s * (1 + 1e-9)
    if as_json:
        print_json(
            {
                "strategy": out,
                "method": strategy.planner.method,
                "settings": dict(strategy.planner.settings),
                "simulated": dict(strategy.predicted),
                "slower_than_offload": slower,
                "lossless": strategy.lossless,
                "interrupted": interrupted,
            }
        )
        return
    if interrupted:
        click.echo("interrupted: this is the best so far", err=True)
    click.echo(
        f"{strategy.planner.method}: {latency_s * 1e3:.2f} ms, {1 / latency_s:.2f} IPS, "
        f"{alone_s / latency_s:.2f} x the best single device ({alone_s * 1e3:.2f} ms); simulated"
    )
    if reason := strategy.planner.settings.get("reason"):
        click.echo(str(reason))
    if slower:
        click.echo(
            "warning: this strategy is slower than the best single device; use --method auto or offload", err=True
        )
    if not strategy.lossless:
        click.echo("warning: this strategy is lossy: rows travel in less than float32", err=True)
    click.echo(f"written: {out}")
