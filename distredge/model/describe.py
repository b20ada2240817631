"""What a reader wants to know of a graph, operator by operator: the table of `distredge show`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distredge.model.operators import Kind

if TYPE_CHECKING:
    from distredge.model.graph import Graph


@dataclass(frozen=True)
class OperatorLine:
    """One operator, with the activation that is fused into it.

    Attributes:
        index: in `graph.operators`.
        name: of the operator.
        op_type: ONNX operator, with the fused activation after a `+`, and its kernel and stride.
        shape: of its output.
        row_axis: of its output, None without rows.
        macs: multiply-adds.
        weight_bytes: bytes of its constants.
        split: "rows", "partial results", "everywhere" or "head".
        why: reason, empty for what is simply row-local.
        cut: index of the cut after it, or None.
        live: tensors that cross that cut.
    """

    index: int
    name: str
    op_type: str
    shape: tuple[int, ...]
    row_axis: int | None
    macs: int
    weight_bytes: int
    split: str
    why: str
    cut: int | None
    live: tuple[str, ...]


def describe(graph: Graph) -> tuple[OperatorLine, ...]:
    """Describes every operator that is not fused into another one, body first, each in topological order."""
    fused = {conv: act for act, conv in graph.fused_into.items()}
    place = {index: i for i, index in enumerate(graph.body.operators)}
    cut_after = {cut.position - 1: cut for cut in graph.cuts}
    lines = []
    for index in (*graph.body.operators, *graph.body.head):
        if index in graph.fused_into:
            continue
        op = graph.operators[index]
        last = fused.get(index, index)
        tensor = graph.tensors[graph.operators[last].outputs[0]]
        cut = cut_after.get(place.get(last, -1))
        lines.append(
            OperatorLine(
                index, op.name, _title(graph, index, fused.get(index)), tensor.shape, tensor.row_axis,
                graph.macs[index], graph.weight_bytes[index], _split(graph, index),
                graph.body.verdicts[index].reason, None if cut is None else cut.index,
                () if cut is None else cut.tensors,
            )
        )  # fmt: skip
    return tuple(lines)


def _title(graph: Graph, index: int, activation: int | None) -> str:
    op = graph.operators[index]
    title = op.op_type if activation is None else f"{op.op_type}+{graph.operators[activation].op_type}"
    signature = graph.signatures[index]
    if signature is not None and signature.kernel:
        title += " " + "x".join(map(str, signature.kernel))
        if any(stride > 1 for stride in signature.strides):
            title += f" /{max(signature.strides)}"
        if any(dilation > 1 for dilation in signature.dilations):
            title += f" d{max(signature.dilations)}"
        if signature.group > 1:
            title += f" g{signature.group}"
    return title


def _split(graph: Graph, index: int) -> str:
    kind = graph.body.verdicts[index].kind
    if kind is Kind.HEAD:
        return "head"
    if kind is Kind.REDUCE:
        return "partial results"
    return "everywhere" if index in graph.body.everywhere else "rows"
