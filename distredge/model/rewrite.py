"""Exact rewriting of operators into forms that split better; a graph does it to every model that it wraps.

- Split along a spatial axis becomes slices: its outputs hold different rows of one input.
- Pooling whose window is the whole map becomes global pooling, which partial results can split.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Shapes = Mapping[str, tuple[int, ...]]


def rewritten(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, NDArray[np.int64]]]:
    """Rewrites a model.

    Returns:
        The model itself when there is nothing to rewrite, else a copy; and by name the constants that are new, int64
        arrays (1,), which are among its initializers if it has any.
    """
    shapes = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]
    }
    changes: dict[int, list[onnx.NodeProto]] = {}
    constants: dict[str, NDArray[np.int64]] = {}
    for index, node in enumerate(proto.graph.node):
        made = _slices(node, shapes, constants) if node.op_type == "Split" else _global_pool(node, shapes)
        if made:
            changes[index] = made
    if not changes:
        return proto, {}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.node[:]
    for index, node in enumerate(proto.graph.node):
        copy.graph.node.extend(changes.get(index, [node]))
    if proto.graph.initializer:
        copy.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return copy, constants


def _slices(node: onnx.NodeProto, shapes: Shapes, constants: dict[str, NDArray[np.int64]]) -> list[onnx.NodeProto]:
    """Slices that make the outputs of a Split along axis 2 or later; none for a split of channels."""
    rank = len(shapes.get(node.input[0], ()))
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if rank < 3 or axis % rank < 2:
        return []
    start, made = 0, []
    for output in node.output:
        stop = start + shapes[output][axis]
        names = [f"{output}@{hint}" for hint in ("starts", "ends", "axes")]
        constants.update(zip(names, (np.array([value]) for value in (start, stop, axis % rank)), strict=True))
        made.append(helper.make_node("Slice", [node.input[0], *names], [output], name=f"{node.name}@{output}"))
        start = stop
    return made


def _global_pool(node: onnx.NodeProto, shapes: Shapes) -> list[onnx.NodeProto]:
    """The global pooling that a pooling over the whole map is."""
    if node.op_type not in ("AveragePool", "MaxPool") or len(node.output) != 1:
        return []
    source, made = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kernel, rank = attributes["kernel_shape"], len(source) - 2
    pads = attributes.get("pads") or [0] * 2 * rank
    covers = set(made[2:]) == {1} and all(k >= s + p for k, s, p in zip(kernel, source[2:], pads, strict=False))
    # Padding that counts in the divisor makes the mean another one.
    plain = not attributes.get("count_include_pad", 0) or not (any(pads) or attributes.get("ceil_mode", 0))
    resolved = attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    if rank < 1 or not covers or not plain or not resolved or set(attributes.get("dilations", ())) - {1}:
        return []
    return [helper.make_node(f"Global{node.op_type}", node.input, node.output, name=node.name)]
