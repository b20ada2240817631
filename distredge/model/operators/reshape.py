"""Operators that rename axes: Reshape, Transpose, Squeeze and Unsqueeze, with the row axis followed through them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distredge.model.nodes import NodeList, Operator
from distredge.model.operators.base import (
    Axes,
    Emitter,
    Rule,
    Verdict,
    along_axes,
    axes_by_rank,
    constant_input,
    dimension_of,
    head,
    interval_of,
    moved_axes,
    split_axes,
    with_interval,
)
from distredge.model.rows import Interval, Region


class Scale(NamedTuple):
    """Where rows (or columns) go in a reshape: one output row is `inner` input rows, or `outer` of them one.

    Attributes:
        dimension: of the output.
        inner: input rows in an output row; 1 when `outer` is more.
        outer: output rows in an input row; 1 when `inner` is more.
    """

    dimension: int
    inner: int
    outer: int


def follow(source: tuple[int, ...], target: tuple[int, ...], axis: int, kept: int | None) -> Scale | None:
    """Follows one axis through a reshape.

    Args:
        source: shape before.
        target: shape after.
        axis: of `source`.
        kept: axis of `source` that must not be merged into this one.

    Returns:
        Where it goes, or None if it is merged with axes before it, with `kept`, or cut to pieces that are no rows.
    """
    if source[axis] == 1:
        return _follow_point(target)
    ins, outs = next(group for group in axis_groups(source, target) if axis in group[0])
    if any(source[i] > 1 for i in ins if i < axis):
        return None
    dimension = next(i for i in outs if target[i] > 1)
    before, after = source[axis], target[dimension]
    if before % after == 0:
        return Scale(dimension, before // after, 1)
    if after % before:
        return None
    merged = 1
    for i in ins:
        if i > axis and merged < after // before:
            merged *= source[i]
            if i == kept and source[i] > 1:
                return None
    return Scale(dimension, 1, after // before)


def _follow_point(target: tuple[int, ...]) -> Scale | None:
    """A single row has no place of its own: it stays where rows usually are, if that axis has size 1 too."""
    rows = axes_by_rank(len(target)).rows
    return Scale(rows, 1, 1) if rows is not None and target[rows] == 1 else None


def axis_groups(source: tuple[int, ...], target: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Smallest groups of consecutive axes of both shapes that hold the same elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) and j < len(target):
        ins, outs = [i], [j]
        left, right = source[i], target[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                ins.append(i)
                left, i = left * source[i], i + 1
            else:
                outs.append(j)
                right, j = right * target[j], j + 1
        groups.append((ins, outs))
    if groups:
        groups[-1][0].extend(range(i, len(source)))
        groups[-1][1].extend(range(j, len(target)))
    return groups


def _followed(graph: NodeList, before: str, after: str) -> tuple[Scale | None, Scale | None]:
    """Where rows and columns go in a reshape."""
    source, made = graph.tensors[before], graph.tensors[after]
    rows = cols = None
    if source.row_axis is not None:
        rows = follow(source.shape, made.shape, source.row_axis, source.col_axis)
    if source.col_axis is not None and source.width > 1:
        cols = follow(source.shape, made.shape, source.col_axis, source.row_axis)
    return rows, cols


class Reshape(Rule):
    """Reshape-13 to a constant shape that keeps rows apart: channel shuffle, depth to space, (N,C,D,H,W) to (N,CD,H,W).

    A row axis that is split or merged becomes the outermost of its pieces, each of several rows.
    """

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        rows, cols = self._scales(graph, op, output)
        row, col = (None if scale is None else scale.dimension for scale in (rows, cols))
        return Axes(row, None if col == row else col)

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if op.activations != (0,):
            return head(f"{op.op_type} to a shape that is not constant")
        if self._scales(graph, op, op.outputs[0])[0] is None:
            return head(f"{op.op_type} mixes rows with other axes")
        return super().verdict(graph, op)

    def _scales(self, graph: NodeList, op: Operator, output: str) -> tuple[Scale | None, Scale | None]:
        return graph.once(_followed, op.inputs[0], output)

    def _scale(self, graph: NodeList, op: Operator, axis: str) -> Scale | None:
        made = graph.tensors[op.outputs[0]]
        scale = self._scales(graph, op, made.name)[axis == "cols"]
        return scale if scale is not None and dimension_of(made, axis) == scale.dimension else None

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        if out.empty:
            return out

        def read(axis: str, wanted: Interval) -> Interval | None:
            scale = self._scale(graph, op, axis)
            if scale is None:
                return None
            if scale.outer > 1:
                return Interval(wanted.start // scale.outer, -(-wanted.stop // scale.outer))
            return Interval(wanted.start * scale.inner, wanted.stop * scale.inner)

        return along_axes(out, read)

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        graph = emitter.graph
        need = self.needs(graph, op, 0, out)
        shape = list(graph.tensors[op.outputs[0]].shape)
        made = out
        for axis in split_axes(need):
            scale, rows = self._scale(graph, op, axis), interval_of(need, axis)
            assert scale is not None
            rows = Interval(rows.start * scale.outer // scale.inner, rows.stop * scale.outer // scale.inner)
            shape[scale.dimension] = rows.size
            made = with_interval(made, axis, rows)
        value = emitter.take(op.inputs[0], need)
        emitter.node("Reshape", [value, emitter.constant("shape", np.array(shape, dtype=np.int64))], op.outputs[0])
        return made


class Transpose(Rule):
    """Transpose-13: rows stay rows, on another axis."""

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        source = graph.tensors[op.inputs[0]]
        rank = len(source.shape)
        order = op.attributes.get("perm", range(rank - 1, -1, -1))
        return moved_axes(source, {int(before): after for after, before in enumerate(order)})

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if graph.tensors[op.inputs[0]].row_axis is None:
            return head("Transpose of a tensor without rows")
        return super().verdict(graph, op)


class Squeeze(Rule):
    """Squeeze-13 and Unsqueeze-13: axes of size 1 go or come."""

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        source, rank = graph.tensors[op.inputs[0]], len(graph.tensors[output].shape)
        axes = squeezed_axes(graph, op)
        longer = max(rank, len(source.shape))
        rest = [d for d in range(longer) if d not in axes]
        if op.op_type == "Unsqueeze":
            return moved_axes(source, dict(enumerate(rest)))
        return moved_axes(source, {before: after for after, before in enumerate(rest)})

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if op.activations != (0,):
            return head(f"{op.op_type} of axes that are not constant")
        if graph.tensors[op.outputs[0]].row_axis is None:
            return head(f"{op.op_type} of a tensor whose rows are gone")
        return super().verdict(graph, op)

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        graph = emitter.graph
        value = emitter.take(op.inputs[0], self.needs(graph, op, 0, out))
        # A part of one row must not lose its row axis, so the axes are always named.
        axes = emitter.constant("axes", np.array(sorted(squeezed_axes(graph, op)), dtype=np.int64))
        emitter.copy(op, [value, axes])
        return out


def squeezed_axes(graph: NodeList, op: Operator) -> frozenset[int]:
    """Axes that a Squeeze removes or an Unsqueeze adds, counted in the longer shape."""
    source, target = graph.tensors[op.inputs[0]].shape, graph.tensors[op.outputs[0]].shape
    longer = max(len(source), len(target))
    axes = constant_input(graph, op, 1)
    if axes is None:
        return frozenset(d for d, size in enumerate(source) if size == 1)
    return frozenset(int(a) % longer for a in np.atleast_1d(axes))
