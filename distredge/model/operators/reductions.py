"""Global pooling and reductions: over rows they split into a partial result per device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from distredge.model.nodes import NodeList, Operator, Tensor
from distredge.model.operators.base import (
    Axes,
    Emitter,
    Kind,
    Rule,
    Verdict,
    constant_input,
    head,
    interval_of,
    moved_axes,
    whole,
)
from distredge.model.rows import Region


class Partials(NamedTuple):
    """How a reduction is completed from partial results.

    Attributes:
        partial: ONNX reduction that makes a partial result.
        merge: ONNX reduction over all of them.
        neutral: what stands in a partial result where a device has nothing.
        finish: ONNX operator that follows; "Div" by the number of elements.
    """

    partial: str
    merge: str
    neutral: float = 0.0
    finish: str = ""


_MEAN = Partials("ReduceSum", "ReduceSum", finish="Div")
_MAX = Partials("ReduceMax", "ReduceMax", -np.inf)
_L1 = Partials("ReduceL1", "ReduceSum")
_L2 = Partials("ReduceSumSquare", "ReduceSum", finish="Sqrt")

PARTIAL_SUMS: Mapping[str, Partials] = {
    "GlobalAveragePool": _MEAN,
    "GlobalMaxPool": _MAX,
    "ReduceMean": _MEAN,
    "ReduceSum": Partials("ReduceSum", "ReduceSum"),
    "ReduceMax": _MAX,
    "ReduceMin": Partials("ReduceMin", "ReduceMin", np.inf),
    "ReduceL1": _L1,
    "ReduceL2": _L2,
    "ReduceSumSquare": Partials("ReduceSumSquare", "ReduceSum"),
    "ReduceLogSum": Partials("ReduceSum", "ReduceSum", finish="Log"),
    "ReduceLogSumExp": Partials("ReduceLogSumExp", "ReduceLogSumExp", -np.inf),
    "ReduceProd": Partials("ReduceProd", "ReduceProd", 1.0),
}
"""Reductions that can be completed from partial results, and how."""

ONLY_LOCAL = ("ArgMax", "ArgMin")
"""Reductions that are split only where they leave the rows alone."""

_POWER = {1: _L1, 2: _L2}
"""GlobalLpPool by its `p`."""

_OPSET_OF_AXES_INPUT = {"ReduceSum": 13}
"""Operator set from which on axes are an input; 18 for the rest."""


def partial_kinds() -> frozenset[str]:
    """Operators that may be split by partial results."""
    return frozenset({*PARTIAL_SUMS, "GlobalLpPool"})


def takes_axes_as_input(op_type: str, opset: int) -> bool:
    """Whether a reduction of that operator set has its axes as an input, not as an attribute."""
    return opset >= _OPSET_OF_AXES_INPUT.get(op_type, 18)


def is_reduction(op: Operator) -> bool:
    """Whether an operator has a `Reduction` rule."""
    return op.op_type in PARTIAL_SUMS or op.op_type in ONLY_LOCAL or op.op_type == "GlobalLpPool"


def partials_of(op: Operator) -> Partials | None:
    """How a reduction over rows is completed; None where it has no partial results."""
    if op.op_type == "GlobalLpPool":
        return _POWER.get(int(op.attributes.get("p", 2)))
    return PARTIAL_SUMS.get(op.op_type)


def reduced_axes(graph: NodeList, op: Operator) -> tuple[int, ...] | None:
    """Axes that a reduction removes; None when they are not constant."""
    rank = len(graph.tensors[op.inputs[0]].shape)
    if op.op_type.startswith("Global"):
        return tuple(range(2, rank))
    if op.op_type.startswith("Arg"):
        return (int(op.attributes.get("axis", 0)) % rank,)
    axes = op.attributes.get("axes")
    if len(op.inputs) > 1 and op.inputs[1]:
        constant = constant_input(graph, op, 1)
        if constant is None:
            return None
        axes = constant.tolist()
    if not axes and op.attributes.get("noop_with_empty_axes", 0):
        return None
    return tuple(sorted(int(a) % rank for a in (axes or range(rank))))


def kept_axes(graph: NodeList, op: Operator) -> tuple[int, ...] | None:
    """Which axis of the input each axis of the output is; None when that is not constant."""
    axes, rank = reduced_axes(graph, op), len(graph.tensors[op.inputs[0]].shape)
    if axes is None:
        return None
    return tuple(d for d in range(rank) if _keeps_dimensions(op) or d not in axes)


def _keeps_dimensions(op: Operator) -> bool:
    return op.op_type.startswith("Global") or bool(op.attributes.get("keepdims", 1))


class Reduction(Rule):
    """A reduction: row-local over other axes, split by partial results over rows, with columns or without."""

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        kept = kept_axes(graph, op)
        if kept is None:
            return Axes(None, None)
        return moved_axes(graph.tensors[op.inputs[0]], {before: after for after, before in enumerate(kept)})

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        tensor = graph.tensors[op.inputs[0]]
        axes = reduced_axes(graph, op)
        if axes is None:
            return head(f"{op.op_type} over axes that are not constant")
        if tensor.row_axis is None:
            return head(f"{op.op_type} of a tensor without rows")
        if tensor.row_axis not in axes:
            return super().verdict(graph, op)
        how = partials_of(op)
        if how is None:
            return head(f"{op.op_type} over rows has no partial results")
        if np.dtype(tensor.dtype).kind != "f" and (how.finish in ("Sqrt", "Log") or how.merge == "ReduceLogSumExp"):
            return head(f"{op.op_type} of integers over rows")
        if tensor.dtype == "bool":
            return head(f"{op.op_type} of truth values over rows")
        return Verdict(Kind.REDUCE, f"{op.op_type} over rows: split by partial results")

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        if out.empty:
            return out
        tensor = graph.tensors[op.inputs[position]]
        axes = reduced_axes(graph, op) or ()
        if tensor.row_axis in axes:
            return whole(tensor)
        # Columns that are reduced are all needed.
        return Region(out.rows, None if tensor.col_axis in axes or tensor.col_axis is None else out.cols)

    def partial_shape(self, graph: NodeList, op: Operator, parts: int) -> tuple[int, ...]:
        """Shape of the stack of partial results, one row per contributing device."""
        kept = self._reduced_shape(graph, op)
        return (parts, *(kept[1:] if kept[0] == 1 else kept))

    def _reduced_shape(self, graph: NodeList, op: Operator) -> tuple[int, ...]:
        """Shape of the result with every axis of the input."""
        axes = reduced_axes(graph, op) or ()
        return tuple(1 if d in axes else size for d, size in enumerate(graph.tensors[op.inputs[0]].shape))

    def emit_partial(self, emitter: Emitter, op: Operator, region: Region, output: str) -> None:
        """Appends the reduction over this device's exclusive rows (and columns)."""
        graph = emitter.graph
        axes, how = reduced_axes(graph, op), partials_of(op)
        assert axes is not None
        assert how is not None
        tensor, shape = graph.tensors[op.inputs[0]], self._reduced_shape(graph, op)
        tile = region.cols is not None and tensor.col_axis is not None and tensor.col_axis not in axes
        stacked = shape[0] != 1
        reduced = emitter.fresh(output) if tile or stacked else output
        _reduce(emitter, how.partial, emitter.take(op.inputs[0], region), axes, reduced)
        if tile:
            spread = emitter.fresh(output) if stacked else output
            _emit_spread(emitter, tensor, region, reduced, how.neutral, spread)
            reduced = spread
        if stacked:
            emitter.node("Reshape", [reduced, emitter.constant("shape", np.array((1, *shape), dtype=np.int64))], output)

    def emit_finish(self, emitter: Emitter, op: Operator, stack: str) -> None:
        """Appends the nodes that turn everybody's partial results into the operator's output."""
        graph = emitter.graph
        tensor, made = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
        axes, how = reduced_axes(graph, op), partials_of(op)
        assert axes is not None
        assert how is not None
        total = emitter.fresh(f"{made.name}@total")
        _reduce(emitter, how.merge, stack, (0,), total)
        if how.finish:
            finished = emitter.fresh(f"{made.name}@finished")
            inputs = [total]
            if how.finish == "Div":
                count = int(np.prod([tensor.shape[a] for a in axes]))
                inputs.append(emitter.constant("count", np.array(count, dtype=made.dtype)))
            emitter.node(how.finish, inputs, finished)
            total = finished
        shape = emitter.constant("shape", np.array(made.shape, dtype=np.int64))
        emitter.node("Reshape", [total, shape], made.name)


def _emit_spread(emitter: Emitter, tensor: Tensor, region: Region, value: str, neutral: float, output: str) -> None:
    """Appends the padding of a tile's partial result to all columns, so that those of all tiles can be stacked."""
    column, columns = tensor.col_axis, interval_of(region, "cols")
    assert column is not None
    rank = len(tensor.shape)
    pads = [0] * 2 * rank
    pads[column], pads[column + rank] = columns.start, tensor.width - columns.stop
    if np.dtype(tensor.dtype).kind in "iu" and np.isinf(neutral):
        limits = np.iinfo(tensor.dtype)
        neutral = limits.max if neutral > 0 else limits.min
    inputs = [value, emitter.constant("pads", np.array(pads, dtype=np.int64))]
    emitter.node("Pad", [*inputs, emitter.constant("neutral", np.array(neutral, dtype=tensor.dtype))], output)


def _reduce(emitter: Emitter, how: str, source: str, axes: tuple[int, ...], output: str) -> None:
    if takes_axes_as_input(how, emitter.graph.opset):
        where = emitter.constant("axes", np.array(axes, dtype=np.int64))
        emitter.node(how, [source, where], output, keepdims=1)
    else:
        emitter.node(how, [source], output, axes=list(axes), keepdims=1)
