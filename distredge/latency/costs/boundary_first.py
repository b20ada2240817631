"""What it costs to compute and send first what others wait for; which parts do, and how: see `model.strips`.

Messages leave when the strips at the top and at the bottom are done. Each strip recomputes its own halo, so that the
part as a whole takes longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distredge.latency.costs.computers import crowding
from distredge.latency.costs.part_costs import part_costs
from distredge.model.layout import Part
from distredge.model.strips import find_strips

if TYPE_CHECKING:
    from distredge.model.layout import Layout
    from distredge.model.volumes import PhasePart
    from distredge.problem import Problem


def strip_seconds(problem: Problem, layout: Layout) -> dict[tuple[int, int], tuple[float, float]]:
    """Returns, by (stage, device), when the strips of a part are done after its start, and when all of it is.

    Only parts that run as strips are in it.
    """
    found: dict[tuple[int, int], tuple[float, float]] = {}
    crowded = crowding(problem, layout)
    for (stage, device), strips in find_strips(problem.graph, layout).items():
        lead = _seconds(problem, layout, device, strips.top) + _seconds(problem, layout, device, strips.bottom)
        whole = lead + _seconds(problem, layout, device, strips.middle)
        factor = crowded.get((stage, device), 1.0)
        found[stage, device] = factor * lead, factor * whole
    return found


def _seconds(problem: Problem, layout: Layout, device: int, piece: PhasePart | None) -> float:
    if piece is None:
        return 0.0
    part = Part(device, piece.operators, piece.partials, (), piece.inputs, piece.outputs)
    return part_costs(problem, layout.devices[device]).part_s(part)
