"""What there is to measure for a profile: windows of operators that run together, and operators that run alone.

An operator costs something else alone than in a volume: its inputs have just been made, its neighbours decide in which
layout it finds them and whether it is computed inside one of them. So operators are timed in windows between two cuts,
each by the kernels that are its own; only what no window shows (heads, vectors, reductions over rows) runs alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distredge.model.graph import Graph
from distredge.model.operators import Kind
from distredge.model.signatures import Signature
from distredge.profiles.measuring.bench import Bench
from distredge.profiles.measuring.segments import SegmentCase, make_cases
from distredge.profiles.modelled import profile_rows

_CONVOLUTIONS = 3
"""Operators with multiply-adds in a window, at least: what the middle one finds in the caches was made by another."""

_MOST_CONVOLUTIONS = 9
"""A window does not grow beyond this to reach a cut of one tensor."""


@dataclass(frozen=True)
class Alone:
    """One operator signature that is measured by itself.

    Attributes:
        bench: of the model in which it first occurs.
        signature: its key in the profile.
        operator: its index.
        rows: row counts to measure go from 1 up to this.
    """

    bench: Bench
    signature: Signature
    operator: int
    rows: int


@dataclass(frozen=True)
class OperatorWindow:
    """The operators between two cuts of a model.

    Attributes:
        bench: of the model.
        first, last: it starts after cut `first` (-1: at the input) and ends at cut `last`.
        keys: signatures that it shows.
    """

    bench: Bench
    first: int
    last: int
    keys: frozenset[str]

    @property
    def height(self) -> int:
        """Rows of its output."""
        return self.bench.graph.cuts[self.last].height

    def cases(self, rows: int) -> tuple[SegmentCase, ...]:
        """Returns the split-parts that compute the middle `rows` rows of its output."""
        top = (self.height - rows) // 2
        cut_points = (0, top, top + rows, self.height) if rows < self.height else (0, self.height)
        return make_cases(self.bench.graph, self.first, self.last, cut_points, 1 if rows < self.height else 0)

    def inside(self, operator: int) -> bool:
        """Whether an operator stands amid others: what is not a convolution costs something else at a window's ends.

        A shortcut may come from outside; it then has the layout that it has in a volume, too.
        """
        graph = self.bench.graph
        if graph.macs[operator]:
            return True
        members = set(_between(graph, self.first, self.last))
        makers = [graph.producer.get(name) for name in graph.operators[operator].activation_names]
        users = graph.consumers.get(graph.operators[_last_fused(graph, operator)].outputs[0], ())
        return any(m in members for m in makers) and bool(users) and all(u in members for u in users)


def windows_of(benches: Sequence[Bench]) -> tuple[OperatorWindow, ...]:
    """Returns windows that show every operator of the bodies, each convolution at the end of one, too.

    At the end of a window an operator runs at the row counts that are asked for, down to one row; before it, at these
    and the halo.
    """
    found: list[OperatorWindow] = []
    shown: set[str] = set()
    ends: set[str] = set()
    for bench in benches:
        if bench.settings.timing is None:
            continue
        graph = bench.graph
        for last in range(len(graph.cuts)):
            first = _start(graph, last)
            window = OperatorWindow(bench, first, last, frozenset(_keys(graph, _between(graph, first, last))))
            inner = set(_keys(graph, (op for op in _between(graph, first, last) if window.inside(op))))
            tail = set(_keys(graph, (op for op in _between(graph, last - 1, last) if graph.macs[op])))
            final = last == len(graph.cuts) - 1 and window.keys - shown
            if inner - shown or tail - ends or final:
                found.append(window)
                shown |= inner
                ends |= tail
    return tuple(found)


def whole_windows(benches: Sequence[Bench]) -> tuple[OperatorWindow, ...]:
    """Returns each model's whole body as one window; for row counts, that of the whole output alone makes sense."""
    return tuple(
        OperatorWindow(bench, -1, last, frozenset(_keys(bench.graph, _between(bench.graph, -1, last))))
        for bench in benches
        if bench.settings.timing is not None and (last := len(bench.graph.cuts) - 1) >= 0
    )


def alone_of(benches: Sequence[Bench], shown: frozenset[str] = frozenset()) -> tuple[Alone, ...]:
    """Returns the operators to run alone, one for every signature that no window shows, the cheap ones first.

    Args:
        benches: of the models.
        shown: signatures that windows show.
    """
    found: dict[str, Alone] = {}
    for bench in benches:
        for index, signature in enumerate(bench.graph.signatures):
            if signature is not None and signature.key not in shown:
                found.setdefault(
                    signature.key, Alone(bench, signature, index, measured_rows(bench.graph, index, signature))
                )
    return tuple(sorted(found.values(), key=lambda alone: (alone.signature.macs, alone.signature.io_bytes)))


def measured_rows(graph: Graph, index: int, signature: Signature) -> int:
    """Returns the largest row count to measure; 1 for what always runs whole."""
    kind = graph.body.verdicts[index].kind
    on_vector = kind is not Kind.REDUCE and graph.operators[index].outputs[0] in graph.body.vectors
    return 1 if kind is Kind.HEAD or on_vector else profile_rows(signature)


def shows_rows(graph: Graph, index: int) -> bool:
    """Whether an operator can be shown by a window: it is neither a reduction over rows nor on a vector."""
    kind = graph.body.verdicts[index].kind
    return kind is Kind.LOCAL and graph.operators[index].outputs[0] not in graph.body.vectors


def _start(graph: Graph, last: int) -> int:
    """Returns the cut after which a window that ends at cut `last` starts, -1 the input.

    Where a shortcut passes by, its window starts before it, so that what merges it is shown as it is in a volume.
    """
    enough = -1
    for first in range(last - 1, -1, -1):
        convolutions = sum(graph.macs[op] > 0 for op in _between(graph, first, last))
        if convolutions < _CONVOLUTIONS:
            continue
        if convolutions > _MOST_CONVOLUTIONS:
            break
        enough = max(enough, first)
        if len(graph.cuts[first].tensors) == 1:
            return first
    return enough


def _between(graph: Graph, first: int, last: int) -> tuple[int, ...]:
    start = graph.cuts[first].position if first >= 0 else 0
    return graph.body.operators[start : graph.cuts[last].position]


def _keys(graph: Graph, operators: Sequence[int] | Iterator[int]) -> Iterator[str]:
    """Signatures of operators that have rows of their own to measure."""
    for index in operators:
        signature = graph.signatures[index]
        if signature is not None and shows_rows(graph, index):
            yield signature.key


def _last_fused(graph: Graph, index: int) -> int:
    """The activation that is fused into an operator, whose output is what others read; or the operator itself."""
    return next((a for a, c in graph.fused_into.items() if c == index), index)
