"""The node list by itself: who makes and reads what, and what is worked out once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from distredge.errors import ModelError
from distredge.model.nodes import NodeList


def proto(output: str = "y") -> onnx.ModelProto:
    """`y` = relu(conv(x, w)) + x."""
    shape = [1, 2, 4, 4]
    made = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Add", ["r", "x"], ["y"]),
    ]
    x, c, r, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "c", "r", output))
    return helper.make_model(helper.make_graph(made, "small", [x], [y], value_info=[c, r]))


WEIGHT = {"w": np.zeros((2, 2, 1, 1), np.float32)}


def test_who_makes_and_reads_what() -> None:
    nodes = NodeList(proto(), "small", WEIGHT)
    assert (nodes.input_names, nodes.output_names) == (("x",), ("y",))
    assert nodes.producer == {"c": 0, "r": 1, "y": 2}
    assert nodes.consumers == {"x": (0, 2), "c": (1,), "r": (2,)}
    assert [op.name for op in nodes.operators] == ["conv", "relu", "Add_2"]
    assert nodes.operators[0].activation_names == ("x",)
    assert nodes.fused_into == {1: 0}
    assert nodes.tensors["c"].size_bytes == 4 * 2 * 4 * 4


def test_a_constant_is_no_activation() -> None:
    nodes = NodeList(proto(), "small", {**WEIGHT, "x": np.zeros((1, 2, 4, 4), np.float32)})
    assert (nodes.input_names, "x" in nodes.tensors) == ((), False)
    assert nodes.operators[2].activations == (0,)


@pytest.mark.parametrize(
    ("output", "constants", "message"),
    [
        ("w", WEIGHT, "output 'w' is a constant"),
        ("y", {}, r"node 'conv' \(Conv\): no static shape for 'w'"),
    ],
)
def test_what_does_not_fit_is_refused(output: str, constants: dict[str, np.ndarray], message: str) -> None:
    model = proto(output)
    if output == "w":
        model.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 4]))
    with pytest.raises(ModelError, match=f"small: {message}"):
        NodeList(model, "small", constants)


def test_what_is_asked_for_again_is_not_made_again() -> None:
    asked: list[tuple[NodeList, int]] = []

    def make(nodes: NodeList, number: int) -> list[int]:
        asked.append((nodes, number))
        return [number]

    one, other = NodeList(proto(), "small", WEIGHT), NodeList(proto(), "small", WEIGHT)
    assert one.once(make, 1) is one.once(make, 1)
    assert (one.once(make, 2), other.once(make, 1)) == ([2], [1])
    assert asked == [(one, 1), (one, 2), (other, 1)]
