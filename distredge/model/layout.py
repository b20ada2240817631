"""From a graph and split decisions to who computes which rows, in which stage, and who sends what to whom.

Pure arithmetic: no weights, no clocks, no sockets. The simulator prices a `Layout`, `model.segments` turns it into
ONNX sub-models, the runtime executes it.

A volume is one stage, unless it holds reductions over rows (squeeze-and-excite): then each such reduction starts a
new phase, and the partial results cross the network as rows of a small virtual tensor ``NAME#partial``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from distredge.errors import StrategyError
from distredge.model.cuts import Cut, final_tensors
from distredge.model.graph import Graph, Tensor
from distredge.model.operators import RULES, Kind, Reduction, whole
from distredge.model.rows import EMPTY, Interval, Region, intersect_region, region_hull, scaled_cuts

REQUESTER = -1
"""Place of the requester among the devices of a layout."""

HEAD = -1
"""Volume number of the head stage."""

WIRE_BYTES: Mapping[str, float] = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}
"""Bytes of one element on the wire."""

_NOTHING = Region(EMPTY)


@dataclass(frozen=True)
class OperatorRegion:
    """One operator and the region of its output that a device computes, halo included."""

    operator: int
    region: Region


@dataclass(frozen=True)
class Part:
    """One device in one stage; without operators, partials and finishes the device has nothing to do.

    Attributes:
        device: index into the strategy's devices.
        operators: what it computes, in topological order.
        partials: reductions, with the region of their *input* that this device alone contributes.
        finishes: reductions that it completes from everybody's partial results.
        inputs: tensors from outside the stage and the hull that must be there before it starts.
        outputs: tensors and regions that it sends or keeps for later stages.
    """

    device: int
    operators: tuple[OperatorRegion, ...] = ()
    partials: tuple[OperatorRegion, ...] = ()
    finishes: tuple[int, ...] = ()
    inputs: Mapping[str, Region] = field(default_factory=dict)
    outputs: Mapping[str, Region] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether the device has nothing to do."""
        return not (self.operators or self.partials or self.finishes)


@dataclass(frozen=True)
class Stage:
    """What all devices do between two exchanges: a phase of a volume, or the head (volume -1)."""

    index: int
    volume: int
    phase: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Transfer:
    """A region of one tensor that a stage needs from one owner.

    Attributes:
        stage: the stage that needs it; `len(stages)` means the requester's result.
        tensor: its name, or ``NAME#partial``.
        source, destination: indices into the strategy's devices, or REQUESTER; equal when it never leaves the device.
        region: rows (and columns) of the whole tensor.
        produced: stage that makes it; -1 for an input of the graph.
        elements: number of elements.
        wire: dtype on the wire.
    """

    stage: int
    tensor: str
    source: int
    destination: int
    region: Region
    produced: int
    elements: int
    wire: str

    @property
    def local(self) -> bool:
        """Whether it stays on its device."""
        return self.source == self.destination

    @property
    def size_bytes(self) -> int:
        """Bytes on the wire."""
        return round(self.elements * WIRE_BYTES[self.wire])


@dataclass(frozen=True)
class Layout:
    """Everything that follows from a graph and a strategy; see the module's text."""

    devices: tuple[str, ...]
    stages: tuple[Stage, ...]
    transfers: tuple[Transfer, ...]
    tensors: Mapping[str, Tensor]
    has_head: bool

    @functools.cached_property
    def _incoming(self) -> Mapping[tuple[int, int], tuple[Transfer, ...]]:
        return _group((t.stage, t.destination, t) for t in self.transfers)

    @functools.cached_property
    def _outgoing(self) -> Mapping[tuple[int, int], tuple[Transfer, ...]]:
        return _group((t.produced, t.source, t) for t in self.transfers)

    def incoming(self, stage: int, device: int) -> tuple[Transfer, ...]:
        """What `device` must have before `stage`, its own rows included."""
        return self._incoming.get((stage, device), ())

    def outgoing(self, stage: int, device: int) -> tuple[Transfer, ...]:
        """What `device` sends or keeps after it has done `stage` (-1: the requester's input)."""
        return self._outgoing.get((stage, device), ())

    @property
    def bytes_sent(self) -> int:
        """Bytes that cross the network for one image."""
        return sum(t.size_bytes for t in self.transfers if not t.local)

    def macs(self, graph: Graph) -> int:
        """Multiply-adds that all devices do together, recomputed halos included."""
        return sum(part_macs(graph, part) for stage in self.stages for part in stage.parts)

    def recompute_ratio(self, graph: Graph) -> float:
        """Share of multiply-adds beyond those of the whole model run once."""
        total = sum(graph.macs)
        return self.macs(graph) / total - 1.0 if total else 0.0


