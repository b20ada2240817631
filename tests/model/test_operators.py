"""Every row rule against ONNX Runtime on the whole model: all row offsets, all attributes, tiles too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distredge.experiments.common.exact import TOLERANCE, Comparison, random_grid, random_strategy
from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out
from distredge.model.operators import Kind
from distredge.strategy import Strategy

SIZES = st.integers(1, 12)


def check(graph: Graph, seed: int = 0) -> None:
    """Compares one-row shares, random shares and random tiles with the whole model."""
    assert not graph.body.head, [v.reason for v in graph.body.verdicts]
    comparison = Comparison(graph, seed)
    rng = np.random.default_rng(seed)
    reference = graph.cuts[-1]
    names = [f"d{i}" for i in range(reference.height)]
    rows = range(reference.height + 1)
    strategies = [Strategy.make(graph, names, [(reference.index, rows)], head="d0"), random_strategy(graph, rng)]
    if graph.tensors[reference.reference].width > 1:
        strategies.append(random_grid(graph, rng))
    for strategy in strategies:
        assert comparison.error(strategy) <= TOLERANCE, [(v.ends_at, v.rows, v.columns) for v in strategy.volumes]


def windows(draw: st.DataObject, axes: int, pads_below_kernel: bool = False) -> dict[str, Any]:
    """Kernel, stride, dilation and padding along some axes."""
    kernel = [draw.draw(st.integers(1, 4)) for _ in range(axes)]
    dilations = [draw.draw(st.integers(1, 3)) for _ in range(axes)]
    most = [k - 1 if pads_below_kernel else 4 for k in kernel]
    return {
        "kernel_shape": kernel,
        "strides": [draw.draw(st.integers(1, 4)) for _ in range(axes)],
        "dilations": dilations,
        "pads": [draw.draw(st.integers(0, m)) for m in (*most, *most)],
    }


def extent(attributes: dict[str, Any]) -> list[int]:
    """Rows that one window covers."""
    return [d * (k - 1) + 1 for k, d in zip(attributes["kernel_shape"], attributes["dilations"], strict=True)]


def shape_for(draw: st.DataObject, attributes: dict[str, Any], channels: int) -> tuple[int, ...]:
    """An input large enough for at least one window."""
    axes = len(attributes["kernel_shape"])
    pads = attributes["pads"]
    least = [max(1, e - pads[i] - pads[i + axes]) for i, e in enumerate(extent(attributes))]
    return (1, channels, *(size + draw.draw(SIZES) - 1 for size in least))


@given(st.data())
def test_conv(net: Any, data: st.DataObject) -> None:
    attributes = windows(data, data.draw(st.sampled_from([1, 2, 2, 2, 3])))
    group = data.draw(st.sampled_from([1, 2, 4]))
    n = net(shape_for(data, attributes, 4))
    check(n.graph(n.conv("x", 4, attributes.pop("kernel_shape"), group, **attributes)))


@given(st.data())
def test_auto_pad(net: Any, data: st.DataObject) -> None:
    auto = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    kernel = data.draw(st.integers(1, 4))
    size = (data.draw(st.integers(kernel, 13)), data.draw(st.integers(kernel, 13)))
    n = net((1, 2, *size))
    # With a stride beyond the kernel ONNX Runtime takes the padding for negative and refuses the whole model.
    strides = [data.draw(st.integers(1, min(3, kernel)))] * 2
    kind = data.draw(st.sampled_from(["Conv", "MaxPool", "AveragePool"]))
    if kind == "Conv":
        made = n.conv("x", 3, kernel, auto_pad=auto, strides=strides)
    else:
        made = n.node(kind, n.conv("x", 2, 1), kernel_shape=[kernel] * 2, auto_pad=auto, strides=strides)
    check(n.graph(made))


@given(st.data())
def test_pooling(net: Any, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["MaxPool", "AveragePool", "AveragePool", "LpPool"]))
    attributes = windows(data, data.draw(st.sampled_from([1, 2, 2, 3])), pads_below_kernel=True)
    if kind != "MaxPool":
        attributes["dilations"] = [1] * len(attributes["kernel_shape"])
    n = net(shape_for(data, attributes, 3))
    if kind != "MaxPool":
        del attributes["dilations"]
    if kind != "LpPool":
        attributes["ceil_mode"] = data.draw(st.integers(0, 1))
    if kind == "AveragePool":
        attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    graph = n.graph(n.node(kind, n.conv("x", 3, [1] * len(attributes["kernel_shape"])), **attributes))
    # ONNX's shape inference keeps a last window that lies beyond the input, ONNX Runtime does not.
    shapes = zip(graph.input_shapes[0][2:], graph.output_shapes[0][2:], strict=True)
    for (before, after), stride, pad in zip(shapes, attributes["strides"], attributes["pads"], strict=False):
        assume((after - 1) * stride < before + pad)
    check(graph)


@given(st.data())
def test_conv_transpose(net: Any, data: st.DataObject) -> None:
    axes = data.draw(st.sampled_from([1, 2, 2, 3]))
    attributes = windows(data, axes)
    strides = attributes["strides"]
    group = data.draw(st.sampled_from([1, 2]))
    shape = (1, 4, *(data.draw(st.integers(1, 9)) for _ in range(axes)))
    attributes["output_padding"] = [data.draw(st.integers(0, s - 1)) for s in strides]
    full = [
        (size - 1) * s + o + e for size, s, o, e in
        zip(shape[2:], strides, attributes["output_padding"], extent(attributes), strict=True)
    ]  # fmt: skip
    if data.draw(st.booleans()):
        pads = attributes["pads"]
        assume(all(f > pads[i] + pads[i + axes] for i, f in enumerate(full)))
    else:
        del attributes["pads"], attributes["output_padding"]
        assume(all(s <= e for s, e in zip(strides, extent(attributes), strict=True)))
        attributes["auto_pad"] = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    n = net(shape)
    weights = [n.weight(4, 3, *attributes["kernel_shape"]), n.weight(3 * group)]
    check(n.graph(n.node("ConvTranspose", ["x", *weights], group=group, **attributes)))


COORDINATES = st.sampled_from(["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])

RESIZES = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["nearest", "linear"]),
        "coordinate_transformation_mode": COORDINATES,
        "nearest_mode": st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    }
) | st.fixed_dictionaries(
    {
        "mode": st.just("cubic"),
        "coordinate_transformation_mode": COORDINATES,
        "cubic_coeff_a": st.sampled_from([-0.75, -0.5]),
        "exclude_outside": st.integers(0, 1),
    }
)


@given(RESIZES, st.integers(1, 9), st.integers(1, 9), st.integers(1, 24), st.integers(1, 24))
def test_resize_to_sizes(net: Any, attributes: dict[str, Any], height: int, width: int, tall: int, wide: int) -> None:
    n = net((1, 2, height, width))
    check(n.graph(n.node("Resize", ["x", "", "", n.constant([1, 2, tall, wide], np.int64)], **attributes)))


@given(
    RESIZES,
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0.5, 0.75, 1.0, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0]),
    st.sampled_from([0.5, 1.0, 1.5, 2.0, 2.2, 3.0]),
)
def test_resize_by_scales(
    net: Any, attributes: dict[str, Any], height: int, width: int, down: float, across: float
) -> None:
    for size, scale in ((height, down), (width, across)):
        # Where size * scale is whole but for rounding, ONNX's shape inference and ONNX Runtime differ.
        assume(int(size * float(np.float32(scale))) == int(np.float32(size) * np.float32(scale)) >= 1)
        assume(scale == 1 or int(size * scale) != size)
    n = net((1, 2, height, width))
    check(n.graph(n.node("Resize", ["x", "", n.constant([1, 1, down, across], np.float32)], **attributes)))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("scale", [0.5, 0.25, 2.0, 1.5])
@pytest.mark.parametrize("axes", [None, [2, 3]])
def test_resize_with_antialiasing(net: Any, mode: str, scale: float, axes: list[int] | None) -> None:
    n = net((1, 3, 24, 16), opset=18)
    scales = n.constant([scale, scale] if axes else [1, 1, scale, scale], np.float32)
    x = n.node("Resize", [n.conv("x", 3, 3, pads=[1] * 4), "", scales], mode=mode, antialias=1, axes=axes)
    n.channels[x] = 3
    check(n.graph(n.conv(x, 2, 3)))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_of_some_axes(net: Any, mode: str) -> None:
    n = net((1, 3, 9, 7), opset=18)
    sizes = n.constant([16, 10], np.int64)
    check(n.graph(n.node("Resize", [n.conv("x", 3, 3, pads=[1] * 4), "", "", sizes], mode=mode, axes=[2, 3])))


def test_resize_with_antialiasing_out_of_phase_is_in_the_head(net: Any) -> None:
    n = net((1, 3, 23, 16), opset=18)
    sizes = n.constant([1, 3, 11, 8], np.int64)
    graph = n.graph(n.node("Resize", [n.conv("x", 3, 3, pads=[1] * 4), "", "", sizes], mode="linear", antialias=1))
    assert graph.body.verdicts[1] == (Kind.HEAD, "Resize with antialiasing of rows that no slice has in phase")


def test_resize_of_volumes_and_lines(net: Any) -> None:
    n = net((1, 2, 7))
    check(n.graph(n.node("Resize", ["x", "", n.constant([1, 1, 2.5], np.float32)], mode="linear")))
    n = net((1, 2, 3, 7, 5))
    check(n.graph(n.node("Resize", ["x", "", n.constant([1, 1, 2, 2, 2], np.float32)], mode="nearest")))


@given(st.data())
def test_pad(net: Any, data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(["constant", "reflect", "edge"]))
    height, width = data.draw(st.integers(2, 9)), data.draw(st.integers(2, 9))
    least, most = (-1, 4) if mode == "constant" else (0, min(height, width) - 1)
    sides = [data.draw(st.integers(least, most)) for _ in range(4)]
    assume(height + sides[0] + sides[2] > 0 and width + sides[1] + sides[3] > 0)
    n = net((1, 2, height, width))
    pads = n.constant([0, 1 if mode == "constant" else 0, *sides[:2], 0, 0, *sides[2:]], np.int64)
    value = [n.constant(0.75, np.float32)] if mode == "constant" and data.draw(st.booleans()) else []
    check(n.graph(n.node("Pad", ["x", pads, *value], mode=mode)))


@given(st.data())
def test_slice(net: Any, data: st.DataObject) -> None:
    shape = (1, 5, data.draw(st.integers(3, 12)), data.draw(st.integers(3, 12)))
    axes = data.draw(st.sampled_from([[2], [3], [2, 3], [-2, -1], [1, 2]]))
    starts = [data.draw(st.integers(-shape[a], shape[a] - 1)) for a in axes]
    steps = [data.draw(st.integers(1, 3)) for _ in axes]
    ends = [data.draw(st.sampled_from([shape[a], 10**9, s % shape[a] + 2])) for a, s in zip(axes, starts, strict=True)]
    n = net(shape)
    bounds = [n.constant(values, np.int64) for values in (starts, ends, axes, steps)]
    check(n.graph(n.node("Slice", ["x", *bounds])))


def test_slice_backwards_along_channels(net: Any) -> None:
    n = net((1, 3, 9, 7))
    bounds = [n.constant([v], np.int64) for v in (-1, -(10**9), 1, -1)]
    check(n.graph(n.conv(n.node("Slice", ["x", *bounds]), 4, 3, pads=[1] * 4)))


@pytest.mark.parametrize(("start", "end", "step"), [(-1, -99, -1), (7, 1, -2), (6, -7, -3)])
def test_slice_backwards_along_columns(net: Any, start: int, end: int, step: int) -> None:
    """Pictures whose left and right are exchanged."""
    n = net((1, 4, 11, 9))
    bounds = [n.constant([v], np.int64) for v in (start, end, 3, step)]
    x = n.node("Slice", [n.conv("x", 4, 3, pads=[1] * 4), *bounds])
    n.channels[x] = 4
    check(n.graph(n.conv(x, 4, 3, pads=[1] * 4)))


def test_slice_backwards_along_rows_is_in_the_head(net: Any) -> None:
    n = net((1, 4, 9, 7))
    bounds = [n.constant([v], np.int64) for v in (-1, -99, 2, -1)]
    graph = n.graph(n.node("Slice", [n.conv("x", 4), *bounds]))
    assert graph.body.verdicts[1] == (Kind.HEAD, "Slice that turns rows around")


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_split_and_concat(net: Any, axis: int) -> None:
    n = net((1, 6, 8, 10))
    sizes = {1: [1, 3, 2], 2: [1, 5, 2], 3: [6, 1, 3]}[axis]
    parts = n.node("Split", ["x", n.constant(sizes, np.int64)], 3, axis=axis)
    check(n.graph(n.node("Concat", [parts[2], n.node("Relu", parts[0]), parts[1]], axis=axis), parts[1]))


def test_focus_stem(net: Any) -> None:
    n = net((1, 3, 14, 18))
    patches = []
    for row in (0, 1):
        for column in (0, 1):
            bounds = [n.constant(v, np.int64) for v in ([row, column], [10**9] * 2, [2, 3], [2, 2])]
            patches.append(n.node("Slice", ["x", *bounds]))
    joined = n.node("Concat", patches, axis=1)
    n.channels[joined] = 12
    check(n.graph(n.conv(joined, 4, 3, pads=[1] * 4)))


def test_concat_with_coordinates(net: Any) -> None:
    n = net((1, 3, 9, 7))
    joined = n.node("Concat", ["x", n.weight(1, 2, 9, 7)], axis=1)
    n.channels[joined] = 5
    check(n.graph(n.conv(joined, 4, 3, pads=[1] * 4)))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(net: Any, mode: str) -> None:
    n = net((1, 12, 5, 7))
    check(n.graph(n.node("DepthToSpace", "x", blocksize=2, mode=mode)))
    n = net((1, 3, 12, 8))
    check(n.graph(n.node("SpaceToDepth", "x", blocksize=4)))


def _reshaped(n: Any, x: str, *shape: int) -> str:
    made: str = n.node("Reshape", [x, n.constant(shape, np.int64)])
    return made


def test_channel_shuffle(net: Any) -> None:
    n = net((1, 6, 9, 7))
    groups = _reshaped(n, n.conv("x", 6), 1, 2, 3, 7, 5)
    mixed = n.node("Transpose", groups, perm=[0, 2, 1, 3, 4])
    check(n.graph(n.node("Relu", _reshaped(n, mixed, 1, 6, 7, 5))))


def test_pixel_shuffle_and_its_inverse_by_reshape(net: Any) -> None:
    n = net((1, 8, 5, 6))
    spread = n.node("Transpose", _reshaped(n, "x", 1, 2, 2, 2, 5, 6), perm=[0, 1, 4, 2, 5, 3])
    check(n.graph(n.node("Relu", _reshaped(n, spread, 1, 2, 10, 12))))
    n = net((1, 2, 10, 12))
    folded = n.node("Transpose", _reshaped(n, "x", 1, 2, 5, 2, 6, 2), perm=[0, 1, 3, 5, 2, 4])
    check(n.graph(n.node("Relu", _reshaped(n, folded, 1, 8, 5, 6))))


def test_depth_folded_into_channels(net: Any) -> None:
    n = net((1, 2, 6, 9, 7))
    flat = _reshaped(n, n.conv("x", 3, (3, 3, 3), pads=[1] * 6), 1, 18, 9, 7)
    n.channels[flat] = 18
    check(n.graph(n.conv(flat, 4, 3)))


def test_rows_and_columns_flattened_together_are_in_the_head(net: Any) -> None:
    n = net((1, 2, 6, 8))
    graph = n.graph(_reshaped(n, n.conv("x", 2), 1, 2, 24))
    assert graph.body.verdicts[1] == (Kind.HEAD, "Reshape mixes rows with other axes")


def test_image_with_channels_last(net: Any) -> None:
    n = net((1, 11, 9, 3))
    n.channels["x"] = 3
    image = n.node("Transpose", "x", perm=[0, 3, 1, 2])
    n.channels[image] = 3
    graph = n.graph(n.node("Transpose", n.conv(image, 4, 3, strides=[2, 1]), perm=[0, 2, 3, 1]))
    assert [graph.tensors[t].row_axis for t in ("x", image, graph.output_names[0])] == [1, 2, 1]
    assert [graph.tensors[t].col_axis for t in ("x", image, graph.output_names[0])] == [2, 3, 2]
    check(graph)


def test_block_with_channels_last(net: Any) -> None:
    """ConvNeXt: depthwise convolution, then normalisation and products over the last axis."""
    n = net((1, 4, 9, 7))
    last = n.node("Transpose", n.conv("x", 4, 3, 4, pads=[1] * 4), perm=[0, 2, 3, 1])
    normal = n.node("LayerNormalization", [last, n.weight(4), n.weight(4)], axis=-1)
    wide = n.node("Relu", n.node("Add", [n.node("MatMul", [normal, n.weight(4, 16)]), n.weight(16)]))
    back = n.node("Transpose", n.node("MatMul", [wide, n.weight(16, 4)]), perm=[0, 3, 1, 2])
    check(n.graph(n.node("Add", ["x", back])))


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
def test_over_channels(net: Any, op_type: str) -> None:
    n = net((1, 4, 9, 7))
    graph = n.graph(n.node(op_type, n.conv("x", 5), axis=1))
    check(graph)
    n = net((1, 4, 9, 7))
    graph = n.graph(n.node(op_type, n.conv("x", 5), axis=-2))
    assert graph.body.verdicts[1] == (Kind.HEAD, f"{op_type} over axis 2 crosses the rows")


@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd", "ArgMax"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduction_over_channels(net: Any, op_type: str, keepdims: int) -> None:
    n = net((1, 4, 9, 7))
    axes = {"axis": 1} if op_type == "ArgMax" else {"axes": [1]}
    graph = n.graph(n.node(op_type, n.conv("x", 5), keepdims=keepdims, **axes))
    assert graph.tensors[graph.output_names[0]].row_axis == 1 + keepdims
    check(graph)


def test_reduction_over_columns(net: Any) -> None:
    n = net((1, 4, 9, 7))
    rows = n.node("ReduceMean", n.conv("x", 4, 3, pads=[1] * 4), axes=[3], keepdims=1)
    n.channels[rows] = 4
    check(n.graph(n.node("Mul", ["x", n.node("Sigmoid", n.conv(rows, 4, 1))])))


def test_normalisation_and_quiet_operators(net: Any) -> None:
    n = net((1, 4, 9, 7))
    x = n.node("LRN", n.conv("x", 4), size=3, alpha=0.1)
    parameters = [n.constant(n.rng.uniform(0.5, 2, 4), np.float32) for _ in range(4)]
    x = n.node("BatchNormalization", [x, *parameters])
    x = n.node("PRelu", [x, n.weight(4, 1, 1)])
    x = n.node("Clip", [x, n.constant(-1, np.float32), n.constant(1, np.float32)])
    check(n.graph(n.node("LpNormalization", x, axis=1)))


@given(st.sampled_from([(), (5,), (6, 1), (6, 5), (4, 1, 1), (4, 6, 1), (1, 4, 6, 5), (1, 1, 1, 5)]))
def test_broadcast_constant(net: Any, shape: tuple[int, ...]) -> None:
    n = net((1, 4, 8, 7))
    check(n.graph(n.node("Add", [n.conv("x", 4), n.weight(*shape)])))


def test_broadcast_of_a_row_over_rows(net: Any) -> None:
    n = net((1, 4, 8, 7))
    row = n.conv("x", 4, (8, 1))
    check(n.graph(n.node("Add", ["x", row])))


def test_gather(net: Any) -> None:
    n = net((1, 6, 9, 7))
    x = n.node("Gather", ["x", n.constant([5, 0, -3, 2], np.int64)], axis=1)
    x = n.node("Gather", [x, n.constant([0, 0, 4, 3, 8, -1], np.int64)], axis=2)
    check(n.graph(n.node("Gather", [x, n.constant([6, 1, 1], np.int64)], axis=3)))
    n = net((1, 6, 9, 7))
    graph = n.graph(n.node("Relu", n.node("Gather", ["x", n.constant(2, np.int64)], axis=1)))
    assert graph.tensors[graph.output_names[0]].row_axis == 1
    check(graph)


def test_axes_that_come_and_go(net: Any) -> None:
    n = net((1, 4, 9, 7))
    x = n.node("Unsqueeze", [n.conv("x", 4), n.constant([2, 5], np.int64)])
    check(n.graph(n.node("Squeeze", [n.node("Relu", x), n.constant([2, -1], np.int64)])))
    n = net((1, 4, 9, 7))
    x = n.node("Unsqueeze", [n.conv("x", 4), n.constant([2], np.int64)])
    check(n.graph(n.node("Relu", n.node("Squeeze", n.node("Tanh", x)))))


def test_expand_and_tile(net: Any) -> None:
    n = net((1, 4, 9, 7))
    x = n.node("Expand", [n.conv("x", 1), n.constant([1, 3, 7, 5], np.int64)])
    check(n.graph(n.node("Tile", [x, n.constant([1, 2, 1, 1], np.int64)])))


def test_pooling_context_spread_again(net: Any) -> None:
    """DeepLab's image pooling: a global mean, a convolution, and a resize back to the whole map."""
    n = net((1, 4, 9, 7))
    x = n.node("Relu", n.conv("x", 4, 3, pads=[1] * 4))
    mean = n.node("GlobalAveragePool", x)
    n.channels[mean] = 4
    spread = n.node("Resize", [n.conv(mean, 4, 1), "", "", n.constant([1, 4, 9, 7], np.int64)], mode="linear")
    joined = n.node("Concat", [x, spread], axis=1)
    n.channels[joined] = 8
    check(n.graph(n.conv(joined, 4, 1)))


