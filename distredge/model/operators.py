"""How each ONNX operator behaves when only some rows of its output are wanted.

A rule answers three questions: may the operator be split by rows and why not (`verdict`), which region of an input an
output region needs (`needs`), and which nodes compute that output region from those input regions (`emit`).
`RULES` maps operator types to rules; an operator without one belongs to the head, with its name in the reason.
Semantics follow the ONNX operator specifications (Conv-11, MaxPool-12, AveragePool-11, ...).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from distredge.model.rows import Interval, Region, Window, window_input

if TYPE_CHECKING:
    from distredge.model.graph import Graph, Operator, Tensor

WHOLE_ROW = Interval(0, 1)


class Kind(enum.Enum):
    """What a split may do with an operator."""

    LOCAL = "row-local"
    REDUCE = "reduces rows"
    HEAD = "head"


class Verdict(NamedTuple):
    """Kind of an operator in its graph, with the reason that a reader sees."""

    kind: Kind
    reason: str


LOCAL = Verdict(Kind.LOCAL, "")


class Emitter(Protocol):
    """What a rule writes nodes with (`model.segments` has the implementation)."""

    graph: Graph

    def take(self, tensor: str, region: Region) -> str:
        """Name of `tensor` restricted to `region`, sliced when more is held."""

    def constant(self, hint: str, value: NDArray[Any]) -> str:
        """Name of a small new constant."""

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """Appends a node with one output."""

    def copy(self, op: Operator, inputs: Sequence[str], **attributes: Any) -> None:
        """Appends `op` with other inputs and, where given, other attributes (None removes one)."""

    def fresh(self, hint: str) -> str:
        """A name that is not in use."""


class Rule(Protocol):
    """Behaviour of one operator type."""

    def verdict(self, graph: Graph, op: Operator) -> Verdict:
        """Whether `op` may be split by rows here."""

    def needs(self, graph: Graph, op: Operator, position: int, out: Region) -> Region:
        """Region of the activation `op.inputs[position]` that output region `out` reads, clipped to the tensor."""

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> None:
        """Appends the nodes that make output region `out`."""


def whole(tensor: Tensor) -> Region:
    """Every row and column of a tensor."""
    return Region(Interval(0, tensor.height))


def axis_size(tensor: Tensor, axis: str) -> int:
    """Rows or columns of a tensor, by `axis` "rows" or "cols"."""
    return tensor.height if axis == "rows" else tensor.width


def _axes(out: Region) -> tuple[str, ...]:
    return ("rows",) if out.cols is None else ("rows", "cols")


def _interval(region: Region, axis: str) -> Interval:
    if axis == "rows":
        return region.rows
    assert region.cols is not None
    return region.cols


def _dimension(tensor: Tensor, axis: str) -> int | None:
    return tensor.row_axis if axis == "rows" else tensor.col_axis


class Pointwise:
    """Elementwise operators with broadcasting: output row i reads row i of every input that has rows."""

    def verdict(self, graph: Graph, op: Operator) -> Verdict:
        out = graph.tensors[op.outputs[0]]
        if len(op.outputs) > 1:
            return Verdict(Kind.HEAD, f"{op.op_type} with {len(op.outputs)} outputs")
        for name in op.activation_names:
            tensor = graph.tensors[name]
            for axis in ("rows", "cols"):
                inner, outer = _dimension(tensor, axis), _dimension(out, axis)
                offset = len(out.shape) - len(tensor.shape)
                if inner is not None and tensor.shape[inner] > 1 and inner + offset != outer:
                    return Verdict(Kind.HEAD, f"{op.op_type} broadcasts '{name}' across the row axis")
        return LOCAL

    def needs(self, graph: Graph, op: Operator, position: int, out: Region) -> Region:
        tensor = graph.tensors[op.inputs[position]]
        if out.empty:
            return out
        rows = WHOLE_ROW if tensor.height == 1 else out.rows
        cols = None if out.cols is None or tensor.width == 1 else out.cols
        return Region(rows, cols)

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> None:
        graph = emitter.graph
        made = graph.tensors[op.outputs[0]]
        inputs = []
        for position, name in enumerate(op.inputs):
            if position in op.activations:
                inputs.append(emitter.take(name, self.needs(graph, op, position, out)))
            elif name in graph.constants:
                inputs.append(_slice_constant(emitter, name, made, out))
            else:
                inputs.append(name)
        emitter.copy(op, inputs)


def _slice_constant(emitter: Emitter, name: str, made: Tensor, out: Region) -> str:
    """A constant that has rows of its own is cut like the activation that it meets."""
    value = emitter.graph.constants[name]
    for axis in _axes(out):
        dimension = _dimension(made, axis)
        if dimension is None:
            continue
        own = dimension - (len(made.shape) - value.ndim)
        wanted = _interval(out, axis)
        if own >= 0 and value.ndim and value.shape[own] > 1 and wanted.size < value.shape[own]:
            return emitter.constant(name, np.take(value, range(wanted.start, wanted.stop), axis=own))
    return name


class ChannelWise(Pointwise):
    """Operators that mix channels but neither rows nor columns (normalisation, softmax, LRN, channel concat)."""

    def __init__(self, channel_attribute: str | None = None, default_axis: int = 1) -> None:
        self.channel_attribute = channel_attribute
        self.default_axis = default_axis

    def verdict(self, graph: Graph, op: Operator) -> Verdict:
        tensor = graph.tensors[op.outputs[0]]
        if self.channel_attribute is not None:
            axis = int(op.attributes.get(self.channel_attribute, self.default_axis)) % max(1, len(tensor.shape))
            if axis in (tensor.row_axis, tensor.col_axis) or tensor.row_axis is None:
                return Verdict(Kind.HEAD, f"{op.op_type} over axis {axis} needs all rows")
        for name in op.activation_names:
            if graph.tensors[name].row_axis != tensor.row_axis or graph.tensors[name].height != tensor.height:
                return Verdict(Kind.HEAD, f"{op.op_type} changes the row axis")
        return LOCAL

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> None:
        graph = emitter.graph
        emitter.copy(
            op,
            [
                emitter.take(n, self.needs(graph, op, i, out)) if i in op.activations else n
                for i, n in enumerate(op.inputs)
            ],
        )


def explicit_pads(graph: Graph, op: Operator) -> tuple[list[int], list[int]]:
    """Begin and end padding of each spatial axis, `auto_pad` resolved (Conv-11: SAME_UPPER puts the odd one last)."""
    source = graph.tensors[op.inputs[0]].shape[2:]
    kernel, strides, dilations = window_attributes(graph, op)
    auto = op.attributes.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    count = len(source)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for size, k, s, d in zip(source, kernel, strides, dilations, strict=True):
            total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            small, large = total // 2, total - total // 2
            begins.append(small if auto == "SAME_UPPER" else large)
            ends.append(large if auto == "SAME_UPPER" else small)
        return begins, ends
    pads = list(op.attributes.get("pads", [0] * 2 * count)) if auto == "NOTSET" else [0] * 2 * count
    return pads[:count], pads[count:]


def window_attributes(graph: Graph, op: Operator) -> tuple[list[int], list[int], list[int]]:
    """Kernel, strides and dilations of each spatial axis."""
    count = len(graph.tensors[op.inputs[0]].shape) - 2
    kernel = list(op.attributes.get("kernel_shape", ()))
    if not kernel:
        kernel = list(graph.constants[op.inputs[1]].shape[2:])
    strides = list(op.attributes.get("strides", [1] * count))
    dilations = list(op.attributes.get("dilations", [1] * count))
    return kernel, strides, dilations


def window_of(graph: Graph, op: Operator, axis: str) -> Window:
    """The sliding window of a convolution or pooling along rows or columns."""
    dimension = _dimension(graph.tensors[op.inputs[0]], axis)
    assert dimension is not None
    spatial = dimension - 2
    kernel, strides, dilations = window_attributes(graph, op)
    begins, _ = explicit_pads(graph, op)
    return Window(strides[spatial], begins[spatial], dilations[spatial] * (kernel[spatial] - 1) + 1)


class Windowed:
    """Convolution and maximum pooling: what is clipped becomes explicit padding of this split-part alone."""

    def verdict(self, graph: Graph, op: Operator) -> Verdict:
        if len([o for o in op.outputs if o]) > 1:
            return Verdict(Kind.HEAD, f"{op.op_type} with an index output")
        if op.activations != (0,):
            return Verdict(Kind.HEAD, f"{op.op_type} with weights that are not constant")
        if graph.tensors[op.inputs[0]].row_axis is None:
            return Verdict(Kind.HEAD, f"{op.op_type} input has no row axis")
        return LOCAL

    def needs(self, graph: Graph, op: Operator, position: int, out: Region) -> Region:
        if out.empty:
            return out
        tensor = graph.tensors[op.inputs[position]]
        found = {
            axis: window_input(window_of(graph, op, axis), _interval(out, axis), axis_size(tensor, axis))[0]
            for axis in _axes(out)
        }
        return Region(found["rows"], found.get("cols"))

    def padding(self, graph: Graph, op: Operator, out: Region) -> tuple[list[int], list[int]]:
        """Explicit padding of each spatial axis for this output region."""
        tensor = graph.tensors[op.inputs[0]]
        begins, ends = explicit_pads(graph, op)
        for axis in _axes(out):
            dimension = _dimension(tensor, axis)
            assert dimension is not None
            _, before, after = window_input(window_of(graph, op, axis), _interval(out, axis), axis_size(tensor, axis))
            begins[dimension - 2], ends[dimension - 2] = before, after
        return begins, ends

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> None:
        graph = emitter.graph
        begins, ends = self.padding(graph, op, out)
        source = emitter.take(op.inputs[0], self.needs(graph, op, 0, out))
        changes: dict[str, Any] = {"pads": begins + ends, "auto_pad": None}
        if op.op_type == "MaxPool":
            ends = self._ceil_columns(graph, op, out, begins, ends)
            changes = {"pads": begins + ends, "auto_pad": None, "ceil_mode": None}
        emitter.copy(op, [source, *op.inputs[1:]], **changes)

    def _ceil_columns(self, graph: Graph, op: Operator, out: Region, begins: list[int], ends: list[int]) -> list[int]:
        """Writes the ceil extension of the axes that are not split as padding, so that `ceil_mode` can go."""
        source, made = graph.tensors[op.inputs[0]].shape[2:], graph.tensors[op.outputs[0]].shape[2:]
        kernel, strides, dilations = window_attributes(graph, op)
        split = {_dimension(graph.tensors[op.inputs[0]], axis) for axis in _axes(out)}
        return [
            end
            if axis + 2 in split
            else max(0, (made[axis] - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1
                     - source[axis] - begins[axis])
            for axis, end in enumerate(ends)
        ]  # fmt: skip


class AveragePooling(Windowed):
    """Average pooling, where only declared padding may count in the divisor (AveragePool-11).

    Rows that a ceil extension adds never count; declared padding counts with `count_include_pad`. The split-part gets
    its declared padding as zeros from a Pad node in that case, and keeps `ceil_mode` for the extension.
    """

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> None:
        graph = emitter.graph
        source = emitter.take(op.inputs[0], self.needs(graph, op, 0, out))
        begins, ends = self.padding(graph, op, out)
        if not op.attributes.get("count_include_pad", 0):
            ends = self._ceil_columns(graph, op, out, begins, ends)
            emitter.copy(op, [source], pads=begins + ends, auto_pad=None, ceil_mode=None)
            return
        declared = explicit_pads(graph, op)[1]
        zeros = [min(end, limit) for end, limit in zip(ends, declared, strict=True)]
        if any(begins) or any(zeros):
            pads = np.array([0, 0, *begins, 0, 0, *zeros], dtype=np.int64)
            padded = emitter.fresh(f"{op.outputs[0]}@padded")
            emitter.node("Pad", [source, emitter.constant("pads", pads)], padded, mode="constant")
            source = padded
        emitter.copy(op, [source], pads=[0] * 2 * len(begins), auto_pad=None)


REDUCTIONS: Mapping[str, str] = {
    "GlobalAveragePool": "mean",
    "GlobalMaxPool": "max",
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
}


def reduced_axes(graph: Graph, op: Operator) -> tuple[int, ...] | None:
    """Axes that a reduction removes; None when they are not constant."""
    rank = len(graph.tensors[op.inputs[0]].shape)
    if op.op_type.startswith("Global"):
        return tuple(range(2, rank))
    axes = op.attributes.get("axes")
    if axes is None and len(op.inputs) > 1 and op.inputs[1]:
        if op.inputs[1] not in graph.constants:
            return None
        axes = graph.constants[op.inputs[1]].tolist()
    if axes is None:
        axes = range(rank)
    return tuple(sorted(int(a) % rank for a in axes))


class Reduction:
    """Global pooling and reductions: over rows they split into a partial sum (or maximum) per device."""

    def verdict(self, graph: Graph, op: Operator) -> Verdict:
        tensor = graph.tensors[op.inputs[0]]
        axes = reduced_axes(graph, op)
        if axes is None or tensor.row_axis is None or 0 in axes:
            return Verdict(Kind.HEAD, f"{op.op_type} over axes that are not constant, or without a row axis")
        if tensor.row_axis in axes:
            return Verdict(Kind.REDUCE, f"{op.op_type} over rows: split by partial sums")
        made = graph.tensors[op.outputs[0]]
        if made.row_axis != tensor.row_axis or tensor.col_axis in axes:
            return Verdict(Kind.HEAD, f"{op.op_type} moves the row axis")
        return LOCAL

    def needs(self, graph: Graph, op: Operator, position: int, out: Region) -> Region:
        if out.empty:
            return out
        tensor = graph.tensors[op.inputs[position]]
        if self.verdict(graph, op).kind is Kind.REDUCE:
            return whole(tensor)
        return out

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> None:
        source = emitter.take(op.inputs[0], self.needs(emitter.graph, op, 0, out))
        emitter.copy(op, [source, *op.inputs[1:]])

    def partial_shape(self, graph: Graph, op: Operator, parts: int) -> tuple[int, ...]:
        """Shape of the stack of partial results, one row per contributing device."""
        shape = list(graph.tensors[op.inputs[0]].shape)
        for axis in reduced_axes(graph, op) or ():
            shape[axis] = 1
        shape[0] = parts
        return tuple(shape)

    def emit_partial(self, emitter: Emitter, op: Operator, region: Region, output: str) -> None:
        """Appends the reduction over this device's exclusive rows."""
        axes = reduced_axes(emitter.graph, op)
        assert axes is not None
        how = "ReduceMax" if REDUCTIONS[op.op_type] == "max" else "ReduceSum"
        _reduce(emitter, how, emitter.take(op.inputs[0], region), axes, output)

    def emit_finish(self, emitter: Emitter, op: Operator, stack: str) -> None:
        """Appends the nodes that turn everybody's partial results into the operator's output."""
        graph = emitter.graph
        tensor, made = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
        how = REDUCTIONS[op.op_type]
        axes = reduced_axes(graph, op)
        assert axes is not None
        total = emitter.fresh(f"{made.name}@total")
        _reduce(emitter, "ReduceMax" if how == "max" else "ReduceSum", stack, (0,), total)
        if how == "mean":
            count = int(np.prod([tensor.shape[a] for a in axes]))
            scaled = emitter.fresh(f"{made.name}@mean")
            factor = emitter.constant("factor", np.array(1.0 / count, dtype=made.dtype))
            emitter.node("Mul", [total, factor], scaled)
            total = scaled
        shape = emitter.constant("shape", np.array(made.shape, dtype=np.int64))
        emitter.node("Reshape", [total, shape], made.name)


