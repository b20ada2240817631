"""The body of a graph on its boards as arrays, for the compiled walk of `tabulate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.errors import Unsupported
from distredge.latency.tables import backward_walk as w
from distredge.model.operators import Kind

if TYPE_CHECKING:
    from distredge.latency.tables.volume_tables import Tables
    from distredge.model.nodes import Operator

_FOREVER = 1 << 40

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BodyArrays:
    """A body on its boards.

    Attributes:
        names: of the tensors.
        operators, tensors, inputs, outputs, reach: as in `walk.End`.
        boards, table_at, by_rows: as in `cells.Cells`.
        priced_edges: whether what enters or leaves a part costs anywhere.
    """

    names: list[str]
    operators: Ints
    tensors: Ints
    inputs: Ints
    outputs: Ints
    reach: NDArray[np.int32]
    boards: Floats
    table_at: Ints
    by_rows: Floats

    @property
    def priced_edges(self) -> bool:
        """Whether what enters or leaves a part costs anywhere."""
        return bool((self.boards[:, 2] > 0).any())

    @property
    def most_entries(self) -> int:
        """Most tensors that can cross the edges of a volume's phases."""
        return 2 * len(self.inputs) + len(self.outputs) + 1


def flatten(tables: Tables) -> BodyArrays:
    """Returns the body of a kernel's graph on its boards.

    Raises:
        ProfileError: if a profile lacks an operator.
    """
    graph = tables.graph
    made = (name for index in graph.body.operators for name in graph.operators[index].outputs if name)
    names = list(dict.fromkeys([*tables.numbers, *graph.input_names, *made]))
    found = _Flattener(tables, names)
    for index in graph.body.operators:
        found.add(graph.operators[index])
    table_at, by_rows = _profile_tables(tables)
    profiles = [(p.profile.segment_overhead_s, p.profile.segment_factor, p.element_s) for p in tables.costs]
    operators = np.zeros((len(found.kind) + 1, w.OPERATOR), np.int64)
    operators[:, w.KIND], operators[:, w.PARTIAL_BYTES] = [*found.kind, w.STOPS], [*found.partial_bytes, 0]
    operators[:, w.IN_AT], operators[:, w.OUT_AT] = found.in_at, found.out_at
    return BodyArrays(
        names=names,
        operators=operators,
        tensors=_tensors(tables, names),
        inputs=np.array(found.inputs, np.int64).reshape(-1, 2),
        outputs=np.array(found.outputs, np.int64),
        reach=np.stack([np.concatenate(found.first), np.concatenate(found.stop)]).astype(np.int32),
        boards=np.array(profiles),
        table_at=table_at,
        by_rows=by_rows,
    )


class _Flattener:
    """Collects the arrays of operators."""

    def __init__(self, tables: Tables, names: list[str]) -> None:
        self.tables = tables
        self.names = {name: number for number, name in enumerate(names)}
        self.kind: list[int] = []
        self.partial_bytes: list[int] = []
        self.in_at, self.out_at = [0], [0]
        self.inputs: list[tuple[int, int]] = []
        self.outputs: list[int] = []
        self.first: list[Ints] = [np.zeros(0, np.int64)]
        self.stop: list[Ints] = [np.zeros(0, np.int64)]
        self.size = 0

    def add(self, op: Operator) -> None:
        body = self.tables.graph.body
        reduces = body.verdicts[op.index].kind is Kind.REDUCE
        kind = w.REDUCES if reduces else w.NORMAL
        for position in op.activations[:1] if reduces else op.activations:
            reach = self._reach(op, position, reduces)
            if reach is None:
                kind, reach = w.STOPS, (np.zeros(0, np.int64), np.zeros(0, np.int64))
            self.inputs.append((self.names[op.inputs[position]], self.size))
            self.first.append(reach[0])
            self.stop.append(reach[1])
            self.size += len(reach[0])
        self.kind.append(kind)
        self.partial_bytes.append(self.tables.geometry.partial_bytes(op.index) if reduces else 0)
        self.outputs += [self.names[name] for name in op.outputs if name]
        self.in_at.append(len(self.inputs))
        self.out_at.append(len(self.outputs))

    def _reach(self, op: Operator, position: int, reduces: bool) -> tuple[Ints, Ints] | None:
        """First row, and end of the rows, of an input that each row needs; None if the walk cannot do with that."""
        graph = self.tables.graph
        height = graph.tensors[op.inputs[position]].height
        if reduces:
            # Of what it reads, not of what it makes.
            return np.arange(height), np.arange(1, height + 1)
        if op.index in graph.body.everywhere:
            made = max(graph.tensors[name].height for name in op.outputs if name)
            return (np.zeros(1, np.int64), np.full(1, height)) if made == 1 else None
        try:
            return self.tables.geometry.reach(op, position)
        except Unsupported:
            return None


def _tensors(tables: Tables, names: list[str]) -> Ints:
    graph, body = tables.graph, tables.graph.body
    places = {index: place for place, index in enumerate(body.operators)}
    after = set(graph.output_names) | set(body.head_inputs)
    found = np.zeros((len(names), w.N_TENSOR), np.int64)
    for t, name in enumerate(names):
        tensor = graph.tensors[name]
        if name in body.vectors:
            # Never leaves a volume: who needs it makes it anew.
            last_use = -1
        elif name in after:
            last_use = _FOREVER
        else:
            last_use = max((places.get(user, -1) for user in graph.consumers.get(name, ())), default=-1)
        maker = places.get(graph.producer.get(name, -1), -1)
        number = tables.numbers.get(name, -1)
        found[t, : w.T_SUM_AT] = tensor.height, maker, last_use, number, tensor.elements // tensor.height
    return found


def _profile_tables(tables: Tables) -> tuple[Ints, Floats]:
    """Where each operator's seconds by rows start on every profile, (n_profiles, n_ops), and all of them."""
    operators = tables.graph.body.operators
    at = np.full((len(tables.costs), len(operators)), -1, np.int64)
    found: list[Floats] = [np.zeros(0)]
    size = 0
    for p, costs in enumerate(tables.costs):
        for place, index in enumerate(operators):
            table = costs.table(index)
            if table is not None:
                at[p, place] = size
                found.append(np.array(table))
                size += len(table)
    return at, np.concatenate(found)