def _group(items: Iterable[tuple[int, int, Transfer]]) -> dict[tuple[int, int], tuple[Transfer, ...]]:
    groups: dict[tuple[int, int], list[Transfer]] = {}
    for stage, device, transfer in items:
        groups.setdefault((stage, device), []).append(transfer)
    return {key: tuple(value) for key, value in groups.items()}


def region_size(tensor: Tensor, region: Region) -> int:
    """Elements of a region of a tensor."""
    elements = 1
    for axis, size in enumerate(tensor.shape):
        if axis == tensor.row_axis:
            elements *= region.rows.size
        elif axis == tensor.col_axis and region.cols is not None:
            elements *= region.cols.size
        else:
            elements *= size
    return 0 if region.empty else elements


def region_shape(tensor: Tensor, region: Region) -> tuple[int, ...]:
    """Shape of the buffer that holds a region of a tensor."""
    return tuple(
        region.rows.size
        if axis == tensor.row_axis
        else (region.cols.size if axis == tensor.col_axis and region.cols is not None else size)
        for axis, size in enumerate(tensor.shape)
    )


def part_macs(graph: Graph, part: Part) -> int:
    """Multiply-adds of a part."""
    total = 0
    for item in part.operators:
        out = graph.tensors[graph.operators[item.operator].outputs[0]]
        total += graph.macs[item.operator] * region_size(out, item.region) // max(1, region_size(out, whole(out)))
    return total


@dataclass(frozen=True)
class Decision:
    """One volume: where it ends and how its reference rows (and columns) are dealt out.

    Attributes:
        cut: where it ends.
        rows: cut points of the reference's rows, 0 first, its height last.
        columns: cut points of its columns for a grid of tiles, devices in row-major order; None for rows alone.
        wire: dtype in which its outputs cross the network.
    """

    cut: Cut
    rows: tuple[int, ...]
    columns: tuple[int, ...] | None = None
    wire: str = "float32"


class _Named(Protocol):
    @property
    def device(self) -> str: ...


class _Typed(Protocol):
    @property
    def dtype(self) -> str: ...


class StrategyLike(Protocol):
    """What a layout reads of a `distredge.strategy.Strategy`, which stands above this module."""

    @property
    def devices(self) -> tuple[str, ...]: ...

    @property
    def head(self) -> _Named: ...

    @property
    def input(self) -> _Typed: ...

    @property
    def source(self) -> str: ...

    def decisions(self, graph: Graph) -> tuple[Decision, ...]: ...


def lay_out(graph: Graph, strategy: StrategyLike) -> Layout:
    """Lays a strategy out on its graph.

    Raises:
        StrategyError: if the strategy does not fit the graph.
    """
    decisions = strategy.decisions(graph)
    head = strategy.devices.index(strategy.head.device)
    return lay_out_decisions(graph, strategy.devices, decisions, head, strategy.input.dtype)


def lay_out_decisions(
    graph: Graph, devices: Sequence[str], decisions: Sequence[Decision], head: int, input_wire: str = "float32"
) -> Layout:
    """Lays out volumes given as decisions; `head` is the index of the head device."""
    return _Builder(graph, tuple(devices), tuple(decisions), head, input_wire).build()


@dataclass(frozen=True)
class _Made:
    """Who owns a tensor that leaves its volume."""

    stage: int
    wire: str
    owners: tuple[tuple[int, Region], ...]


