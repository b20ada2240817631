"""What a planner makes of one of the agent's cases, and how long it takes: warm, cold, and without polish."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from distredge.errors import Unsupported
from distredge.experiments.common.agent_cases import AgentCase, other_rates
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.model.zero_shares import assume_zero_shares, zero_shares
from distredge.planners import plan
from distredge.planners.agent import planning
from distredge.planners.agent.proposals import best_proposals
from distredge.planners.annealing.loading import load
from distredge.planners.budget import Budget
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile
from distredge.strategy import Strategy

REPEATS = 3
"""Warm plans of a case, of whose times the median counts."""

PLANNED_BEFORE = 2
"""Plans at other rates before them."""


@dataclass(frozen=True)
class Measured:
    """A planner on a case.

    Attributes:
        latency_s, offload_latency_s: of its plan and of the best single device, simulated.
        warm_ms: wall-clock time of a plan, boards and model planned before at other rates.
        warm_cpu_ms: its processor time, all threads.
        cold_ms, cold_cpu_ms: of the first plan with new tables, graph and profiles; None: not measured.
        raw_latency_s: of the best proposal, not polished; None where the planner has no proposals.
    """

    latency_s: float
    offload_latency_s: float
    warm_ms: float
    warm_cpu_ms: float
    cold_ms: float | None = None
    cold_cpu_ms: float | None = None
    raw_latency_s: float | None = None

    @property
    def least_ms(self) -> float:
        """Warm time as far as other programs have not made it longer: of several threads wall-clock time is less."""
        return min(self.warm_ms, self.warm_cpu_ms)


def measure(case: AgentCase, method: str, budget_s: float | None, seed: int, *, cold: bool) -> Measured:
    """Plans a case several times.

    Args:
        case: model, cluster and options.
        method: planner.
        budget_s: of each plan; None: what `plan` gives by itself.
        seed: of each plan.
        cold: whether a cold plan is timed as well.
    """
    once = functools.partial(plan, method=method, seed=seed)
    if budget_s is not None:
        once = functools.partial(once, budget_s=budget_s)
    for day in range(PLANNED_BEFORE):
        once(other_rates(case, day).problem())
    warm_ms, warm_cpu_ms = [], []
    for _ in range(REPEATS):
        strategy, wall_ms, cpu_ms = _timed(once, case.problem())
        warm_ms.append(wall_ms)
        warm_cpu_ms.append(cpu_ms)
    cold_ms = cold_cpu_ms = None
    if cold:
        _, cold_ms, cold_cpu_ms = _timed(once, fresh_problem(case))
    return Measured(
        latency_s=strategy.predicted["latency_s"],
        offload_latency_s=strategy.predicted["offload_latency_s"],
        warm_ms=statistics.median(warm_ms),
        warm_cpu_ms=statistics.median(warm_cpu_ms),
        cold_ms=cold_ms,
        cold_cpu_ms=cold_cpu_ms,
        raw_latency_s=raw_latency_s(case.problem(), seed) if method == "agent" else None,
    )


def fresh_problem(case: AgentCase) -> Problem:
    """The problem of a case with a graph and profiles of its own, so that nothing that is kept beside them is there."""
    width = None if case.width == 1.0 else case.width
    return renewed(case.problem(), load_model(case.model, input_shape=case.input_shape, width=width))


def renewed(problem: Problem, graph: Graph) -> Problem:
    """A problem on a graph of its own, which is the same model's, and on profiles of its own: no table is made for it.

    How sparse the model's tensors are, which is measured once per model and kept on disk, it knows.
    """
    assume_zero_shares(graph, zero_shares(problem.graph) if any("packed" in wire for wire in problem.wires) else {})
    own = {p: ComputeProfile(p.data, p.where) for p in dict.fromkeys(d.profile for d in problem.cluster.devices)}
    devices = tuple(replace(device, profile=own[device.profile]) for device in problem.cluster.devices)
    return replace(problem, graph=graph, cluster=replace(problem.cluster, devices=devices))


def raw_latency_s(problem: Problem, seed: int) -> float | None:
    """Latency of the best of the agent's proposals as it stands; None where it has none."""
    try:
        pricer = load(problem, Budget(evaluations=1))
        pricer.fill()
        _, seconds = best_proposals(pricer, planning.PROPOSALS, 1, seed)
    except Unsupported:
        return None
    return float(seconds[0])


def _timed(once: Callable[[Problem], Strategy], problem: Problem) -> tuple[Strategy, float, float]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    strategy = once(problem)
    return strategy, 1e3 * (time.perf_counter() - wall_s), 1e3 * (time.process_time() - cpu_s)
