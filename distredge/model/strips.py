"""Parts that compute first the rows that others wait for (HALP's idea, offered to every strategy).

Such a part runs as strips: the rows at the top and at the bottom of its share down to the last row that anybody else
waits for, then what lies between. Each strip recomputes its own halo. A part without rows between the strips, of a
grid of tiles, or of a volume with a reduction over rows runs as it always does.

`latency.costs.boundary_first` prices it, `by_strips` makes stages of it that the runtime runs like any others.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from distredge.model.graph import Graph
from distredge.model.layout import Layout, Part, Stage, Transfer
from distredge.model.operators import region_size
from distredge.model.rows import intersect_region
from distredge.model.volumes import Decision, PhasePart, VolumeGraph, shares, volume_between, volume_share


class Strips(NamedTuple):
    """One part as strips, in the order in which they run; None where nobody waits at that end."""

    top: PhasePart | None
    bottom: PhasePart | None
    middle: PhasePart


def find_strips(graph: Graph, layout: Layout) -> dict[tuple[int, int], Strips]:
    """Returns the parts that run as strips, by (stage, device): some of the volumes with `boundary_first`."""
    decisions = layout.decisions
    if not any(decision.boundary_first for decision in decisions):
        return {}
    depths = _depths(layout)
    found: dict[tuple[int, int], Strips] = {}
    start = 0
    for number, decision in enumerate(decisions):
        volume = volume_between(graph, start, decision.cut.position)
        if decision.boundary_first and decision.columns is None and not volume.reductions:
            (stage,) = (stage.index for stage in layout.stages if stage.volume == number)
            for device in range(len(layout.devices)):
                top, bottom = depths[stage, device]
                if 0 < top + bottom < decision.rows[device + 1] - decision.rows[device]:
                    found[stage, device] = _cut(graph, volume, decision, device, top, bottom)
        start = decision.cut.position
    return found


def _depths(layout: Layout) -> dict[tuple[int, int], tuple[int, int]]:
    """Rows of the reference that others wait for at the top and at the bottom of each part's share.

    Rows in the middle count to the end that they are nearer to.
    """
    depths: dict[tuple[int, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for transfer in layout.transfers:
        if transfer.local or transfer.produced < 0 or layout.stages[transfer.produced].volume < 0:
            continue
        rows = layout.decisions[layout.stages[transfer.produced].volume].rows
        if transfer.source + 1 >= len(rows):
            continue
        reference, height = rows[-1], layout.tensors[transfer.tensor].height
        a, b = rows[transfer.source], rows[transfer.source + 1]
        first, last = transfer.region.rows.start, transfer.region.rows.stop
        top, bottom = depths[transfer.produced, transfer.source]
        if first - a * height // reference <= b * height // reference - last:
            # The least x with floor(x * height / reference) >= last.
            top = max(top, min(-(-last * reference // height), b) - a)
        else:
            # The greatest x with floor(x * height / reference) <= first.
            bottom = max(bottom, b - max(-(-(first + 1) * reference // height) - 1, a))
        depths[transfer.produced, transfer.source] = top, bottom
    return depths


def _cut(graph: Graph, volume: VolumeGraph, decision: Decision, device: int, top: int, bottom: int) -> Strips:
    a, b = decision.rows[device], decision.rows[device + 1]
    cuts = Decision(decision.cut, (0, a, a + top, b - bottom, b, decision.cut.height))
    _, *inside, _ = shares(graph, cuts)
    upper, middle, lower = (volume_share(graph, volume, share).parts[0] for share in inside)
    return Strips(upper if top else None, lower if bottom else None, middle)


def by_strips(graph: Graph, layout: Layout) -> Layout:
    """Returns the layout in which every strip is a part of its own: top, bottom and middle in consecutive stages.

    What a part needs comes in before its first strip, all of it; later strips read the same buffers (`Part.after`).
    What it makes leaves strip by strip. A layout without such parts comes back as it is.
    """
    strips = find_strips(graph, layout)
    return _Expansion(graph, layout, strips).run() if strips else layout


class _Expansion:
    def __init__(self, graph: Graph, layout: Layout, strips: Mapping[tuple[int, int], Strips]) -> None:
        self.graph = graph
        self.layout = layout
        self.strips = strips
        self.stages: list[Stage] = []
        self.whole: dict[int, int] = {-1: -1}
        """Old stage -> the new one in which parts run in one piece."""
        self.made: dict[tuple[int, int], list[tuple[int, PhasePart]]] = {}
        """Old (stage, device) -> new stages and what each makes."""

    def run(self) -> Layout:
        striped = {stage for stage, _ in self.strips}
        for stage in self.layout.stages:
            if stage.index in striped:
                self._split(stage)
            else:
                self._append(stage, stage.parts)
            self.whole[stage.index] = len(self.stages) - 1
        self.whole[len(self.layout.stages)] = len(self.stages)
        transfers = tuple(new for old in self.layout.transfers for new in self._transfers(old))
        return dataclasses.replace(self.layout, stages=tuple(self.stages), transfers=transfers)

    def _append(self, stage: Stage, parts: Sequence[Part], phase: int | None = None) -> None:
        number = stage.phase if phase is None else phase
        self.stages.append(Stage(len(self.stages), stage.volume, number, tuple(parts)))

    def _split(self, stage: Stage) -> None:
        before: dict[int, int] = {}
        for phase in range(3):
            parts = []
            for part in stage.parts:
                strips = self.strips.get((stage.index, part.device))
                strip = None if strips is None else (strips.top, strips.bottom, strips.middle)[phase]
                if strip is not None:
                    new = len(self.stages)
                    parts.append(
                        Part(
                            part.device, strip.operators, inputs=part.inputs, outputs=strip.outputs,
                            after=before.get(part.device, -1),
                        )
                    )  # fmt: skip
                    before[part.device] = new
                    self.made.setdefault((stage.index, part.device), []).append((new, strip))
                else:
                    parts.append(part if strips is None and phase == 2 else Part(part.device))
            self._append(stage, parts, phase)

    def _transfers(self, old: Transfer) -> list[Transfer]:
        needed = self.made.get((old.stage, old.destination))
        stage = needed[0][0] if needed else self.whole[old.stage]
        made = self.made.get((old.produced, old.source))
        if made is None:
            return [old._replace(stage=stage, produced=self.whole[old.produced])]
        found = []
        for produced, strip in made:
            region = intersect_region(strip.outputs[old.tensor], old.region) if old.tensor in strip.outputs else None
            if region is not None and not region.empty:
                size = region_size(self.layout.tensors[old.tensor], region)
                found.append(old._replace(stage=stage, region=region, produced=produced, elements=size))
        return found
