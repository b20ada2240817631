"""Operators that move values along rows: concatenation, slicing, padding, gathering and depth-space exchange."""

from __future__ import annotations

from typing import Any

import numpy as np

from distredge.model.nodes import NodeList, Operator
from distredge.model.operators.base import (
    AXES,
    Axes,
    Emitter,
    Rule,
    Verdict,
    along_axes,
    axes_by_rank,
    axis_size,
    constant_input,
    dimension_of,
    head,
    interval_of,
    moved_axes,
    slice_constant,
    split_axes,
    with_interval,
)
from distredge.model.operators.pointwise import Pointwise, aligned
from distredge.model.operators.windows import Spatial
from distredge.model.rows import EMPTY, Interval, Region, intersect


def attribute_axis(graph: NodeList, op: Operator, default: int = 0) -> int:
    """The `axis` attribute, counted from the front."""
    return int(op.attributes.get("axis", default)) % len(graph.tensors[op.outputs[0]].shape)


def same_rank_axes(graph: NodeList, op: Operator) -> Axes:
    """Axes of the tallest activation input, for outputs of the same rank."""
    tensors = [graph.tensors[name] for name in op.activation_names]
    tallest = max(tensors, key=lambda t: (t.row_axis is not None, t.height, t.width))
    return Axes(tallest.row_axis, tallest.col_axis)


class SameRank(Rule):
    """Operators whose outputs have as many axes as their inputs, each where it was."""

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        return same_rank_axes(graph, op)


class Concat(SameRank):
    """Concatenation along channels, or along rows, where each input has a place of its own in the output."""

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        found = super().axes(graph, op, output)
        tallest = max(graph.tensors[name].height for name in op.activation_names)
        # What is pooled over rows and joined where they were are channels or the like, not rows again.
        lost = tallest == 1 and found.rows == attribute_axis(graph, op)
        return Axes(None, found.cols) if lost else found

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        made = graph.tensors[op.outputs[0]]
        if made.row_axis is None:
            return head("Concat of tensors without rows")
        for name in op.activation_names:
            tensor = graph.tensors[name]
            if (tensor.row_axis, tensor.col_axis) != (made.row_axis, made.col_axis):
                return head(f"Concat of tensors with rows on different axes ('{name}')")
        return super().verdict(graph, op)

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        joined = attribute_axis(graph, op)
        made = graph.tensors[op.outputs[0]]
        for axis in split_axes(out):
            if dimension_of(made, axis) == joined:
                start = sum(_length(graph, name, joined) for name in op.inputs[:position])
                own = Interval(start, start + _length(graph, op.inputs[position], joined))
                found = intersect(interval_of(out, axis), own)
                if found.empty:
                    return Region(EMPTY)
                out = with_interval(out, axis, Interval(found.start - start, found.stop - start))
        return out

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        graph = emitter.graph
        made = graph.tensors[op.outputs[0]]
        inputs = []
        for position, name in enumerate(op.inputs):
            need = self.needs(graph, op, position, out)
            if need.empty:
                continue
            constant = position not in op.activations
            inputs.append(slice_constant(emitter, name, made, need) if constant else emitter.take(name, need))
        emitter.copy(op, inputs)
        return out


def _length(graph: NodeList, name: str, axis: int) -> int:
    constant = graph.constants.get(name)
    return int(constant.shape[axis] if constant is not None else graph.tensors[name].shape[axis])


class Slice(SameRank):
    """Slice-13 with constant bounds; along rows with a positive step (Focus stems), along columns with any (flips)."""

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if op.activations != (0,):
            return head("Slice with bounds that are not constant")
        rows = graph.tensors[op.inputs[0]].row_axis
        if rows is not None and _bounds(graph, op).get(rows, (0, 0, 1))[2] < 0:
            # It could be split, but the compiled kernel cannot price needs that fall where rows rise.
            return head("Slice that turns rows around")
        return super().verdict(graph, op)

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        tensor = graph.tensors[op.inputs[0]]

        def read(axis: str, wanted: Interval) -> Interval:
            start, _, step = _bounds(graph, op).get(_or_none(dimension_of(tensor, axis)), (0, 0, 1))
            if wanted.empty:
                return wanted
            first, last = start + wanted.start * step, start + (wanted.stop - 1) * step
            return Interval(min(first, last), max(first, last) + 1)

        return along_axes(out, read)

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        graph = emitter.graph
        tensor = graph.tensors[op.inputs[0]]
        bounds = _bounds(graph, op)
        for axis in split_axes(out):
            dimension = _or_none(dimension_of(tensor, axis))
            if dimension in bounds:
                step = bounds[dimension][2]
                span = (interval_of(out, axis).size - 1) * abs(step) + 1
                bounds[dimension] = (0, span, step) if step > 0 else (span - 1, -span - 1, step)
        value = emitter.take(op.inputs[0], self.needs(graph, op, 0, out))
        parameters = [
            emitter.constant(hint, np.array(values, dtype=np.int64))
            for hint, values in (
                ("starts", [b[0] for b in bounds.values()]),
                ("ends", [b[1] for b in bounds.values()]),
                ("axes", list(bounds)),
                ("steps", [b[2] for b in bounds.values()]),
            )
        ]
        emitter.copy(op, [value, *parameters])
        return out


