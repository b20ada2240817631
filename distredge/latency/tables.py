"""Flat tables of what the parts of every volume cost and need, for the compiled kernel.

A volume is tabulated when a strategy first uses it. The seconds of a part depend on its number of rows and, near the
tensor's edges where halos are clipped, on where it lies. So a table has one row per *class* of a part's start (its
first rows one by one, all the others together) and of its end, and one column per number of rows: a few kilobytes
instead of one entry per (a, b), which would not stay in the processor's cache.

All integers are in one array, `Tables.model()`, whose first entries say where the others are (AT_...) and how many:

- volume by (cut before + 1, last cut): its row below, or -1.
- place in the body of each cut.
- volumes, VOLUME columns: HEIGHT, SEPARABLE, START_CLASS and STOP_CLASS (offsets by a and by b of the two terms whose
  sum is the place of a part's seconds), PHASES (first row), N_PHASES, MADE_IN (offset of each tensor's phase).
- phases, PHASE columns: NEEDS (first row), N_NEEDS, PARTIALS (first row), N_PARTIALS, SECONDS (offset for profile 0),
  STRIDE (to the next profile).
- needs, NEED columns: tensor, offset of first rows, offset of last rows.
- partial results, PARTIAL columns: phase that makes them, bytes, rows of the reduction's input.
- tensors, TENSOR columns: place of the producer in the body (-1: an input), rows, elements per row, bytes per element
  of a tensor that travels as it is (0: float32, which travels as the strategy says).
- what the head fetches (tensors; tensor and bytes of partial results) and what the requester does (tensors).

Offsets are into `ints` (rows and places) or `seconds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.latency.compute import PartCosts
from distredge.latency.geometry import Geometry, Phase, VolumeGeometry
from distredge.model.layout import PARTIAL as STACK
from distredge.model.layout import WIRE_BYTES, Decision, Part, lay_out_decisions

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.profiles.compute import ComputeProfile

VOLUME, PHASE, NEED, PARTIAL, TENSOR = 7, 6, 3, 3, 4
HEIGHT, SEPARABLE, START_CLASS, STOP_CLASS, PHASES, N_PHASES, MADE_IN = range(VOLUME)
NEEDS, N_NEEDS, PARTIALS, N_PARTIALS, SECONDS, STRIDE = range(PHASE)
(
    AT_INDEX,
    AT_CUTS,
    AT_VOLUMES,
    AT_PHASES,
    AT_NEEDS,
    AT_PARTIALS,
    AT_TENSORS,
    AT_HEAD_NEEDS,
    AT_HEAD_PARTIALS,
    AT_RESULTS,
    N_CUTS,
    N_HEAD_NEEDS,
    N_HEAD_PARTIALS,
    N_RESULTS,
    HEAD_BYTES,
    HAS_HEAD,
) = range(16)

Ints = NDArray[np.int64]


class Flat:
    """A growing array."""

    def __init__(self, dtype: type, columns: int | None = None) -> None:
        shape = (64,) if columns is None else (64, columns)
        self.data: NDArray[Any] = np.zeros(shape, dtype=dtype)
        self.size = 0

    def add(self, values: NDArray[Any]) -> int:
        """Appends values and returns where they start."""
        start, stop = self.size, self.size + len(values)
        if stop > len(self.data):
            grown = np.zeros((max(stop, 2 * len(self.data)), *self.data.shape[1:]), dtype=self.data.dtype)
            grown[:start] = self.data[:start]
            self.data = grown
        self.data[start:stop] = values
        self.size = stop
        return start


class Tables:
    """Tables of one graph for some profiles.

    Args:
        graph: the model.
        profiles: boards' profiles, the columns of the tables.
        geometry: row arithmetic of the graph, when it exists already.
    """

    def __init__(self, graph: Graph, profiles: Sequence[ComputeProfile], geometry: Geometry | None = None) -> None:
        self.graph = graph
        self.geometry = geometry or Geometry(graph)
        self.ints, self.seconds = Flat(np.int32), Flat(np.float64)
        self.index = np.full((len(graph.cuts), len(graph.cuts)), -1, dtype=np.int64)
        self.cut_heights = np.array([cut.height for cut in graph.cuts], dtype=np.int64)
        self.max_phases = 1
        self._costs = [PartCosts(graph, profile) for profile in profiles]
        self._volumes, self._phases = Flat(np.int64, VOLUME), Flat(np.int64, PHASE)
        self._needs, self._partials = Flat(np.int64, NEED), Flat(np.int64, PARTIAL)
        self._model: Ints | None = None
        self._head = _head_part(graph)
        self._numbers = self._number_tensors()

    def _number_tensors(self) -> dict[str, int]:
        """Numbers what can cross a volume's border: inputs, body feature maps, partial results for the head."""
        graph, body = self.graph, self.graph.body
        crossing = {t for cut in graph.cuts for t in cut.tensors} | set(body.head_inputs) | set(graph.output_names)
        crossing |= {graph.operators[i].outputs[0] for i in self._head.finishes}
        made = [t for i in body.operators for t in graph.operators[i].outputs if t in crossing]
        return {name: number for number, name in enumerate([*graph.input_names, *made])}

    def _tensor_rows(self) -> list[tuple[int, int, int, int]]:
        graph = self.graph
        place = {index: i for i, index in enumerate(graph.body.operators)}
        reduced = {graph.operators[i].outputs[0]: graph.operators[i].inputs[0] for i in self._head.finishes}
        rows = []
        for name in self._numbers:
            tensor = graph.tensors[name]
            own_bytes = 0 if tensor.dtype == "float32" else WIRE_BYTES[tensor.dtype]
            rows.append((
                place.get(graph.producer.get(name, -1), -1),
                graph.tensors[reduced.get(name, name)].height,
                tensor.elements // tensor.height,
                own_bytes,
            ))  # fmt: skip
        return rows

    def model(self) -> Ints:
        """Returns all tables of integers in one array; see the module's text."""
        if self._model is None:
            self._model = self._flatten()
        return self._model

    def _flatten(self) -> Ints:
        graph, head = self.graph, self._head
        finished = [(graph.operators[i].outputs[0], self.geometry.partial_bytes(i)) for i in head.finishes]
        stacks = {name + STACK for name, _ in finished}
        outputs = tuple(dict.fromkeys(graph.output_names))
        head_needs = self._numbered(n for n in head.inputs if n not in stacks)
        head_partials = _ints((self._numbers[name], size) for name, size in finished)
        results = self._numbered(n for n in outputs if n not in head.outputs and n not in graph.input_names)
        head_bytes = sum(
            graph.tensors[n].elements * WIRE_BYTES[graph.tensors[n].dtype] for n in outputs if n in head.outputs
        )
        parts = [
            self.index,
            _ints(cut.position for cut in graph.cuts),
            *(flat.data[: flat.size] for flat in (self._volumes, self._phases, self._needs, self._partials)),
            _ints(self._tensor_rows()),
            head_needs,
            head_partials,
            results,
        ]
        starts = 16 + np.cumsum([0, *(part.size for part in parts[:-1])])
        counts = (len(graph.cuts), head_needs.size, len(finished), results.size, head_bytes, int(not head.empty))
        return np.concatenate([starts, _ints(counts), *(part.ravel() for part in parts)])

    def _numbered(self, names: Iterable[str]) -> Ints:
        return _ints(self._numbers[n] for n in names)

    def head_seconds(self) -> NDArray[np.float64]:
        """Returns the seconds of the head on each profile, (n_profiles,); 0 without a head.

        Raises:
            ProfileError: if a profile lacks an operator of the head.
        """
        return np.array([costs.part_s(self._head) for costs in self._costs])

    def require(self, first: int, last: int) -> None:
        """Tabulates the volume after cut `first` (-1: the input) up to cut `last`, once.

        Raises:
            Unsupported: if the kernel cannot price it.
            ProfileError: if a profile lacks an operator.
        """
        if self.index[first + 1, last] >= 0:
            return
        geometry = self.geometry.volume(first, last)
        self._model = None
        self.max_phases = max(self.max_phases, len(geometry.phases))
        starts, stops = _classes(geometry)
        rows = np.arange(geometry.height + 1)
        phases_at = self._phases.add(_ints(self._phase(geometry, phase, starts, stops) for phase in geometry.phases))
        made_in = np.zeros(len(self._numbers), dtype=np.int32)
        for name, phase_number in geometry.made_in.items():
            if name in self._numbers:
                made_in[self._numbers[name]] = phase_number
        row = (
            geometry.height,
            int(geometry.separable),
            self.ints.add(starts * (stops.max() + 1) * (geometry.height + 1) - rows),
            self.ints.add(stops * (geometry.height + 1) + rows),
            phases_at,
            len(geometry.phases),
            self.ints.add(made_in),
        )
        self.index[first + 1, last] = self._volumes.add(_ints([row]))

    def _phase(self, geometry: VolumeGeometry, phase: Phase, starts: Ints, stops: Ints) -> tuple[int, ...]:
        needs = [
            (self._numbers[name], self._rows(span.start), self._rows(span.stop)) for name, span in phase.needs.items()
        ]
        reads = [(read.made, read.size_bytes, read.height) for read in phase.partials]
        tables = [self._seconds(costs, geometry, phase, starts, stops) for costs in self._costs]
        return (
            self._needs.add(_ints(needs).reshape(-1, NEED)),
            len(needs),
            self._partials.add(_ints(reads).reshape(-1, PARTIAL)),
            len(reads),
            self.seconds.add(np.concatenate(tables)),
            len(tables[0]),
        )

    def _rows(self, values: Ints) -> int:
        # Where nothing is needed the start is far behind the stop, and stays there.
        return self.ints.add(np.clip(values, -1, np.iinfo(np.int32).max))

    def _seconds(
        self, costs: PartCosts, geometry: VolumeGeometry, phase: Phase, starts: Ints, stops: Ints
    ) -> NDArray[np.float64]:
        """Seconds by (class of start, class of stop, number of rows), flattened; NaN where there is no such part."""
        a, b, valid = _representatives(geometry.height, starts, stops)
        at_start, at_stop = (a, b) if geometry.separable else (a * (geometry.height + 1) + b,) * 2
        total = np.zeros(a.shape)
        for index, span in phase.operators:
            table = costs.table(index)
            if table is not None:
                rows = np.where(valid, np.maximum(span.stop[at_stop] - span.start[at_start], 0), 0)
                total += np.array(table)[rows]
        profile = costs.profile
        return np.where(valid, profile.segment_overhead_s + profile.segment_factor * total, np.nan).ravel()


