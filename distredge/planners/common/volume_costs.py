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

from distredge.latency.costs.part_costs import part_costs
from distredge.latency.tables.volume_geometry import RowSpans
from distredge.latency.tables.volume_tables import head_part
from distredge.planners.common.split_rows import fetched_rows, rows_of_splits, walk_of_splits
from distredge.profiles.part_costs import PartTerms, part_seconds

if TYPE_CHECKING:
    from distredge.problem import Problem

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class VolumeCost:
    """One possible volume under a batch of splits.

    Attributes:
        start, end: locations.
        compute_s: (n_splits, n_devices), by the profiles, halo and what enters and leaves included; 0 where a device
            has nothing to do.
        macs: (n_splits, n_devices), halo included.
        needed: tensors made before `start`, and the rows of them that each device needs, (n_splits, n_devices).
    """

    start: int
    end: int
    compute_s: Floats
    macs: Floats
    needed: dict[str, RowSpans]


class VolumeCosts:
    """Prices the volumes of a problem.

    Args:
        problem: model and cluster.
        devices: names in slab order; None takes the cluster's.

    Attributes:
        boards: what computing costs on each device.
    """

    def __init__(self, problem: Problem, devices: Sequence[str] | None = None) -> None:
        self.problem = problem
        self.graph = problem.graph
        self.devices = tuple(problem.cluster.names if devices is None else devices)
        self.boards = [part_costs(problem, name) for name in self.devices]
        self._starts = {cut.position: cut.index + 1 for cut in self.graph.cuts[:-1]} | {0: 0}
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

    def owned(self, tensor: str, location: int, points: Ints) -> RowSpans:
        """Returns the rows of a tensor that each device owns, (n_splits, n_devices).

        Args:
            tensor: alive at the location.
            location: 1 to `last`.
            points: (n_splits, n_devices + 1) cut points of the rows there.
        """
        return rows_of_splits(self.graph, location, points).share(tensor)

    def walk(self, end: int, points: ArrayLike) -> Iterator[VolumeCost]:
        """Prices the volumes that end at `end`, the shortest first.

        Args:
            end: location, 1 to `last`.
            points: (n_splits, n_devices + 1) cut points of the rows at `end`.

        Yields:
            What the volume from every location before `end` costs.
        """
        splits = np.asarray(points, np.int64)
        walk = walk_of_splits(self.graph, end, splits)
        compute_s = np.zeros((len(splits), len(self.devices)))
        works = np.zeros(compute_s.shape, bool)
        macs, leaving = np.zeros_like(compute_s), np.zeros_like(compute_s)
        priced_edges = bool(np.any(self._terms.element_s))
        for place in range(self.graph.cuts[end - 1].position - 1, -1, -1):
            index = self.graph.body.operators[place]
            walk.step(index)
            if index in walk.computed:
                rows = walk.computed[index].count
                works |= rows > 0
                self._add_cost(index, rows, compute_s, macs)
            for name in self.graph.operators[index].outputs:
                if name in walk.owned and priced_edges:
                    leaving += self._elements(name, walk.owned[name])
            start = self._starts.get(place)
            if start is not None:
                elements = leaving
                for name, needed in walk.needed.items() if priced_edges else ():
                    elements = elements + self._elements(name, needed)
                seconds = np.where(works, part_seconds(self._terms, compute_s, elements), 0.0)
                yield VolumeCost(start, end, seconds, macs.copy(), dict(walk.needed))

    def slices(self, end: int, points: ArrayLike) -> dict[int, VolumeCost]:
        """Returns what `walk` yields, by start; points are (n_splits, n_devices + 1)."""
        return {piece.start: piece for piece in self.walk(end, points)}

    def needed_bytes(self, piece: VolumeCost) -> Floats:
        """Bytes of all rows that each device needs before a volume, (n_splits, n_devices)."""
        return self._bytes({name: rows.count for name, rows in piece.needed.items()}, piece)

    def fetched_bytes(self, piece: VolumeCost, points: ArrayLike) -> Floats:
        """Bytes that each device needs and does not own, (n_splits, n_devices).

        Args:
            piece: the volume.
            points: (n_splits, n_devices + 1) cut points of the rows at `piece.start`; at location 0 nobody owns any.
        """
        if piece.start == 0:
            return self.needed_bytes(piece)
        rows = fetched_rows(self.graph, piece.start, np.asarray(points, np.int64), piece.needed)
        return self._bytes(rows, piece)

    def owned_bytes(self, end: int, points: ArrayLike) -> Floats:
        """Bytes of the tensors alive at a location that each device owns, (n_splits, n_devices)."""
        splits = np.asarray(points, np.int64)
        total = np.zeros((len(splits), splits.shape[1] - 1))
        for name in self.graph.cuts[end - 1].tensors:
            total += self.graph.tensors[name].row_bytes * self.owned(name, end, splits).count
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
        return np.array([board.part_s(head) for board in self.boards])

    @functools.cached_property
    def _terms(self) -> PartTerms:
        """Of every device, (n_devices,) each."""
        return PartTerms(*np.array([board.terms for board in self.boards]).T)

    def _elements(self, name: str, rows: RowSpans) -> Floats:
        tensor = self.graph.tensors[name]
        found: Floats = np.multiply(rows.count, tensor.elements / tensor.height)
        return found

    def _add_cost(self, index: int, rows: Ints, compute_s: Floats, macs: Floats) -> None:
        if self.graph.macs[index]:
            height = self.graph.tensors[self.graph.operators[index].outputs[0]].height
            macs += self.graph.macs[index] / max(1, height) * rows
        table = self._table(index)
        if table is not None:
            compute_s += table[np.arange(len(self.devices))[None, :], np.minimum(rows, table.shape[1] - 1)]

    def _table(self, operator: int) -> Floats | None:
        """(n_devices, rows + 1) seconds of an operator; None for one that costs nothing of its own."""
        if operator not in self._tables:
            tables = [board.table(operator) for board in self.boards]
            self._tables[operator] = None if tables[0] is None else np.array(tables)
        return self._tables[operator]

    def _bytes(self, rows: dict[str, Ints], piece: VolumeCost) -> Floats:
        total = np.zeros_like(piece.macs)
        for name, count in rows.items():
            total += self.graph.tensors[name].row_bytes * count
        return total


def _whole_each(count: int) -> Ints:
    """(count, count + 1) splits of height 1: in the k-th one device k has everything."""
    return (np.arange(count + 1)[None, :] > np.arange(count)[:, None]).astype(np.int64)