def _bounds(graph: NodeList, op: Operator) -> dict[int, tuple[int, int, int]]:
    """Start, end and step of every sliced axis, clamped as Slice-13 says; a negative step may end at -shape - 1."""
    shape = graph.tensors[op.inputs[0]].shape
    values = [constant_input(graph, op, position) for position in range(1, 5)]
    starts, ends = values[0], values[1]
    assert starts is not None
    assert ends is not None
    axes = range(len(starts)) if values[2] is None else values[2].tolist()
    steps = [1] * len(starts) if values[3] is None else values[3].tolist()
    found = {}
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes, steps, strict=True):
        size = shape[axis]
        start, end = (x + size if x < 0 else x for x in (start, end))
        if step > 0:
            start, end = min(max(start, 0), size), min(max(end, 0), size)
        else:
            start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
            end = -size - 1 if end < 0 else end
        found[axis % len(shape)] = (start, end, step)
    return found


def _or_none(dimension: int | None) -> int:
    """A key that no axis has, for a tensor without rows or columns."""
    return -1 if dimension is None else dimension


class Split(SameRank):
    """Split along channels (`model.rewrite` turns a Split along rows into slices)."""

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        tensor = graph.tensors[op.inputs[0]]
        if attribute_axis(graph, op) in (tensor.row_axis, tensor.col_axis):
            return head("Split of rows or columns")
        return head("Split with sizes that are not constant") if op.activations != (0,) else super().verdict(graph, op)


class Pad(SameRank):
    """Pad-13: a split-part is padded only where it holds the tensor's edge (constant, reflect, edge)."""

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if op.activations != (0,):
            return head("Pad with sizes that are not constant")
        if self._mode(op) not in ("constant", "reflect", "edge"):
            return head(f"Pad in mode '{self._mode(op)}'")
        return super().verdict(graph, op)

    def _mode(self, op: Operator) -> str:
        mode = op.attributes.get("mode", "constant")
        return mode.decode() if isinstance(mode, bytes) else str(mode)

    def _pads(self, graph: NodeList, op: Operator) -> list[int]:
        rank = len(graph.tensors[op.inputs[0]].shape)
        pads = constant_input(graph, op, 1)
        axes = constant_input(graph, op, 3)
        assert pads is not None
        if axes is None:
            return [int(p) for p in pads.tolist()]
        full = [0] * 2 * rank
        for i, axis in enumerate(axes.tolist()):
            full[axis % rank] = int(pads[i])
            full[axis % rank + rank] = int(pads[i + len(axes)])
        return full

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        tensor = graph.tensors[op.inputs[0]]
        pads = self._pads(graph, op)
        for axis in split_axes(out):
            dimension = dimension_of(tensor, axis)
            wanted = interval_of(out, axis)
            if dimension is None or wanted.empty:
                continue
            begin, size = pads[dimension], tensor.shape[dimension]
            first, last = wanted.start - begin, wanted.stop - 1 - begin
            # Mirrored rows that the padding shows must be there, and at least one row always.
            low, high = min(max(first, 0), size - 1), min(max(last, 0), size - 1)
            if self._mode(op) == "reflect":
                low = min(low, size - 1 - max(0, last - (size - 1)))
                high = max(high, max(0, -first))
            out = with_interval(out, axis, Interval(low, high + 1))
        return out

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        graph = emitter.graph
        tensor = graph.tensors[op.inputs[0]]
        pads = self._pads(graph, op)
        rank = len(tensor.shape)
        need = self.needs(graph, op, 0, out)
        made = out
        for axis in split_axes(out):
            dimension = dimension_of(tensor, axis)
            if dimension is None:
                continue
            begin, size = pads[dimension], tensor.shape[dimension]
            held, wanted = interval_of(need, axis), interval_of(out, axis)
            before = max(0, held.start + begin - wanted.start) if held.start == 0 else 0
            after = max(0, wanted.stop - held.stop - begin) if held.stop == size else 0
            pads[dimension], pads[dimension + rank] = before, after
            start = held.start + begin - before
            made = with_interval(made, axis, Interval(start, held.stop + begin + after))
        value = emitter.take(op.inputs[0], need)
        fill = [op.inputs[2]] if len(op.inputs) > 2 else []
        emitter.copy(op, [value, emitter.constant("pads", np.array(pads, dtype=np.int64)), *fill])
        return made


