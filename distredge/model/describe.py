"""What a reader wants to know of a graph, operator by operator: the table of `distredge show`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from distredge.model.operators import Kind

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.model.nodes import Operator


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


class HeadShare(NamedTuple):
    """What of a model's work cannot be split.

    Attributes:
        share: of the multiply-adds, 0 to 1.
        begins: operator of the head that reads the body (or an input) and has most of them behind it; None without.
        why: its reason.
    """

    share: float
    begins: Operator | None
    why: str


LARGE_HEAD = 0.2
"""Share of the multiply-adds from which on a reader is warned."""


def head_share(graph: Graph) -> HeadShare:
    """Says how much work is in the head, and where that begins."""
    total, behind = sum(graph.macs), dict.fromkeys(graph.body.head, 0)
    maker = {name: i for i in graph.body.head for name in graph.operators[i].outputs if name}
    reads = {i: {maker[name] for name in graph.operators[i].activation_names if name in maker} for i in graph.body.head}
    begins = [i for i in graph.body.head if not reads[i]]
    for first in begins:
        reached = {first}
        for i in graph.body.head:
            if reads[i] & reached:
                reached.add(i)
        behind[first] = sum(graph.macs[i] for i in reached)
    if not begins:
        return HeadShare(0.0, None, "")
    first = max(begins, key=lambda i: behind[i])
    share = sum(graph.macs[i] for i in graph.body.head) / total if total else 0.0
    return HeadShare(share, graph.operators[first], graph.body.verdicts[first].reason)


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
