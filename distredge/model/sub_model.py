"""One sub-model while it is written: its nodes, its constants, and its inputs and outputs.

What a segment is and what both ways of writing one need: `model.segments` writes those of fixed shapes,
`model.dynamic_segments` those whose row axes are dynamic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from distredge.errors import StrategyError
from distredge.model import AS_INPUT, constant_file
from distredge.model.graph import Graph
from distredge.model.nodes import Operator
from distredge.model.rows import Region

INLINE_BYTES = 1024
"""Constants up to this size stay inside the sub-model: shapes, axes, limits, scalars."""

_FED_BYTES = 1 << 20
_FED_ROWS = 8
"""Matrices of at least that size are fed, to products of at most that many rows: more rows gain from packing."""


@dataclass(frozen=True)
class Port:
    """An input or output of a segment.

    Attributes:
        name: name of the value in the sub-model.
        tensor: tensor of the whole model, or ``NAME#partial``.
        region: rows (and columns) of the whole tensor that the buffer holds; with dynamic rows it may reach beyond the
            tensor.
        shape: shape of the buffer.
        dtype: NumPy dtype name of the buffer.
    """

    name: str
    tensor: str
    region: Region
    shape: tuple[int, ...]
    dtype: str


class RowMask(NamedTuple):
    """An input of a segment that says which rows of a buffer count: ones there, zeros elsewhere, float32.

    Attributes:
        name: name of the value in the sub-model.
        shape: shape of the buffer, 1 on every axis but that of the rows.
        start, stop: the rows of it that count.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


