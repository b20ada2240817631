"""Number formats: a split equals ONNX Runtime's run of the file, or the model says that it is lossy, or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from distredge.errors import UnsupportedModel
from distredge.experiments.common.exact import TOLERANCE, Comparison
from distredge.model.capture import from_onnx

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def _conv(x: str, weight: str, y: str) -> NodeProto:
    return helper.make_node("Conv", [x, weight], [y], pads=[1] * 4)


def _node(op_type: str, x: str | list[str], y: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, [x] if isinstance(x, str) else x, [y], **attributes)


def _between(*nodes: NodeProto, ends: int = FLOAT, inside: Any = np.float16) -> onnx.ModelProto:
    """A convolution, nodes from "a" to "b", a convolution: in one format, with casts where the ends are in another."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 3, 3, 3)) / 3, "w2": rng.standard_normal((4, 8, 3, 3)) / 5}
    fixed = {"shape": [1, 2, 4, 12, 9], "back": [1, 8, 12, 9], "from": [1], "to": [9], "axis": [2]}
    constants = [numpy_helper.from_array(value.astype(inside), name) for name, value in weights.items()]
    constants += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in fixed.items()]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(inside))
    body = [_conv("h", "w", "a"), *nodes, _conv("b", "w2", "e")]
    if ends != kind:
        body = [_node("Cast", "x", "h", to=kind), *body, _node("Cast", "e", "y", to=ends)]
    else:
        body[0].input[0], body[-1].output[0] = "x", "y"
    graph = helper.make_graph(
        body, "between", [helper.make_tensor_value_info("x", ends, [1, 3, 12, 9])],
        [helper.make_tensor_value_info("y", ends, None)], constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _on_the_file(model: onnx.ModelProto, image: NDArray[Any]) -> NDArray[Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    found: NDArray[Any] = session.run(None, {"x": image})[0]
    return found


def _errors(model: onnx.ModelProto) -> tuple[str, float, float]:
    """Why it is lossy, and the largest errors of the captured model and of random splits against the file."""
    comparison = Comparison(from_onnx(model))
    right = _on_the_file(model, comparison.inputs["x"]).astype(np.float64)
    captured = comparison.expected["y"]
    off = float(np.abs(captured - right).max() / np.abs(right).max())
    comparison.expected = {"y": right.astype(captured.dtype)}
    splits = max(error for _, error in comparison.random_errors(8, seed=1))
    return comparison.graph.lossy_because, off, splits


EXACT: dict[str, Sequence[NodeProto]] = {
    "pointwise": [_node("Relu", "a", "b")],
    "a residual": [_node("Sigmoid", "a", "c"), _node("Mul", ["a", "c"], "b")],
    "a pool": [_node("MaxPool", "a", "b", kernel_shape=[2, 2])],
    "a global pool": [_node("GlobalAveragePool", "a", "c"), _node("Mul", ["a", "c"], "b")],
    "one slice": [_node("Slice", ["a", "from", "to", "axis"], "b")],
    "a detour to float32": [
        _node("Cast", "a", "c", to=FLOAT),
        _node("Exp", "c", "d"),
        _node("Cast", "d", "b", to=HALF),
    ],
}


@pytest.mark.parametrize("nodes", EXACT.values(), ids=EXACT)
def test_float16_inside_is_computed_in_float32_as_the_engine_does(nodes: Sequence[NodeProto]) -> None:
    because, captured, splits = _errors(_between(*nodes))
    assert because == ""
    assert captured <= TOLERANCE
    assert splits <= TOLERANCE


ROUNDED: dict[str, tuple[str, Sequence[NodeProto]]] = {
    "concat": (
        "'c' (Concat)",
        [_node("Concat", ["a", "a"], "c", axis=2), _node("Transpose", "c", "b", perm=[0, 1, 3, 2])],
    ),
    "maximum": ("'c' (Max)", [_node("Max", ["a", "a"], "c"), _node("Concat", ["c", "a"], "b", axis=2)]),
    "shuffle": (
        "'c' (Reshape) and node 'd' (Transpose)",
        [_node("Reshape", ["a", "shape"], "c"), _node("Transpose", "c", "d", perm=[0, 2, 1, 3, 4]),
         _node("Reshape", ["d", "back"], "b")],
    ),
    "a slice beside a cast": (
        "'d' (Cast) and node 'b' (Slice)",
        [_node("Cast", "a", "c", to=FLOAT), _node("Cast", "c", "d", to=HALF),
         _node("Slice", ["d", "from", "to", "axis"], "b")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("culprit", "nodes"), ROUNDED.values(), ids=ROUNDED)
def test_where_the_engine_rounds_to_float16_the_model_is_lossy(culprit: str, nodes: Sequence[NodeProto]) -> None:
    because, captured, splits = _errors(_between(*nodes))
    assert culprit in because
    assert TOLERANCE < captured < 2e-3
    assert splits < 2e-3


def test_float16_at_the_ends_stays_and_is_lossy() -> None:
    model = _between(_node("Relu", "a", "b"), ends=HALF)
    graph = from_onnx(model)
    assert (graph.tensors["x"].dtype, graph.tensors["y"].dtype) == ("float16", "float16")
    assert {op.op_type for op in graph.operators} == {"Cast", "Conv", "Relu"}
    because, captured, splits = _errors(model)
    assert because == "output 'y' is rounded to float16"
    assert max(captured, splits) < 1e-3


def test_float16_weights_are_the_only_trace_of_float16() -> None:
    model = _between(_node("Relu", "a", "b"))
    graph = from_onnx(model)
    assert {tensor.dtype for tensor in graph.tensors.values()} == {"float32"}
    weight = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w")
    assert np.array_equal(graph.constants["w"], weight.astype(np.float32))
    assert "Cast" not in {op.op_type for op in graph.operators}


def test_float64_is_exact() -> None:
    """The engine has no convolution in float64, but most else."""
    nodes = [
        _node("Cast", "a", "c", to=TensorProto.DOUBLE), _node("Sigmoid", "c", "d"),
        _node("MaxPool", "d", "f", kernel_shape=[3, 3], pads=[1] * 4), _node("ReduceSum", ["f", "axis"], "g"),
        _node("Mul", ["f", "g"], "h64"), _node("Cast", "h64", "b", to=FLOAT),
    ]  # fmt: skip
    model = _between(*nodes, inside=np.float32)
    because, captured, splits = _errors(model)
    assert because == ""
    assert max(captured, splits) <= TOLERANCE
    assert {"float64", "float32"} == {tensor.dtype for tensor in from_onnx(model).tensors.values()}


def test_pixels_are_exact() -> None:
    model = _between(_node("Relu", "a", "b"), inside=np.float32, ends=FLOAT)
    model.graph.node[0].input[0] = "h"
    model.graph.node.insert(0, _node("Cast", "x", "h", to=FLOAT))
    model.graph.node[-1].output[0] = "y"
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    graph = from_onnx(model)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 12, 9), dtype=np.uint8)
    comparison = Comparison(graph, inputs=lambda _graph, _seed: {"x": pixels})
    assert np.abs(comparison.expected["y"] - _on_the_file(model, pixels)).max() <= TOLERANCE * 255
    assert max(error for _, error in comparison.random_errors(8, seed=2)) <= TOLERANCE
    assert graph.lossy_because == ""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (TensorProto.BFLOAT16, r"node 'c' \(Cast\) makes bfloat16, in which no device computes; accepted: float32, "),
        (TensorProto.FLOAT8E4M3FN, r"node 'c' \(Cast\) makes float8_e4m3fn, in which no device computes"),
        (TensorProto.STRING, r"node 'c' \(Cast\) makes text, in which no device computes"),
    ],
)
def test_formats_in_which_nothing_travels_are_refused(kind: int, message: str) -> None:
    model = _between(_node("Cast", "a", "c", to=kind), _node("Cast", "c", "b", to=FLOAT), inside=np.float32)
    model.opset_import[0].version = 19
    with pytest.raises(UnsupportedModel, match=message):
        from_onnx(model)


def test_a_quantised_branch_is_refused() -> None:
    """Only the branch that is taken quantises."""
    inner = helper.make_graph(
        [_node("QuantizeLinear", ["a", "scale"], "q"), _node("DequantizeLinear", ["q", "scale"], "d")],
        "then", [], [helper.make_tensor_value_info("d", FLOAT, None)],
    )  # fmt: skip
    other = helper.make_graph([_node("Relu", "a", "r")], "else", [], [helper.make_tensor_value_info("r", FLOAT, None)])
    model = _between(_node("If", "yes", "b", then_branch=inner, else_branch=other), inside=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
    with pytest.raises(UnsupportedModel, match=r"node 'q' \(QuantizeLinear\): a quantised graph"):
        from_onnx(model)
