"""A CNN as Distredge sees it: operators in topological order, tensors with a row axis, and where it may be cut.

A `Graph` wraps a folded, shape-inferred ONNX model with static shapes (`model.capture` makes it so). Operators are
split into the *body*, whose operators are row-local or reductions that partial sums can split, and the *head*, which
runs whole on one device.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from distredge.errors import ModelError
from distredge.model.axes import assign_axes
from distredge.model.rewrite import rewritten

if TYPE_CHECKING:
    from distredge.model.cuts import Body, Cut
    from distredge.model.preprocess import Preprocess

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
class Signature:
    """What the latency of an operator depends on besides its number of output rows: the key of a compute profile.

    Attributes:
        op_type: ONNX operator, with the activation fused into it after a `+`.
        in_shape: first input without the batch axis.
        out_shape: first output without the batch axis.
        kernel, strides, dilations: spatial attributes, empty where the operator has none.
        group: convolution groups.
        rows: output rows of the whole operator (1 in the head when it has no row axis).
        macs: multiply-adds of the whole operator.
        weight_bytes: constants that it reads.
        io_bytes: activations read and written by the whole operator.
        detail: digest of the other attributes and input shapes.
    """

    op_type: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int
    rows: int
    macs: int
    weight_bytes: int
    io_bytes: int
    detail: str

    @functools.cached_property
    def key(self) -> str:
        """Text form used in profile files."""

        def cross(values: tuple[int, ...]) -> str:
            return "x".join(map(str, values)) or "-"

        return (
            f"{self.op_type} {cross(self.in_shape)}>{cross(self.out_shape)} k{cross(self.kernel)} "
            f"s{cross(self.strides)} d{cross(self.dilations)} g{self.group} {self.detail}"
        )


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


class Graph:
    """A CNN ready to be split.

    Args:
        proto: ONNX model with static shapes, constants as initializers, nodes in topological order and inferred
            shapes for every tensor.
        name: name in strategies and reports.
        preprocess: how an image becomes the input; None when unknown.
        constants: array by initializer name, when `proto` holds none: the weights of VGG-16 cost seconds to copy into
            a model and out again, and planning needs only their shapes.

    Raises:
        ModelError: if a shape is missing or dynamic.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        name: str,
        preprocess: Preprocess | None = None,
        constants: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.name = name
        proto, new = rewritten(proto)
        self.skeleton = proto
        """Nodes and types; the weights are not necessarily in it."""
        self.memo: dict[tuple[Any, ...], Any] = {}
        """What the modules beside this one compute once per graph."""
        self._weight_hashes: dict[str, str] = {}
        self.preprocess = preprocess
        self.weights_from: Literal["random", "trained", "file"] = "file"
        """Random (seeded) or trained, as the zoo says; "file": what the user gave, in a file or a module of theirs."""
        if constants is None:
            constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        self.constants: dict[str, NDArray[Any]] = {**constants, **new}
        inputs = [v for v in proto.graph.input if v.name not in self.constants]
        self.input_names: tuple[str, ...] = tuple(v.name for v in inputs)
        self.output_names: tuple[str, ...] = tuple(v.name for v in proto.graph.output)
        self.tensors: dict[str, Tensor] = {}
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
        assign_axes(self)
        for tensor in self.output_names:
            if tensor not in self.tensors:
                raise ModelError(f"{name}: output '{tensor}' is a constant")

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

    def __repr__(self) -> str:
        shapes = ", ".join("x".join(map(str, s)) for s in self.input_shapes)
        return f"Graph({self.name}, {len(self.operators)} operators, input {shapes})"

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each input, in the order of `input_names`."""
        return tuple(self.tensors[n].shape for n in self.input_names)

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each output, in the order of `output_names`."""
        return tuple(self.tensors[n].shape for n in self.output_names)

    @functools.cached_property
    def proto(self) -> onnx.ModelProto:
        """The whole model with its weights as initializers."""
        if len(self.skeleton.graph.initializer) == len(self.constants):
            return self.skeleton
        whole = onnx.ModelProto()
        whole.CopyFrom(self.skeleton)
        del whole.graph.initializer[:]
        whole.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in self.constants.items())
        return whole

    @functools.cached_property
    def opset(self) -> int:
        """Version of the default operator set."""
        return int(next(o.version for o in self.skeleton.opset_import if o.domain in ("", "ai.onnx")))

    @functools.cached_property
    def body(self) -> Body:
        """Which operators can be split, which form the head, and why (`model.cuts`)."""
        from distredge.model.cuts import find_body

        return find_body(self)

    @functools.cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Candidate partition locations in order; the last one ends the body."""
        from distredge.model.cuts import find_cuts

        return find_cuts(self)

    @functools.cached_property
    def macs(self) -> tuple[int, ...]:
        """Multiply-adds of each whole operator (convolutions and matrix products; 0 for the rest)."""
        return tuple(_macs(self, op) for op in self.operators)

    @functools.cached_property
    def weight_bytes(self) -> tuple[int, ...]:
        """Bytes of constants that each operator reads."""
        return tuple(
            sum(self.constants[t].nbytes for t in set(op.inputs) if t in self.constants) for op in self.operators
        )

    @functools.cached_property
    def parameters(self) -> int:
        """Number of constant elements of float type."""
        return sum(c.size for c in self.constants.values() if c.dtype.kind == "f")

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

    @functools.cached_property
    def signatures(self) -> tuple[Signature | None, ...]:
        """Profile key of each operator; None for one that costs nothing of its own (fused into another)."""
        activation = {conv: self.operators[act].op_type for act, conv in self.fused_into.items()}
        return tuple(
            None if op.index in self.fused_into else _signature(self, op, activation.get(op.index, ""))
            for op in self.operators
        )

    @functools.cached_property
    def topology(self) -> str:
        """SHA-256 over operators, attributes, shapes and dtypes in topological order; no names, no weights."""
        number = {name: i for i, name in enumerate(self.input_names)}
        digest = hashlib.sha256()
        for name in self.input_names:
            digest.update(f"input {self.tensors[name].shape} {self.tensors[name].dtype}\n".encode())
        for op in self.operators:
            parts = []
            for tensor in op.inputs:
                if tensor in self.constants:
                    constant = self.constants[tensor]
                    value = "" if constant.dtype.kind == "f" and constant.size > 1 else constant.tolist()
                    parts.append(f"c{constant.shape}{constant.dtype}{value}")
                else:
                    parts.append(f"t{number.get(tensor, '-')}")
            attributes = sorted((k, _plain(v)) for k, v in op.attributes.items())
            outputs = []
            for tensor in op.outputs:
                if tensor:
                    number[tensor] = len(number)
                    outputs.append(f"{self.tensors[tensor].shape}{self.tensors[tensor].dtype}")
            digest.update(f"{op.op_type}{parts}{attributes}{outputs}\n".encode())
        digest.update(f"out {[number[t] for t in self.output_names]}".encode())
        return f"sha256:{digest.hexdigest()}"

    @functools.cached_property
    def weights_digest(self) -> str:
        """SHA-256 over the constants in the order in which operators read them."""
        digest = hashlib.sha256()
        for op in self.operators:
            for tensor in op.inputs:
                if tensor in self.constants:
                    digest.update(np.ascontiguousarray(self.constants[tensor]).tobytes())
        return f"sha256:{digest.hexdigest()}"

    def weight(self, name: str) -> NDArray[Any]:
        """A constant in C order, as engines share it without a copy; one that is not is replaced once."""
        value = self.constants[name]
        if not value.flags.c_contiguous:
            value = self.constants[name] = np.ascontiguousarray(value)
        return value

    def weight_hash(self, name: str) -> str:
        """Content hash of a constant: SHA-256 over dtype, shape and bytes, computed once."""
        if name not in self._weight_hashes:
            value = self.weight(name)
            digest = hashlib.sha256(f"{value.dtype.str}{value.shape}".encode())
            digest.update(value.data)
            self._weight_hashes[name] = digest.hexdigest()
        return self._weight_hashes[name]

    def save(self, path: str | Path) -> None:
        """Writes the folded ONNX model."""
        onnx.save(self.proto, str(path))


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


def _plain(value: Any) -> str:
    if isinstance(value, onnx.TensorProto):
        return str(numpy_helper.to_array(value).tolist())
    if isinstance(value, float):
        return repr(float(np.float32(value)))
    return repr(value)


def _macs(graph: Graph, op: Operator) -> int:
    out = graph.tensors[op.outputs[0]].shape
    if op.op_type in ("Conv", "ConvTranspose"):
        weight = graph.constants.get(op.inputs[1])
        if weight is None:
            return 0
        positions = out if op.op_type == "Conv" else graph.tensors[op.inputs[0]].shape
        return int(np.prod(positions[2:], dtype=np.int64)) * int(weight.size) * out[0]
    if op.op_type in ("Gemm", "MatMul"):
        first = graph.tensors[op.inputs[0]].shape if op.inputs[0] in graph.tensors else ()
        if not first:
            return 0
        inner = first[0] if op.op_type == "Gemm" and op.attributes.get("transA", 0) else first[-1]
        return int(np.prod(out, dtype=np.int64)) * int(inner)
    return 0


def _signature(graph: Graph, op: Operator, activation: str) -> Signature:
    out = graph.tensors[op.outputs[0]]
    reads = [graph.tensors[t] for t in op.activation_names]
    first = reads[0].shape if reads else ()
    spatial = {"kernel_shape", "strides", "dilations", "group"}
    rest = sorted((k, _plain(v)) for k, v in op.attributes.items() if k not in spatial)
    others = [(t.shape, t.dtype) for t in reads[1:]]
    if len(reads) > 1:
        # Engines compute a merge of two convolutions inside one of them; a shortcut must be cut to size first.
        makers = [graph.producer.get(name) for name in op.activation_names]
        made = [m is not None and graph.operators[graph.fused_into.get(m, m)].op_type == "Conv" for m in makers]
        others.append((tuple(sorted(made)), "merged"))
    constants = [graph.constants[t].shape for t in op.inputs if t in graph.constants]
    detail = hashlib.sha256(f"{rest}{others}{constants}{out.dtype}".encode()).hexdigest()[:8]
    kernel = tuple(op.attributes.get("kernel_shape", ()))
    if not kernel and op.op_type in ("Conv", "ConvTranspose"):
        kernel = graph.constants[op.inputs[1]].shape[2:]
    io_bytes = sum(t.size_bytes for t in reads) + sum(graph.tensors[t].size_bytes for t in op.outputs if t)
    return Signature(
        op_type=f"{op.op_type}+{activation}" if activation else op.op_type,
        in_shape=first[1:],
        out_shape=out.shape[1:],
        kernel=kernel,
        strides=tuple(op.attributes.get("strides", ())),
        dilations=tuple(op.attributes.get("dilations", ())),
        group=int(op.attributes.get("group", 1)),
        rows=out.height,
        macs=graph.macs[op.index],
        weight_bytes=graph.weight_bytes[op.index],
        io_bytes=io_bytes,
        detail=detail,
    )