class ShapeRange(NamedTuple):
    """Which shapes a value of a segment with dynamic rows may have.

    Attributes:
        least, usual, most: for one row of the coarsest tensor that the volume ends with, for half of its rows, for all.
    """

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True)
class Segment:
    """What a device runs in one stage.

    Attributes:
        stage: index of the stage in the layout.
        model: serialised ONNX model without its large constants.
        weights: name of each missing constant -> its content hash; an initializer, or with AS_INPUT at the end of its
            name an input (which is not among `inputs`).
        inputs, outputs: buffers that it reads and makes.
        after: earlier segment (its stage) that reads the same inputs and must be done first; -1 for none.
        masks: with dynamic rows, inputs that say which rows lie inside the picture.
        ranges: with dynamic rows, input of the sub-model (and what is cast of pixels) -> shapes that it may have.
    """

    stage: int
    model: bytes
    weights: Mapping[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    after: int = -1
    masks: tuple[RowMask, ...] = ()
    ranges: Mapping[str, ShapeRange] = field(default_factory=dict)


class Value(NamedTuple):
    """An input or output of a sub-model as it declares it; a size that is a text is a dynamic one of that name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class SubModel:
    """Collects the nodes and constants of one sub-model (part of `operators.Emitter`)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.weights: dict[str, str] = {}
        self.fed: dict[str, str] = {}
        self._count = 0

    def fresh(self, hint: str) -> str:
        """A name that is not in use."""
        self._count += 1
        while f"{hint}@{self._count}" in self.graph.tensors or f"{hint}@{self._count}" in self.graph.constants:
            self._count += 1
        return f"{hint}@{self._count}"

    def normalise(self, pixels: str, dtype: str, tensor: str) -> str:
        """Makes an input of the model from its pixels, as value `tensor`; returns the name of them as float32."""
        spec = self.graph.preprocess
        if spec is None:
            raise StrategyError(
                f"{self.graph.name}: input.dtype: '{dtype}' needs a model with a preprocessing spec; use 'float32'"
            )
        whole = self.graph.tensors[tensor]
        spatial = (0, whole.row_axis, whole.col_axis)
        channels = [1 if axis in spatial else size for axis, size in enumerate(whole.shape)]
        mean = self.constant("mean", np.array(spec.mean, dtype=np.float32).reshape(channels))
        scale = self.constant("scale", np.array(spec.scale, dtype=np.float32).reshape(channels))
        real, centred = self.fresh("pixels"), self.fresh(tensor)
        self.node("Cast", [pixels], real, to=TensorProto.FLOAT)
        self.node("Sub", [real, mean], centred)
        self.node("Mul", [centred, scale], tensor)
        return real

    def constant(self, hint: str, value: NDArray[Any]) -> str:
        """Brings a small new constant in: (d0, d1, ...), any dtype that ONNX has; returns its name."""
        name = self.fresh(hint)
        self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def slice(self, value: str, hint: str, cuts: Iterable[tuple[int, int, int]]) -> str:
        """Appends a Slice of a value; `cuts` are (axis, start, end); returns the name of what it makes."""
        axes, starts, ends = zip(*cuts, strict=True)
        name = self.fresh(hint)
        parameters = [
            self.constant(hint, np.array(values, dtype=np.int64))
            for hint, values in (("starts", starts), ("ends", ends), ("axes", axes))
        ]
        self.node("Slice", [value, *parameters], name)
        return name

    def _original(self, name: str) -> None:
        """Brings a constant of the whole model in, by value when small and by reference otherwise."""
        if name not in self.graph.constants or name in self.initializers:
            return
        value = self.graph.constants[name]
        if value.nbytes <= INLINE_BYTES:
            self.initializers[name] = numpy_helper.from_array(value, name)
            return
        missing = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape)
        missing.data_location = TensorProto.EXTERNAL
        for key, text in (("location", constant_file(name)), ("offset", "0"), ("length", str(value.nbytes))):
            missing.external_data.add(key=key, value=text)
        self.initializers[name] = missing
        self.weights[name] = self.graph.weight_hash(name)

    def _can_be_fed(self, op: Operator, position: int) -> bool:
        """Whether a constant is the large matrix of a product of few rows."""
        if op.op_type not in ("Gemm", "MatMul") or position != 1 or op.activations[:1] != (0,):
            return False
        value = self.graph.constants.get(op.inputs[1])
        rows = math.prod(self.graph.tensors[op.inputs[0]].shape[:-1])
        return value is not None and value.ndim == 2 and value.nbytes >= _FED_BYTES and rows <= _FED_ROWS

    def _fed(self, name: str) -> str:
        """Declares a constant as an input of the sub-model."""
        fed = name + AS_INPUT
        self.fed[fed] = name
        self.weights[fed] = self.graph.weight_hash(name)
        return fed

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """Appends a node with one output."""
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))

    def copy(self, op: Operator, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> None:
        """Appends `op` with other inputs and, where given, another output or attributes (None removes one)."""
        node = onnx.NodeProto()
        node.CopyFrom(self.graph.skeleton.graph.node[op.index])
        if output is not None:
            node.output[0] = node.name = output
        del node.input[:]
        for position, name in enumerate(inputs):
            node.input.append(self._fed(name) if self._can_be_fed(op, position) else name)
            if node.input[-1] == name:
                self._original(name)
        for key, value in attributes.items():
            for i, attribute in enumerate(node.attribute):
                if attribute.name == key:
                    del node.attribute[i]
                    break
            if value is not None:
                node.attribute.append(helper.make_attribute(key, value))
        self.nodes.append(node)

    def model(self, inputs: Iterable[Value], outputs: Iterable[Value]) -> onnx.ModelProto:
        """The finished sub-model."""

        def declared(value: Value) -> onnx.ValueInfoProto:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
            return helper.make_tensor_value_info(value.name, kind, value.shape)

        constants = self.graph.constants
        fed = [Value(name, constants[c].dtype.name, constants[c].shape) for name, c in self.fed.items()]
        body = helper.make_graph(
            self.nodes, "segment", [declared(v) for v in (*inputs, *fed)], [declared(v) for v in outputs],
            list(self.initializers.values()),
        )  # fmt: skip
        source = self.graph.skeleton
        return helper.make_model(body, ir_version=source.ir_version, opset_imports=list(source.opset_import))
