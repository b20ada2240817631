"""Volumes that compute and send first what others wait for (HALP's idea, offered to every strategy).

Such a part runs as strips: the rows at the top and at the bottom of its share down to the last row that anybody else
waits for, then what lies between. Messages leave when the strips are done. Each strip recomputes its own halo, so that
the part as a whole takes longer. A part without rows between the strips, of a grid of tiles or of a volume of several
phases, runs as it always does.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from distredge.model.layout import Part
from distredge.model.volumes import Decision, plan_device, shares, volume_between

if TYPE_CHECKING:
    from distredge.model.layout import Layout
    from distredge.problem import Problem
    from distredge.strategy import Strategy


def strip_seconds(problem: Problem, strategy: Strategy, layout: Layout) -> dict[tuple[int, int], tuple[float, float]]:
    """Returns, by (stage, device), when the strips of a part are done after its start, and when all of it is.

    Only parts that run as strips are in it.
    """
    if not any(volume.boundary_first for volume in strategy.volumes):
        return {}
    depths = _depths(layout, strategy)
    found: dict[tuple[int, int], tuple[float, float]] = {}
    start = 0
    for number, decision in enumerate(strategy.decisions(problem.graph)):
        stages = [stage.index for stage in layout.stages if stage.volume == number]
        if strategy.volumes[number].boundary_first and decision.columns is None and len(stages) == 1:
            for device in range(len(layout.devices)):
                top, bottom = depths[stages[0], device]
                if 0 < top + bottom < decision.rows[device + 1] - decision.rows[device]:
                    name = layout.devices[device]
                    found[stages[0], device] = _price(problem, name, start, decision, device, top, bottom)
        start = decision.cut.position
    return found


def _depths(layout: Layout, strategy: Strategy) -> dict[tuple[int, int], tuple[int, int]]:
    """Rows of the reference that others wait for at the top and at the bottom of each part's share.

    Rows in the middle count to the end that they are nearer to.
    """
    depths: dict[tuple[int, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for transfer in layout.transfers:
        if transfer.local or transfer.produced < 0 or layout.stages[transfer.produced].volume < 0:
            continue
        rows = strategy.volumes[layout.stages[transfer.produced].volume].rows
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


def _price(
    problem: Problem, name: str, start: int, decision: Decision, device: int, top: int, bottom: int
) -> tuple[float, float]:
    graph, costs = problem.graph, problem.part_costs(name)
    volume = volume_between(graph, start, decision.cut.position)
    a, b = decision.rows[device], decision.rows[device + 1]
    strips = Decision(decision.cut, (0, a, a + top, b - bottom, b, decision.cut.height))
    _, *shared, _ = shares(graph, strips)
    pieces = [plan_device(graph, volume, share).pieces[0] for share in shared]
    upper, middle, lower = (
        costs.part_s(Part(device, piece.operators, piece.partials, (), piece.inputs, piece.outputs)) for piece in pieces
    )
    lead = (upper if top else 0.0) + (lower if bottom else 0.0)
    return lead, lead + middle
