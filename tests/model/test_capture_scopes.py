"""Graphs inside nodes: branches, loops and local functions become nodes whose names stay apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.errors import ModelError, UnsupportedModel
from distredge.model.capture import from_onnx
from distredge.model.graph import Graph
from distredge.model.opset import OPSET
from distredge.runtime.in_process import run_in_process
from distredge.strategy import Strategy

SHAPE = (1, 3, 6, 5)


def _constant(name: str, value: Any, dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def _graph(nodes: list[onnx.NodeProto], outputs: list[str], constants: Any = (), inputs: Any = ()) -> onnx.GraphProto:
    made = [helper.make_empty_tensor_value_info(n) for n in outputs]
    return helper.make_graph(nodes, "inside", list(inputs), made, list(constants))


def _model(nodes: list[onnx.NodeProto], outputs: list[str], constants: Any = (), opset: int = OPSET) -> onnx.ModelProto:
    made = [helper.make_empty_tensor_value_info(n) for n in outputs]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)]
    graph = helper.make_graph(nodes, "outside", given, made, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _if(output: str, then: onnx.GraphProto, condition: str = "yes") -> onnx.NodeProto:
    other = _graph([helper.make_node("Neg", ["x"], [f"{output}.other"])], [f"{output}.other"])
    return helper.make_node("If", [condition], [output], name=output, then_branch=then, else_branch=other)


def _check(model: onnx.ModelProto) -> Graph:
    """The captured graph has the model's outputs, under their names, split as well as whole."""
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict(zip([v.name for v in session.get_outputs()], session.run(None, {"x": x}), strict=True))
    graph = from_onnx(model)
    height = graph.cuts[-1].height
    strategy = Strategy.make(graph, ["a", "b"], [(len(graph.cuts) - 1, [0, height // 2, height])], head="a")
    found = run_in_process(graph, strategy, {"x": x})
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)
    return graph


YES = _constant("yes", True, np.bool_)


def test_branches_share_the_names_of_constants_and_tensors() -> None:
    """Two branches call a constant of their own and a tensor of their own the same, as scripted exporters do."""
    nodes = []
    source = "x"
    for number in (1, 2, 3):
        inner = [helper.make_node("Mul", [source, "w"], ["t"]), helper.make_node("Relu", ["t"], ["out"])]
        nodes.append(_if(f"y{number}", _graph(inner, ["out"], [_constant("w", 0.5 * number)])))
        source = f"y{number}"
    _check(_model(nodes, ["y3"], [YES]))


def test_names_that_the_capture_would_give_are_taken_already() -> None:
    inner = [helper.make_node("Add", ["x", "w"], ["t"])]
    first = _if("y", _graph(inner, ["t"], [_constant("w", 1.0)]))
    second = _if("z", _graph([helper.make_node("Sub", ["y", "w"], ["t"])], ["t"], [_constant("w", 3.0)]))
    third = helper.make_node("Mul", ["z", "w_1"], ["t_1"])
    last = helper.make_node("Add", ["t_1", "w_2"], ["t_2"])
    _check(_model([first, second, third, last], ["t_2"], [YES, _constant("w_1", 5.0), _constant("w_2", 7.0)]))


def test_a_branch_in_a_branch_in_a_branch() -> None:
    """Every depth calls its constant `w` and its result `t`, and the middle one passes its inner branch's on."""
    inmost = _graph([helper.make_node("Add", ["x", "w"], ["t"])], ["t"], [_constant("w", 1.0)])
    middle = _graph([_if("passed", inmost), helper.make_node("Mul", ["passed", "w"], ["m"])], ["m"],
                    [_constant("w", 3.0)])  # fmt: skip
    outer = _graph([_if("through", middle)], ["through"])
    nodes = [_if("y", outer), helper.make_node("Tanh", ["y"], ["end"])]
    _check(_model(nodes, ["end", "y"], [YES]))


def test_an_output_that_a_branch_makes_keeps_its_name() -> None:
    graph = _check(_model([_if("y", _graph([helper.make_node("Relu", ["x"], ["t"])], ["t"]))], ["y"], [YES]))
    assert graph.output_names == ("y",)
    assert [op.op_type for op in graph.operators] == ["Relu"]


def test_old_operators_inside_a_branch_are_raised_too() -> None:
    inner = [
        helper.make_node("Clip", ["x"], ["c"], min=-0.5, max=0.75),
        helper.make_node("Upsample", ["c", "s"], ["t"], mode="linear"),
    ]
    branch = _graph(inner, ["t"], [_constant("s", [1, 1, 2, 3])])
    node = helper.make_node("If", ["yes"], ["y"], name="y", then_branch=branch, else_branch=branch)
    _check(_model([node], ["y"], [YES], opset=9))


def _loop_body(*, condition: str = "going") -> onnx.GraphProto:
    nodes = [
        helper.make_node("Cast", ["i"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "w"], ["step"]),
        helper.make_node("Add", ["state", "step"], ["t"]),
        helper.make_node("ReduceMean", ["t"], ["seen"], axes=[2, 3], keepdims=1),
    ]
    if condition == "counted":
        nodes.append(helper.make_node("Less", ["i", "two"], ["counted"]))
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, SHAPE),
    ]
    constants = [_constant("w", [[[0.5]], [[1.5]], [[2.5]]]), _constant("two", 2, np.int64)]
    return _graph(nodes, [condition, "t", "seen"], constants, inputs)


@pytest.mark.parametrize(("rounds", "condition"), [(1, "going"), (4, "going"), (9, "counted")])
def test_a_loop_of_known_rounds_becomes_its_rounds(rounds: int, condition: str) -> None:
    body = _loop_body(condition=condition)
    nodes = [
        helper.make_node("Relu", ["x"], ["w"]),
        helper.make_node("Loop", ["rounds", "yes", "w"], ["t", "means"], body=body),
        helper.make_node("ReduceSum", ["means", "first"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["t", "sum"], ["end"]),
    ]
    constants = [YES, _constant("rounds", rounds, np.int64), _constant("first", [0], np.int64)]
    graph = _check(_model(nodes, ["end"], constants))
    done = min(rounds, 3 if condition == "counted" else rounds)
    assert sum(op.op_type == "GlobalAveragePool" for op in graph.operators) == done


def test_local_functions_whose_names_collide() -> None:
    body = [helper.make_node("Mul", ["a", "a"], ["t"]), helper.make_node("Sigmoid", ["t"], ["w"])]
    nodes = [
        helper.make_node("Half", ["x"], ["t"], domain="mine"),
        helper.make_node("Half", ["t"], ["w"], domain="mine"),
        helper.make_node("Add", ["t", "w"], ["t__1"]),
        helper.make_node("Half", ["t__1"], ["end"], domain="mine"),
    ]
    model = _model(nodes, ["end"])
    model.functions.append(helper.make_function("mine", "Half", ["a"], ["w"], body, [helper.make_opsetid("", OPSET)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    _check(model)


def test_names_like_those_of_sub_models() -> None:
    """Sub-models call a slice `x@1`, a partial result `y#partial`, a fed constant `w@input`."""
    nodes = [
        helper.make_node("Conv", ["x", "x@1"], ["x@2"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["x@2"], ["m"]),
        helper.make_node("Relu", ["m"], ["m#partial"]),
        helper.make_node("Mul", ["x@2", "m#partial"], ["starts@1"]),
        helper.make_node("Conv", ["starts@1", "x@1"], ["end"], pads=[1, 1, 1, 1]),
    ]
    weight = np.random.default_rng(0).standard_normal((3, 3, 3, 3))
    _check(_model(nodes, ["end"], [_constant("x@1", weight)]))
    with pytest.raises(ModelError, match=r"'end@1': found 'end' too.*# or @"):
        from_onnx(_model([*nodes, helper.make_node("Relu", ["end"], ["end@1"])], ["end@1", "end"],
                         [_constant("x@1", weight)]))  # fmt: skip


def test_names_that_rewriting_makes_are_taken_already() -> None:
    """Folding makes `w.folded`, a Reshape `y/shape`, a Split of rows `y@starts`: all are there already."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c", "w.folded"], ["m"]),
        helper.make_node("Split", ["m"], ["y", "z"], axis=2),
        helper.make_node("Add", ["y", "z"], ["s"]),
        helper.make_node("Reshape", ["s", "s/shape"], ["r/shape"]),
        helper.make_node("Reshape", ["r/shape", "back"], ["r"]),
        helper.make_node("Mul", ["r", "y@starts"], ["end"]),
    ]
    constants = [
        _constant("w", np.random.default_rng(0).standard_normal((3, 3, 3, 3))), _constant("w.folded", 2.0),
        _constant("s/shape", [0, 3, 3, 5, 1], np.int64), _constant("back", [1, 3, 3, -1], np.int64),
        _constant("y@starts", 3.0),
    ]  # fmt: skip
    _check(_model(nodes, ["end"], constants))


TRUTH = {
    "If": (
        [helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0), helper.make_node("Greater", ["m", "m"], ["c"]),
         _if("y", _graph([helper.make_node("Relu", ["x"], ["t"])], ["t"]), "c")],
        r"'y' \(If\): control flow that depends on data: its condition 'c' follows from the input",
    ),
    "rounds": (
        [helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
         helper.make_node("Cast", ["m"], ["n"], to=TensorProto.INT64),
         helper.make_node("Loop", ["n", "yes", "x"], ["y", "seen"], body=_loop_body(), name="turn")],
        r"'turn' \(Loop\): control flow that depends on data: the number of its rounds, 'n', follows",
    ),
    "without end": (
        [helper.make_node("Loop", ["", "yes", "x"], ["y", "seen"], body=_loop_body(), name="turn")],
        r"'turn' \(Loop\): it brings more than 10000 nodes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(TRUTH))
def test_the_true_reason_is_told(kind: str) -> None:
    nodes, words = TRUTH[kind]
    with pytest.raises(UnsupportedModel, match=words):
        from_onnx(_model(nodes, ["y"], [YES]))
