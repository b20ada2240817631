"""The ONNX sub-models that one device runs for one strategy.

Each non-empty part of a layout becomes a `Segment`: an ONNX model whose inputs and outputs are regions of the whole
model's tensors and whose large constants are left out, referenced by content hash, so that a device keeps every
weight once, however many segments and plans read it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from distredge.errors import StrategyError
from distredge.model import AS_INPUT
from distredge.model.dynamic_segments import DynamicVolumes
from distredge.model.graph import Graph
from distredge.model.laying_out import StrategyLike, lay_out
from distredge.model.layout import PARTIAL, Layout, Part
from distredge.model.nodes import Operator
from distredge.model.operators import RULES, Reduction, region_shape
from distredge.model.rows import Region
from distredge.model.sub_model import Port, Segment, SubModel, Value
from distredge.model.wires import WIRES, dtype_of


@dataclass(frozen=True)
class DeviceProgram:
    """All segments of one device, in stage order."""

    device: str
    segments: tuple[Segment, ...]

    @functools.cached_property
    def weights(self) -> frozenset[str]:
        """Content hashes of the constants that the device must hold."""
        return frozenset(h for segment in self.segments for h in segment.weights.values())


def build(
    graph: Graph,
    strategy: StrategyLike,
    device: str,
    layout: Layout | None = None,
    dynamic: DynamicVolumes | None = None,
) -> DeviceProgram:
    """Builds the sub-models of one device.

    Args:
        graph: the whole model.
        strategy: a strategy for it.
        device: one of the strategy's devices.
        layout: the strategy's layout when the caller has it already.
        dynamic: the volumes of that layout that are written with dynamic rows; None: none of them.

    Raises:
        StrategyError: if the strategy does not fit the graph or has no such device.
    """
    if device not in strategy.devices:
        raise StrategyError(f"{strategy.source}: devices: no '{device}' among {list(strategy.devices)}")
    layout = layout or lay_out(graph, strategy)
    place = strategy.devices.index(device)
    input_dtype = dtype_of(strategy.input.dtype)
    segments = []
    for stage in layout.stages:
        part = stage.parts[place]
        if part.empty:
            continue
        made = None if dynamic is None else dynamic.segment(stage, part)
        segments.append(made or build_segment(graph, layout, stage.index, part, input_dtype))
    return DeviceProgram(device, tuple(segments))


def build_segment(graph: Graph, layout: Layout, stage: int, part: Part, input_dtype: str = "float32") -> Segment:
    """Builds the sub-model of one part."""
    emitter = _Emitter(graph, layout)
    inputs = tuple(emitter.add_input(name, region, input_dtype) for name, region in part.inputs.items())
    for index in part.finishes:
        op = graph.operators[index]
        _reduction(op).emit_finish(emitter, op, op.outputs[0] + PARTIAL)
        emitter.hold(op.outputs)
    partials = {item.operator: item.region for item in part.partials}
    regions = {item.operator: item.region for item in part.operators}
    for index in sorted([*partials, *regions]):
        op = graph.operators[index]
        if index in partials:
            _reduction(op).emit_partial(emitter, op, partials[index], op.outputs[0] + PARTIAL)
        else:
            _emit_operator(emitter, op, regions[index])
    outputs = tuple(emitter.add_output(name, region) for name, region in part.outputs.items())
    model = emitter.model(map(_declared, inputs), map(_declared, outputs))
    return Segment(stage, model.SerializeToString(), emitter.weights, inputs, outputs, part.after)


def _declared(port: Port) -> Value:
    return Value(port.name, port.dtype, port.shape)


def _reduction(op: Operator) -> Reduction:
    rule = RULES[op.op_type]
    assert isinstance(rule, Reduction)
    return rule


def _emit_operator(emitter: _Emitter, op: Operator, region: Region) -> None:
    """Emits a body operator by its rule; one of the head, or on vectors alone, as it is."""
    if op.index in emitter.as_they_are:
        emitter.copy(op, op.inputs)
        emitter.hold(op.outputs)
    else:
        made = RULES[op.op_type].emit(emitter, op, region)
        emitter.held.update((name, made) for name in op.outputs if name)


class _Emitter(SubModel):
    """Collects the nodes and constants of one sub-model (implements `operators.Emitter`)."""

    def __init__(self, graph: Graph, layout: Layout) -> None:
        super().__init__(graph)
        self.layout = layout
        self.as_they_are = graph.body.everywhere.union(graph.body.head)
        self.held: dict[str, Region | None] = {}
        self._sliced: dict[tuple[str, Region], str] = {}

    def hold(self, names: Iterable[str]) -> None:
        """Notes that whole tensors are there."""
        self.held.update((name, None) for name in names if name)

    def add_input(self, name: str, region: Region, input_dtype: str) -> Port:
        """Declares an input; a uint8 image is normalised before anything reads it."""
        tensor = self.layout.tensors[name]
        shape = region_shape(tensor, region)
        self.held[name] = region
        if name in self.graph.input_names and WIRES[input_dtype].pixels:
            port = Port(f"{name}@{input_dtype}", name, region, shape, input_dtype)
            self.normalise(port.name, port.dtype, name)
            return port
        return Port(name, name, region, shape, tensor.dtype)

    def add_output(self, name: str, region: Region) -> Port:
        """Declares an output, sliced out when the part computed more."""
        tensor = self.layout.tensors[name]
        value = name if name.endswith(PARTIAL) else self.take(name, region)
        return Port(value, name, region, region_shape(tensor, region), tensor.dtype)

    def take(self, tensor: str, region: Region) -> str:
        held = self.held[tensor]
        if held == region:
            return tensor
        cached = self._sliced.get((tensor, region))
        if cached is not None:
            return cached
        info = self.graph.tensors[tensor]
        cuts = []
        for axis, mine, wanted in (
            (info.row_axis, None if held is None else held.rows, region.rows),
            (info.col_axis, None if held is None else held.cols, region.cols),
        ):
            if axis is None or wanted is None:
                continue
            base = mine.start if mine is not None else 0
            size = mine.size if mine is not None else info.shape[axis]
            if wanted.start != base or wanted.size != size:
                cuts.append((axis, wanted.start - base, wanted.stop - base))
        if not cuts:
            return tensor
        name = self._sliced[tensor, region] = self.slice(tensor, tensor, cuts)
        return name


def weight_store(graph: Graph, program: DeviceProgram) -> dict[str, NDArray[Any]]:
    """The constants that a device must hold.

    Args:
        graph: the whole model.
        program: the device's segments.

    Returns:
        Content hash -> constant in C order, shape (d0, d1, ...) and dtype as the model declares them.
    """
    names = {h: name.removesuffix(AS_INPUT) for segment in program.segments for name, h in segment.weights.items()}
    return {h: graph.weight(name) for h, name in names.items()}
