"""Operators whose output row i reads row i alone: elementwise ones, and those that mix only channels."""

from __future__ import annotations

from distredge.model.nodes import NodeList, Operator
from distredge.model.operators.base import (
    AXES,
    LOCAL,
    WHOLE_ROW,
    Axes,
    Emitter,
    Rule,
    Verdict,
    axis_size,
    dimension_of,
    head,
    moved_axes,
    slice_constant,
)
from distredge.model.rows import Region


class Pointwise(Rule):
    """Elementwise operators with broadcasting: output row i reads row i of every input that has rows."""

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if len([out for out in op.outputs if out]) > 1:
            return head(f"{op.op_type} with several outputs")
        return aligned(graph, op)

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        tensor = graph.tensors[op.inputs[position]]
        if out.empty:
            return out
        rows = WHOLE_ROW if tensor.height == 1 else out.rows
        cols = None if out.cols is None or tensor.width == 1 else out.cols
        return Region(rows, cols)

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        graph = emitter.graph
        made = graph.tensors[op.outputs[0]]
        inputs = []
        for position, name in enumerate(op.inputs):
            if position in op.activations:
                inputs.append(emitter.take(name, self.needs(graph, op, position, out)))
            elif name in graph.constants:
                inputs.append(slice_constant(emitter, name, made, out))
            else:
                inputs.append(name)
        emitter.copy(op, inputs)
        return out


def aligned(graph: NodeList, op: Operator) -> Verdict:
    """Row-local if rows and columns of all inputs meet those of the output, each broadcast or in full."""
    out = graph.tensors[op.outputs[0]]
    for name in op.activation_names:
        tensor = graph.tensors[name]
        offset = len(out.shape) - len(tensor.shape)
        for axis in AXES:
            inner, outer = dimension_of(tensor, axis), dimension_of(out, axis)
            if inner is not None and tensor.shape[inner] > 1 and inner + offset != outer:
                return head(f"{op.op_type} broadcasts '{name}' across the {axis}")
            met = None if outer is None else outer - offset
            if met is not None and met >= 0 and tensor.shape[met] > 1 and met != inner:
                return head(f"{op.op_type} meets the {axis} with another axis of '{name}'")
    return LOCAL


class PerRow(Pointwise):
    """Operators whose constants are parameters and never rows (batch normalisation, LRN)."""

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if op.activations != (0,):
            return head(f"{op.op_type} with parameters that are not constant")
        return super().verdict(graph, op)

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        return Rule.emit(self, emitter, op, out)


class AlongAxis(PerRow):
    """Operators along one axis, or from one axis to the last: row-local if that crosses neither rows nor columns.

    Args:
        default: the axis when the attribute is missing; None where they then work on the flattened tensor.
        to_last: whether they work on all axes from that one on.
        given_at: the input that is the axis, where it is no attribute (CumSum-14).
    """

    def __init__(self, default: int | None, to_last: bool = False, given_at: int | None = None) -> None:
        self.default = default
        self.to_last = to_last
        self.given_at = given_at

    def axis(self, graph: NodeList, op: Operator) -> int | None:
        """Which axis it works along, counted from the front; None for all of them."""
        axis = op.attributes.get("axis", self.default)
        if self.given_at is not None:
            value = graph.constants.get(op.inputs[self.given_at])
            axis = None if value is None else value.reshape(-1)[0]
        return None if axis is None else int(axis) % max(1, len(graph.tensors[op.inputs[0]].shape))

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if op.activations != (0,):
            return head(f"{op.op_type} with parameters that are not constant")
        tensor, axis = graph.tensors[op.inputs[0]], self.axis(graph, op)
        if axis is None:
            return head(f"{op.op_type} of all axes at once")
        used = range(axis, len(tensor.shape)) if self.to_last else (axis,)
        for crossed in AXES:
            if dimension_of(tensor, crossed) in used and axis_size(tensor, crossed) > 1:
                return head(f"{op.op_type} over axis {axis} crosses the {crossed}")
        return LOCAL


class NewAxis(AlongAxis):
    """OneHot-11: values along a new axis, which lies before the one of that number."""

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        tensor, new = graph.tensors[op.inputs[0]], self._new(graph, op)
        return moved_axes(tensor, {d: d + (d >= new) for d in range(len(tensor.shape))})

    def _new(self, graph: NodeList, op: Operator) -> int:
        return int(op.attributes.get("axis", self.default)) % len(graph.tensors[op.outputs[0]].shape)

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if op.activations != (0,):
            return head(f"{op.op_type} with parameters that are not constant")
        return LOCAL


class GatherAlong(Pointwise):
    """GatherElements-13 along channels: a row of the output reads the same row of the data and of the indices."""

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        tensor = graph.tensors.get(op.inputs[0])
        return Axes(None, None) if tensor is None else Axes(tensor.row_axis, tensor.col_axis)

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if op.activations[0] != 0:
            return head(f"{op.op_type} from a constant")
        data, made = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
        axis = int(op.attributes.get("axis", 0)) % len(data.shape)
        for crossed in AXES:
            dimension = dimension_of(data, crossed)
            if dimension is not None and (dimension == axis or made.shape[dimension] != data.shape[dimension]):
                return head(f"{op.op_type} over axis {axis} crosses the {crossed}")
        return super().verdict(graph, op)


class LastAxisProduct(PerRow):
    """A matrix product of the last axis, which holds neither rows nor columns, with a constant matrix (MatMul-13)."""

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if op.activations != (0,):
            return head(f"{op.op_type} of two activations, or with a constant on the left")
        tensor, matrix = graph.tensors[op.inputs[0]], graph.constants[op.inputs[1]]
        last = len(tensor.shape) - 1
        if matrix.ndim != 2 or last in (tensor.row_axis, tensor.col_axis) or tensor.row_axis is None:
            return head(f"{op.op_type} mixes rows or columns")
        return super().verdict(graph, op)
