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
_CONTEXT_DEPTH = 4


@dataclass(frozen=True)
class Job:
    """One operator signature.

    Attributes:
        bench: of the model in which it first occurs.
        signature: its key in the profile.
        members: operators to run together, itself last; the time of the others alone is taken off.
        rows: row counts to measure go from 1 up to this.
    """

    bench: Bench
    signature: Signature
    members: tuple[int, ...]
    rows: int


def jobs_of(benches: Sequence[Bench]) -> tuple[Job, ...]:
    """Returns a job for every signature, the cheap ones first."""
    jobs: dict[str, Job] = {}
    for bench in benches:
        graph = bench.graph
        for index, signature in enumerate(graph.signatures):
            if signature is None or signature.key in jobs:
                continue
            jobs[signature.key] = Job(bench, signature, context(graph, index), measured_rows(graph, index, signature))
    return tuple(sorted(jobs.values(), key=lambda job: (job.signature.macs, job.signature.io_bytes)))


def measured_rows(graph: Graph, index: int, signature: Signature) -> int:
    """Returns the largest row count to measure; 1 for what always runs whole."""
    kind = graph.body.verdicts[index].kind
    on_vector = kind is not Kind.REDUCE and graph.operators[index].outputs[0] in graph.body.vectors
    return 1 if kind is Kind.HEAD or on_vector else profile_rows(signature)


def context(graph: Graph, index: int) -> tuple[int, ...]:
    """Returns the operators that an engine would fuse a cheap one into, and itself last.

    Adding a shortcut, or an activation after that, costs far less inside the convolution before it than alone; its
    cost is what the convolution takes longer with it.
    """
    if graph.body.verdicts[index].kind is Kind.HEAD:
        return (index,)
    members = [index]
    while len(members) < _CONTEXT_DEPTH and graph.operators[members[0]].op_type in _ELEMENTWISE:
        op = graph.operators[members[0]]
        height = graph.tensors[op.outputs[0]].height
        makers = [graph.producer[name] for name in op.activation_names if name in graph.producer]
        makers = [m for m in makers if graph.tensors[graph.operators[m].outputs[0]].height == height]
        if not makers:
            break
        latest = graph.fused_into.get(max(makers), max(makers))
        members.insert(0, latest)
        if graph.operators[latest].op_type == "Conv":
            return tuple(members)
    return (index,)