class _Builder:
    """Walks the volumes in order and remembers who owns what."""

    def __init__(
        self, graph: Graph, devices: tuple[str, ...], decisions: tuple[Decision, ...], head: int, input_wire: str
    ) -> None:
        self.graph = graph
        self.devices = devices
        self.decisions = decisions
        self.head = head
        self.stages: list[Stage] = []
        self.transfers: list[Transfer] = []
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.made: dict[str, _Made] = {
            name: _Made(-1, input_wire, ((REQUESTER, whole(graph.tensors[name])),)) for name in graph.input_names
        }

    def build(self) -> Layout:
        start = 0
        for number, decision in enumerate(self.decisions):
            operators = self.graph.body.operators[start : decision.cut.position]
            self._volume(number, decision, operators)
            start = decision.cut.position
        if start != len(self.graph.body.operators):
            raise StrategyError(
                f"{self.graph.name}: the last volume must end the body, at {self.graph.cuts[-1].tensors}"
            )
        has_head = self._head()
        for name in self.graph.output_names:
            self._fetch(len(self.stages), REQUESTER, name, whole(self.graph.tensors[name]))
        return Layout(self.devices, tuple(self.stages), tuple(self.transfers), self.tensors, has_head)

    def _share(self, decision: Decision, tensor: Tensor, device: int) -> Region:
        """Region of a tensor that a device owns under a decision: floor(x * H / H_ref)."""
        rows = scaled_cuts(decision.rows, tensor.height, decision.cut.height)
        if decision.columns is None:
            return Region(Interval(rows[device], rows[device + 1]))
        width = self.graph.tensors[decision.cut.reference].width
        cols = scaled_cuts(decision.columns, tensor.width, width)
        i, j = divmod(device, len(cols) - 1)
        return Region(Interval(rows[i], rows[i + 1]), Interval(cols[j], cols[j + 1]))

    def _volume(self, number: int, decision: Decision, operators: tuple[int, ...]) -> None:
        graph = self.graph
        inside = set(operators)
        phases = _phases(graph, operators)
        exports = _exports(graph, operators, inside)
        owned = {
            name: [self._share(decision, graph.tensors[name], k) for k in range(len(self.devices))] for name in exports
        }
        reductions = [i for i in operators if graph.body.verdicts[i].kind is Kind.REDUCE]
        exclusive = {
            i: [self._share(decision, graph.tensors[graph.operators[i].inputs[0]], k) for k in range(len(self.devices))]
            for i in reductions
        }
        plans = [
            _plan_device(
                graph,
                operators,
                phases,
                {name: owned[name][k] for name in exports},
                {i: exclusive[i][k] for i in reductions},
            )
            for k in range(len(self.devices))
        ]
        first = len(self.stages)
        last_phase = max(phases.values(), default=0)
        for phase in range(last_phase + 1):
            self._add_stage(number, phase, operators, phases, plans, exclusive)
        for name in exports:
            made = first + phases[graph.producer[name]]
            owners = tuple((k, region) for k, region in enumerate(owned[name]) if not region.empty)
            self.made[name] = _Made(made, decision.wire, owners)

    def _add_stage(
        self,
        number: int,
        phase: int,
        operators: tuple[int, ...],
        phases: Mapping[int, int],
        plans: Sequence[_DevicePlan],
        exclusive: Mapping[int, Sequence[Region]],
    ) -> None:
        graph = self.graph
        stage = len(self.stages)
        parts = []
        for device, plan in enumerate(plans):
            part = plan.part(graph, device, phase, operators, phases, exclusive)
            carried = {
                name for name in part.inputs
                if name in graph.producer and graph.producer[name] in phases and not name.endswith(PARTIAL)
            }  # fmt: skip
            for name, region in part.inputs.items():
                if name in carried:
                    made = stage - phase + phases[graph.producer[name]]
                    self._add(stage, name, device, device, region, made, "float32")
                else:
                    self._fetch(stage, device, name, region)
            parts.append(part)
        self.stages.append(Stage(stage, number, phase, tuple(parts)))
        for index in operators:
            if graph.body.verdicts[index].kind is Kind.REDUCE and phases[index] == phase:
                self._register_partial(stage, index, exclusive[index])

    def _register_partial(self, stage: int, index: int, exclusive: Sequence[Region]) -> None:
        op = self.graph.operators[index]
        contributors = [k for k, region in enumerate(exclusive) if not region.empty]
        rule = RULES[op.op_type]
        assert isinstance(rule, Reduction)
        name = op.outputs[0] + PARTIAL
        shape = rule.partial_shape(self.graph, op, len(contributors))
        self.tensors[name] = Tensor(name, shape, self.graph.tensors[op.outputs[0]].dtype, 0, None)
        owners = tuple((k, Region(Interval(i, i + 1))) for i, k in enumerate(contributors))
        self.made[name] = _Made(stage, "float32", owners)

    def _head(self) -> bool:
        """Adds the head stage: head operators, and reductions of which only the head or the requester wants to know."""
        graph = self.graph
        wanted = (*graph.body.head_inputs, *graph.output_names)
        finishes = tuple(
            dict.fromkeys(graph.producer[n] for n in wanted if n + PARTIAL in self.made and n not in self.made)
        )
        if not graph.body.head and not finishes:
            return False
        inputs: dict[str, Region] = {}
        for index in finishes:
            name = graph.operators[index].outputs[0] + PARTIAL
            inputs[name] = whole(self.tensors[name])
        finished = {graph.operators[index].outputs[0] for index in finishes}
        for name in graph.body.head_inputs:
            if name not in finished:
                inputs[name] = whole(graph.tensors[name])
        stage = len(self.stages)
        operators = tuple(
            OperatorRegion(i, whole(graph.tensors[graph.operators[i].outputs[0]])) for i in graph.body.head
        )
        made = [out for i in graph.body.head for out in graph.operators[i].outputs]
        outputs = {n: whole(graph.tensors[n]) for n in graph.output_names if n in made or n in finished}
        for name, region in inputs.items():
            self._fetch(stage, self.head, name, region)
        parts = tuple(
            Part(k, operators, (), finishes, inputs, outputs) if k == self.head else Part(k)
            for k in range(len(self.devices))
        )
        self.stages.append(Stage(stage, HEAD, 0, parts))
        for name, region in outputs.items():
            self.made[name] = _Made(stage, "float32", ((self.head, region),))
        return True

    def _fetch(self, stage: int, device: int, name: str, region: Region) -> None:
        """Adds the transfers that bring a region of a tensor to a device from its owners."""
        made = self.made[name]
        for source, owned in made.owners:
            piece = intersect_region(owned, region)
            if not piece.empty:
                self._add(stage, name, source, device, piece, made.stage, made.wire)

    def _add(
        self, stage: int, name: str, source: int, destination: int, region: Region, produced: int, wire: str
    ) -> None:
        elements = region_size(self.tensors[name], region)
        if self.tensors[name].dtype != "float32":
            wire = "float32" if wire == "float16" else wire
        self.transfers.append(Transfer(stage, name, source, destination, region, produced, elements, wire))


