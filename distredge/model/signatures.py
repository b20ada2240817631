"""How a model is known again in files: the digest of its topology, and the profile key of each of its operators."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from distredge.model.nodes import NodeList, Operator


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


def topology_of(nodes: NodeList) -> str:
    """SHA-256 over operators, attributes, shapes and dtypes in topological order; no names, no weights."""
    number = {name: i for i, name in enumerate(nodes.input_names)}
    digest = hashlib.sha256()
    for name in nodes.input_names:
        digest.update(f"input {nodes.tensors[name].shape} {nodes.tensors[name].dtype}\n".encode())
    for op in nodes.operators:
        parts = []
        for tensor in op.inputs:
            if tensor in nodes.constants:
                constant = nodes.constants[tensor]
                value = "" if constant.dtype.kind == "f" and constant.size > 1 else constant.tolist()
                parts.append(f"c{constant.shape}{constant.dtype}{value}")
            else:
                parts.append(f"t{number.get(tensor, '-')}")
        attributes = sorted((k, _plain(v)) for k, v in op.attributes.items())
        outputs = []
        for tensor in op.outputs:
            if tensor:
                number[tensor] = len(number)
                outputs.append(f"{nodes.tensors[tensor].shape}{nodes.tensors[tensor].dtype}")
        digest.update(f"{op.op_type}{parts}{attributes}{outputs}\n".encode())
    digest.update(f"out {[number[t] for t in nodes.output_names]}".encode())
    return f"sha256:{digest.hexdigest()}"


def macs_of(nodes: NodeList, op: Operator) -> int:
    """Multiply-adds of a whole operator (convolutions and matrix products; 0 for the rest)."""
    out = nodes.tensors[op.outputs[0]].shape
    if op.op_type in ("Conv", "ConvTranspose"):
        weight = nodes.constants.get(op.inputs[1])
        if weight is None:
            return 0
        positions = out if op.op_type == "Conv" else nodes.tensors[op.inputs[0]].shape
        return int(np.prod(positions[2:], dtype=np.int64)) * int(weight.size) * out[0]
    if op.op_type in ("Gemm", "MatMul"):
        first = nodes.tensors[op.inputs[0]].shape if op.inputs[0] in nodes.tensors else ()
        if not first:
            return 0
        inner = first[0] if op.op_type == "Gemm" and op.attributes.get("transA", 0) else first[-1]
        return int(np.prod(out, dtype=np.int64)) * int(inner)
    return 0


def weight_bytes_of(nodes: NodeList, op: Operator) -> int:
    """Bytes of constants that an operator reads."""
    return sum(nodes.constants[t].nbytes for t in set(op.inputs) if t in nodes.constants)


def signatures_of(nodes: NodeList) -> tuple[Signature | None, ...]:
    """Profile key of each operator; None for one that costs nothing of its own (fused into another)."""
    activation = {conv: nodes.operators[act].op_type for act, conv in nodes.fused_into.items()}
    return tuple(
        None if op.index in nodes.fused_into else _signature(nodes, op, activation.get(op.index, ""))
        for op in nodes.operators
    )


def _signature(nodes: NodeList, op: Operator, activation: str) -> Signature:
    out = nodes.tensors[op.outputs[0]]
    reads = [nodes.tensors[t] for t in op.activation_names]
    first = reads[0].shape if reads else ()
    spatial = {"kernel_shape", "strides", "dilations", "group"}
    rest = sorted((k, _plain(v)) for k, v in op.attributes.items() if k not in spatial)
    others = [(t.shape, t.dtype) for t in reads[1:]]
    if len(reads) > 1:
        # Engines compute a merge of two convolutions inside one of them; a shortcut must be cut to size first.
        makers = [nodes.producer.get(name) for name in op.activation_names]
        made = [m is not None and nodes.operators[nodes.fused_into.get(m, m)].op_type == "Conv" for m in makers]
        others.append((tuple(sorted(made)), "merged"))
    constants = [nodes.constants[t].shape for t in op.inputs if t in nodes.constants]
    detail = hashlib.sha256(f"{rest}{others}{constants}{out.dtype}".encode()).hexdigest()[:8]
    kernel = tuple(op.attributes.get("kernel_shape", ()))
    if not kernel and op.op_type in ("Conv", "ConvTranspose"):
        kernel = nodes.constants[op.inputs[1]].shape[2:]
    io_bytes = sum(t.size_bytes for t in reads) + sum(nodes.tensors[t].size_bytes for t in op.outputs if t)
    return Signature(
        op_type=f"{op.op_type}+{activation}" if activation else op.op_type,
        in_shape=first[1:],
        out_shape=out.shape[1:],
        kernel=kernel,
        strides=tuple(op.attributes.get("strides", ())),
        dilations=tuple(op.attributes.get("dilations", ())),
        group=int(op.attributes.get("group", 1)),
        rows=out.height,
        macs=macs_of(nodes, op),
        weight_bytes=weight_bytes_of(nodes, op),
        io_bytes=io_bytes,
        detail=detail,
    )


def _plain(value: Any) -> str:
    if isinstance(value, onnx.TensorProto):
        return str(numpy_helper.to_array(value).tolist())
    if isinstance(value, float):
        return repr(float(np.float32(value)))
    return repr(value)
