"""Families of operators that few CNNs have: whole numbers, single elements, boxes, transforms, recurrence, branches."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from distredge.experiments.common.drawing import Drawing
from distredge.experiments.common.families import Family, channels_of, reshaped, some_axis


def bits(d: Drawing, x: str) -> str:
    """Shifts and logic on whole numbers."""
    d.need(d.opset >= 11)
    moved = d.node("Add", [d.node("Mul", [x, d.constant(4.871)]), d.constant(0.1234)])
    whole = d.node("Cast", d.node("Abs", moved), to=TensorProto.UINT32)
    shifted = d.node("BitShift", [whole, d.constant(1, np.uint32)], direction=d.choose("LEFT", "RIGHT"))
    if d.opset >= 18 and d.chance(0.5):
        if d.chance(0.25):
            shifted = d.node("BitwiseAnd", [d.node("BitwiseNot", shifted), d.constant(7, np.uint32)])
        shifted = d.node(d.choose("BitwiseAnd", "BitwiseOr", "BitwiseXor"), [shifted, d.constant(6, np.uint32)])
    name: str = d.node("CastLike", [shifted, x]) if d.opset >= 15 else d.node("Cast", shifted, to=TensorProto.FLOAT)
    return name


def single_elements(d: Drawing, x: str) -> str:
    """Elements taken from, and placed at, places of their own."""
    d.need(d.opset >= 13)
    shape, axis = d.maps[x], some_axis(d, x)
    kind = d.choose("GatherElements", "GatherND", "ScatterElements", "ScatterND")
    if kind == "GatherElements":
        name: str = d.node(kind, [x, d.constant(d.rng.integers(0, shape[axis], shape), np.int64)], axis=axis)
    elif kind == "GatherND":
        taken = d.node(kind, [x, d.constant([[0, 0]], np.int64)])
        name = d.node("Unsqueeze", [taken, d.constant([0], np.int64)])
    elif kind == "ScatterElements":
        first = [1] * len(shape)
        name = d.node(kind, [x, d.constant(np.zeros(first), np.int64), d.constant(np.ones(first))], axis=axis)
    else:
        name = d.node(kind, [x, d.constant([[0, 0]], np.int64), d.constant(d.rng.standard_normal((1, *shape[2:])))])
    return name


def computed_constant(d: Drawing, x: str) -> str:
    """A constant that nodes make."""
    width = d.maps[x][-1]
    kinds = ["ConstantOfShape", "EyeLike", "OneHot"] * (d.opset >= 9) + ["Range"] * (d.opset >= 11)
    d.need(bool(kinds))
    kind = d.choose(*kinds)
    if kind == "Range":
        made = d.node(kind, [d.constant(0.0), d.constant(float(width)), d.constant(1.0)])
    elif kind == "OneHot":
        made = d.node(kind, [d.constant([width // 2], np.int64), d.constant(width, np.int64), d.constant([0.5, 2.0])])
    elif kind == "ConstantOfShape":
        made = d.node(kind, d.constant([width], np.int64), value=numpy_helper.from_array(np.array([0.7], np.float32)))
    else:
        made = d.node(kind, d.constant(np.zeros((1, width))))
    name: str = d.node("Add", [x, made])
    return name


def branch(d: Drawing, x: str) -> str:
    """An If whose condition is a constant; both branches read the map from outside."""
    d.need(d.opset >= 11)
    branches = {
        f"{which}_branch": helper.make_graph(
            [helper.make_node(op_type, [x], [f"{which}_{x}"])], which, [],
            [helper.make_tensor_value_info(f"{which}_{x}", TensorProto.FLOAT, d.maps[x])],
        )
        for which, op_type in (("then", "Tanh"), ("else", "Sigmoid"))
    }  # fmt: skip
    name: str = d.node("If", d.constant(d.chance(0.5), np.bool_), **branches)
    return name


def regions(d: Drawing, x: str) -> str:
    """Boxes cut out of the map, offsets that bend a convolution, a map cut or filled to a size."""
    d.need(len(d.maps[x]) == 4)
    channels, height, width = d.maps[x][1:]
    boxes = np.array([[0, 0, width - 1, height - 1], [1, 1, width // 2, height // 2]], np.float32)
    kinds = ["MaxRoiPool", *["RoiAlign"] * (d.opset >= 10), *["DeformConv"] * (d.opset >= 19)]
    kind = d.choose(*kinds, *["CenterCropPad"] * (d.opset >= 18))
    if kind == "MaxRoiPool":
        made = d.node(kind, [x, d.constant(np.concatenate([np.zeros((2, 1)), boxes], 1))], pooled_shape=[2, 2])
        name = d.listed("ReduceMean", made, "axes", [0], 18, keepdims=1)
    elif kind == "RoiAlign":
        reads = [x, d.constant(boxes), d.constant([0, 0], np.int64)]
        name = d.listed("ReduceMean", d.node(kind, reads, output_height=3, output_width=2), "axes", [0], 18, keepdims=1)
    elif kind == "DeformConv":
        offsets = d.node("Conv", [x, d.weight(18, channels, 3, 3)], pads=[1] * 4)
        name = d.node(kind, [x, d.weight(4, channels, 3, 3), offsets], pads=[1] * 4)
    else:
        name = d.node(kind, [x, d.constant([height + 1, width - 1], np.int64)], axes=[2, 3])
    return name


def transforms(d: Drawing, x: str) -> str:
    """Fourier transform of the last axis, attention between rows, running products, determinants."""
    rank = len(d.maps[x])
    kinds = ["DFT"] * (d.opset >= 20) + ["Attention"] * (d.opset >= 23 and rank == 4) + ["CumProd"] * (d.opset >= 26)
    kinds += ["Det"] * (d.opset >= 11)
    d.need(bool(kinds))
    kind = d.choose(*kinds)
    if kind == "DFT":
        waves = d.node(
            kind, [d.node("Unsqueeze", [x, d.constant([rank], np.int64)]), "", d.constant(rank - 1, np.int64)]
        )
        name: str = d.node("ReduceL2", [waves, d.constant([-1], np.int64)], keepdims=0)
    elif kind == "Attention":
        name = d.node(kind, [x, x, x])
    elif kind == "CumProd":
        name = d.node(kind, [d.node("Sigmoid", x), d.constant(some_axis(d, x), np.int64)])
    else:
        square = d.node("MatMul", [x, d.weight(d.maps[x][-1], d.maps[x][-2])])
        name = reshaped(d, d.node("Det", d.node("Sigmoid", square)), [1, -1, *[1] * (rank - 2)])
    return name


def recurrence(d: Drawing, x: str) -> str:
    """A recurrent layer along the rows of the columns' mean."""
    d.need(d.opset >= 14 and len(d.maps[x]) == 4 and any(node.op_type == "Conv" for node in d.nodes))
    kind, gates = d.choose(("LSTM", 4), ("GRU", 3), ("RNN", 1))
    rows = d.node("Transpose", d.listed("ReduceMean", x, "axes", [3], 18, keepdims=0), perm=[2, 0, 1])
    name: str = d.node(
        kind, [rows, d.weight(1, gates * 5, channels_of(d, x)), d.weight(1, gates * 5, 5)], hidden_size=5
    )
    return name


def refusable(d: Drawing, x: str) -> str:
    """What no strategy can run: a size that depends on values, a quantised map."""
    d.need(d.opset >= 13 and d.chance(0.5))
    if d.chance(0.5):
        name: str = d.node("Cast", d.node("NonZero", x), to=TensorProto.FLOAT)
    else:
        scale, zero = d.constant(0.05), d.constant(3, np.uint8)
        name = d.node("DequantizeLinear", [d.node("QuantizeLinear", [x, scale, zero]), scale, zero])
    return name


RARE_FAMILIES: tuple[Family, ...] = (
    bits, single_elements, computed_constant, branch, regions, transforms, recurrence, refusable,
)  # fmt: skip
"""Each as often as it is to be drawn."""
