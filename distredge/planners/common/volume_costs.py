"""The body of a model as a chain of cuts, with what the planners of the literature ask of each possible volume.

Location 0 is the input, location i the cut `graph.cuts[i - 1]`. Which rows of a tensor a volume needs depends only on
where it ends; so one walk backwards from an end prices the volumes from every start to it, for a batch of splits at
once.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distredge.latency.tables.volume_geometry import row_needs
from distredge.latency.tables.volume_tables import head_part
from distredge.model.cuts import needs_of
from distredge.model.operators import Kind
from distredge.model.rows import Interval, Region

if TYPE_CHECKING:
    from distredge.model.nodes import Operator
    from distredge.problem import Problem

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Rows = tuple[Ints, Ints]
"""First row and end of the rows of each device under each split, (n_splits, n_devices) each."""


@dataclass(frozen=True)
class VolumeCost:
    """One possible volume under a batch of splits.

    Attributes:
        start, end: locations.
        compute_s: (n_splits, n_devices), by the profiles, halo and what enters and leaves included; 0 where a device
            has nothing to do.
        macs: (n_splits, n_devices), halo included.
        needed: tensors made before `start`, and the rows of them that each device needs.
    """

    start: int
    end: int
    compute_s: Floats
    macs: Floats
    needed: dict[str, Rows]


class VolumeCosts:
    """Prices the volumes of a problem.

    Args:
        problem: model and cluster.
        devices: names in slab order; None takes the cluster's.
    """

    def __init__(self, problem: Problem, devices: Sequence[str] | None = None) -> None:
        self.problem = problem
        self.graph = problem.graph
        self.devices = tuple(problem.cluster.names if devices is None else devices)
        self.costs = [problem.part_costs(name) for name in self.devices]
        self._starts = {cut.position: cut.index + 1 for cut in self.graph.cuts[:-1]} | {0: 0}
        self._reach: dict[tuple[int, int], Rows] = {}
        self._tables: dict[int, Floats | None] = {}

    @property
    def last(self) -> int:
        """The location at which the body ends."""
        return len(self.graph.cuts)

    @functools.cached_property
    def whole_blocks(self) -> tuple[int, ...]:
        """Locations where one tensor is alive: between whole residual or inception blocks; 0 and the last included."""
        return (0, *(c.index + 1 for c in self.graph.cuts[:-1] if len(c.tensors) == 1), self.last)

    def height(self, end: int) -> int:
        """Rows that a split decision at `end` deals out."""
        return self.graph.cuts[end - 1].height

    def owned(self, tensor: str, location: int, points: Ints) -> Rows:
        """Rows of a tensor that each device owns under splits (n_splits, n_devices + 1) at a location."""
        height = self.graph.tensors[tensor].height
        scaled = points * height // self.height(location)
        return scaled[:, :-1], scaled[:, 1:]

    def walk(self, end: int, points: ArrayLike) -> Iterator[VolumeCost]:
        """Prices the volumes that end at `end`, the shortest first.

        Args:
            end: location, 1 to `last`.
            points: (n_splits, n_devices + 1) cut points of the rows at `end`.

        Yields:
            A slice for every location before `end`.
        """
        splits = np.asarray(points, np.int64)
        cut = self.graph.cuts[end - 1]
        wanted: dict[str, Rows] = {}
        compute_s = np.zeros((len(splits), len(self.devices)))
        macs, leaving = np.zeros_like(compute_s), np.zeros_like(compute_s)
        made: set[str] = set()
        for place in range(cut.position - 1, -1, -1):
            op = self.graph.operators[self.graph.body.operators[place]]
            made.update(op.outputs)
            reduces = self.graph.body.verdicts[op.index].kind is Kind.REDUCE
            found = [wanted.pop(name) for name in op.outputs if name in wanted]
            for name in op.outputs:
                if self._leaves(name, end):
                    found.append(self.owned(name, end, splits))
                    leaving += self._elements(name, found[-1]) if name not in self.graph.body.vectors else 0
            out = functools.reduce(_hull, found) if found else None
            self._add_cost(op, self.owned(op.inputs[0], end, splits) if reduces else out, compute_s, macs)
            for position in op.activations:
                name = op.inputs[position]
                need = self.owned(name, end, splits) if reduces else self._need(op, position, out)
                if need is not None:
                    wanted[name] = _hull(wanted[name], need) if name in wanted else need
            start = self._starts.get(place)
            if start is not None:
                seconds = self._with_overhead(compute_s)
                if np.any(self._element_s):
                    elements = leaving + sum(self._elements(name, rows) for name, rows in wanted.items())
                    seconds += np.where(seconds > 0, self._element_s * elements, 0.0)
                yield VolumeCost(start, end, seconds, macs.copy(), dict(wanted))

    def slices(self, end: int, points: ArrayLike) -> dict[int, VolumeCost]:
        """`walk` by start."""
        return {piece.start: piece for piece in self.walk(end, points)}

    def needed_bytes(self, piece: VolumeCost) -> Floats:
        """Bytes of all rows that each device needs before a volume, (n_splits, n_devices)."""
        return self._bytes({name: stop - first for name, (first, stop) in piece.needed.items()}, piece)

    def fetched_bytes(self, piece: VolumeCost, points: ArrayLike) -> Floats:
        """Bytes that each device needs and does not own, the rows at `piece.start` being split at `points`."""
        if piece.start == 0:
            return self.needed_bytes(piece)
        splits = np.asarray(points, np.int64)
        rows = {}
        for name, (first, stop) in piece.needed.items():
            rows[name] = stop - first
            if name in self.graph.producer:
                own_first, own_stop = self.owned(name, piece.start, splits)
                rows[name] = rows[name] - np.maximum(0, np.minimum(stop, own_stop) - np.maximum(first, own_first))
        return self._bytes(rows, piece)

    def owned_bytes(self, end: int, points: ArrayLike) -> Floats:
        """Bytes of the tensors alive at a location that each device owns, (n_splits, n_devices)."""
        splits = np.asarray(points, np.int64)
        total = np.zeros((len(splits), splits.shape[1] - 1))
        for name in self.graph.cuts[end - 1].tensors:
            first, stop = self.owned(name, end, splits)
            total += self.graph.tensors[name].row_bytes * (stop - first)
        return total

    def alive_bytes(self, location: int) -> int:
        """Bytes of everything alive at a location (at 0: the input)."""
        names = self.graph.input_names if location == 0 else self.graph.cuts[location - 1].tensors
        return sum(self.graph.tensors[name].size_bytes for name in names)

    @functools.cached_property
    def whole_s(self) -> Floats:
        """(n_devices, last), seconds of the whole of each layer (the operators between neighbouring cuts)."""
        found = np.zeros((len(self.devices), self.last))
        whole = _whole_each(len(self.devices))
        for end in range(1, self.last + 1):
            piece = next(self.walk(end, whole * self.height(end)))
            found[:, end - 1] = np.diagonal(piece.compute_s)
        return found

    @functools.cached_property
    def layer_macs(self) -> Floats:
        """(last,), multiply-adds of each layer."""
        positions = [0, *(cut.position for cut in self.graph.cuts)]
        order = self.graph.body.operators
        return np.array(
            [
                sum(self.graph.macs[order[place]] for place in range(first, stop))
                for first, stop in itertools.pairwise(positions)
            ],
            np.float64,
        )

    @functools.cached_property
    def body_s(self) -> Floats:
        """(n_devices,), seconds of the whole body as one volume on each device."""
        whole = _whole_each(len(self.devices)) * self.height(self.last)
        return np.diagonal(self.slices(self.last, whole)[0].compute_s).copy()

    @functools.cached_property
    def speed(self) -> Floats:
        """(n_devices,), bodies per second of each device alone: its measured capability."""
        return 1.0 / np.maximum(self.body_s, 1e-12)

    @functools.cached_property
    def head_s(self) -> Floats:
        """(n_devices,), seconds of the head on each device."""
        head = head_part(self.graph)
        return np.array([costs.part_s(head) for costs in self.costs])

    def reach(self, op: Operator, position: int) -> Rows:
        """(n_rows,) first input row, and end of the input rows, that each output row reads; both never fall."""
        key = (op.index, position)
        if key not in self._reach:
            first, stop = self._row_needs(op, position)
            self._reach[key] = np.minimum.accumulate(first[::-1])[::-1], np.maximum.accumulate(stop)
        return self._reach[key]

    def _row_needs(self, op: Operator, position: int) -> Rows:
        if op.index not in self.graph.body.everywhere:
            return row_needs(self.graph, op, position)
        height = self.graph.tensors[op.outputs[0]].height
        needs = [
            needs_of(self.graph, self.graph.body, op, position, Region(Interval(r, r + 1))).rows for r in range(height)
        ]
        return np.array([need.start for need in needs], np.int64), np.array([need.stop for need in needs], np.int64)

    def _leaves(self, name: str, end: int) -> bool:
        """Whether a tensor made before `end` is needed after it."""
        if name in self.graph.cuts[end - 1].tensors:
            return True
        return name in self.graph.output_names and name not in self.graph.body.vectors

    @functools.cached_property
    def _element_s(self) -> Floats:
        """(n_devices,), seconds of an element that enters or leaves a part."""
        return np.array([costs.element_s for costs in self.costs])

    def _elements(self, name: str, rows: Rows) -> Floats:
        tensor = self.graph.tensors[name]
        found: Floats = np.maximum(0, rows[1] - rows[0]) * (tensor.elements / tensor.height)
        return found

    def _add_cost(self, op: Operator, out: Rows | None, compute_s: Floats, macs: Floats) -> None:
        if out is None:
            return
        rows = np.maximum(0, out[1] - out[0])
        height = self.graph.tensors[op.outputs[0]].height
        macs += self.graph.macs[op.index] / max(1, height) * rows
        table = self._table(op.index)
        if table is not None:
            compute_s += table[np.arange(len(self.devices))[None, :], np.minimum(rows, table.shape[1] - 1)]

    def _table(self, operator: int) -> Floats | None:
        """(n_devices, rows + 1) seconds of an operator; None for one that costs nothing of its own."""
        if operator not in self._tables:
            tables = [costs.table(operator) for costs in self.costs]
            self._tables[operator] = None if tables[0] is None else np.array(tables)
        return self._tables[operator]

    def _with_overhead(self, compute_s: Floats) -> Floats:
        overhead = np.array([costs.profile.segment_overhead_s for costs in self.costs])
        factor = np.array([costs.profile.segment_factor for costs in self.costs])
        return np.where(compute_s > 0, overhead + factor * compute_s, 0.0)

    def _need(self, op: Operator, position: int, out: Rows | None) -> Rows | None:
        """Rows of an input that the rows `out` of the output read."""
        if out is None:
            return None
        first_of, stop_of = self.reach(op, position)
        empty = out[1] <= out[0]
        first = np.where(empty, 0, first_of[np.minimum(out[0], len(first_of) - 1)])
        stop = np.where(empty, 0, stop_of[np.maximum(out[1] - 1, 0)])
        return first, stop

    def _bytes(self, rows: dict[str, Ints], piece: VolumeCost) -> Floats:
        total = np.zeros_like(piece.macs)
        for name, count in rows.items():
            total += self.graph.tensors[name].row_bytes * np.maximum(0, count)
        return total


def _whole_each(count: int) -> Ints:
    """(count, count + 1) splits of height 1: in the k-th one device k has everything."""
    return (np.arange(count + 1)[None, :] > np.arange(count)[:, None]).astype(np.int64)


def _hull(one: Rows, other: Rows) -> Rows:
    """Elementwise hull; empty intervals count for nothing."""
    here, there = one[1] > one[0], other[1] > other[0]
    both = here & there
    first = np.where(both, np.minimum(one[0], other[0]), np.where(there, other[0], one[0]))
    stop = np.where(both, np.maximum(one[1], other[1]), np.where(there, other[1], one[1]))
    return first, stop
