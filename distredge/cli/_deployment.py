"""What `deploy-strategy` says of a run: latency, classes, and whether the output is the whole model's."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from distredge import metric_names
from distredge.cli._planning import about_links
from distredge.errors import FileError
from distredge.folders import settle_caches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distredge.media.labels import Prediction
    from distredge.model.graph import Graph
    from distredge.problem import Problem
    from distredge.runtime.requester.coordinator import Coordinator
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline

TOP = 5
LOSSLESS_DIFFERENCE = 1e-5
"""Relative to the largest magnitude: float32 sums in another order differ by less."""


@dataclass(frozen=True)
class MeasuredRun:
    """What was measured.

    Attributes:
        latencies_s: of each frame.
        throughput_per_s: frames with several in flight; None: not measured.
        preparing: what `preparing` found.
    """

    latencies_s: tuple[float, ...]
    throughput_per_s: float | None
    preparing: Mapping[str, Any]

    @property
    def latency_s(self) -> float:
        """Median."""
        return median(self.latencies_s)


def preparing(coordinator: Coordinator) -> dict[str, Any]:
    """What preparing the plan that runs took, for machines: as a whole, and by worker."""
    return {
        "prepared_s": coordinator.prepared_s,
        "prepared": {name: asdict(took) for name, took in sorted(coordinator.prepared.items())},
        "weights_sent_bytes": coordinator.weights_sent_bytes,
        "volumes": coordinator.volumes,
        "dynamic_volumes": coordinator.dynamic_volumes,
    }


@dataclass(frozen=True)
class Comparison:
    """What was found where outputs were compared with those of the model in one piece.

    Attributes:
        graph: the model.
        strategy: says whether it is lossless.
        difference: the largest, relative to the largest value; None where nothing was compared.
    """

    graph: Graph
    strategy: Strategy
    difference: float | None

    @property
    def fault(self) -> str | None:
        """What is wrong with the output; None when nothing is, or it was not compared."""
        if self.difference is None:
            return None
        if math.isinf(self.difference):
            return "the output has NaN or infinite values, or another shape than the whole model's in one piece"
        if self.strategy.lossless and self.difference > self.allowed:
            return (
                f"the output differs from the whole model's in one piece by {self.difference:.2g} of its largest "
                f"value; at most {self.allowed:.0e} is expected of a lossless strategy"
            )
        return None

    @functools.cached_property
    def allowed(self) -> float:
        """How far a lossless strategy's outputs may be from those of the model in one piece, relative to the largest.

        More than LOSSLESS_DIFFERENCE only where the file's own runs, with and without the engine's graph optimisation,
        are half as far apart.
        """
        path = given_file(self.graph)
        if path is None or self.difference is None or self.difference <= LOSSLESS_DIFFERENCE:
            return LOSSLESS_DIFFERENCE
        from distredge.model.capture import read_onnx
        from distredge.model.original import Original

        return Original.of(read_onnx(path), self.graph).tolerance()

    def figures(self) -> dict[str, Any]:
        """The figures under their names."""
        return {
            # JSON has no infinity: null, and "correct" is false.
            "largest_relative_difference": self.difference if math.isfinite(self.difference or 0.0) else None,
            "compared_with": None if self.difference is None else compared_with(self.graph),
            "correct": None if self.difference is None else self.fault is None,
        }

    def show(self) -> None:
        """Writes it for people."""
        if self.difference is not None:
            lossy = "" if self.strategy.lossless else " (lossy)"
            click.echo(
                f"largest difference from the whole model in one piece: {self.difference:.2g} of its largest value, "
                f"against {compared_with(self.graph)}{lossy}"
            )


@dataclass(frozen=True)
class DeploymentReport:
    """What the command has to say."""

    problem: Problem
    strategy: Strategy
    outputs: Mapping[str, NDArray[Any]]
    run: MeasuredRun
    predicted_s: float | None
    difference: float | None
    timeline: Timeline
    encrypted: bool
    where: str
    image: Path | None
    replanned: tuple[Mapping[str, Any], ...] = ()

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """The most probable ImageNet classes, where the model has these and has learnt them."""
        return classes_of(self.problem.graph, self.outputs) if self.image is not None else ()

    @property
    def classifies(self) -> bool:
        """Whether the output is finite scores of the ImageNet classes for a picture."""
        return self.image is not None and classifies(self.outputs)

    @functools.cached_property
    def comparison(self) -> Comparison:
        """What was found where the outputs were compared."""
        return Comparison(self.problem.graph, self.strategy, self.difference)

    @property
    def fault(self) -> str | None:
        """What is wrong with the output; None when nothing is, or it was not compared."""
        return self.comparison.fault

    @property
    def modelled(self) -> tuple[str, ...]:
        """Profiles that the prediction rests on and that were not measured on the board."""
        devices = (self.problem.cluster.device(name) for name in self.strategy.devices)
        return tuple(dict.fromkeys(d.profile.name for d in devices if not d.profile.measured))

    def figures(self) -> dict[str, Any]:
        """The figures under their names."""
        return {
            "model": self.strategy.model.name,
            "cluster": self.problem.cluster.name,
            **about_links(self.problem.cluster),
            "workers": self.where,
            "encrypted": self.encrypted,
            "lossless": self.strategy.lossless,
            metric_names.LATENCY_S: self.run.latency_s,
            metric_names.IMAGES_PER_S: 1.0 / self.run.latency_s,
            metric_names.THROUGHPUT_PER_S: self.run.throughput_per_s,
            "latencies_s": list(self.run.latencies_s),
            **self.run.preparing,
            "predicted_latency_s": self.predicted_s,
            "modelled_profiles": list(self.modelled),
            metric_names.BYTES_SENT: self.timeline.bytes_sent,
            **self.comparison.figures(),
            "replanned": list(self.replanned),
            "weights": self.problem.graph.weights_from,
            "classes": named(self.predictions),
            "input": "noise" if self.image is None else str(self.image),
            "outputs": {name: list(array.shape) for name, array in self.outputs.items()},
        }

    def show(self) -> None:
        """Writes it for people."""
        devices = len({s.device for s in self.timeline.spans if s.lane == "compute"})
        click.echo(heading(self.problem, self.strategy, devices, self.where, self.encrypted))
        for prediction in self.predictions:
            click.echo(f"  {100 * prediction.probability:6.2f} %  {prediction.label.name}")
        if self.classifies and self.problem.graph.weights_from == "random":
            click.echo("weights: random (seed 0): the classes mean nothing; give --weights FILE")
        if not self.predictions:
            for name, array in self.outputs.items():
                click.echo(f"  output {name}: shape {'x'.join(map(str, array.shape))}, largest {magnitude(array):.6g}")
        self.comparison.show()
        count = len(self.run.latencies_s)
        frames = "one frame" if count == 1 else f"median of {count}"
        predicted = "not predicted" if self.predicted_s is None else f"predicted {1e3 * self.predicted_s:.2f} ms"
        measured = f"{1e3 * self.run.latency_s:.2f} ms ({frames}; {1.0 / self.run.latency_s:.2f} images/s)"
        click.echo(f"measured {measured}, {predicted}")
        if self.predicted_s is not None and self.modelled:
            click.echo(
                f"(predicted from a modelled profile, {', '.join(self.modelled)}, not measured on the board: "
                f"`distredge profile run --model {self.strategy.model.name}` measures one)"
            )
        if self.replanned:
            last = self.replanned[-1]
            ready = "" if last["prepared_s"] is None else f", ready after {last['prepared_s']:.2f} s"
            click.echo(
                f"lost on the way: {', '.join(last['lost'])}; at the end {', '.join(last['devices'])} ran it, "
                f"predicted {1e3 * last['predicted_latency_s']:.2f} ms{ready}"
            )
        if self.run.throughput_per_s is not None:
            click.echo(f"with several in flight {self.run.throughput_per_s:.2f} images/s")
        if self.image is None:
            compared = "" if self.difference is None else " and the difference from the whole model"
            click.echo(
                f"the input was noise: what counts is the latency{compared}, not the output itself; "
                "--image FILE runs on a picture"
            )


def heading(problem: Problem, strategy: Strategy, devices: int, where: str, encrypted: bool) -> str:
    """Returns what runs where, for people.

    Args:
        problem: model and cluster.
        strategy: what runs.
        devices: how many compute.
        where: as in `Session`.
        encrypted: whether rows travel encrypted.
    """
    kind = "lossless" if strategy.lossless else "LOSSY"
    places = {"local": "worker processes of this machine", "background": "running workers of this machine"}
    return (
        f"{strategy.model.name} on {problem.cluster.name}: {devices} {places.get(where, 'boards')}, "
        f"volumes: {len(strategy.volumes)}, {kind}, {'encrypted' if encrypted else 'PLAINTEXT'}"
    )


def classifies(outputs: Mapping[str, NDArray[Any]]) -> bool:
    """Whether outputs are finite scores of the ImageNet classes.

    Args:
        outputs: name -> array, such as (N, classes).
    """
    import numpy as np

    from distredge.media.labels import imagenet_labels

    scores = next(iter(outputs.values()))
    return len(outputs) == 1 and scores.size == len(imagenet_labels()) and bool(np.isfinite(scores).all())


def classes_of(graph: Graph, outputs: Mapping[str, NDArray[Any]]) -> tuple[Prediction, ...]:
    """Returns the most probable ImageNet classes, best first, where the model has these and has learnt them.

    Args:
        graph: the model.
        outputs: name -> array, such as (N, classes).
    """
    from distredge.media.labels import top

    if graph.weights_from == "random" or not classifies(outputs):
        return ()
    return top(next(iter(outputs.values())), TOP)


def named(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    """Returns classes for machines."""
    return [{"name": p.label.name, "probability": p.probability} for p in predictions]


def magnitude(array: NDArray[Any]) -> float:
    """Returns the largest magnitude in an array; NaN when it has NaN, 0 when it is empty.

    Args:
        array: (d0, d1, ...), any shape and real dtype.
    """
    import numpy as np

    return float(np.abs(array.astype(np.float64)).max(initial=0.0))


def difference(expected: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> float:
    """Returns the largest difference over all outputs, each relative to the largest magnitude of the expected one.

    Infinite where an output is missing, has another shape, or either side has NaN or infinite values.

    Args:
        expected: output name -> array, such as (N, classes), any shape and real dtype.
        found: the same.
    """
    import numpy as np

    largest = 0.0
    for name, array in expected.items():
        other = found.get(name)
        if other is None or other.shape != array.shape:
            return math.inf
        wanted, given = array.astype(np.float64), other.astype(np.float64)
        if not (np.isfinite(wanted).all() and np.isfinite(given).all()):
            return math.inf
        largest = max(largest, magnitude(given - wanted) / (magnitude(wanted) or 1.0))
    return largest


def given_file(graph: Graph) -> Path | None:
    """Returns the user's own file where a model came from one that the engine runs."""
    return graph.source if graph.check is not None and graph.check.apart is not None else None


