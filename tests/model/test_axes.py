"""Where rows are: followed from the inputs through every operator, and nowhere where there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distredge.experiments.common.exact import TOLERANCE, Comparison, random_grid
from distredge.model.graph import Graph
from distredge.model.operators import Kind


def check(graph: Graph, seed: int = 0) -> None:
    """Compares random rows and tiles with the whole model, of which nothing may be left to the head."""
    assert not graph.body.head, [v.reason for v in graph.body.verdicts if v.kind is Kind.HEAD]
    comparison = Comparison(graph, seed)
    for strategy, error in comparison.random_errors(12, seed=seed):
        assert error <= TOLERANCE, strategy
    rng = np.random.default_rng(seed)
    if graph.tensors[graph.cuts[-1].reference].width > 1:
        for _ in range(4):
            assert comparison.error(random_grid(graph, rng)) <= TOLERANCE


def ints(n: Any, *values: int) -> str:
    """A constant list of numbers."""
    name: str = n.constant(values, np.int64)
    return name


def eca(n: Any, x: str, form: str) -> str:
    """Efficient channel attention: a convolution along the channels of a pooled vector."""
    channels = n.channels[x]
    pooled = n.node("GlobalAveragePool", x)
    kernel = n.weight(1, 1, 3)
    if form == "squeeze and transpose":
        line = n.node("Transpose", n.node("Squeeze", [pooled, ints(n, 3)]), perm=[0, 2, 1])
        line = n.node("Transpose", n.node("Conv", [line, kernel], pads=[1, 1]), perm=[0, 2, 1])
        gate = n.node("Unsqueeze", [line, ints(n, 3)])
    elif form == "view":
        line = n.node("Conv", [n.node("Reshape", [pooled, ints(n, 1, 1, channels)]), kernel], pads=[1, 1])
        gate = n.node("Reshape", [line, ints(n, 1, channels, 1, 1)])
    elif form == "flatten":
        line = n.node("Unsqueeze", [n.node("Flatten", pooled), ints(n, 1)])
        line = n.node("Squeeze", [n.node("Conv", [line, kernel], pads=[1, 1]), ints(n, 1)])
        gate = n.node("Unsqueeze", [line, ints(n, 2, 3)])
    elif form == "means one by one":
        mean = n.node("ReduceMean", n.node("ReduceMean", x, axes=[3], keepdims=0), axes=[2], keepdims=0)
        line = n.node("Conv", [n.node("Unsqueeze", [mean, ints(n, 1)]), kernel], pads=[1, 1])
        gate = n.node("Unsqueeze", [n.node("Transpose", line, perm=[0, 2, 1]), ints(n, 3)])
    else:
        kernel = n.weight(1, 1, 3, 1)
        line = n.node("Conv", [n.node("Transpose", pooled, perm=[0, 3, 1, 2]), kernel], pads=[1, 0, 1, 0])
        gate = n.node("Transpose", line, perm=[0, 2, 1, 3])
    gate = n.node("Sigmoid", gate)
    if form == "flatten":
        gate = n.node("Expand", [gate, ints(n, 1, channels, 13, 9)])
    made: str = n.node("Mul", [x, gate])
    n.channels[made] = channels
    return made


@pytest.mark.parametrize("form", ["squeeze and transpose", "view", "flatten", "means one by one", "in two dimensions"])
def test_efficient_channel_attention(net: Any, form: str) -> None:
    n = net((1, 3, 13, 9))
    x = n.node("Relu", n.conv("x", 6, 3, pads=[1] * 4))
    x = n.node("Relu", n.conv(eca(n, x, form), 6, 3, pads=[1] * 4))
    graph = n.graph(n.conv(eca(n, x, form), 4, 3, pads=[1] * 4))
    convs = [op.index for op in graph.operators if op.op_type == "Conv"]
    assert [i in graph.body.everywhere for i in convs] == [False, True, False, True, False]
    check(graph)


def test_the_vector_of_a_line_has_no_rows(net: Any) -> None:
    """The same attention in a CNN over one axis."""
    n = net((1, 2, 31))
    x = n.conv("x", 6, [5], pads=[2, 2])
    mean = n.node("ReduceMean", x, axes=[2], keepdims=0)
    line = n.node("Conv", [n.node("Unsqueeze", [mean, ints(n, 1)]), n.weight(1, 1, 3)], pads=[1, 1])
    gate = n.node("Sigmoid", n.node("Reshape", [line, ints(n, 1, 6, 1)]))
    y = n.node("Mul", [x, gate])
    n.channels[y] = 6
    check(n.graph(n.conv(y, 2, [3], strides=[2])))


def test_vector_of_a_volume(net: Any) -> None:
    n = net((1, 2, 3, 9, 7))
    x = n.conv("x", 4, [3, 3, 3], pads=[1] * 6)
    line = n.node("Reshape", [n.node("GlobalAveragePool", x), ints(n, 1, 1, 4)])
    gate = n.node("Reshape", [n.node("Conv", [line, n.weight(1, 1, 3)], pads=[1, 1]), ints(n, 1, 4, 1, 1, 1)])
    check(n.graph(n.node("Mul", [x, gate])))


@pytest.mark.parametrize("keepdims", [0, 1])
def test_attention_along_rows_and_along_columns(net: Any, keepdims: int) -> None:
    """Coordinate attention without its concatenation: a mean over rows alone has columns and no rows."""
    n = net((1, 3, 13, 9))
    x = n.conv("x", 4, 3, pads=[1] * 4)
    down, across = (n.node("ReduceMean", x, axes=[axis], keepdims=keepdims) for axis in (3, 2))
    n.channels[down] = n.channels[across] = 4
    if keepdims:
        gates = [n.conv(down, 4, 1), n.conv(across, 4, (1, 3), pads=[0, 1, 0, 1])]
    else:
        lines = [n.conv(down, 4, [3], pads=[1, 1]), n.conv(across, 4, [3], pads=[1, 1])]
        gates = [n.node("Unsqueeze", [line, ints(n, axis)]) for line, axis in zip(lines, (3, 2), strict=True)]
    for gate in gates:
        x = n.node("Mul", [x, n.node("Sigmoid", gate)])
        n.channels[x] = 4
    graph = n.graph(n.conv(x, 2, 3))
    assert graph.body.everywhere
    check(graph)


@pytest.mark.parametrize("form", ["split", "slices"])
def test_coordinate_attention(net: Any, form: str) -> None:
    """The means along rows and columns are joined, convolved and taken apart: apart they stay."""
    n = net((1, 3, 13, 9))
    x = n.conv("x", 4, 3, pads=[1] * 4)
    down = n.node("ReduceMean", x, axes=[3])
    across = n.node("Transpose", n.node("ReduceMean", x, axes=[2]), perm=[0, 1, 3, 2])
    joined = n.node("Concat", [down, across], axis=2)
    n.channels[joined] = 4
    line = n.conv(joined, 6, 1)
    # Hard swish as exporters write it.
    share = n.node(
        "Clip", [n.node("Add", [line, n.constant(3, np.float32)]), n.constant(0, np.float32), n.constant(6, np.float32)]
    )
    line = n.node("Div", [n.node("Mul", [line, share]), n.weight(6, 1, 1)])
    if form == "split":
        parts = n.node("Split", [line, ints(n, 13, 9)], outputs=2, axis=2)
    else:
        parts = [n.node("Slice", [line, *(ints(n, v) for v in (a, b, 2))]) for a, b in ((0, 13), (-9, 99))]
    n.channels.update(dict.fromkeys(parts, 6))
    gates = [n.conv(parts[0], 4, 1), n.conv(n.node("Transpose", parts[1], perm=[0, 1, 3, 2]), 4, 1)]
    n.channels.update(dict.fromkeys(gates, 4))
    for gate in gates:
        x = n.node("Mul", [x, n.node("Sigmoid", gate)])
        n.channels[x] = 4
    graph = n.graph(n.conv(x, 2, 3))
    assert "Concat" not in [op.op_type for op in graph.operators]
    check(graph)


def test_triplet_attention(net: Any) -> None:
    """Pooled over rows, joined where they were, and convolved along channels and columns."""
    n = net((1, 3, 13, 9))
    x = n.conv("x", 4, 3, pads=[1] * 4)
    turned = n.node("Transpose", x, perm=[0, 2, 1, 3])
    pooled = n.node("Concat", [n.node(kind, turned, axes=[1]) for kind in ("ReduceMax", "ReduceMean")], axis=1)
    n.channels[pooled] = 2
    gate = n.node("Transpose", n.node("Sigmoid", n.conv(pooled, 1, 3, pads=[1] * 4)), perm=[0, 2, 1, 3])
    y = n.node("Mul", [x, gate])
    n.channels[y] = 4
    graph = n.graph(n.conv(y, 2, 3))
    assert [graph.operators[i].op_type for i in graph.body.everywhere] == ["Concat", "Conv", "Sigmoid", "Transpose"]
    check(graph)


def test_what_is_taken_apart_elsewhere_stays_joined(net: Any) -> None:
    n = net((1, 3, 13, 9))
    x = n.conv("x", 4, 3, pads=[1] * 4)
    joined = n.node("Relu", n.node("Concat", [x, x], axis=2))
    first, last = n.node("Split", [joined, ints(n, 12, 14)], outputs=2, axis=2)
    graph = n.graph(n.node("Relu", first), n.node("Neg", last))
    assert [op.op_type for op in graph.operators].count("Concat") == 1
    check(graph)


@pytest.mark.parametrize(
    ("shape", "op_type", "argument", "rows"),
    [
        ((1, 13, 9), "Unsqueeze", (1,), 1),
        ((1, 1, 3, 13, 9), "Squeeze", (1,), 3),
        ((1, 3 * 13 * 9), "Reshape", (1, 3, 13, 9), None),
        ((1, 13 * 9), "Reshape", (1, 1, 13, 9), 1),
        ((13, 9), "Reshape", (1, 1, 13, 9), 0),
        ((1, 1, 13, 9, 3), "Gather", 1, 2),
    ],
)
def test_rows_of_an_input_that_is_reshaped_first(
    net: Any, shape: tuple[int, ...], op_type: str, argument: Any, rows: int | None
) -> None:
    n = net(shape)
    x = n.node(op_type, ["x", n.constant(argument, np.int64)], **({"axis": 4} if op_type == "Gather" else {}))
    n.channels[x] = 3 if 3 in shape[:-1] or shape[-1] == 3 * 13 * 9 else 1
    graph = n.graph(n.conv(x, 4, 3, pads=[1] * 4))
    if rows is None:
        # Channels come first in the list: its outermost axis is theirs.
        assert graph.body.head
        return
    assert graph.tensors["x"].row_axis == rows
    check(graph)


def test_number_and_list_beside_a_picture(net: Any) -> None:
    from onnx import TensorProto, helper

    n = net((1, 3, 13, 9))
    for name, shape in (("gain", []), ("offset", [1]), ("weights", [7])):
        n.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    x = n.node("Mul", [n.conv("x", 4, 3, pads=[1] * 4), "gain"])
    x = n.node("Mul", [n.node("Add", [x, "offset"]), n.node("Sigmoid", "gain")])
    n.channels[x] = 4
    x = n.node("Mul", [n.conv(x, 2, 3), "weights"])
    graph = n.graph(x, n.node("Neg", "gain"), n.node("Exp", "weights"))
    for _, error in Comparison(graph).random_errors(12, seed=1):
        assert error <= TOLERANCE