PARTIAL = "#partial"
"""Suffix of the virtual tensor that stacks the partial results of a reduction."""


def _phases(graph: Graph, operators: tuple[int, ...]) -> dict[int, int]:
    """Phase of each operator of a volume; a reduction belongs to the phase in which its partials are made."""
    phases: dict[int, int] = {}
    for index in operators:
        phase = 0
        for name in graph.operators[index].activation_names:
            maker = graph.producer.get(name)
            if maker in phases:
                assert maker is not None
                after = 1 if graph.body.verdicts[maker].kind is Kind.REDUCE else 0
                phase = max(phase, phases[maker] + after)
        phases[index] = phase
    return phases


def _exports(graph: Graph, operators: tuple[int, ...], inside: set[int]) -> tuple[str, ...]:
    """Feature maps made in a volume that anybody outside it reads."""
    finals = set(final_tensors(graph))
    outputs = set(graph.output_names)
    exports = []
    for index in operators:
        op = graph.operators[index]
        if graph.body.verdicts[index].kind is Kind.REDUCE:
            continue
        for name in op.outputs:
            later = [c for c in graph.consumers.get(name, ()) if c not in inside]
            reads_rows = [
                c for c in later
                if c in graph.body.head or graph.body.verdicts[c].kind is not Kind.REDUCE or name not in finals
            ]  # fmt: skip
            if name and (reads_rows or name in outputs):
                exports.append(name)
    return tuple(exports)


