"""Row arithmetic of whole volumes at once: what every possible split-part computes and needs.

`model.laying_out` answers for one split-part; a search asks for thousands. For a fixed graph, what a part of the volume
between two cuts does is a function of its rows [a, b) of the reference tensor alone. This module evaluates that
function for many (a, b) at once with numpy, by the same backward walk as `model.volumes`.

The first row of everything depends on a alone and the last on b alone (every operator's need is a rising window), so
that two vectors per operator say it all, except for short parts that are empty somewhere inside though they have rows
(of tensors of different heights at one cut, the lower ones): those are listed one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.errors import Unsupported
from distredge.model.operators import RULES, Reduction
from distredge.model.operators.base import Rule
from distredge.model.operators.moving import Concat, attribute_axis
from distredge.model.operators.pointwise import Pointwise
from distredge.model.operators.windows import Windowed, window_of
from distredge.model.rows import Interval, Region
from distredge.model.volumes import Read, VolumeGraph, volume_between
from distredge.model.wires import WIRE_BYTES

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.model.nodes import Operator

Ints = NDArray[np.int64]

_FAR = np.int64(1) << 40


@dataclass(frozen=True)
class RowSpans:
    """Rows [start, stop) of a tensor for every entry of an index space; empty where stop <= start."""

    start: Ints
    stop: Ints

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Where it holds no row."""
        return self.stop <= self.start


def _hull(spans: Iterable[RowSpans], count: int) -> RowSpans:
    start, stop = np.full(count, _FAR), np.full(count, -_FAR)
    for span in spans:
        kept = ~span.empty
        start = np.where(kept, np.minimum(start, span.start), start)
        stop = np.where(kept, np.maximum(stop, span.stop), stop)
    return RowSpans(start, stop)


@dataclass(frozen=True)
class PartialRead:
    """A stack of partial results that a phase reads: one row from every device that has rows of the reduction's input.

    Attributes:
        made: phase that makes them.
        height: rows of the reduction's input.
        size_bytes: bytes of one contributor's.
    """

    made: int
    height: int
    size_bytes: int


@dataclass
class Phase:
    """What a part does between two exchanges.

    Attributes:
        operators: rows that it computes of each operator (of a reduction: rows that it contributes).
        needs: rows of each tensor from outside the volume.
        edges: rows of each tensor that enters or leaves, those that it keeps for a later phase among them.
        partials: partial results that it reads.
    """

    operators: list[tuple[int, RowSpans]] = field(default_factory=list)
    needs: dict[str, RowSpans] = field(default_factory=dict)
    edges: list[tuple[str, RowSpans]] = field(default_factory=list)
    partials: list[PartialRead] = field(default_factory=list)


@dataclass(frozen=True)
class VolumeGeometry:
    """What parts of one volume do.

    Attributes:
        height: rows of the reference tensor.
        phases: in order; spans hold starts by a and stops by b, (height + 1,) each, for parts of at least `band` rows.
        band: from so many rows on, nothing in a part is empty.
        short: the phases of shorter parts, when there are any: spans over (a, number of rows), (height + 1, band)
            flattened.
        made_in: phase in which each tensor that leaves the volume, or partial result that the head reads, is made.
    """

    height: int
    phases: tuple[Phase, ...]
    band: int
    short: tuple[Phase, ...]
    made_in: dict[str, int]


