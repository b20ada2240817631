"""From what a strategy makes boards and connections do to its figures, compiled: period, energy, memory beyond limits.

The same figures as `latency.simulator.figures.measure` takes from a layout, for whole batches: busy seconds of every
device and of the busiest link come from the kernel. Of memory it is an upper bound; see `latency.tables.memory_tables`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distredge.latency.compiling import inlined, inner
from distredge.latency.tables.memory_tables import Memory
from distredge.planners.other_objectives.figure_arrays import ENERGY, EXCESS, LATENCY, PERIOD, BoardArrays


@inlined
def works(plans: Any, k: int, j: int) -> bool:
    """Whether a slab position has rows of any volume, or the head."""
    if plans.head[k] == j:
        return True
    for w in range(plans.cuts.shape[1]):
        if plans.cuts[k, w] < 0:
            break
        if plans.rows[k, w, j] < plans.rows[k, w, j + 1]:
            return True
    return False


@inner
def energy_j(plans: Any, k: int, boards: BoardArrays, busy_s: Any, latency_s: float) -> float:
    """Joules of the boards that a strategy names, until the result is there."""
    total = 0.0
    for j in range(plans.order.shape[1]):
        if boards.named or works(plans, k, j):
            device = plans.order[k, j]
            total += boards.idle_w[device] * latency_s + boards.extra_w[device] * busy_s[k, j]
    return total


@inlined
def kept_bytes(plans: Any, k: int, j: int, kept: Any, first: int, last: int) -> float:
    """Bytes of the rows that a slab position owns of some tensors."""
    total = 0.0
    for x in range(first, last):
        w = 0
        while plans.cuts[k, w] < kept[x, 0]:
            w += 1
        rows, reference = kept[x, 1], plans.rows[k, w, plans.rows.shape[2] - 1]
        start = np.int64(plans.rows[k, w, j]) * rows // reference
        stop = np.int64(plans.rows[k, w, j + 1]) * rows // reference
        total += float((stop - start) * kept[x, 2])
    return total


@inner
def need_bytes(plans: Any, k: int, j: int, memory: Memory) -> float:
    """Bytes that a slab position needs at most; infinite with a volume that is not tabulated."""
    weights, most, start = 0.0, 0.0, 0
    for w in range(plans.cuts.shape[1]):
        end = plans.cuts[k, w]
        if end < 0:
            break
        row = memory.row[start, end]
        if row < 0:
            return np.inf
        a, b = np.int64(plans.rows[k, w, j]), np.int64(plans.rows[k, w, j + 1])
        held = kept_bytes(plans, k, j, memory.passing, memory.volumes[row, 3], memory.volumes[row, 4])
        if a < b:
            step = memory.volumes[row, 1]
            steps = (memory.volumes[row, 0] + step - 1) // step + 1
            peak = memory.peaks[memory.volumes[row, 2] + a // step * steps + (b + step - 1) // step]
            # A short part may have nothing to do.
            if peak > 0.0:
                weights += memory.weights[start, end]
                held += peak
        most = max(most, held)
        start = end + 1
    held = kept_bytes(plans, k, j, memory.kept, 0, len(memory.kept))
    if plans.head[k] == j:
        weights += memory.head[0]
        held += memory.head[1]
    return weights + max(most, held)


@inner
def excess(plans: Any, k: int, boards: BoardArrays, memory: Memory) -> float:
    """The logarithm of 1 + by how much devices exceed their memory at most, as a share of it, summed."""
    total = 0.0
    for j in range(plans.order.shape[1]):
        limit = boards.limit_bytes[plans.order[k, j]]
        if limit < np.inf:
            total += max(0.0, need_bytes(plans, k, j, memory) / limit - 1.0)
    return float(np.log1p(total)) if total > 0.0 else 0.0


@inner
def fill_figures(plans: Any, boards: BoardArrays, memory: Memory, found: Any, figures: Any) -> None:
    """Fills in the figures of a batch, (B, FIGURES), from what the kernel found; infinite ones where a link is down."""
    latency, busy_s = found.latency, found.busy_s
    for k in range(len(latency)):
        figures[k, LATENCY] = latency[k]
        if not latency[k] < np.inf:
            figures[k, LATENCY] = figures[k, PERIOD] = figures[k, ENERGY] = np.inf
            figures[k, EXCESS] = 0.0
            continue
        figures[k, PERIOD] = found.link_s[k]
        for j in range(busy_s.shape[1]):
            figures[k, PERIOD] = max(figures[k, PERIOD], busy_s[k, j])
        figures[k, ENERGY] = energy_j(plans, k, boards, busy_s, latency[k])
        figures[k, EXCESS] = excess(plans, k, boards, memory)
