"""Sub-models: valid ONNX, weights by content hash and only where they are needed, uint8 pixels in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from distredge.errors import StrategyError
from distredge.experiments.common.exact import TOLERANCE, relative_error, run_whole
from distredge.model import AS_INPUT
from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out
from distredge.model.operators import region_shape
from distredge.model.preprocess import Preprocess
from distredge.model.segments import build, weight_store
from distredge.runtime.in_process import run_in_process
from distredge.strategy import Strategy


@pytest.fixture(scope="module")
def graph(net: Any) -> Graph:
    """Three convolutions, the last two with the same weights, and a classifier."""
    n = net((1, 3, 16, 12))
    x = n.node("Relu", n.conv("x", 16, pads=[1] * 4))
    y = n.conv(x, 16, pads=[1] * 4)
    weights = n.nodes[-1].input[1:]
    z = n.node("Conv", [y, *weights], pads=[1] * 4)
    made: Graph = n.graph(n.node("Gemm", [n.node("Flatten", z), n.weight(3072, 5)]))
    return made


def test_sub_models_are_valid_and_old_enough(graph: Graph) -> None:
    strategy = Strategy.make(graph, ["a", "b"], [(0, [0, 8, 16]), (2, [0, 7, 16])], head="b")
    layout = lay_out(graph, strategy)
    for device in strategy.devices:
        program = build(graph, strategy, device)
        assert program == build(graph, strategy, device, layout)
        for segment in program.segments:
            model = onnx.load_from_string(segment.model)
            assert (model.ir_version, model.opset_import[0].version) == (8, graph.opset)
            for tensor in model.graph.initializer:
                if tensor.name in segment.weights:
                    del tensor.external_data[:]
                    tensor.data_location = onnx.TensorProto.DEFAULT
                    tensor.raw_data = np.ascontiguousarray(graph.constants[tensor.name]).tobytes()
            onnx.checker.check_model(model, full_check=True)
            for ports, values in ((segment.inputs, model.graph.input), (segment.outputs, model.graph.output)):
                assert [port.name for port in ports] == [value.name for value in values]
                for port, value in zip(ports, values, strict=True):
                    shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
                    assert shape == port.shape == region_shape(layout.tensors[port.tensor], port.region)


def test_a_device_holds_only_the_weights_of_its_parts(graph: Graph) -> None:
    strategy = Strategy.make(graph, ["a", "b"], [(0, [0, 16, 16]), (2, [0, 0, 16])], head="b")
    first, second = (build(graph, strategy, name) for name in "ab")
    hashes = {name: graph.weight_hash(name) for name in graph.constants if graph.constants[name].nbytes > 1024}
    assert len(hashes) == 3
    convs = {op.inputs[1] for op in graph.operators if op.op_type == "Conv"}
    assert first.weights == {hashes[graph.operators[0].inputs[1]]}
    assert second.weights == set(hashes.values()) - first.weights
    assert len(convs) == 2
    store = weight_store(graph, second)
    assert set(store) == second.weights
    for digest, array in store.items():
        assert any(array is graph.constants[name] for name, h in hashes.items() if h == digest)


def test_a_device_without_a_share_has_no_segment(graph: Graph) -> None:
    strategy = Strategy.make(graph, ["a", "b", "c"], [(2, [0, 16, 16, 16])], head="c")
    assert build(graph, strategy, "b").segments == ()
    assert [s.stage for s in build(graph, strategy, "c").segments] == [1]


def test_same_content_same_hash(graph: Graph) -> None:
    again = Graph(graph.proto, "again")
    names = [name for name, array in graph.constants.items() if array.nbytes > 1024]
    assert [graph.weight_hash(n) for n in names] == [again.weight_hash(n) for n in names]
    again.constants[names[0]] = again.constants[names[0]] + 1
    changed = Graph(again.proto, "changed", constants=again.constants)
    assert changed.weight_hash(names[0]) != graph.weight_hash(names[0])


def test_an_unknown_device(graph: Graph) -> None:
    strategy = Strategy.make(graph, ["a"], [(2, [0, 16])], head="a")
    with pytest.raises(StrategyError, match="devices: no 'b' among"):
        build(graph, strategy, "b")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("rows", [[0, 3, 9, 14], [0, 0, 1, 14]])
def test_uint8_pixels(net: Any, layout: str, rows: list[int]) -> None:
    shape = (1, 3, 14, 11) if layout == "NCHW" else (1, 14, 11, 3)
    n = net(shape)
    n.channels["x"] = 3
    image = "x" if layout == "NCHW" else n.node("Transpose", "x", perm=[0, 3, 1, 2])
    n.channels[image] = 3
    plain = n.graph(n.conv(n.conv(image, 4, 5, pads=[2] * 4), 4, pads=[1] * 4))
    spec = Preprocess((14, 11), None, (123.0, 116.0, 103.0), (0.017, 0.018, 0.019), layout=layout)  # type: ignore[arg-type]
    graph = Graph(plain.proto, "pixels", spec)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = run_whole(graph, {"x": spec.normalise(pixels)})
    last = graph.cuts[-1]
    strategy = Strategy.make(graph, ["a", "b", "c"], [(last.index, rows)], head="a", input_dtype="uint8")
    assert strategy.lossless
    sent = [t for t in lay_out(graph, strategy).transfers if t.tensor == "x"]
    assert {t.wire for t in sent} == {"uint8"}
    assert all(t.size_bytes == t.elements for t in sent)
    assert relative_error(expected, run_in_process(graph, strategy, {"x": pixels})) <= TOLERANCE
    floats = strategy.replace(input=replace(strategy.input, dtype="float32"))
    assert relative_error(expected, run_in_process(graph, floats, {"x": spec.normalise(pixels)})) <= TOLERANCE


def test_uint8_needs_preprocessing(graph: Graph) -> None:
    strategy = Strategy.make(graph, ["a"], [(2, [0, 16])], head="a", input_dtype="uint8")
    with pytest.raises(StrategyError, match=r"input\.dtype: 'uint8' needs a model with a preprocessing spec"):
        build(graph, strategy, "a")


def test_large_matrices_are_fed_and_not_copied(net: Any) -> None:
    """The classifier's matrix is an input of the head's sub-model, named so, and never in its bytes."""
    n = net((1, 3, 16, 12))
    flat = n.node("Flatten", n.conv("x", 32, pads=[1] * 4))
    graph = n.graph(n.node("Gemm", [flat, n.weight(64, 6144)], transB=1))
    matrix = graph.operators[-1].inputs[1]
    strategy = Strategy.make(graph, ["a", "b"], [(0, [0, 8, 16])], head="b")
    head = build(graph, strategy, "b").segments[-1]
    assert head.weights == {matrix + AS_INPUT: graph.weight_hash(matrix)}
    model = onnx.load_from_string(head.model)
    assert [value.name for value in model.graph.input] == [head.inputs[0].name, matrix + AS_INPUT]
    assert len(head.model) < 5000
    inputs = {"x": np.random.default_rng(0).standard_normal(graph.input_shapes[0], dtype=np.float32)}
    assert relative_error(run_whole(graph, inputs), run_in_process(graph, strategy, inputs)) <= TOLERANCE