class _Need:
    """Rows of one input of an operator that output rows need, for many outputs at once."""

    def __init__(self, graph: Graph, op: Operator, position: int) -> None:
        self.start, self.stop = row_needs(graph, op, position)
        if _usual_needs(graph, op, position) is None and not self._rises(graph, op, position):
            raise Unsupported(f"{op.op_type} '{op.name}' needs rows that do not rise with its output rows")

    def _rises(self, graph: Graph, op: Operator, position: int) -> bool:
        """Whether the rows that a stretch of output rows needs begin with the first's and end with the last's."""
        height = len(self.start)
        rising = bool(np.all(np.diff(self.start) >= 0) and np.all(np.diff(self.stop) >= 0))
        for a, b in [(0, height), (height // 3, height - height // 3), (height // 2, height)]:
            if a < b:
                whole = RULES[op.op_type].needs(graph, op, position, Region(Interval(a, b))).rows
                rising = rising and (whole.start, whole.stop) == (self.start[a], self.stop[b - 1])
        return rising and bool(np.all(self.stop > self.start))

    def of(self, out: RowSpans) -> RowSpans:
        empty = out.empty
        last = len(self.start) - 1
        start = self.start[np.clip(out.start, 0, last)]
        stop = self.stop[np.clip(out.stop - 1, 0, last)]
        return RowSpans(np.where(empty, _FAR, start), np.where(empty, -_FAR, stop))


def row_needs(graph: Graph, op: Operator, position: int) -> tuple[Ints, Ints]:
    """Returns the first row, and the end of the rows, of one input that each single output row of an operator needs.

    Worked out once per graph. The operator must have a rule of its own: not one on vectors alone.
    """
    return graph.once(_row_needs, op.index, position)


def _row_needs(graph: Graph, index: int, position: int) -> tuple[Ints, Ints]:
    op = graph.operators[index]
    return _usual_needs(graph, op, position) or _needs_one_by_one(graph, op, position)


def _usual_needs(graph: Graph, op: Operator, position: int) -> tuple[Ints, Ints] | None:
    """`row_needs` of the usual operators, for all rows at once; those rows rise with the output's. None for others."""
    rows = np.arange(graph.tensors[op.outputs[0]].height, dtype=np.int64)
    needs, height = type(RULES[op.op_type]).needs, graph.tensors[op.inputs[position]].height
    if needs is Pointwise.needs and height == 1:
        return np.zeros_like(rows), np.ones_like(rows)
    if needs is Windowed.needs:
        stride, pad, extent = window_of(graph, op, "rows")
        start, stop = rows * stride - pad, rows * stride - pad + extent
        if np.all(stop > 0) and np.all(start < height):
            return np.maximum(start, 0), np.minimum(stop, height)
    elif needs in (Pointwise.needs, Rule.needs) or (needs is Concat.needs and not _joins_rows(graph, op)):
        return rows, rows + 1
    return None


def _needs_one_by_one(graph: Graph, op: Operator, position: int) -> tuple[Ints, Ints]:
    height = graph.tensors[op.outputs[0]].height
    found = [RULES[op.op_type].needs(graph, op, position, Region(Interval(r, r + 1))).rows for r in range(height)]
    return np.array([r.start for r in found], np.int64), np.array([r.stop for r in found], np.int64)


def _joins_rows(graph: Graph, op: Operator) -> bool:
    return attribute_axis(graph, op) == graph.tensors[op.outputs[0]].row_axis


class GraphGeometry:
    """Row arithmetic of one graph's volumes; needs of operators are looked up once.

    Args:
        graph: the model.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._needs: dict[tuple[int, int], _Need] = {}
        self._volumes: dict[tuple[int, int], VolumeGeometry] = {}

    def partial_bytes(self, reduction: int) -> int:
        """Bytes of one device's partial result."""
        op = self.graph.operators[reduction]
        rule = RULES[op.op_type]
        assert isinstance(rule, Reduction)
        # Partial results travel as they are, whatever the wires between volumes.
        width = WIRE_BYTES[self.graph.tensors[op.outputs[0]].dtype]
        return width * int(np.prod(rule.partial_shape(self.graph, op, 1), dtype=np.int64))

    def volume(self, first: int, last: int) -> VolumeGeometry:
        """Returns the geometry of the volume from after cut `first` (-1: the input) to cut `last`.

        Raises:
            Unsupported: if it cannot be tabulated.
        """
        key = (first, last)
        if key not in self._volumes:
            self._volumes[key] = self._volume(first, last)
        return self._volumes[key]

    def _volume(self, first: int, last: int) -> VolumeGeometry:
        cuts = self.graph.cuts
        volume = volume_between(self.graph, cuts[first].position if first >= 0 else 0, cuts[last].position)
        height = cuts[last].height
        rows = np.arange(height + 1, dtype=np.int64)
        heights = [self.graph.tensors[name].height for name in volume.exports]
        heights += [self.graph.tensors[self.graph.operators[i].inputs[0]].height for i in volume.reductions]
        band = max((-(-height // h) for h in heights), default=1)
        if band > 1 and volume.phases > 1:
            raise Unsupported("a volume with partial sums whose tensors have different heights")
        starts = self._walk(volume, height, np.append(rows[:-1], height - 1), np.full(height + 1, height))
        stops = self._walk(volume, height, np.zeros_like(rows), np.maximum(rows, 1))
        least = self._walk(volume, height, rows[: height + 1 - band], rows[band:])
        if not _matches(least, starts, stops, band):
            raise Unsupported("a volume whose parts need rows that do not rise with their own")
        short: tuple[Phase, ...] = ()
        if band > 1:
            cells = np.arange((height + 1) * band, dtype=np.int64)
            short = self._walk(volume, height, cells // band, np.minimum(cells // band + cells % band, height))
        made = dict(volume.exports)
        made |= {self.graph.operators[i].outputs[0]: volume.phase_of[i] for i in volume.reductions}
        return VolumeGeometry(height, _join(starts, stops), band, short, made)

    def _walk(self, volume: VolumeGraph, height: int, a: Ints, b: Ints) -> tuple[Phase, ...]:
        return _Walk(self, volume, height, a, b).phases

    def reach(self, op: Operator, position: int) -> tuple[Ints, Ints]:
        """First row, and end of the rows, of one input that each output row of an operator needs.

        Raises:
            Unsupported: if they do not rise with the output rows.
        """
        need = self._need(op, position)
        return need.start, need.stop

    def needs_of(self, op: Operator, position: int, out: RowSpans) -> RowSpans:
        """Rows of one input of an operator that output rows need.

        Raises:
            Unsupported: if they do not rise with the output rows.
        """
        return self._need(op, position).of(out)

    def _need(self, op: Operator, position: int) -> _Need:
        key = (op.index, position)
        if key not in self._needs:
            self._needs[key] = _Need(self.graph, op, position)
        return self._needs[key]


class _Walk:
    """The backward walk of `model.volumes` for many parts [a, b) of a volume's reference rows at once."""

    def __init__(self, geometry: GraphGeometry, volume: VolumeGraph, height: int, a: Ints, b: Ints) -> None:
        self.geometry = geometry
        self.graph = geometry.graph
        self.volume = volume
        self.count = len(a)
        self.phases = tuple(Phase() for _ in range(volume.phases))
        owned = {name: _share(self.graph.tensors[name].height, height, a, b) for name in volume.exports}
        self._wanted = {name: [span] for name, span in owned.items()}
        self._kept = {name: [span] for name, span in owned.items()}
        self._needs: dict[tuple[int, str], list[RowSpans]] = {}
        self._carried: dict[tuple[int, str], list[RowSpans]] = {}
        self._finishes: dict[tuple[int, int], None] = {}
        for index in reversed(volume.phase_of):
            if index in volume.reductions:
                source = self.graph.tensors[self.graph.operators[index].inputs[0]]
                self._contribute(index, _share(source.height, height, a, b))
            else:
                self._compute(index)
        self._collect()

    def _contribute(self, index: int, share: RowSpans) -> None:
        phase = self.volume.phase_of[index]
        self.phases[phase].operators.append((index, share))
        self._read(phase, self.volume.reads[index][0], share)

    def _compute(self, index: int) -> None:
        graph, phase = self.graph, self.volume.phase_of[index]
        op = graph.operators[index]
        out = _hull((s for name in op.outputs for s in self._wanted.get(name, ())), self.count)
        if np.all(out.empty):
            return
        everywhere = index in graph.body.everywhere
        if everywhere:
            out = _whole(graph.tensors[op.outputs[0]].height, out)
        self.phases[phase].operators.append((index, out))
        for read in self.volume.reads[index]:
            if everywhere:
                need = _whole(graph.tensors[read.tensor].height, out)
            else:
                need = self.geometry.needs_of(op, read.position, out)
            self._read(phase, read, need)

    def _read(self, phase: int, read: Read, need: RowSpans) -> None:
        if read.maker < 0:
            self._needs.setdefault((phase, read.tensor), []).append(need)
        elif read.maker in self.volume.reductions:
            self._finishes[phase, read.maker] = None
        else:
            self._wanted.setdefault(read.tensor, []).append(need)
            if read.earlier:
                self._carried.setdefault((phase, read.tensor), []).append(need)
                self._kept.setdefault(read.tensor, []).append(need)

    def _collect(self) -> None:
        """Fills in what crosses the phases' edges."""
        phase_of, graph = self.volume.phase_of, self.graph
        for (phase, name), spans in self._needs.items():
            self.phases[phase].needs[name] = _hull(spans, self.count)
            self.phases[phase].edges.append((name, self.phases[phase].needs[name]))
        for (phase, name), spans in self._carried.items():
            self.phases[phase].edges.append((name, _hull(spans, self.count)))
        for name, spans in self._kept.items():
            self.phases[phase_of[graph.producer[name]]].edges.append((name, _hull(spans, self.count)))
        for phase, maker in self._finishes:
            height = graph.tensors[graph.operators[maker].inputs[0]].height
            partial = PartialRead(phase_of[maker], height, self.geometry.partial_bytes(maker))
            self.phases[phase].partials.append(partial)


def _share(height: int, reference: int, a: Ints, b: Ints) -> RowSpans:
    """Rows of a tensor that the owner of reference rows [a, b) owns: floor(x * H / H_ref)."""
    return RowSpans(a * height // reference, b * height // reference)


def _whole(height: int, like: RowSpans) -> RowSpans:
    """All rows of a tensor, wherever `like` is not empty."""
    return RowSpans(np.where(like.empty, _FAR, 0), np.where(like.empty, -_FAR, height))


def _spans(phases: tuple[Phase, ...]) -> list[RowSpans]:
    return [span for phase in phases for span in (*(s for _, s in phase.operators), *phase.needs.values())]


def _matches(least: tuple[Phase, ...], starts: tuple[Phase, ...], stops: tuple[Phase, ...], band: int) -> bool:
    """Whether first rows depend on a alone and last rows on b alone, as far as the shortest parts can tell."""
    triples = zip(_spans(least), _spans(starts), _spans(stops), strict=True)
    return all(
        not np.any(one.empty)
        and np.array_equal(one.start, low.start[: len(one.start)])
        and np.array_equal(one.stop, high.stop[band:])
        for one, low, high in triples
    )


def _join(starts: tuple[Phase, ...], stops: tuple[Phase, ...]) -> tuple[Phase, ...]:
    return tuple(
        Phase(
            [(i, RowSpans(x.start, y.stop)) for (i, x), (_, y) in zip(low.operators, high.operators, strict=True)],
            {name: RowSpans(span.start, high.needs[name].stop) for name, span in low.needs.items()},
            [(name, RowSpans(x.start, y.stop)) for (name, x), (_, y) in zip(low.edges, high.edges, strict=True)],
            low.partials,
        )
        for low, high in zip(starts, stops, strict=True)
    )
