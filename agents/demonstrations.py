"""What is played before training: strategies of cheap planners and the shipped agent, and the scheme they suggest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.agents.memory import mean_latency_s
from distredge.agents.polish import polished
from distredge.errors import DistredgeError, FileError, MissingDependency, Unsupported
from distredge.latency.kernel.kernel import kernel_of
from distredge.model.wires import WIRE_NUMBERS
from distredge.planners import run
from distredge.planners.budget import Budget
from distredge.planners.published import lc_pss
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Head, Strategy

_log = logging.getLogger(__name__)

CHEAP = ("offload", "aofl", "coedge", "deepslicing", "mednn", "modnn", "deepthings", "pico", "dpfp")
"""Planners that take some hundredths of a second, the better ones first."""

_EVALUATIONS = 100
"""Strategies that each of them may price: what it finds then depends on the problem alone."""

_POLISHED, _AGAIN = 12, 3
"""Demonstrations that are polished, each by itself, since those of one valley would end alike; and how many of what
comes out are polished once more, in the other half of the time."""

_PLANS, _PLAN_EVALUATIONS = 3, 20_000
"""How often the shipped agent plans, with a seed of its own each time, and strategies that each plan may price."""

ALPHAS = (0.75, 0.5, 0.25, 0.9, 0.1, 1.0)
"""Weights of LC-PSS whose schemes are tried."""

_WORTH = 0.002
"""Relative gain below which LC-PSS's own scheme is kept."""

Decided = tuple[tuple[int, tuple[int, ...]], ...]
"""A strategy as an environment decides it: cut and cut points of each volume, devices in the cluster's order."""


def never() -> bool:
    """Says that there is time for everything."""
    return False


def known_strategies(
    problem: Problem, count: int, seed: int, polish_s: float = 0.0, expired: Callable[[], bool] = never
) -> list[Strategy]:
    """Strategies of the cheap planners, and of the shipped agent where it applies, under their own schemes.

    Args:
        problem: as an environment has it: what a strategy travels in is given, devices are in the cluster's order.
        count: how many the agent proposes.
        seed: of every random choice.
        polish_s: seconds of local annealing that the best of them are given, whose results join them, as do whole
            plans of the agent, which have its own polish; 0 for none of these.
        expired: asked before each step whether to leave it at what there is.
    """
    found = []
    for method in CHEAP:
        if expired():
            break
        try:
            strategy = run(problem, method, Budget(evaluations=_EVALUATIONS), seed)
        except DistredgeError as reason:
            _log.debug("no demonstration of %s: %s", method, reason)
            continue
        # An environment deals rows only.
        if all(volume.columns is None for volume in strategy.volumes):
            found.append(strategy)
    if not expired():
        found += proposed(problem, count, seed)
    if polish_s:
        found += _plans_of_agent(problem, seed, expired)
    if not expired():
        found += _shares_by_speed(problem, count)
    if polish_s and not expired():
        found += _improved(problem, found, polish_s, seed, expired)
    return found


def fastest(problem: Problem, strategies: Sequence[Strategy], count: int) -> list[Strategy]:
    """The fastest of some strategies, no two of which deal the same rows and head; those that no link stops."""
    seconds = mean_latency_s(problem, strategies) if strategies else np.zeros(0)
    found: dict[tuple[Decided, Head], Strategy] = {}
    for k in np.argsort(seconds, kind="stable").tolist():
        if np.isfinite(seconds[k]):
            found.setdefault((decided(problem, strategies[k]), strategies[k].head), strategies[k])
    return list(found.values())[:count]


def _shares_by_speed(problem: Problem, count: int) -> list[Strategy]:
    """Shares by speed over many schemes and subsets, with which `search` begins: the fastest under each scheme."""
    from distredge.planners.annealing.loading import load
    from distredge.planners.annealing.starts import starts

    try:
        pricer = load(problem, Budget(evaluations=1))
        batch, _ = starts(pricer.codec)
        seconds = pricer.price(batch, again=True)
    except Unsupported:
        return []
    best: dict[bytes, int] = {}
    for k in np.argsort(seconds, kind="stable").tolist():
        if np.isfinite(seconds[k]):
            best.setdefault(batch.cuts[k].tobytes(), k)
    planner = PlannerRef("search", 0)
    return [pricer.codec.strategy(batch, k, planner) for k in list(best.values())[:count]]


