"""What the search changes in a strategy, compiled: one random change in each of many strategies at a time.

A set of strategies is a `strategy_arrays.Batch`. Rows of neighbouring volumes are changed together where that keeps
owners where the rows are: a border that moves in one volume alone makes everybody fetch what it moved. Wires stay as
they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distredge.latency.compiling import inlined, inner
from distredge.planners.annealing.strategy_arrays import Batch, Choices


@inlined
def uniform(states: Any, k: int) -> float:
    """A number in [0, 1) by xorshift64* (Vigna, ACM TOMS 2016)."""
    x = states[k]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    states[k] = x
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@inlined
def _below(states: Any, k: int, limit: int) -> int:
    """A whole number in [0, limit)."""
    return min(int(uniform(states, k) * limit), limit - 1)


@inlined
def _scaled(x: int, height: int, reference: int) -> int:
    """A cut point of `reference` rows on a map of `height` rows."""
    return (2 * x * height + reference) // (2 * reference)


@inlined
def copy_plan(source: Batch, i: int, target: Batch, j: int) -> None:
    """Copies one strategy; element by element, which is faster here than slices."""
    points = source.rows.shape[2]
    for w in range(source.cuts.shape[1]):
        end = source.cuts[i, w]
        ended = end < 0 and target.cuts[j, w] < 0
        target.cuts[j, w] = end
        if ended:
            # Behind the last volume of both there is nothing.
            break
        target.wires[j, w] = source.wires[i, w]
        target.boundary[j, w] = source.boundary[i, w]
        for x in range(points):
            target.rows[j, w, x] = source.rows[i, w, x]
    for x in range(points - 1):
        target.order[j, x] = source.order[i, x]
    target.head[j] = source.head[i]


@inlined
def _copy_volume(plan: Batch, k: int, source: int, target: int) -> None:
    plan.cuts[k, target] = plan.cuts[k, source]
    plan.wires[k, target] = plan.wires[k, source]
    plan.boundary[k, target] = plan.boundary[k, source]
    for x in range(plan.rows.shape[2]):
        plan.rows[k, target, x] = plan.rows[k, source, x]


@inner
def copy_rescaled(plan: Batch, k: int, target: int, source: int, heights: Any) -> None:
    """Gives a volume the shares of another one."""
    to, of = heights[plan.cuts[k, target]], heights[plan.cuts[k, source]]
    for x in range(plan.rows.shape[2]):
        plan.rows[k, target, x] = _scaled(plan.rows[k, source, x], to, of)


@inlined
def _count(plan: Batch, k: int) -> int:
    n = 0
    while n < plan.cuts.shape[1] and plan.cuts[k, n] >= 0:
        n += 1
    return n


@inlined
def _divided(plan: Batch, k: int, w: int) -> bool:
    """Whether several devices have rows of a volume."""
    last = plan.rows.shape[2] - 1
    height = plan.rows[k, w, last]
    for x in range(1, last):  # noqa: SIM110 - numba compiles no generator
        if 0 < plan.rows[k, w, x] < height:
            return True
    return False


@inner
def _pick(states: Any, plan: Batch, k: int, n: int) -> int:
    """A volume, mostly one that is divided: where one device does everything, changes often change nothing."""
    w = _below(states, k, n)
    for _ in range(3):
        if _divided(plan, k, w) or uniform(states, k) < 0.2:
            break
        w = _below(states, k, n)
    return w


@inner
def _window(states: Any, plan: Batch, k: int, n: int) -> tuple[int, int]:
    """A run of volumes: one, all from one on, all up to one, or any."""
    u = uniform(states, k)
    first = _pick(states, plan, k, n)
    if u < 0.4:
        return first, first
    if u < 0.55:
        return first, n - 1
    if u < 0.7:
        return 0, first
    return first, first + _below(states, k, n - first)


@inlined
def _push(plan: Batch, k: int, w: int, border: int, target: int) -> None:
    """Sets one cut point and pushes those that it meets."""
    last = plan.rows.shape[2] - 1
    target = min(max(target, 0), plan.rows[k, w, last])
    for x in range(1, border):
        if plan.rows[k, w, x] > target:
            plan.rows[k, w, x] = target
    for x in range(border + 1, last):
        if plan.rows[k, w, x] < target:
            plan.rows[k, w, x] = target
    plan.rows[k, w, border] = target


@inner
def _shift(states: Any, plan: Batch, k: int, n: int, heights: Any, reach: float) -> None:
    """Moves a border, or a run of borders (rows from one device to another one), in a run of volumes.

    `reach` is the largest step as a share of a map's rows.
    """
    slabs = plan.order.shape[1]
    first, last = _window(states, plan, k, n)
    low = 1 + _below(states, k, slabs - 1)
    high = low
    if uniform(states, k) < 0.3:
        high = low + _below(states, k, slabs - low)
    # Sizes down to one row of the tallest map, each order of magnitude alike.
    size = reach * 2.0 ** (-7.0 * uniform(states, k))
    sign = 1 if uniform(states, k) < 0.5 else -1
    moved = False
    for w in range(first, last + 1):
        step = int(size * heights[plan.cuts[k, w]] + 0.5)
        if step == 0 and first == last:
            step = 1
        if step != 0:
            moved = True
            _step(plan, k, w, low, high, sign * step)
    if not moved:
        _step(plan, k, first + _below(states, k, last - first + 1), low, high, sign)


@inlined
def _step(plan: Batch, k: int, w: int, low: int, high: int, step: int) -> None:
    if step > 0:
        for border in range(high, low - 1, -1):
            _push(plan, k, w, border, plan.rows[k, w, border] + step)
    else:
        for border in range(low, high + 1):
            _push(plan, k, w, border, plan.rows[k, w, border] + step)


@inner
def _ramp(states: Any, plan: Batch, k: int, n: int, heights: Any, reach: float) -> None:
    """Moves a border in a run of volumes by steps that grow, shrink or change sign from the first to the last."""
    first, last = _window(states, plan, k, n)
    border = 1 + _below(states, k, plan.order.shape[1] - 1)
    size = reach * 2.0 ** (-5.0 * uniform(states, k))
    at_first, at_last = size * (2.0 * uniform(states, k) - 1.0), size * (2.0 * uniform(states, k) - 1.0)
    for w in range(first, last + 1):
        share = (w - first + 0.5) / (last - first + 1)
        step = ((1.0 - share) * at_first + share * at_last) * heights[plan.cuts[k, w]]
        _push(plan, k, w, border, plan.rows[k, w, border] + int(np.floor(step + 0.5)))


@inner
def _align(states: Any, plan: Batch, k: int, n: int, heights: Any) -> None:
    """Gives a volume the borders of its neighbour: all, or one."""
    if n < 2:
        return
    w = _pick(states, plan, k, n)
    other = w + 1 if (w == 0 or (w < n - 1 and uniform(states, k) < 0.5)) else w - 1
    if uniform(states, k) < 0.5:
        copy_rescaled(plan, k, w, other, heights)
        return
    border = 1 + _below(states, k, plan.order.shape[1] - 1)
    to, of = heights[plan.cuts[k, w]], heights[plan.cuts[k, other]]
    _push(plan, k, w, border, _scaled(plan.rows[k, other, border], to, of))


@inner
def _drop_share(states: Any, plan: Batch, k: int, n: int) -> None:
    """Gives a device's rows in a run of volumes to one of its neighbours."""
    slabs = plan.order.shape[1]
    slab = _below(states, k, slabs)
    first, last = _window(states, plan, k, n)
    left = slab > 0 and (slab == slabs - 1 or uniform(states, k) < 0.5)
    for w in range(first, last + 1):
        if left:
            plan.rows[k, w, slab] = plan.rows[k, w, slab + 1]
        else:
            plan.rows[k, w, slab + 1] = plan.rows[k, w, slab]


