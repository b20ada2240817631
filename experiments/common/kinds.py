"""One small model for each kind of thing that people's files have and that once went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from distredge.experiments.common.drawing import Drawing
from distredge.experiments.common.exact import Arrays
from distredge.experiments.common.families import reshaped
from distredge.experiments.common.rare_families import branch

PICTURE = (1, 3, 23, 17)


@dataclass(frozen=True)
class Kind:
    """A model of one kind.

    Attributes:
        name: of the kind.
        drawing: the model.
        output: name of its output.
    """

    name: str
    drawing: Drawing
    output: str

    @property
    def inputs(self) -> Arrays:
        """An input of the model."""
        return self.drawing.inputs

    def model(self, at_most: int | None = None) -> onnx.ModelProto:
        """The model as its file says, or as one of at most some operator set would."""
        return self.drawing.model([self.output], min(self.drawing.opset, at_most or self.drawing.opset))


def kinds() -> Iterator[Kind]:
    """One model of each kind."""
    for name, (opset, shape, build) in _KINDS.items():
        drawing = Drawing(np.random.default_rng(0), opset, shape)
        yield Kind(name, drawing, build(drawing))


def _conv(d: Drawing, x: str, rank: int = 2, channels: int = 8, inputs: int | None = None) -> str:
    if inputs is None:
        inputs = d.maps[x][1] if x in d.maps else 8
    name: str = d.node("Conv", [x, d.weight(channels, inputs, *[3] * rank), d.weight(channels)], pads=[1] * 2 * rank)
    return name


def _channel_attention(d: Drawing) -> str:
    x = _conv(d, "x")
    row = reshaped(d, d.node("GlobalAveragePool", x), [1, 1, 8])
    weights = reshaped(d, d.node("Conv", [row, d.weight(1, 1, 3)], pads=[1, 1]), [1, 8, 1, 1])
    return _conv(d, d.node("Mul", [x, d.node("Sigmoid", weights)]))


def _bilinear_upsample(d: Drawing) -> str:
    up = d.node("Upsample", [_conv(d, "x"), d.constant([1, 1, 2, 2])], mode="linear")
    return _conv(d, up)


def _fractional_resize(d: Drawing) -> str:
    up = d.node("Resize", [_conv(d, "x"), d.constant([1, 1, 1.3, 2.6])], mode="nearest")
    return _conv(d, up)


def _old_hardmax(d: Drawing) -> str:
    name: str = d.node("Hardmax", _conv(d, "x"), axis=2)
    return name


def _window_in_the_padding(d: Drawing) -> str:
    pooled = d.node("AveragePool", _conv(d, "x"), kernel_shape=[2, 2], strides=[3, 3], pads=[1] * 4, ceil_mode=1)
    return _conv(d, pooled)


def _transposed_by_name(d: Drawing) -> str:
    x = _conv(d, "x")
    weight = d.weight(8, 4, 3, 3)
    name: str = d.node("ConvTranspose", [x, weight], strides=[2, 2], auto_pad="SAME_UPPER", output_padding=[1, 0])
    return name


def _newer_than_the_engine(d: Drawing) -> str:
    name: str = d.node("DepthToSpace", _conv(d, "x"), blocksize=2)
    return name


def _float16(d: Drawing) -> str:
    x = d.node("Cast", _conv(d, "x"), to=TensorProto.FLOAT16)
    for _ in range(2):
        weight = d.constant(d.rng.standard_normal((8, 8, 3, 3)) / 6, np.float16)
        x = d.node("Relu", d.node("Conv", [x, weight], pads=[1] * 4))
    name: str = d.node("Cast", x, to=TensorProto.FLOAT)
    return name


def _float16_that_is_rounded(d: Drawing) -> str:
    x = d.node("Cast", _conv(d, "x"), to=TensorProto.FLOAT16)
    weight = d.constant(d.rng.standard_normal((8, 16, 3, 3)) / 9, np.float16)
    both = d.node("Concat", [x, d.node("Transpose", x, perm=[0, 1, 2, 3])], axis=1)
    name: str = d.node("Cast", d.node("Conv", [both, weight], pads=[1] * 4), to=TensorProto.FLOAT)
    return name


def _float64(d: Drawing) -> str:
    x = d.node("Cast", _conv(d, "x"), to=TensorProto.DOUBLE)
    return _conv(d, d.node("Cast", d.node("Tanh", x), to=TensorProto.FLOAT))


def _chosen_branch(d: Drawing) -> str:
    d.maps["map"] = (1, 8, *PICTURE[2:])
    d.nodes.append(helper.make_node("Identity", [_conv(d, "x")], ["map"]))
    return branch(d, "map")


def _one_axis(d: Drawing) -> str:
    x = d.node("Relu", _conv(d, "x", 1))
    return _conv(d, d.node("MaxPool", x, kernel_shape=[3], strides=[2], pads=[1, 1]), 1)


def _number_beside_the_picture(d: Drawing) -> str:
    d.inputs["level"] = np.array(0.7, np.float32)
    return _conv(d, d.node("Mul", [_conv(d, "x"), "level"]))


def _instance_normalisation(d: Drawing) -> str:
    scale, bias = d.constant(0.5 + d.rng.random(8)), d.weight(8)
    x = d.node("InstanceNormalization", [_conv(d, "x"), scale, bias])
    return _conv(d, d.node("Relu", x))


def _reduced_over_rows(d: Drawing) -> str:
    x = _conv(d, "x")
    return _conv(d, d.node("Add", [x, d.listed("ReduceMean", x, "axes", [2], 18, keepdims=1)]))


def _cubic(d: Drawing) -> str:
    up = d.node("Resize", [_conv(d, "x"), "", d.constant([1, 1, 2, 2])], mode="cubic")
    return _conv(d, up)


def _flip(d: Drawing) -> str:
    bounds = [d.constant([value], np.int64) for value in (-1, -(2**31), 3, -1)]
    return _conv(d, d.node("Slice", [_conv(d, "x"), *bounds]))


def _pixels(d: Drawing) -> str:
    d.inputs["x"] = d.rng.integers(0, 256, d.maps["x"], dtype=np.uint8)
    x = d.node("Mul", [d.node("Cast", "x", to=TensorProto.FLOAT), d.constant(1 / 255)])
    return _conv(d, x, inputs=3)


_KINDS: dict[str, tuple[int, tuple[int, ...], Callable[[Drawing], str]]] = {
    "channel attention": (17, PICTURE, _channel_attention),
    "bilinear Upsample of opset 9": (9, PICTURE, _bilinear_upsample),
    "fractional Resize of opset 10": (10, PICTURE, _fractional_resize),
    "Hardmax of opset 10": (10, PICTURE, _old_hardmax),
    "last window in the padding": (19, PICTURE, _window_in_the_padding),
    "transposed, padded by name": (17, PICTURE, _transposed_by_name),
    "newer than the engine": (onnx.defs.onnx_opset_version(), PICTURE, _newer_than_the_engine),
    "float16 inside": (17, PICTURE, _float16),
    "float16 that is rounded": (17, PICTURE, _float16_that_is_rounded),
    "float64 inside": (17, PICTURE, _float64),
    "uint8 pixels": (17, PICTURE, _pixels),
    "a chosen branch": (17, PICTURE, _chosen_branch),
    "one spatial axis": (17, (1, 3, 41), _one_axis),
    "a number beside the picture": (17, PICTURE, _number_beside_the_picture),
    "instance normalisation": (17, PICTURE, _instance_normalisation),
    "a mean over rows": (17, PICTURE, _reduced_over_rows),
    "cubic resize": (17, PICTURE, _cubic),
    "flipped columns": (17, PICTURE, _flip),
}
"""Operator set, shape of the picture, and what is done to it."""
