"""Families of operators from which random models are drawn: a small function each, told the map to go on from.

A family adds nodes to a `Drawing` and returns the map that they end in. It chooses attributes freely: what ONNX Runtime
refuses is undone. Forms follow the operator set: attributes that became inputs, operators that came and went.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from distredge.experiments.common.drawing import Drawing

Family = Callable[[Drawing, str], str]


def convolution(d: Drawing, x: str) -> str:
    channels, rank = channels_of(d, x), spatial_axes(d, x)
    group = d.choose(1, 1, 1, channels)
    made = group * d.number(1, 4) if group > 1 else d.number(2, 8)
    kernel = [d.number(1, 4) for _ in range(rank)]
    reads = [x, d.weight(made, channels // group, *kernel)]
    if d.chance(0.7):
        reads.append(d.weight(made))
    strides = [d.choose(1, 1, 2, 3) for _ in range(rank)]
    dilations = [d.choose(1, 1, 1, 2) for _ in range(rank)]
    name: str = d.node("Conv", reads, group=group, strides=strides, dilations=dilations, **_padding(d, kernel))
    return name


def transposed_convolution(d: Drawing, x: str) -> str:
    channels, rank = channels_of(d, x), spatial_axes(d, x)
    group = d.choose(1, 1, channels)
    kernel, strides = [d.number(1, 4) for _ in range(rank)], [d.number(1, 3) for _ in range(rank)]
    extra: dict[str, Any] = {}
    if d.chance(0.3):
        extra["output_padding"] = [d.number(0, s - 1) for s in strides]
    weight = d.weight(channels, d.number(1, 6), *kernel)
    padding = _padding(d, kernel)
    name: str = d.node("ConvTranspose", [x, weight], group=group, strides=strides, **padding, **extra)
    return name


def pool(d: Drawing, x: str) -> str:
    rank = spatial_axes(d, x)
    op_type = d.choose("MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool")
    kernel = [d.number(1, 4) for _ in range(rank)]
    options: dict[str, Any] = {"strides": [d.number(1, 3) for _ in range(rank)], **_padding(d, kernel)}
    if d.opset >= {"MaxPool": 10, "AveragePool": 10, "LpPool": 18}[op_type] and d.chance(0.5):
        options["ceil_mode"] = 1
    if d.opset >= {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}[op_type] and d.chance(0.3):
        options["dilations"] = [d.number(1, 2) for _ in range(rank)]
    if op_type == "AveragePool" and d.chance(0.5):
        options["count_include_pad"] = 1
    if op_type == "LpPool" and d.chance(0.5):
        options["p"] = d.number(1, 3)
    name: str = d.node(op_type, x, kernel_shape=kernel, **options)
    return name


UNARY: dict[str, int] = {
    **dict.fromkeys(
        "Abs Elu Exp HardSigmoid LeakyRelu Neg Relu Selu Sigmoid Softplus Softsign Tanh Sin Cos Atan Identity Ceil "
        "Floor Tan".split(), 7,
    ),
    **dict.fromkeys("Sinh Cosh Asinh Erf Sign Shrink".split(), 9),
    "ThresholdedRelu": 10, "Round": 11, "Celu": 12, "HardSwish": 14, "Mish": 18, "Gelu": 20, "Swish": 24,
}  # fmt: skip
"""Operators on one map, and the operator set from which on they are there."""


def pointwise(d: Drawing, x: str) -> str:
    op_type = d.choose(*(name for name, since in UNARY.items() if since <= d.opset))
    name: str = d.node(op_type, x)
    return name


def of_positive_values(d: Drawing, x: str) -> str:
    """Log, square root, reciprocal and Acosh of something at least 1.1."""
    positive = d.node("Add", [d.node("Abs", x), d.constant(1.1)])
    name: str = d.node(d.choose("Log", "Sqrt", "Reciprocal", *(("Acosh",) if d.opset >= 9 else ())), positive)
    return name


def of_small_values(d: Drawing, x: str) -> str:
    """Inverse functions that are defined between -1 and 1."""
    inner = d.node("Mul", [d.node("Tanh", x), d.constant(0.9)])
    name: str = d.node(d.choose(*("Asin", "Acos", *(("Atanh",) if d.opset >= 9 else ()))), inner)
    return name


def clip(d: Drawing, x: str) -> str:
    low, high = -float(d.rng.random()), float(d.rng.random()) + 0.1
    if d.opset < 11:
        name: str = d.node("Clip", x, min=low, max=high)
    else:
        name = d.node("Clip", [x, d.choose("", d.constant(low)), d.constant(high)])
    return name


def with_constant(d: Drawing, x: str) -> str:
    """Two operands, one of them constant along some of the axes."""
    op_type = d.choose(
        "Add", "Sub", "Mul", "Div", "PRelu", "Pow", *(("Max", "Min", "Sum", "Mean") if d.opset >= 8 else ())
    )
    shape = [size if d.chance(0.4) else 1 for size in d.maps[x]][d.number(0, len(d.maps[x])) :]
    value = d.constant(0.5 + d.rng.random(shape))
    if op_type == "PRelu":
        name: str = d.node("PRelu", [x, value])
    elif op_type == "Pow":
        name = d.node("Pow", [d.node("Abs", x), value])
    else:
        name = d.node(op_type, [x, value] if d.chance(0.7) or op_type == "Div" else [value, x])
    return name


def with_map(d: Drawing, x: str) -> str:
    """Two or three maps of one shape."""
    other = d.choose(*(n for n, shape in d.maps.items() if shape == d.maps[x]))
    kind = d.choose("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean")
    reads = [x, other] if kind in ("Add", "Sub", "Mul") else [x, other, x][: d.number(1, 3)]
    name: str = d.node(kind, reads)
    return name


def comparison(d: Drawing, x: str) -> str:
    """Where, or a cast of a condition; logic between two."""
    d.need(d.opset >= 9)
    kinds = ("Greater", "Less", *(("GreaterOrEqual", "LessOrEqual") if d.opset >= 12 else ()))
    one, other = (d.node(d.choose(*kinds), [x, d.constant(limit)]) for limit in (0.11, -0.23))
    if d.chance(0.3):
        zero = d.node("Equal", [d.node("Relu", x), d.constant(0.0)]) if d.opset >= 11 else d.node("IsNaN", x)
        other = d.choose(zero, d.node("IsInf", x) if d.opset >= 10 else zero)
    condition = d.choose(one, d.node("Not", one), d.node(d.choose("And", "Or", "Xor"), [one, other]))
    if d.chance(0.5):
        name: str = d.node("Where", [condition, x, d.node("Mul", [x, d.constant(0.1)])])
    else:
        name = d.node("Add", [x, d.node("Cast", condition, to=TensorProto.FLOAT)])
    return name


def remainder(d: Drawing, x: str) -> str:
    d.need(d.opset >= 10)
    name: str = d.node("Mod", [x, d.constant(0.7)], fmod=1)
    return name


def number_format(d: Drawing, x: str) -> str:
    """A detour over another number format."""
    kind = d.choose(TensorProto.DOUBLE, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.FLOAT16)
    moved = d.node("Add", [d.node("Mul", [x, d.constant(2.971)]), d.constant(0.1234)])
    inner = d.node("Cast", moved, to=kind)
    name: str = d.node("Cast", d.node("Abs", inner) if d.chance(0.5) else inner, to=TensorProto.FLOAT)
    return name


def normalisation(d: Drawing, x: str) -> str:
    """All that normalise: with the constants that each needs."""
    channels = channels_of(d, x)
    scale, bias = d.constant(0.5 + d.rng.random(channels)), d.weight(channels)
    kinds: list[str] = ["BatchNormalization", "LRN", "InstanceNormalization", "LpNormalization"]
    kinds += ["MeanVarianceNormalization"] * (d.opset >= 9) + ["LayerNormalization"] * (d.opset >= 17)
    kinds += ["GroupNormalization"] * (d.opset >= 21) + ["RMSNormalization"] * (d.opset >= 23)
    kind = d.choose(*kinds)
    if kind == "BatchNormalization":
        name: str = d.node(kind, [x, scale, bias, d.weight(channels), d.constant(0.5 + d.rng.random(channels))])
    elif kind == "InstanceNormalization":
        name = d.node(kind, [x, scale, bias])
    elif kind == "GroupNormalization":
        name = d.node(kind, [x, scale, bias], num_groups=d.choose(1, channels))
    elif kind in ("LayerNormalization", "RMSNormalization"):
        axis = d.number(1, len(d.maps[x]) - 1)
        shape = d.maps[x][axis:]
        name = d.node(kind, [x, d.constant(0.5 + d.rng.random(shape))], axis=axis)
    elif kind == "LRN":
        name = d.node(kind, x, size=d.choose(1, 3, 5), alpha=0.1)
    elif kind == "LpNormalization":
        name = d.node(kind, x, axis=some_axis(d, x), p=d.number(1, 2))
    else:
        options: dict[str, Any] = {"axes": [0, 2, 3][: len(d.maps[x]) - 1]} if d.chance(0.5) else {}
        name = d.node(kind, x, **options)
    return name


def softmax(d: Drawing, x: str) -> str:
    kind = d.choose("Softmax", "LogSoftmax", "Hardmax")
    name: str = d.node(kind, x, **({"axis": d.number(1, len(d.maps[x]) - 1)} if d.chance(0.8) else {}))
    return name


REDUCE = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


def reduction(d: Drawing, x: str) -> str:
    """A reduction over some axes, combined with the map that it came from."""
    kind = "Reduce" + d.choose(*REDUCE)
    rank = len(d.maps[x])
    axes = sorted({d.number(0, rank - 1) for _ in range(d.number(1, 3))})
    source = d.node("Sigmoid", x) if kind in ("ReduceLogSum", "ReduceProd") else x
    since = 13 if kind == "ReduceSum" else 18
    given = [axis - rank for axis in axes] if d.chance(0.3) and d.opset >= 11 else axes
    if d.chance(0.3):
        flat = d.listed(kind, source, "axes", given, since, keepdims=0)
        kept = d.listed("Unsqueeze", flat, "axes", axes, 13)
    else:
        kept = d.listed(kind, source, "axes", given, since, keepdims=1)
    name: str = d.node(d.choose("Add", "Mul"), [x, d.node("Tanh", kept)])
    return name


def arg_extremum(d: Drawing, x: str) -> str:
    place = d.node(d.choose("ArgMax", "ArgMin"), x, axis=some_axis(d, x), keepdims=1)
    name: str = d.node("Add", [x, d.node("Cast", place, to=TensorProto.FLOAT)])
    return name


def excitation(d: Drawing, x: str) -> str:
    """Squeeze and excite: by 1x1 convolutions, matrices, or a convolution along the channels."""
    channels, rank = channels_of(d, x), spatial_axes(d, x)
    mean = d.node(d.choose("GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), x)
    ones = [1] * rank
    kind = d.choose("convolutions", "matrices", "along the channels")
    if kind == "convolutions":
        small = d.node("Relu", d.node("Conv", [mean, d.weight(3, channels, *ones)]))
        scores = d.node("Conv", [small, d.weight(channels, 3, *ones)])
    elif kind == "matrices":
        small = d.node("Gemm", [d.node("Flatten", mean), d.weight(channels, 3), d.weight(3)])
        scores = reshaped(d, d.node("MatMul", [small, d.weight(3, channels)]), [1, channels, *ones])
    else:
        row = reshaped(d, mean, [1, 1, channels])
        scores = reshaped(d, d.node("Conv", [row, d.weight(1, 1, 3)], pads=[1, 1]), [1, channels, *ones])
    name: str = d.node("Mul", [x, d.node("Sigmoid", scores)])
    return name


def concat(d: Drawing, x: str) -> str:
    axis = d.number(1, len(d.maps[x]) - 1)

    def others(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (len(shape), *shape[:axis], *shape[axis + 1 :])

    fits = [name for name, shape in d.maps.items() if others(shape) == others(d.maps[x])]
    name: str = d.node("Concat", [x, *(d.choose(*fits) for _ in range(d.number(0, 2)))], axis=axis)
    return name


def split(d: Drawing, x: str) -> str:
    """Two shares, joined the other way round or added to themselves."""
    axis = d.number(1, len(d.maps[x]) - 1)
    size = d.maps[x][axis]
    d.need(size >= 2)
    first = d.number(1, size - 1)
    if d.opset < 13:
        one, other = d.node("Split", x, 2, axis=axis, split=[first, size - first])
    elif d.opset >= 18 and d.chance(0.3):
        one, other = d.node("Split", x, 2, axis=axis, num_outputs=2)
    else:
        one, other = d.node("Split", [x, d.constant([first, size - first], np.int64)], 2, axis=axis)
    name: str = d.node("Concat", [d.node("Relu", other), one], axis=axis) if d.chance(0.7) else d.node("Tanh", one)
    return name


def slicing(d: Drawing, x: str) -> str:
    axis = d.number(1, len(d.maps[x]) - 1)
    size = d.maps[x][axis]
    start, step = d.number(0, size // 2), d.choose(1, 1, 2, -1)
    if d.opset < 10:
        name: str = d.node("Slice", x, starts=[start], ends=[d.number(start + 1, size)], axes=[axis])
        return name
    start, end = (size - 1, -size - 1) if step < 0 else (start, d.choose(size, 2**31, d.number(start + 1, size)))
    bounds = [d.constant([value], np.int64) for value in (start, end, axis, step)]
    name = d.node("Slice", [x, *bounds])
    return name


def padding(d: Drawing, x: str) -> str:
    rank = len(d.maps[x])
    pads = [0, 0, *(d.number(0, 2) for _ in range(rank - 2))] * 2
    mode = d.choose("constant", "reflect", "edge", *(("wrap",) if d.opset >= 19 else ()))
    if d.opset < 11:
        value: dict[str, Any] = {"value": 0.5} if mode == "constant" else {}
        name: str = d.node("Pad", x, pads=pads, mode=mode, **value)
    else:
        reads = [x, d.constant(pads, np.int64), *([d.constant(0.5)] if mode == "constant" and d.chance(0.5) else [])]
        name = d.node("Pad", reads, mode=mode)
    return name


def resize(d: Drawing, x: str) -> str:
    """Upsample up to operator set 9, Resize of 10, and the Resize of 11 on with all its modes."""
    rank = len(d.maps[x])
    mode = d.choose("nearest", "nearest", "linear")
    scales = [1.0, 1.0, *(d.choose(0.5, 1.0, 1.5, 2.0, 2.0, 3.0) for _ in range(rank - 2))]
    if d.opset < 9:
        name: str = d.node("Upsample", x, scales=[max(1.0, s) for s in scales], mode=mode)
    elif d.opset < 10:
        name = d.node("Upsample", [x, d.constant([max(1.0, s) for s in scales])], mode=mode)
    elif d.opset == 10:
        name = d.node("Resize", [x, d.constant(scales)], mode=mode)
    else:
        name = _resize_of_11(d, x, scales)
    return name


def _resize_of_11(d: Drawing, x: str, scales: list[float]) -> str:
    mode = d.choose("nearest", "nearest", "linear", "linear", "cubic")
    options: dict[str, Any] = {"mode": mode}
    symmetric = ("half_pixel_symmetric",) if d.opset >= 19 else ()
    options["coordinate_transformation_mode"] = d.choose(
        "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", *symmetric
    )
    if mode == "nearest":
        options["nearest_mode"] = d.choose("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    elif d.opset >= 18 and d.chance(0.15):
        options["antialias"] = 1
    if mode == "cubic" and d.chance(0.3):
        options["exclude_outside"] = 1
    none = "" if d.opset >= 13 else d.constant([])
    if d.chance(0.7):
        name: str = d.node("Resize", [x, none, d.constant(scales)], **options)
    else:
        sizes = [max(1, int(size * scale)) for size, scale in zip(d.maps[x], scales, strict=True)]
        name = d.node("Resize", [x, none, none, d.constant(sizes, np.int64)], **options)
    return name


def depth_to_space(d: Drawing, x: str) -> str:
    d.need(len(d.maps[x]) == 4)
    if d.chance(0.5):
        name: str = d.node("SpaceToDepth", x, blocksize=2)
        return name
    four = d.node("Conv", [x, d.weight(4, channels_of(d, x), 1, 1)])
    mode = {"mode": d.choose("DCR", "CRD")} if d.opset >= 11 else {}
    name = d.node("DepthToSpace", four, blocksize=2, **mode)
    return name


def order(d: Drawing, x: str) -> str:
    """Axes in another order: there and back with something between, or rows and columns exchanged."""
    rank = len(d.maps[x])
    if d.chance(0.3) and rank == 4:
        name: str = d.node("Transpose", x, perm=[0, 1, 3, 2])
        return name
    last = d.node("Transpose", x, perm=[0, *range(2, rank), 1])
    inner = d.choose(
        lambda: d.node("MatMul", [last, d.weight(channels_of(d, x), channels_of(d, x))]), lambda: d.node("Tanh", last),
        lambda: d.node("Softmax", last, axis=rank - 1),
    )()  # fmt: skip
    name = d.node("Transpose", inner, perm=[0, rank - 1, *range(1, rank - 1)])
    return name


def shuffle(d: Drawing, x: str) -> str:
    shape = d.maps[x]
    d.need(shape[1] % 2 == 0)
    grouped = reshaped(d, x, [1, 2, shape[1] // 2, *shape[2:]])
    turned = d.node("Transpose", grouped, perm=[0, 2, 1, *range(3, len(shape) + 1)])
    return reshaped(d, turned, [0, shape[1], *shape[2:]] if d.chance(0.5) else [1, -1, *shape[2:]])


def unit_axes(d: Drawing, x: str) -> str:
    """An axis of size 1 comes and goes."""
    axis = d.number(0, len(d.maps[x]))
    wide = d.node("Tanh", d.listed("Unsqueeze", x, "axes", [axis], 13))
    return d.listed("Squeeze", wide, "axes", [axis], 13)


def gather(d: Drawing, x: str) -> str:
    axis = d.number(1, len(d.maps[x]) - 1)
    size = d.maps[x][axis]
    places = d.rng.permutation(size)[: d.number(1, size)]
    name: str = d.node("Gather", [x, d.constant(places, np.int64)], axis=axis)
    return name


def repetition(d: Drawing, x: str) -> str:
    """Tile; Expand of a row's or a channel's mean."""
    rank = len(d.maps[x])
    if d.chance(0.5) or d.opset < 8:
        name: str = d.node("Tile", [x, d.constant([1, *(d.choose(1, 1, 2) for _ in range(rank - 1))], np.int64)])
        return name
    mean = d.node("GlobalAveragePool", x)
    name = d.node("Add", [x, d.node("Expand", [mean, d.constant(d.maps[x], np.int64)])])
    return name


def along_an_axis(d: Drawing, x: str) -> str:
    """Running sums, the largest few, triangles, flips, sums of products."""
    axis, rank = some_axis(d, x), len(d.maps[x])
    kinds = ["TopK"] * (d.opset >= 10) + ["CumSum"] * (d.opset >= 11) + ["Trilu"] * (d.opset >= 14)
    kinds += ["Einsum"] * (d.opset >= 12 and rank == 4) + ["ReverseSequence"] * (d.opset >= 10)
    d.need(bool(kinds))
    kind = d.choose(*kinds)
    if kind == "TopK":
        number = d.constant([d.number(1, d.maps[x][axis])], np.int64)
        name: str = d.node("TopK", [x, number], 2, axis=axis)[0]
    elif kind == "CumSum":
        name = d.node("CumSum", [x, d.constant(axis, np.int64)], reverse=d.number(0, 1), exclusive=d.number(0, 1))
    elif kind == "Trilu":
        name = d.node("Trilu", x, upper=d.number(0, 1))
    elif kind == "Einsum":
        name = d.node("Einsum", [x, d.weight(5, channels_of(d, x))], equation="bchw,oc->bohw")
    else:
        lengths = d.constant([d.number(1, d.maps[x][1])], np.int64)
        name = d.node("ReverseSequence", [x, lengths], batch_axis=0, time_axis=1)
    return name


def last_axis_product(d: Drawing, x: str) -> str:
    width = d.maps[x][-1]
    name: str = d.node("MatMul", [x, d.weight(width, d.number(1, 6))])
    return name


def sampling(d: Drawing, x: str) -> str:
    """GridSample with a fixed grid."""
    d.need(d.opset >= 16 and len(d.maps[x]) == 4)
    grid = d.constant(d.rng.uniform(-1.1, 1.1, (1, d.number(2, 6), d.number(2, 6), 2)))
    mode = d.choose("bilinear", "nearest") if d.opset < 20 else d.choose("linear", "nearest", "cubic")
    align = d.number(0, 1)
    name: str = d.node(
        "GridSample", [x, grid], mode=mode, padding_mode=d.choose("zeros", "border"), align_corners=align
    )
    return name


def without_effect(d: Drawing, x: str) -> str:
    """What capture should see through: Dropout, Identity, shapes computed from shapes."""
    if d.chance(0.5):
        name: str = d.node("Tanh", d.node("Dropout", x))
        return name
    shape = d.node("Shape", x)
    name = d.node("Tanh", d.node("Reshape", [x, shape]))
    return name


def classifier(d: Drawing, x: str) -> str:
    """Flatten and a fully connected layer."""
    pooled = d.chance(0.5)
    flat = d.node("Flatten", d.node("GlobalAveragePool", x) if pooled else x)
    features = channels_of(d, x) if pooled else int(np.prod(d.maps[x][1:]))
    name: str = d.node("Gemm", [flat, d.weight(7, features), d.weight(7)], transB=1)
    return name


FAMILIES: tuple[Family, ...] = (
    convolution, convolution, convolution, transposed_convolution, pool, pool, pointwise, pointwise, of_positive_values,
    of_small_values, clip, with_constant, with_map, comparison, remainder, number_format, normalisation, softmax,
    reduction, arg_extremum, excitation, concat, split, slicing, padding, resize, resize, depth_to_space, order,
    shuffle, unit_axes, gather, repetition, along_an_axis, last_axis_product, sampling, without_effect,
)  # fmt: skip
"""Every family on a map with rows, as often as it is to be drawn; `classifier` may end a model."""


def channels_of(d: Drawing, x: str) -> int:
    return d.maps[x][1]


def spatial_axes(d: Drawing, x: str) -> int:
    d.need(len(d.maps[x]) >= 3)
    return len(d.maps[x]) - 2


def some_axis(d: Drawing, x: str) -> int:
    return d.number(1, len(d.maps[x]) - 1)


def reshaped(d: Drawing, x: str, shape: list[int]) -> str:
    name: str = d.node("Reshape", [x, d.constant(shape, np.int64)])
    return name


def _padding(d: Drawing, kernel: list[int]) -> dict[str, Any]:
    """No padding, the usual one, an uneven one, or by name."""
    kind = d.choose("none", "even", "even", "uneven", "by name")
    if kind == "even":
        return {"pads": [size // 2 for size in kernel] * 2}
    if kind == "uneven":
        return {"pads": [d.number(0, size - 1) for size in (*kernel, *kernel)]}
    return {"auto_pad": d.choose("SAME_UPPER", "SAME_LOWER", "VALID")} if kind == "by name" else {}
