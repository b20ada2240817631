"""`distredge testbed`: measures strategies on emulated boards, and lets such boards stand for other commands."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from distredge import metric_names
from distredge.cli._common import check_writable, load_model_of, print_json
from distredge.cli._options import Number, input_shape_option, json_option, seed_option, verbose_option
from distredge.errors import ConfigError, ExecutionError

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Strategy
    from distredge.testbed.comparison import Row
    from distredge.testbed.measured import Measured
    from distredge.testbed.testbed import Mode

_FILE = click.Path(dir_okay=False, path_type=Path)
_MODE = click.option(
    "--mode",
    type=click.Choice(["auto", "namespaces", "loopback"]),
    default="auto",
    show_default=True,
    help="Network namespaces (root), or loopback addresses and a relay.",
)


@click.group()
@verbose_option
def testbed() -> None:
    """Emulate boards and links on this machine."""


_MODEL = "mobilenet-v2"
"""What boards run that are given no model: small enough that this machine keeps up with most boards."""


class _Dilation(click.ParamType[float | str]):
    name = "auto|number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        return "auto" if value == "auto" else Number(1).convert(value, param, ctx)


@testbed.command()
@click.option("--cluster", "cluster_name", required=True, help="Shipped case (such as db-50), or a .toml file.")
@click.option(
    "--model",
    "model_name",
    help=f"Zoo name, .onnx file or package.module:callable; default: the strategy's, else {_MODEL}.",
)
@input_shape_option
@click.option("--strategy", "strategy_path", type=click.Path(path_type=Path), help="Run this file; without it, plan.")
@click.option("--method", default="search", show_default=True, help="Planning method.")
@click.option("--budget", "budget_s", type=Number(0, above=True), default=1.0, show_default=True,
              help="Seconds to plan.")  # fmt: skip
@click.option("--frames", type=click.IntRange(1, 4096), default=20, show_default=True, help="Frames to measure.")
@click.option(
    "--in-flight", type=click.IntRange(1, 256), default=1, show_default=True, help="Frames under way at once."
)
@_MODE
@click.option("--engine", type=click.Choice(["onnxruntime", "sleep"]), default="onnxruntime", show_default=True,
              help="sleep computes nothing: for more boards than this machine can compute for.")  # fmt: skip
@click.option("--dilation", type=_Dilation(), default="auto", show_default=True,
              help="Slow everything down by this; auto: the least at which this machine keeps up.")  # fmt: skip
@click.option("--unpaced", is_flag=True, help="Boards compute at this machine's own speed.")
@click.option("--pin", "pins", multiple=True, metavar="DEVICE=CORE", help="Keep a worker on a core; once per device.")
@click.option("--plaintext", is_flag=True, help="No encryption, no authentication.")
@click.option("--trace", "trace_path", type=_FILE, help="Write predicted and measured as one Chrome trace.")
@seed_option
@json_option
@verbose_option
def run(
    cluster_name: str,
    model_name: str | None,
    input_shape: tuple[int, ...] | None,
    strategy_path: Path | None,
    method: str,
    budget_s: float,
    frames: int,
    in_flight: int,
    mode: Mode,
    engine: Literal["onnxruntime", "sleep"],
    dilation: Literal["auto"] | float,
    unpaced: bool,
    pins: tuple[str, ...],
    plaintext: bool,
    trace_path: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Plan, measure on emulated boards, and compare with what was predicted.

    The emulated links are physically there, so planning and prediction share them, whatever the cluster's file says.
    """
    from distredge.cli._deployment import difference, whole_model
    from distredge.latency import simulate
    from distredge.testbed.comparison import compare, in_one
    from distredge.testbed.testbed import Testbed, possible_mode

    check_writable(trace_path)
    possible_mode(mode)
    if engine == "sleep" and unpaced:
        raise ConfigError("--engine sleep computes nothing: it needs the profiles' pace; leave --unpaced away")
    problem, given = _problem(cluster_name, model_name, input_shape, strategy_path, not plaintext)
    strategy = given if given is not None else _plan(problem, method, budget_s, seed)
    inputs = _inputs(problem, strategy)
    with Testbed(problem.cluster, mode, engine, not unpaced, dilation, not plaintext, _pinned(pins)) as bed:
        measured = bed.measure(problem, strategy, inputs, frames, in_flight)
        seen = dataclasses.replace(problem, cluster=bed.cluster)
        used = bed.mode
    predicted = simulate(seen, strategy)
    apart = None
    if engine != "sleep":
        apart = difference(whole_model(problem.graph, strategy, inputs), measured.outputs)
    rows = compare(predicted, measured.timeline)
    if trace_path is not None:
        in_one(predicted, measured.timeline).save(trace_path)
    figures = _figures(problem, strategy, measured, predicted.latency_s, apart, rows, used)
    if as_json:
        print_json(figures)
    else:
        _show(figures, rows, trace_path)
    if apart is not None and strategy.lossless and not figures["correct"]:
        raise ExecutionError(f"the output differs from the whole model's by {apart:.2g} of its largest value")


