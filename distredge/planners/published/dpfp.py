"""`dpfp`: dynamic programming over fused blocks (Li, Iosifidis and Zhang, Computer Networks 214, 2022, 109150).

Rule: receptive-field segmentation: a server that owns rows of a block's output gets exactly the input rows that they
depend on and recomputes the halo. t(i, j), the time of a block, is the transfers before it over one shared pipe (the
first block: everybody's input rows; later ones: only the rows beyond one copy of the map; the last one also: gathering
the result at the host) plus the slowest server's computing. T(i) = min over j >= i of t(i, j) + T(j + 1). Rows follow
the effective capacity of heterogeneous servers. Subset: servers are ranked by effective capacity and added one at a
time, and the prefix with the lowest T(0) is kept.
Assumptions: the transfers are serial; compute times are measured.
Decided here: only abstracts and third-party code with the method could be read. Effective capacity is the profile's
speed on the whole body. Blocks of one layer are allowed, and a block may end at the last layer (that code allows
neither), and inside a residual (inception) block. Each server's bytes take its own link's time in the pipe. What
follows the body runs on the first server of the ranking, the host. All K prefixes are tried, not only as long as they
improve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import Infeasible
from distredge.planners.common.building import build, volume
from distredge.planners.common.linear_models import cut_points, s_per_byte
from distredge.planners.common.volume_costs import Floats, VolumeCosts
from distredge.planners.published.aofl import Block, fuse
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best prefix of servers with its best blocks."""
    costs = VolumeCosts(problem)
    ranking = rank(costs)
    locations = tuple(range(costs.last + 1))
    best_s, best = np.inf, None
    for size, found in enumerate(blocks(costs, ranking), start=1):
        scheme = fuse(locations, found)
        seconds = sum(block.seconds for _, block in scheme)
        if seconds < best_s:
            best_s, best = seconds, (size, scheme)
    assert best is not None
    size, scheme = best
    volumes = [volume(costs.graph.cuts[end - 1], block.points) for end, block in scheme]
    settings = {"servers": [costs.devices[k] for k in ranking[:size]]}
    return build(problem, costs.devices, volumes, costs.devices[ranking[0]], PlannerRef("dpfp", seed, settings))


def rank(costs: VolumeCosts) -> list[int]:
    """Devices that can be reached, by falling effective capacity.

    Raises:
        Infeasible: if there is none.
    """
    reachable = np.flatnonzero(np.isfinite(s_per_byte(costs.problem, costs.devices)))
    if len(reachable) == 0:
        raise Infeasible(f"dpfp: the link of every device of '{costs.problem.cluster.name}' is down")
    return sorted((int(k) for k in reachable), key=lambda k: (-costs.speed[k], k))


def blocks(costs: VolumeCosts, ranking: list[int]) -> list[dict[tuple[int, int], Block]]:
    """t(i, j) of every possible block on each prefix of some servers, the first of which is the host."""
    per_byte = s_per_byte(costs.problem, costs.devices)
    sizes = range(len(ranking))
    capacity = np.zeros((len(ranking), len(costs.devices)))
    for size in sizes:
        capacity[size, ranking[: size + 1]] = costs.speed[ranking[: size + 1]]
    points = {
        end: np.array([cut_points(costs.height(end), share) for share in capacity]) for end in range(1, costs.last + 1)
    }
    found: list[dict[tuple[int, int], Block]] = [{} for _ in sizes]
    for end in points:
        for piece in costs.walk(end, points[end]):
            before = points.get(piece.start, points[end])
            seconds = _pipe_s(costs.fetched_bytes(piece, before), per_byte) + piece.compute_s.max(axis=1)
            if end == costs.last:
                result = costs.owned_bytes(end, points[end])
                result[:, ranking[0]] = 0.0
                seconds += _pipe_s(result, per_byte)
            for size in sizes:
                found[size][piece.start, end] = Block(float(seconds[size]), tuple(points[end][size].tolist()))
    return found


def _pipe_s(moved: Floats, per_byte: Floats) -> Floats:
    """(n_splits,) seconds of some devices' bytes, (n_splits, n_devices), one after another."""
    reached = np.where(moved > 0, per_byte, 0.0)
    found: Floats = (moved * reached).sum(axis=1)
    return found


def speedup_estimate(problem: Problem, strategy: Strategy) -> float:
    """DPFP's estimate of how much faster a strategy is than its head device alone.

    Total multiply-adds over effective capacity, against the sum over the blocks of the largest sub-task over its
    server's effective capacity, halo included, plus the transfers over the serial pipe. Effective capacity is
    multiply-adds per second on the whole body, so that neither staircases nor overlap are seen: the simulator's
    speed-up is what it is to be compared with.

    Args:
        problem: model and cluster.
        strategy: row-split strategy for it.
    """
    costs = VolumeCosts(problem, strategy.devices)
    per_byte = s_per_byte(problem, costs.devices)
    total = float(costs.layer_macs.sum())
    capacity = total * costs.speed
    host = costs.devices.index(strategy.head.device)
    seconds = 0.0
    start = 0
    before = np.zeros((1, len(costs.devices) + 1), np.int64)
    for decision in strategy.decisions(problem.graph):
        end = decision.cut.index + 1
        points = np.array([decision.rows])
        piece = costs.slices(end, points)[start]
        seconds += float(_pipe_s(costs.fetched_bytes(piece, before), per_byte)[0])
        seconds += float((piece.macs[0] / capacity).max())
        start, before = end, points
    result = costs.owned_bytes(start, before)
    result[:, host] = 0.0
    seconds += float(_pipe_s(result, per_byte)[0]) + float(costs.head_s[host])
    alone_s = costs.alive_bytes(0) * per_byte[host] + total / capacity[host] + costs.head_s[host]
    return float(alone_s / seconds)