def _improved(
    problem: Problem, found: Sequence[Strategy], polish_s: float, seed: int, expired: Callable[[], bool]
) -> list[Strategy]:
    """What a polish makes of the best strategies of as many partition schemes; arguments as of `known_strategies`."""

    def improve(start: Strategy, seconds: float) -> list[Strategy]:
        return [] if expired() else polished(problem, [start], seconds, seed, count=2)

    seconds = mean_latency_s(problem, found) if found else np.zeros(0)
    starts: dict[tuple[tuple[str, ...], ...], Strategy] = {}
    for k in np.argsort(seconds, kind="stable").tolist():
        if np.isfinite(seconds[k]):
            starts.setdefault(tuple(volume.ends_at for volume in found[k].volumes), found[k])
    chosen = list(starts.values())[:_POLISHED]
    half_s = 0.5 * polish_s
    made = [best for start in chosen for best in improve(start, half_s / len(chosen))]
    order = np.argsort(mean_latency_s(problem, made), kind="stable").tolist() if made else []
    again = [made[k] for k in order[: 2 * _AGAIN : 2]]
    return made + [best for start in again for best in improve(start, half_s / len(again))]


def proposed(problem: Problem, count: int, seed: int, scheme: tuple[int, ...] | None = None) -> list[Strategy]:
    """What the shipped agent proposes, none where it does not apply; arguments as of its `propose`."""
    from distredge.planners.agent.proposals import propose
    from distredge.planners.annealing.loading import load

    try:
        pricer = load(problem, Budget(evaluations=max(1, count)))
        if scheme is not None and len(scheme) > pricer.codec.most_volumes:
            _log.debug("the shipped agent proposes nothing for %d volumes", len(scheme))
            return []
        batch = propose(pricer, count, seed, scheme)
    except (MissingDependency, Unsupported, FileError) as reason:
        _log.debug("the shipped agent proposes nothing: %s", reason)
        return []
    planner = PlannerRef("agent", seed)
    return [pricer.codec.strategy(batch, k, planner) for k in range(len(batch.cuts))]


def _plans_of_agent(problem: Problem, seed: int, expired: Callable[[], bool]) -> list[Strategy]:
    """What the shipped agent plans, its polish included; none where it does not apply."""
    from distredge.planners.agent.planning import agents_own

    plans: list[Strategy] = []
    try:
        for number in range(_PLANS):
            if expired():
                break
            plans.append(agents_own(problem, Budget(evaluations=_PLAN_EVALUATIONS), seed + number))
    except DistredgeError as reason:
        _log.debug("the shipped agent plans nothing: %s", reason)
    return plans


def decided(problem: Problem, strategy: Strategy) -> Decided:
    """A strategy as an environment decides it; a device that it leaves out gets no rows."""
    places = {name: place for place, name in enumerate(strategy.devices)}
    volumes = []
    for chosen, decision in zip(strategy.volumes, strategy.decisions(problem.graph), strict=True):
        sizes = np.diff(chosen.rows)
        own = [int(sizes[places[name]]) if name in places else 0 for name in problem.cluster.names]
        volumes.append((decision.cut.index, (0, *np.cumsum(own).tolist())))
    return tuple(volumes)


def under_scheme(problem: Problem, volumes: Decided, scheme: Sequence[int]) -> Decided:
    """The shares of a strategy under another partition scheme.

    Each volume of the scheme gets the shares that the strategy has at that depth of the model.
    """
    found, at = [], 0
    for cut in scheme:
        while volumes[at][0] < cut:
            at += 1
        points = np.asarray(volumes[at][1], np.float64)
        height = problem.graph.cuts[cut].height
        found.append((int(cut), tuple(np.floor(points / points[-1] * height + 0.5).astype(int).tolist())))
    return tuple(found)


