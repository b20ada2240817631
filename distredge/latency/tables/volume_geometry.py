"""Row arithmetic of whole volumes at once: what every possible split-part computes and needs.

`model.laying_out` answers for one split-part; a search asks for thousands. `PartRows` is the rows of many parts, with
which `model.volumes.BackwardWalk` goes through a volume for all of them at once. For a fixed graph, what a part of the
volume between two cuts does is a function of its rows [a, b) of the reference tensor alone; `GraphGeometry` evaluates
it for all (a, b).

The first row of everything depends on a alone and the last on b alone (every operator's need is a rising window), so
that two vectors per operator say it all, except for short parts that are empty somewhere inside though they have rows
(of tensors of different heights at one cut, the lower ones): those are listed one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
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
from distredge.model.volumes import BackwardWalk, VolumeGraph, volume_between
from distredge.model.wires import WIRE_BYTES

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.model.nodes import Operator

Ints = NDArray[np.int64]

_FAR = np.int64(1) << 40


@dataclass(frozen=True)
class RowSpans:
    """Rows [start, stop) of a tensor for each of many parts.

    Attributes:
        start, stop: int64 rows, both (n_parts,) or both of another shape of parts, such as (n_splits, n_devices); where
            a part has no row, start is far above and stop far below all rows, so that hulls are minima and maxima.
    """

    start: Ints
    stop: Ints

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Whether each part has no row, bool, (n_parts,) or the parts' shape."""
        return self.stop <= self.start

    @property
    def count(self) -> Ints:
        """Number of each part's rows, int64, (n_parts,) or the parts' shape."""
        found: Ints = np.maximum(0, self.stop - self.start)
        return found

    def beyond(self, owned: RowSpans) -> Ints:
        """Number of each part's rows that are not among its `owned` ones, int64, (n_parts,) or the parts' shape."""
        both = np.minimum(self.stop, owned.stop) - np.maximum(self.start, owned.start)
        found: Ints = self.count - np.maximum(0, both)
        return found


def spans_of(start: Ints, stop: Ints) -> RowSpans:
    """Returns the rows [start, stop), none where stop <= start; both int64, (n_parts,) or another shape of parts."""
    empty = stop <= start
    if not empty.any():
        return RowSpans(start, stop)
    return RowSpans(np.where(empty, _FAR, start), np.where(empty, -_FAR, stop))


class Reach:
    """The rows of one input that output rows of an operator need, which rise with them.

    Args:
        start: (n_rows,) int64, first row that each output row needs.
        stop: (n_rows,) int64, end of the rows that it needs.
    """

    def __init__(self, start: Ints, stop: Ints) -> None:
        self.start, self.stop = start, stop

    def of(self, out: RowSpans) -> RowSpans:
        """Returns what output rows need."""
        if self._same:
            return out
        first, stop = self._padded
        return RowSpans(first.take(out.start, mode="clip"), stop.take(out.stop, mode="clip"))

    @functools.cached_property
    def _same(self) -> bool:
        """Whether every row needs the one of its own number."""
        rows = np.arange(len(self.start))
        return np.array_equal(self.start, rows) and np.array_equal(self.stop, rows + 1)

    @functools.cached_property
    def _padded(self) -> tuple[Ints, Ints]:
        """First rows by first row, and ends by end; what is far away is clipped to entries that are far away too."""
        return np.append(self.start, _FAR), np.insert(self.stop, 0, -_FAR)


