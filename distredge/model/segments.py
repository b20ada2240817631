"""The ONNX sub-models that one device runs for one strategy.

Each non-empty part of a layout becomes a `Segment`: an ONNX model whose inputs and outputs are regions of the whole
model's tensors and whose large constants are left out, referenced by content hash, so that a device keeps every
weight once, however many segments and plans read it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from distredge.errors import StrategyError
from distredge.model import AS_INPUT, constant_file
from distredge.model.graph import Graph
from distredge.model.laying_out import StrategyLike, lay_out
from distredge.model.layout import PARTIAL, Layout, Part
from distredge.model.nodes import Operator
from distredge.model.operators import RULES, Reduction, region_shape
from distredge.model.rows import Region
from distredge.model.wires import WIRES, dtype_of

INLINE_BYTES = 1024
"""Constants up to this size stay inside the sub-model: shapes, axes, limits, scalars."""

_FED_BYTES = 1 << 20
_FED_ROWS = 8
"""Matrices of at least that size are fed, to products of at most that many rows: more rows gain from packing."""


@dataclass(frozen=True)
class Port:
    """An input or output of a segment.

    Attributes:
        name: name of the value in the sub-model.
        tensor: tensor of the whole model, or ``NAME#partial``.
        region: rows (and columns) of the whole tensor that the buffer holds.
        shape: shape of the buffer.
        dtype: NumPy dtype name of the buffer.
    """

    name: str
    tensor: str
    region: Region
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Segment:
    """What a device runs in one stage.

    Attributes:
        stage: index of the stage in the layout.
        model: serialised ONNX model without its large constants.
        weights: name of each missing constant -> its content hash; an initializer, or with AS_INPUT at the end of its
            name an input (which is not among `inputs`).
        inputs, outputs: buffers that it reads and makes.
        after: earlier segment (its stage) that reads the same inputs and must be done first; -1 for none.
    """

    stage: int
    model: bytes
    weights: Mapping[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    after: int = -1


@dataclass(frozen=True)
class DeviceProgram:
    """All segments of one device, in stage order."""

    device: str
    segments: tuple[Segment, ...]

    @functools.cached_property
    def weights(self) -> frozenset[str]:
        """Content hashes of the constants that the device must hold."""
        return frozenset(h for segment in self.segments for h in segment.weights.values())


def build(graph: Graph, strategy: StrategyLike, device: str, layout: Layout | None = None) -> DeviceProgram:
    """Builds the sub-models of one device.

    Args:
        graph: the whole model.
        strategy: a strategy for it.
        device: one of the strategy's devices.
        layout: the strategy's layout when the caller has it already.

    Raises:
        StrategyError: if the strategy does not fit the graph or has no such device.
    """
    if device not in strategy.devices:
        raise StrategyError(f"{strategy.source}: devices: no '{device}' among {list(strategy.devices)}")
    layout = layout or lay_out(graph, strategy)
    place = strategy.devices.index(device)
    input_dtype = dtype_of(strategy.input.dtype)
    segments = tuple(
        build_segment(graph, layout, stage.index, stage.parts[place], input_dtype)
        for stage in layout.stages
        if not stage.parts[place].empty
    )
    return DeviceProgram(device, segments)


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
    return Segment(
        stage, emitter.model(inputs, outputs).SerializeToString(), emitter.weights, inputs, outputs, part.after
    )


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


class _Emitter:
    """Collects the nodes and constants of one sub-model (implements `operators.Emitter`)."""

    def __init__(self, graph: Graph, layout: Layout) -> None:
        self.graph = graph
        self.layout = layout
        self.as_they_are = graph.body.everywhere.union(graph.body.head)
        self.held: dict[str, Region | None] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.weights: dict[str, str] = {}
        self.fed: dict[str, str] = {}
        self._sliced: dict[tuple[str, Region], str] = {}
        self._count = 0

    def fresh(self, hint: str) -> str:
        self._count += 1
        while f"{hint}@{self._count}" in self.graph.tensors or f"{hint}@{self._count}" in self.graph.constants:
            self._count += 1
        return f"{hint}@{self._count}"

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
            self._normalise(port)
            return port
        return Port(name, name, region, shape, tensor.dtype)

    def _normalise(self, port: Port) -> None:
        spec = self.graph.preprocess
        if spec is None:
            raise StrategyError(
                f"{self.graph.name}: input.dtype: '{port.dtype}' needs a model with a preprocessing spec; use 'float32'"
            )
        tensor = self.graph.tensors[port.tensor]
        spatial = (0, tensor.row_axis, tensor.col_axis)
        channels = [1 if axis in spatial else size for axis, size in enumerate(port.shape)]
        mean = self.constant("mean", np.array(spec.mean, dtype=np.float32).reshape(channels))
        scale = self.constant("scale", np.array(spec.scale, dtype=np.float32).reshape(channels))
        real, centred = self.fresh(port.tensor), self.fresh(port.tensor)
        self.node("Cast", [port.name], real, to=TensorProto.FLOAT)
        self.node("Sub", [real, mean], centred)
        self.node("Mul", [centred, scale], port.tensor)

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
        starts, ends, axes = [], [], []
        for axis, mine, wanted in (
            (info.row_axis, None if held is None else held.rows, region.rows),
            (info.col_axis, None if held is None else held.cols, region.cols),
        ):
            if axis is None or wanted is None:
                continue
            base = mine.start if mine is not None else 0
            size = mine.size if mine is not None else info.shape[axis]
            if wanted.start != base or wanted.size != size:
                starts.append(wanted.start - base)
                ends.append(wanted.stop - base)
                axes.append(axis)
        if not axes:
            return tensor
        name = self.fresh(tensor)
        parameters = [
            self.constant(hint, np.array(values, dtype=np.int64))
            for hint, values in (("starts", starts), ("ends", ends), ("axes", axes))
        ]
        self.node("Slice", [tensor, *parameters], name)
        self._sliced[tensor, region] = name
        return name

    def constant(self, hint: str, value: NDArray[Any]) -> str:
        name = self.fresh(hint)
        self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def _original(self, name: str) -> None:
        """Brings a constant of the whole model in, by value when small and by reference otherwise."""
        if name not in self.graph.constants or name in self.initializers:
            return
        value = self.graph.constants[name]
        if value.nbytes <= INLINE_BYTES:
            self.initializers[name] = numpy_helper.from_array(value, name)
            return
        missing = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape)
        missing.data_location = TensorProto.EXTERNAL
        for key, text in (("location", constant_file(name)), ("offset", "0"), ("length", str(value.nbytes))):
            missing.external_data.add(key=key, value=text)
        self.initializers[name] = missing
        self.weights[name] = self.graph.weight_hash(name)

    def _can_be_fed(self, op: Operator, position: int) -> bool:
        """Whether a constant is the large matrix of a product of few rows."""
        if op.op_type not in ("Gemm", "MatMul") or position != 1 or op.activations[:1] != (0,):
            return False
        value = self.graph.constants.get(op.inputs[1])
        rows = math.prod(self.graph.tensors[op.inputs[0]].shape[:-1])
        return value is not None and value.ndim == 2 and value.nbytes >= _FED_BYTES and rows <= _FED_ROWS

    def _fed(self, name: str) -> str:
        """Declares a constant as an input of the sub-model."""
        fed = name + AS_INPUT
        self.fed[fed] = name
        self.weights[fed] = self.graph.weight_hash(name)
        return fed

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))

    def copy(self, op: Operator, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(self.graph.skeleton.graph.node[op.index])
        if output is not None:
            node.output[0] = node.name = output
        del node.input[:]
        for position, name in enumerate(inputs):
            node.input.append(self._fed(name) if self._can_be_fed(op, position) else name)
            if node.input[-1] == name:
                self._original(name)
        for key, value in attributes.items():
            for i, attribute in enumerate(node.attribute):
                if attribute.name == key:
                    del node.attribute[i]
                    break
            if value is not None:
                node.attribute.append(helper.make_attribute(key, value))
        self.nodes.append(node)

    def model(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> onnx.ModelProto:
        """The finished sub-model."""

        def value(port: Port) -> onnx.ValueInfoProto:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
            return helper.make_tensor_value_info(port.name, kind, port.shape)

        constants = self.graph.constants
        fed = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(constants[c].dtype), constants[c].shape)
            for n, c in self.fed.items()
        ]
        body = helper.make_graph(
            self.nodes, "segment", [*map(value, inputs), *fed], [value(p) for p in outputs],
            list(self.initializers.values()),
        )  # fmt: skip
        source = self.graph.skeleton
        return helper.make_model(body, ir_version=source.ir_version, opset_imports=list(source.opset_import))


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
