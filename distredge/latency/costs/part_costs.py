"""What computing costs: profile values for the parts of a layout, looked up once per problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distredge.model.layout import PARTIAL
from distredge.model.operators import Kind, region_size
from distredge.profiles.modelled import profile_rows

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.model.layout import Part
    from distredge.model.volumes import OperatorRegion
    from distredge.profiles.compute import ComputeProfile


_ELEMENT_BYTES = 4
"""Engines compute in float32, whatever travels."""


class PartCosts:
    """Seconds of split-parts on boards of one profile.

    A part takes `segment_overhead_s + segment_factor * sum` over its operators, each at the rows that are really
    computed, halo included, and `segment_s_per_byte` for what enters and leaves it. An operator that is fused into
    another costs nothing of its own; of a reduction over rows, the rows are those of its input. Partial results are too
    small for their bytes to count here.

    Args:
        graph: the model.
        profile: the board's.
    """

    def __init__(self, graph: Graph, profile: ComputeProfile) -> None:
        self.graph = graph
        self.profile = profile
        self._tables: dict[int, list[float] | None] = {}

    def part_s(self, part: Part) -> float:
        """Returns the seconds of one part; 0 for an empty one.

        Raises:
            ProfileError: if the profile lacks an operator.
        """
        if part.empty:
            return 0.0
        total = 0.0
        for item in part.operators:
            total += self._operator_s(item)
        for item in part.partials:
            total += self._operator_s(item)
        total = self.profile.segment_overhead_s + self.profile.segment_factor * total
        if self.element_s > 0:
            edges = (*part.inputs.items(), *part.outputs.items())
            tensors = self.graph.tensors
            total += self.element_s * sum(region_size(tensors[n], r) for n, r in edges if not n.endswith(PARTIAL))
        return total

    @property
    def element_s(self) -> float:
        """Seconds of one element that enters or leaves a part."""
        return _ELEMENT_BYTES * self.profile.segment_s_per_byte

    def table(self, operator: int) -> list[float] | None:
        """Returns the seconds of 0, 1, ... rows of an operator; None for one that costs nothing of its own."""
        if operator not in self._tables:
            signature = self.graph.signatures[operator]
            self._tables[operator] = (
                None if signature is None else self.profile.table_s(signature, profile_rows(signature)).tolist()
            )
        return self._tables[operator]

    def _operator_s(self, item: OperatorRegion) -> float:
        table = self.table(item.operator)
        if table is None:
            return 0.0
        if self.graph.body.verdicts[item.operator].kind is Kind.HEAD:
            return table[-1]
        seconds = table[item.region.rows.size]
        if item.region.cols is not None:
            operator = self.graph.operators[item.operator]
            width = self.graph.tensors[operator.outputs[0]].width
            seconds *= item.region.cols.size / width
        return seconds
