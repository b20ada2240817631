"""Flat tables of what the parts of every volume cost and need, for the compiled kernel.

A volume is tabulated when a strategy first uses it. The seconds of a part depend on its number of rows and, near the
tensor's edges where halos are clipped, on where it lies. So a table has one row per *class* of a part's start (its
first rows one by one, all the others together) and of its end, and one column per number of rows: a few kilobytes
instead of one entry per (a, b), which would not stay in the processor's cache. Where there would be as many classes as
rows, and where short parts can be empty inside, every part has an entry. A volume for which all that is not small is
*summed*: its operators' rows and seconds are kept, and added up for every part.

All integers are in one array, `Tables.model()`, whose first entries say where the others are (AT_...) and how many:

- volume by (cut before + 1, last cut): its row below, or -1.
- place in the body of each cut.
- volumes, VOLUME columns: HEIGHT, BAND (parts of fewer rows are short), START_CLASS and STOP_CLASS (offsets by a and
  by b of the two terms whose sum is the place of a part's seconds; negative: summed), PHASES (first row), N_PHASES,
  MADE_IN (offset of each tensor's phase), REDUCES (whether parts contribute to a reduction over rows).
- phases, PHASE columns: NEEDS (first row), N_NEEDS, PARTIALS (first row), N_PARTIALS, SECONDS (offset for profile 0;
  of a summed phase those of short parts by (a, rows), then the overhead), STRIDE (to the next profile), SUMS (first
  row) and N_SUMS.
- needs, NEED columns: tensor, offsets of first rows by a and of last rows by b, and for short parts by (a, rows).
- sums, SUM columns: offsets of an operator's first rows by a and last rows by b, of its seconds, stride to the next
  profile.
- partial results, PARTIAL columns: phase that makes them, bytes, rows of the reduction's input.
- tensors, TENSOR columns: place of the producer in the body (-1: an input), rows, and for each number of a wire the
  bytes of one row, all the same for a tensor other than float32, which travels as it is. Above those of a packed row
  (`PACKED_SHIFT`) are the bytes of float32 that are packed: one sum adds up both.
- what the head fetches (tensors; tensor and bytes of partial results) and what the requester does (tensors).

Offsets are into `ints` (rows and places) or `seconds`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import Unsupported
from distredge.latency.beside import beside
from distredge.latency.costs.part_costs import costs_of
from distredge.latency.tables.columns import (
    N_FIRST,
    N_PHASES,
    N_WIRES,
    NEED,
    PACKED_SHIFT,
    PARTIAL,
    PHASE,
    SUM,
    VOLUME,
)
from distredge.latency.tables.volume_geometry import GraphGeometry, Phase, RowSpans, VolumeGeometry
from distredge.model.laying_out import lay_out_decisions
from distredge.model.layout import PARTIAL as STACK
from distredge.model.layout import Part
from distredge.model.operators import Kind
from distredge.model.volumes import Decision
from distredge.model.wires import FLOAT32_BYTES, WIRE_BYTES, WIRES, wire_of_number
from distredge.model.zero_shares import zero_shares
from distredge.profiles.part_costs import part_seconds

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.model.nodes import Tensor
    from distredge.profiles.compute import ComputeProfile
    from distredge.profiles.part_costs import PartCosts

LARGEST = 40_000
"""Entries of a table of seconds above which the volume is summed instead."""

KEPT_TABLES = 4
"""Tables of other sets of profiles that are kept with a graph when no kernel uses them: some megabytes each."""

_BY_NUMBER = [WIRES[wire_of_number(WIRES)[number]] for number in range(N_WIRES)]

Ints = NDArray[np.int64]


class Flat:
    """A growing array.

    Args:
        dtype: of its values.
        columns: of a row; None makes it one-dimensional.

    Attributes:
        data: (capacity,) or (capacity, columns); what lies behind `size` means nothing.
        size: rows that are filled.
    """

    def __init__(self, dtype: type, columns: int | None = None) -> None:
        shape = (64,) if columns is None else (64, columns)
        self.data: NDArray[Any] = np.zeros(shape, dtype=dtype)
        self.size = 0

    def add(self, values: NDArray[Any]) -> int:
        """Appends values, (n,) or (n, columns), and returns the row at which they start."""
        self.reserve(len(values))
        start, stop = self.size, self.size + len(values)
        self.data[start:stop] = values
        self.size = stop
        return start

    def reserve(self, count: int) -> None:
        """Makes room for so many more values."""
        if self.size + count > len(self.data):
            grown = np.zeros((max(self.size + count, 2 * len(self.data)), *self.data.shape[1:]), dtype=self.data.dtype)
            grown[: self.size] = self.data[: self.size]
            self.data = grown


class Tables:
    """Tables of one graph for some profiles.

    Several kernels may use them, in several threads: what changes them holds `lock`. What they have given out stays as
    it is, since they only grow.

    Args:
        graph: the model.
        profiles: boards' profiles, the columns of the tables.

    Attributes:
        lock: held by who changes the tables, or reads several of them that belong together.
        column: of each profile.
        filled: by rising cuts, which of the volumes between them `all_volumes.fill` has been through.
    """

    def __init__(self, graph: Graph, profiles: Sequence[ComputeProfile]) -> None:
        self.graph = graph
        self.lock = threading.RLock()
        self.column = {profile: column for column, profile in enumerate(profiles)}
        self.filled: dict[tuple[int, ...], NDArray[np.bool_]] = {}
        self.geometry = beside(graph).get("geometry", (), lambda: GraphGeometry(graph))
        self.ints, self.seconds = Flat(np.int32), Flat(np.float64)
        self.index = np.full((len(graph.cuts), len(graph.cuts)), -1, dtype=np.int64)
        self.cut_heights = np.array([cut.height for cut in graph.cuts], dtype=np.int64)
        self.max_phases = 1
        self.costs = [costs_of(graph, profile) for profile in profiles]
        self._volumes, self._phases = Flat(np.int64, VOLUME), Flat(np.int64, PHASE)
        self._needs, self._sums = Flat(np.int64, NEED), Flat(np.int64, SUM)
        self._partials = Flat(np.int64, PARTIAL)
        self._operators: dict[int, tuple[int, int]] = {}
        self._edges: dict[str, tuple[int, int]] = {}
        self._model: Ints | None = None
        self._zero_shares: Mapping[str, float] | None = None
        self._head = head_part(graph)
        self.numbers = self._number_tensors()

    def _number_tensors(self) -> dict[str, int]:
        """Numbers what can cross a volume's border: inputs, body feature maps, partial results for the head."""
        graph, body = self.graph, self.graph.body
        crossing = {t for cut in graph.cuts for t in cut.tensors} | set(body.head_inputs) | set(graph.output_names)
        crossing |= {graph.operators[i].outputs[0] for i in self._head.finishes}
        made = [t for i in body.operators for t in graph.operators[i].outputs if t in crossing]
        return {name: number for number, name in enumerate([*graph.input_names, *made])}

    def price_packed(self) -> None:
        """Fills in what rows are packed, which takes measuring the graph on sample images; until then they are plain.

        Raises:
            Unsupported: if one message could have more bytes than the tables can add up.
        """
        shares = zero_shares(self.graph)
        if shares is self._zero_shares:
            return
        if sum(self.graph.tensors[name].elements for name in self.numbers) * FLOAT32_BYTES >= 1 << (PACKED_SHIFT - 1):
            raise Unsupported("packed rows of more than 2 GiB")
        with self.lock:
            self._zero_shares = shares
            self._model = None

    def _tensor_rows(self) -> list[tuple[int, ...]]:
        graph = self.graph
        place = {index: i for i, index in enumerate(graph.body.operators)}
        reduced = {graph.operators[i].outputs[0]: graph.operators[i].inputs[0] for i in self._head.finishes}
        return [
            (
                place.get(graph.producer.get(name, -1), -1),
                graph.tensors[reduced.get(name, name)].height,
                *self._row_bytes(graph.tensors[name]),
            )
            for name in self.numbers
        ]

    def _row_bytes(self, tensor: Tensor) -> list[int]:
        """Bytes of a row for each number of a wire."""
        elements = _row_elements(tensor)
        if tensor.dtype != "float32":
            return [elements * WIRE_BYTES[tensor.dtype]] * N_WIRES
        share = (self._zero_shares or {}).get(tensor.name, 0.0)
        wires = [wire.travels_as(share) for wire in _BY_NUMBER]
        return [
            wire.row_bytes(elements, share) + (elements * FLOAT32_BYTES << PACKED_SHIFT if wire.packed else 0)
            for wire in wires
        ]

    def model(self) -> Ints:
        """Returns all tables of integers in one array, (n,) int64; see the module's text."""
        with self.lock:
            if self._model is None:
                self._model = self._flatten()
            return self._model

    def _flatten(self) -> Ints:
        graph, head = self.graph, self._head
        finished = [(graph.operators[i].outputs[0], self.geometry.partial_bytes(i)) for i in head.finishes]
        stacks = {name + STACK for name, _ in finished}
        outputs = tuple(dict.fromkeys(graph.output_names))
        head_needs = self._numbered(n for n in head.inputs if n not in stacks)
        head_partials = _ints((self.numbers[name], size) for name, size in finished)
        results = self._numbered(n for n in outputs if n not in head.outputs and n not in graph.input_names)
        head_bytes = sum(
            graph.tensors[n].elements * WIRE_BYTES[graph.tensors[n].dtype] for n in outputs if n in head.outputs
        )
        parts = [
            self.index,
            _ints(cut.position for cut in graph.cuts),
            *(
                flat.data[: flat.size]
                for flat in (self._volumes, self._phases, self._needs, self._sums, self._partials)
            ),
            _ints(self._tensor_rows()),
            head_needs,
            head_partials,
            results,
        ]
        starts = N_FIRST + np.cumsum([0, *(part.size for part in parts[:-1])])
        counts = (len(graph.cuts), head_needs.size, len(finished), results.size, head_bytes, int(not head.empty))
        return np.concatenate([starts, _ints(counts), *(part.ravel() for part in parts)])

    def _numbered(self, names: Iterable[str]) -> Ints:
        return _ints(self.numbers[n] for n in names)

    @functools.cached_property
    def head_seconds(self) -> NDArray[np.float64]:
        """Seconds of the head on each profile, (n_profiles,); 0 without a head.

        Raises:
            ProfileError: if a profile lacks an operator of the head.
        """
        return np.array([costs.part_s(self._head) for costs in self.costs])

    def require(self, first: int, last: int) -> None:
        """Tabulates the volume after cut `first` (-1: the input) up to cut `last`, once.

        Raises:
            Unsupported: if the kernel cannot price it.
            ProfileError: if a profile lacks an operator.
        """
        with self.lock:
            if self.index[first + 1, last] >= 0:
                return
            geometry = self.geometry.volume(first, last)
            classes = _classes(geometry, self._priced_edges)
            phases = _ints(self._phase(geometry, number, classes) for number in range(len(geometry.phases)))
            self._add(first, last, geometry.height, geometry.band, classes, phases, geometry.made_in)

    def lists(self) -> tuple[Flat | None, ...]:
        """Returns needs, partial results, nothing, phases and sums, for who tabulates volumes elsewhere."""
        return self._needs, self._partials, None, self._phases, self._sums

    def add_volumes(self, starts: Ints, last: int, rows: Ints) -> None:
        """Adds volumes that were tabulated elsewhere.

        Args:
            starts: (n,) cut before each, plus 1.
            last: cut at their end.
            rows: (n, VOLUME) as in the module's text.
        """
        self._model = None
        self.max_phases = max(self.max_phases, int(rows[:, N_PHASES].max()))
        self.index[starts, last] = self._volumes.add(rows) + np.arange(len(rows))

    def place_classes(self, height: int, low: int, high: int) -> tuple[int, int]:
        """Adds the terms by a and by b whose sum is the place of a part's seconds, and returns where they start.

        Args:
            height: rows of the reference.
            low: first rows that are classes of starts of their own.
            high: the same of ends.
        """
        rows = np.arange(height + 1)
        by_start, by_stop = _places(height, np.minimum(rows, low), np.minimum(height - rows, high))
        return self.ints.add(by_start), self.ints.add(by_stop)

    def _reduces(self, first: int, last: int) -> bool:
        """Whether a reduction over rows lies between two cuts."""
        cuts = self.graph.cuts
        start = cuts[first].position if first >= 0 else 0
        return any(start <= place < cuts[last].position for place in self._reductions)

    @functools.cached_property
    def _reductions(self) -> list[int]:
        """Places of the reductions over rows in the body."""
        body = self.graph.body
        return [place for place, i in enumerate(body.operators) if body.verdicts[i].kind is Kind.REDUCE]

    @functools.cached_property
    def _priced_edges(self) -> bool:
        return any(costs.element_s > 0 for costs in self.costs)

    def _add(
        self,
        first: int,
        last: int,
        height: int,
        band: int,
        classes: tuple[Ints, Ints] | None,
        phases: Ints,
        made: Mapping[str, int],
    ) -> None:
        self._model = None
        self.max_phases = max(self.max_phases, len(phases))
        made_in = np.zeros(len(self.numbers), dtype=np.int32)
        for name, phase in made.items():
            if name in self.numbers:
                made_in[self.numbers[name]] = phase
        start_at, stop_at = -1, -1
        if classes is not None:
            by_start, by_stop = _places(height, *classes)
            start_at, stop_at = self.ints.add(by_start), self.ints.add(by_stop)
        row = (
            height, band, start_at, stop_at, self._phases.add(phases), len(phases), self.ints.add(made_in),
            int(self._reduces(first, last)),
        )  # fmt: skip
        self.index[first + 1, last] = self._volumes.add(_ints([row]))

    def _phase(self, geometry: VolumeGeometry, number: int, classes: tuple[Ints, Ints] | None) -> tuple[int, ...]:
        phase = geometry.phases[number]
        short = geometry.short[number] if geometry.short else Phase()
        needs = []
        for name, span in phase.needs.items():
            brief = short.needs.get(name)
            few = (0, 0) if brief is None else (self._rows(brief.start), self._rows(brief.stop))
            needs.append((self.numbers[name], self._rows(span.start), self._rows(span.stop), *few))
        reads = [(read.made, read.size_bytes, read.height) for read in phase.partials]
        if classes is not None:
            tables = [self._seconds(costs, geometry, number, classes) for costs in self.costs]
            sums = []
        else:
            tables = [self._short_seconds(costs, short, (geometry.height + 1) * geometry.band) for costs in self.costs]
            priced = [(index, span) for index, span in phase.operators if self._priced(index)]
            sums = [(*self._span(span), *self.operator_seconds(index)) for index, span in priced]
            if self._priced_edges:
                sums += [(*self._span(span), *self.edge_seconds(name)) for name, span in phase.edges]
        return (
            self._needs.add(_ints(needs).reshape(-1, NEED)),
            len(needs),
            self._partials.add(_ints(reads).reshape(-1, PARTIAL)),
            len(reads),
            self.seconds.add(np.concatenate(tables)),
            len(tables[0]),
            self._sums.add(_ints(sums).reshape(-1, SUM)),
            len(sums),
        )

    def _rows(self, values: Ints) -> int:
        # Where nothing is needed the start is far behind the stop, and stays there.
        return self.ints.add(np.clip(values, -1, np.iinfo(np.int32).max))

    def _span(self, span: RowSpans) -> tuple[int, int]:
        return self._rows(span.start), self._rows(span.stop)

    def _priced(self, index: int) -> bool:
        return any(costs.table(index) is not None for costs in self.costs)

    def operator_seconds(self, index: int) -> tuple[int, int]:
        """Returns where an operator's seconds by rows are kept, with the segment's factor, and how long they are."""
        if index not in self._operators:
            tables = [costs.profile.segment_factor * np.array(costs.table(index)) for costs in self.costs]
            self._operators[index] = self.seconds.add(np.concatenate(tables)), len(tables[0])
        return self._operators[index]

    def edge_seconds(self, name: str) -> tuple[int, int]:
        """Returns where the seconds of rows of a tensor that enter or leave a part are kept, and how long they are."""
        if name not in self._edges:
            rows = np.arange(self.graph.tensors[name].height + 1) * _row_elements(self.graph.tensors[name])
            tables = [costs.element_s * rows for costs in self.costs]
            self._edges[name] = self.seconds.add(np.concatenate(tables)), len(rows)
        return self._edges[name]

    def _seconds(
        self, costs: PartCosts, geometry: VolumeGeometry, number: int, classes: tuple[Ints, Ints]
    ) -> NDArray[np.float64]:
        """Seconds by (class of start, class of stop, number of rows), flattened, as `_places` says."""
        phase, height, band = geometry.phases[number], geometry.height, geometry.band
        a, b, valid = _representatives(height, *classes)
        a, b = a[valid], b[valid]
        found = np.full(valid.shape, np.nan)
        found[valid] = self._part_seconds(costs, phase, lambda span: span.stop[b] - span.start[a])
        if geometry.short:
            few = valid & (np.arange(height + 1) < band)
            cells = (a * band + b - a)[few[valid]]
            short = geometry.short[number]
            found[few] = self._part_seconds(costs, short, lambda span: span.stop[cells] - span.start[cells])
        return found[valid] if _is_dense(height, *classes) else found.ravel()

    def _short_seconds(self, costs: PartCosts, short: Phase, count: int) -> NDArray[np.float64]:
        """Seconds of short parts by (a, rows), flattened, and the overhead of a segment."""
        overhead = costs.profile.segment_overhead_s
        if not short.operators:
            return np.full(count + 1, overhead)
        return np.append(self._part_seconds(costs, short, lambda span: span.stop - span.start), overhead)

    def _part_seconds(self, costs: PartCosts, phase: Phase, size: Callable[[RowSpans], Ints]) -> NDArray[np.float64]:
        """Seconds of parts, whose rows of a span `size` says; 0 for those that compute nothing."""
        total, works = np.zeros(1), np.zeros(1, bool)
        for index, span in phase.operators:
            rows = np.maximum(size(span), 0)
            works = works | (rows > 0)
            table = costs.table(index)
            if table is not None:
                total = total + np.array(table)[rows]
        elements = np.zeros(1)
        for name, span in phase.edges if costs.element_s > 0 else ():
            elements = elements + _row_elements(self.graph.tensors[name]) * np.maximum(size(span), 0)
        total = part_seconds(costs.terms, total, elements)
        return np.where(works, total, 0.0)


