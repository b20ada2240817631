"""Normalisation over rows, spelt as means, differences and squares: those split by partial results.

Instance normalisation (InstanceNormalization-6), group normalisation (GroupNormalization-18 with a scale per group, -21
with one per channel, or as exporters write it: an instance normalisation between two reshapes), layer normalisation
over several axes (LayerNormalization-17) and MeanVarianceNormalization-13. The variance is that of the differences, not
of squares less the squared mean, which would cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from distredge.model.rewriting import Array, Rewriting, attributes_of


class _Normalisation(NamedTuple):
    """One normalisation of a tensor.

    Attributes:
        source: what is normalised.
        shape: in which shape; that of the source, or one that sets groups of channels apart.
        axes: of that shape.
        epsilon: added to the variance.
        scale, bias: shapes that broadcast to it; None without.
    """

    source: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    epsilon: float
    scale: Array | None = None
    bias: Array | None = None


def normalised(work: Rewriting, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Nodes that do what a normalisation over several axes does; none for any other node."""
    rule = NORMALISATIONS.get(node.op_type)
    names = [name for name in node.output if name]
    if rule is None or len(names) != 1 or node.input[0] not in work.shapes or len(work.shapes[node.input[0]]) < 3:
        return []
    if work.types[node.input[0]] not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        return []
    if any(name and name not in work.given for name in node.input[1:]):
        return []
    found = rule(work, node)
    return [] if found is None else _spelt(work, node, found)


