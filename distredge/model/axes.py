"""Follows the row axis through a graph, from the operators that fix it (convolution, pooling) back to the inputs first.

Rows are the height of an image: axis 2 of (batch, channels, height, width), the last but one of 5-D tensors, axis 2 of
(batch, channels, length), wherever a Transpose or Reshape moves it. Only inputs are told by their consumers where
their rows are; every other tensor has the rows that its maker's inputs have, or none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TypeAlias

from distredge.model.nodes import NodeList, Operator
from distredge.model.operators import Axes, axes_of
from distredge.model.operators.base import axes_by_rank, constant_input
from distredge.model.operators.reductions import is_reduction, kept_axes
from distredge.model.operators.reshape import axis_groups, squeezed_axes

_FIXES_AXES = frozenset(
    "Conv ConvTranspose MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool DepthToSpace "
    "SpaceToDepth InstanceNormalization".split()
)
_KEEPS_AXES = frozenset("Slice Pad Concat Resize Split Expand Tile".split())

Order: TypeAlias = tuple["int | None", ...]
"""Which axis of the input each axis of a tensor is; None: none of them."""


def assign_axes(graph: NodeList) -> None:
    """Writes row and column axis of every tensor of a graph."""
    for name in graph.input_names:
        _set(graph, name, _input_axes(graph, name))
    for op in graph.operators:
        for output in op.outputs:
            if output:
                _set(graph, output, axes_of(graph, op, output))


def _set(graph: NodeList, name: str, axes: Axes) -> None:
    graph.tensors[name] = replace(graph.tensors[name], row_axis=axes.rows, col_axis=axes.cols)


def _input_axes(graph: NodeList, name: str) -> Axes:
    """Axes of an input as the nearest convolution or pooling reads it; by rank when there is none."""
    rank = len(graph.tensors[name].shape)
    queue: deque[tuple[str, Order]] = deque([(name, tuple(range(rank)))])
    seen = {name}
    while queue:
        tensor, order = queue.popleft()
        for index in graph.consumers.get(tensor, ()):
            op = graph.operators[index]
            if op.op_type in _FIXES_AXES and op.activation_names[0] == tensor:
                rows, cols = (None if d is None else order[d] for d in axes_by_rank(len(order)))
                if rows is not None:
                    return Axes(rows, None if cols == rows else cols)
                continue
            for output in op.outputs:
                moved = _order_after(graph, op, tensor, order, output) if output and output not in seen else None
                if moved is not None:
                    seen.add(output)
                    queue.append((output, moved))
    return axes_by_rank(rank)


def _order_after(graph: NodeList, op: Operator, tensor: str, order: Order, output: str) -> Order | None:
    """Which axis of the input each axis of the operator's output is; None where that is lost."""
    source, made = graph.tensors[tensor].shape, graph.tensors[output].shape
    if op.op_type == "Transpose":
        perm = op.attributes.get("perm", range(len(order) - 1, -1, -1))
        return tuple(order[int(d)] for d in perm)
    if op.op_type in ("Squeeze", "Unsqueeze"):
        gone = squeezed_axes(graph, op)
        if len(made) < len(order):
            return tuple(axis for d, axis in enumerate(order) if d not in gone)
        rest = iter(order)
        return tuple(None if d in gone else next(rest) for d in range(len(made)))
    if op.op_type in ("Reshape", "Flatten"):
        return _order_reshaped(source, made, order)
    if op.op_type == "Gather" and op.inputs[0] == tensor:
        indices = constant_input(graph, op, 1)
        if indices is None:
            return None
        axis = int(op.attributes.get("axis", 0)) % len(order)
        inner = order[axis : axis + 1] if indices.ndim == 1 else (None,) * indices.ndim
        return (*order[:axis], *inner, *order[axis + 1 :])
    if is_reduction(op) and op.inputs[0] == tensor:
        kept = kept_axes(graph, op)
        return None if kept is None else tuple(order[d] for d in kept)
    if made == source or (op.op_type in _KEEPS_AXES and len(made) == len(order)):
        return order
    if op.op_type not in ("MatMul", "Gemm", "Einsum") and len(made) >= len(order):
        # Broadcast against something larger: aligned at the last axis.
        spread = (None,) * (len(made) - len(order)) + order
        matches = zip(made, (1,) * (len(made) - len(source)) + source, strict=True)
        return spread if all(before in (1, after) for after, before in matches) else None
    return None


def _order_reshaped(source: tuple[int, ...], made: tuple[int, ...], order: Order) -> Order:
    """Axes after a reshape: the outermost of the pieces that one axis becomes, or that become one, is that axis."""
    found: list[int | None] = [None] * len(made)
    for ins, outs in axis_groups(source, made):
        before = [d for d in ins if source[d] > 1]
        after = [d for d in outs if made[d] > 1]
        if before and after:
            found[after[0]] = order[before[0]]
    return tuple(found)
