"""What a part of a model takes on a board: the one formula that everything prices parts by, and its operators' sum.

A part takes its board's overhead, a factor times the sum of its operators, and some time for each element that enters
or leaves it. Each operator counts with the rows that are really computed, halo included; of a reduction over rows, they
are those of its input. An operator that is fused into another costs nothing of its own. A part that computes nothing
takes no time at all.

What enters and leaves is counted without partial results. The term stands for changes of layout at the edge of a
segment, as measured segments have them: the engine brings feature maps into the layout in which it computes, and back.
It never does that with partial results, which sums over rows make of maps that are back in the plain layout already.

`latency.tables.part_seconds` holds the formula once more, compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.model.layout import PARTIAL
from distredge.model.operators import Kind, region_size
from distredge.model.wires import FLOAT32_BYTES
from distredge.profiles.modelled import profile_rows

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.model.layout import Part
    from distredge.model.volumes import OperatorRegion
    from distredge.profiles.compute import ComputeProfile

Floats = NDArray[np.float64]


class PartTerms(NamedTuple):
    """The coefficients of the formula: floats of one board, or arrays, (n_boards,) float64, of several.

    Attributes:
        overhead_s: seconds of any part.
        factor: a part over the sum of its operators.
        element_s: seconds of one element that enters or leaves.
    """

    overhead_s: float | Floats
    factor: float | Floats
    element_s: float | Floats


def part_seconds(terms: PartTerms, operators_s: float | Floats, elements: float | Floats = 0) -> Any:
    """Returns the seconds of parts that compute something, in the common shape of all arguments.

    Args:
        terms: of one board, or (n_boards,) of the boards along the last axis of the others.
        operators_s: sum of a part's operators, a float or a float64 array.
        elements: number of elements that enter and leave, a number or an array of the same shape.
    """
    return terms.overhead_s + terms.factor * operators_s + terms.element_s * elements


def edge_elements(graph: Graph, part: Part) -> int:
    """Returns the number of elements that enter and leave a part, partial results left out."""
    edges = (*part.inputs.items(), *part.outputs.items())
    return sum(region_size(graph.tensors[name], r) for name, r in edges if not name.endswith(PARTIAL))


class PartCosts:
    """Seconds of split-parts on boards of one profile.

    Args:
        graph: the model.
        profile: the board's.
    """

    def __init__(self, graph: Graph, profile: ComputeProfile) -> None:
        self.graph = graph
        self.profile = profile
        # Engines compute in float32, whatever travels.
        self.terms = PartTerms(
            profile.segment_overhead_s, profile.segment_factor, FLOAT32_BYTES * profile.segment_s_per_byte
        )
        self._tables: dict[int, list[float] | None] = {}

    @property
    def element_s(self) -> float:
        """Seconds of one element that enters or leaves a part."""
        return float(self.terms.element_s)

    def part_s(self, part: Part) -> float:
        """Returns the seconds of one part; 0 for an empty one.

        Raises:
            ProfileError: if the profile lacks an operator.
        """
        if part.empty:
            return 0.0
        elements = self.edge_elements(part) if self.element_s > 0 else 0
        return float(part_seconds(self.terms, self.operators_s(part), elements))

    def operators_s(self, part: Part) -> float:
        """Returns the sum of a part's operators, halo rows included.

        Raises:
            ProfileError: if the profile lacks an operator.
        """
        total = 0.0
        for item in part.operators:
            total += self._operator_s(item)
        for item in part.partials:
            total += self._operator_s(item)
        return total

    def edge_elements(self, part: Part) -> int:
        """Returns the number of elements that enter and leave a part, partial results left out."""
        return edge_elements(self.graph, part)

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
