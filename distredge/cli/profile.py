"""`distredge profile`: measures, checks, compares and draws compute profiles."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import check_folder, check_writable, print_json
from distredge.cli._interrupts import Interrupts
from distredge.cli._options import Number, input_shape_option, json_option, seed_option, verbose_option
from distredge.cli.worker import PROVIDERS
from distredge.writing import as_text, is_file

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.profiles.comparing import Difference
    from distredge.profiles.compute import ComputeProfile
    from distredge.profiles.measuring.board import MeasuringProgress
    from distredge.profiles.measuring.correcting import ExpectedError
    from distredge.profiles.measuring.engines import Engine
    from distredge.profiles.measuring.verify import Verification
    from distredge.profiles.schema import ProfileFile

_OUT = click.Path(dir_okay=False, path_type=Path)
_engine_python_option = click.option(
    "--engine-python", metavar="PATH", help="Older Python (3.6 or later) whose ONNX Runtime computes, as in a worker."
)
_model_option = click.option(
    "--model", "models", multiple=True, help="Zoo name, package.module:callable or .onnx file; may stand several times."
)


@click.group()
@verbose_option
def profile() -> None:
    """Measure, check and compare compute profiles: how long a board takes for so many rows of an operator."""


@profile.command()
@_model_option
@click.option("--zoo", is_flag=True, help="All models of the zoo; give it a large --budget-s, or run it several times.")
@input_shape_option
@click.option("--out", type=_OUT, help="Profile to write, or to go on with; default: this machine's own.")
@click.option("--name", help="Name of the profile; default: the file's, or this-machine.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the engine.")
@click.option("--provider", type=click.Choice(PROVIDERS), default="cpu", show_default=True)
@_engine_python_option
@click.option(
    "--budget-s",
    type=Number(0.1),
    help="Seconds for everything but loading the models; default: 120, or 20 if quick, and then up to three times "
    "that while other programs have the processor.",
)
@click.option("--quick", is_flag=True, help="Fewer row counts and repeats.")
@click.option("--restart", is_flag=True, help="Measure everything anew, whatever the file holds.")
@json_option
@verbose_option
def run(
    models: tuple[str, ...],
    zoo: bool,
    input_shape: tuple[int, ...] | None,
    out: Path | None,
    name: str | None,
    threads: int,
    provider: str,
    engine_python: str | None,
    budget_s: float | None,
    quick: bool,
    restart: bool,
    as_json: bool,
) -> None:
    """Measure this board: every operator of the models, at row counts chosen on the way.

    An interrupted run is saved; the same command goes on with it. Keep the machine idle meanwhile.
    """
    from distredge.profiles.compute import THIS_MACHINE, load_profile, user_profile_path, write_profile
    from distredge.profiles.measuring.board import QUICK, Measuring, MeasuringPlan, warnings_of
    from distredge.profiles.measuring.engines import EngineSettings
    from distredge.runtime.hosting.message_costs import measure_messages

    if zoo:
        from distredge.model.zoo import entries

        models = (*models, *(entry.name for entry in entries()))
    if not models:
        raise click.UsageError("give at least one --model, or --zoo")
    if name is not None and not name.strip():
        raise click.UsageError(f"--name: found '{name}', accepted: a name of at least one letter")
    processors = os.cpu_count() or 1
    if threads > processors:
        raise click.UsageError(f"--threads: found {threads}, accepted: 1 to {processors}, this machine's processors")
    check_writable(out)
    path = out or user_profile_path()
    if out is None:
        check_folder(path.parent)
    plan = QUICK if quick else MeasuringPlan()
    plan = plan if budget_s is None else replace(plan, budget_s=budget_s, stretch=1.0)
    start = load_profile(path).data if is_file(path) and path.is_file() and not restart else None
    names = name or (as_text(path.stem) if out is not None else THIS_MACHINE)
    with Interrupts(), _engine(engine_python, threads, provider) as engine:
        graphs = _load(models, input_shape)
        with _bar(quiet=as_json) as bar:
            # What is no file cannot be kept up to date on the way.
            kept = path if is_file(path) else None
            named = tuple(map(as_text, models))
            measuring = Measuring(
                graphs,
                EngineSettings(engine),
                plan,
                kept,
                names,
                named,
                start,
                lambda p: _show(bar, p) if bar is not None else None,
                measure_messages,
            )
            try:
                data = measuring.run()
            except KeyboardInterrupt:
                if kept is not None and path.is_file():
                    click.echo(f"saved what was measured so far: {path}", err=True)
                raise
    if kept is None:
        write_profile(data, path)
    for warning in warnings_of(data):
        click.echo(f"warning: {warning}", err=True)
    missing = measuring.missing
    for what in missing:
        click.echo(f"missing: {what}", err=True)
    if missing:
        click.echo("run the same command again, or with a larger --budget-s, to go on", err=True)
    _report_run(data, path, missing, measuring.expected, as_json)


def _report_run(
    data: ProfileFile, path: Path, missing: Sequence[str], expected: ExpectedError | None, as_json: bool
) -> None:
    from msgspec import to_builtins

    operators = data.operators or {}
    points = sum(len(entry.rows) for entry in operators.values())
    if as_json:
        print_json(
            {
                "profile": str(path),
                "operators": len(operators),
                "points": points,
                "size_bytes": path.stat().st_size,
                "segment_factor": data.segments.factor,
                "messages": to_builtins(data.messages),
                "pictures": to_builtins(data.pictures),
                "pace": data.device.pace,
                "load": data.device.load,
                "throttled": data.device.throttled,
                "missing": list(missing),
                "expected_mean_error": expected.mean if expected is not None else None,
                "expected_p95_error": expected.p95 if expected is not None else None,
            }
        )
        return
    device, segments = data.device, data.segments
    click.echo(f"{path}: {len(operators)} operators at {points} row counts, {path.stat().st_size / 1e3:.0f} kB")
    click.echo(
        f"  board {device.name}, {device.processor}, {device.threads} thread(s); {data.runtime.name} "
        f"{data.runtime.version}, {data.runtime.provider}"
    )
    click.echo(
        f"  a segment takes {1e6 * segments.overhead_s:.1f} us + {segments.factor:.3f} x its operators + "
        f"{1e9 * segments.s_per_byte:.3f} ns per byte in and out"
    )
    click.echo(
        f"  a copy takes {1e6 * data.copy.fixed_s:.1f} us + {1e9 * data.copy.s_per_byte:.3f} ns per byte, "
        f"encryption {1e9 * data.encrypt_s_per_byte:.3f} ns per byte, each end"
    )
    if data.pictures is not None:
        click.echo(
            f"  a JPEG picture takes {1e9 * data.pictures.s_per_pixel:.1f} ns per pixel and "
            f"{1e9 * data.pictures.s_per_input_pixel:.1f} ns per pixel of the input"
        )
    if data.messages is not None:
        send, receive = data.messages.send, data.messages.receive
        click.echo(
            f"  a message takes a worker {1e6 * send.own.fixed_s:.0f} us to send, {1e6 * receive.own.fixed_s:.0f} us "
            f"to receive, its transport {1e6 * send.io.fixed_s:.0f} us and {1e6 * receive.io.fixed_s:.0f} us; a byte "
            f"{1e9 * send.own.s_per_byte:.3f} and {1e9 * receive.own.s_per_byte:.3f} ns, its transport "
            f"{1e9 * send.io.s_per_byte:.3f} and {1e9 * receive.io.s_per_byte:.3f} ns, encrypted "
            f"{1e9 * send.io_encrypted.s_per_byte:.3f} and {1e9 * receive.io_encrypted.s_per_byte:.3f} ns"
        )
    if expected is not None:
        click.echo(
            f"  expected error of a part: mean {100 * expected.mean:.0f} %, 95th percentile {100 * expected.p95:.0f} %"
            f", as {expected.segments} segments left out of the fit show, in the phase that the machine was in"
        )
    else:
        click.echo("  expected error of a part: unknown, too few segments were timed")
    if data.power is not None:
        click.echo(f"  {data.power.idle_w:.1f} W idle, {data.power.busy_w:.1f} W busy ({data.power.where})")


@profile.command()
@click.argument("file", metavar="PROFILE")
@_model_option
@input_shape_option
@click.option("--segments", type=click.IntRange(1), default=20, show_default=True, help="Segments of each model.")
@_engine_python_option
@seed_option
@json_option
@verbose_option
def verify(
    file: str,
    models: tuple[str, ...],
    input_shape: tuple[int, ...] | None,
    segments: int,
    engine_python: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Time segments that PROFILE has not seen, and show how far off its predictions are."""
    from distredge.profiles.compute import load_profile
    from distredge.profiles.measuring.verify import settings_of
    from distredge.profiles.measuring.verify import verify as check

    measured = load_profile(file)
    provider = _short(measured.runtime.provider) if measured.measured else "cpu"
    with _engine(engine_python, measured.board.threads, provider) as engine, _bar(quiet=as_json) as bar:
        settings_of(measured, engine)
        graphs = _load(models or measured.data.models, input_shape)
        if not graphs:
            raise click.UsageError(f"{file} names no model; give one with --model")
        verification = check(
            measured,
            graphs,
            segments,
            seed,
            engine=engine,
            report=lambda done, total, what: (
                bar.update(0, completed=done, total=total, description=what) if bar is not None else None
            ),
        )
    _report_verification(verification, as_json)


