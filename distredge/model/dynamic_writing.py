"""Writes the sub-models of a volume with dynamic row axes: the same bytes whatever rows a part computes.

They know of no rows: all that lies between two tensors is the same for all units (`model.dynamic_volume`). Slices have
constant ends, and no convolution or pooling pads its rows. What they would have padded are rows outside the picture,
and these are made what padding is by masks, which are inputs (`RowMask`): zeros before convolutions and averages, less
than anything else before a maximum.

A reduction over rows sums those that are the part's own, by a mask of these. The stack of everybody's results has room
for as many devices as usual: what nobody fills is zeros.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np

from distredge.model.dynamic_volume import DynamicPhase, DynamicVolume, End, Mask, Span
from distredge.model.graph import Graph
from distredge.model.layout import PARTIAL
from distredge.model.nodes import Operator, Tensor
from distredge.model.operators import RULES, Reduction
from distredge.model.operators.reductions import partials_of
from distredge.model.operators.windows import geometry_of, transposed_pads, transposed_window, window_of
from distredge.model.rows import Interval, Region, Window
from distredge.model.sub_model import ShapeRange, SubModel
from distredge.model.volumes import VolumeGraph, volume_between
from distredge.model.wires import WIRES

MOST_RESULTS: Final = 16
"""Devices that may contribute to a reduction; where there are more, parts that complete it have fixed shapes."""

_WINDOWS: Final = frozenset({"Conv", "MaxPool", "AveragePool"})

_ROW_BY_ROW: Final = frozenset(
    "Abs Add BatchNormalization Celu Clip Concat Elu Erf HardSigmoid HardSwish Identity LRN LeakyRelu Max Mean Min Mul "
    "Neg PRelu Relu Selu Sigmoid Softplus Softsign Split Sub Sum Tanh Transpose".split()
)
"""Operators that compute row by row, and nothing but numbers from numbers: what is outside the picture is made zero by
a product, which a NaN or an infinity would survive."""

_PARAMETERS: Final = frozenset({"BatchNormalization", "LRN", "Split", "Clip"})
"""Those of them whose constants never stand beside rows."""

_NEVER_NEGATIVE: Final = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softplus", "Abs"})
_KEEP_SIGN: Final = frozenset({"MaxPool", "AveragePool", "Concat", "Identity", "Add", "Max", "Sum", "Mean", "Split"})

_MUCH: Final = 1.7e38
"""Half of the largest float32: numbers of which it is taken away stay numbers."""

_TO_THE_END: Final = int(np.iinfo(np.int64).max)


class Unsplittable(Exception):
    """A volume cannot be written with dynamic rows; the text says why."""


def dynamic_volume(graph: Graph, start: int, end: int, input_dtype: str) -> DynamicVolume | str:
    """The sub-models of the volume of body operators [start, end), made once per graph; why not where there is none."""
    return graph.once(_dynamic_volume, start, end, input_dtype)


def _dynamic_volume(graph: Graph, start: int, end: int, input_dtype: str) -> DynamicVolume | str:
    try:
        volume = volume_between(graph, start, end)
        geometry = _Geometry(graph, volume)
        phases = tuple(_Writer(graph, geometry, phase, input_dtype).write() for phase in range(volume.phases))
        return DynamicVolume(phases, {name: geometry.spans[name]._replace(low=0, high=0) for name in geometry.ends})
    except Unsplittable as why:
        return str(why)


def _row_window(graph: Graph, op: Operator) -> Window:
    """Which rows of its inputs a row of an operator's output reads."""
    if op.op_type in _WINDOWS:
        return window_of(graph, op, "rows")
    if op.op_type == "SpaceToDepth":
        size = int(op.attributes["blocksize"])
        return Window(size, 0, size)
    return Window(1, 0, 1)


def _stride(graph: Graph, op: Operator) -> Fraction:
    """Rows of its inputs for a row of an operator's output."""
    if op.op_type == "ConvTranspose":
        return Fraction(1, transposed_window(graph, op, "rows").stride)
    return Fraction(_row_window(graph, op).stride)