@dataclass
class _DevicePlan:
    """Regions that one device computes in one volume."""

    regions: dict[int, Region]
    needs: dict[str, Region]
    external: dict[int, dict[str, Region]]
    kept: dict[str, Region]

    def part(
        self,
        graph: Graph,
        device: int,
        phase: int,
        operators: tuple[int, ...],
        phases: Mapping[int, int],
        exclusive: Mapping[int, Sequence[Region]],
    ) -> Part:
        mine = [i for i in operators if phases[i] == phase and i in self.regions]
        computed = tuple(
            OperatorRegion(i, self.regions[i]) for i in mine if graph.body.verdicts[i].kind is not Kind.REDUCE
        )
        partials = tuple(
            OperatorRegion(i, exclusive[i][device])
            for i in operators
            if phases[i] == phase and i in exclusive and not exclusive[i][device].empty
        )
        inputs = dict(self.external.get(phase, {}))
        finishes = []
        for index in operators:
            name = graph.operators[index].outputs[0]
            if index not in exclusive or phases[index] >= phase or name not in inputs:
                continue
            # Finished anew in each phase that reads it: the partials are small and already here.
            count = sum(not region.empty for region in exclusive[index])
            inputs.pop(name)
            inputs[name + PARTIAL] = Region(Interval(0, count))
            finishes.append(index)
        outputs = {
            name: region
            for name, region in self.kept.items()
            if graph.producer[name] in phases and phases[graph.producer[name]] == phase
            and graph.body.verdicts[graph.producer[name]].kind is not Kind.REDUCE
        }  # fmt: skip
        ranks = {i: sum(not r.empty for r in exclusive[i][:device]) for i in exclusive}
        outputs |= {
            graph.operators[item.operator].outputs[0] + PARTIAL: Region(
                Interval(ranks[item.operator], ranks[item.operator] + 1)
            )
            for item in partials
        }
        return Part(device, computed, partials, tuple(finishes), inputs, outputs)


def _plan_device(
    graph: Graph,
    operators: tuple[int, ...],
    phases: Mapping[int, int],
    owned: Mapping[str, Region],
    exclusive: Mapping[int, Region],
) -> _DevicePlan:
    """Walks a volume backwards: which region of every tensor this device computes or needs from outside.

    Args:
        graph: the graph.
        operators: the volume's operators in topological order.
        phases: phase of each operator.
        owned: exported tensors and the region that this device owns.
        exclusive: reductions of the volume and the region of their input that this device contributes.
    """
    wanted: dict[str, list[Region]] = {name: [region] for name, region in owned.items() if not region.empty}
    kept: dict[str, list[Region]] = {name: [region] for name, region in owned.items() if not region.empty}
    plan = _DevicePlan({}, {}, {}, {})
    external: dict[int, dict[str, list[Region]]] = {}
    inside = set(operators)
    for index in reversed(operators):
        op = graph.operators[index]
        reduction = index in exclusive
        out = region_hull(r for name in op.outputs for r in wanted.get(name, ()))
        if reduction:
            plan.regions[index] = out
            if exclusive[index].empty:
                continue
        elif out.empty:
            continue
        else:
            plan.regions[index] = out
        for position in op.activations:
            name = op.inputs[position]
            need = exclusive[index] if reduction else RULES[op.op_type].needs(graph, op, position, out)
            if need.empty:
                continue
            maker = graph.producer.get(name)
            if maker not in inside:
                external.setdefault(phases[index], {}).setdefault(name, []).append(need)
                continue
            assert maker is not None
            wanted.setdefault(name, []).append(need)
            if phases[maker] != phases[index] or maker in exclusive:
                external.setdefault(phases[index], {}).setdefault(name, []).append(need)
                kept.setdefault(name, []).append(need)
    plan.external = {
        phase: {name: region_hull(regions) for name, regions in tensors.items()} for phase, tensors in external.items()
    }
    plan.kept = {name: region_hull(regions) for name, regions in kept.items()}
    return plan