def _ints(values: Iterable[Any]) -> Ints:
    return np.array(list(values), dtype=np.int64)


def _head_part(graph: Graph) -> Part:
    """What the head device does after the last volume, whatever the strategy; an empty part without a head."""
    last = graph.cuts[-1]
    layout = lay_out_decisions(graph, ("any",), (Decision(last, (0, last.height)),), 0)
    return layout.stages[-1].parts[0] if layout.has_head else Part(0)


def _classes(geometry: VolumeGeometry) -> tuple[Ints, Ints]:
    """Class of a part's start by a and of its stop by b, (height + 1,) each."""
    height = geometry.height
    everything = np.arange(height + 1), np.zeros(height + 1, dtype=np.int64)
    if not geometry.separable or height < 4:
        return everything
    low, high = 0, 0
    for span in (span for phase in geometry.phases for _, span in phase.operators):
        by_a, by_b = np.diff(span.start[:-1]), np.diff(span.stop[1:])
        steady = by_a[len(by_a) // 2]
        uneven_a, uneven_b = np.flatnonzero(by_a != steady), np.flatnonzero(by_b != steady)
        low = max(low, int(uneven_a[-1]) + 1 if len(uneven_a) else 0)
        high = max(high, height - 1 - int(uneven_b[0]) if len(uneven_b) else 0)
    if (low + 1) * (high + 1) > height:
        return everything
    rows = np.arange(height + 1)
    return np.minimum(rows, low), np.minimum(height - rows, high)


def _representatives(height: int, starts: Ints, stops: Ints) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """One part [a, b) of each class and number of rows, and whether there is one: (n_starts, n_stops, height + 1)."""
    n_starts, n_stops = int(starts.max()) + 1, int(stops.max()) + 1
    a = np.zeros((n_starts, n_stops, height + 1), dtype=np.int64)
    b = np.zeros_like(a)
    valid = np.zeros(a.shape, dtype=bool)
    first, last = np.triu_indices(height + 1, 1)
    place = starts[first], stops[last], last - first
    a[place], b[place], valid[place] = first, last, True
    return a, b, valid