def of_scheme(
    problem: Problem,
    known: Iterable[Decided],
    scheme: tuple[int, ...],
    count: int,
    seed: int,
    expired: Callable[[], bool] = never,
) -> list[Decided]:
    """Demonstrations under one scheme: what is known, and, if there is time, what the shipped agent proposes for it."""
    own = [] if expired() else [decided(problem, strategy) for strategy in proposed(problem, count, seed, scheme)]
    return distinct([*own, *(under_scheme(problem, volumes, scheme) for volumes in known)])


def ranked(problem: Problem, strategies: Sequence[Decided]) -> tuple[list[Decided], NDArray[np.float64]]:
    """Strategies that a link lets through, the fastest first, and their latencies at time 0, (n,) seconds.

    Raises:
        Unsupported: if only the simulator prices the problem.
    """
    if not strategies:
        return [], np.zeros(0)
    longest, wide = max(map(len, strategies)), len(problem.cluster.devices) + 1
    cuts = np.full((len(strategies), longest), -1)
    rows = np.zeros((len(strategies), longest, wide), np.int64)
    for k, volumes in enumerate(strategies):
        cuts[k, : len(volumes)] = [cut for cut, _ in volumes]
        rows[k, : len(volumes)] = [points for _, points in volumes]
    heads = [int(np.argmax(np.diff(volumes[-1][1]))) for volumes in strategies]
    input_wire = WIRE_NUMBERS[problem.input_dtypes[0]]
    seconds = kernel_of(problem).latency_s(cuts, rows, np.array(heads), input_wire=input_wire)
    order = [k for k in np.argsort(seconds, kind="stable").tolist() if np.isfinite(seconds[k])]
    return [strategies[k] for k in order], seconds[order]


def choose_scheme(
    problems: Sequence[Problem],
    known: Sequence[Sequence[Decided]],
    alpha: float,
    tried: int,
    count: int,
    seed: int,
    expired: Callable[[], bool] = never,
) -> tuple[tuple[int, ...], str]:
    """The partition scheme whose demonstrations are fastest, and where it comes from, in words.

    Args:
        problems: one model on some clusters.
        known: strategies of each, from `known_strategies`, as they are decided.
        alpha: LC-PSS's weight, whose scheme is kept unless another is worth it.
        tried: schemes that are compared, at most; with 1 there is nothing to compare.
        count: strategies that the shipped agent proposes under each.
        seed: of every random choice.
        expired: asked before each scheme whether to leave it at those that were compared.

    Raises:
        Unsupported: if only the simulator prices a problem and more than one scheme is to be tried.
    """
    graph = problems[0].graph
    n_devices = max(len(problem.cluster.devices) for problem in problems)

    def by_lc_pss(weight: float) -> tuple[int, ...]:
        return tuple(lc_pss.partition(graph, n_devices, weight, lc_pss.N_RANDOM, seed))

    names = {by_lc_pss(alpha): f"LC-PSS, alpha {alpha:g}"}
    if tried > 1 and not expired():
        for weight in ALPHAS:
            if expired():
                break
            names.setdefault(by_lc_pss(weight), f"LC-PSS, alpha {weight:g}")
        for problem, strategies in zip(problems, known, strict=True):
            for volumes in ranked(problem, strategies)[0]:
                names.setdefault(tuple(cut for cut, _ in volumes), "a demonstration")
    schemes = list(names)[:tried]
    if len(schemes) == 1:
        return schemes[0], names[schemes[0]]
    figures: list[float] = []
    for scheme in schemes:
        if figures and expired():
            break
        best = [
            ranked(problem, of_scheme(problem, strategies, scheme, count, seed, expired))[1][:1]
            for problem, strategies in zip(problems, known, strict=True)
        ]
        figures.append(sum(float(np.log(seconds[0])) if len(seconds) else 50.0 for seconds in best) / len(problems))
    chosen = int(np.argmin(figures))
    if figures[chosen] > figures[0] - _WORTH:
        chosen = 0
    return schemes[chosen], names[schemes[chosen]]


def distinct(strategies: Iterable[Decided]) -> list[Decided]:
    """Each strategy once, in the order in which they came."""
    return list(dict.fromkeys(strategies))
