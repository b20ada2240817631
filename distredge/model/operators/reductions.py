"""Global pooling and reductions: over rows they split into a partial result per device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distredge.model.nodes import NodeList, Operator
from distredge.model.operators.base import (
    Axes,
    Emitter,
    Kind,
    Rule,
    Verdict,
    constant_input,
    head,
    moved_axes,
    whole,
)
from distredge.model.rows import Region

PARTIAL_SUMS: Mapping[str, str] = {
    "GlobalAveragePool": "mean",
    "GlobalMaxPool": "max",
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
}
"""Reductions that can be completed from partial results, and how."""

ONLY_LOCAL = ("ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd")
"""Reductions that are split only where they leave the rows alone."""

_STEP = {"mean": "ReduceSum", "sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}


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


def _keeps_dimensions(op: Operator) -> bool:
    return op.op_type.startswith("Global") or bool(op.attributes.get("keepdims", 1))


class Reduction(Rule):
    """A reduction: row-local over other axes, split by partial results over rows and columns."""

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        source, axes = graph.tensors[op.inputs[0]], reduced_axes(graph, op)
        if axes is None:
            return Axes(None, None)
        rank = len(source.shape)
        kept = range(rank) if _keeps_dimensions(op) else [d for d in range(rank) if d not in axes]
        return moved_axes(source, {before: after for after, before in enumerate(kept)})

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        tensor = graph.tensors[op.inputs[0]]
        axes = reduced_axes(graph, op)
        if axes is None or tensor.row_axis is None:
            return head(f"{op.op_type} over axes that are not constant, or without rows")
        if 0 in axes and tensor.shape[0] == 1 and len(axes) > 1:
            return head(f"{op.op_type} over the batch too")
        if tensor.row_axis not in axes:
            return super().verdict(graph, op)
        if op.op_type not in PARTIAL_SUMS:
            return head(f"{op.op_type} over rows has no partial results")
        if tensor.width > 1 and tensor.col_axis not in axes:
            return head(f"{op.op_type} over rows but not over columns")
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
        axes = reduced_axes(graph, op) or ()
        shape = [1 if d in axes else size for d, size in enumerate(graph.tensors[op.inputs[0]].shape)]
        return (parts, *shape[1:])

    def emit_partial(self, emitter: Emitter, op: Operator, region: Region, output: str) -> None:
        """Appends the reduction over this device's exclusive rows."""
        axes = reduced_axes(emitter.graph, op)
        assert axes is not None
        _reduce(emitter, _STEP[PARTIAL_SUMS[op.op_type]], emitter.take(op.inputs[0], region), axes, output)

    def emit_finish(self, emitter: Emitter, op: Operator, stack: str) -> None:
        """Appends the nodes that turn everybody's partial results into the operator's output."""
        graph = emitter.graph
        tensor, made = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
        how = PARTIAL_SUMS[op.op_type]
        axes = reduced_axes(graph, op)
        assert axes is not None
        total = emitter.fresh(f"{made.name}@total")
        _reduce(emitter, _STEP[how], stack, (0,), total)
        if how == "mean":
            count = int(np.prod([tensor.shape[a] for a in axes]))
            scaled = emitter.fresh(f"{made.name}@mean")
            emitter.node("Div", [total, emitter.constant("count", np.array(count, dtype=made.dtype))], scaled)
            total = scaled
        shape = emitter.constant("shape", np.array(made.shape, dtype=np.int64))
        emitter.node("Reshape", [total, shape], made.name)


def _reduce(emitter: Emitter, how: str, source: str, axes: tuple[int, ...], output: str) -> None:
    takes_input = emitter.graph.opset >= (13 if how == "ReduceSum" else 18)
    if takes_input:
        where = emitter.constant("axes", np.array(axes, dtype=np.int64))
        emitter.node(how, [source, where], output, keepdims=1)
    else:
        emitter.node(how, [source], output, axes=list(axes), keepdims=1)
