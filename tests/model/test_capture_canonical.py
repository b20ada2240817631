"""Equal models have equal digests, however they were written."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.model.capture import from_onnx
from distredge.model.graph import Graph


def _model(
    op_type: str, shape: tuple[int, ...], constants: list[np.ndarray], opset: int = 17, **attributes: Any
) -> onnx.ModelProto:
    names = [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(op_type, ["x", *names], ["y"], name="n", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(a, n) for a, n in zip(constants, names, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _run(model: onnx.ModelProto, shape: tuple[int, ...]) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return np.asarray(session.run(None, {"x": image})[0])


def _captured(op_type: str, shape: tuple[int, ...], constants: list[np.ndarray], **attributes: Any) -> Graph:
    model = _model(op_type, shape, constants, **attributes)
    graph = from_onnx(model)
    np.testing.assert_allclose(_run(graph.proto, shape), _run(model, shape), rtol=1e-5, atol=1e-6)
    return graph


def _weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def test_defaults_may_be_written_or_not() -> None:
    weight = [_weight(4, 2, 3, 3)]
    short = _captured("Conv", (1, 4, 9, 8), weight, group=2)
    long = _captured(
        "Conv", (1, 4, 9, 8), weight, group=2, kernel_shape=[3, 3], strides=[1, 1], dilations=[1, 1],
        pads=[0, 0, 0, 0], auto_pad="NOTSET",
    )  # fmt: skip
    valid = _captured("Conv", (1, 4, 9, 8), weight, group=2, auto_pad="VALID")
    assert short.topology == long.topology == valid.topology
    assert short.signatures == long.signatures == valid.signatures
    other = _captured("Conv", (1, 4, 9, 8), weight, group=2, pads=[1, 0, 0, 0])
    assert other.topology != short.topology
    pools = [
        _captured("MaxPool", (1, 4, 9, 8), [], kernel_shape=[2, 2], strides=[2, 2], **extra)
        for extra in ({}, {"ceil_mode": 0, "storage_order": 0, "dilations": [1, 1]})
    ]
    assert pools[0].topology == pools[1].topology


@pytest.mark.parametrize("rule", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("size", [(9, 8), (7, 12)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (4, 1), (5, 3), (2, 4)])
def test_automatic_padding_becomes_explicit(rule: str, size: tuple[int, int], kernel: int, stride: int) -> None:
    window: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "auto_pad": rule}
    shape = (1, 2, *size)
    conv = _captured("Conv", shape, [_weight(3, 2, kernel, kernel)], **window)
    assert "auto_pad" not in conv.operators[0].attributes
    assert len(conv.operators[0].attributes["pads"]) == 4
    if kernel >= stride:
        for kind, extra in (("MaxPool", {}), ("AveragePool", {}), ("AveragePool", {"count_include_pad": 1})):
            assert "pads" in _captured(kind, shape, [], **window, **extra).operators[0].attributes


def test_automatic_padding_of_a_dilated_window() -> None:
    """ONNX Runtime runs it only with explicit pads."""
    model = _model("Conv", (1, 2, 9, 8), [_weight(3, 2, 3, 3)], dilations=[2, 2], auto_pad="SAME_UPPER")
    assert from_onnx(model).operators[0].attributes["pads"] == [2, 2, 2, 2]


def test_transposed_convolutions_have_their_padding_in_numbers() -> None:
    weight = [_weight(2, 3, 3, 3)]
    plain = _captured("ConvTranspose", (1, 2, 5, 6), weight, strides=[2, 2], output_padding=[0, 0])
    assert plain.operators[0].attributes["pads"] == [0, 0, 0, 0]
    sized = _captured("ConvTranspose", (1, 2, 5, 6), weight, strides=[2, 2], output_shape=[10, 12])
    assert sized.operators[0].attributes["pads"] == [1, 1, 0, 0]
    assert "output_shape" not in sized.operators[0].attributes
    longer = _captured("ConvTranspose", (1, 2, 5, 6), weight, strides=[2, 2], output_shape=[12, 13])
    assert longer.operators[0].attributes["output_padding"] == [1, 0]
    named = _captured("ConvTranspose", (1, 2, 5, 6), weight, strides=[2, 2], auto_pad="SAME_UPPER")
    assert named.operators[0].attributes["pads"] == [0, 0, 1, 1]


def test_a_reshape_that_flattens_is_a_flatten() -> None:
    targets = [[1, 120], [-1, 120], [0, -1]]
    graphs = [_captured("Reshape", (1, 4, 5, 6), [np.array(t, np.int64)]) for t in targets]
    graphs.append(_captured("Flatten", (1, 4, 5, 6), [], axis=1))
    assert {g.topology for g in graphs} == {graphs[0].topology}
    assert graphs[0].operators[0].op_type == "Flatten"


def test_a_reshape_has_all_its_sizes() -> None:
    targets = [[1, 2, 2, 5, 6], [0, 2, -1, 5, 6], [-1, 2, 2, 5, 6]]
    graphs = [_captured("Reshape", (1, 4, 5, 6), [np.array(t, np.int64)]) for t in targets]
    assert {g.topology for g in graphs} == {graphs[0].topology}
    assert graphs[1].constants[graphs[1].operators[0].inputs[1]].tolist() == [1, 2, 2, 5, 6]


def test_a_mean_over_rows_and_columns_is_a_global_pooling() -> None:
    for axes in ([2, 3], [-1, -2]):
        graph = _captured("ReduceMean", (1, 4, 5, 6), [], axes=axes)
        assert graph.topology == _captured("GlobalAveragePool", (1, 4, 5, 6), []).topology
    for attributes in ({"axes": [2]}, {"axes": [1, 2, 3]}, {"axes": [2, 3], "keepdims": 0}):
        assert _captured("ReduceMean", (1, 4, 5, 6), [], **attributes).operators[0].op_type == "ReduceMean"


def test_a_pooling_of_single_pixels_goes() -> None:
    for kind in ("MaxPool", "AveragePool"):
        graph = _captured(kind, (1, 4, 5, 6), [], kernel_shape=[1, 1])
        assert [op.op_type for op in graph.operators] == ["Identity"]
        graph = _captured(kind, (1, 4, 5, 6), [], kernel_shape=[1, 1], strides=[2, 2])
        assert [op.op_type for op in graph.operators] == [kind]


def test_a_torch_resnet_is_the_zoo_s() -> None:
    """The digest of a module that was exported is that of the same network written by the zoo."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from distredge.model import zoo
    from distredge.model.capture import from_torch

    class Block(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.main = torch.nn.Sequential(
                torch.nn.Conv2d(inputs, outputs, 3, stride, 1), torch.nn.ReLU(),
                torch.nn.Conv2d(outputs, outputs, 3, 1, 1),
            )  # fmt: skip
            self.side = torch.nn.Identity()
            if stride > 1:
                self.side = torch.nn.Conv2d(inputs, outputs, 1, stride)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.main(x) + self.side(x))

    widths, blocks = (64, 64, 128, 256, 512), []
    for stage in range(1, 5):
        stride = 2 if stage > 1 else 1
        blocks += [Block(widths[stage - 1], widths[stage], stride), Block(widths[stage], widths[stage], 1)]
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 7, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2, 1), *blocks,
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(512, 1000),
    )  # fmt: skip
    captured = from_torch(module, torch.zeros(1, 3, 64, 64))
    written = zoo.build("resnet18", (1, 3, 64, 64))
    assert captured.topology == written.topology
    assert captured.signatures == written.signatures
    assert captured.weights_digest != written.weights_digest