def compared_with(graph: Graph) -> str:
    """Returns which model in one piece outputs are compared with."""
    return str(given_file(graph) or "the captured graph")


def whole_model(graph: Graph, strategy: Strategy, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Runs the model in one piece on what the strategy sends: the user's own file, or the captured graph without one.

    Args:
        graph: the model.
        strategy: says whether pixels travel as uint8.
        inputs: tensor name -> array, such as (N, C, H, W), dtype as the strategy sends it.

    Returns:
        Output name -> array, such as (N, classes), shape and dtype as in the graph.
    """
    from distredge.model.capture import read_onnx
    from distredge.model.original import Original

    given = dict(inputs)
    if strategy.input.pixels and graph.preprocess is not None:
        given = {name: graph.preprocess.normalise(pixels) for name, pixels in inputs.items()}
    path = given_file(graph)
    if path is not None:
        return Original.of(read_onnx(path), graph).run(given, optimised=True)
    return _captured(graph, given)


def _captured(graph: Graph, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(graph.output_names, session.run(list(graph.output_names), dict(inputs)), strict=True))


def check_folder(path: Path | None) -> None:
    """Checks before a run that files can be written in a folder, which may be missing; None passes.

    Raises:
        FileError: naming the folder.
    """
    if path is None:
        return
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise FileError(f"{path}: cannot be made: '{place}' is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise FileError(f"{path}: cannot be written: permission denied")
    settle_caches(place)
