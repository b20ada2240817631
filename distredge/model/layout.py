"""Who computes which rows, in which stage, and who sends what to whom: all that follows from a graph and a strategy.

`model.laying_out` makes a `Layout`; the simulator prices it, `model.segments` turns it into ONNX sub-models, the
runtime executes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from distredge.model.graph import Graph
from distredge.model.nodes import Tensor
from distredge.model.operators import region_size, whole
from distredge.model.rows import Region
from distredge.model.volumes import Decision, OperatorRegion
from distredge.model.wires import FLOAT32_BYTES, is_file, is_packed

REQUESTER = -1
"""Place of the requester among the devices of a layout."""

HEAD = -1
"""Volume number of the head stage."""

PARTIAL = "#partial"
"""Suffix of the virtual tensor that stacks the partial results of a reduction."""


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
        after: earlier stage of the same device that reads the same inputs and must be done first; -1 for none.
    """

    device: int
    operators: tuple[OperatorRegion, ...] = ()
    partials: tuple[OperatorRegion, ...] = ()
    finishes: tuple[int, ...] = ()
    inputs: Mapping[str, Region] = field(default_factory=dict)
    outputs: Mapping[str, Region] = field(default_factory=dict)
    after: int = -1

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


class Transfer(NamedTuple):
    """A region of one tensor that a stage needs from one owner.

    Attributes:
        stage: the stage that needs it; `len(stages)` means the requester's result.
        tensor: its name, or ``NAME#partial``.
        source, destination: indices into the strategy's devices, or REQUESTER; equal when it never leaves the device.
        region: rows (and columns) of the whole tensor.
        produced: stage that makes it; -1 for an input of the graph.
        elements: number of elements.
        wire: in which it crosses the network.
        size_bytes: bytes on the wire; of a packed one, or a picture's file, as many as are expected.
    """

    stage: int
    tensor: str
    source: int
    destination: int
    region: Region
    produced: int
    elements: int
    wire: str
    size_bytes: int

    @property
    def local(self) -> bool:
        """Whether it stays on its device."""
        return self.source == self.destination

    @property
    def is_file(self) -> bool:
        """Whether it is expected to be the picture's file, which its destination decodes."""
        return is_file(self.wire) and self.size_bytes < self.elements

    @property
    def packed_bytes(self) -> int:
        """Bytes of float32 that packing reads and unpacking makes; 0 on another wire."""
        return self.elements * FLOAT32_BYTES if is_packed(self.wire) else 0


@dataclass(frozen=True)
class Layout:
    """Everything that follows from a graph and a strategy; see the module's text.

    Attributes:
        devices: names in slab order.
        stages: in the order in which they run.
        transfers: what they need from each other, from the requester and for its result.
        tensors: those of the graph, and the stacks of partial results.
        has_head: whether the last stage is the head.
        decisions: the volumes that were laid out.
        file_pixels: pixels of the picture whose file travels, where one may.
    """

    devices: tuple[str, ...]
    stages: tuple[Stage, ...]
    transfers: tuple[Transfer, ...]
    tensors: Mapping[str, Tensor]
    has_head: bool
    decisions: tuple[Decision, ...] = ()
    file_pixels: int = 0

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


def part_macs(graph: Graph, part: Part) -> int:
    """Multiply-adds of a part."""
    total = 0
    for item in part.operators:
        out = graph.tensors[graph.operators[item.operator].outputs[0]]
        total += graph.macs[item.operator] * region_size(out, item.region) // max(1, region_size(out, whole(out)))
    return total