@inner
def _gather(states: Any, plan: Batch, k: int, n: int, heights: Any) -> None:
    """Gives all rows of a run of volumes to one device; the head too if the run reaches the end."""
    slab = _below(states, k, plan.order.shape[1])
    first = _below(states, k, n)
    last = n - 1 if uniform(states, k) < 0.5 else first + _below(states, k, n - first)
    for w in range(first, last + 1):
        height = heights[plan.cuts[k, w]]
        for x in range(plan.rows.shape[2]):
            plan.rows[k, w, x] = height if x > slab else 0
    if last == n - 1:
        plan.head[k] = slab


@inner
def _place(choices: Choices, cut: int) -> int:
    return int(np.searchsorted(choices.candidates, cut))


@inner
def _remove_cut(states: Any, plan: Batch, k: int, n: int, heights: Any) -> None:
    if n < 2:
        return
    w = _below(states, k, n - 1)
    if uniform(states, k) < 0.3:
        copy_rescaled(plan, k, w + 1, w, heights)
    for i in range(w, n - 1):
        _copy_volume(plan, k, i + 1, i)
    plan.cuts[k, n - 1] = -1


@inner
def _add_cut(states: Any, plan: Batch, k: int, n: int, choices: Choices) -> None:
    if n == plan.cuts.shape[1] or len(choices.candidates) < 2:
        return
    cut, w = choices.candidates[0], 0
    for _ in range(3):
        cut, w = choices.candidates[_below(states, k, len(choices.candidates) - 1)], 0
        while plan.cuts[k, w] < cut:
            w += 1
        if _divided(plan, k, w) or uniform(states, k) < 0.2:
            break
    if plan.cuts[k, w] == cut:
        return
    for i in range(n, w, -1):
        _copy_volume(plan, k, i - 1, i)
    plan.cuts[k, w] = cut
    u = uniform(states, k)
    copy_rescaled(plan, k, w, w - 1 if w > 0 and u < 0.3 else w + 1, choices.heights)
    if w > 0 and u > 0.6:
        # Half way between its neighbours.
        height, before = choices.heights[cut], choices.heights[plan.cuts[k, w - 1]]
        for x in range(1, plan.rows.shape[2] - 1):
            other = _scaled(plan.rows[k, w - 1, x], height, before)
            plan.rows[k, w, x] = (plan.rows[k, w, x] + other) // 2


