"""Tabulates all volumes of a graph at once, compiled, before a search asks for them one by one.

`latency.tables` walks a volume backwards with numpy when a strategy first uses it, which takes milliseconds; a search
over a large graph meets a thousand. Here one walk backwards from each end serves every start. Left to `latency.tables`
are volumes in which a reduction over rows is read again (squeeze-and-excite), operators whose need of rows does not
rise with their output, parts that can be empty inside, and tables too large to be worth it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.latency.geometry import Unsupported
from distredge.model.operators import Kind
from distredge.planners.walk import NORMAL, REDUCES, STOPS, Flat, sum_seconds, walk_back

if TYPE_CHECKING:
    from distredge.latency.tables import Tables
    from distredge.model.graph import Operator

LARGEST = 2_000_000
"""Seconds of one end's volumes, in number, beyond which they are left to be tabulated on demand."""

_FOREVER = 1 << 40

Ints = NDArray[np.int64]


def fill(tables: Tables, cuts: list[int], stop: Callable[[], bool] = lambda: False) -> None:
    """Tabulates every volume between some cuts that the compiled walk can do and `tables` does not have yet.

    Args:
        tables: of a kernel.
        cuts: rising indices into `graph.cuts`.
        stop: asked after each end; true leaves the rest to be tabulated on demand.
    """
    flat = _flatten(tables)
    for end in cuts:
        if stop():
            break
        _fill_end(tables, flat, cuts, end)


def _fill_end(tables: Tables, flat: Flat, cuts: list[int], end: int) -> None:
    graph = tables.graph
    cut, rows = graph.cuts[end], graph.cuts[end].height
    places = np.array([0, *(graph.cuts[i].position for i in cuts)])
    starts = places[places < cut.position]
    most = max(len(cut.tensors) for cut in graph.cuts) + len(graph.input_names)
    spans = np.zeros((2, cut.position, rows), np.int64)
    needs = np.zeros((2, len(starts), most, rows), np.int64)
    reached, tensors, edges = walk_back(flat, cut.position, rows, starts, spans, needs)
    if reached == len(starts):
        return
    low, high = (int(x) for x in edges[reached])
    points = np.arange(rows + 1)
    if (low + 1) * (high + 1) <= rows and rows >= 4:
        classes = np.minimum(points, low), np.minimum(rows - points, high)
    else:
        classes = points, np.zeros_like(points)
    parts = _parts(rows, *classes)
    if parts[0].size * (len(starts) - reached) * len(flat.table_at) > LARGEST:
        return
    seconds = sum_seconds(flat, cut.position, starts, reached, spans, *parts)
    for at in range(reached, len(starts)):
        first = -1 if at == 0 else cuts[at - 1]
        if tables.index[first + 1, end] < 0:
            read = [
                (int(tensor), *_reach(needs[0, at, x], needs[1, at, x]))
                for x, tensor in enumerate(tensors[at])
                if tensor >= 0
            ]
            tables.insert(first, end, classes, read, seconds[at])


def _reach(start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """First rows by the part's start, and ends of the rows by its end, from those of parts of one row."""
    return np.append(start, start[-1]), np.append(stop[:1], stop)


def _parts(rows: int, starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """One part [a, b) of each class of start and stop and number of rows, flattened; -1 where there is none."""
    shape = int(starts.max()) + 1, int(stops.max()) + 1, rows + 1
    first, stop = np.full(shape, -1), np.zeros(shape, np.int64)
    a, b = np.triu_indices(rows + 1, 1)
    place = starts[a], stops[b], b - a
    first[place], stop[place] = a, b
    return first.ravel(), stop.ravel()


class _Flattener:
    """Collects the arrays of a `Flat`."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.names = dict(tables.numbers)
        for index in tables.graph.body.operators:
            for name in tables.graph.operators[index].outputs:
                self.names.setdefault(name, len(self.names))
        self.kind: list[int] = []
        self.reduced: list[int] = []
        self.in_at, self.out_at = [0], [0]
        self.in_tensor: list[int] = []
        self.in_reach: list[int] = []
        self.out_tensor: list[int] = []
        self.first: list[Ints] = [np.zeros(0, np.int64)]
        self.stop: list[Ints] = [np.zeros(0, np.int64)]
        self.size = 0

    def add(self, op: Operator) -> None:
        graph, body = self.tables.graph, self.tables.graph.body
        reduces = body.verdicts[op.index].kind is Kind.REDUCE
        stops = op.index in body.everywhere or any(name in body.vectors for name in op.activation_names)
        for position in op.activations[:1] if reduces else op.activations:
            self.in_tensor.append(self.names[op.inputs[position]])
            self.in_reach.append(self.size)
            if not reduces and not stops:
                stops = not self._add_reach(op, position)
        self.kind.append(STOPS if stops else REDUCES if reduces else NORMAL)
        self.reduced.append(graph.tensors[op.inputs[op.activations[0]]].height if reduces else 0)
        self.out_tensor += [self.names[name] for name in op.outputs if name]
        self.in_at.append(len(self.in_tensor))
        self.out_at.append(len(self.out_tensor))

    def _add_reach(self, op: Operator, position: int) -> bool:
        try:
            first, stop = self.tables.geometry.reach(op, position)
        except Unsupported:
            return False
        self.first.append(first)
        self.stop.append(stop)
        self.size += len(first)
        return True


def _flatten(tables: Tables) -> Flat:
    graph, body = tables.graph, tables.graph.body
    found = _Flattener(tables)
    for index in body.operators:
        found.add(graph.operators[index])
    places = {index: place for place, index in enumerate(body.operators)}
    after = set(graph.output_names) | set(body.head_inputs)
    last_use = [
        _FOREVER if name in after else max((places.get(c, -1) for c in graph.consumers.get(name, ())), default=-1)
        for name in found.names
    ]
    table_at, seconds = _profile_tables(tables)
    return Flat(
        kind=np.array(found.kind, np.int64),
        in_at=np.array(found.in_at, np.int64),
        in_tensor=np.array(found.in_tensor, np.int64),
        in_reach=np.array(found.in_reach, np.int64),
        out_at=np.array(found.out_at, np.int64),
        out_tensor=np.array(found.out_tensor, np.int64),
        first=np.concatenate(found.first),
        stop=np.concatenate(found.stop),
        reduced=np.array(found.reduced, np.int64),
        height=np.array([graph.tensors[name].height for name in found.names], np.int64),
        maker=np.array([places.get(graph.producer.get(name, -1), -1) for name in found.names], np.int64),
        last_use=np.array(last_use, np.int64),
        table_at=table_at,
        seconds=seconds,
    )


def _profile_tables(tables: Tables) -> tuple[Ints, NDArray[np.float64]]:
    """Where each operator's seconds by rows start on every profile, (n_profiles, n_ops), and all of them."""
    operators = tables.graph.body.operators
    at = np.full((len(tables.costs), len(operators)), -1, np.int64)
    found: list[NDArray[np.float64]] = [np.zeros(0)]
    size = 0
    for p, costs in enumerate(tables.costs):
        for place, index in enumerate(operators):
            table = costs.table(index)
            if table is not None:
                at[p, place] = size
                found.append(np.array(table))
                size += len(table)
    return at, np.concatenate(found)
