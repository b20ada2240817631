"""Taking in ONNX models: what comes out computes the same, in one form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.errors import FileError, ModelError
from distredge.experiments.common.bundled import NAMES, bundled
from distredge.model.capture import from_onnx, load_model
from distredge.model.graph import Graph

Arrays = dict[str, np.ndarray]


class Model:
    """A small ONNX model written node by node at any operator set."""

    def __init__(self, shape: tuple[int | str | None, ...] = (1, 3, 11, 13), opset: int = 17) -> None:
        self.opset = opset
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: Arrays = {}
        self.draws = np.random.default_rng(0)

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def random(self, *shape: int) -> str:
        return self.const(self.draws.standard_normal(shape))

    def add(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"t{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        return names[0]

    def conv(self, x: str, inputs: int, outputs: int, bias: bool = True) -> str:
        parts = [self.random(outputs, inputs, 3, 3), *([self.random(outputs)] if bias else [])]
        return self.add("Conv", x, *parts, pads=[1, 1, 1, 1])

    def batch_norm(self, x: str, channels: int) -> str:
        statistics = [self.random(channels), self.random(channels), self.random(channels)]
        variance = self.const(self.draws.uniform(0.5, 2, channels))
        return self.add("BatchNormalization", x, *statistics, variance, epsilon=1e-3)

    def proto(self, *outputs: str, constant_nodes: bool = False) -> onnx.ModelProto:
        nodes, initializers = list(self.nodes), [numpy_helper.from_array(a, n) for n, a in self.constants.items()]
        if constant_nodes:
            made = [helper.make_node("Constant", [], [t.name], value=t) for t in initializers]
            nodes, initializers = made + nodes, []
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_empty_tensor_value_info(n) for n in outputs],
            initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def _run(model: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(out) for out in session.run(None, feeds)]


def _feeds(graph: Graph) -> Arrays:
    draws = np.random.default_rng(1)
    shapes = zip(graph.input_names, graph.input_shapes, strict=True)
    return {name: draws.standard_normal(shape).astype(np.float32) for name, shape in shapes}


def _check(model: onnx.ModelProto, graph: Graph, tolerance: float = 1e-5) -> None:
    """The captured model is valid, in the promised form, and computes what the original does."""
    onnx.checker.check_model(graph.proto, full_check=True)
    assert graph.proto.ir_version == 8
    assert 13 <= graph.opset <= 17
    names = [node.name for node in graph.proto.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    feeds = _feeds(graph)
    for expected, found in zip(_run(model, feeds), _run(graph.proto, feeds), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= tolerance * max(1e-30, np.abs(expected).max())


def _kinds(graph: Graph) -> list[str]:
    return [op.op_type for op in graph.operators]


LARGE = ("bvlc_alexnet", "vgg19", "zfnet512")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in NAMES])
def test_the_graphs_of_the_onnx_package(name: str) -> None:
    model = bundled(name)
    graph = from_onnx(model, name=name)
    _check(model, graph, tolerance=2e-5)
    assert not {"Constant", "ConstantOfShape", "Dropout", "Identity", "Unsqueeze"} & set(_kinds(graph))
    if name in ("resnet50", "inception_v2", "shufflenet"):
        assert "BatchNormalization" not in _kinds(graph)
    assert len({round(float(v), 9) for v in _run(graph.proto, _feeds(graph))[0].ravel()}) > 1


def test_weights_may_be_constant_nodes_or_external(tmp_path: Path) -> None:
    net = Model()
    out = net.add("Relu", net.conv("x", 3, 8))
    inside, nodes = net.proto(out), net.proto(out, constant_nodes=True)
    _check(nodes, from_onnx(nodes))
    outside = onnx.load_from_string(inside.SerializeToString())
    onnx.save(outside, tmp_path / "outside.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    graph = load_model(tmp_path / "outside.onnx")
    _check(inside, graph)
    assert graph.name == "outside"
    (tmp_path / "weights").unlink()
    with pytest.raises(FileError, match=r"outside\.onnx.*external"):
        load_model(tmp_path / "outside.onnx")


def test_the_model_that_was_given_is_left_alone() -> None:
    net = Model()
    model = net.proto(net.add("Identity", net.batch_norm(net.conv("x", 3, 4), 4)))
    before = model.SerializeToString(deterministic=True)
    from_onnx(model)
    assert model.SerializeToString(deterministic=True) == before


def _old_forms(opset: int) -> Model:
    """Operators whose form changed between operator sets 9 and 13."""
    net = Model((1, 4, 12, 10), opset)
    if opset < 11:
        x = net.add("Clip", "x", min=-1.0, max=0.5)
        x = net.add("Pad", x, pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.25)
    else:
        x = net.add("Clip", "x", net.const(-1.0), net.const(0.5))
        x = net.add("Pad", x, net.const([0, 0, 1, 2, 0, 0, 0, 1], np.int64), net.const(0.25))
    if opset < 10:
        x = net.add("Slice", x, starts=[1], ends=[12], axes=[2])
        x = net.add("Upsample", x, net.const([1, 1, 2, 2]), mode="nearest")
    else:
        x = net.add("Slice", x, *(net.const(v, np.int64) for v in ([1], [12], [2])))
        scales = net.const([1, 1, 2, 2])
        x = net.add("Resize", x, scales) if opset == 10 else net.add(
            "Resize", x, net.const([]), scales, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )  # fmt: skip
    x = net.add("Dropout", x)
    if opset < 13:
        halves = net.add("Split", x, outputs=2, axis=1, split=[2, 2])
        y = net.add("Unsqueeze", halves, axes=[0])
        y = net.add("Squeeze", y, axes=[0])
        total = net.add("ReduceSum", y, axes=[1], keepdims=1)
    else:
        halves = net.add("Split", x, net.const([2, 2], np.int64), outputs=2, axis=1)
        axes = net.const([0], np.int64)
        y = net.add("Squeeze", net.add("Unsqueeze", halves, axes), axes)
        total = net.add("ReduceSum", y, net.const([1], np.int64), keepdims=1)
    y = net.add("Add", y, total)
    y = net.batch_norm(net.conv(net.add("Concat", y, f"{halves}_1", axis=1), 4, 6), 6)
    y = net.add("LeakyRelu", y, alpha=0.2)
    net.add("Softmax", net.add("Flatten", net.add("GlobalAveragePool", y)), axis=1)
    return net


@pytest.mark.parametrize("opset", range(9, 18))
def test_old_operator_sets(opset: int) -> None:
    net = _old_forms(opset)
    model = net.proto(f"t{len(net.nodes) - 1}")
    graph = from_onnx(model)
    _check(model, graph)
    assert "Dropout" not in _kinds(graph)


def _new_forms(opset: int) -> Model:
    """Operators whose form changed after operator set 17."""
    net = Model((1, 4, 12, 10), opset)
    axes = net.const([2, 3], np.int64)
    x = net.add("Pad", "x", net.const([1, 2, 0, 1], np.int64), "", axes, mode="reflect")
    x = net.add("Resize", x, "", "", net.const([30, 26], np.int64), axes=[2, 3], mode="linear", antialias=0)
    x = net.add("Split", x, outputs=4, axis=2, num_outputs=4)
    x = net.add("Concat", *(x + part for part in ("", "_3", "_1", "_2")), axis=2)
    x = net.add("Mul", x, net.add("ReduceMean", x, axes, keepdims=1))
    x = net.add("Add", x, net.add("ReduceMax", x, net.const([1], np.int64)))
    if opset >= 20:
        x = net.add("Gelu", net.add("Gelu", x), approximate="tanh")
    if opset >= 21:
        x = net.add("GroupNormalization", x, net.random(4), net.random(4), num_groups=2, epsilon=1e-3)
    if opset == 24:  # ONNX Runtime 1.31 has no Swish for 25
        x = net.add("Swish", net.add("Swish", x), alpha=1.5)
    x = net.add("AveragePool", net.add("Mish", x), kernel_shape=[2, 2], strides=[2, 2])
    net.add("Relu", net.batch_norm(net.conv(x, 4, 6), 6))
    return net


@pytest.mark.parametrize("opset", range(18, 26))
def test_new_operator_sets_are_lowered(opset: int) -> None:
    net = _new_forms(opset)
    model = net.proto(f"t{len(net.nodes) - 1}")
    graph = from_onnx(model)
    _check(model, graph)
    assert not {"Gelu", "Mish", "Swish", "GroupNormalization"} & set(_kinds(graph))


@pytest.mark.parametrize("opset", [19, 20, 26])
def test_an_operator_without_an_older_form_keeps_the_lowest_that_has_it(
    opset: int, caplog: pytest.LogCaptureFixture
) -> None:
    net = Model((1, 4, 12, 10), opset)
    x = net.add("Relu", net.conv("x", 4, 4))
    model = net.proto(net.add("AveragePool", x, kernel_shape=[2, 2], dilations=[2, 2]))
    graph = from_onnx(model)
    assert graph.opset == 19
    assert "AveragePool" in caplog.text
    feeds = _feeds(graph)
    np.testing.assert_array_equal(_run(model, feeds)[0], _run(graph.proto, feeds)[0])


def test_the_lowest_operator_set_is_declared() -> None:
    for kind, opset in (("Relu", 13), ("LeakyRelu", 13), ("HardSwish", 14)):
        net = Model(opset=17)
        assert from_onnx(net.proto(net.add(kind, net.conv("x", 3, 4)))).opset == opset


def test_dynamic_sizes_are_fixed() -> None:
    net = Model(("batch", 3, "height", "width"))
    model = net.proto(net.add("Relu", net.conv("x", 3, 4)))
    assert from_onnx(model, (1, 3, 20, 30)).output_shapes == ((1, 4, 20, 30),)
    assert from_onnx(model, {"x": (1, 3, 9, 7)}).output_shapes == ((1, 4, 9, 7),)
    with pytest.raises(ModelError, match=r"height, width.*--input-shape 1,3,\?,\?"):
        from_onnx(model)
    with pytest.raises(ModelError, match="no input 'y'"):
        from_onnx(model, {"y": (1, 3, 9, 7)})
    with pytest.raises(ModelError, match="4 sizes"):
        from_onnx(model, (1, 3, 9))
    with pytest.raises(ModelError, match="batch 8"):
        from_onnx(model, (8, 3, 9, 9))
    with pytest.raises(ModelError, match=r"\(Conv\).*\(1, 5, 9, 9\)"):
        from_onnx(model, (1, 5, 9, 9))


def test_a_dynamic_batch_becomes_one() -> None:
    net = Model((None, 3, 8, 8))
    assert from_onnx(net.proto(net.add("Relu", "x"))).input_shapes == ((1, 3, 8, 8),)


def test_an_input_that_is_too_small_is_named() -> None:
    net = Model(("n", 3, "h", "w"))
    model = net.proto(net.add("Conv", "x", net.random(4, 3, 5, 5), strides=[2, 2]))
    assert from_onnx(model, (1, 3, 5, 5)).output_shapes == ((1, 4, 1, 1),)
    with pytest.raises(ModelError, match="window of 5 does not fit in 4"):
        from_onnx(model, (1, 3, 4, 5))


def test_shape_computations_fold_away() -> None:
    """Shape, Gather, arithmetic, Concat into Reshape, as exporters write them for dynamic sizes."""
    net = Model((None, 4, "h", "w"), 13)
    shape = net.add("Shape", "x")
    index = [net.const(i, np.int64) for i in range(4)]
    sizes = [net.add("Gather", shape, i) for i in index]
    axis = net.const([0], np.int64)
    half = net.add("Div", sizes[1], net.const(2, np.int64))
    wanted = [sizes[0], net.const(2, np.int64), half, sizes[2], sizes[3]]
    target = net.add("Concat", *(net.add("Unsqueeze", w, axis) for w in wanted), axis=0)
    x = net.add("Transpose", net.add("Reshape", "x", target), perm=[0, 2, 1, 3, 4])
    x = net.add("Reshape", x, shape)
    x = net.add("Mul", x, net.add("Cast", net.add("Size", x), to=TensorProto.FLOAT))
    model = net.proto(x)
    graph = from_onnx(model, (1, 4, 6, 5))
    _check(model, graph)
    assert _kinds(graph) == ["Reshape", "Transpose", "Reshape", "Mul"]


def test_operators_without_effect_go() -> None:
    net = Model((1, 4, 6, 5), 13)
    x = net.add("Identity", "x")
    x = net.add("Dropout", x, net.const(0.5), outputs=2)
    x = net.add("Cast", x, to=TensorProto.FLOAT)
    x = net.add("Pad", x, net.const([0] * 8, np.int64))
    x = net.add("Reshape", x, net.const([1, 4, 6, 5], np.int64))
    x = net.add("Transpose", x, perm=[0, 1, 2, 3])
    x = net.add("Concat", x, axis=1)
    x = net.add("Slice", x, net.const([0], np.int64), net.const([99], np.int64), net.const([2], np.int64))
    x = net.add("Relu", x)
    x = net.add("Expand", x, net.const([1, 1, 6, 5], np.int64))
    model = net.proto(net.add("Identity", x), x)
    graph = from_onnx(model)
    _check(model, graph)
    assert _kinds(graph) == ["Relu", "Identity"]
    flipped = Model((1, 4, 6, 5), 13)
    numbers = [flipped.const(v, np.int64) for v in ([-1], [-99], [2], [-1])]
    model = flipped.proto(flipped.add("Slice", "x", *numbers))
    _check(model, from_onnx(model))


def test_the_names_of_outputs_stay() -> None:
    net = Model()
    net.nodes.append(helper.make_node("Relu", ["x"], ["inner"]))
    net.nodes.append(helper.make_node("Identity", ["inner"], ["result"]))
    net.nodes.append(helper.make_node("Sigmoid", ["inner"], ["other"]))
    net.nodes.append(helper.make_node("Identity", ["x"], ["same"]))
    model = net.proto("result", "other", "same")
    graph = from_onnx(model)
    assert graph.output_names == ("result", "other", "same")
    _check(model, graph)
    assert _kinds(graph) == ["Relu", "Sigmoid", "Identity"]


@pytest.mark.parametrize("bias", [True, False])
def test_batch_normalisation_folds_into_the_convolution(bias: bool) -> None:
    net = Model()
    model = net.proto(net.add("Relu", net.batch_norm(net.conv("x", 3, 8, bias), 8)))
    graph = from_onnx(model)
    _check(model, graph)
    assert _kinds(graph) == ["Conv", "Relu"]


@pytest.mark.parametrize("group", [1, 2])
def test_batch_normalisation_folds_into_a_transposed_convolution(group: int) -> None:
    net = Model((1, 4, 5, 6))
    x = net.add("ConvTranspose", "x", net.random(4, 3, 2, 2), strides=[2, 2], group=group)
    model = net.proto(net.batch_norm(x, 3 * group))
    graph = from_onnx(model)
    _check(model, graph)
    assert _kinds(graph) == ["ConvTranspose"]


def test_scales_and_shifts_per_channel_fold_too() -> None:
    net = Model()
    x = net.add("Mul", net.conv("x", 3, 8, bias=False), net.random(8, 1, 1))
    x = net.add("Add", net.random(1, 8, 1, 1), x)
    x = net.add("Sub", x, net.const(0.5))
    x = net.add("Div", x, net.const(np.linspace(1, 2, 8).reshape(8, 1, 1)))
    x = net.add("Sub", net.const([[[0.25]]]), x)
    model = net.proto(net.batch_norm(x, 8))
    graph = from_onnx(model)
    _check(model, graph)
    assert _kinds(graph) == ["Conv"]


def test_what_is_not_exact_is_not_folded() -> None:
    def kinds(build: Any) -> list[str]:
        net = Model()
        model = net.proto(*build(net))
        graph = from_onnx(model)
        _check(model, graph)
        return _kinds(graph)

    def two_readers(net: Model) -> tuple[str, ...]:
        x = net.conv("x", 3, 8)
        return net.batch_norm(x, 8), net.add("Relu", x)

    def is_an_output(net: Model) -> tuple[str, ...]:
        x = net.conv("x", 3, 8)
        return net.batch_norm(x, 8), x

    def comes_first(net: Model) -> tuple[str, ...]:
        return (net.conv(net.batch_norm("x", 3), 3, 8),)

    def along_the_width(net: Model) -> tuple[str, ...]:
        return (net.add("Mul", net.conv("x", 3, 13), net.random(13)),)

    def by_a_number(net: Model) -> tuple[str, ...]:
        return (net.add("Relu", net.add("Div", net.conv("x", 3, 2), net.const([[[3.0]], [[7.0]]]))),)

    def by_zero(net: Model) -> tuple[str, ...]:
        return (net.add("Sigmoid", net.add("Div", net.conv("x", 3, 2), net.const([[[3.0]], [[0.0]]]))),)

    def scaled_by_data(net: Model) -> tuple[str, ...]:
        x = net.conv("x", 3, 8)
        return (net.add("Mul", x, net.add("GlobalAveragePool", x)),)

    assert kinds(two_readers) == ["Conv", "BatchNormalization", "Relu"]
    assert kinds(is_an_output) == ["Conv", "BatchNormalization"]
    assert kinds(comes_first) == ["BatchNormalization", "Conv"]
    assert kinds(along_the_width) == ["Conv", "Mul"]
    assert kinds(by_a_number) == ["Conv", "Relu"]
    assert kinds(by_zero) == ["Conv", "Div", "Sigmoid"]
    assert kinds(scaled_by_data) == ["Conv", "GlobalAveragePool", "Mul"]


def test_shared_weights_are_folded_apart() -> None:
    net = Model((1, 3, 8, 8))
    weight = net.random(3, 3, 3, 3)
    x = net.batch_norm(net.add("Conv", "x", weight, pads=[1] * 4), 3)
    model = net.proto(net.batch_norm(net.add("Conv", x, weight, pads=[1] * 4), 3))
    _check(model, from_onnx(model))


def _branch(name: str, op_type: str, reads: str) -> onnx.GraphProto:
    output = helper.make_empty_tensor_value_info(f"{name}_out")
    return helper.make_graph([helper.make_node(op_type, [reads], [f"{name}_out"])], name, [], [output])


def test_a_constant_if_becomes_its_branch() -> None:
    for chosen, kind in ((True, "Relu"), (False, "Sigmoid")):
        net = Model()
        x = net.conv("x", 3, 4)
        condition = net.const(chosen, np.bool_)
        branches = {"then_branch": _branch("a", "Relu", x), "else_branch": _branch("b", "Sigmoid", x)}
        model = net.proto(net.add("Tanh", net.add("If", condition, **branches)))
        graph = from_onnx(model)
        _check(model, graph)
        assert _kinds(graph) == ["Conv", kind, "Tanh"]


def test_local_functions_are_inlined() -> None:
    net = Model()
    net.nodes.append(helper.make_node("Twice", ["x"], ["y"], domain="mine"))
    model = net.proto("y")
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Add", ["b", "b"], ["c"])]
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["c"], body, opset))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    graph = from_onnx(model)
    assert _kinds(graph) == ["Relu", "Add"]
    _check(model, graph)


def test_the_model_can_end_earlier() -> None:
    net = Model()
    x = net.add("Relu", net.conv("x", 3, 8))
    model = net.proto(net.add("NonZero", net.add("Flatten", net.add("GlobalMaxPool", x))))
    graph = from_onnx(model, outputs=[x])
    assert _kinds(graph) == ["Conv", "Relu"]
    assert graph.output_names == (x,)


def test_nodes_may_stand_in_any_order() -> None:
    net = Model()
    out = net.add("Relu", net.add("Sigmoid", net.conv("x", 3, 4)))
    right = net.proto(out)
    net.nodes.reverse()
    _check(right, from_onnx(net.proto(out)))


def test_weights_stored_in_integers_are_folded() -> None:
    net = Model(opset=13)
    weight = net.const(net.draws.integers(-127, 127, (4, 3, 3, 3)), np.int8)
    real = net.add("DequantizeLinear", weight, net.const(0.01), net.const(0, np.int8))
    model = net.proto(net.add("Conv", "x", real, pads=[1] * 4))
    graph = from_onnx(model)
    _check(model, graph)
    assert _kinds(graph) == ["Conv"]


def test_an_lstm_behind_convolutions_is_no_error() -> None:
    net = Model((1, 3, 8, 6))
    x = net.add("ReduceMean", net.add("Relu", net.conv("x", 3, 6)), axes=[2], keepdims=0)
    x = net.add("Transpose", x, perm=[2, 0, 1])
    net.nodes.append(helper.make_node("LSTM", [x, net.random(1, 16, 6), net.random(1, 16, 4)], ["y", "", ""],
                                      hidden_size=4))  # fmt: skip
    model = net.proto("y")
    _check(model, from_onnx(model))


def test_the_zoo_is_reached_by_name() -> None:
    graph = load_model("mobilenet-v2", input_shape=(1, 3, 64, 48), width=0.25, seed=2)
    assert graph.name == "mobilenet-v2"
    assert graph.input_shapes == ((1, 3, 64, 48),)
    assert graph.preprocess is not None
    assert graph.preprocess.crop == (64, 48)
