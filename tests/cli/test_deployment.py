"""What a run's outputs are compared with: the user's own file where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.cli._deployment import compared_with, difference, whole_model
from distredge.model.capture import from_onnx, load_model
from distredge.model.graph import Graph
from distredge.strategy import Strategy

Arrays = dict[str, np.ndarray]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose batch is written as dynamic."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draws = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        helper.make_node("Upsample", ["a", "s"], ["b"], mode="linear"),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    weights = {"w": draws.standard_normal((4, 3, 3, 3)).astype(np.float32), "s": np.array([1, 1, 2, 2], np.float32)}
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 8, 8))],
        [helper.make_empty_tensor_value_info("y")], [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8)
    onnx.save(model, tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


def _whole(graph: Graph) -> Arrays:
    height = graph.cuts[-1].height
    strategy = Strategy.make(graph, ["a"], [(len(graph.cuts) - 1, [0, height])], head="a")
    inputs = {"x": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    return whole_model(graph, strategy, inputs)


def test_a_file_is_compared_with_as_it_was_given(path: Path) -> None:
    graph = load_model(path)
    right = _whole(graph)
    assert compared_with(graph) == str(path)
    weight = next(name for name, array in graph.constants.items() if array.ndim == 4)
    graph.constants[weight] = 2 * graph.constants[weight]
    assert difference(right, _whole(graph)) == 0.0


def test_what_is_no_file_is_compared_with_as_it_was_captured(path: Path) -> None:
    graph = from_onnx(onnx.load(path))
    assert compared_with(graph) == "the captured graph"
    assert difference(_whole(load_model(path)), _whole(graph)) <= 1e-6