@inner
def _taper(states: Any, plan: Batch, k: int, n: int, choices: Choices) -> None:
    """Lets the shares of the last volumes go over, step by step, to one device; often in more volumes than before."""
    slab = _below(states, k, plan.order.shape[1])
    first = _below(states, k, n)
    while uniform(states, k) < 0.5:
        _add_cut(states, plan, k, n, choices)
        n = _count(plan, k)
    strength = uniform(states, k)
    for w in range(first, n):
        share = strength * (w - first + 1) / (n - first)
        height = choices.heights[plan.cuts[k, w]]
        for x in range(1, plan.rows.shape[2] - 1):
            goal = height if x > slab else 0
            plan.rows[k, w, x] += int(np.floor(share * (goal - plan.rows[k, w, x]) + 0.5))
    if uniform(states, k) < 0.7:
        plan.head[k] = slab


@inner
def _move_cut(states: Any, plan: Batch, k: int, n: int, choices: Choices) -> None:
    if n < 2:
        return
    w = _below(states, k, n - 1)
    place = _place(choices, plan.cuts[k, w])
    low = _place(choices, plan.cuts[k, w - 1]) + 1 if w > 0 else 0
    high = _place(choices, plan.cuts[k, w + 1]) - 1
    if high < low:
        # A cut that is no candidate (another planner's) between two that are neighbours.
        return
    step = 1 + _below(states, k, 3) if uniform(states, k) < 0.7 else 1 + _below(states, k, high - low + 1)
    target = place + step if uniform(states, k) < 0.5 else place - step
    target = min(max(target, low), high)
    if target == place:
        return
    before = choices.heights[plan.cuts[k, w]]
    cut = choices.candidates[target]
    plan.cuts[k, w] = cut
    if choices.heights[cut] != before:
        for x in range(plan.rows.shape[2]):
            plan.rows[k, w, x] = _scaled(plan.rows[k, w, x], choices.heights[cut], before)


@inner
def _swap(states: Any, plan: Batch, k: int, n: int, choices: Choices) -> None:
    """Two devices of different kinds change places, with their shares or without them."""
    slabs = plan.order.shape[1]
    i, j = _below(states, k, slabs), _below(states, k, slabs)
    if choices.kinds[plan.order[k, i]] == choices.kinds[plan.order[k, j]]:
        return
    low, high = min(i, j), max(i, j)
    plan.order[k, i], plan.order[k, j] = plan.order[k, j], plan.order[k, i]
    if plan.head[k] == i:
        plan.head[k] = j
    elif plan.head[k] == j:
        plan.head[k] = i
    if uniform(states, k) < 0.3:
        return
    for w in range(n):
        change = (plan.rows[k, w, high + 1] - plan.rows[k, w, high]) - (plan.rows[k, w, low + 1] - plan.rows[k, w, low])
        for x in range(low + 1, high + 1):
            plan.rows[k, w, x] += change


@inner
def _change_boundary(states: Any, plan: Batch, k: int, n: int) -> None:
    """Lets a run of volumes send its boundary first, or not."""
    first, last = _window(states, plan, k, n)
    value = 1 - plan.boundary[k, first]
    for w in range(first, last + 1):
        plan.boundary[k, w] = value


@inner
def _change_wires(states: Any, plan: Batch, k: int, n: int, choices: Choices) -> None:
    """Lets what leaves a run of volumes travel in another wire."""
    first, last = _window(states, plan, k, n)
    value = choices.wires[_below(states, k, len(choices.wires))]
    for w in range(first, last + 1):
        plan.wires[k, w] = value


@inner
def _change_cuts(states: Any, plan: Batch, k: int, n: int, choices: Choices) -> None:
    u = uniform(states, k)
    if u < 0.32:
        _add_cut(states, plan, k, n, choices)
    elif u < 0.64:
        _remove_cut(states, plan, k, n, choices.heights)
    else:
        _move_cut(states, plan, k, n, choices)


