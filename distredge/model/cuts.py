"""Which operators form the body and the head of a graph, and where the body may be cut into layer-volumes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distredge.model.nodes import NodeList, Operator
from distredge.model.operators import Kind, Verdict, verdict_of


@dataclass(frozen=True)
class Body:
    """Split of a graph's operators.

    Attributes:
        operators: body operators in topological order; reductions that feed the head alone are among them, since
            their partial results are made where the rows are.
        head: head operators in topological order.
        verdicts: kind and reason of every operator of the graph, as found by its rule or by what precedes it.
        vectors: tensors that have no rows left to split, made from a reduction or from an input without rows.
        everywhere: body operators on vectors alone; every device that needs their result computes them whole.
        head_inputs: body tensors (and graph inputs) that head operators read.
    """

    operators: tuple[int, ...]
    head: tuple[int, ...]
    verdicts: tuple[Verdict, ...]
    vectors: frozenset[str]
    everywhere: frozenset[int]
    head_inputs: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """A candidate partition location.

    Attributes:
        index: place in `graph.cuts`.
        position: number of body operators before it.
        tensors: tensors made before it that the body after it reads (at the last cut: that head and outputs read).
        reference: the tallest of them, the last made among equals; a split decision counts its rows.
        height: rows of the reference.
    """

    index: int
    position: int
    tensors: tuple[str, ...]
    reference: str
    height: int


def find_body(graph: NodeList) -> Body:
    """Classifies every operator of the graph.

    An operator is in the head if its rule says so, if it reads a head tensor, or if all that is made of it are vectors
    (results of a reduction over rows) that never meet a feature map of the body again.
    """
    in_head: set[str] = set()
    vectors = {name for name in graph.input_names if graph.tensors[name].row_axis is None}
    everywhere: set[int] = set()
    verdicts: list[Verdict] = []
    for op in graph.operators:
        verdict = verdict_of(graph, op)
        reads = op.activation_names
        late = next((t for t in reads if t in in_head), None)
        if late is not None:
            verdict = Verdict(Kind.HEAD, f"reads '{late}' of the head")
        elif reads and all(t in vectors for t in reads) and not _makes_rows(graph, op, verdict):
            verdict = Verdict(Kind.LOCAL, "on a vector: every device computes it")
            everywhere.add(op.index)
            vectors.update(op.outputs)
        verdicts.append(verdict)
        if verdict.kind is Kind.HEAD:
            in_head.update(op.outputs)
        elif verdict.kind is Kind.REDUCE:
            vectors.update(op.outputs)
    _send_trailing_vectors_to_head(graph, verdicts, vectors)
    body = tuple(op.index for op in graph.operators if verdicts[op.index].kind is not Kind.HEAD)
    rest = tuple(op.index for op in graph.operators if verdicts[op.index].kind is Kind.HEAD)
    made_in_head = {out for i in rest for out in graph.operators[i].outputs}
    inputs = dict.fromkeys(t for i in rest for t in graph.operators[i].activation_names if t not in made_in_head)
    return Body(body, rest, tuple(verdicts), frozenset(vectors), frozenset(everywhere & set(body)), tuple(inputs))


def _makes_rows(graph: NodeList, op: Operator, verdict: Verdict) -> bool:
    """Whether a row-local operator spreads a vector over rows again (Resize, Expand, transposed convolution)."""
    return verdict.kind is Kind.LOCAL and any(graph.tensors[out].height > 1 for out in op.outputs if out)


def _send_trailing_vectors_to_head(graph: NodeList, verdicts: list[Verdict], vectors: set[str]) -> None:
    """Vector operators stay in the body only if a body feature map is made from them."""
    returns: set[str] = set()
    for op in reversed(graph.operators):
        if verdicts[op.index].kind is Kind.HEAD:
            continue
        is_vector = all(out in vectors for out in op.outputs if out)
        if not is_vector or any(out in returns for out in op.outputs):
            returns.update(t for t in op.activation_names if t in vectors)
        elif verdicts[op.index].kind is not Kind.REDUCE:
            verdicts[op.index] = Verdict(Kind.HEAD, "only vectors follow: no rows left to split")


def find_cuts(graph: NodeList, body: Body) -> tuple[Cut, ...]:
    """Candidate partition locations: every place between body operators where only feature maps are alive.

    Not between a convolution and the activation fused into it. The last cut ends the body and names what head and
    outputs read (for a reduction that feeds the head: the map that it reduces).
    """
    order = body.operators
    place = {index: i for i, index in enumerate(order)}
    last_use = _last_uses(graph, place)
    inside_fused = {graph.operators[conv].outputs[0] for conv in graph.fused_into.values()}
    cuts: dict[tuple[str, ...], Cut] = {}
    alive: dict[str, None] = {}
    for position, index in enumerate(order[:-1], start=1):
        op = graph.operators[index]
        alive.update((out, None) for out in op.outputs if out and last_use.get(out, -1) >= position)
        alive = {t: None for t in alive if last_use[t] >= position}
        if not alive or any(t in body.vectors or t in inside_fused for t in alive):
            continue
        cuts[tuple(alive)] = _cut(graph, position, tuple(alive))
    tensors = _final_tensors(graph, body)
    if tensors:
        cuts.pop(tensors, None)
        cuts[tensors] = _cut(graph, len(order), tensors)
    ordered = sorted(cuts.values(), key=lambda cut: cut.position)
    return tuple(Cut(i, cut.position, cut.tensors, cut.reference, cut.height) for i, cut in enumerate(ordered))


def _final_tensors(graph: NodeList, body: Body) -> tuple[str, ...]:
    """Body feature maps that the head, its reductions or the requester read, in the order in which they are made."""
    _, reductions, _ = vector_sources(graph, body, (*body.head_inputs, *graph.output_names))
    made = {out for i in body.operators for out in graph.operators[i].outputs}
    wanted = {graph.operators[index].inputs[0] for index in reductions}
    wanted.update(name for name in (*body.head_inputs, *graph.output_names) if name not in body.vectors)
    return tuple(sorted((t for t in wanted if t in made), key=lambda t: _birth(graph, t)))


def _birth(graph: NodeList, tensor: str) -> tuple[int, int]:
    """Place of a tensor in the order in which tensors are made."""
    maker = graph.producer[tensor]
    return maker, graph.operators[maker].outputs.index(tensor)


def vector_sources(
    graph: NodeList, body: Body, names: Iterable[str]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """What it takes to compute some of the body's vectors anew, feature maps among the names left out.

    Returns:
        Operators on vectors, reductions to complete, and graph inputs; each in topological order.
    """
    operators: set[int] = set()
    reductions: set[int] = set()
    inputs: dict[str, None] = {}
    stack = [name for name in names if name in body.vectors]
    while stack:
        name = stack.pop()
        maker = graph.producer.get(name)
        if maker is None:
            inputs[name] = None
        elif body.verdicts[maker].kind is Kind.REDUCE:
            reductions.add(maker)
        elif maker in body.everywhere and maker not in operators:
            operators.add(maker)
            stack.extend(graph.operators[maker].activation_names)
    return tuple(sorted(operators)), tuple(sorted(reductions)), tuple(inputs)


def _last_uses(graph: NodeList, place: dict[int, int]) -> dict[str, int]:
    """Body tensor -> place of the last body operator that reads it."""
    last: dict[str, int] = {}
    for index, i in place.items():
        for tensor in graph.operators[index].activation_names:
            if tensor in graph.producer:
                last[tensor] = max(last.get(tensor, -1), i)
    return last


def _cut(graph: NodeList, position: int, tensors: tuple[str, ...]) -> Cut:
    reference = max(tensors, key=lambda t: (graph.tensors[t].height, graph.producer.get(t, -1)))
    return Cut(0, position, tensors, reference, graph.tensors[reference].height)
