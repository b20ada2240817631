"""One layer-volume by itself: its phases and exports, and which regions a device computes for its share of the end.

Both depend on little (where the volume starts and ends, the device's share), so both are kept on the graph: planners
lay out many strategies that differ in few volumes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from distredge.model.cuts import Cut
from distredge.model.graph import Graph
from distredge.model.nodes import Operator, Tensor
from distredge.model.operators import RULES, Kind, whole
from distredge.model.rows import EMPTY, Interval, Region, region_hull

LARGEST_CACHE = 50_000
"""Shares of volumes kept on a graph before all are dropped."""


@dataclass(frozen=True)
class Decision:
    """One volume: where it ends and how its reference rows (and columns) are dealt out.

    Attributes:
        cut: where it ends.
        rows: cut points of the reference's rows, 0 first, its height last.
        columns: cut points of its columns for a grid of tiles, devices in row-major order; None for rows alone.
        wire: dtype in which its outputs cross the network.
        boundary_first: whether rows that others wait for are computed and sent first.
    """

    cut: Cut
    rows: tuple[int, ...]
    columns: tuple[int, ...] | None = None
    wire: str = "float32"
    boundary_first: bool = False


class OperatorRegion(NamedTuple):
    """One operator and the region of its output that a device computes, halo included."""

    operator: int
    region: Region


class Share(NamedTuple):
    """One device's share of the end of a volume, in cut points of the reference.

    Attributes:
        height, width: of the reference (width 0: rows alone are dealt out).
        top, bottom, left, right: the share.
    """

    height: int
    width: int
    top: int
    bottom: int
    left: int
    right: int

    def of(self, tensor: Tensor) -> Region:
        """Region of any tensor of the volume that this share owns: floor(x * H / H_ref)."""
        height = tensor.height
        rows = Interval(self.top * height // self.height, self.bottom * height // self.height)
        if not self.width:
            return Region(rows)
        width = tensor.width
        columns = Interval(self.left * width // self.width, self.right * width // self.width)
        if tensor.col_axis is None:
            # Of the tiles side by side one has all that there is.
            return Region(EMPTY if columns.empty else rows)
        return Region(rows, columns)


def shares(graph: Graph, decision: Decision) -> Iterator[Share]:
    """The share of every device under a decision, tiles in row-major order."""
    height = decision.cut.height
    for top, bottom in zip(decision.rows, decision.rows[1:], strict=False):
        if decision.columns is None:
            yield Share(height, 0, top, bottom, 0, 0)
            continue
        width = graph.tensors[decision.cut.reference].width
        for left, right in zip(decision.columns, decision.columns[1:], strict=False):
            yield Share(height, width, top, bottom, left, right)


class Read(NamedTuple):
    """An activation that an operator of a volume reads.

    Attributes:
        position: among the operator's inputs.
        tensor: its name.
        maker: operator of this volume that makes it, or -1.
        earlier: whether that was in an earlier phase, or is a reduction, so that it is an input of this phase.
    """

    position: int
    tensor: str
    maker: int
    earlier: bool


@dataclass(frozen=True)
class VolumeGraph:
    """What holds for a volume under any split decision.

    Attributes:
        start, end: places in the order of body operators.
        phase_of: operator -> phase; a reduction belongs to the phase in which its partial results are made.
        reads: operator -> activations that it reads.
        exports: feature maps made here that anybody outside reads -> phase that makes them.
        reductions: operators that are completed from partial results.
        phases: number of phases.
    """

    start: int
    end: int
    phase_of: Mapping[int, int]
    reads: Mapping[int, tuple[Read, ...]]
    exports: Mapping[str, int]
    reductions: tuple[int, ...]
    phases: int

    @functools.cached_property
    def reductions_of(self) -> tuple[tuple[int, ...], ...]:
        """Reductions whose partial results each phase makes."""
        return tuple(tuple(i for i in self.reductions if self.phase_of[i] == p) for p in range(self.phases))


@dataclass(frozen=True)
class PhasePart:
    """The part of one phase of a volume that one device does, whatever the others do.

    Attributes:
        operators: what it computes, in topological order.
        partials: reductions, with the region of their input that this device alone contributes.
        finishes: reductions that it completes.
        inputs: feature maps from outside the phase and the hull that it needs.
        carried: those of them that this device itself made in an earlier phase -> that phase.
        outputs: what it keeps or sends.
    """

    operators: tuple[OperatorRegion, ...]
    partials: tuple[OperatorRegion, ...]
    finishes: tuple[int, ...]
    inputs: Mapping[str, Region]
    carried: Mapping[str, int]
    outputs: Mapping[str, Region]


@dataclass(frozen=True)
class VolumeShare:
    """What one device does in a volume, whatever the others do.

    Attributes:
        parts: one per phase.
        owned: region of every exported tensor that it owns.
        exclusive: reductions to which it contributes.
    """

    parts: tuple[PhasePart, ...]
    owned: Mapping[str, Region]
    exclusive: frozenset[int]


def volume_between(graph: Graph, start: int, end: int) -> VolumeGraph:
    """The volume of body operators [start, end), made once per graph."""
    return graph.once(_volume_between, start, end)


def _volume_between(graph: Graph, start: int, end: int) -> VolumeGraph:
    operators = graph.body.operators[start:end]
    phases: dict[int, int] = {}
    reads: dict[int, tuple[Read, ...]] = {}
    for index in operators:
        op = graph.operators[index]
        makers = [graph.producer.get(op.inputs[p], -1) for p in op.activations]
        phases[index] = max((_ready(graph, m, phases[m]) for m in makers if m in phases), default=0)
        reads[index] = tuple(
            Read(p, op.inputs[p], m, _ready(graph, m, phases[m]) > phases[m] or phases[m] < phases[index])
            if m in phases
            else Read(p, op.inputs[p], -1, False)
            for p, m in zip(op.activations, makers, strict=True)
        )
    exports = {
        name: phases[index] for index in operators for name in graph.operators[index].outputs
        if name and name not in graph.body.vectors
        and (name in graph.output_names or any(c not in phases for c in graph.consumers.get(name, ())))
    }  # fmt: skip
    reductions = tuple(i for i in operators if _reduces(graph, i))
    return VolumeGraph(start, end, phases, reads, exports, reductions, max(phases.values(), default=0) + 1)


def _reduces(graph: Graph, index: int) -> bool:
    return graph.body.verdicts[index].kind is Kind.REDUCE


def _ready(graph: Graph, maker: int, phase: int) -> int:
    """First phase in which the result of an operator can be read."""
    return phase + 1 if _reduces(graph, maker) else phase


def volume_share(graph: Graph, volume: VolumeGraph, share: Share) -> VolumeShare:
    """What the device with that share does in the volume; kept on the graph."""
    kept: dict[tuple[int, int, Share], VolumeShare] = graph.once(_no_shares)
    key = (volume.start, volume.end, share)
    found = kept.get(key)
    if found is None:
        if len(kept) >= LARGEST_CACHE:
            kept.clear()
        found = kept[key] = _volume_share(graph, volume, share)
    return found


def _no_shares(graph: Graph) -> dict[tuple[int, int, Share], VolumeShare]:
    return {}


def _volume_share(graph: Graph, volume: VolumeGraph, share: Share) -> VolumeShare:
    walk = BackwardWalk(graph, volume, _OnePart(graph, share))
    walk.run()
    parts = tuple(_phase_part(graph, walk, phase) for phase in range(volume.phases))
    exclusive = frozenset(i for i in volume.reductions if i in walk.computed)
    return VolumeShare(parts, {name: share.of(graph.tensors[name]) for name in volume.exports}, exclusive)


def _phase_part(graph: Graph, walk: BackwardWalk[Region], phase: int) -> PhasePart:
    """What is done in one phase."""
    volume, computed = walk.volume, walk.computed
    phase_of, producer = volume.phase_of, graph.producer
    mine = [OperatorRegion(i, computed[i]) for i in phase_of if phase_of[i] == phase and i in computed]
    reductions = volume.reductions_of[phase]
    return PhasePart(
        operators=tuple(item for item in mine if item.operator not in reductions) if reductions else tuple(mine),
        partials=tuple(item for item in mine if item.operator in reductions) if reductions else (),
        finishes=tuple(sorted(walk.finishes[phase])),
        inputs=walk.inputs[phase],
        carried=walk.carried[phase],
        outputs={name: region for name, region in walk.kept.items() if phase_of[producer[name]] == phase},
    )


class _OnePart:
    """The rows and columns of one part."""

    def __init__(self, graph: Graph, share: Share) -> None:
        self.graph = graph
        self.share = share

    def owned(self, tensor: str) -> Region | None:
        region = self.share.of(self.graph.tensors[tensor])
        return None if region.empty else region

    def whole(self, tensor: str, like: Region) -> Region:
        return whole(self.graph.tensors[tensor])

    def needs(self, op: Operator, position: int, out: Region) -> Region | None:
        region = RULES[op.op_type].needs(self.graph, op, position, out)
        return None if region.empty else region

    def hull(self, one: Region, other: Region) -> Region:
        return one if one == other else region_hull((one, other))


Rows = TypeVar("Rows")


class RowAlgebra(Protocol[Rows]):
    """What the backward walk asks about rows: those of one part, or of many at once."""

    def owned(self, tensor: str) -> Rows | None:
        """Returns what the parts own of a tensor by their shares of the volume's end; None for nothing."""

    def whole(self, tensor: str, like: Rows) -> Rows:
        """Returns all of a tensor, for the parts that have anything in `like`."""

    def needs(self, op: Operator, position: int, out: Rows) -> Rows | None:
        """Returns what `out` of an operator's outputs needs of its input `position`; None for nothing."""

    def hull(self, one: Rows, other: Rows) -> Rows:
        """Returns the smallest rows that hold both."""