@inner
def change_structure(states: Any, plan: Batch, k: int, choices: Choices) -> None:
    """Changes the partition, or the order of the devices: what rows must adapt to before it can be judged."""
    n = _count(plan, k)
    if choices.free_order and uniform(states, k) < 0.3:
        _swap(states, plan, k, n, choices)
    elif uniform(states, k) < 0.15:
        _gather(states, plan, k, n, choices.heights)
    elif uniform(states, k) < 0.15:
        _taper(states, plan, k, n, choices)
    else:
        _change_cuts(states, plan, k, n, choices)
        while uniform(states, k) < 0.5:
            _change_cuts(states, plan, k, _count(plan, k), choices)


@inner
def _copy_foreign(source: Batch, i: int, v: int, plan: Batch, k: int, w: int) -> None:
    """Copies a volume of another strategy; the devices keep their places."""
    slabs = plan.order.shape[1]
    plan.cuts[k, w] = source.cuts[i, v]
    plan.wires[k, w] = source.wires[i, v]
    plan.boundary[k, w] = source.boundary[i, v]
    for x in range(slabs):
        y = x
        while source.order[i, y] != plan.order[k, x]:
            y = y + 1 if y + 1 < slabs else 0
        size = source.rows[i, v, y + 1] - source.rows[i, v, y]
        plan.rows[k, w, x + 1] = plan.rows[k, w, x] + size


@inner
def _move_volumes(plan: Batch, k: int, first: int, n: int, by: int) -> None:
    """Moves the volumes from one on to later or earlier places."""
    if by > 0:
        for w in range(n - 1, first - 1, -1):
            _copy_volume(plan, k, w, w + by)
    elif by < 0:
        for w in range(first, n):
            _copy_volume(plan, k, w, w + by)
        for w in range(n + by, n):
            plan.cuts[k, w] = -1


@inner
def cross(states: Any, source: Batch, i: int, plan: Batch, k: int) -> None:
    """Does a run of volumes as another strategy does: from some volume on, or up to some volume, or between two."""
    n, m = _count(plan, k), _count(source, i)
    first, v = _below(states, k, n), 0
    if first > 0:
        while source.cuts[i, v] <= plan.cuts[k, first - 1]:
            v += 1
    taken = m - v
    if first == 0 or uniform(states, k) < 0.6:
        taken = 1 + _below(states, k, taken)
    rest = first
    while rest < n and plan.cuts[k, rest] <= source.cuts[i, v + taken - 1]:
        rest += 1
    if first + taken + n - rest > plan.cuts.shape[1]:
        return
    _move_volumes(plan, k, rest, n, first + taken - rest)
    for w in range(taken):
        _copy_foreign(source, i, v + w, plan, k, first + w)
    if rest == n:
        head = source.order[i, source.head[i]]
        for x in range(plan.order.shape[1]):
            if plan.order[k, x] == head:
                plan.head[k] = x


@inner
def change_rows(states: Any, plan: Batch, k: int, choices: Choices, reach: float) -> None:
    """Changes who computes which rows, or the head device."""
    n = _count(plan, k)
    if plan.order.shape[1] == 1:
        return
    u = uniform(states, k)
    if u < 0.11:
        _align(states, plan, k, n, choices.heights)
    elif u < 0.15:
        _drop_share(states, plan, k, n)
    elif u < 0.165:
        _gather(states, plan, k, n, choices.heights)
    elif u < 0.19:
        plan.head[k] = _below(states, k, plan.order.shape[1])
    elif u < 0.32:
        _ramp(states, plan, k, n, choices.heights, reach)
    else:
        _shift(states, plan, k, n, choices.heights, reach)


@inner
def _change_once(states: Any, plan: Batch, k: int, choices: Choices, reach: float) -> None:
    u = uniform(states, k)
    if choices.boundary and u > 0.97:
        _change_boundary(states, plan, k, _count(plan, k))
    elif choices.packing and u > 0.95:
        _change_wires(states, plan, k, _count(plan, k), choices)
    elif u < 0.22 or plan.order.shape[1] == 1:
        _change_cuts(states, plan, k, _count(plan, k), choices)
    elif u < 0.25 and choices.free_order:
        _swap(states, plan, k, _count(plan, k), choices)
    else:
        change_rows(states, plan, k, choices, reach)


@inner
def change(states: Any, plan: Batch, k: int, choices: Choices, reach: float) -> None:
    """Makes one change of any kind to a strategy, and now and then two."""
    _change_once(states, plan, k, choices, reach)
    if uniform(states, k) < 0.2:
        _change_once(states, plan, k, choices, reach)