@testbed.command()
@click.option("--cluster", "cluster_name", required=True, help="Shipped case (such as db-50), or a .toml file.")
@click.option("--name", help="Of the testbed; default: the cluster's.")
@_MODE
@json_option
@verbose_option
def up(cluster_name: str, name: str | None, mode: Mode, as_json: bool) -> None:
    """Leave emulated boards standing, and write a cluster file for other commands.

    Their links are the cluster's; they compute at this machine's own speed.
    """
    from distredge.cluster import load_cluster
    from distredge.testbed.places import places
    from distredge.testbed.standing import CLUSTER_FILE, set_up, state_folder
    from distredge.testbed.testbed import possible_mode

    possible_mode(mode)
    made = load_cluster(cluster_name)
    places(made)
    called = name or made.name
    if "/" in called or called.startswith("."):
        raise ConfigError(f"--name: found '{called}', accepted: a name without '/'")
    state = set_up(cluster_name, called, mode)
    file = state_folder(called) / CLUSTER_FILE
    if as_json:
        print_json({"name": called, "cluster": str(file), "mode": state.mode, "pid": state.pid, "boards": state.boards})
        return
    click.echo(f"{called}: {len(state.boards)} boards ({state.mode}), process {state.pid}")
    click.echo(f"cluster file: {file}; end them with: distredge testbed down {called}")


@testbed.command()
@click.argument("name")
@json_option
@verbose_option
def down(name: str, as_json: bool) -> None:
    """End the boards that `up` left standing."""
    from distredge.testbed.standing import take_down

    take_down(name)
    if as_json:
        print_json({"ended": name})
    else:
        click.echo(f"ended {name}")


@testbed.command("list")
@json_option
@verbose_option
def list_them(as_json: bool) -> None:
    """List testbeds: those that stand, and the namespaces of all on this machine."""
    from distredge.testbed.leftovers import find_testbeds
    from distredge.testbed.standing import CLUSTER_FILE, standing, state_folder

    stand, found = standing(), find_testbeds()
    if as_json:
        print_json(
            {
                "standing": {n: {"pid": s.pid, "mode": s.mode, "boards": s.boards} for n, s in stand.items()},
                "namespaces": [dataclasses.asdict(one) for one in found],
            }
        )
        return
    for name, state in stand.items():
        file = state_folder(name) / CLUSTER_FILE
        click.echo(f"{name}: {len(state.boards)} boards ({state.mode}), process {state.pid}, {file}")
    for one in found:
        owned = "its owner runs" if one.watched else "left over; remove with: distredge testbed clean"
        click.echo(f"{one.namespaces[0]}: {len(one.namespaces)} namespaces, {len(one.pids)} processes; {owned}")
    if not stand and not found:
        click.echo("no testbeds")


@testbed.command()
@json_option
@verbose_option
def clean(as_json: bool) -> None:
    """Remove the namespaces of testbeds whose owner is no more; nothing else."""
    from distredge.testbed import leftovers

    removed = leftovers.clean()
    if as_json:
        print_json({"removed": list(removed)})
    else:
        click.echo(f"removed {', '.join(removed)}" if removed else "nothing is left over")


def _problem(
    cluster_name: str,
    model_name: str | None,
    input_shape: tuple[int, ...] | None,
    strategy_path: Path | None,
    encrypted: bool,
) -> tuple[Problem, Strategy | None]:
    from distredge.cli._planning import load_problem
    from distredge.cluster import load_cluster
    from distredge.problem import Problem
    from distredge.strategy import Strategy

    if strategy_path is None:
        problem = load_problem(model_name or _MODEL, cluster_name, link_model="shared", input_shape=input_shape)
        cluster = dataclasses.replace(problem.cluster, encrypted=encrypted)
        return dataclasses.replace(problem, cluster=cluster), None
    # Noise is in no file.
    strategy = Strategy.load(strategy_path).with_rows()
    graph = load_model_of(strategy, strategy_path, model_name, input_shape)
    cluster = load_cluster(cluster_name, [graph])
    return Problem(graph, dataclasses.replace(cluster, link_model="shared", encrypted=encrypted)), strategy


