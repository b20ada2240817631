"""Follows the row axis through a graph, from the operators that fix it (convolution, pooling) back to the inputs first.

Rows are the height of an image: axis 2 of (batch, channels, height, width), the last but one of 5-D tensors, axis 2 of
(batch, channels, length), wherever a Transpose or Reshape moves it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from distredge.model.nodes import NodeList, Operator
from distredge.model.operators import Axes, axes_of
from distredge.model.operators.base import axes_by_rank

_FIXES_AXES = frozenset(
    "Conv ConvTranspose MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool DepthToSpace SpaceToDepth".split()
)
_KEEPS_AXES = frozenset("Slice Pad Concat Resize Split".split())


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
    queue: deque[tuple[str, tuple[int, ...]]] = deque([(name, tuple(range(rank)))])
    seen = {name}
    while queue:
        tensor, order = queue.popleft()
        for index in graph.consumers.get(tensor, ()):
            op = graph.operators[index]
            if op.op_type in _FIXES_AXES and op.activation_names[0] == tensor:
                fixed = axes_by_rank(len(order))
                return Axes(*(None if d is None else order[d] for d in fixed))
            moved = _order_after(graph, op, tensor, order)
            if moved is not None and op.outputs[0] not in seen:
                seen.add(op.outputs[0])
                queue.append((op.outputs[0], moved))
    return axes_by_rank(rank)


def _order_after(graph: NodeList, op: Operator, tensor: str, order: tuple[int, ...]) -> tuple[int, ...] | None:
    """Which axis of the input each axis of the operator's output is; None where that is lost."""
    made = graph.tensors[op.outputs[0]].shape
    if op.op_type == "Transpose":
        perm = op.attributes.get("perm", range(len(order) - 1, -1, -1))
        return tuple(order[int(d)] for d in perm)
    if made == graph.tensors[tensor].shape or (op.op_type in _KEEPS_AXES and len(made) == len(order)):
        return order
    return None