def _report_verification(found: Verification, as_json: bool) -> None:
    if found.pace > 1.1 or found.load > 0.1:
        click.echo(
            f"warning: disturbed machine: a fixed kernel ran up to {100 * (found.pace - 1):.0f} % slower than at its "
            f"best, other programs used {100 * found.load:.0f} % of the processors",
            err=True,
        )
    if as_json:
        print_json(
            {
                "verify_mean_error": found.mean_error,
                "verify_p95_error": found.p95_error,
                "bias": found.bias,
                "segments": len(found.checks),
                "pace": found.pace,
                "load": found.load,
            }
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for heading in ("segment", "measured (ms)", "predicted (ms)", "error"):
        table.add_column(heading, justify="left" if heading == "segment" else "right")
    for item in found.checks:
        table.add_row(
            item.name, f"{1e3 * item.measured_s:.3f}", f"{1e3 * item.predicted_s:.3f}", f"{100 * item.error:+.1f} %"
        )
    Console().print(table)
    click.echo(
        f"mean error {100 * found.mean_error:.1f} %, 95th percentile {100 * found.p95_error:.1f} %, "
        f"bias {100 * found.bias:+.1f} % over {len(found.checks)} segments"
    )


@profile.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@_model_option
@input_shape_option
@json_option
@verbose_option
def diff(first: str, second: str, models: tuple[str, ...], input_shape: tuple[int, ...] | None, as_json: bool) -> None:
    """Compare two profiles operator by operator."""
    from distredge.profiles.comparing import diff as compare

    found = compare(_profile(first), _profile(second), _load(models, input_shape))
    if as_json:
        print_json(
            {
                "operators": [_difference(d) for d in found.common],
                "only_first": list(found.only_first),
                "only_second": list(found.only_second),
                "mean_ratio": found.mean_ratio if found.common else None,
            }
        )
        return
    from rich.console import Console
    from rich.table import Table

    for what, a, b in found.fields:
        click.echo(f"{what}: {a} | {b}")
    table = Table(box=None)
    for heading in ("operator", "A (ms)", "B (ms)", "B / A", "most", "at rows"):
        table.add_column(heading, justify="left" if heading == "operator" else "right")
    for d in found.common:
        table.add_row(
            d.key, f"{1e3 * d.first_s:.3f}", f"{1e3 * d.second_s:.3f}", f"{d.ratio:.2f}", f"{d.most_ratio:.2f}",
            str(d.most_rows),
        )  # fmt: skip
    Console().print(table)
    for which, keys in (("A", found.only_first), ("B", found.only_second)):
        if keys:
            click.echo(f"only in {which}: {len(keys)} operators, as '{keys[0]}'")
    if found.common:
        click.echo(f"B / A over {len(found.common)} operators, geometric mean: {found.mean_ratio:.3f}")
    else:
        click.echo("no operator is in both")


def _difference(found: Difference) -> dict[str, Any]:
    ratio = found.ratio if math.isfinite(found.ratio) else None
    return {"key": found.key, "first_s": found.first_s, "second_s": found.second_s, "ratio": ratio}


@profile.command()
@click.argument("files", metavar="PROFILE...", nargs=-1, required=True)
@_model_option
@input_shape_option
@click.option("--out", type=_OUT, required=True, help="Picture to write: .png, .svg or .pdf.")
@json_option
@verbose_option
def plot(
    files: tuple[str, ...], models: tuple[str, ...], input_shape: tuple[int, ...] | None, out: Path, as_json: bool
) -> None:
    """Draw latency against rows, operator by operator."""
    from distredge.profiles.comparing import plot as draw

    check_writable(out)
    count = draw([_profile(file) for file in files], out, _load(models, input_shape))
    if as_json:
        print_json({"file": as_text(str(out)), "operators": count})
    else:
        click.echo(f"{out}: {count} operators")


@profile.command()
@click.argument("files", metavar="PROFILE...", nargs=-1, required=True)
@_model_option
@input_shape_option
@json_option
@verbose_option
def validate(
    files: tuple[str, ...], models: tuple[str, ...], input_shape: tuple[int, ...] | None, as_json: bool
) -> None:
    """Check profiles: form, values, and that they hold the operators of the models."""
    from distredge.profiles.measuring.board import warnings_of

    graphs = _load(models, input_shape)
    results: dict[str, Any] = {}
    for file in files:
        found = _profile(file)
        for graph in graphs:
            for signature in graph.signatures:
                if signature is not None:
                    found.operator_s(signature, 1)
        warnings = warnings_of(found.data)
        results[file] = {"kind": found.source.kind, "warnings": warnings}
        if not as_json:
            count = f", {len(found.data.operators)} operators" if found.data.operators is not None else ""
            click.echo(f"{file}: {found.source.kind} profile of {found.board.name}{count}: valid")
            if found.source.note:
                click.echo(f"  {found.source.note}")
            for warning in warnings:
                click.echo(f"warning: {file}: {warning}", err=True)
    if as_json:
        print_json(results)


def _profile(file: str) -> ComputeProfile:
    from distredge.profiles.compute import load_profile

    return load_profile(file)


def _load(models: Sequence[str], input_shape: tuple[int, ...] | None = None) -> list[Graph]:
    if not models:
        return []
    from distredge.model.capture import load_model

    return [load_model(model, input_shape) for model in models]


@contextmanager
def _engine(python: str | None, threads: int, provider: str) -> Iterator[Engine]:
    """What computes, as a worker's `--engine-python` and `--provider` have it."""
    from distredge.profiles.measuring.engines import ThisProcess
    from distredge.runtime.engine import OnnxRuntimeEngine
    from distredge.runtime.old_python_engine import OldPythonEngine

    if python is None:
        yield ThisProcess(threads) if provider == "cpu" else OnnxRuntimeEngine(threads, provider)
        return
    with closing(OldPythonEngine(python, threads, provider)) as engine:
        yield engine


def _short(provider: str) -> str:
    """What a command calls an execution provider."""
    from distredge.runtime.provider_options import PROVIDERS as OPTIONS

    return next((name for name, (first, *_) in OPTIONS.items() if first == provider), "cpu")


@contextmanager
def _bar(quiet: bool) -> Iterator[Any]:
    """A progress bar on stderr with one task, number 0; None when it would disturb."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description:48.48}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task("", total=1, left="")
        yield bar


def _show(bar: Any, progress: MeasuringProgress) -> None:
    left = f"at most {progress.left_s:.0f} s left"
    bar.update(0, completed=progress.done, total=progress.total, description=progress.what, left=left)
