"""One layer-volume by itself: its phases and exports, and which regions a device computes for its share of the end.

Both depend on little (where the volume starts and ends, the device's share), so both are kept on the graph: planners
lay out many strategies that differ in few volumes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from distredge.model.cuts import Cut
from distredge.model.graph import Graph
from distredge.model.nodes import Tensor
from distredge.model.operators import RULES, Kind, whole
from distredge.model.rows import EMPTY, Interval, Region, region_hull

LARGEST_CACHE = 50_000
"""Shares of volumes kept on a graph before all are dropped."""

_NOTHING = Region(EMPTY)


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
        return Region(rows, Interval(self.left * width // self.width, self.right * width // self.width))


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
    owned = {name: share.of(graph.tensors[name]) for name in volume.exports}
    exclusive = {
        i: region
        for i in volume.reductions
        if not (region := share.of(graph.tensors[graph.operators[i].inputs[0]])).empty
    }
    walk = _Walk(graph, volume, owned, exclusive)
    pieces = tuple(walk.piece(phase) for phase in range(volume.phases))
    return VolumeShare(pieces, owned, frozenset(exclusive))


class _Walk:
    """Walks a volume backwards: which region of every tensor a device computes, and needs from outside or before."""

    def __init__(
        self, graph: Graph, volume: VolumeGraph, owned: Mapping[str, Region], exclusive: Mapping[int, Region]
    ) -> None:
        self.graph = graph
        self.volume = volume
        self.exclusive = exclusive
        self.regions: dict[int, Region] = {}
        self.kept: dict[str, Region] = {name: region for name, region in owned.items() if not region.empty}
        self.wanted = dict(self.kept)
        self.inputs: list[dict[str, Region]] = [{} for _ in range(volume.phases)]
        self.finishes: list[set[int]] = [set() for _ in range(volume.phases)]
        self.carried: list[dict[str, int]] = [{} for _ in range(volume.phases)]
        everywhere, verdicts = graph.body.everywhere, graph.body.verdicts
        for index in reversed(volume.phase_of):
            if verdicts[index].kind is Kind.REDUCE:
                if index in exclusive:
                    read = volume.reads[index][0]
                    self._read(index, read, exclusive[index])
                continue
            out = self._wanted(index)
            if out.empty:
                continue
            if index in everywhere:
                out = whole(graph.tensors[graph.operators[index].outputs[0]])
            self.regions[index] = out
            op = graph.operators[index]
            rule = None if index in everywhere else RULES[op.op_type]
            for read in volume.reads[index]:
                need = whole(graph.tensors[read.tensor]) if rule is None else rule.needs(graph, op, read.position, out)
                if not need.empty:
                    self._read(index, read, need)

    def _wanted(self, index: int) -> Region:
        outputs = self.graph.operators[index].outputs
        if len(outputs) == 1:
            return self.wanted.get(outputs[0], _NOTHING)
        return region_hull(self.wanted[name] for name in outputs if name in self.wanted)

    def _read(self, index: int, read: Read, need: Region) -> None:
        phase = self.volume.phase_of[index]
        if read.maker < 0:
            _widen(self.inputs[phase], read.tensor, need)
            return
        if _reduces(self.graph, read.maker):
            # Completed anew in each phase that reads it: the partial results are small and already here.
            self.finishes[phase].add(read.maker)
            return
        _widen(self.wanted, read.tensor, need)
        if read.earlier:
            _widen(self.inputs[phase], read.tensor, need)
            _widen(self.kept, read.tensor, need)
            self.carried[phase][read.tensor] = self.volume.phase_of[read.maker]

    def piece(self, phase: int) -> PhasePart:
        """What is done in one phase."""
        phase_of, producer = self.volume.phase_of, self.graph.producer
        mine = [i for i in phase_of if phase_of[i] == phase] if self.volume.phases > 1 else list(phase_of)
        return PhasePart(
            operators=tuple(OperatorRegion(i, self.regions[i]) for i in mine if i in self.regions),
            partials=tuple(OperatorRegion(i, self.exclusive[i]) for i in mine if i in self.exclusive),
            finishes=tuple(sorted(self.finishes[phase])),
            inputs=self.inputs[phase],
            carried=self.carried[phase],
            outputs={name: region for name, region in self.kept.items() if phase_of[producer[name]] == phase},
        )


def _widen(regions: dict[str, Region], name: str, region: Region) -> None:
    held = regions.get(name)
    regions[name] = region if held is None or held == region else region_hull((held, region))
