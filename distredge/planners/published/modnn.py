"""`modnn`: every layer on its own, rows by compute capability (Mao et al., "MoDNN", DATE 2017).

Rule: biased one-dimensional partition (BODP): each convolution or pooling layer is mapped over the devices, computed
and collected before the next one; a device's share of the rows is its share of the total capability.
Assumptions: time is proportional to the work; the network is not looked at.
Decided here: capability is the profile's speed on the whole body. Rows are always cut along the height, where the
paper takes the longer side. Between layers only the rows that a device lacks travel, straight from their owners,
where the paper collects whole maps at the group owner and deals them out again: this favours MoDNN. Fully connected
layers run whole on the strongest device (the paper deals them out by clustering weights, which no strategy here can).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distredge.planners.common.building import build, volume
from distredge.planners.common.linear_models import cut_points
from distredge.planners.common.volume_costs import VolumeCosts
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """A volume per layer, rows in proportion to capability."""
    costs = VolumeCosts(problem)
    volumes = [volume(cut, cut_points(cut.height, costs.speed)) for cut in problem.graph.cuts]
    head = costs.devices[int(np.argmax(costs.speed))]
    return build(problem, costs.devices, volumes, head, PlannerRef("modnn", seed))