class PartRows:
    """The rows of many parts at once, for `model.volumes.BackwardWalk`.

    Args:
        graph: the model.
        reach: returns what rows of an operator's output need of its input at a position.
        height: rows of the reference tensor at the end of the volume.
        start, stop: int64 rows [start, stop) of the reference that belong to each part, (n_parts,) or another shape of
            parts.
    """

    def __init__(
        self, graph: Graph, reach: Callable[[Operator, int], Reach], height: int, start: Ints, stop: Ints
    ) -> None:
        self.graph = graph
        self.reach = reach
        self.height = height
        self.start, self.stop = start, stop
        self._all = spans_of(start, stop)

    def share(self, tensor: str) -> RowSpans:
        """Returns what the parts own of a tensor that is alive at the end: floor(x * H / H_ref)."""
        height = self.graph.tensors[tensor].height
        if height == self.height:
            return self._all
        return spans_of(self.start * height // self.height, self.stop * height // self.height)

    def owned(self, tensor: str) -> RowSpans | None:
        """Returns `share`; None if no part has any."""
        found = self.share(tensor)
        return None if np.all(found.empty) else found

    def whole(self, tensor: str, like: RowSpans) -> RowSpans:
        """Returns all rows of a tensor for the parts that have any in `like`."""
        height = self.graph.tensors[tensor].height
        return RowSpans(np.where(like.empty, _FAR, 0), np.where(like.empty, -_FAR, height))

    def needs(self, op: Operator, position: int, out: RowSpans) -> RowSpans:
        """Returns the rows of an operator's input that rows of its output need."""
        return self.reach(op, position).of(out)

    def hull(self, one: RowSpans, other: RowSpans) -> RowSpans:
        """Returns the smallest stretches that hold both."""
        if one is other:
            return one
        return RowSpans(np.minimum(one.start, other.start), np.maximum(one.stop, other.stop))


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


def row_needs(graph: Graph, op: Operator, position: int) -> tuple[Ints, Ints]:
    """Returns which rows of one input each single output row of an operator needs: first and end, (n_rows,) int64 each.

    Worked out once per graph. The operator must have a rule of its own: not one on vectors alone.
    """
    return graph.once(_row_needs, op.index, position)


def _row_needs(graph: Graph, index: int, position: int) -> tuple[Ints, Ints]:
    op = graph.operators[index]
    return _usual_needs(graph, op, position) or _needs_one_by_one(graph, op, position)


def rising_needs(graph: Graph, op: Operator, position: int) -> Reach:
    """Returns what output rows of an operator need of an input; at least that where it does not rise with them.

    Worked out once per graph.
    """
    return graph.once(_rising_needs, op.index, position)


def _rising_needs(graph: Graph, index: int, position: int) -> Reach:
    start, stop = row_needs(graph, graph.operators[index], position)
    return Reach(np.minimum.accumulate(start[::-1])[::-1], np.maximum.accumulate(stop))


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
        self._needs: dict[tuple[int, int], Reach] = {}
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
        """The phases of the volume for parts [a, b) of its reference's rows."""
        walk = BackwardWalk(self.graph, volume, PartRows(self.graph, self.reach, height, a, b))
        walk.run()
        return tuple(self._phase(walk, number) for number in range(volume.phases))

    def _phase(self, walk: BackwardWalk[RowSpans], number: int) -> Phase:
        graph, phase_of = self.graph, walk.volume.phase_of
        inputs, carried = walk.inputs[number], walk.carried[number]
        needs = {name: rows for name, rows in inputs.items() if name not in carried}
        kept = [(name, rows) for name, rows in walk.kept.items() if phase_of[graph.producer[name]] == number]
        return Phase(
            operators=[(index, rows) for index, rows in walk.computed.items() if phase_of[index] == number],
            needs=needs,
            edges=[*needs.items(), *((name, inputs[name]) for name in carried), *kept],
            partials=[self._partial(walk.volume, maker) for maker in sorted(walk.finishes[number], reverse=True)],
        )

    def _partial(self, volume: VolumeGraph, maker: int) -> PartialRead:
        height = self.graph.tensors[self.graph.operators[maker].inputs[0]].height
        return PartialRead(volume.phase_of[maker], height, self.partial_bytes(maker))

    def reach(self, op: Operator, position: int) -> Reach:
        """Returns the rows of one input of an operator that output rows need.

        Raises:
            Unsupported: if they do not rise with the output rows.
        """
        key = (op.index, position)
        if key not in self._needs:
            found = Reach(*row_needs(self.graph, op, position))
            if _usual_needs(self.graph, op, position) is None and not _rises(self.graph, op, position, found):
                raise Unsupported(f"{op.op_type} '{op.name}' needs rows that do not rise with its output rows")
            self._needs[key] = found
        return self._needs[key]


def _rises(graph: Graph, op: Operator, position: int, reach: Reach) -> bool:
    """Whether the rows that a stretch of output rows needs begin with the first's and end with the last's."""
    height = len(reach.start)
    rising = bool(np.all(np.diff(reach.start) >= 0) and np.all(np.diff(reach.stop) >= 0))
    for a, b in [(0, height), (height // 3, height - height // 3), (height // 2, height)]:
        if a < b:
            whole = RULES[op.op_type].needs(graph, op, position, Region(Interval(a, b))).rows
            rising = rising and (whole.start, whole.stop) == (reach.start[a], reach.stop[b - 1])
    return rising and bool(np.all(reach.stop > reach.start))


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