def _reduce(emitter: Emitter, how: str, source: str, axes: tuple[int, ...], output: str) -> None:
    takes_input = emitter.graph.opset >= (13 if how == "ReduceSum" else 18)
    if takes_input:
        where = emitter.constant("axes", np.array(axes, dtype=np.int64))
        emitter.node(how, [source, where], output, keepdims=1)
    else:
        emitter.node(how, [source], output, axes=list(axes), keepdims=1)


_POINTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor "
    "Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean "
    "Min Mish Mod Mul Neg Not Or Pow PRelu Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt "
    "Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
).split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE, Pointwise()),
    "Conv": Windowed(),
    "MaxPool": Windowed(),
    "AveragePool": AveragePooling(),
    "BatchNormalization": ChannelWise(),
    "LRN": ChannelWise(),
    "Concat": ChannelWise("axis"),
    "Softmax": ChannelWise("axis", -1),
    "LogSoftmax": ChannelWise("axis", -1),
    **dict.fromkeys(REDUCTIONS, Reduction()),
}


def verdict_of(graph: Graph, op: Operator) -> Verdict:
    """Whether an operator may be split by rows; an operator without a rule goes to the head by name."""
    rule = RULES.get(op.op_type)
    if rule is None:
        return Verdict(Kind.HEAD, f"operator {op.op_type} has no row rule")
    if not op.activations:
        return Verdict(Kind.HEAD, f"{op.op_type} of constants only")
    return rule.verdict(graph, op)