def _reads(graph: Graph, op: Operator, out: Interval) -> Interval:
    """Rows of its inputs that some rows of an operator's output read, as if there were more above and below."""
    if op.op_type != "ConvTranspose":
        return _row_window(graph, op).reach(out)
    stride, pad, extent = transposed_window(graph, op, "rows")
    first, last = out.start + pad, out.stop - 1 + pad
    # A row between two contributions holds the bias alone: the input row before it makes it.
    return Interval(min(-((extent - 1 - first) // stride), first // stride), last // stride + 1)


def _reached(begin: str, meets: Mapping[str, Sequence[tuple[str, Fraction]]]) -> dict[str, Fraction]:
    """Rows of each tensor that is reached from one, for one row of that."""
    found, todo = {begin: Fraction(1)}, [begin]
    while todo:
        name = todo.pop()
        for other, factor in meets[name]:
            if other not in found:
                found[other] = found[name] * factor
                todo.append(other)
            elif found[other] != found[name] * factor:
                raise Unsplittable(f"'{other}' has rows at two scales")
    return found


class _Geometry:
    """Which rows of each tensor of a volume units need.

    Attributes:
        ops: the volume's operators in topological order.
        rows: tensors that have rows; the others are vectors.
        spans: what units need of each of them.
        ends: feature maps that leave the volume, and those that are reduced.
        kept: tensors that a later phase reads.
    """

    def __init__(self, graph: Graph, volume: VolumeGraph) -> None:
        self.graph = graph
        self.volume = volume
        self.ops = [graph.operators[i] for i in volume.phase_of]
        named = dict.fromkeys(name for op in self.ops for name in (*op.activation_names, *op.outputs) if name)
        self.rows = {name: None for name in named if name not in graph.body.vectors}
        reduced = (graph.operators[i].inputs[0] for i in volume.reductions)
        self.ends = tuple(dict.fromkeys((*volume.exports, *reduced)))
        self.kept = {
            read.tensor
            for reads in volume.reads.values()
            for read in reads
            if read.earlier and read.maker not in volume.reductions
        }
        self._check()
        self.spans = self._spans()

    def has_rows(self, op: Operator) -> bool:
        """Whether what an operator makes has rows; a reduction makes none."""
        return op.outputs[0] in self.rows

    def need(self, op: Operator, name: str) -> Span:
        """What an operator needs of an input."""
        return self._need(op, self.spans[op.outputs[0]], self.spans[name].scale)

    def _need(self, op: Operator, span: Span, scale: int) -> Span:
        """What a span of an operator's output needs of an input of that scale."""
        # Of two units, since of none there would be no rows to read.
        low, high = _reads(self.graph, op, Interval(span.low, 2 * span.scale + span.high))
        return Span(scale, low, high - 2 * scale)

    def _check(self) -> None:
        graph = self.graph
        for name in self.rows:
            tensor = graph.tensors[name]
            if tensor.height < 2:
                raise Unsplittable(f"'{name}' has no rows to split")
            if tensor.dtype != "float32":
                raise Unsplittable(f"'{name}' is of {tensor.dtype}, not float32")
        for op in self.ops:
            if op.index in self.volume.reductions:
                how = partials_of(op)
                if how is None or how.merge != "ReduceSum":
                    raise Unsplittable(f"{op.op_type}: only sums are reduced with dynamic rows")
            elif op.index not in graph.body.everywhere:
                if op.op_type not in _WINDOWS | _ROW_BY_ROW | {"ConvTranspose", "SpaceToDepth"}:
                    raise Unsplittable(f"{op.op_type} has no form with dynamic rows")
                if op.op_type in _ROW_BY_ROW:
                    self._check_row_by_row(op)

    def _check_row_by_row(self, op: Operator) -> None:
        made = self.graph.tensors[op.outputs[0]]
        if op.op_type == "LRN" and op.attributes.get("bias", 1.0) <= 0:
            raise Unsplittable("LRN without a bias divides zeros by zero")
        for name in op.activation_names:
            if name in self.rows and self.graph.tensors[name].height != made.height:
                raise Unsplittable(f"{op.op_type} moves or broadcasts the rows of '{name}'")
        for position, name in enumerate(op.inputs):
            if position in op.activations or name not in self.graph.constants or op.op_type in _PARAMETERS:
                continue
            value = self.graph.constants[name]
            assert made.row_axis is not None
            axis = made.row_axis - (len(made.shape) - value.ndim)
            if axis >= 0 and value.shape[axis] > 1:
                raise Unsplittable(f"{op.op_type} with a constant that has rows of its own")
            if not np.isfinite(value).all():
                raise Unsplittable(f"{op.op_type} with a constant that is not finite")

    def _scales(self) -> dict[str, int]:
        """Rows of each tensor for one unit."""
        meets: dict[str, list[tuple[str, Fraction]]] = defaultdict(list)
        for op in self.ops:
            made = [name for name in op.outputs if name in self.rows]
            read = [name for name in op.activation_names if name in self.rows]
            # A reduction only says that its input is there.
            stride = _stride(self.graph, op) if made else Fraction(1)
            for name, factor in [(n, Fraction(1)) for n in made] + [(n, stride) for n in read]:
                first = (made or read)[0]
                meets[first].append((name, factor))
                meets[name].append((first, 1 / factor))
        parts: list[dict[str, Fraction]] = []
        while len(met := {name for part in parts for name in part}) < len(meets):
            parts.append(_reached(next(name for name in meets if name not in met), meets))
        # Parts that have nothing to do with each other may have any scales: those at which their ends match best.
        for part in parts:
            if part.keys().isdisjoint(self.ends):
                raise Unsplittable(f"nobody reads '{next(iter(part))}', nor what is made of it")
        ends = [min((name for name in self.ends if name in part), key=part.__getitem__) for part in parts]
        heights = [self.graph.tensors[name].height for name in ends]
        scales = {
            name: scale * max(1, round(height / min(heights))) / part[end]
            for part, end, height in zip(parts, ends, heights, strict=True)
            for name, scale in part.items()
        }
        # A unit makes whole rows also of what becomes more rows later.
        whole = math.lcm(*(scale.denominator for scale in scales.values()))
        return {name: int(scale * whole) for name, scale in scales.items()}

    def _spans(self) -> dict[str, Span]:
        """Walks back from the ends."""
        scales = self._scales()
        spans = {name: Span(scales[name], 0, 0) for name in self.ends}
        for op in reversed(self.ops):
            if not self.has_rows(op):
                continue
            made = [spans[name] for name in op.outputs if name in spans]
            if not made:
                raise Unsplittable(f"nobody reads what {op.op_type} makes")
            span = Span(made[0].scale, min(span.low for span in made), max(span.high for span in made))
            spans.update((name, span) for name in op.outputs if name)
            for name in op.activation_names:
                if name in self.rows:
                    need = self._need(op, span, scales[name])
                    held = spans.get(name, need)
                    spans[name] = Span(need.scale, min(need.low, held.low), max(need.high, held.high))
        return spans


class _Writer(SubModel):
    """Writes one phase of a volume (implements `operators.Emitter`, as far as reductions need it)."""

    def __init__(self, graph: Graph, geometry: _Geometry, phase: int, input_dtype: str) -> None:
        super().__init__(graph)
        self.geometry = geometry
        self.spans = geometry.spans
        self.pixels = input_dtype if WIRES[input_dtype].pixels else ""
        self.phase = phase
        self.reductions = geometry.volume.reductions
        self.values: dict[str, str] = {}
        """Tensor -> the name that holds it by now."""
        self.zero: set[str] = set()
        """Tensors whose value is zero outside the picture."""
        self.masks: dict[tuple[object, ...], Mask] = {}
        self._sliced: dict[tuple[str, Span], str] = {}
        self._lows: dict[str, str] = {}
        self._ranged: list[End] = []
        self._given = ""

    def write(self) -> DynamicPhase:
        """Writes it."""
        geometry, volume = self.geometry, self.geometry.volume
        ops = [op for op in geometry.ops if volume.phase_of[op.index] == self.phase]
        reads = [(op, read) for op in ops for read in volume.reads[op.index]]
        inputs = [
            self._input(name)
            for name in dict.fromkeys(r.tensor for _, r in reads if r.maker < 0 or r.earlier)
            if self.graph.producer.get(name) not in self.reductions
        ]
        for index in sorted({read.maker for _, read in reads} & set(self.reductions)):
            inputs.append(self._finish(self.graph.operators[index]))
        outputs = []
        for op in ops:
            self.values.update((name, name) for name in op.outputs if name)
            if op.index in self.reductions:
                outputs.append(self._partial(op))
            elif not geometry.has_rows(op):
                self.copy(op, [self.values.get(name, name) for name in op.inputs])
            elif op.op_type in _WINDOWS:
                self._window(op)
            elif op.op_type == "ConvTranspose":
                self._transposed(op)
            else:
                self.copy(op, [self._read(op, i) for i in range(len(op.inputs))])
        made = dict.fromkeys(name for op in ops if op.index not in self.reductions for name in op.outputs)
        outputs += [self._output(name) for name in made if name in volume.exports or name in geometry.kept]
        masks = tuple(self.masks.values())
        given = (*inputs, *(mask.end for mask in masks))
        return DynamicPhase(
            self.model([end.declared() for end in given], [end.declared() for end in outputs]).SerializeToString(),
            self.weights,
            tuple(inputs),
            tuple(outputs),
            masks,
            {op.index: self.spans.get(op.outputs[0]) for op in ops if op.index not in self.reductions},
            self._ranges((*given, *self._ranged)),
        )

    def _ranges(self, ends: Iterable[End]) -> dict[str, ShapeRange]:
        """Which shapes those have whose rows are dynamic: for one unit, half of them and all."""
        heights = [(self.graph.tensors[name].height, self.spans[name].scale) for name in self.geometry.ends]
        units = max(-(-height // scale) for height, scale in heights)
        sizes = [Interval(0, count) for count in (1, (units + 1) // 2, units)]
        return {end.name: ShapeRange(*map(end.shaped, sizes)) for end in ends if end.span is not None}

    def _end(self, name: str, tensor: Tensor, dtype: str = "") -> End:
        """What holds the rows that are needed of a tensor, or a vector."""
        axis, span = tensor.row_axis, self.spans.get(tensor.name)
        return End(name, tensor.name, dtype or tensor.dtype, tensor.shape, axis or 0, span)

    def _input(self, name: str) -> End:
        """Declares an input; its rows outside the picture are zeros, which stay zeros unless they are pixels."""
        tensor = self.graph.tensors[name]
        # The name stands in lists that colons and commas divide (`provider_options`).
        value = self.fresh("rows")
        if name in self.graph.input_names and self.pixels:
            real = self.normalise(value, self.pixels, name)
            # Where an engine takes no pixels, it begins behind the cast.
            self._ranged.append(self._end(real, tensor))
            self.values[name] = name
            return self._end(value, tensor, self.pixels)
        self.values[name] = value
        self.zero.add(name)
        return self._end(value, tensor)

    def _output(self, name: str) -> End:
        """Declares an output: all that is held of what a later phase reads, else the rows of the units alone."""
        tensor = self.graph.tensors[name]
        if name in self.geometry.kept:
            return self._end(self.values[name], tensor)
        span = self.spans[name]._replace(low=0, high=0)
        return self._end(self._rows(name, span), tensor)._replace(span=span)

    def _read(self, op: Operator, position: int) -> str:
        """What an operator that computes row by row reads."""
        name = op.inputs[position]
        if position not in op.activations:
            return name
        return self._rows(name, self.geometry.need(op, name)) if name in self.spans else self.values[name]

    def _rows(self, tensor: str, span: Span) -> str:
        """A tensor's value, cut down to the rows of a span."""
        return self._cut(self.values[tensor], tensor, self.spans[tensor], span)

    def _cut(self, value: str, tensor: str, held: Span, span: Span) -> str:
        """Some rows of what holds the rows `held` of a tensor."""
        if held == span:
            return value
        if (value, span) not in self._sliced:
            axis = self.graph.tensors[tensor].row_axis
            assert axis is not None
            end = span.high - held.high
            self._sliced[value, span] = self.slice(value, tensor, [(axis, span.low - held.low, end or _TO_THE_END)])
        return self._sliced[value, span]

    def _mask(self, name: str, span: Span, own: int | None = None) -> str:
        """Declares the mask of some rows of a tensor, once for all tensors that have the same rows."""
        tensor = self.graph.tensors[name]
        assert tensor.row_axis is not None
        key = (span, tensor.height, len(tensor.shape), tensor.row_axis, own)
        if key not in self.masks:
            end = End(self.fresh("mask"), name, "float32", (1,) * len(tensor.shape), tensor.row_axis, span)
            self.masks[key] = Mask(end, own)
        return self.masks[key].end.name

    def _make_zero(self, name: str) -> None:
        """Makes a tensor's rows outside the picture zeros, for all that read it from now on."""
        if name not in self.zero:
            value = self.fresh(name)
            self.node("Mul", [self.values[name], self._mask(name, self.spans[name])], value)
            self.values[name] = value
            self.zero.add(name)

    def _lowered(self, name: str) -> str:
        """A tensor whose rows outside the picture are less than anything else."""
        mask = self._mask(name, self.spans[name])
        if mask not in self._lows:
            one = self.constant("one", np.array(1, dtype=np.float32))
            much = self.constant("much", np.array(_MUCH, dtype=np.float32))
            outside = self.fresh("outside")
            self._lows[mask] = self.fresh("low")
            self.node("Sub", [mask, one], outside)
            self.node("Mul", [outside, much], self._lows[mask])
        value = self.fresh(name)
        self.node("Add", [self.values[name], self._lows[mask]], value)
        return value

    def _window(self, op: Operator) -> None:
        """Writes a convolution or pooling that pads no rows."""
        graph, (name, made) = self.graph, (op.inputs[0], op.outputs[0])
        tensor, geometry, window = graph.tensors[name], geometry_of(graph, op), window_of(graph, op, "rows")
        assert tensor.row_axis is not None
        axis = tensor.row_axis - 2
        begins, ends = list(geometry.begins), list(geometry.ends)
        declared, begins[axis], ends[axis] = ends[axis], 0, 0
        reach = window.reach(Interval(0, graph.tensors[made].height))
        leaves = reach.start < 0 or reach.stop > tensor.height
        taps = range(0, window.extent, geometry.dilations[axis])
        if op.op_type != "Conv" and any(
            all(not 0 <= row * window.stride - window.pad + tap < tensor.height for tap in taps)
            for row in range(graph.tensors[made].height)
        ):
            raise Unsplittable(f"{op.op_type} of padding alone")
        need = self.geometry.need(op, name)
        pads: dict[str, Any] = {"pads": begins + ends, "auto_pad": None}
        rest = op.inputs[1:]
        if leaves and op.op_type == "MaxPool" and not _never_negative(graph, name):
            lowered = self._cut(self._lowered(name), name, self.spans[name], need)
            self.copy(op, [lowered, *rest], **pads)
            # Before it meets a factor that makes an infinity of it.
            self._make_zero(made)
            return
        if leaves:
            self._make_zero(name)
        source = self._rows(name, need)
        if not leaves or op.op_type != "AveragePool":
            self.copy(op, [source, *rest], **pads)
        elif op.attributes.get("count_include_pad", 0):
            if reach.stop - tensor.height > declared:
                raise Unsplittable("AveragePool that counts padding and reaches beyond it")
            self.copy(op, [source, *rest], **pads)
        else:
            self._average(op, source, need, axis, pads)

    def _transposed(self, op: Operator) -> None:
        """Writes a transposed convolution: rows outside the picture add nothing, since they are zeros."""
        graph, (name, made) = self.graph, (op.inputs[0], op.outputs[0])
        tensor, span, need = graph.tensors[name], self.spans[made], self.geometry.need(op, name)
        reach = _reads(graph, op, Interval(0, graph.tensors[made].height))
        if reach.start < 0 or reach.stop > tensor.height:
            self._make_zero(name)
        stride, pad, extent = transposed_window(graph, op, "rows")
        begins, ends, extra = transposed_pads(graph, op)
        assert tensor.row_axis is not None
        axis = tensor.row_axis - 2
        begins[axis] = span.low + pad - need.low * stride
        end = (need.high - need.low - 1) * stride + extent - begins[axis] - (span.high - span.low)
        ends[axis], extra[axis] = max(0, end), max(0, -end)
        self.copy(
            op, [self._rows(name, need), *op.inputs[1:]],
            pads=begins + ends, output_padding=extra, output_shape=None, auto_pad=None,
        )  # fmt: skip

    def _average(self, op: Operator, source: str, need: Span, axis: int, pads: Mapping[str, Any]) -> None:
        """Writes an average of the rows inside the picture alone: that of all rows over the share of those inside."""
        name = op.inputs[0]
        geometry = geometry_of(self.graph, op)
        kernel, strides = [1] * len(geometry.kernel), [1] * len(geometry.kernel)
        kernel[axis], strides[axis] = geometry.kernel[axis], geometry.strides[axis]
        dilations = [1] * len(kernel)
        dilations[axis] = geometry.dilations[axis]
        # Operator sets before 19 know of none.
        dilated = {"dilations": dilations} if dilations[axis] > 1 else {}
        average, share, divisor = self.fresh(name), self.fresh("share"), self.fresh("share")
        mask = self._cut(self._mask(name, self.spans[name]), name, self.spans[name], need)
        self.node("AveragePool", [mask], share, kernel_shape=kernel, strides=strides, **dilated)
        # A row for which there is none is outside itself, and must be a number.
        least = self.constant("least", np.array(1 / kernel[axis], dtype=np.float32))
        self.node("Max", [share, least], divisor)
        self.copy(op, [source], average, **pads)
        self.node("Div", [average, divisor], op.outputs[0])

    def _partial(self, op: Operator) -> End:
        """Writes the sum over the rows that the part contributes."""
        graph, name, rule = self.graph, op.inputs[0], _reduction(op)
        span = self.spans[name]._replace(low=0, high=0)
        self._given = self.fresh(name)
        self.node("Mul", [self._rows(name, span), self._mask(name, span, op.index)], self._given)
        result = op.outputs[0] + PARTIAL
        rule.emit_partial(self, op, Region(Interval(0, 0)), result)
        shape = rule.partial_shape(graph, op, 1)
        return End(result, result, graph.tensors[op.outputs[0]].dtype, shape, 0, None)

    def take(self, tensor: str, region: Region) -> str:
        """The rows of a tensor that the part contributes, whichever they are."""
        return self._given

    def _finish(self, op: Operator) -> End:
        """Declares everybody's partial results, and writes what makes a vector of them."""
        rule, made = _reduction(op), op.outputs[0]
        stack = self.fresh("results")
        rule.emit_finish(self, op, stack)
        self.values[made] = made
        shape = rule.partial_shape(self.graph, op, MOST_RESULTS)
        return End(stack, made + PARTIAL, self.graph.tensors[made].dtype, shape, 0, None)


def _reduction(op: Operator) -> Reduction:
    rule = RULES[op.op_type]
    assert isinstance(rule, Reduction)
    return rule


def _never_negative(graph: Graph, name: str) -> bool:
    """Whether a tensor has no negative element, as far as the operators that make it tell."""
    made_by = graph.producer.get(name)
    if made_by is None:
        return False
    op = graph.operators[made_by]
    if op.op_type == "Clip":
        least = graph.constants.get(op.inputs[1]) if len(op.inputs) > 1 else None
        return least is not None and bool((least >= 0).all())
    if op.op_type in _KEEP_SIGN:
        return len(op.activations) == len([i for i in op.inputs if i]) and all(
            graph.once(_never_negative, tensor) for tensor in op.activation_names
        )
    return op.op_type in _NEVER_NEGATIVE
