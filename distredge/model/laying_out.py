"""From a graph and split decisions to a layout. Pure arithmetic: no weights, no clocks, no sockets.

A volume is one stage, unless it holds reductions over rows (squeeze-and-excite): then each such reduction starts a
new phase, and the partial results cross the network as rows of a small virtual tensor ``NAME#partial``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from distredge.errors import StrategyError
from distredge.model.cuts import vector_sources
from distredge.model.graph import Graph
from distredge.model.layout import HEAD, PARTIAL, REQUESTER, Layout, Part, Stage, Transfer
from distredge.model.nodes import Tensor
from distredge.model.operators import RULES, Reduction, region_size, whole
from distredge.model.rows import Interval, Region, intersect_region
from distredge.model.volumes import (
    Decision,
    OperatorRegion,
    PhasePart,
    VolumeGraph,
    shares,
    volume_between,
    volume_share,
)
from distredge.model.wires import WIRE_BYTES, WIRES, file_fits, is_file, is_packed
from distredge.model.zero_shares import zero_shares


class _Named(Protocol):
    @property
    def device(self) -> str: ...


class _Typed(Protocol):
    @property
    def dtype(self) -> str: ...

    @property
    def file_bytes(self) -> int: ...

    @property
    def file_pixels(self) -> int: ...


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
    given = strategy.input
    layout = lay_out_decisions(graph, strategy.devices, decisions, head, given.dtype, given.file_bytes)
    return replace(layout, file_pixels=given.file_pixels) if given.file_pixels else layout


def lay_out_decisions(
    graph: Graph,
    devices: Sequence[str],
    decisions: Sequence[Decision],
    head: int,
    input_wire: str = "float32",
    file_bytes: int = 0,
) -> Layout:
    """Lays out volumes given as decisions.

    Args:
        graph: the model.
        devices: names in slab order.
        decisions: the volumes, in order.
        head: index of the head device.
        input_wire: in which the input travels.
        file_bytes: size of the picture's file, where it may travel in that.
    """
    return _Builder(graph, tuple(devices), tuple(decisions), head, input_wire, file_bytes).build()


@dataclass(frozen=True)
class _Made:
    """Who owns a tensor that leaves its volume."""

    stage: int
    wire: str
    owners: tuple[tuple[int, Region], ...]


class _Builder:
    """Walks the volumes in order and remembers who owns what."""

    def __init__(
        self,
        graph: Graph,
        devices: tuple[str, ...],
        decisions: tuple[Decision, ...],
        head: int,
        input_wire: str,
        file_bytes: int,
    ) -> None:
        self.graph = graph
        self.devices = devices
        self.decisions = decisions
        self.head = head
        self.file_bytes = file_bytes
        self.stages: list[Stage] = []
        self.transfers: list[Transfer] = []
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.made: dict[str, _Made] = {
            name: _Made(-1, input_wire, ((REQUESTER, whole(graph.tensors[name])),)) for name in graph.input_names
        }

    def build(self) -> Layout:
        start = 0
        for number, decision in enumerate(self.decisions):
            self._volume(number, decision, volume_between(self.graph, start, decision.cut.position))
            start = decision.cut.position
        if start != len(self.graph.body.operators):
            ends = self.graph.cuts[-1].tensors if self.graph.cuts else "its only operators: none can be split by rows"
            raise StrategyError(f"{self.graph.name}: the last volume must end the body, at {ends}")
        has_head = self._head()
        for name in self.graph.output_names:
            self._fetch(len(self.stages), REQUESTER, name, whole(self.graph.tensors[name]))
        return Layout(self.devices, tuple(self.stages), tuple(self.transfers), self.tensors, has_head, self.decisions)

    def _volume(self, number: int, decision: Decision, volume: VolumeGraph) -> None:
        dealt = [volume_share(self.graph, volume, share) for share in shares(self.graph, decision)]
        first = len(self.stages)
        contributors = {
            index: [k for k, mine in enumerate(dealt) if index in mine.exclusive] for index in volume.reductions
        }
        for phase in range(volume.phases):
            parts = tuple(
                self._part(device, mine.parts[phase], first, contributors) for device, mine in enumerate(dealt)
            )
            self.stages.append(Stage(first + phase, number, phase, parts))
            for index in volume.reductions_of[phase]:
                self._register_partial(first + phase, index, contributors[index])
        for name, phase in volume.exports.items():
            owners = tuple((k, mine.owned[name]) for k, mine in enumerate(dealt) if not mine.owned[name].empty)
            self.made[name] = _Made(first + phase, decision.wire, owners)

    def _part(self, device: int, part: PhasePart, first: int, contributors: Mapping[int, Sequence[int]]) -> Part:
        stage = len(self.stages)
        inputs = dict(part.inputs)
        for index in part.finishes:
            inputs[self._partial(index)] = Region(Interval(0, len(contributors[index])))
        for name, region in inputs.items():
            carried = part.carried.get(name)
            if carried is None:
                self._fetch(stage, device, name, region)
            else:
                self._add(stage, name, device, device, region, first + carried, "float32")
        outputs = dict(part.outputs)
        for item in part.partials:
            rank = contributors[item.operator].index(device)
            outputs[self._partial(item.operator)] = Region(Interval(rank, rank + 1))
        return Part(device, part.operators, part.partials, part.finishes, inputs, outputs)

    def _partial(self, index: int) -> str:
        return self.graph.operators[index].outputs[0] + PARTIAL

    def _register_partial(self, stage: int, index: int, contributors: Sequence[int]) -> None:
        op = self.graph.operators[index]
        rule = RULES[op.op_type]
        assert isinstance(rule, Reduction)
        name = self._partial(index)
        shape = rule.partial_shape(self.graph, op, len(contributors))
        self.tensors[name] = Tensor(name, shape, self.graph.tensors[op.outputs[0]].dtype, 0, None)
        owners = tuple((k, Region(Interval(i, i + 1))) for i, k in enumerate(contributors))
        self.made[name] = _Made(stage, "float32", owners)

    def _head(self) -> bool:
        """Adds the head stage: head operators, and the vectors that only they or the requester want to know."""
        graph = self.graph
        again, finishes, vector_inputs = vector_sources(
            graph, graph.body, (*graph.body.head_inputs, *graph.output_names)
        )
        if not graph.body.head and not finishes and not again:
            return False
        inputs = {self._partial(index): whole(self.tensors[self._partial(index)]) for index in finishes}
        for name in (*vector_inputs, *graph.body.head_inputs):
            if name in graph.input_names or name not in graph.body.vectors:
                inputs[name] = whole(graph.tensors[name])
        operators = (*again, *graph.body.head)
        regions = tuple(OperatorRegion(i, whole(graph.tensors[graph.operators[i].outputs[0]])) for i in operators)
        made = {out for i in (*operators, *finishes) for out in graph.operators[i].outputs}
        outputs = {n: whole(graph.tensors[n]) for n in graph.output_names if n in made}
        stage = len(self.stages)
        for name, region in inputs.items():
            self._fetch(stage, self.head, name, region)
        parts = tuple(
            Part(k, regions, (), finishes, inputs, outputs) if k == self.head else Part(k)
            for k in range(len(self.devices))
        )
        self.stages.append(Stage(stage, HEAD, 0, parts))
        for name, region in outputs.items():
            self.made[name] = _Made(stage, "float32", ((self.head, region),))
        return True

    def _fetch(self, stage: int, device: int, name: str, region: Region) -> None:
        """Adds the transfers that bring a region of a tensor to a device from its owners."""
        made = self.made[name]
        first, stop = region.rows
        for source, owned in made.owners:
            # Most owners hold other rows: looked at first, since layouts are made by the thousand.
            if owned.rows.stop <= first or stop <= owned.rows.start:
                continue
            common = intersect_region(owned, region)
            if not common.empty:
                self._add(stage, name, source, device, common, made.stage, made.wire)

    def _add(
        self, stage: int, name: str, source: int, destination: int, region: Region, produced: int, wire: str
    ) -> None:
        tensor = self.tensors[name]
        elements = region_size(tensor, region)
        if tensor.dtype != "float32":
            wire = tensor.dtype
        if is_packed(wire):
            share = zero_shares(self.graph).get(name, 0.0)
            chosen = WIRES[wire].travels_as(share)
            wire = chosen.name
            size_bytes = region.rows.size * chosen.row_bytes(elements // region.rows.size, share)
        elif is_file(wire):
            size_bytes = self.file_bytes if file_fits(self.file_bytes, elements) else elements
        else:
            size_bytes = elements * WIRE_BYTES[wire]
        self.transfers.append(Transfer(stage, name, source, destination, region, produced, elements, wire, size_bytes))
