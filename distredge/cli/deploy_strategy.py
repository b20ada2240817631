"""`deploy-strategy`: runs a strategy on workers."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import json_option, print_json, verbose_option, version_option
from distredge.monitor import names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distredge.media.labels import Prediction
    from distredge.model.graph import Graph
    from distredge.problem import Problem
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
TOP = 5


@click.command()
@click.argument("strategy_path", metavar="STRATEGY", type=click.Path(path_type=Path))
@click.option("--cluster", "cluster_name", required=True, help="A cluster file, or a shipped one such as this-machine.")
@click.option("--model", "model_name", help="Zoo name, .onnx file or package.module:callable; default: the strategy's.")
@click.option("--weights", type=_FILE, help="Weights for a zoo model.")
@click.option("--image", type=_FILE, help="Picture to infer on; without it, seeded noise.")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Frames to run, after one more.")
@click.option(
    "--in-flight", type=click.IntRange(1, 256), default=1, show_default=True, help="Frames under way at once."
)
@click.option("--deadline", "deadline_s", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True,
              help="Seconds within which a frame ends.")  # fmt: skip
@click.option("--connect", "connect_s", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True,
              help="Seconds within which workers must be reached.")  # fmt: skip
@click.option("--check/--no-check", default=True, show_default=True, help="Compare with the whole model in one piece.")
@click.option("--keys", "keys_path", type=_FOLDER, help="Folder of keys; default: 'keys' beside the cluster file.")
@click.option("--plaintext", is_flag=True, help="No encryption, no authentication.")
@click.option("--timeline", "timeline_path", type=_FILE, help="Write a Chrome trace (opens in ui.perfetto.dev).")
@click.option("--log", "log_path", type=_FOLDER, help="Write TensorBoard events there.")
@json_option
@verbose_option
@version_option
def deploy_strategy(
    strategy_path: Path,
    cluster_name: str,
    model_name: str | None,
    weights: Path | None,
    image: Path | None,
    repeat: int,
    in_flight: int,
    deadline_s: float,
    connect_s: float,
    check: bool,
    keys_path: Path | None,
    plaintext: bool,
    timeline_path: Path | None,
    log_path: Path | None,
    as_json: bool,
) -> None:
    """Run STRATEGY on the workers of a cluster.

    On a cluster of this machine it starts the workers and ends them; on boards `distredge worker` runs already.
    """
    from distredge.cluster import load_cluster
    from distredge.model.capture import load_model
    from distredge.problem import Problem
    from distredge.runtime.session import open_session
    from distredge.strategy import Strategy

    strategy = Strategy.load(strategy_path)
    graph = load_model(model_name or strategy.model.name, weights=weights)
    strategy.check(graph)
    problem = Problem(graph, load_cluster(cluster_name, models=[graph]))
    inputs = _inputs(graph, strategy, image)
    predicted_s = _predicted_s(problem, strategy)
    with open_session(
        problem, strategy, cluster_name, keys_path=keys_path, plaintext=plaintext, deadline_s=deadline_s,
        connect_s=connect_s, in_flight=in_flight,
    ) as session:  # fmt: skip
        coordinator = session.coordinator
        outputs = coordinator.infer(inputs)
        run = _measure(coordinator, inputs, repeat, in_flight)
        timeline = coordinator.timeline()
        encrypted, where = session.encrypted, session.where
    report = Report(
        problem, strategy, outputs, run, predicted_s, _difference(graph, strategy, inputs, outputs) if check else None,
        timeline, encrypted, where, image,
    )  # fmt: skip
    if timeline_path is not None:
        timeline.save(timeline_path)
    if log_path is not None:
        _log(log_path, report)
    if as_json:
        print_json(report.figures())
        return
    report.show()
    if timeline_path is not None:
        click.echo(f"timeline: {timeline_path} (opens in ui.perfetto.dev)")
    if log_path is not None:
        click.echo(f"log: tensorboard --logdir {log_path}")


@dataclass(frozen=True)
class Run:
    """Latency of each measured frame, and what several in flight came to."""

    latencies_s: tuple[float, ...]
    throughput_per_s: float | None

    @property
    def latency_s(self) -> float:
        """Median."""
        return median(self.latencies_s)


@dataclass(frozen=True)
class Report:
    """What the command has to say."""

    problem: Problem
    strategy: Strategy
    outputs: Mapping[str, NDArray[Any]]
    run: Run
    predicted_s: float | None
    difference: float | None
    timeline: Timeline
    encrypted: bool
    where: str
    image: Path | None

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """The most probable ImageNet classes, where the model has these."""
        from distredge.media.labels import imagenet_labels, top

        scores = next(iter(self.outputs.values()))
        if len(self.outputs) != 1 or scores.size != len(imagenet_labels()) or self.image is None:
            return ()
        return top(scores, TOP)

    @functools.cached_property
    def shared_cores_s(self) -> float | None:
        """Lower bound where workers of this machine share its cores: all their computing over the cores.

        None where each worker has its own, or without a prediction.
        """
        from distredge.latency import simulate

        if self.predicted_s is None or self.where not in ("local", "background"):
            return None
        cores = len(os.sched_getaffinity(0))
        busy = [span for span in simulate(self.problem, self.strategy).spans if span.lane == "compute"]
        threads = sum(self.problem.cluster.device(name).threads for name in {span.device for span in busy})
        if threads <= cores:
            return None
        return max(self.predicted_s, sum(span.stop_s - span.start_s for span in busy) / cores)

    def figures(self) -> dict[str, Any]:
        """The figures under their names."""
        return {
            "model": self.strategy.model.name,
            "cluster": self.problem.cluster.name,
            "workers": self.where,
            "encrypted": self.encrypted,
            "lossless": self.strategy.lossless,
            names.LATENCY_S: self.run.latency_s,
            names.IMAGES_PER_S: 1.0 / self.run.latency_s,
            names.THROUGHPUT_PER_S: self.run.throughput_per_s,
            "latencies_s": list(self.run.latencies_s),
            "predicted_latency_s": self.predicted_s,
            "predicted_on_shared_cores_s": self.shared_cores_s,
            names.BYTES_SENT: self.timeline.bytes_sent,
            "largest_relative_difference": self.difference,
            "classes": [{"name": p.label.name, "probability": p.probability} for p in self.predictions],
            "outputs": {name: list(array.shape) for name, array in self.outputs.items()},
        }

    def show(self) -> None:
        """Writes it for people."""
        kind = "lossless" if self.strategy.lossless else "LOSSY"
        devices = len({s.device for s in self.timeline.spans if s.lane == "compute"})
        where = {"local": "worker processes of this machine", "background": "running workers of this machine"}
        click.echo(
            f"{self.strategy.model.name} on {self.problem.cluster.name}: {devices} "
            f"{where.get(self.where, 'boards')}, volumes: {len(self.strategy.volumes)}, {kind}, "
            f"{'encrypted' if self.encrypted else 'PLAINTEXT'}"
        )
        for prediction in self.predictions:
            click.echo(f"  {100 * prediction.probability:6.2f} %  {prediction.label.name}")
        if not self.predictions:
            for name, array in self.outputs.items():
                click.echo(f"  output {name}: shape {'x'.join(map(str, array.shape))}, largest {array.max():.6g}")
        if self.difference is not None:
            click.echo(
                f"largest difference from the whole model in one piece: {self.difference:.2g} of its largest value"
            )
        count = len(self.run.latencies_s)
        frames = "one frame" if count == 1 else f"median of {count}"
        predicted = "not predicted" if self.predicted_s is None else f"predicted {1e3 * self.predicted_s:.2f} ms"
        if self.shared_cores_s is not None:
            predicted += f" with a core for each worker, at least {1e3 * self.shared_cores_s:.2f} ms on the cores here"
        measured = f"{1e3 * self.run.latency_s:.2f} ms ({frames}; {1.0 / self.run.latency_s:.2f} images/s)"
        click.echo(f"measured {measured}, {predicted}")
        if self.run.throughput_per_s is not None:
            click.echo(f"with several in flight {self.run.throughput_per_s:.2f} images/s")


def _inputs(graph: Graph, strategy: Strategy, image: Path | None) -> dict[str, NDArray[Any]]:
    """The picture as the strategy sends it, or seeded noise."""
    import numpy as np

    from distredge.errors import ModelError

    as_pixels = strategy.input.dtype == "uint8"
    if image is None:
        rng = np.random.default_rng(0)
        found: dict[str, NDArray[Any]] = {}
        for name, shape in zip(graph.input_names, graph.input_shapes, strict=True):
            dtype = np.dtype("uint8" if as_pixels else graph.tensors[name].dtype)
            noise = rng.integers(0, 256, shape) if dtype.kind in "ui" else rng.standard_normal(shape)
            found[name] = noise.astype(dtype)
        return found
    from distredge.media.images import read_image

    if graph.preprocess is None or len(graph.input_names) != 1:
        raise ModelError(f"{graph.name}: does not say how a picture becomes its input; leave --image out for noise")
    prepared = graph.preprocess.prepare(read_image(image))
    return {graph.input_names[0]: prepared if as_pixels else graph.preprocess.normalise(prepared)}


def _predicted_s(problem: Problem, strategy: Strategy) -> float | None:
    """What the simulator expects, or what the planner wrote down."""
    from distredge.errors import InputError
    from distredge.latency import evaluate

    try:
        return evaluate(problem, strategy)
    except InputError:
        return strategy.predicted.get(names.LATENCY_S)


def _measure(coordinator: Any, inputs: Mapping[str, NDArray[Any]], repeat: int, in_flight: int) -> Run:
    import itertools
    import time

    latencies_s = []
    for _ in range(repeat):
        coordinator.infer(inputs)
        latencies_s.append(coordinator.last_latency_s)
    if in_flight == 1:
        return Run(tuple(latencies_s), None)
    started_s = time.monotonic()
    count = sum(1 for _ in coordinator.stream(itertools.repeat(inputs, max(repeat, 2 * in_flight))))
    return Run(tuple(latencies_s), count / (time.monotonic() - started_s))


def _difference(
    graph: Graph, strategy: Strategy, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
) -> float:
    """Largest difference over all outputs, relative to the largest magnitude of the whole model's own."""
    import numpy as np

    expected = _whole_model(graph, strategy, inputs)
    found = 0.0
    for name, array in expected.items():
        scale = float(np.abs(array).max()) or 1.0
        found = max(found, float(np.abs(outputs[name] - array).max()) / scale)
    return found


def _whole_model(
    graph: Graph, strategy: Strategy, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    given = dict(inputs)
    if strategy.input.dtype == "uint8" and graph.preprocess is not None:
        given = {name: graph.preprocess.normalise(pixels) for name, pixels in inputs.items()}
    session = onnxruntime.InferenceSession(graph.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(graph.output_names, session.run(list(graph.output_names), given), strict=True))


def _log(folder: Path, report: Report) -> None:
    from distredge.monitor.tensorboard import TensorboardWriter

    with TensorboardWriter(folder) as writer:
        for step, latency_s in enumerate(report.run.latencies_s):
            writer.scalar(names.RUN_LATENCY_S, latency_s, step)
            writer.scalar(names.RUN_IMAGES_PER_S, 1.0 / latency_s, step)
            if report.predicted_s is not None:
                writer.scalar(names.RUN_PREDICTED_S, report.predicted_s, step)
        writer.timeline("run/timeline", report.timeline, 0, "measured")
