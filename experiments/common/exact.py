"""Split outputs against those of the whole model: random strategies, feature maps as outputs, and the error."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from distredge.model.graph import Graph
from distredge.runtime.in_process import run_in_process
from distredge.strategy import Strategy

Arrays = dict[str, NDArray[Any]]

TOLERANCE = 1e-5
"""Largest accepted error of a lossless split, against the largest magnitude of the tensor."""


def random_inputs(graph: Graph, seed: int) -> Arrays:
    """Standard normal inputs."""
    rng = np.random.default_rng(seed)
    shapes = zip(graph.input_names, graph.input_shapes, strict=True)
    return {name: rng.standard_normal(shape).astype(graph.tensors[name].dtype) for name, shape in shapes}


def run_whole(graph: Graph, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    """The outputs of the whole model in ONNX Runtime, one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    large = [name for name, array in graph.constants.items() if array.nbytes > 1024]
    values = [ort.OrtValue.ortvalue_from_numpy(graph.weight(name)) for name in large]
    if values:
        options.add_external_initializers(large, values)
    session = ort.InferenceSession(without_weights(graph, frozenset(large)), options, ["CPUExecutionProvider"])
    found = session.run(list(graph.output_names), dict(inputs))
    return dict(zip(graph.output_names, found, strict=True))


def without_weights(graph: Graph, large: frozenset[str]) -> bytes:
    """The model with its large constants left out, which a model of more than 2 GB could not be sent with."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.skeleton)
    del model.graph.initializer[:]
    for name, array in graph.constants.items():
        if name not in large:
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            continue
        missing = onnx.TensorProto(
            name=name, data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape
        )
        missing.data_location = onnx.TensorProto.EXTERNAL
        for key, text in (("location", "weights"), ("offset", "0"), ("length", str(array.nbytes))):
            missing.external_data.add(key=key, value=text)
        model.graph.initializer.append(missing)
    return bytes(model.SerializeToString())


def with_outputs(graph: Graph, names: Iterable[str]) -> Graph:
    """The same model with more outputs, so that feature maps can be compared."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.skeleton)
    for name in names:
        if name not in graph.output_names:
            tensor = graph.tensors[name]
            kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, tensor.shape))
    made = Graph(model, graph.name, graph.preprocess, graph.constants)
    made.lossy_because = graph.lossy_because
    return made


def feature_maps(graph: Graph, count: int) -> tuple[str, ...]:
    """About `count` tensors spread over the body, the last one included; none inside a fused convolution."""
    inside = {graph.operators[conv].outputs[0] for conv in graph.fused_into.values()}
    made = [
        name for i in graph.body.operators for name in graph.operators[i].outputs
        if name and name not in inside and name not in graph.body.vectors
    ]  # fmt: skip
    step = max(1, len(made) // max(1, count))
    return tuple(made[::-1][::step][:count][::-1])


def random_cuts(rng: np.random.Generator, height: int, parts: int) -> tuple[int, ...]:
    """Cut points of a random split: even, random, with shares of one row, or with empty shares."""
    kind = rng.integers(4)
    if kind == 0:
        inner = [round(i * height / parts) for i in range(1, parts)]
    elif kind == 1:
        inner = rng.integers(0, height + 1, parts - 1).tolist()
    elif kind == 2:
        inner = [min(height, int(rng.integers(0, height)) + i) for i in range(parts - 1)]
    else:
        inner = rng.choice([0, height // 2, height], parts - 1).tolist()
    return (0, *sorted(inner), height)


def random_strategy(graph: Graph, rng: np.random.Generator, most_devices: int = 16, most_volumes: int = 6) -> Strategy:
    """A strategy of random devices, cuts, shares and head; in some volumes what others wait for goes first."""
    parts = int(rng.integers(1, most_devices + 1))
    last = len(graph.cuts) - 1
    chosen = {*rng.integers(0, last + 1, int(rng.integers(0, most_volumes))).tolist(), last}
    volumes = [(cut, random_cuts(rng, graph.cuts[cut].height, parts)) for cut in sorted(chosen)]
    devices = [f"d{i}" for i in range(parts)]
    strategy = Strategy.make(graph, devices, volumes, head=devices[int(rng.integers(parts))], method="random")
    first = rng.integers(0, 2, len(volumes)).tolist()
    return strategy.replace(
        volumes=tuple(
            dataclasses.replace(v, boundary_first=bool(b)) for v, b in zip(strategy.volumes, first, strict=True)
        )
    )


def random_grid(graph: Graph, rng: np.random.Generator) -> Strategy:
    """A strategy whose volumes are split into tiles of rows and columns."""
    across, down = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    strategy = random_strategy(graph, rng, 1, 4)
    volumes = []
    for volume in strategy.volumes:
        reference = graph.tensors[volume.reference]
        volumes.append(
            type(volume)(
                volume.ends_at, volume.reference,
                random_cuts(rng, reference.height, down), random_cuts(rng, reference.width, across),
            )
        )  # fmt: skip
    devices = tuple(f"d{i}" for i in range(across * down))
    return strategy.replace(devices=devices, volumes=tuple(volumes), head=type(strategy.head)(devices[-1]))


def relative_error(expected: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> float:
    """Largest difference over all outputs, each against the largest magnitude of its tensor."""
    assert set(expected) == set(found)
    worst = 0.0
    for name, right in expected.items():
        got = found[name]
        assert (got.shape, got.dtype) == (right.shape, right.dtype), f"{name}: {got.shape} {got.dtype}"
        assert np.isfinite(right.astype(np.float64)).all(), f"{name}: the whole model's output is not finite"
        largest = float(np.abs(right.astype(np.float64)).max()) or 1.0
        difference = float(np.abs(got.astype(np.float64) - right.astype(np.float64)).max())
        worst = max(worst, difference / largest) if np.isfinite(difference) else float("inf")
    return worst


class Comparison:
    """One model and its right outputs, to compare strategies with.

    Args:
        graph: the model.
        seed: of its input.
        maps: how many feature maps to compare besides the outputs.
        inputs: makes the input from the seed.
    """

    def __init__(
        self, graph: Graph, seed: int = 0, maps: int = 0, inputs: Callable[[Graph, int], Arrays] = random_inputs
    ) -> None:
        self.graph = with_outputs(graph, feature_maps(graph, maps)) if maps else graph
        self.inputs = inputs(self.graph, seed)

    @functools.cached_property
    def expected(self) -> Arrays:
        """Outputs of the whole model."""
        return run_whole(self.graph, self.inputs)

    def error(self, strategy: Strategy) -> float:
        """Relative error of the outputs under a strategy."""
        return relative_error(self.expected, run_in_process(self.graph, strategy, self.inputs))

    def random_errors(self, count: int, seed: int, most_devices: int = 16) -> Iterator[tuple[Strategy, float]]:
        """Relative errors of random strategies, every fifth of them a grid where the model has columns."""
        rng = np.random.default_rng(seed)
        for number in range(count):
            tiles = number % 5 == 4 and self.graph.tensors[self.graph.cuts[-1].reference].width > 1
            strategy = random_grid(self.graph, rng) if tiles else random_strategy(self.graph, rng, most_devices)
            yield strategy, self.error(strategy)
