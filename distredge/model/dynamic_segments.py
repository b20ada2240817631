"""One sub-model for a volume, whatever rows of it a device computes: for engines that are built, which takes minutes.

Row axes are dynamic in it, and it is the same for all devices and split decisions. It knows of no rows: a part computes
*units* [u, v), rows of the coarsest tensor that the volume ends with, and holds of a tensor the rows
[scale * u + low, scale * v + high), whether they lie inside the picture or not (`Span`). So all that lies between two
tensors is the same everywhere: slices have constant ends, and no convolution or pooling pads its rows. What they would
have padded are rows outside the picture, and these are made what padding is by masks, which are inputs of the sub-model
(`RowMask`): zeros before convolutions and averages, less than anything else before a maximum.

It costs the rows outside the picture, which others need not compute; a part that this costs too much is written with
fixed shapes (`segments.build`), as is a volume that has no such form (`Unsplittable`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np

from distredge.model.graph import Graph
from distredge.model.layout import PARTIAL, Layout, Part, part_macs
from distredge.model.nodes import Operator, Tensor
from distredge.model.operators import RULES, Reduction
from distredge.model.operators.reductions import partials_of
from distredge.model.operators.windows import geometry_of, window_of
from distredge.model.rows import Interval, Region, Window
from distredge.model.sub_model import Port, RowMask, Segment, ShapeRange, SubModel, Value
from distredge.model.volumes import VolumeGraph, volume_between
from distredge.model.wires import WIRES

MOST_EXTRA = 0.5
"""A part whose multiply-adds dynamic rows would raise by a larger share has fixed shapes."""

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


class Span(NamedTuple):
    """Rows of one tensor that units [u, v) need: [scale * u + low, scale * v + high)."""

    scale: int
    low: int
    high: int

    def rows(self, units: Interval) -> Interval:
        """Those that these units need, beyond the tensor where they reach so far."""
        return Interval(self.scale * units.start + self.low, self.scale * units.stop + self.high)


class _End(NamedTuple):
    """An input or output of the sub-model; without a span it has one row of a stack of partial results."""

    name: str
    tensor: str
    dtype: str
    shape: tuple[int, ...]
    axis: int
    span: Span | None

    def shaped(self, units: Interval) -> tuple[int, ...]:
        if self.span is None:
            return self.shape
        return (*self.shape[: self.axis], self.span.rows(units).size, *self.shape[self.axis + 1 :])

    def declared(self) -> Value:
        rows: tuple[int | str, ...] = self.shape
        if self.span is not None:
            rows = (*self.shape[: self.axis], f"rows_of_{self.name}", *self.shape[self.axis + 1 :])
        return Value(self.name, self.dtype, rows)


class _Mask(NamedTuple):
    """A row mask: of a tensor's rows inside the picture, or (`own`) of those that a part contributes to a reduction."""

    end: _End
    own: int | None


