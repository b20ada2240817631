"""The nodes of a CNN in topological order: tensors, operators and constants, and who makes and reads what.

All that the operator rules, the row axes and the cuts know of a model. `model.graph.Graph` stands above them: a node
list whose tensors have their axes, with the body and the cuts that follow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from distredge.errors import ModelError

T = TypeVar("T")

FUSED_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"})
"""Activations that ONNX Runtime's CPU provider computes inside the convolution before them."""


@dataclass(frozen=True)
class Tensor:
    """An activation: name, static shape, dtype, and which axes are rows and columns (None: it has none)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    row_axis: int | None
    col_axis: int | None

    @property
    def height(self) -> int:
        """Rows; 1 when it has no row axis."""
        return 1 if self.row_axis is None else self.shape[self.row_axis]

    @property
    def width(self) -> int:
        """Columns; 1 when it has no column axis."""
        return 1 if self.col_axis is None else self.shape[self.col_axis]

    @functools.cached_property
    def elements(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)

    @functools.cached_property
    def size_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.elements * np.dtype(self.dtype).itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, all columns."""
        return self.size_bytes // max(1, self.height)


@dataclass(frozen=True)
class Operator:
    """One node: its activations apart from its constants.

    Attributes:
        index: place in the topological order.
        name: unique name.
        op_type: ONNX operator type.
        inputs: all inputs of the node in order, constants and "" included.
        outputs: all outputs of the node.
        activations: indices into `inputs` that are activations.
        attributes: decoded attributes.
    """

    index: int
    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    activations: tuple[int, ...]
    attributes: Mapping[str, Any]

    @property
    def activation_names(self) -> tuple[str, ...]:
        """Names of the inputs that are activations, in order."""
        return tuple(self.inputs[i] for i in self.activations)


class NodeList:
    """The nodes of an ONNX model with static shapes.

    Args:
        proto: ONNX model with static shapes, nodes in topological order and inferred shapes for every tensor.
        name: name in strategies and reports.
        constants: array by initializer name; shapes (d0, d1, ...) and dtypes as the model declares them.

    Raises:
        ModelError: if a shape is missing or dynamic, or an output is a constant.
    """

    def __init__(self, proto: onnx.ModelProto, name: str, constants: Mapping[str, NDArray[Any]]) -> None:
        self.name = name
        self.skeleton = proto
        """Nodes and types; the weights are not necessarily in it."""
        self._made: dict[tuple[Callable[..., Any], tuple[Hashable, ...]], Any] = {}
        self.constants: dict[str, NDArray[Any]] = dict(constants)
        inputs = [v for v in proto.graph.input if v.name not in self.constants]
        self.input_names: tuple[str, ...] = tuple(v.name for v in inputs)
        self.output_names: tuple[str, ...] = tuple(v.name for v in proto.graph.output)
        self.tensors: dict[str, Tensor] = {}
        """Activations by name; without axes until `model.axes` has assigned them."""
        for value in [*inputs, *proto.graph.value_info, *proto.graph.output]:
            if value.name not in self.constants:
                self.tensors[value.name] = _tensor(value, name)
        self.operators: tuple[Operator, ...] = tuple(
            self._operator(index, node) for index, node in enumerate(proto.graph.node)
        )
        self.producer: dict[str, int] = {out: op.index for op in self.operators for out in op.outputs if out}
        self.consumers: dict[str, tuple[int, ...]] = {}
        for op in self.operators:
            for tensor in dict.fromkeys(op.activation_names):
                self.consumers[tensor] = (*self.consumers.get(tensor, ()), op.index)
        for tensor in self.output_names:
            if tensor not in self.tensors:
                raise ModelError(f"{name}: output '{tensor}' is a constant")

    def once(self, make: Callable[..., T], *about: Hashable) -> T:
        """Returns what `make(self, *about)` returns (not None), called when first asked for and never again."""
        key = make, about
        found: T | None = self._made.get(key)
        if found is None:
            found = self._made[key] = make(self, *about)
        return found

    def _operator(self, index: int, node: onnx.NodeProto) -> Operator:
        for tensor in [*node.input, *node.output]:
            if tensor and tensor not in self.constants and tensor not in self.tensors:
                raise ModelError(f"{self.name}: node '{node.name}' ({node.op_type}): no static shape for '{tensor}'")
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        activations = tuple(i for i, t in enumerate(node.input) if t and t not in self.constants)
        return Operator(
            index, node.name or f"{node.op_type}_{index}", node.op_type, tuple(node.input), tuple(node.output),
            activations, attributes,
        )  # fmt: skip

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each input, in the order of `input_names`."""
        return tuple(self.tensors[n].shape for n in self.input_names)

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each output, in the order of `output_names`."""
        return tuple(self.tensors[n].shape for n in self.output_names)

    @functools.cached_property
    def opset(self) -> int:
        """Version of the default operator set."""
        return int(next(o.version for o in self.skeleton.opset_import if o.domain in ("", "ai.onnx")))

    @functools.cached_property
    def fused_into(self) -> dict[int, int]:
        """Activation operator -> the convolution that computes it on the way (one consumer, same shape)."""
        fused: dict[int, int] = {}
        for op in self.operators:
            if op.op_type not in FUSED_ACTIVATIONS or len(op.activations) != 1:
                continue
            source = op.activation_names[0]
            maker = self.producer.get(source)
            if maker is None or self.operators[maker].op_type != "Conv":
                continue
            if len(self.consumers[source]) == 1 and source not in self.output_names:
                fused[op.index] = maker
        return fused


def _tensor(value: onnx.ValueInfoProto, model: str) -> Tensor:
    shape = []
    for dim in value.type.tensor_type.shape.dim:
        if not dim.HasField("dim_value") or dim.dim_value <= 0:
            found = dim.dim_param or "?"
            raise ModelError(
                f"{model}: tensor '{value.name}' has the dynamic dimension '{found}'; give a size with --input-shape"
            )
        shape.append(dim.dim_value)
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    return Tensor(value.name, tuple(shape), dtype, None, None)