def test_context_through_a_flat_vector_spread_again(net: Any) -> None:
    """Adaptive pooling as exporters write it: the mean is flattened and folded back before it is resized."""
    n = net((1, 4, 9, 7))
    x = n.conv("x", 4, 3, pads=[1] * 4)
    flat = n.node("Flatten", n.node("GlobalAveragePool", x))
    point = _reshaped(n, flat, 1, 4, 1, 1)
    spread = n.node("Resize", [point, "", "", n.constant([1, 4, 9, 7], np.int64)], mode="linear")
    joined = n.node("Concat", [x, spread], axis=1)
    n.channels[joined] = 8
    check(n.graph(n.conv(joined, 4, 3)))


def test_operators_without_a_rule_are_named(net: Any) -> None:
    n = net((1, 4, 9, 7))
    x = n.node("Relu", n.conv("x", 4))
    graph = n.graph(n.node("Trilu", x))
    assert graph.body.verdicts[2] == (Kind.HEAD, "Trilu has no row rule")
    assert [graph.operators[i].op_type for i in graph.body.head] == ["Trilu"]


def test_best_channels(net: Any) -> None:
    n = net((1, 4, 9, 7))
    values, places = n.node("TopK", [n.conv("x", 5), n.constant([3], np.int64)], outputs=2, axis=1)
    check(n.graph(values, n.node("Cast", places, to=1)))
    n = net((1, 4, 9, 7))
    graph = n.graph(n.node("TopK", [n.conv("x", 5), n.constant([3], np.int64)], outputs=2, axis=2)[0])
    assert graph.body.verdicts[1] == (Kind.HEAD, "TopK over axis 2 crosses the rows")


