"""Random small graphs under random strategies: feature maps and outputs equal those of the whole model."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.experiments.common.exact import TOLERANCE, Comparison, random_grid, random_strategy
from distredge.model.graph import Graph
from distredge.strategy import Strategy


class RandomNet:
    """Draws a network: convolutions, pooling, residuals, concatenation, squeeze-and-excite, resizing, shuffling.

    Args:
        net: builder.
        data: where choices come from.
    """

    def __init__(self, net: Any, data: st.DataObject) -> None:
        self.data = data
        self.height, self.width = data.draw(st.integers(4, 33)), data.draw(st.integers(4, 20))
        self.net = net((1, 3, self.height, self.width), seed=data.draw(st.integers(0, 99)))
        self.maps: list[tuple[str, int, int]] = [("x", self.height, self.width)]

    def choose(self, *options: Any) -> Any:
        return self.data.draw(st.sampled_from(options))

    def grow(self) -> None:
        """Appends one block to one of the last maps."""
        x, height, width = self.maps[-self.data.draw(st.integers(1, min(3, len(self.maps))))]
        kinds = ["conv", "conv", "depthwise", "residual", "excite", "excite_fc", "concat", "norm", "shuffle"]
        if height >= 4 and width >= 4:
            kinds += ["stride", "pool", "pool"]
        if height <= 16:
            kinds.append("upsample")
        made = getattr(self, f"_{self.choose(*kinds)}")(x, height, width)
        self.maps.append(made)

    def _conv(self, x: str, height: int, width: int) -> tuple[str, int, int]:
        kernel, dilation = self.choose(1, 3, 5), self.choose(1, 2)
        pad = dilation * (kernel - 1) // 2
        made = self.net.conv(x, self.choose(4, 6, 8), kernel, pads=[pad] * 4, dilations=[dilation] * 2)
        return self.net.node(self.choose("Relu", "HardSwish", "Tanh"), made), height, width

    def _depthwise(self, x: str, height: int, width: int) -> tuple[str, int, int]:
        channels = self.net.channels[x]
        return self.net.conv(x, channels, 3, channels, pads=[1] * 4), height, width

    def _stride(self, x: str, height: int, width: int) -> tuple[str, int, int]:
        pads = [self.choose(0, 1) for _ in range(4)]
        made = self.net.conv(x, 4, 3, pads=pads, strides=[2, 2])
        return made, (height + pads[0] + pads[2] - 3) // 2 + 1, (width + pads[1] + pads[3] - 3) // 2 + 1

    def _pool(self, x: str, height: int, width: int) -> tuple[str, int, int]:
        attributes: dict[str, Any] = {"ceil_mode": self.choose(0, 1), "pads": [1, 1, 1, 1]}
        kind = self.choose("MaxPool", "AveragePool")
        if kind == "AveragePool":
            attributes["count_include_pad"] = self.choose(0, 1)
        made = self.net.node(kind, x, kernel_shape=[3, 3], strides=[2, 2], **attributes)
        up = attributes["ceil_mode"]
        return made, (height - 1 + up) // 2 + 1, (width - 1 + up) // 2 + 1

    def _residual(self, x: str, height: int, width: int) -> tuple[str, int, int]:
        branch = self.net.conv(x, self.net.channels[x], 3, pads=[1] * 4)
        return self.net.node("Add", [branch, x]), height, width

    def _excite(self, x: str, height: int, width: int) -> tuple[str, int, int]:
        return self.net.squeeze_excite(x, fully_connected=False), height, width

    def _excite_fc(self, x: str, height: int, width: int) -> tuple[str, int, int]:
        return self.net.squeeze_excite(x, fully_connected=True), height, width

    def _norm(self, x: str, height: int, width: int) -> tuple[str, int, int]:
        return self.net.node("LRN", x, size=3), height, width

    def _concat(self, x: str, height: int, width: int) -> tuple[str, int, int]:
        same = [name for name, h, w in self.maps if (h, w) == (height, width)]
        other = self.choose(*same)
        made = self.net.node("Concat", [x, other], axis=1)
        self.net.channels[made] = self.net.channels[x] + self.net.channels[other]
        return made, height, width

    def _upsample(self, x: str, height: int, width: int) -> tuple[str, int, int]:
        scales = self.net.constant([1, 1, 2, 2], np.float32)
        mode = self.choose("nearest", "linear")
        return self.net.node("Resize", [x, "", scales], mode=mode), 2 * height, 2 * width

    def _shuffle(self, x: str, height: int, width: int) -> tuple[str, int, int]:
        made = self.net.conv(x, 6, 1)
        for shape, order in (((1, 2, 3, height, width), [0, 2, 1, 3, 4]), ((1, 6, height, width), None)):
            made = self.net.node("Reshape", [made, self.net.constant(shape, np.int64)])
            if order is not None:
                made = self.net.node("Transpose", made, perm=order)
        self.net.channels[made] = 6
        return made, height, width

    def graph(self) -> Graph:
        """The finished graph: its last map, perhaps earlier ones too, perhaps a classifier."""
        outputs = [self.maps[-1][0]]
        if self.choose(True, False):
            outputs.append(self.maps[len(self.maps) // 2][0])
        if self.choose(True, False):
            flat = self.net.node("Flatten", self.net.node("GlobalAveragePool", outputs[0]))
            scores = self.net.node("Gemm", [flat, self.net.weight(5, self.net.channels[outputs[0]])], transB=1)
            outputs = [scores, *outputs[1:]]
        names = [name for name in dict.fromkeys(outputs) if name != "x"]
        made: Graph = self.net.graph(*names)
        return made


@settings(max_examples=60)
@given(st.data())
def test_random_graphs(net: Any, data: st.DataObject) -> None:
    drawn = RandomNet(net, data)
    for _ in range(data.draw(st.integers(1, 9))):
        drawn.grow()
    comparison = Comparison(drawn.graph(), maps=data.draw(st.sampled_from([0, 3])))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    for make in (random_strategy, random_grid):
        strategy = make(comparison.graph, rng)
        assert comparison.error(strategy) <= TOLERANCE


def test_inputs_that_meet_late(net: Any) -> None:
    """The image is read again at the end, and by the head."""
    n = net((1, 3, 13, 9))
    x = n.node("Add", [n.conv(n.conv("x", 4, 3, pads=[1] * 4), 3, 3, pads=[1] * 4), "x"])
    flat = n.node("Flatten", "x")
    graph = n.graph(x, n.node("Softmax", flat))
    comparison = Comparison(graph)
    for strategy, error in comparison.random_errors(10, seed=1):
        assert error <= TOLERANCE, strategy


def test_second_input_without_rows(net: Any) -> None:
    """A vector that modulates channels goes whole to every device that needs it."""
    from onnx import TensorProto, helper

    n = net((1, 3, 13, 9))
    n.inputs.append(helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 5]))
    scale = n.node("Gemm", ["style", n.weight(4, 5)], transB=1)
    scale = n.node("Reshape", [scale, n.constant([1, 4, 1, 1], np.int64)])
    x = n.node("Mul", [n.conv("x", 4, 3, pads=[1] * 4), scale])
    n.channels[x] = 4
    graph = n.graph(n.conv(x, 2, 3, pads=[1] * 4))
    assert not graph.body.head
    for _, error in Comparison(graph).random_errors(10, seed=2):
        assert error <= TOLERANCE


def test_vectors_that_head_and_requester_read_too(net: Any) -> None:
    n = net((1, 3, 13, 9))
    x = n.conv("x", 4, 3, pads=[1] * 4)
    mean = n.node("GlobalAveragePool", x)
    n.channels[mean] = 4
    gate = n.node("Sigmoid", n.conv(mean, 4, 1))
    y = n.node("Mul", [x, gate])
    n.channels[y] = 4
    last = n.conv(y, 4, 3, pads=[1] * 4)
    scores = n.node("Flatten", n.node("Concat", [gate, n.node("GlobalMaxPool", last)], axis=1))
    graph = n.graph(scores, gate, mean, last)
    assert [graph.operators[i].op_type for i in graph.body.everywhere] == ["Conv", "Sigmoid"]
    for _, error in Comparison(graph).random_errors(15, seed=3):
        assert error <= TOLERANCE


def test_reductions_of_all_kinds(net: Any) -> None:
    n = net((1, 4, 14, 9))
    x = n.conv("x", 4, 3, pads=[1] * 4)
    for op_type, keepdims in (("ReduceMean", 0), ("ReduceMean", 1), ("ReduceMax", 0), ("ReduceMin", 1)):
        factor = n.node(op_type, x, axes=[2, 3], keepdims=keepdims)
        if not keepdims:
            factor = n.node("Reshape", [factor, n.constant([1, 4, 1, 1], np.int64)])
        x = n.node("Add", [x, n.node("Tanh", factor)])
        n.channels[x] = 4
        x = n.conv(x, 4, 3, pads=[1] * 4)
    total = n.node("ReduceSum", [x, n.constant([1, -2, -1], np.int64)])
    x = n.node("Div", [x, n.node("Exp", n.node("Tanh", total))])
    graph = n.graph(x)
    assert not graph.body.head
    strategy = Strategy.make(graph, list("abc"), [(len(graph.cuts) - 1, [0, 5, 5, 14])], head="b")
    comparison = Comparison(graph)
    assert comparison.error(strategy) <= TOLERANCE
    for _, error in comparison.random_errors(15, seed=4):
        assert error <= TOLERANCE


def test_pooling_over_the_whole_map_is_a_reduction(net: Any) -> None:
    n = net((1, 4, 7, 7))
    x = n.node("Relu", n.conv("x", 4, 3, pads=[1] * 4))
    x = n.node("Mul", [x, n.node("AveragePool", x, kernel_shape=[7, 7])])
    graph = n.graph(n.node("Mul", [x, n.node("MaxPool", x, kernel_shape=[7, 7], strides=[2, 2])]))
    assert {op.op_type for op in graph.operators} >= {"GlobalAveragePool", "GlobalMaxPool"}
    for _, error in Comparison(graph).random_errors(10, seed=5):
        assert error <= TOLERANCE


def test_padding_that_covers_the_whole_map_is_a_reduction_too(net: Any) -> None:
    n = net((1, 4, 6, 6))
    x = n.node("Relu", n.conv("x", 4, 3, pads=[1] * 4))
    x = n.node("Mul", [x, n.node("AveragePool", x, kernel_shape=[7, 7], pads=[0, 0, 1, 1])])
    counted = n.node("AveragePool", x, kernel_shape=[7, 7], pads=[0, 0, 1, 1], count_include_pad=1)
    graph = n.graph(n.node("Mul", [x, counted]))
    assert [op.op_type for op in graph.operators if "Pool" in op.op_type] == ["GlobalAveragePool", "AveragePool"]
    for _, error in Comparison(graph).random_errors(10, seed=6):
        assert error <= TOLERANCE
