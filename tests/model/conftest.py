"""Small ONNX models for the tests of the model package, written node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from distredge.model.graph import Graph

_KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}


class Net:
    """Builds a model; every method appends a node and returns the name of its output.

    Args:
        shape: of the input `x`.
        seed: of the weights.
        opset: of the model.
        dtype: of the input.
    """

    def __init__(self, shape: tuple[int, ...], seed: int = 0, opset: int = 17, dtype: str = "float32") -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", _KINDS[dtype], shape)]
        self.channels = {"x": shape[1] if len(shape) > 1 else 1}

    def constant(self, value: Any, dtype: Any = None) -> str:
        """A new constant."""
        name = f"c{len(self.constants)}"
        array: NDArray[Any] = np.asarray(value, dtype=dtype)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        """A He-normal constant."""
        fan = max(1, int(np.prod(shape[1:])))
        return self.constant(self.rng.standard_normal(shape) * np.sqrt(2 / fan), np.float32)

    def node(self, op_type: str, inputs: str | list[str], outputs: int = 1, **attributes: Any) -> Any:
        """Any node."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        reads = [inputs] if isinstance(inputs, str) else inputs
        self.nodes.append(helper.make_node(op_type, reads, names, name=f"n{len(self.nodes)}", **attributes))
        for name in names:
            self.channels[name] = self.channels.get(reads[0], 1)
        return names[0] if outputs == 1 else names

    def conv(self, x: str, channels: int, kernel: Any = 3, group: int = 1, **attributes: Any) -> str:
        """A convolution with bias."""
        size = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
        weights = [self.weight(channels, self.channels[x] // group, *size), self.weight(channels)]
        made: str = self.node("Conv", [x, *weights], kernel_shape=size, group=group, **attributes)
        self.channels[made] = channels
        return made

    def squeeze_excite(self, x: str, fully_connected: bool) -> str:
        """Channel weights from a global average, by 1x1 convolutions or by matrix products."""
        channels = self.channels[x]
        mean = self.node("GlobalAveragePool", x)
        if fully_connected:
            flat = self.node("Flatten", mean)
            small = self.node("Relu", self.node("Gemm", [flat, self.weight(4, channels)], transB=1))
            large = self.node("Sigmoid", self.node("Gemm", [small, self.weight(channels, 4)], transB=1))
            factor = self.node("Reshape", [large, self.constant([1, channels, 1, 1], np.int64)])
        else:
            factor = self.node("Sigmoid", self.conv(self.node("Relu", self.conv(mean, 4, 1)), channels, 1))
        made: str = self.node("Mul", [x, factor])
        self.channels[made] = channels
        return made

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The typed model; shapes of the outputs are inferred."""
        values = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, values, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model)
        return model

    def graph(self, *outputs: str) -> Graph:
        """The model as a graph."""
        return Graph(self.model(*outputs), "net")


@pytest.fixture(scope="session")
def net() -> type[Net]:
    """The builder of small models."""
    return Net
