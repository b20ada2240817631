"""What is possible on LC-PSS's partition scheme: annealing of the rows alone, which is the ceiling of any OSDS."""

from __future__ import annotations

import math

import numpy as np

from distredge.agents.demonstrations import decided, known_strategies, of_scheme, ranked
from distredge.experiments.common.digests import agent_digest, digest
from distredge.experiments.common.osds_runs import CLOCKS, TrainingRecord
from distredge.experiments.common.regimes import fingerprint
from distredge.latency import offload_latency_s
from distredge.latency.kernel.kernel import kernel_of
from distredge.model.wires import WIRE_NUMBERS
from distredge.planners.budget import Budget
from distredge.planners.published import lc_pss
from distredge.problem import Problem

CHAINS = 64
HOT, COLD = 0.02, 0.0002
"""First and last temperature, relative to the latency."""

SHOWN = 16
"""Strategies of the shipped agent among those that it begins from."""


def ceiling_s(problem: Problem, case: str, regime: str, budget_s: float, clock: str, best_s: float) -> TrainingRecord:
    """Anneals the rows of a problem as published on LC-PSS's scheme; arguments as of `osds_runs.train`."""
    graph, width = problem.graph, len(problem.cluster.devices)
    scheme = tuple(lc_pss.partition(graph, width))
    plans = [decided(problem, plan) for plan in known_strategies(problem, SHOWN, 0)]
    known = of_scheme(problem, plans, scheme, 0, 0)
    started, seconds = ranked(problem, known)
    chosen = np.resize(np.arange(len(started)), CHAINS)
    heights = np.array([graph.cuts[cut].height for cut in scheme])
    rows = np.array([[points for _, points in started[k]] for k in chosen])
    now_s = seconds[chosen].copy()
    kernel, cuts = kernel_of(problem), np.tile(np.array(scheme), (CHAINS, 1))
    input_wire = WIRE_NUMBERS[problem.input_dtypes[0]]
    rng = np.random.default_rng(0)
    found_s, rounds, every = float(now_s.min()), 0, np.arange(CHAINS)
    now = CLOCKS[clock]
    begin_s = now()
    budget = Budget(budget_s, clock=now)
    while not budget.expired():
        heat = HOT * (COLD / HOT) ** budget.spent()
        other = _moved(rows, heights, rng, every)
        heads = np.argmax(np.diff(other[:, -1], axis=1), axis=1)
        other_s = kernel.latency_s(cuts, other, heads, input_wire=input_wire)
        with np.errstate(over="ignore"):
            taken = rng.random(CHAINS) < np.exp(np.minimum(0.0, (now_s - other_s) / (heat * now_s)))
        rows[taken], now_s[taken] = other[taken], other_s[taken]
        found_s = min(found_s, float(now_s.min()))
        rounds += 1
        if rounds % 200 == 0:
            # The worst quarter goes on from the best one.
            order = np.argsort(now_s, kind="stable")
            quarter = CHAINS // 4
            rows[order[-quarter:]], now_s[order[-quarter:]] = rows[order[:quarter]], now_s[order[:quarter]]
    alone_s = offload_latency_s(problem)
    found_s = min(found_s, alone_s) if math.isfinite(found_s) else alone_s
    return TrainingRecord(
        case, regime, "lcpss-ceiling", 0, budget_s, clock, found_s, found_s, alone_s, best_s, rounds * CHAINS, 0, 0,
        0.0, now() - begin_s, "LC-PSS", fingerprint(problem), settings(),
    )  # fmt: skip


def settings() -> str:
    """Letters for all that decides what it finds beside problem and time, the shipped agent included."""
    return digest([CHAINS, HOT, COLD, SHOWN, agent_digest()])


def _moved(
    rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    heights: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    rng: np.random.Generator,
    every: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Strategies in which one cut point of one volume is another, near or far: (CHAINS, L, D + 1)."""
    count, volumes, points = rows.shape
    which = rng.integers(volumes, size=count)
    point = rng.integers(1, points - 1, size=count) if points > 2 else np.ones(count, np.int64)
    reach = np.maximum(1, (heights[which] * 0.5 ** rng.uniform(1, 8, count)).astype(np.int64))
    to = rows[every, which, point] + rng.integers(-reach, reach + 1)
    # Now and then a cut point meets its neighbour: a device is left out, or comes in.
    side = rng.integers(2, size=count) * 2 - 1
    met = rng.random(count) < 0.2
    to = np.where(met, rows[every, which, point + side], to)
    made = rows.copy()
    made[every, which, point] = np.clip(to, 0, heights[which])
    made[every, which] = np.sort(made[every, which], axis=1)
    return made