def _instance(work: Rewriting, node: onnx.NodeProto) -> _Normalisation | None:
    shape = work.shapes[node.input[0]]
    scale, bias = (work.given[name].reshape(-1, *[1] * (len(shape) - 2)) for name in node.input[1:3])
    epsilon = float(attributes_of(node).get("epsilon", 1e-5))
    maker = work.makers.get(node.input[0])
    if maker is not None and maker.op_type == "Reshape" and maker.input[0] in work.shapes and len(shape) == 3:
        before = work.shapes[maker.input[0]]
        if len(before) >= 4 and before[0] == shape[0] and before[1] % shape[1] == 0:
            apart = (before[0], shape[1], before[1] // shape[1], *before[2:])
            wide = [1] * (len(apart) - 2)
            scale, bias = (value.reshape(-1, *wide) for value in (scale, bias))
            return _Normalisation(maker.input[0], apart, tuple(range(2, len(apart))), epsilon, scale, bias)
    return _Normalisation(node.input[0], shape, tuple(range(2, len(shape))), epsilon, scale, bias)


def _group(work: Rewriting, node: onnx.NodeProto) -> _Normalisation | None:
    shape, attributes = work.shapes[node.input[0]], attributes_of(node)
    groups = int(attributes["num_groups"])
    apart = (shape[0], groups, shape[1] // groups, *shape[2:])
    wide = [1] * (len(shape) - 2)
    per_channel = work.given[node.input[1]].size == shape[1] and work.opset >= 21
    form = (groups, shape[1] // groups, *wide) if per_channel else (groups, 1, *wide)
    scale, bias = (work.given[name].reshape(form) for name in node.input[1:3])
    epsilon = float(attributes.get("epsilon", 1e-5))
    return _Normalisation(node.input[0], apart, tuple(range(2, len(apart))), epsilon, scale, bias)


def _layer(work: Rewriting, node: onnx.NodeProto) -> _Normalisation | None:
    shape, attributes = work.shapes[node.input[0]], attributes_of(node)
    axes = tuple(range(int(attributes.get("axis", -1)) % len(shape), len(shape)))
    if sum(shape[axis] > 1 for axis in axes) < 2:
        # Along one axis: its own rule keeps it as it is.
        return None
    scale = work.given[node.input[1]]
    bias = work.given[node.input[2]] if len(node.input) > 2 and node.input[2] else None
    return _Normalisation(node.input[0], shape, axes, float(attributes.get("epsilon", 1e-5)), scale, bias)


def _mean_variance(work: Rewriting, node: onnx.NodeProto) -> _Normalisation | None:
    shape = work.shapes[node.input[0]]
    axes = tuple(sorted(int(a) % len(shape) for a in attributes_of(node).get("axes", (0, 2, 3))))
    return _Normalisation(node.input[0], shape, axes, 1e-9)


NORMALISATIONS = {
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "LayerNormalization": _layer,
    "MeanVarianceNormalization": _mean_variance,
}


class _Chain:
    """Appends nodes whose names derive from one output."""

    def __init__(self, work: Rewriting, node: onnx.NodeProto) -> None:
        self.work = work
        self.output = node.output[0]
        self.name = node.name or node.output[0]
        self.kind = work.types[node.input[0]]
        self.nodes: list[onnx.NodeProto] = []

    def node(self, op_type: str, hint: str, inputs: Sequence[str], shape: Sequence[int]) -> str:
        made = self.work.tensor(f"{self.output}@{hint}", shape, self.kind)
        self.nodes.append(helper.make_node(op_type, list(inputs), [made], name=f"{self.name}@{hint}"))
        return made

    def mean(self, hint: str, source: str, axes: Sequence[int]) -> str:
        shape = [1 if axis in axes else size for axis, size in enumerate(self.work.shapes[source])]
        made = self.work.tensor(f"{self.output}@{hint}", shape, self.kind)
        self.nodes.append(self.work.reduction("ReduceMean", source, axes, made, f"{self.name}@{hint}"))
        return made

    def number(self, hint: str, value: Array) -> str:
        dtype = helper.tensor_dtype_to_np_dtype(self.kind)
        return self.work.constant(f"{self.output}@{hint}", np.asarray(value, dtype=dtype))


def _spelt(work: Rewriting, node: onnx.NodeProto, what: _Normalisation) -> list[onnx.NodeProto]:
    chain = _Chain(work, node)
    source, shape = what.source, what.shape
    if work.shapes[source] != shape:
        apart = work.constant(f"{chain.output}@apart", np.array(shape, dtype=np.int64))
        source = chain.node("Reshape", "groups", [source, apart], shape)
    difference = chain.node("Sub", "difference", [source, chain.mean("mean", source, what.axes)], shape)
    variance = chain.mean("variance", chain.node("Mul", "square", [difference, difference], shape), what.axes)
    narrow = work.shapes[variance]
    safe = chain.node("Add", "safe", [variance, chain.number("epsilon", np.array(what.epsilon))], narrow)
    found = chain.node("Div", "normal", [difference, chain.node("Sqrt", "deviation", [safe], narrow)], shape)
    if what.scale is not None and (what.scale != 1).any():
        found = chain.node("Mul", "scaled", [found, chain.number("scale", what.scale)], shape)
    if what.bias is not None and what.bias.any():
        found = chain.node("Add", "shifted", [found, chain.number("bias", what.bias)], shape)
    _reroute_reshapes(work, node, found)
    target = work.constant(f"{chain.output}@shape", np.array(work.shapes[chain.output], dtype=np.int64))
    if work.shapes[chain.output] == shape:
        chain.nodes[-1].output[0] = chain.output
    else:
        chain.nodes.append(helper.make_node("Reshape", [found, target], [chain.output], name=chain.name))
    return chain.nodes


def _reroute_reshapes(work: Rewriting, node: onnx.NodeProto, found: str) -> None:
    """Lets the reshapes of a normalised tensor read it in the shape in which rows are apart."""
    output = node.output[0]
    if work.shapes[found] == work.shapes[output]:
        return
    for reader in work.readers.get(output, ()):
        if reader.op_type == "Reshape" and reader.input[0] == output:
            made = reader.output[0]
            target = work.constant(f"{made}@shape", np.array(work.shapes[made], dtype=np.int64))
            work.rerouted[made] = [found, target]