class BackwardWalk(Generic[Rows]):
    """Walks a volume backwards: which rows of every tensor parts compute, and need from outside or before.

    This is where the rule stands. What rows are says a `RowAlgebra`: a region of one part here, those of many parts in
    `latency.tables.volume_geometry`. Its compiled twin, `latency.tables.backward_walk`, serves all volumes with one
    end; a test holds the two equal.

    Args:
        graph: the model.
        volume: the volume.
        rows: whose rows.

    Attributes:
        owned: tensor that leaves the volume -> what is owned of it.
        computed: operator -> what is computed of its outputs; of a reduction, what is contributed of its input.
        needed: tensor -> what the operators that were gone through need of it, of those made before them.
        kept: tensor -> what is kept for outside, or for a later phase.
        inputs: by phase, tensor from outside the phase -> what the phase needs of it.
        carried: by phase, those of them that are made in an earlier phase -> that phase.
        finishes: by phase, reductions whose results it reads.
    """

    def __init__(self, graph: Graph, volume: VolumeGraph, rows: RowAlgebra[Rows]) -> None:
        self.graph = graph
        self.volume = volume
        self.rows = rows
        self._everywhere = graph.body.everywhere
        found = {name: rows.owned(name) for name in volume.exports}
        self.owned = {name: span for name, span in found.items() if span is not None}
        self.computed: dict[int, Rows] = {}
        self.needed: dict[str, Rows] = {}
        self.kept = dict(self.owned)
        self.inputs: list[dict[str, Rows]] = [{} for _ in range(volume.phases)]
        self.carried: list[dict[str, int]] = [{} for _ in range(volume.phases)]
        self.finishes: list[set[int]] = [set() for _ in range(volume.phases)]

    def run(self) -> None:
        """Goes through the whole volume."""
        for index in reversed(self.volume.phase_of):
            self.step(index)

    def step(self, index: int) -> None:
        """Goes through an operator; the one after it must be done."""
        op, reads, rows = self.graph.operators[index], self.volume.reads[index], self.rows
        out = None
        for name in op.outputs:
            for span in (self.needed.pop(name, None), self.owned.get(name)):
                if span is not None:
                    out = span if out is None else rows.hull(out, span)
        if index in self.volume.reductions:
            # It takes every row once: each part those that it owns at the end of the volume.
            share = rows.owned(reads[0].tensor)
            if share is not None:
                self.computed[index] = share
                self._read(index, reads[0], share)
        elif out is not None and index in self._everywhere:
            self.computed[index] = rows.whole(op.outputs[0], out)
            for read in reads:
                self._read(index, read, rows.whole(read.tensor, out))
        elif out is not None:
            self.computed[index] = out
            for read in reads:
                need = rows.needs(op, read.position, out)
                if need is not None:
                    self._read(index, read, need)

    def _read(self, index: int, read: Read, need: Rows) -> None:
        phase = self.volume.phase_of[index]
        self._widen(self.needed, read.tensor, need)
        if read.maker < 0:
            self._widen(self.inputs[phase], read.tensor, need)
        elif read.maker in self.volume.reductions:
            # Completed anew in each phase that reads it: the partial results are small and already here.
            self.finishes[phase].add(read.maker)
        elif read.earlier:
            self._widen(self.inputs[phase], read.tensor, need)
            self._widen(self.kept, read.tensor, need)
            self.carried[phase][read.tensor] = self.volume.phase_of[read.maker]

    def _widen(self, table: dict[str, Rows], name: str, span: Rows) -> None:
        held = table.get(name)
        table[name] = span if held is None else self.rows.hull(held, span)
