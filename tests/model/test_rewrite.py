"""Normalisations over rows, spelt so that they split: equal to the engine's own, and nothing left to the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from distredge.experiments.common.exact import TOLERANCE, Comparison
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.runtime.in_process import run_in_process


def check(n: Any, path: Path, *outputs: str) -> Graph:
    """Compares random strategies with ONNX Runtime on the model as it was written."""
    import onnxruntime as ort

    values = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs]
    body = onnx.helper.make_graph(n.nodes, "net", n.inputs, values, n.constants)
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", n.opset)], ir_version=8)
    onnx.save(model, path / "net.onnx")
    graph = load_model(str(path / "net.onnx"))
    assert not graph.body.head, [v.reason for v in graph.body.verdicts]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    comparison = Comparison(graph)
    x = np.random.default_rng(0).standard_normal(graph.input_shapes[0]).astype(np.float32) * 3 + 7
    expected = session.run(list(outputs), {"x": x})
    for strategy, error in comparison.random_errors(10, seed=0):
        assert error <= TOLERANCE, strategy
        found = run_in_process(graph, strategy, {"x": x})
        for name, array in zip(outputs, expected, strict=True):
            assert np.abs(found[name] - array).max() <= TOLERANCE * np.abs(array).max()
    return graph


def block(n: Any, kind: str) -> str:
    """A convolution, a normalisation and a convolution."""
    x = n.conv("x", 6, 3, pads=[1] * 4)
    if kind == "instance":
        y = n.node("InstanceNormalization", [x, n.weight(6), n.weight(6)], epsilon=1e-3)
    elif kind == "group":
        size = 6 if n.opset >= 21 else 3
        y = n.node("GroupNormalization", [x, n.weight(size), n.weight(size)], num_groups=3)
    elif kind == "group as exporters write it":
        flat = n.node("Reshape", [x, n.constant([0, 3, -1], np.int64)])
        ones, zeros = n.constant(np.ones(3), np.float32), n.constant(np.zeros(3), np.float32)
        normal = n.node("InstanceNormalization", [flat, ones, zeros])
        back = n.node("Reshape", [normal, n.constant([1, 6, 11, 9], np.int64)])
        y = n.node("Add", [n.node("Mul", [back, n.weight(6, 1, 1)]), n.weight(6, 1, 1)])
    elif kind == "layer":
        y = n.node("LayerNormalization", [x, n.weight(6, 11, 9), n.weight(6, 11, 9)], axis=1)
    else:
        y = n.node("MeanVarianceNormalization", x, axes=[0, 2, 3])
    n.channels[y] = 6
    made: str = n.conv(n.node("Relu", y), 4, 3)
    return made


@pytest.mark.parametrize(
    ("kind", "opset"),
    [
        ("instance", 13), ("instance", 18), ("group", 21), ("group as exporters write it", 17), ("layer", 17),
        ("mean and variance", 13),
    ],
)  # fmt: skip
def test_normalisation_over_rows(net: Any, tmp_path: Path, kind: str, opset: int) -> None:
    n = net((1, 3, 11, 9), opset=opset)
    graph = check(n, tmp_path, block(n, kind))
    assert [op.op_type for op in graph.operators].count("ReduceMean") == 2
    # A scale of one and a bias of nothing cost nothing; constants that nobody reads are gone.
    read = {name for op in graph.operators for name in op.inputs}
    assert set(graph.constants) <= read


def test_normalisation_of_a_line(net: Any, tmp_path: Path) -> None:
    n = net((1, 2, 31))
    x = n.conv("x", 6, [5], pads=[2, 2])
    y = n.node("InstanceNormalization", [x, n.weight(6), n.weight(6)])
    n.channels[y] = 6
    check(n, tmp_path, n.conv(y, 3, [3]))


def test_normalisation_that_is_read_flat_too(net: Any) -> None:
    n = net((1, 3, 11, 9))
    flat = n.node("Reshape", [n.conv("x", 6, 3, pads=[1] * 4), n.constant([1, 3, 198], np.int64)])
    normal = n.node("InstanceNormalization", [flat, n.weight(3), n.weight(3)])
    back = n.node("Reshape", [normal, n.constant([1, 6, 11, 9], np.int64)])
    graph = Graph(n.model(back, normal), "net")
    assert "ReduceMean" in [op.op_type for op in graph.operators]
    for _, error in Comparison(graph).random_errors(10, seed=0):
        assert error <= TOLERANCE


def test_normalisation_over_one_axis_stays(net: Any) -> None:
    n = net((1, 3, 11, 9))
    model = n.model(n.node("LayerNormalization", [n.conv("x", 6), n.weight(7), n.weight(7)], axis=-1))
    graph = Graph(model, "net")
    assert [op.op_type for op in graph.operators] == ["Conv", "LayerNormalization"]
    assert graph.skeleton is model


def test_the_whole_model_is_still_valid(net: Any) -> None:
    n = net((1, 3, 11, 9))
    graph = Graph(n.model(block(n, "group as exporters write it")), "net")
    onnx.checker.check_model(graph.proto)
