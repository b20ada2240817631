"""`pico`: a pipeline of stages for throughput (Yang et al., "PICO", ICDCS 2021; extended in arXiv 2206.08662).

Rule: a stage is a run of layers on p devices. Stage time = alpha * FLOPs / capacity of the slowest device, halo
included, + the sum over the devices of (input + output) / bandwidth. On a homogenised cluster (mean capacity, one
bandwidth) a dynamic program minimises the longest stage:
P[i][j][p] = min over s, p' of max(P[i][s][p-p'], T[s+1][j][p']).
Then devices, in descending capacity, go to the stage with the highest mean work per device, and the rows inside a stage
are split again by capacity.
Assumptions: many images in flight, so that the slowest stage sets the pace; for one image at a time the authors say
themselves that it is not better than fused layers. Compare it under the objective throughput.
Decided here: alpha / capacity is the profile's speed on the whole body, bandwidth the mean of the device links. The
limit on latency is the problem's `latency_limit_s`, checked on the simulated strategy. Blocks hold whole residual
(inception) blocks. The rows of a stage go to its devices by capacity, where the paper halves recursively. The head
runs on the strongest device of the last stage. Devices that no stage uses keep empty shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import Infeasible
from distredge.latency import evaluate
from distredge.model.rows import even_cuts
from distredge.planners.common.building import build, volume
from distredge.planners.common.linear_models import cut_points, s_per_byte
from distredge.planners.common.volume_costs import VolumeCosts
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy

Stage = tuple[int, int, int]
"""Start and end location, number of devices."""


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The pipeline that the dynamic program chooses."""
    costs = VolumeCosts(problem)
    stages = _pipeline(costs)
    groups = _assign(costs, stages)
    volumes = []
    for (_, end, _), group in zip(stages, groups, strict=True):
        shares = np.zeros(len(costs.devices))
        shares[group] = costs.speed[group]
        volumes.append(volume(costs.graph.cuts[end - 1], cut_points(costs.height(end), shares)))
    head = costs.devices[max(groups[-1], key=lambda k: costs.speed[k])]
    settings = {"stages": [[costs.devices[k] for k in group] for group in groups]}
    strategy = build(problem, costs.devices, volumes, head, PlannerRef("pico", seed, settings))
    limit = problem.latency_limit_s
    if limit is not None and evaluate(problem, strategy) > limit:
        raise Infeasible(
            f"pico: its pipeline exceeds the latency limit of {limit} s; search can trade throughput for it"
        )
    return strategy


def _stage_s(costs: VolumeCosts) -> dict[Stage, float]:
    """Seconds of every stage on equal devices of mean capacity."""
    s_per_mac = 1.0 / max(1.0, float(costs.speed.mean() * costs.layer_macs.sum()))
    rates = s_per_byte(costs.problem, costs.devices)
    reachable = rates[np.isfinite(rates)]
    if len(reachable) == 0:
        raise Infeasible(f"pico: the link of every device of '{costs.problem.cluster.name}' is down")
    per_byte = float(np.mean(reachable))
    found = {}
    count = len(costs.devices)
    for end in costs.whole_blocks[1:]:
        # Of `size` devices the first have equal shares, the others none.
        points = [
            (*even_cuts(costs.height(end), size), *[costs.height(end)] * (count - size)) for size in range(1, count + 1)
        ]
        for piece in costs.walk(end, points):
            if piece.start in costs.whole_blocks:
                moved = (costs.needed_bytes(piece) + costs.owned_bytes(end, points)).sum(axis=1)
                seconds = s_per_mac * piece.macs.max(axis=1) + per_byte * moved
                for size in range(1, count + 1):
                    found[piece.start, end, size] = float(seconds[size - 1])
    return found


def _pipeline(costs: VolumeCosts) -> list[Stage]:
    """Stages whose longest is shortest; of equal ones those that add up to least."""
    stage_s = _stage_s(costs)
    locations, count = costs.whole_blocks, len(costs.devices)
    # (location, devices used) -> longest stage, sum of stages, last stage
    best: dict[tuple[int, int], tuple[float, float, Stage | None]] = {(0, 0): (0.0, 0.0, None)}
    for end in locations[1:]:
        for used in range(1, count + 1):
            options = [
                (max(best[start, used - size][0], seconds), best[start, used - size][1] + seconds, (start, end, size))
                for start in locations
                if start < end
                for size in range(1, used + 1)
                if (start, used - size) in best
                for seconds in (stage_s[start, end, size],)
            ]
            if options:
                best[end, used] = min(options)
    used = min((u for u in range(1, count + 1) if (costs.last, u) in best), key=lambda u: (best[costs.last, u][:2], u))
    stages: list[Stage] = []
    stage = best[costs.last, used][2]
    while stage is not None:
        stages.append(stage)
        used -= stage[2]
        stage = best[stage[0], used][2]
    return stages[::-1]


def _assign(costs: VolumeCosts, stages: list[Stage]) -> list[list[int]]:
    """Devices in descending capacity, each to the stage with the most work per device that is still free there."""
    work = [float(costs.layer_macs[start:end].sum()) / size for start, end, size in stages]
    groups: list[list[int]] = [[] for _ in stages]
    per_byte = s_per_byte(costs.problem, costs.devices)
    usable = [k for k in range(len(costs.devices)) if np.isfinite(per_byte[k])]
    for k in sorted(usable, key=lambda k: (-costs.speed[k], k)):
        open_stages = [i for i, (_, _, size) in enumerate(stages) if len(groups[i]) < size]
        if not open_stages:
            break
        stage = max(open_stages, key=lambda i: (work[i], -i))
        groups[stage].append(k)
    if any(not group for group in groups):
        raise Infeasible("pico: fewer devices can be reached than its pipeline has stages")
    return groups