class Gather(Rule):
    """Gather of constant indices along channels, or of a constant list of rows."""

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        tensor = graph.tensors[op.inputs[0]]
        indices = constant_input(graph, op, 1)
        if indices is None:
            return same_rank_axes(graph, op)
        axis = int(op.attributes.get("axis", 0)) % len(tensor.shape)
        target = {d: d if d < axis else d + indices.ndim - 1 for d in range(len(tensor.shape))}
        if indices.ndim != 1:
            target.pop(axis)
        return moved_axes(tensor, target)

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        tensor = graph.tensors.get(op.inputs[0])
        indices = constant_input(graph, op, 1)
        if tensor is None or indices is None or op.activations != (0,):
            return head("Gather with indices that are not constant, or from a constant")
        axis = int(op.attributes.get("axis", 0)) % len(tensor.shape)
        if axis in (tensor.row_axis, tensor.col_axis) and indices.ndim != 1:
            return head("Gather that takes the row axis apart")
        return super().verdict(graph, op)

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        for axis in split_axes(out):
            rows = self._indices(graph, op, axis, interval_of(out, axis))
            if rows is not None and rows.size:
                out = with_interval(out, axis, Interval(int(rows.min()), int(rows.max()) + 1))
        return out

    def _indices(self, graph: NodeList, op: Operator, axis: str, out: Interval) -> Any:
        tensor = graph.tensors[op.inputs[0]]
        gathered = int(op.attributes.get("axis", 0)) % len(tensor.shape)
        if dimension_of(tensor, axis) != gathered:
            return None
        indices = constant_input(graph, op, 1)
        assert indices is not None
        return np.mod(indices[out.start : out.stop], tensor.shape[gathered])

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        graph = emitter.graph
        need = self.needs(graph, op, 0, out)
        indices = op.inputs[1]
        for axis in split_axes(out):
            rows = self._indices(graph, op, axis, interval_of(out, axis))
            if rows is not None:
                indices = emitter.constant("rows", rows - interval_of(need, axis).start)
        emitter.copy(op, [emitter.take(op.inputs[0], need), indices])
        return out


class SpaceToDepth(Spatial):
    """SpaceToDepth-13: output row i reads `blocksize` input rows."""

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        block = int(op.attributes["blocksize"])
        return along_axes(out, lambda _, wanted: Interval(wanted.start * block, wanted.stop * block))


class DepthToSpace(Spatial):
    """DepthToSpace-13: `blocksize` output rows come from one input row."""

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        block = int(op.attributes["blocksize"])
        return along_axes(out, lambda _, wanted: Interval(wanted.start // block, -(-wanted.stop // block)))

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        need = self.needs(emitter.graph, op, 0, out)
        block = int(op.attributes["blocksize"])
        made = along_axes(need, lambda _, rows: Interval(rows.start * block, rows.stop * block))
        return super().emit(emitter, op, made)


class Expand(Pointwise):
    """Expand-13 to a constant shape: the rows of the shape become those of the part."""

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        source, made = graph.tensors[op.inputs[0]].shape, graph.tensors[output].shape
        before = (1,) * (len(made) - len(source)) + source
        spread = {d for d, size in enumerate(made) if size > before[d]}
        axes, usual = super().axes(graph, op, output), axes_by_rank(len(made))
        # A vector has no rows before: those that it is spread over are where rows usually are.
        vector = axes.rows is None or (made[axes.rows] == 1 and axes.rows not in spread)
        return usual if vector and spread & set(usual) else axes

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if op.activations != (0,):
            return head("Expand to a shape that is not constant")
        if graph.tensors[op.outputs[0]].row_axis is None:
            return head("Expand of a tensor without rows")
        return aligned(graph, op)

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        graph = emitter.graph
        made = graph.tensors[op.outputs[0]]
        shape = list(made.shape)
        for axis in split_axes(out):
            dimension = dimension_of(made, axis)
            if dimension is not None:
                shape[dimension] = interval_of(out, axis).size
        value = emitter.take(op.inputs[0], self.needs(graph, op, 0, out))
        emitter.copy(op, [value, emitter.constant("shape", np.array(shape, dtype=np.int64))])
        return out


class Tile(SameRank):
    """Tile-13 along other axes than rows and columns."""

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        repeats = constant_input(graph, op, 1)
        tensor = graph.tensors[op.inputs[0]]
        if repeats is None or op.activations != (0,):
            return head("Tile with repeats that are not constant")
        for axis in AXES:
            dimension = dimension_of(tensor, axis)
            if dimension is not None and axis_size(tensor, axis) and int(repeats[dimension]) != 1:
                return head(f"Tile of {axis}")
        return super().verdict(graph, op)
