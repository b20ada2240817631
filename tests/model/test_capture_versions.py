"""Operators of every operator set: the captured graph computes, and has the shapes, that ONNX Runtime makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.errors import ModelError
from distredge.model.capture import from_onnx
from distredge.model.graph import Graph
from distredge.runtime.in_process import run_in_process
from distredge.strategy import Strategy

SHAPE = (1, 4, 9, 11)

DRAWS = np.random.default_rng(0)


def _model(
    opset: int, nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: tuple[int, ...], outputs: tuple[str, ...]
) -> onnx.ModelProto:
    arrays = {
        n: np.asarray(v, np.int64 if np.asarray(v).dtype.kind == "i" else np.float32) for n, v in constants.items()
    }
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _check(model: onnx.ModelProto, *, split: bool = False) -> Graph:
    """The captured graph has ONNX Runtime's outputs and shapes; `split`: two parts of it have them as well."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    x = np.random.default_rng(1).standard_normal(given.shape).astype(np.float32)
    expected = dict(zip([v.name for v in session.get_outputs()], session.run(None, {"x": x}), strict=True))
    graph = from_onnx(model)
    captured = ort.InferenceSession(graph.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = dict(zip(graph.output_names, captured.run(list(graph.output_names), {"x": x}), strict=True))
    assert dict(zip(graph.output_names, graph.output_shapes, strict=True)) == {n: a.shape for n, a in expected.items()}
    _same(expected, found)
    if split:
        for last in range(len(graph.cuts)):
            heights = sorted({last, len(graph.cuts) - 1})
            volumes = [(c, [0, (graph.cuts[c].height + 1) // 2, graph.cuts[c].height]) for c in heights]
            strategy = Strategy.make(graph, ["a", "b"], volumes, head="b")
            _same(expected, run_in_process(graph, strategy, {"x": x}))
    return graph


def _same(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        assert found[name].shape == array.shape
        apart = np.abs(found[name].astype(np.float64) - array).max(initial=0.0)
        assert apart <= 1e-5 * max(1e-30, np.abs(array).max(initial=0.0)), name


def _one(*args: Any, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> list[onnx.NodeProto]:
    kind, *inputs = args
    return [helper.make_node(kind, inputs, list(outputs), name=f"{kind} one", **attributes)]


STATISTICS = {name: DRAWS.uniform(0.5, 2, 4) for name in "abcd"}
PLACES = {name: DRAWS.uniform(0.5, 2, (4, 9, 11)) for name in "abcd"}
WEIGHT = DRAWS.standard_normal((5, 396))

# kind: (operator sets, nodes, constants, outputs)
OLD: dict[str, tuple[Any, list[onnx.NodeProto], dict[str, Any], tuple[str, ...]]] = {
    **{
        f"Upsample {mode} {scales}": ((9,), _one("Upsample", "x", "s", mode=mode), {"s": scales}, ("y",))
        for mode in ("nearest", "linear") for scales in ([1.0, 1, 2, 2], [1.0, 1, 1.5, 2.5], [1.0, 1, 1, 3])
    },
    **{
        f"Upsample-7 {mode}": ((7, 8), _one("Upsample", "x", mode=mode, scales=[1.0, 1.0, 2.0, 3.0]), {}, ("y",))
        for mode in ("nearest", "linear")
    },
    **{
        f"Resize {mode} {scales}": ((10,), _one("Resize", "x", "s", mode=mode), {"s": scales}, ("y",))
        for mode in ("nearest", "linear")
        for scales in ([1.0, 1, 0.5, 2], [1.0, 1, 1 / 3, 0.75], [1.0, 1, 1.7, 0.6], [1.0, 1, 0.33, 0.33], [1.0] * 4)
    },
    "Clip": ((7, 10), _one("Clip", "x", min=-0.5, max=0.25), {}, ("y",)),
    "Clip above": ((7, 10), _one("Clip", "x", max=0.25), {}, ("y",)),
    "BatchNormalization by place": (
        (7, 8), _one("BatchNormalization", "x", *"abcd", spatial=0, epsilon=1e-3), PLACES, ("y",)
    ),
    "BatchNormalization": (
        (7, 8, 9, 12), _one("BatchNormalization", "x", *"abcd", momentum=0.4), STATISTICS, ("y",)
    ),
    "Dropout": ((7, 10, 11), _one("Dropout", "x", ratio=0.3), {}, ("y",)),
    "Pad": ((7, 10), _one("Pad", "x", pads=[0, 0, 1, -2, 0, 0, 3, 1], value=0.7), {}, ("y",)),
    "Pad edge": ((7, 10), _one("Pad", "x", pads=[0, 0, 1, 2, 0, 0, 3, 1], mode="edge"), {}, ("y",)),
    "Slice": ((7, 9), _one("Slice", "x", starts=[1, -5], ends=[100, -1], axes=[2, 3]), {}, ("y",)),
    "Slice without axes": ((7, 9), _one("Slice", "x", starts=[0, 1, 2], ends=[1, 3, -2]), {}, ("y",)),
    "Split": ((7, 12), _one("Split", "x", outputs=("y", "z"), axis=2, split=[4, 5]), {}, ("y", "z")),
    "Split evenly": ((7, 12), _one("Split", "x", outputs=("y", "z"), axis=1), {}, ("y", "z")),
    "TopK": ((7, 9), _one("TopK", "x", outputs=("y", "z"), k=3, axis=1), {}, ("y", "z")),
    "ReduceSum": ((7, 12), _one("ReduceSum", "x", axes=[2, 3], keepdims=0), {}, ("y",)),
    "ReduceSum of all": ((7, 12), _one("ReduceSum", "x"), {}, ("y",)),
    "Scatter": ((9,), _one("Scatter", "x", "i", "u", axis=2), {"i": [[[[3]]]], "u": [[[[9.0]]]]}, ("y",)),
    "MeanVarianceNormalization": ((9, 12), _one("MeanVarianceNormalization", "x"), {}, ("y",)),
    "Squeeze": (
        (7, 12),
        [*_one("Unsqueeze", "x", outputs=("u",), axes=[0, 3]), *_one("Squeeze", "u", axes=[0, 3])], {}, ("y",),
    ),
    "Gemm": (
        (7, 12),
        [*_one("Flatten", "x", outputs=("f",)), *_one("Gemm", "f", "w", "b", transB=1, alpha=0.5, beta=2.0)],
        {"w": WEIGHT, "b": WEIGHT[:, 0]}, ("y",),
    ),
    **{
        f"{kind} {axis}": ((7, 11, 12, 13), _one(kind, "x", **({} if axis is None else {"axis": axis})), {}, ("y",))
        for kind in ("Softmax", "LogSoftmax", "Hardmax") for axis in (None, 0, 2, 3)
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(OLD))
def test_an_old_operator_means_what_onnx_runtime_computes(kind: str) -> None:
    opsets, nodes, constants, outputs = OLD[kind]
    for opset in opsets:
        _check(_model(opset, nodes, constants, SHAPE, outputs))


@pytest.mark.parametrize("shape", [(1, 7, 1, 1), (1, 4, 1, 6), (1, 1, 1, 5), (1, 6, 5)])
def test_an_old_softmax_takes_the_axes_from_its_own_on_as_one(shape: tuple[int, ...]) -> None:
    for axis in range(len(shape)):
        _check(_model(11, _one("Softmax", "x", axis=axis), {}, shape, ("y",)))


def _between(opset: int, node: onnx.NodeProto, shape: tuple[int, ...], **constants: Any) -> onnx.ModelProto:
    """A node between two convolutions, `f` to `q`."""
    draws = np.random.default_rng(2)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["f"], pads=[1] * 4), node,
        helper.make_node("Conv", ["q", "v"], ["y"], pads=[1] * 4),
    ]  # fmt: skip
    weights = {"w": draws.standard_normal((4, shape[1], 3, 3)), "v": draws.standard_normal((3, 4, 3, 3))}
    return _model(opset, nodes, {**weights, **constants}, shape, ("y",))


@pytest.mark.parametrize("opset", [10, 13, 22])
def test_windows_that_begin_in_the_end_padding(opset: int) -> None:
    """Random pools with `ceil_mode`: ONNX Runtime drops a last window that begins in the padding after the map."""
    draws = np.random.default_rng(opset)
    dropped = 0
    for _ in range(60):
        kernel = draws.integers(1, 5, 2)
        attributes: dict[str, Any] = {
            "kernel_shape": kernel.tolist(), "strides": draws.integers(1, 4, 2).tolist(), "ceil_mode": 1,
            "pads": [int(draws.integers(0, k)) for k in (*kernel, *kernel)],
        }  # fmt: skip
        kind = str(draws.choice(["MaxPool", "AveragePool"]))
        if kind == "MaxPool" and draws.random() < 0.3:
            attributes["dilations"] = [2, 1]
        if kind == "AveragePool":
            attributes["count_include_pad"] = int(draws.integers(2))
        node = helper.make_node(kind, ["f"], ["q"], name="pool", **attributes)
        model = _between(opset, node, (1, 3, *draws.integers(8, 16, 2).tolist()))
        graph = _check(model, split=True)
        typed = onnx.shape_inference.infer_shapes(model).graph.value_info
        by_rule = next(tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in typed if v.name == "q")
        dropped += "q" in graph.tensors and graph.tensors["q"].shape != by_rule
    assert dropped > 3 or opset == 22


@pytest.mark.parametrize("rule", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(
    ("kernel", "stride", "extra"), [(2, 2, 1), (3, 2, 1), (4, 2, 1), (1, 3, 1), (3, 3, 2), (2, 3, 0)]
)
def test_a_transposed_convolution_that_pads_itself(rule: str, kernel: int, stride: int, extra: int) -> None:
    node = helper.make_node(
        "ConvTranspose", ["f", "t"], ["q"], auto_pad=rule, strides=[stride] * 2, output_padding=[extra] * 2
    )
    weight = np.random.default_rng(3).standard_normal((4, 4, kernel, kernel))
    _check(_between(13, node, (1, 3, 7, 6), t=weight), split=True)


@pytest.mark.parametrize("rule", ["SAME_UPPER", "SAME_LOWER"])
def test_a_dilated_pool_that_pads_itself(rule: str) -> None:
    node = helper.make_node(
        "MaxPool", ["f"], ["q"], auto_pad=rule, kernel_shape=[3, 3], strides=[2, 1], dilations=[2, 2]
    )
    _check(_between(13, node, (1, 3, 14, 12)), split=True)


NEWEST = {
    "DepthToSpace": (_one("DepthToSpace", "f", outputs=("q",), blocksize=2, mode="CRD"), (1, 1, 8, 8)),
    "SpaceToDepth": (_one("SpaceToDepth", "f", outputs=("q",), blocksize=2), (1, 16, 2, 2)),
    "Celu": (_one("Celu", "f", outputs=("q",), alpha=0.5), (1, 4, 4, 4)),
    "ReduceLogSumExp": (_one("ReduceLogSumExp", "f", "axes", outputs=("q",)), (1, 4, 1, 1)),
}


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 28, reason="an onnx without operator set 28")
@pytest.mark.parametrize("kind", sorted(NEWEST))
def test_an_operator_set_newer_than_the_engine_is_lowered(kind: str) -> None:
    nodes, shape = NEWEST[kind]
    weight = DRAWS.standard_normal((4, 3, 3, 3))
    conv = helper.make_node("Conv", ["x", "w"], ["f"], pads=[1] * 4)
    model = _model(28, [conv, *nodes], {"w": weight, "axes": [2, 3]}, (1, 3, 4, 4), ("q",))
    graph = from_onnx(model)
    assert graph.opset <= 17
    assert graph.output_shapes == (shape,)
    assert graph.check is not None
    assert "does not run the model as it was given" in graph.check.reason
    strategy = Strategy.make(graph, ["a"], [(len(graph.cuts) - 1, [0, graph.cuts[-1].height])], head="a")
    found = run_in_process(graph, strategy, {"x": np.ones((1, 3, 4, 4), np.float32)})
    assert found["q"].shape == shape


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 28, reason="an onnx without operator set 28")
def test_what_the_engine_does_not_know_is_refused_at_once() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["f"], pads=[1] * 4)
    new = helper.make_node("SpaceToDepth", ["f"], ["q"], name="fold", blocksize=2, mode="CRD")
    model = _model(28, [conv, new], {"w": DRAWS.standard_normal((4, 3, 3, 3))}, (1, 3, 4, 4), ("q",))
    with pytest.raises(ModelError, match=r"'fold' \(SpaceToDepth\).*operator set 28"):
        from_onnx(model)


def test_what_the_engine_does_not_load_is_refused_by_name() -> None:
    """ONNX has a GridSample of volumes, ONNX Runtime's CPU provider a bilinear one of pictures alone."""
    conv = helper.make_node("Conv", ["x", "w"], ["f"])
    sample = helper.make_node("GridSample", ["f", "g"], ["q"], name="sample", mode="cubic")
    constants = {"w": DRAWS.standard_normal((4, 3, 1, 1, 1)), "g": DRAWS.uniform(-1, 1, (1, 2, 2, 2, 3))}
    model = _model(20, [conv, sample], constants, (1, 3, 4, 4, 4), ("q",))
    with pytest.raises(ModelError, match=r"'sample' \(GridSample\).*does not load"):
        from_onnx(model)


def test_a_region_of_some_axes_is_lowered() -> None:
    node = helper.make_node("Resize", ["f", "roi", "", "sizes"], ["q"], axes=[3, 2], mode="linear",
                            coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=2.0)  # fmt: skip
    constants = {"roi": [0.4, 0.1, 0.6, 1.3], "sizes": [5, 8]}
    assert _check(_between(19, node, (1, 3, 7, 9), **constants), split=True).opset <= 17