@pytest.mark.parametrize("axis", [1, -1, 4])
def test_classes_spread_over_channels(net: Any, axis: int) -> None:
    n = net((1, 4, 9, 7))
    best = n.node("ArgMax", n.conv("x", 5), axis=1, keepdims=0 if axis == 1 else 1)
    values = n.constant([0, 1], np.float32)
    check(n.graph(n.node("Relu", n.node("OneHot", [best, n.constant(5, np.int64), values], axis=axis))))


def test_running_sums_and_chosen_channels(net: Any) -> None:
    n = net((1, 4, 9, 7))
    x = n.node("CumSum", [n.conv("x", 6), n.constant(1, np.int64)], reverse=1)
    places = n.node("TopK", [x, n.constant([2], np.int64)], outputs=2, axis=1)[1]
    check(n.graph(n.node("GatherElements", [x, places], axis=1)))
    n = net((1, 4, 9, 7))
    places = n.constant(n.rng.integers(0, 4, (1, 2, 9, 7)), np.int64)
    check(n.graph(n.node("GatherElements", [n.conv("x", 4, 1), places], axis=1)))
    n = net((1, 4, 9, 7))
    graph = n.graph(n.node("CumSum", [n.conv("x", 6), n.constant(2, np.int64)]))
    assert graph.body.verdicts[1] == (Kind.HEAD, "CumSum over axis 2 crosses the rows")


