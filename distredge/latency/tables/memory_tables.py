"""How much memory the parts of volumes take, as tables, for searches that must respect it.

What `latency.costs.memory` counts for one layout, from row arithmetic of whole volumes: the constants that a volume's
operators read, the bytes that are alive at once in a part, by its first and last row, and which tensors are kept
meanwhile for later volumes. An upper bound that is nearly always reached. It is above the peak where

- two volumes of one device read the same constant, which is counted twice;
- rows that a device owns are needed last before others of the same tensor, or nobody reads them: they are kept here as
  long as any row of the tensor;
- a volume has a reduction over rows that is read again: what its later phases need is kept throughout, and partial
  results count as if every device contributed one;
- a part is so short that it runs only some of its volume's operators: their constants count all;
- a volume has more than `GRID_STEPS` rows: a slightly larger part is looked up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.latency.costs.memory import part_bytes, weights_bytes
from distredge.latency.tables.volume_geometry import GraphGeometry, Phase, RowSpans, VolumeGeometry
from distredge.latency.tables.volume_tables import Flat
from distredge.model.laying_out import lay_out_decisions
from distredge.model.volumes import Decision, VolumeGraph, volume_between

if TYPE_CHECKING:
    from distredge.model.graph import Graph

GRID_STEPS = 256
"""Steps of the grid by which peaks are kept; with more rows than that a step has several."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Memory(NamedTuple):
    """What volumes take of a device's memory; see `latency.tables.memory_tables`.

    Attributes:
        row: (n_cuts, n_cuts) place of each volume in `volumes`, by cut before it plus 1 and cut at its end; -1 where it
            is not tabulated.
        weights: (n_cuts, n_cuts) bytes of a volume's constants.
        volumes: (n, 5) rows of the reference; rows of a step of the grid; offset in `peaks`; first place in `passing`,
            and the place after the last.
        peaks: bytes that are alive at once in a part, by first and last step of the grid.
        passing: (n, 3) tensors that are kept while a volume runs: the first cut behind what makes it, rows, bytes of a
            row.
        head: weights and activations of the head, bytes.
        kept: tensors that are kept while the head runs, as `passing`.
    """

    row: Ints
    weights: Floats
    volumes: Ints
    peaks: Floats
    passing: Ints
    head: Floats
    kept: Ints


def no_memory() -> Memory:
    """Tables for boards without limits, which ask for nothing."""
    square, flat = np.zeros((1, 1)), np.zeros(1)
    columns = [np.zeros((1, width), np.int64) for width in (5, 3, 3)]
    return Memory(np.full((1, 1), -1, np.int64), square, columns[0], flat, columns[1], flat, columns[2])


