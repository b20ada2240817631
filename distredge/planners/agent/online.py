"""Planning while links change: the known plan that suits the rates of now, and the rest of an image that is under way.

Two things of milliseconds, between plans that take longer:

`PlanMemory` keeps strategies that were planned for other rates, prices all of them at the rates seen last and returns
the fastest. Rates that come back then need no planning, nor do links that fail for a while, if it was planned for that
beforehand (`with_failures`).

`remaining` is DistrEdge's online mode (Hou et al., IPDPS 2022, section V-G): after some volumes of an image are done,
the rows of those that are left are decided anew from the times at which the devices were done. There a trained actor
reads the accumulated latencies as its state. Here they say how fast each device's link is (`implied_rates`), and the
remaining rows descend from those in force, every candidate priced by the compiled kernel with the volumes that are done
as they are: nothing is trained, and nothing is worse than going on under those rates.

`experiments/dynamic_network.py` says what either gives.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distredge.errors import ConfigError, Infeasible, StrategyError, Unsupported, located
from distredge.latency.kernel.kernel import Kernel
from distredge.planners.common.building import volume
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Link
    from distredge.problem import Problem
    from distredge.strategy import Strategy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_PLANS = 64
"""Plans that a memory keeps: pricing them takes less than a millisecond."""

ROUNDS = 24
"""Steps of the descent at most; it ends earlier where none helps."""

_STEPS = (1, 2, 4, 8, 16)
"""Rows by which one cut point of one volume is moved."""

_SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)
"""Shares of the height by which a cut point of all remaining volumes is moved."""

_FACTORS = 2.0 ** np.linspace(-6, 2, 9)
"""Factors of the rates among which the implied ones are looked for first; each round then looks closer."""

_CLOSER = 3

_ALL_SUBSETS = 4


def at_rates(cluster: Cluster, rates_bps: ArrayLike) -> Cluster:
    """Returns a cluster whose devices have links of constant rates; everything else of their links stays.

    Args:
        cluster: devices, their links with or without traces.
        rates_bps: (D, 2) rates of every device's uplink and downlink, in the cluster's order, or (D,) of both; 0 is a
            link that is down.

    Raises:
        ConfigError: if they are not as many.
        ClusterError: if one is negative or not finite.
    """
    pairs = _pairs(cluster, rates_bps)

    def link(before: Link, rate_bps: float) -> Link:
        return dataclasses.replace(before, rate_bps=rate_bps, trace=None)

    devices = tuple(
        dataclasses.replace(device, uplink=link(device.uplink, up), downlink=link(device.downlink, down))
        for device, (up, down) in zip(cluster.devices, pairs.tolist(), strict=True)
    )
    return dataclasses.replace(cluster, devices=devices)


def _pairs(cluster: Cluster, rates_bps: ArrayLike) -> Floats:
    """(D, 2) rates of uplinks and downlinks."""
    rates, count = np.asarray(rates_bps, dtype=np.float64), len(cluster.devices)
    if rates.shape not in ((count,), (count, 2)):
        raise ConfigError(located("online", "rates_bps", rates.shape, f"shape ({count},) or ({count}, 2)"))
    return np.array(np.broadcast_to(rates[:, None] if rates.ndim == 1 else rates, (count, 2)))


class PlanMemory:
    """Strategies of one problem, of which the fastest at given rates is asked for.

    Args:
        problem: model, cluster and options; the rates of its links are replaced by those asked about.
        most: strategies kept beside those that stay; the one that was the fastest the longest time ago makes room.
    """

    def __init__(self, problem: Problem, most: int = MOST_PLANS) -> None:
        self._problem = problem
        self._most = most
        self._plans: dict[str, Strategy] = {}
        self._used: dict[str, int] = {}
        self._stays: set[str] = set()
        self._encoded: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self._plans)

    def add(self, strategy: Strategy, stays: bool = False) -> None:
        """Takes in a strategy, as the one used last; one that `stays` never makes room for another.

        Raises:
            StrategyError, ClusterError: if it is for another model or other devices.
            Unsupported: if it divides columns.
        """
        self._check(strategy)
        key = strategy.replace(predicted={}, planner=PlannerRef()).to_json()
        if key not in self._plans:
            self._plans[key] = strategy
            self._encoded = None
        if stays:
            self._used.pop(key, None)
            self._stays.add(key)
        self._use(key)
        if len(self._used) > self._most:
            oldest = min(self._used, key=self._used.__getitem__)
            del self._plans[oldest], self._used[oldest]

    def best(self, rates_bps: ArrayLike) -> tuple[Strategy, float]:
        """Returns the strategy that is the fastest at some rates, and its latency in seconds.

        Args:
            rates_bps: (D, 2) or (D,) bits per second, as for `at_rates`.

        Raises:
            StrategyError: if it holds none.
            Infeasible: if every one needs a link that is down.
            ConfigError, ClusterError: as `at_rates`.
        """
        if not self._plans:
            raise StrategyError("plan memory: found no strategy, accepted: at least one, by `add`")
        kernel = Kernel(self._problem.graph, (at_rates(self._problem.cluster, rates_bps),))
        if self._encoded is None:
            self._encoded = kernel.encode(list(self._plans.values()))
        seconds = kernel.latency_s(**self._encoded)
        first = int(np.argmin(seconds))
        if not math.isfinite(seconds[first]):
            raise Infeasible(f"plan memory: each of {len(seconds)} strategies needs a link that is down")
        key = list(self._plans)[first]
        self._use(key)
        return self._plans[key], float(seconds[first])

    def _check(self, strategy: Strategy) -> None:
        strategy.check(self._problem.graph)
        for name in strategy.devices:
            self._problem.cluster.device(name)
        if any(one.columns is not None for one in strategy.volumes):
            raise Unsupported("a grid of rows and columns")

    def _use(self, key: str) -> None:
        if key not in self._stays:
            self._used[key] = max(self._used.values(), default=0) + 1


def with_failures(rates_bps: ArrayLike, least_bps: float) -> Floats:
    """Returns the rates of links of which some fail: what to plan for before it happens.

    Args:
        rates_bps: (D,) bits per second as they are now.
        least_bps: what a link that fails still carries.

    Returns:
        (F, D) bits per second: every set of failing links that leaves one, with up to four devices; with more every
        link alone failing, and all but one.
    """
    rates = np.asarray(rates_bps, dtype=np.float64)
    devices = range(len(rates))
    sizes = sorted({1, len(rates) - 1} if len(rates) > _ALL_SUBSETS else set(range(1, len(rates))))
    found = [
        np.where(np.isin(devices, failing), least_bps, rates)
        for size in sizes
        if size
        for failing in itertools.combinations(devices, size)
    ]
    return np.array(found).reshape(-1, len(rates))


def implied_rates(
    problem: Problem, strategy: Strategy, done: int, finish_s: Sequence[float], rates_bps: ArrayLike
) -> Floats:
    """Returns the rates at which the volumes that are done would have ended when they did.

    Uplink and downlink of a device are scaled alike. A device that has had nothing to do says nothing.

    Args:
        problem: model and cluster.
        strategy: in force.
        done: volumes of it that are done, >= 1.
        finish_s: (devices of the strategy,) seconds after the image's start at which each was done with them.
        rates_bps: (D, 2) or (D,) estimates before the image, as for `at_rates`.

    Returns:
        (D, 2) bits per second, in the cluster's order.
    """
    rates = _pairs(problem.cluster, rates_bps)
    places = [problem.cluster.names.index(name) for name in strategy.devices]
    seen = np.asarray(finish_s, dtype=np.float64)
    tried = _FACTORS
    for _ in range(_CLOSER):
        clusters = [at_rates(problem.cluster, rates * factor) for factor in tried]
        kernel = Kernel(problem.graph, clusters)
        encoded = kernel.encode([strategy])
        encoded["cuts"][:, done:] = -1
        many: dict[str, Any] = {key: np.repeat(value, len(tried), axis=0) for key, value in _arrays(encoded).items()}
        found, _ = kernel.finish_s(**many, cluster=np.arange(len(tried)))
        for slab, place in enumerate(places):
            if seen[slab] > 0 and np.isfinite(found[:, slab]).all():
                # Times fall as rates rise: read the factor off the curve, between two that were tried.
                rates[place] *= 2.0 ** np.interp(seen[slab], found[::-1, slab], np.log2(tried)[::-1])
        tried = tried ** (1 / 4)
    return rates


def remaining(
    problem: Problem,
    strategy: Strategy,
    done: int,
    finish_s: Sequence[float],
    rates_bps: ArrayLike,
    rounds: int = ROUNDS,
) -> Strategy:
    """Decides the rows of the volumes that are left, and the head, anew.

    Args:
        problem: model and cluster.
        strategy: in force; its first volumes are done.
        done: how many, 1 to all but one.
        finish_s: (devices of the strategy,) seconds after the image's start at which each was done with them.
        rates_bps: (D, 2) or (D,) estimates before the image, as for `at_rates`.
        rounds: steps of the descent at most.

    Returns:
        A strategy with the same volumes of which the first `done` are as they were.

    Raises:
        StrategyError: if none or all of its volumes are done.
        Unsupported: if the last volume that is done sends its boundary first: it did by the rows that were to follow.
    """
    if not 1 <= done < len(strategy.volumes):
        raise StrategyError(located("online", "done", done, f"1 to {len(strategy.volumes) - 1} volumes"))
    if strategy.volumes[done - 1].boundary_first:
        raise Unsupported("deciding anew after a volume that sends its boundary first")
    rates = implied_rates(problem, strategy, done, finish_s, rates_bps)
    kernel = Kernel(problem.graph, (at_rates(problem.cluster, rates),))
    return descend(kernel, problem, strategy, done, rounds)


def descend(
    kernel: Kernel, problem: Problem, strategy: Strategy, done: int, rounds: int = ROUNDS, start_s: float = 0.0
) -> Strategy:
    """Moves the cut points of the volumes after the first `done`, and the head, as long as the latency falls.

    Args:
        kernel: of the problem's graph on one cluster: the links as they are thought to be.
        problem: model and cluster.
        strategy: to begin with.
        done: volumes that stay as they are, 0 to all.
        rounds: steps at most.
        start_s: time on the kernel's traces at which the image starts.
    """
    plan = _arrays(kernel.encode([strategy]))
    rows, head = plan.pop("rows")[0].astype(np.int64), int(plan.pop("head")[0])
    shifts, borders = _moves(rows, done)
    best_s = math.inf
    for _ in range(rounds + 1):
        heads = np.arange(rows.shape[1] - 1)
        candidates = np.concatenate((np.repeat(rows[None], len(heads), axis=0), _moved(rows, shifts, borders)))
        chosen_heads = np.concatenate((heads, np.full(len(shifts), head)))
        many: dict[str, Any] = {key: np.repeat(value, len(candidates), axis=0) for key, value in plan.items()}
        seconds = kernel.latency_s(rows=candidates, head=chosen_heads, **many, start_s=start_s)
        first = int(np.argmin(seconds))
        if not seconds[first] < best_s * (1 - 1e-9):
            break
        best_s, rows, head = float(seconds[first]), candidates[first], int(chosen_heads[first])
    volumes = list(strategy.volumes)
    width = len(strategy.devices)
    for w, decision in enumerate(strategy.decisions(problem.graph)):
        if w >= done:
            made = volume(decision.cut, rows[w, : width + 1].tolist())
            volumes[w] = dataclasses.replace(made, wire=volumes[w].wire, boundary_first=volumes[w].boundary_first)
    device = dataclasses.replace(strategy.head, device=strategy.devices[head])
    return strategy.replace(volumes=tuple(volumes), head=device, predicted={})


def _arrays(encoded: dict[str, Any]) -> dict[str, Any]:
    """Encoded strategies as arrays alone; there is one cluster, so its number says nothing."""
    return {key: np.asarray(value) for key, value in encoded.items() if key != "cluster"}


def _moves(rows: Ints, done: int) -> tuple[Ints, Ints]:
    """(M, L) rows by which each move shifts a cut point of every volume, and (M,) which cut point."""
    n_volumes, points = rows.shape
    heights = rows[:, -1]
    left = np.arange(n_volumes) >= done
    single = [step * sign * np.eye(n_volumes, dtype=np.int64)[left] for step in _STEPS for sign in (1, -1)]
    alike = [(np.rint(share * heights) * sign * left).astype(np.int64)[None] for share in _SHARES for sign in (1, -1)]
    shifts = np.concatenate([*single, *alike])
    borders = np.arange(1, points - 1)
    return np.repeat(shifts, len(borders), axis=0), np.tile(borders, len(shifts))


def _moved(rows: Ints, shifts: Ints, borders: Ints) -> Ints:
    """(M, L, D + 1) rows after each move; cut points in the way are pushed along."""
    target = np.clip(rows[:, borders].T + shifts, 0, rows[:, -1])[:, :, None]
    place = np.arange(rows.shape[1])[None, None, :]
    border = borders[:, None, None]
    pushed = np.where(
        place < border, np.minimum(rows, target), np.where(place > border, np.maximum(rows, target), target)
    )
    # A volume that is not shifted keeps its rows, the last cut point its height.
    moved = np.where((shifts != 0)[:, :, None], pushed, rows)
    return np.asarray(moved)
