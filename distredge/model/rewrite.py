"""Exact rewriting of operators into forms that split better; a graph does it to every model that it wraps.

- Split along a spatial axis becomes slices: its outputs hold different rows of one input. What was joined there before
  and treated alike is not joined (`model.joined`).
- Pooling whose window is the whole map becomes global pooling, and one whose window is all of one axis a reduction;
  both split by partial results.
- Normalisation over rows becomes means, differences and squares (`model.normalisations`).
- A reduction over spatial axes that were flattened into one before becomes one over the axes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from distredge.model.joined import taken_apart
from distredge.model.normalisations import normalised
from distredge.model.operators.reductions import PARTIAL_SUMS
from distredge.model.operators.reshape import axis_groups
from distredge.model.rewriting import Array, Rewriting, attributes_of


def rewritten(proto: onnx.ModelProto, constants: Mapping[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Rewrites a model.

    Args:
        proto: the model, with static shapes.
        constants: array by initializer name; shapes (d0, d1, ...) and dtypes as the model declares them.

    Returns:
        The model itself when there is nothing to rewrite, else a copy, whose initializers are its constants if it has
        any; and all constants, arrays (d0, d1, ...), those left out that nobody reads any more.
    """
    work = Rewriting(proto, constants)
    changes: dict[int, list[onnx.NodeProto]] = {}
    for index, node in enumerate(proto.graph.node):
        rule = _RULES.get(node.op_type, normalised)
        made = rule(work, node)
        if made:
            changes[index] = made
    if not changes and not work.rerouted:
        return proto, dict(constants)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.node[:]
    for index, node in enumerate(proto.graph.node):
        copy.graph.node.extend(work.reroute(made) for made in changes.get(index, [node]))
    copy.graph.value_info.extend(work.values)
    _drop_unread(copy)
    read = {name for node in copy.graph.node for name in node.input}
    kept = {name: value for name, value in {**constants, **work.constants}.items() if name in read}
    if proto.graph.initializer:
        old = {tensor.name: tensor for tensor in proto.graph.initializer}
        del copy.graph.initializer[:]
        copy.graph.initializer.extend(
            old[name] if name in old else numpy_helper.from_array(value, name) for name, value in kept.items()
        )
    return copy, kept


def _drop_unread(proto: onnx.ModelProto) -> None:
    """Drops nodes whose results nobody reads any more."""
    wanted = {value.name for value in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(kept))


def _slices(work: Rewriting, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """What makes the outputs of a Split along axis 2 or later; none for a split of channels."""
    rank = len(work.shapes.get(node.input[0], ()))
    axis = attributes_of(node).get("axis", 0)
    if rank < 3 or axis % rank < 2:
        return []
    start, parts = 0, []
    for output in node.output:
        stop = start + work.shapes[output][axis]
        parts.append((output, start, stop))
        start = stop
    made = taken_apart(work, node.input[0], axis % rank, parts)
    if made:
        return made
    for output, start, stop in parts:
        names = [
            work.constant(f"{output}@{hint}", np.array([value]))
            for hint, value in (("starts", start), ("ends", stop), ("axes", axis % rank))
        ]
        made.append(helper.make_node("Slice", [node.input[0], *names], [output], name=f"{node.name}@{output}"))
    return made


def _part(work: Rewriting, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """What makes a slice along one spatial axis of what was joined there."""
    source = node.input[0]
    values = [work.given.get(name) if name else None for name in node.input[1:]]
    if source not in work.shapes or len(values) < 3 or any(v is None or v.size != 1 for v in values):
        return []
    start, stop, axis, *step = (int(v.reshape(-1)[0]) for v in values if v is not None)
    rank = len(work.shapes[source])
    axis %= rank
    size = work.shapes[source][axis]
    if axis < 2 or step not in ([], [1]):
        return []
    start, stop = (min(max(x + size if x < 0 else x, 0), size) for x in (start, stop))
    return taken_apart(work, source, axis, [(node.output[0], start, stop)])


def _global_pool(work: Rewriting, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The global pooling that a pooling over the whole map is, or the reduction that one over all of an axis is."""
    if len(node.output) != 1:
        return []
    source, made = work.shapes.get(node.input[0], ()), work.shapes.get(node.output[0], ())
    attributes = attributes_of(node)
    kernel, rank = attributes["kernel_shape"], len(source) - 2
    pads = attributes.get("pads") or [0] * 2 * rank
    # Padding that counts in the divisor makes the mean another one.
    plain = not attributes.get("count_include_pad", 0) or not (any(pads) or attributes.get("ceil_mode", 0))
    resolved = attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    if rank < 1 or not plain or not resolved or set(attributes.get("dilations", ())) - {1}:
        return []
    strides = attributes.get("strides") or [1] * rank
    over = [m == 1 and k >= s + p for m, k, s, p in zip(made[2:], kernel, source[2:], pads, strict=False)]
    if all(over):
        return [helper.make_node(f"Global{node.op_type}", node.input, node.output, name=node.name)]
    still = [kernel[i] == strides[i] == 1 and not pads[i] and not pads[i + rank] for i in range(rank) if not over[i]]
    if not any(over) or not all(still):
        return []
    how = "ReduceMean" if node.op_type == "AveragePool" else "ReduceMax"
    return [work.reduction(how, node.input[0], [i + 2 for i in range(rank) if over[i]], node.output[0], node.name)]


def _reduction_before_flattening(work: Rewriting, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The same reduction over the axes that a Reshape had made one of, with the result's shape as it was."""
    maker = work.makers.get(node.input[0])
    if maker is None or maker.op_type not in ("Reshape", "Flatten") or maker.input[0] not in work.shapes:
        return []
    before, flat = work.shapes[maker.input[0]], work.shapes[node.input[0]]
    pool = node.op_type.startswith("Global")
    axes = tuple(range(2, len(flat))) if pool else work.reduced_axes(node)
    if axes is None or len(before) < 3:
        return []
    found: list[int] = []
    merged = False
    for ins, outs in axis_groups(before, flat):
        mine = {d for d in outs if flat[d] > 1} & set(axes)
        if mine and mine != {d for d in outs if flat[d] > 1}:
            return []
        if mine:
            found += [d for d in ins if before[d] > 1]
            merged = merged or len([d for d in ins if before[d] > 1]) > 1
    if not merged:
        return []
    output = node.output[0]
    shape = tuple(1 if d in found else size for d, size in enumerate(before))
    reduced = work.tensor(f"{output}@reduced", shape, work.types[output])
    target = work.constant(f"{output}@shape", np.array(work.shapes[output], dtype=np.int64))
    return [
        work.reduction(_REDUCTIONS.get(node.op_type, node.op_type), maker.input[0], found, reduced, node.name),
        helper.make_node("Reshape", [reduced, target], [output], name=f"{node.name}@shaped"),
    ]


_REDUCTIONS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}

_RULES = {
    "Split": _slices,
    "Slice": _part,
    "AveragePool": _global_pool,
    "MaxPool": _global_pool,
    **dict.fromkeys(PARTIAL_SUMS, _reduction_before_flattening),
}
