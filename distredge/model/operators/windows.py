"""Sliding windows: convolution, pooling and transposed convolution.

Semantics: Conv-11, MaxPool-12, AveragePool-11, LpPool-11, ConvTranspose-11.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distredge.model.nodes import NodeList, Operator
from distredge.model.operators.base import (
    LOCAL,
    Axes,
    Emitter,
    Rule,
    Verdict,
    axes_by_rank,
    axis_size,
    dimension_of,
    head,
    interval_of,
    split_axes,
    with_interval,
)
from distredge.model.rows import Interval, Region, Window, touching, window_input


class WindowGeometry(NamedTuple):
    """Attributes of a window along each spatial axis, with `auto_pad` resolved."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    def extent(self, axis: int) -> int:
        """Inputs from the first to the last that one window covers."""
        return self.dilations[axis] * (self.kernel[axis] - 1) + 1


def geometry_of(graph: NodeList, op: Operator) -> WindowGeometry:
    """The window of a convolution or pooling, computed once per operator."""
    return graph.once(_geometry, op.index)


def _geometry(graph: NodeList, index: int) -> WindowGeometry:
    op = graph.operators[index]
    source = graph.tensors[op.inputs[0]].shape[2:]
    count = len(source)
    kernel = tuple(op.attributes.get("kernel_shape", ())) or tuple(graph.constants[op.inputs[1]].shape[2:])
    strides = tuple(op.attributes.get("strides", ())) or (1,) * count
    dilations = tuple(op.attributes.get("dilations", ())) or (1,) * count
    plain = WindowGeometry(kernel, strides, dilations, (0,) * count, (0,) * count)
    auto = auto_pad(op)
    if auto == "VALID":
        return plain
    if auto == "NOTSET":
        pads = tuple(op.attributes.get("pads", ())) or (0,) * 2 * count
        return plain._replace(begins=pads[:count], ends=pads[count:])
    begins, ends = [], []
    for axis, (size, stride) in enumerate(zip(source, strides, strict=True)):
        total = max(0, (-(-size // stride) - 1) * stride + plain.extent(axis) - size)
        small, large = total // 2, total - total // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return plain._replace(begins=tuple(begins), ends=tuple(ends))


def auto_pad(op: Operator) -> str:
    """The `auto_pad` attribute as text."""
    value = op.attributes.get("auto_pad", "NOTSET")
    return value.decode() if isinstance(value, bytes) else str(value)


def window_of(graph: NodeList, op: Operator, axis: str) -> Window:
    """The sliding window of a convolution or pooling along rows or columns."""
    return graph.once(_window, op.index, axis)


def _window(graph: NodeList, index: int, axis: str) -> Window:
    op = graph.operators[index]
    dimension = dimension_of(graph.tensors[op.inputs[0]], axis)
    assert dimension is not None
    window = geometry_of(graph, op)
    return Window(window.strides[dimension - 2], window.begins[dimension - 2], window.extent(dimension - 2))


class Spatial(Rule):
    """Operators on (batch, channels, spatial axes...): rows and columns stay where they are, weights constant."""

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        source = graph.tensors[op.inputs[0]]
        # Channels are made anew. What stands on spatial axes need not be rows: Conv-11 on a pooled vector.
        rows, cols = (None if axis is None or axis < 2 else axis for axis in (source.row_axis, source.col_axis))
        return Axes(rows, cols)

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        if len([o for o in op.outputs if o]) > 1:
            return head(f"{op.op_type} with an index output")
        if op.activations != (0,):
            return head(f"{op.op_type} with weights that are not constant")
        tensor = graph.tensors[op.inputs[0]]
        expected = axes_by_rank(len(tensor.shape))
        # Columns that nobody knows of are not cut.
        if expected.rows is None or tensor.row_axis != expected.rows or tensor.col_axis not in (None, expected.cols):
            return head(f"{op.op_type} where the rows are not on axis {expected.rows}")
        return LOCAL


class Windowed(Spatial):
    """Convolution and pooling: what is clipped becomes explicit padding of this split-part alone."""

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        if out.empty:
            return out
        stride, pad, extent = window_of(graph, op, "rows")
        tensor = graph.tensors[op.inputs[position]]
        start, stop = out.rows.start * stride - pad, (out.rows.stop - 1) * stride - pad + extent
        if out.cols is None and stop > 0 and start < tensor.height:
            # The usual case, spelt out: layouts are made by the thousand.
            return Region(Interval(max(start, 0), min(stop, tensor.height)))
        made = self.computable(graph, op, out)
        rows = window_input(window_of(graph, op, "rows"), made.rows, tensor.height)[0]
        if made.cols is None:
            return Region(rows)
        return Region(rows, window_input(window_of(graph, op, "cols"), made.cols, tensor.width)[0])

    def computable(self, graph: NodeList, op: Operator, out: Region) -> Region:
        """`out`, extended where it reads padding alone: no engine computes that from an input without rows."""
        tensor = graph.tensors[op.inputs[0]]
        for axis in split_axes(out):
            wanted = interval_of(out, axis)
            extended = touching(window_of(graph, op, axis), wanted, axis_size(tensor, axis))
            if extended != wanted:
                out = with_interval(out, axis, extended)
        return out

    def padding(self, graph: NodeList, op: Operator, out: Region) -> tuple[list[int], list[int]]:
        """Explicit padding of each spatial axis for a computable output region; a ceil extension is none."""
        tensor = graph.tensors[op.inputs[0]]
        window = geometry_of(graph, op)
        begins, ends = list(window.begins), list(window.ends)
        for axis in split_axes(out):
            dimension = dimension_of(tensor, axis)
            assert dimension is not None
            _, before, after = window_input(window_of(graph, op, axis), interval_of(out, axis), axis_size(tensor, axis))
            begins[dimension - 2], ends[dimension - 2] = before, min(after, ends[dimension - 2])
        return begins, ends

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        graph = emitter.graph
        made = self.computable(graph, op, out)
        begins, ends = self.padding(graph, op, made)
        source = emitter.take(op.inputs[0], self.needs(graph, op, 0, made))
        # `ceil_mode` stays: the part that holds the last window extends its end as the whole tensor does, and the rows
        # of that extension must not count as padding (AveragePool-11 with `count_include_pad`).
        emitter.copy(op, [source, *op.inputs[1:]], pads=begins + ends, auto_pad=None)
        return made


class Transposed(Spatial):
    """Transposed convolution: output row o reads the input rows i with o = i*stride + tap*dilation - pad."""

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        if out.empty:
            return out
        rows = self._reads(graph, op, "rows", out.rows)
        return Region(rows, None if out.cols is None else self._reads(graph, op, "cols", out.cols))

    def _reads(self, graph: NodeList, op: Operator, axis: str, out: Interval) -> Interval:
        size = axis_size(graph.tensors[op.inputs[0]], axis)
        stride, pad, extent = transposed_window(graph, op, axis)
        first, last = out.start + pad, out.stop - 1 + pad
        # A row between two contributions (stride > extent) holds the bias alone: the input row before it makes it.
        start = min(-((extent - 1 - first) // stride), first // stride)
        return Interval(min(max(start, 0), size - 1), min(max(last // stride + 1, 1), size))

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        graph = emitter.graph
        tensor = graph.tensors[op.inputs[0]]
        need = self.needs(graph, op, 0, out)
        begins, ends, extra = transposed_pads(graph, op)
        for axis in split_axes(out):
            dimension = dimension_of(tensor, axis)
            assert dimension is not None
            stride, pad, extent = transposed_window(graph, op, axis)
            source, wanted = interval_of(need, axis), interval_of(out, axis)
            begin = wanted.start + pad - source.start * stride
            end = (source.size - 1) * stride + extent - begin - wanted.size
            begins[dimension - 2], ends[dimension - 2], extra[dimension - 2] = begin, max(0, end), max(0, -end)
        emitter.copy(
            op,
            [emitter.take(op.inputs[0], need), *op.inputs[1:]],
            pads=begins + ends, output_padding=extra, output_shape=None, auto_pad=None,
        )  # fmt: skip
        return out


def transposed_window(graph: NodeList, op: Operator, axis: str) -> Window:
    """Which outputs along rows or columns an input adds to: from i * stride - pad on, as many as the window extends."""
    dimension = dimension_of(graph.tensors[op.inputs[0]], axis)
    assert dimension is not None
    window = geometry_of(graph, op)
    begins, _, _ = transposed_pads(graph, op)
    return Window(window.strides[dimension - 2], begins[dimension - 2], window.extent(dimension - 2))


def transposed_pads(graph: NodeList, op: Operator) -> tuple[list[int], list[int], list[int]]:
    """Begin padding, end padding and output padding of each spatial axis."""
    source, made = graph.tensors[op.inputs[0]].shape[2:], graph.tensors[op.outputs[0]].shape[2:]
    window = geometry_of(graph, op)
    count = len(source)
    extra = list(op.attributes.get("output_padding", ())) or [0] * count
    rule = auto_pad(op)
    if rule == "NOTSET" and not op.attributes.get("output_shape"):
        pads = list(op.attributes.get("pads", ())) or [0] * 2 * count
        return pads[:count], pads[count:], extra
    full = [(source[axis] - 1) * window.strides[axis] + extra[axis] + window.extent(axis) for axis in range(count)]
    return implied_pads(full, made, extra, rule)


def implied_pads(
    full: Sequence[int], made: Sequence[int], extra: Sequence[int], rule: str
) -> tuple[list[int], list[int], list[int]]:
    """Returns the padding of a transposed convolution that `auto_pad` or `output_shape` imply, by spatial axis.

    Args:
        full: rows or columns that it would make without padding.
        made: those that it makes.
        extra: its `output_padding`.
        rule: its `auto_pad`.

    Returns:
        Begin padding, end padding and output padding. An output that is longer than what the window makes ends in rows
        or columns of the bias alone.
    """
    begins, ends, longer = [], [], []
    for size, wanted, padding in zip(full, made, extra, strict=True):
        total = 0 if rule == "VALID" else max(0, size - wanted)
        small, large = total // 2, total - total // 2
        begins.append(small if rule == "SAME_UPPER" else large)
        ends.append(large if rule == "SAME_UPPER" else small)
        longer.append(padding + max(0, wanted - size))
    return begins, ends, longer