def tables_of(graph: Graph, profiles: Iterable[ComputeProfile]) -> Tables:
    """Returns the tables of a graph for a set of profiles, in whatever order: one object for all who ask.

    Args:
        graph: the model.
        profiles: boards' profiles; equal ones count once.
    """
    different = tuple(dict.fromkeys(profiles))
    return beside(graph).get("tables", frozenset(different), lambda: Tables(graph, different), KEPT_TABLES)


def _row_elements(tensor: Tensor) -> int:
    return tensor.elements // tensor.height


def _ints(values: Iterable[Any]) -> Ints:
    return np.array(list(values), dtype=np.int64)


def head_part(graph: Graph) -> Part:
    """What the head device does after the last volume, whatever the strategy; an empty part without a head."""
    last = graph.cuts[-1]
    layout = lay_out_decisions(graph, ("any",), (Decision(last, (0, last.height)),), 0)
    return layout.stages[-1].parts[0] if layout.has_head else Part(0)


def _classes(geometry: VolumeGeometry, with_edges: bool) -> tuple[Ints, Ints] | None:
    """Class of a part's start by a and of its stop by b, (height + 1,) each; None for a volume that is summed.

    Every start is a class of its own where parts can be empty inside. Parts of one class and number of rows have the
    same number of rows of every operator, and `with_edges` also of everything that enters or leaves.
    """
    height = geometry.height
    if geometry.band > 1:
        points = np.arange(height + 1)
        return (points, np.zeros_like(points)) if (height + 1) ** 2 <= LARGEST else None
    spans = [span for phase in geometry.phases for _, span in phase.operators]
    if with_edges:
        spans += [span for phase in geometry.phases for _, span in phase.edges]
    low, high = _uneven(spans, height)
    if height >= 4 and min((low + 1) * (high + 1), height + 1) * (height + 1) > LARGEST:
        return None
    return _numbered_classes(low, high, height)