@dataclass(frozen=True)
class DynamicVolume:
    """The sub-model of a volume.

    Attributes:
        model, weights: as in `Segment`.
        inputs, outputs, masks: what it reads and makes.
        spans: operator -> span of what it makes.
        ends: feature map that leaves the volume, or is reduced -> its span.
        units: how many there are.
        ranges: as in `Segment`.
    """

    model: bytes
    weights: Mapping[str, str]
    inputs: tuple[_End, ...]
    outputs: tuple[_End, ...]
    masks: tuple[_Mask, ...]
    spans: Mapping[int, Span]
    ends: Mapping[str, Span]
    units: int
    ranges: Mapping[str, ShapeRange]

    def units_of(self, graph: Graph, part: Part) -> Interval:
        """The fewest units that make all that a part makes."""
        wanted = {name: region.rows for name, region in part.outputs.items() if name in self.ends}
        for item in part.partials:
            wanted[graph.operators[item.operator].inputs[0]] = item.region.rows
        return Interval(
            min(rows.start // self.ends[name].scale for name, rows in wanted.items()),
            max(-(-rows.stop // self.ends[name].scale) for name, rows in wanted.items()),
        )

    def macs(self, graph: Graph, units: Interval) -> int:
        """Multiply-adds that these units take."""
        return sum(
            graph.macs[i] * span.rows(units).size // graph.tensors[graph.operators[i].outputs[0]].height
            for i, span in self.spans.items()
        )

    def segment(self, graph: Graph, stage: int, part: Part) -> Segment:
        """What a part runs."""
        units = self.units_of(graph, part)

        def port(end: _End) -> Port:
            region = part.outputs.get(end.tensor, Region(Interval(0, 1)))
            if end.span is not None:
                region = Region(end.span.rows(units))
            return Port(end.name, end.tensor, region, end.shaped(units), end.dtype)

        own = {item.operator: item.region.rows for item in part.partials}
        masks = []
        for mask in self.masks:
            assert mask.end.span is not None
            held = mask.end.span.rows(units)
            counts = Interval(0, graph.tensors[mask.end.tensor].height)
            if mask.own is not None:
                counts = own.get(mask.own, Interval(held.start, held.start))
            inside = Interval(counts.start - held.start, counts.stop - held.start).clip(held.size)
            masks.append(RowMask(mask.end.name, mask.end.shaped(units), *inside))
        return Segment(
            stage, self.model, self.weights, tuple(map(port, self.inputs)), tuple(map(port, self.outputs)),
            masks=tuple(masks), ranges=self.ranges,
        )  # fmt: skip


class DynamicVolumes:
    """The volumes of a layout that have a form with dynamic rows.

    Args:
        graph: the whole model.
        layout: of a strategy for it.
        input_dtype: in which inputs of the model come.

    Attributes:
        reasons: number of each volume that has no such form -> why.
    """

    def __init__(self, graph: Graph, layout: Layout, input_dtype: str) -> None:
        self.graph = graph
        self.reasons: dict[int, str] = {}
        self._found: dict[int, DynamicVolume] = {}
        start = 0
        for number, decision in enumerate(layout.decisions):
            first, start = start, decision.cut.position
            if decision.columns is not None:
                self.reasons[number] = "it is dealt out in columns, too"
            elif sum(stage.volume == number for stage in layout.stages) > 1:
                self.reasons[number] = "it runs in several stages"
            else:
                made = dynamic_volume(graph, first, start, input_dtype)
                if isinstance(made, str):
                    self.reasons[number] = made
                else:
                    self._found[number] = made

    def segment(self, stage: int, volume: int, part: Part) -> Segment | None:
        """What a part of a stage runs; None where it has no such form, or would cost too much."""
        found = self._found.get(volume)
        if found is None:
            return None
        most = (1 + MOST_EXTRA) * part_macs(self.graph, part)
        if found.macs(self.graph, found.units_of(self.graph, part)) > most:
            return None
        made = found.segment(self.graph, stage, part)
        # Where windows lie in the padding alone, a part is dealt rows that these do not reach.
        ports = {port.tensor: port.region for port in (*made.inputs, *made.outputs)}
        dealt = (*part.inputs.items(), *part.outputs.items())
        return made if all(name in ports and ports[name].contains(region) for name, region in dealt) else None


def dynamic_volume(graph: Graph, start: int, end: int, input_dtype: str) -> DynamicVolume | str:
    """The sub-model of the volume of body operators [start, end), made once per graph; why not where there is none."""
    return graph.once(_dynamic_volume, start, end, input_dtype)


def _dynamic_volume(graph: Graph, start: int, end: int, input_dtype: str) -> DynamicVolume | str:
    try:
        return _Writer(graph, volume_between(graph, start, end), input_dtype).write()
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


def _needed(window: Window, span: Span, scale: int) -> Span:
    """What a span of an operator's output needs of an input."""
    low, high = window.reach(Interval(span.low, span.high + 1))
    return Span(scale, low, high - window.stride)


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


class _Writer(SubModel):
    """Writes one volume (implements `operators.Emitter`, as far as partial results need it)."""

    def __init__(self, graph: Graph, volume: VolumeGraph, input_dtype: str) -> None:
        super().__init__(graph)
        self.volume = volume
        self.pixels = input_dtype if WIRES[input_dtype].pixels else ""
        self.ops = [graph.operators[i] for i in volume.phase_of]
        self.reductions = volume.reductions
        self._check()
        self.spans = self._spans()
        self.values: dict[str, str] = {}
        self.zero: set[str] = set()
        """Tensors whose value is zero outside the picture."""
        self.masks: dict[tuple[object, ...], _Mask] = {}
        self._sliced: dict[tuple[str, Span], str] = {}
        self._lows: dict[str, str] = {}
        self._ranged: list[_End] = []
        self._given = ""

    # What it needs.

    def _check(self) -> None:
        graph = self.graph
        if self.volume.phases > 1:
            raise Unsplittable("a reduction over rows in its middle")
        for op in self.ops:
            if op.index in graph.body.everywhere:
                raise Unsplittable(f"{op.op_type} of vectors")
            if op.index in self.reductions:
                how = partials_of(op)
                if how is None or how.partial != "ReduceSum":
                    raise Unsplittable(f"{op.op_type}: only sums are reduced with dynamic rows")
            elif op.op_type not in _WINDOWS | _ROW_BY_ROW | {"SpaceToDepth"}:
                raise Unsplittable(f"{op.op_type} has no form with dynamic rows")
            made = () if op.index in self.reductions else op.outputs
            for tensor in (graph.tensors[name] for name in (*op.activation_names, *made) if name):
                if tensor.height < 2:
                    raise Unsplittable(f"'{tensor.name}' has no rows to split")
                if tensor.dtype != "float32":
                    raise Unsplittable(f"'{tensor.name}' is of {tensor.dtype}, not float32")
            if op.op_type in _ROW_BY_ROW:
                self._check_row_by_row(op)

    def _check_row_by_row(self, op: Operator) -> None:
        made = self.graph.tensors[op.outputs[0]]
        for name in op.activation_names:
            if self.graph.tensors[name].height != made.height:
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
            stride = Fraction(_row_window(self.graph, op).stride)
            made = [] if op.index in self.reductions else [name for name in op.outputs if name]
            first = (made or op.activation_names)[0]
            for name in op.activation_names:
                factor = stride if made else Fraction(1)
                meets[first].append((name, factor))
                meets[name].append((first, 1 / factor))
            for name in made[1:]:
                meets[first].append((name, Fraction(1)))
                meets[name].append((first, Fraction(1)))
        parts: list[dict[str, Fraction]] = []
        while len(met := {name for part in parts for name in part}) < len(meets):
            parts.append(_reached(next(name for name in meets if name not in met), meets))
        # Parts that have nothing to do with each other may have any scales: those at which their ends match best.
        ends = [min((name for name in self.ends if name in part), key=part.__getitem__) for part in parts]
        heights = [self.graph.tensors[name].height for name in ends]
        scales: dict[str, int] = {}
        for part, end, height in zip(parts, ends, heights, strict=True):
            factor = max(1, round(height / min(heights))) / part[end]
            for name, scale in part.items():
                if (scale * factor).denominator > 1:
                    raise Unsplittable(f"a row of its end does not make whole rows of '{name}'")
                scales[name] = int(scale * factor)
        return scales

    @property
    def ends(self) -> tuple[str, ...]:
        """Feature maps that leave the volume, and those that are reduced."""
        reduced = (self.graph.operators[i].inputs[0] for i in self.reductions)
        return tuple(dict.fromkeys((*self.volume.exports, *reduced)))

    def _spans(self) -> dict[str, Span]:
        """What units need of each tensor: walks back from the ends."""
        scales = self._scales()
        spans = {name: Span(scales[name], 0, 0) for name in self.ends}
        for op in reversed(self.ops):
            if op.index in self.reductions:
                continue
            made = [spans[name] for name in op.outputs if name in spans]
            if not made:
                raise Unsplittable(f"nobody reads what {op.op_type} makes")
            span = Span(made[0].scale, min(span.low for span in made), max(span.high for span in made))
            spans.update((name, span) for name in op.outputs if name)
            for name in op.activation_names:
                need = _needed(_row_window(self.graph, op), span, scales[name])
                held = spans.get(name, need)
                spans[name] = Span(need.scale, min(need.low, held.low), max(need.high, held.high))
        return spans

    # Writing.

    def write(self) -> DynamicVolume:
        """Writes the whole volume."""
        graph, volume = self.graph, self.volume
        made = {name for op in self.ops for name in op.outputs}
        read = dict.fromkeys(name for op in self.ops for name in op.activation_names if name not in made)
        inputs = tuple(map(self._input, read))
        outputs = []
        for op in self.ops:
            self.values.update((name, name) for name in op.outputs if name)
            if op.index in self.reductions:
                outputs.append(self._partial(op))
            elif op.op_type in _WINDOWS:
                self._window(op)
            else:
                self.copy(op, [self._read(op, i) for i in range(len(op.inputs))])
        for name in volume.exports:
            span = self.spans[name]._replace(low=0, high=0)
            outputs.append(self._end(self._rows(name, span), graph.tensors[name], span))
        ends = {name: self.spans[name]._replace(low=0, high=0) for name in self.ends}
        units = max(-(-graph.tensors[name].height // span.scale) for name, span in ends.items())
        masks = tuple(self.masks.values())
        ranged = (*inputs, *(m.end for m in masks), *self._ranged)
        sizes = [Interval(0, count) for count in (1, (units + 1) // 2, units)]
        return DynamicVolume(
            self.model(
                [end.declared() for end in (*inputs, *(m.end for m in masks))], [end.declared() for end in outputs]
            ).SerializeToString(),
            self.weights,
            inputs,
            tuple(outputs),
            masks,
            {op.index: self.spans[op.outputs[0]] for op in self.ops if op.index not in self.reductions},
            ends,
            units,
            {end.name: ShapeRange(*map(end.shaped, sizes)) for end in ranged},
        )

    def _end(self, name: str, tensor: Tensor, span: Span, dtype: str = "") -> _End:
        assert tensor.row_axis is not None
        return _End(name, tensor.name, dtype or tensor.dtype, tensor.shape, tensor.row_axis, span)

    def _input(self, name: str) -> _End:
        """Declares an input; its rows outside the picture are zeros, which stay zeros unless they are pixels."""
        tensor, span = self.graph.tensors[name], self.spans[name]
        # The name stands in lists that colons and commas divide (`provider_options`).
        value = self.fresh("rows")
        if name in self.graph.input_names and self.pixels:
            real = self.normalise(value, self.pixels, name)
            # Where an engine takes no pixels, it begins behind the cast.
            self._ranged.append(self._end(real, tensor, span))
            self.values[name] = name
            return self._end(value, tensor, span, self.pixels)
        self.values[name] = value
        self.zero.add(name)
        return self._end(value, tensor, span)

    def _read(self, op: Operator, position: int) -> str:
        """What an operator that computes row by row reads."""
        name = op.inputs[position]
        if position not in op.activations:
            return name
        return self._rows(name, self._need(op, name))

    def _need(self, op: Operator, name: str) -> Span:
        """What an operator needs of an input."""
        return _needed(_row_window(self.graph, op), self.spans[op.outputs[0]], self.spans[name].scale)

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
            end = _End(self.fresh("mask"), name, "float32", (1,) * len(tensor.shape), tensor.row_axis, span)
            self.masks[key] = _Mask(end, own)
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
        need = self._need(op, name)
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

    def _average(self, op: Operator, source: str, need: Span, axis: int, pads: Mapping[str, Any]) -> None:
        """Writes an average of the rows inside the picture alone: that of all rows over the share of those inside."""
        name = op.inputs[0]
        geometry = geometry_of(self.graph, op)
        kernel, strides = [1] * len(geometry.kernel), [1] * len(geometry.kernel)
        kernel[axis], strides[axis] = geometry.kernel[axis], geometry.strides[axis]
        average, share, divisor = self.fresh(name), self.fresh("share"), self.fresh("share")
        mask = self._cut(self._mask(name, self.spans[name]), name, self.spans[name], need)
        self.node("AveragePool", [mask], share, kernel_shape=kernel, strides=strides)
        # A row for which there is none is outside itself, and must be a number.
        least = self.constant("least", np.array(1 / kernel[axis], dtype=np.float32))
        self.node("Max", [share, least], divisor)
        self.copy(op, [source], average, **pads)
        self.node("Div", [average, divisor], op.outputs[0])

    def _partial(self, op: Operator) -> _End:
        """Writes the sum over the rows that the part contributes."""
        graph, name = self.graph, op.inputs[0]
        rule = RULES[op.op_type]
        assert isinstance(rule, Reduction)
        span = self.spans[name]._replace(low=0, high=0)
        self._given = self.fresh(name)
        self.node("Mul", [self._rows(name, span), self._mask(name, span, op.index)], self._given)
        result = op.outputs[0] + PARTIAL
        rule.emit_partial(self, op, Region(Interval(0, 0)), result)
        shape = rule.partial_shape(graph, op, 1)
        return _End(result, result, graph.tensors[op.outputs[0]].dtype, shape, 0, None)

    def take(self, tensor: str, region: Region) -> str:
        """The rows of a tensor that the part contributes, whichever they are."""
        return self._given


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
