"""`deepslicing`: blocks of layers, rows by measured speed (Zhang et al., "DeepSlicing", IEEE TPDS 2021).

Rule: proportional synchronised scheduler (PSS): the graph is cut into blocks with a synchronisation after each; in a
block a device computes rows in proportion to its measured speed and recomputes its halo; at a synchronisation it
fetches only the rows that it lacks from their owners. The number of blocks weighs recomputation against
synchronisation.
Assumptions: speed is one number per device; the network is not looked at when rows are dealt out.
Decided here: the full text could not be read. Blocks hold whole residual (inception) blocks and about equal work; every
number of blocks is priced and the lowest latency kept. The head runs on the fastest device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distredge.planners.common.building import best_of, build, volume
from distredge.planners.common.linear_models import cut_points
from distredge.planners.common.volume_costs import VolumeCosts
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best number of equal-work blocks with rows in proportion to speed."""
    costs = VolumeCosts(problem)
    ends = costs.whole_blocks[1:]
    head = costs.devices[int(np.argmax(costs.speed))]
    schemes = dict.fromkeys(_even_work(costs, ends, blocks) for blocks in range(1, len(ends) + 1))
    strategies = (_plan(costs, scheme, head, seed) for scheme in schemes)
    return best_of(problem, strategies, budget)


def _even_work(costs: VolumeCosts, ends: tuple[int, ...], blocks: int) -> tuple[int, ...]:
    """Ends of `blocks` blocks whose work is as even as the possible ends allow."""
    done = np.cumsum(costs.layer_macs)[np.array(ends) - 1]
    wanted = done[-1] * np.arange(1, blocks) / blocks
    chosen = {ends[int(np.argmin(np.abs(done - w)))] for w in wanted}
    return tuple(sorted(chosen | {ends[-1]}))


def _plan(costs: VolumeCosts, scheme: tuple[int, ...], head: str, seed: int) -> Strategy:
    cuts = [costs.graph.cuts[end - 1] for end in scheme]
    volumes = [volume(cut, cut_points(cut.height, costs.speed)) for cut in cuts]
    return build(costs.problem, costs.devices, volumes, head, PlannerRef("deepslicing", seed))