class Footprint:
    """Tables of what volumes of a graph take of a device's memory.

    Args:
        geometry: row arithmetic of the graph.
        devices: how many devices a strategy has at most.
    """

    def __init__(self, geometry: GraphGeometry, devices: int) -> None:
        self.geometry = geometry
        self.graph: Graph = geometry.graph
        self.devices = devices
        count = len(self.graph.cuts)
        self._row = np.full((count, count), -1, np.int64)
        self._weights = _weights(self.graph)
        self._volumes, self._passing = Flat(np.int64, 5), Flat(np.int64, 3)
        self._peaks = Flat(np.float64)
        self._places = {index: place for place, index in enumerate(self.graph.body.operators)}
        self._last_use = self._last_uses()
        self._head, self._kept = self._after()

    def arrays(self) -> Memory:
        """The tables as they stand."""
        volumes, peaks, passing = self._volumes.data, self._peaks.data, self._passing.data
        return Memory(self._row, self._weights, volumes, peaks, passing, self._head, self._kept)

    def require(self, first: int, last: int) -> None:
        """Tabulates the volume after cut `first` (-1: the input) up to cut `last`, once.

        Raises:
            Unsupported: if its parts need rows that do not rise with their own.
        """
        if self._row[first + 1, last] >= 0:
            return
        cuts = self.graph.cuts
        start, end = cuts[first].position if first >= 0 else 0, cuts[last].position
        geometry = self.geometry.volume(first, last)
        volume = volume_between(self.graph, start, end)
        step = -(-geometry.height // GRID_STEPS)
        shares = _Shares(geometry, step)
        peak = np.zeros(shares.shape)
        for number in range(len(geometry.phases)):
            peak = np.maximum(peak, self._phase(volume, geometry, number, shares))
        later = {name for phase in geometry.phases[1:] for name in phase.needs} if len(geometry.phases) > 1 else set()
        passing = self._passing_by(start, end, later)
        at = self._passing.add(passing)
        row = (geometry.height, step, self._peaks.add(peak.ravel()), at, at + len(passing))
        self._row[first + 1, last] = self._volumes.add(np.array([row], np.int64))

    def _last_uses(self) -> dict[str, int]:
        """Place of the last body operator that reads each tensor of the body; behind all for the head and results."""
        graph, body = self.graph, self.graph.body
        after = set(graph.output_names) | set(body.head_inputs)
        found = {}
        for index in body.operators:
            for name in graph.operators[index].outputs:
                if name and name not in body.vectors:
                    users = [self._places.get(c, len(self._places)) for c in graph.consumers.get(name, ())]
                    found[name] = len(self._places) if name in after else max(users, default=-1)
        return found

    def _passing_by(self, start: int, end: int, later: set[str]) -> Ints:
        """Tensors made before `start` that are needed at or behind `end`, or `later` in the volume itself."""
        found = []
        for name, use in self._last_use.items():
            place = self._places[self.graph.producer[name]]
            if place < start and (use >= end or name in later):
                found.append(self._kept_row(name, place))
        return np.array(found, np.int64).reshape(-1, 3)

    def _kept_row(self, name: str, place: int) -> tuple[int, int, int]:
        tensor = self.graph.tensors[name]
        cut = next(c.index for c in self.graph.cuts if c.position > place)
        return cut, tensor.height, tensor.row_bytes

    def _after(self) -> tuple[Floats, Ints]:
        """Weights and activations of the head, and what is kept for the requester while it runs."""
        graph, last = self.graph, self.graph.cuts[-1]
        layout = lay_out_decisions(graph, ("any",), (Decision(last, (0, last.height)),), 0)
        if not layout.has_head:
            return np.zeros(2), np.zeros((0, 3), np.int64)
        part = layout.stages[-1].parts[0]
        alone = type(layout)(layout.devices, layout.stages[-1:], (), layout.tensors, True)
        head = np.array([weights_bytes(graph, alone, 0), part_bytes(graph, layout, part)], np.float64)
        results = [name for name in dict.fromkeys(graph.output_names) if name in self._last_use]
        kept = [self._kept_row(name, self._places[graph.producer[name]]) for name in results]
        return head, np.array(kept, np.int64).reshape(-1, 3)

    def _phase(self, volume: VolumeGraph, geometry: VolumeGeometry, number: int, shares: _Shares) -> Floats:
        """Bytes alive at once in one phase of each part, and those kept across it for later phases."""
        graph, phase = self.graph, geometry.phases[number]
        short = geometry.short[number] if geometry.short else Phase()
        rows = {name: shares.rows(span, short.needs.get(name)) for name, span in phase.needs.items()}
        brief = dict(short.edges)
        kept: set[str] = set()
        for name, span in phase.edges:
            maker = volume.phase_of.get(graph.producer.get(name, -1))
            if maker is None or maker < number:
                rows[name] = shares.rows(span, brief.get(name))
            else:
                kept.add(name)
        operators = [(i, span) for i, span in reversed(phase.operators) if i not in volume.reductions]
        last_use = dict.fromkeys(kept, len(operators))
        for i, _ in phase.operators:
            if i in volume.reductions:
                last_use[graph.operators[i].inputs[0]] = len(operators)
        for place, (i, _) in enumerate(operators):
            for name in graph.operators[i].activation_names:
                last_use[name] = max(place, last_use.get(name, -1))
        alive = {name: count * graph.tensors[name].row_bytes for name, count in rows.items()}
        total = sum(alive.values(), np.zeros(shares.shape))
        peak, few = total.copy(), dict(short.operators)
        for place, (i, span) in enumerate(operators):
            count = shares.rows(span, few.get(i))
            for name in graph.operators[i].outputs:
                if name:
                    alive[name] = count * graph.tensors[name].row_bytes
                    total = total + alive[name]
            np.maximum(peak, total, out=peak)
            for name in [name for name in alive if last_use.get(name, -1) <= place]:
                total = total - alive.pop(name)
        partials = sum(read.size_bytes * self.devices for read in phase.partials)
        return peak + partials + self._across(volume, geometry.phases, number, shares)

    def _across(self, volume: VolumeGraph, phases: tuple[Phase, ...], number: int, shares: _Shares) -> Floats:
        """Bytes that an earlier phase of the same volume made and that a later one, or a later volume, needs."""
        graph, total = self.graph, np.zeros(shares.shape)
        for earlier in range(number):
            for name, span in phases[earlier].edges:
                if volume.phase_of.get(graph.producer.get(name, -1)) != earlier:
                    continue
                later = any(name == other for phase in phases[number + 1 :] for other, _ in phase.edges)
                if later or name in volume.exports:
                    total += shares.rows(span, None) * graph.tensors[name].row_bytes
        return total


class _Shares:
    """All parts of a volume between steps of its grid.

    Args:
        geometry: of the volume.
        step: rows of a step.
    """

    def __init__(self, geometry: VolumeGeometry, step: int) -> None:
        height, band = geometry.height, geometry.band
        points = np.minimum(np.arange(-(-height // step) + 1) * step, height)
        a, b = np.broadcast_arrays(points[:, None], points[None, :])
        # Of parts too short for starts and ends to be apart each has its own place; with several rows in a step the
        # next longer one stands for them.
        self._short = (b - a < band) & (step == 1)
        self._place = np.minimum(a, height) * band + np.clip(b - a, 0, band - 1)
        self._start = np.minimum(a, max(0, height - band))
        self._stop = np.maximum(b, np.minimum(self._start + band, height))

    @property
    def shape(self) -> tuple[int, int]:
        """Of the grid: first and last step."""
        return len(self._start), len(self._start)

    def rows(self, span: RowSpans, short: RowSpans | None) -> Ints:
        """Rows of a tensor of each part, from its spans by start and by end, and those of short parts."""
        found = span.stop[self._stop] - span.start[self._start]
        if self._short.any():
            few = 0 if short is None else short.stop[self._place] - short.start[self._place]
            found = np.where(self._short, few, found)
        return np.asarray(np.maximum(found, 0))


def _weights(graph: Graph) -> Floats:
    """(n_cuts, n_cuts) bytes of the constants of the volume after each cut (first row: the input) to each cut."""
    places = [0, *(cut.position for cut in graph.cuts)]
    found = np.zeros((len(graph.cuts), len(graph.cuts)))
    for end, cut in enumerate(graph.cuts):
        held: set[str] = set()
        total, start = 0, end
        for place in range(cut.position - 1, -1, -1):
            for name in graph.operators[graph.body.operators[place]].inputs:
                if name in graph.constants and name not in held:
                    held.add(name)
                    total += graph.constants[name].nbytes
            while start >= 0 and places[start] == place:
                found[start, end] = total
                start -= 1
    return found
