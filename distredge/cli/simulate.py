"""`distredge simulate`: predicts what a strategy costs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from distredge import metric_names
from distredge.cli._common import check_writable, load_model_of, print_json
from distredge.cli._options import Number, input_shape_option, json_option, verbose_option
from distredge.cli._planning import about_links, say_assumption

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline

_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command()
@click.argument("strategy", type=click.Path(path_type=Path))
@click.option("--cluster", "cluster_name", required=True, help="A shipped case, or a cluster file.")
@click.option(
    "--model", "model_name", help="A zoo name, an .onnx file or package.module:callable; default: the strategy's."
)
@input_shape_option
@click.option("--link-model", type=click.Choice(["independent", "shared"]), help="Instead of the cluster's own.")
@click.option("--frames", type=click.IntRange(1), default=1, show_default=True, help="Images to run.")
@click.option("--in-flight", type=click.IntRange(1), default=1, show_default=True, help="Images under way at once.")
@click.option("--start", "start_s", type=Number(0), default=0.0, help="Seconds into the links' traces.")
@click.option("--timeline", "timeline_path", type=_FILE, help="Write a Chrome trace (opens in ui.perfetto.dev).")
@click.option("--gantt", "gantt_path", type=_FILE, help="Draw a Gantt chart (.png, .svg or .pdf).")
@json_option
@verbose_option
def simulate(
    strategy: Path,
    cluster_name: str,
    model_name: str | None,
    input_shape: tuple[int, ...] | None,
    link_model: Literal["independent", "shared"] | None,
    frames: int,
    in_flight: int,
    start_s: float,
    timeline_path: Path | None,
    gantt_path: Path | None,
    as_json: bool,
) -> None:
    """Predict what STRATEGY costs on a cluster."""
    from distredge.cluster import load_cluster
    from distredge.latency import simulate as run
    from distredge.problem import Problem
    from distredge.strategy import Strategy

    for path in (timeline_path, gantt_path):
        check_writable(path)
    plan = Strategy.load(strategy)
    graph = load_model_of(plan, strategy, model_name, input_shape)
    cluster = load_cluster(cluster_name, models=[graph])
    if link_model is not None:
        cluster = dataclasses.replace(cluster, link_model=link_model)
    # The best single device, which it is compared with, gets the input in the same dtype.
    problem = Problem(graph, cluster, input_dtypes=(plan.input.element_dtype,))
    timeline = run(problem, plan, frames=frames, in_flight=in_flight, start_s=start_s)
    several = min(frames, in_flight) > 1
    if timeline_path is not None:
        timeline.save(timeline_path)
    if gantt_path is not None:
        from distredge.monitor.gantt import draw

        draw(timeline, gantt_path)
    say_assumption(cluster)
    if as_json:
        print_json({**figures(problem, plan, timeline, several), **about_links(cluster)})
        return
    _print(problem, plan, timeline, several)
    for what, path in (("timeline", timeline_path), ("Gantt chart", gantt_path)):
        if path is not None:
            click.echo(f"{what}: {path}")


def figures(problem: Problem, strategy: Strategy, timeline: Timeline, several: bool = False) -> dict[str, Any]:
    """Returns the figures of a simulation under their names.

    With several images in flight the latency holds their waiting for one another: IPS and the ratio to offload, which
    are of one at a time, are then None.
    """
    alone_s = _alone_s(problem, strategy)
    return {
        metric_names.LATENCY_S: timeline.latency_s,
        metric_names.IMAGES_PER_S: None if several else timeline.images_per_s,
        metric_names.OFFLOAD_LATENCY_S: alone_s,
        metric_names.SPEEDUP: None if several else alone_s / timeline.latency_s,
        metric_names.THROUGHPUT_PER_S: timeline.throughput_per_s,
        metric_names.BOTTLENECK: timeline.bottleneck,
        metric_names.BOUND_BY: timeline.bound_by,
        metric_names.BYTES_SENT: timeline.bytes_sent // max(1, len(timeline.frame_latency_s)),
        metric_names.LINK_BYTES: timeline.link_bytes,
        metric_names.RECOMPUTE_RATIO: timeline.details[metric_names.RECOMPUTE_RATIO],
        metric_names.ENERGY_J: dict(timeline.energy_j),
        metric_names.PEAK_MEMORY_BYTES: dict(timeline.peak_memory_bytes),
        metric_names.UTILISATION: timeline.utilisation,
        "lossless": strategy.lossless,
    }


def _alone_s(problem: Problem, strategy: Strategy) -> float:
    """Latency of the best single device, which may get a picture as the strategy's devices do: in its file, or rows."""
    from distredge.latency import offload_latency_s
    from distredge.latency.simulator.offload import offload_in_files

    alone_s = offload_latency_s(problem)
    return min(alone_s, offload_in_files(problem, strategy.input)[1]) if strategy.input.file else alone_s


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}" if len(things) == 1 else f"{len(things)} {name}s"


def _print(problem: Problem, strategy: Strategy, timeline: Timeline, several: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from distredge.monitor.gantt import text

    # A pipe has no width of its own, and 80 columns are too few.
    console = Console(width=None if sys.stdout.isatty() else 110)
    kind = "lossless" if strategy.lossless else "LOSSY"
    console.print(
        f"{strategy.model.name} on {problem.cluster.name} ({problem.cluster.link_model} links), "
        f"{strategy.input.dtype} input, {_count(strategy.volumes, 'volume')} on {_count(strategy.devices, 'device')}, "
        f"{kind}, simulated"
    )
    offload_s = _alone_s(problem, strategy)
    best = f"best single device {1e3 * offload_s:.2f} ms"
    if several:
        console.print(f"latency {1e3 * timeline.latency_s:.2f} ms with several in flight; {best} one at a time")
    else:
        console.print(
            f"latency {1e3 * timeline.latency_s:.2f} ms ({timeline.images_per_s:.2f} images/s); {best}: "
            f"{offload_s / timeline.latency_s:.2f} x"
        )
    if timeline.throughput_per_s is not None:
        console.print(f"throughput {timeline.throughput_per_s:.2f} images/s, bound by {timeline.bottleneck}")
    shares = ", ".join(f"{place} {1e3 * seconds:.2f} ms" for place, seconds in list(timeline.shares.items())[:4])
    console.print(f"critical path: {shares}", soft_wrap=True)
    table = Table(box=None)
    for heading in ("device", "compute", "send", "receive", "energy (J)", "peak memory (MB)"):
        table.add_column(heading, justify="left" if heading == "device" else "right")
    busy = timeline.utilisation
    for device in timeline.devices:
        energy, memory = timeline.energy_j.get(device), timeline.peak_memory_bytes.get(device)
        table.add_row(
            device,
            *(f"{100 * busy[device][lane]:.0f} %" for lane in ("compute", "send", "receive")),
            "-" if energy is None else f"{energy:.2f}",
            "-" if memory is None else f"{memory / 1e6:.1f}",
        )
    console.print(table)
    click.echo(text(timeline, console.width))
