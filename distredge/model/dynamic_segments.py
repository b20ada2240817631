"""One sub-model for a volume, whatever rows of it a device computes: for engines that are built, which takes minutes.

Row axes are dynamic in it, and it is the same for all devices and split decisions (`model.dynamic_writing` says how).
It costs the rows outside the picture, which others need not compute; a part that this costs too much is written with
fixed shapes (`model.segments`), as is a volume that has no such form.
"""

from __future__ import annotations

from distredge.model.dynamic_volume import DynamicVolume
from distredge.model.dynamic_writing import dynamic_volume
from distredge.model.graph import Graph
from distredge.model.layout import Layout, Part, Stage, part_macs
from distredge.model.sub_model import Segment
from distredge.model.volumes import shares, volume_between

MOST_EXTRA = 0.5
"""A part whose multiply-adds dynamic rows would raise by a larger share has fixed shapes."""


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
        self.layout = layout
        self.reasons: dict[int, str] = {}
        self._found: dict[int, DynamicVolume] = {}
        start = 0
        for number, decision in enumerate(layout.decisions):
            first, start = start, decision.cut.position
            stages = sum(stage.volume == number for stage in layout.stages)
            if decision.columns is not None:
                self.reasons[number] = "it is dealt out in columns, too"
            elif stages > volume_between(graph, first, start).phases:
                self.reasons[number] = "its boundary rows come first"
            else:
                made = dynamic_volume(graph, first, start, input_dtype)
                if isinstance(made, str):
                    self.reasons[number] = made
                else:
                    self._found[number] = made

    def segment(self, stage: Stage, part: Part) -> Segment | None:
        """What a part of a stage runs; None where it has no such form, or would cost too much."""
        graph, found = self.graph, self._found.get(stage.volume)
        if found is None:
            return None
        phase = found.phases[stage.phase]
        share = tuple(shares(graph, self.layout.decisions[stage.volume]))[part.device]
        units = found.units_of(graph, share)
        if phase.macs(graph, units) > (1 + MOST_EXTRA) * part_macs(graph, part):
            return None
        return phase.segment(graph, stage.index, part, units)
