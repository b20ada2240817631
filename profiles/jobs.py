"""What there is to measure for a profile: every operator signature of some models once, in the right company."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distredge.model.graph import Graph, Signature
from distredge.model.operators import Kind
from distredge.profiles.kernels import Bench
from distredge.profiles.modelled import profile_rows

_ELEMENTWISE = frozenset(
    "Add Sub Mul Div Max Min Sum Relu Clip LeakyRelu Sigmoid Tanh HardSigmoid HardSwish Elu PRelu Softplus Mish".split()
)
_CHAIN_LENGTH = 5


@dataclass(frozen=True)
class Job:
    """One operator signature.

    A cheap operator between convolutions costs something else there than alone: whole, it is computed inside the
    convolution before it; in a split-part, a shortcut must be cut to size first and the convolutions' layout be left
    and entered again. So it is measured between its convolutions, and the time of the other operators there is taken
    off.

    Attributes:
        bench: of the model in which it first occurs.
        signature: its key in the profile.
        operator: its index.
        before, after: operators to run with it, none for most.
        rows: row counts to measure go from 1 up to this.
    """

    bench: Bench
    signature: Signature
    operator: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    rows: int


def jobs_of(benches: Sequence[Bench]) -> tuple[Job, ...]:
    """Returns a job for every signature, the cheap ones first."""
    jobs: dict[str, Job] = {}
    for bench in benches:
        graph = bench.graph
        for index, signature in enumerate(graph.signatures):
            if signature is None:
                continue
            earlier = jobs.get(signature.key)
            if earlier is not None and (earlier.bench is not bench or not _better(graph, index, earlier.operator)):
                continue
            before, after = company(graph, index)
            rows = measured_rows(graph, index, signature)
            jobs[signature.key] = Job(bench, signature, index, before, after, rows)
    return tuple(sorted(jobs.values(), key=lambda job: (job.signature.macs, job.signature.io_bytes)))


def measured_rows(graph: Graph, index: int, signature: Signature) -> int:
    """Returns the largest row count to measure; 1 for what always runs whole."""
    kind = graph.body.verdicts[index].kind
    on_vector = kind is not Kind.REDUCE and graph.operators[index].outputs[0] in graph.body.vectors
    return 1 if kind is Kind.HEAD or on_vector else profile_rows(signature)


def company(graph: Graph, index: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the convolution before an elementwise operator, and what follows it up to the next convolution.

    Only the first elementwise operator after a convolution has company; it bears the cost of the place.
    """
    op = graph.operators[index]
    if op.op_type not in _ELEMENTWISE or graph.body.verdicts[index].kind is Kind.HEAD:
        return (), ()
    if op.outputs[0] in graph.body.vectors:
        return (), ()
    makers = [_unfused(graph, graph.producer[name]) for name in op.activation_names if name in graph.producer]
    height = graph.tensors[op.outputs[0]].height
    before = [m for m in makers if graph.operators[m].op_type == "Conv" and _height(graph, m) == height]
    if not before:
        return (), ()
    after: list[int] = []
    while len(after) < _CHAIN_LENGTH:
        last = graph.operators[after[-1] if after else index]
        users = graph.consumers.get(last.outputs[0], ())
        following = next((u for u in users if graph.operators[u].op_type in ("Conv", *_ELEMENTWISE)), None)
        if following is None or graph.body.verdicts[following].kind is Kind.HEAD:
            return (max(before),), ()
        after.append(following)
        if graph.operators[following].op_type == "Conv":
            return (max(before),), tuple(after)
    return (max(before),), ()


def _better(graph: Graph, index: int, other: int) -> bool:
    """Whether one of two merges of the same signature has a shortcut and the other two convolutions, as few have."""

    def convolutions(operator: int) -> int:
        reads = graph.operators[operator].activation_names
        makers = [_unfused(graph, graph.producer[name]) for name in reads if name in graph.producer]
        return sum(graph.operators[m].op_type == "Conv" for m in makers)

    return convolutions(index) == 1 and convolutions(other) > 1


def _height(graph: Graph, index: int) -> int:
    return graph.tensors[graph.operators[index].outputs[0]].height


def _unfused(graph: Graph, index: int) -> int:
    return graph.fused_into.get(index, index)