REDUCTIONS = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
              "ReduceLogSum", "ReduceLogSumExp", "ReduceProd"]  # fmt: skip


@pytest.mark.parametrize("axes", [[2], [0, 2], [0, 2, 3], [1, 2], [-2, -1], [0, 1, 2, 3]])
@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("opset", [13, 18])
def test_reductions_over_rows(net: Any, op_type: str, axes: list[int], opset: int) -> None:
    n = net((1, 4, 11, 9), opset=opset)
    x = n.conv("x", 4, 3, pads=[1] * 4)
    # Near one, so that products and logarithms stay in range.
    near = n.node("Add", [n.node("Mul", [n.node("Tanh", x), n.constant(0.05, np.float32)]), n.constant(1, np.float32)])
    if opset >= 18 or op_type == "ReduceSum":
        found = n.node(op_type, [near, n.constant(axes, np.int64)])
    else:
        found = n.node(op_type, near, axes=axes)
    y = n.node("Mul", [x, found])
    n.channels[y] = 4
    check(n.graph(n.conv(y, 3, 3)))


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceProd", "ReduceL2"])
def test_reductions_of_integers_over_rows(net: Any, op_type: str) -> None:
    n = net((1, 4, 11, 9), opset=18)
    x = n.conv("x", 4, 3, pads=[1] * 4)
    whole = n.node("Cast", n.node("Add", [n.node("Tanh", x), n.constant(2, np.float32)]), to=6)
    found = n.node(op_type, [whole, n.constant([2], np.int64)])
    y = n.node("Mul", [x, n.node("Tanh", n.node("Cast", found, to=1))])
    if op_type == "ReduceL2":
        reason = "ReduceL2 of integers over rows"
        assert (Kind.HEAD, reason) in n.graph(y).body.verdicts
        return
    check(n.graph(y))