def _uneven(spans: Iterable[RowSpans], height: int) -> tuple[int, int]:
    """How many first and how many last rows are unlike the others: beyond them, rows depend on a part's size alone."""
    low, high = 0, 0
    for span in spans if height >= 4 else ():
        by_a, by_b = np.diff(span.start[:-1]), np.diff(span.stop[1:])
        steady = by_a[len(by_a) // 2]
        uneven_a, uneven_b = np.flatnonzero(by_a != steady), np.flatnonzero(by_b != steady)
        low = max(low, int(uneven_a[-1]) + 1 if len(uneven_a) else 0)
        high = max(high, height - 1 - int(uneven_b[0]) if len(uneven_b) else 0)
    return low, high


def _numbered_classes(low: int, high: int, height: int) -> tuple[Ints, Ints]:
    rows = np.arange(height + 1)
    if height < 4 or (low + 1) * (high + 1) > height:
        return rows, np.zeros(height + 1, dtype=np.int64)
    return np.minimum(rows, low), np.minimum(height - rows, high)


def _is_dense(height: int, starts: Ints, stops: Ints) -> bool:
    """Whether every part is a class of its own, so that a table needs no entries that stand for none."""
    return int(starts.max()) == height and int(stops.max()) == 0


def _places(height: int, starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """Two terms, by a and by b, whose sum is the place of a part in a table of those classes."""
    rows = np.arange(height + 1)
    if _is_dense(height, starts, stops):
        return rows * height - rows * (rows - 1) // 2 - rows - 1, rows
    return starts * (stops.max() + 1) * (height + 1) - rows, stops * (height + 1) + rows


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
