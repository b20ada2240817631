"""What was joined along an axis, treated alike and taken apart at the same places is never joined.

Coordinate attention (Hou et al., CVPR 2021) concatenates the means along rows and along columns, convolves both by 1x1
and splits the result. Joined, the means along columns would be rows among rows; apart, they are a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx
from onnx import helper

from distredge.model.operators import RULES
from distredge.model.operators.pointwise import Pointwise
from distredge.model.rewriting import Rewriting, attributes_of


class _Part(NamedTuple):
    """A part of a tensor along one axis."""

    axis: int
    start: int
    stop: int


def taken_apart(
    work: Rewriting, source: str, axis: int, outputs: Sequence[tuple[str, int, int]]
) -> list[onnx.NodeProto]:
    """Nodes that make parts of a tensor from what was concatenated into it; none where that is not possible.

    Args:
        work: the model.
        source: the tensor that is split.
        axis: along which.
        outputs: names of its parts, where each starts and ends.
    """
    parts = [_Part(axis, start, stop) for _, start, stop in outputs]
    if not all(_possible(work, source, part) for part in parts):
        return []
    nodes: list[onnx.NodeProto] = []
    for (output, _, _), part in zip(outputs, parts, strict=True):
        made: dict[str, str] = {}
        found = _make(work, source, part, made, nodes)
        nodes.append(helper.make_node("Identity", [found], [output], name=f"{output}@part"))
    return nodes


def _piece(work: Rewriting, node: onnx.NodeProto, part: _Part) -> str | None:
    """The input of a Concat that is exactly that part."""
    rank = len(work.shapes[node.output[0]])
    if attributes_of(node)["axis"] % rank != part.axis:
        return None
    start = 0
    for name in node.input:
        stop = start + (work.shapes[name] if name in work.shapes else work.given[name].shape)[part.axis]
        if (start, stop) == (part.start, part.stop):
            return name if name in work.shapes else None
        start = stop
    return None


def _divided(work: Rewriting, node: onnx.NodeProto, part: _Part) -> list[int] | None:
    """Which inputs of a node are taken apart as its output is; None if it mixes along the axis."""
    made = work.shapes[node.output[0]]
    if len([name for name in node.output if name]) != 1:
        return None
    if node.op_type in ("Conv", "BatchNormalization"):
        if any(name in work.shapes for name in node.input[1:]):
            return None
        if node.op_type == "Conv" and not _is_point(work, node, part.axis - 2):
            return None
        return [0]
    if type(RULES.get(node.op_type)) is not Pointwise:
        return None
    found = []
    for position, name in enumerate(node.input):
        if not name:
            continue
        shape = work.shapes[name] if name in work.shapes else work.given[name].shape
        own = part.axis - (len(made) - len(shape))
        if own < 0 or shape[own] == 1:
            continue
        if name not in work.shapes or len(shape) != len(made):
            return None
        found.append(position)
    return found


def _is_point(work: Rewriting, node: onnx.NodeProto, axis: int) -> bool:
    """Whether a convolution reads one row for one row along a spatial axis."""
    attributes = attributes_of(node)
    count = len(work.shapes[node.input[0]]) - 2
    kernel = attributes.get("kernel_shape") or work.given[node.input[1]].shape[2:]
    pads = attributes.get("pads") or [0] * 2 * count
    stride = (attributes.get("strides") or [1] * count)[axis]
    return kernel[axis] == stride == 1 and not pads[axis] and not pads[axis + count]


def _possible(work: Rewriting, name: str, part: _Part) -> bool:
    node = work.makers.get(name)
    if node is None:
        return False
    if node.op_type == "Concat":
        return _piece(work, node, part) is not None
    divided = _divided(work, node, part)
    return bool(divided) and all(_possible(work, node.input[position], part) for position in divided or ())


def _make(work: Rewriting, name: str, part: _Part, made: dict[str, str], nodes: list[onnx.NodeProto]) -> str:
    """Appends what makes that part of a tensor, once, and returns its name."""
    if name in made:
        return made[name]
    node = work.makers[name]
    if node.op_type == "Concat":
        piece = _piece(work, node, part)
        assert piece is not None
        made[name] = piece
        return piece
    inputs = list(node.input)
    for position in _divided(work, node, part) or ():
        inputs[position] = _make(work, inputs[position], part, made, nodes)
    shape = list(work.shapes[name])
    shape[part.axis] = part.stop - part.start
    made[name] = work.tensor(f"{name}@{part.start}-{part.stop}", shape, work.types[name])
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:], copy.output[:]
    copy.input.extend(inputs)
    copy.output.append(made[name])
    copy.name = f"{node.name or name}@{part.start}-{part.stop}"
    nodes.append(copy)
    return made[name]