def _plan(problem: Problem, method: str, budget_s: float, seed: int) -> Strategy:
    from distredge.planners import plan

    return plan(problem, method, budget_s, seed)


def _inputs(problem: Problem, strategy: Strategy) -> dict[str, Any]:
    """Seeded noise, as the strategy sends it."""
    import numpy as np

    graph = problem.graph
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for name, shape in zip(graph.input_names, graph.input_shapes, strict=True):
        dtype = np.dtype(strategy.input.element_dtype if strategy.input.pixels else graph.tensors[name].dtype)
        noise = rng.integers(0, 256, shape) if dtype.kind in "ui" else rng.standard_normal(shape)
        found[name] = noise.astype(dtype)
    return found


def _pinned(pins: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for text in pins:
        name, _, core = text.partition("=")
        if not name or not core.isdecimal():
            raise ConfigError(f"--pin: found '{text}', accepted: DEVICE=CORE, such as nano-0=1")
        found[name] = int(core)
    return found


def _figures(
    problem: Problem,
    strategy: Strategy,
    measured: Measured,
    predicted_s: float,
    apart: float | None,
    rows: tuple[Row, ...],
    mode: str,
) -> dict[str, Any]:
    import math

    from distredge.cli._deployment import LOSSLESS_DIFFERENCE

    known = bool(measured.latencies_s)
    return {
        "model": problem.graph.name,
        "cluster": problem.cluster.name,
        "mode": mode,
        "dilation": measured.dilation,
        "frames": measured.frames,
        "invalid": measured.invalid,
        metric_names.LATENCY_S: measured.latency_s if known else None,
        "latencies_s": list(measured.latencies_s),
        "predicted_latency_s": predicted_s,
        "error": predicted_s / measured.latency_s - 1.0 if known else None,
        metric_names.THROUGHPUT_PER_S: measured.throughput_per_s,
        "processor_share": measured.processor_share,
        "late_s": measured.late_s,
        "largest_relative_difference": apart if apart is not None and math.isfinite(apart) else None,
        "correct": None if apart is None else apart <= LOSSLESS_DIFFERENCE or not strategy.lossless,
        "rows": [{**dataclasses.asdict(row), "error": row.error} for row in rows],
    }


def _show(figures: dict[str, Any], rows: tuple[Row, ...], trace_path: Path | None) -> None:
    click.echo(
        f"{figures['model']} on {figures['cluster']} ({figures['mode']}), dilation {figures['dilation']:.3g}, "
        f"{100 * figures['processor_share']:.0f} % of this machine busy"
    )
    click.echo(f"{'device':16} {'what':10} {'computing, ms':>23} {'done at, ms':>23}")
    click.echo(f"{'':16} {'':10} {'predicted':>11} {'measured':>11} {'predicted':>11} {'measured':>11} {'error':>8}")
    for row in rows:
        computing = (
            f"{'':>11} {'':>11}"
            if row.volume is None
            else f"{1e3 * row.predicted_s:>11.2f} {1e3 * row.measured_s:>11.2f}"
        )
        click.echo(
            f"{row.device:16} {row.what:10} {computing} {1e3 * row.predicted_end_s:>11.2f} "
            f"{1e3 * row.measured_end_s:>11.2f} {100 * row.error:>+7.1f} %"
        )
    if figures["correct"] is None:
        click.echo("outputs are not checked: the sleep engine computes nothing")
    else:
        apart = figures["largest_relative_difference"]
        said = "not comparable" if apart is None else f"{apart:.2g} of its largest value"
        click.echo(f"largest difference from the whole model in one piece: {said}")
    if figures["invalid"]:
        click.echo(
            f"{figures['invalid']} of {figures['frames']} frames are invalid: computing took longer than its pace"
        )
    if figures["error"] is None:
        click.echo(f"predicted {1e3 * figures['predicted_latency_s']:.2f} ms; no frame is valid: nothing is measured")
    else:
        valid = len(figures["latencies_s"])
        click.echo(
            f"measured {1e3 * figures[metric_names.LATENCY_S]:.2f} ms (median of {valid}), predicted "
            f"{1e3 * figures['predicted_latency_s']:.2f} ms ({100 * figures['error']:+.1f} %)"
        )
    if trace_path is not None:
        click.echo(f"trace: {trace_path} (opens in ui.perfetto.dev)")
