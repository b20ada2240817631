"""`deeperthings`: several fused volumes of equal tiles, fusion points by integer program (Stahl et al., IJPP 2021).

Rule: layers are fused where that exchanges least: an integer linear program over the possible fused blocks minimises
the elements that all devices exchange together.
Assumptions: equal devices; the network counts as the amount of data alone.
Decided here: the paper also splits weights by output or input channels (LOP, LIP) in weight-heavy layers; a strategy
splits rows alone, so that only its fused feature partition remains, as in DistrEdge's comparison ("equal split, several
fused blocks"; which points, it does not say). Left to itself the program fuses everything, since one block exchanges
least; so it is solved for every number of blocks up to 8, and the number with the lowest simulated latency is kept.
Blocks hold whole residual (inception) blocks. The head runs on the best single device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distredge.model.rows import even_cuts
from distredge.planners.common.building import best_device, best_of, build, volume
from distredge.planners.common.volume_costs import Floats, VolumeCosts
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy

_MOST_BLOCKS = 8


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best number of fused blocks, each of equal strips."""
    costs = VolumeCosts(problem)
    head = best_device(problem, budget)
    exchanged = _exchanged(costs)
    most = min(_MOST_BLOCKS, len(costs.whole_blocks) - 1)
    schemes = dict.fromkeys(_solve(costs, exchanged, blocks) for blocks in range(1, most + 1))
    return best_of(problem, (_plan(costs, scheme, head, seed) for scheme in schemes), budget)


def _equal(costs: VolumeCosts, location: int) -> tuple[int, ...]:
    return even_cuts(costs.height(location), len(costs.devices))


def _exchanged(costs: VolumeCosts) -> dict[tuple[int, int], float]:
    """Bytes that all devices fetch together for every possible block (start, end)."""
    found = {}
    for end in costs.whole_blocks[1:]:
        for piece in costs.walk(end, [_equal(costs, end)]):
            if piece.start in costs.whole_blocks:
                before = [_equal(costs, piece.start)] if piece.start else [_equal(costs, end)]
                found[piece.start, end] = float(costs.fetched_bytes(piece, before).sum())
    return found


def _solve(costs: VolumeCosts, exchanged: dict[tuple[int, int], float], blocks: int) -> tuple[int, ...]:
    """Ends of `blocks` blocks that exchange least: a path through the locations, by HiGHS."""
    from scipy.optimize import LinearConstraint, milp
    from scipy.sparse import lil_array

    arcs = list(exchanged)
    place = {location: i for i, location in enumerate(costs.whole_blocks)}
    flow = lil_array((len(place) + 1, len(arcs)))
    for column, (start, end) in enumerate(arcs):
        flow[place[start], column] = 1
        flow[place[end], column] = -1
        flow[len(place), column] = 1
    wanted = np.zeros(len(place) + 1)
    wanted[0], wanted[len(place) - 1], wanted[len(place)] = 1, -1, blocks
    cost: Floats = np.array([exchanged[arc] for arc in arcs])
    solved = milp(
        cost / max(1.0, cost.max()),
        constraints=LinearConstraint(flow.tocsc(), wanted, wanted),
        integrality=np.ones(len(arcs)),
        bounds=(0, 1),
    )
    if solved.x is None:
        return costs.whole_blocks[-1:]
    return tuple(sorted(end for (_, end), used in zip(arcs, solved.x, strict=True) if used > 0.5))


def _plan(costs: VolumeCosts, scheme: tuple[int, ...], head: str, seed: int) -> Strategy:
    volumes = [volume(costs.graph.cuts[end - 1], _equal(costs, end)) for end in scheme]
    return build(costs.problem, costs.devices, volumes, head, PlannerRef("deeperthings", seed))