@pytest.mark.parametrize("p", [1, 2])
def test_pooling_by_a_power_over_the_whole_map(net: Any, p: int) -> None:
    n = net((1, 4, 11, 9))
    x = n.conv("x", 4, 3, pads=[1] * 4)
    check(n.graph(n.node("Mul", [x, n.node("GlobalLpPool", x, p=p)])))


def test_reduction_of_several_images_of_one(net: Any) -> None:
    """Groups of channels where the batch was: partial results keep them apart."""
    n = net((1, 4, 11, 9))
    x = _reshaped(n, n.conv("x", 4, 3), 2, 2, 9, 7)
    check(n.graph(n.node("Mul", [x, n.node("ReduceMean", x, axes=[2, 3])])))


def test_reduction_of_flattened_rows(net: Any) -> None:
    n = net((1, 4, 11, 9))
    x = n.conv("x", 4, 3, pads=[1] * 4)
    flat = _reshaped(n, x, 1, 4, 99)
    mean = _reshaped(n, n.node("ReduceMean", flat, axes=[-1], keepdims=0), 1, 4, 1, 1)
    most = _reshaped(n, n.node("GlobalMaxPool", flat), 1, 4, 1, 1)
    check(n.graph(n.node("Mul", [n.node("Add", [x, mean]), most])))


@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("kernel", [[11, 1], [1, 9]])
def test_pooling_over_one_whole_axis(net: Any, kind: str, kernel: list[int]) -> None:
    n = net((1, 4, 11, 9))
    x = n.conv("x", 4, 3, pads=[1] * 4)
    graph = n.graph(n.node("Mul", [x, n.node(kind, x, kernel_shape=kernel)]))
    assert graph.operators[1].op_type == ("ReduceMean" if kind == "AveragePool" else "ReduceMax")
    check(graph)


def test_integers_travel_as_they_are(net: Any) -> None:
    n = net((1, 4, 9, 7))
    best = n.node("ArgMax", n.conv("x", 5), axis=1)
    graph = n.graph(n.node("Slice", [best, *(n.constant([v], np.int64) for v in (1, 9, 2))]))
    check(graph)
    first, last = graph.cuts[0], graph.cuts[-1]
    volumes = [(1, [0, 5, graph.cuts[1].height]), (last.index, [0, 1, last.height])]
    layout = lay_out(graph, Strategy.make(graph, ["a", "b"], volumes, head="a"))
    assert first.height == 7
    assert {t.wire: t.size_bytes // t.elements for t in layout.transfers} == {"float32": 4, "int64": 8}
