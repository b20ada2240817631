"""A volume's sub-models with dynamic rows, and what a part runs of them (`model.dynamic_writing` writes them).

A part computes *units* [u, v), rows of the coarsest tensor that the volume ends with, and holds of each tensor the rows
[scale * u + low, scale * v + high), whether they lie inside the picture or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from distredge.model.graph import Graph
from distredge.model.layout import Part
from distredge.model.rows import Interval, Region
from distredge.model.sub_model import Port, RowMask, Segment, ShapeRange, Value
from distredge.model.volumes import Share


class Span(NamedTuple):
    """Rows of one tensor that units [u, v) need: [scale * u + low, scale * v + high)."""

    scale: int
    low: int
    high: int

    def rows(self, units: Interval) -> Interval:
        """Those that these units need, beyond the tensor where they reach so far."""
        return Interval(self.scale * units.start + self.low, self.scale * units.stop + self.high)


class End(NamedTuple):
    """An input or output of a sub-model; without a span it is of one size, such as a vector."""

    name: str
    tensor: str
    dtype: str
    shape: tuple[int, ...]
    axis: int
    span: Span | None

    def shaped(self, units: Interval) -> tuple[int, ...]:
        """Its shape for these units."""
        if self.span is None:
            return self.shape
        return (*self.shape[: self.axis], self.span.rows(units).size, *self.shape[self.axis + 1 :])

    def declared(self) -> Value:
        """As the sub-model declares it."""
        shape: tuple[int | str, ...] = self.shape
        if self.span is not None:
            shape = (*self.shape[: self.axis], f"rows_of_{self.name}", *self.shape[self.axis + 1 :])
        return Value(self.name, self.dtype, shape)

    def port(self, units: Interval, dealt: Mapping[str, Region]) -> Port:
        """Its buffer for these units.

        Args:
            units: what the part computes.
            dealt: regions of its tensors that the part reads or makes by the layout.
        """
        if self.span is not None:
            region = Region(self.span.rows(units))
        else:
            # A vector, the part's own row of a stack of partial results, or the stack, which has room for more.
            start = 0 if self.shape[self.axis] > 1 else dealt.get(self.tensor, Region(Interval(0, 1))).rows.start
            region = Region(Interval(start, start + self.shape[self.axis]))
        return Port(self.name, self.tensor, region, self.shaped(units), self.dtype)


class Mask(NamedTuple):
    """A row mask: of a tensor's rows inside the picture, or (`own`) of those that a part contributes to a reduction."""

    end: End
    own: int | None


@dataclass(frozen=True)
class DynamicPhase:
    """The sub-model of one phase of a volume.

    Attributes:
        model, weights: as in `Segment`.
        inputs, outputs, masks: what it reads and makes.
        spans: operator -> span of what it makes; None for a vector.
        ranges: as in `Segment`.
    """

    model: bytes
    weights: Mapping[str, str]
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    masks: tuple[Mask, ...]
    spans: Mapping[int, Span | None]
    ranges: Mapping[str, ShapeRange]

    def macs(self, graph: Graph, units: Interval) -> int:
        """Multiply-adds that these units take."""
        return sum(
            graph.macs[i]
            if span is None
            else graph.macs[i] * span.rows(units).size // graph.tensors[graph.operators[i].outputs[0]].height
            for i, span in self.spans.items()
        )

    def segment(self, graph: Graph, stage: int, part: Part, units: Interval) -> Segment | None:
        """What a part runs; None where it is dealt rows that these units do not reach."""
        inputs = tuple(end.port(units, part.inputs) for end in self.inputs)
        outputs = tuple(end.port(units, part.outputs) for end in self.outputs)
        for ports, dealt in ((inputs, part.inputs), (outputs, part.outputs)):
            held = {port.tensor: port.region for port in ports}
            if not all(name in held and held[name].contains(region) for name, region in dealt.items()):
                return None
        own = {item.operator: item.region.rows for item in part.partials}
        masks = []
        for end, reduction in self.masks:
            assert end.span is not None
            rows = end.span.rows(units)
            counts = Interval(0, graph.tensors[end.tensor].height)
            if reduction is not None:
                counts = own.get(reduction, Interval(rows.start, rows.start))
            inside = Interval(counts.start - rows.start, counts.stop - rows.start).clip(rows.size)
            masks.append(RowMask(end.name, end.shaped(units), *inside))
        return Segment(stage, self.model, self.weights, inputs, outputs, masks=tuple(masks), ranges=self.ranges)


@dataclass(frozen=True)
class DynamicVolume:
    """A volume's sub-models.

    Attributes:
        phases: one for each of its phases.
        ends: feature map that leaves the volume, or is reduced -> its span.
    """

    phases: tuple[DynamicPhase, ...]
    ends: Mapping[str, Span]

    def units_of(self, graph: Graph, share: Share) -> Interval:
        """The fewest units that make all that a share of the volume's end owns."""
        owned = [(span.scale, share.of(graph.tensors[name]).rows) for name, span in self.ends.items()]
        return Interval(
            min((rows.start // scale for scale, rows in owned if not rows.empty), default=0),
            max((-(-rows.stop // scale) for scale, rows in owned if not rows.empty), default=1),
        )
