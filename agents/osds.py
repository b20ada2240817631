"""OSDS: learn the split decisions of one model on one cluster (Hou et al., "DistrEdge", IPDPS 2022, Algorithm 2).

LC-PSS chooses the partition scheme, an agent then plays `distredge/SplitRows-v0`, and the fastest strategy of all its
episodes is the result. The preset `osds` is that, with the paper's agent, DDPG, and its settings. The preset
`distredge` adds to it: demonstrations, which may also suggest another scheme, offload in the memory, and a polish at
the end.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distredge.agents.demonstrations import (
    Decided,
    choose_scheme,
    decided,
    distinct,
    fastest,
    known_strategies,
    never,
    of_scheme,
    ranked,
)
from distredge.agents.memory import REMEMBERED, mean_latency_s
from distredge.agents.polish import polished
from distredge.agents.settings import (
    BY_DEMONSTRATION,
    BY_EPISODE,
    BY_ONE_DEVICE,
    BY_POLISH,
    EPISODES,
    TrainingConfig,
)
from distredge.envs import PARTITION
from distredge.envs.partition import PartitionEnv
from distredge.envs.signature import PRESENCE
from distredge.envs.split_rows import SplitRowsEnv
from distredge.errors import ConfigError, Infeasible, PlannerError, Unsupported, located
from distredge.latency import offload
from distredge.planners import run
from distredge.planners.budget import Budget
from distredge.planners.common.building import predict
from distredge.planners.common.converting import converted
from distredge.planners.published import lc_pss
from distredge.problem import Problem
from distredge.strategy import PlannerRef, Strategy

if TYPE_CHECKING:
    from distredge.agents.memory import BestStrategy
    from distredge.agents.training import EpisodeReport, Trained
    from distredge.envs.volumes import VolumesEnv

_log = logging.getLogger(__name__)

PREPARATION = 0.5
"""Share of the budget after which demonstrations are left at what there is: the rest is for training."""

METHOD = "distredge"
"""Name of the planning method."""

METHOD_PARTITION = "distredge-partition"
"""The same with the agent choosing the partition scheme as well, in place of LC-PSS."""

_SAME = 1e-9
"""Relative difference within which two latencies are the same."""


@dataclass(frozen=True)
class Prepared:
    """What a run begins with.

    Attributes:
        env: where the agent acts; its problems are the problems given, as an environment has them.
        demonstrations: strategies to play first, on each cluster.
        scheme: where the partition scheme comes from, in words; "" where the agent chooses it.
        known: the fastest of these strategies on each cluster before they were brought under that scheme, with the
            heads that they chose.
    """

    env: VolumesEnv
    demonstrations: tuple[tuple[Decided, ...], ...]
    scheme: str
    known: tuple[tuple[Strategy, ...], ...]


def prepare(
    problems: Sequence[Problem],
    config: TrainingConfig,
    budget: Budget | None = None,
    scheme: tuple[int, ...] | None = None,
) -> Prepared:
    """Makes the environment of one model on some clusters, and what is played there first.

    Args:
        problems: one model on each cluster.
        config: of the run.
        budget: of the run, of which this takes `PREPARATION` at most; None for no limit.
        scheme: partition scheme of the run that this one goes on from; None chooses one, where the agent does not.

    Raises:
        ConfigError: if a cluster has a single device, or the scheme is another model's.
    """
    own = config.hyperparameters
    env = None if scheme is None else make_env(problems, config, scheme)
    inside = _inside(problems)
    count: int = own["demonstrations"]
    expired = never if budget is None else budget.share(PREPARATION).expired
    plans = [
        known_strategies(problem, count, config.seed, own["demonstration_polish_s"], expired) if count else []
        for problem in inside
    ]
    best = tuple(tuple(fastest(problem, own, REMEMBERED)) for problem, own in zip(inside, plans, strict=True))
    known = [distinct(decided(problem, plan) for plan in own) for problem, own in zip(inside, plans, strict=True)]
    if config.env == PARTITION:
        shown = [_fastest(problem, strategies, count) for problem, strategies in zip(inside, known, strict=True)]
        return Prepared(make_env(problems, config), tuple(shown), "", best)
    origin = "the run that this one goes on from"
    if scheme is None:
        scheme, origin = _scheme(inside, known, config, expired)
    shown = [
        _fastest(problem, of_scheme(problem, strategies, scheme, count, config.seed, expired) if count else [], count)
        for problem, strategies in zip(inside, known, strict=True)
    ]
    _log.info(
        "partition scheme: %s, %d volumes; %d demonstrations; offload in the memory: %s; polish: %g s",
        origin, len(scheme), sum(map(len, shown)), own["offload_memory"], own["polish_s"],
    )  # fmt: skip
    return Prepared(env or make_env(problems, config, scheme), tuple(shown), origin, best)


def _scheme(
    inside: Sequence[Problem], known: Sequence[Sequence[Decided]], config: TrainingConfig, expired: Callable[[], bool]
) -> tuple[tuple[int, ...], str]:
    """The partition scheme of a new run, and where it comes from, in words; arguments as of `choose_scheme`."""
    count: int = config.hyperparameters["demonstrations"]
    try:
        tried = config.hyperparameters["schemes"] if count else 1
        return choose_scheme(inside, known, config.alpha, tried, count, config.seed, expired)
    except Unsupported as reason:
        _log.info("LC-PSS's partition scheme is taken: the kernel does not know %s", reason)
    n_devices = max(len(problem.cluster.devices) for problem in inside)
    scheme = lc_pss.partition(inside[0].graph, n_devices, config.alpha, lc_pss.N_RANDOM, config.seed)
    return tuple(scheme), f"LC-PSS, alpha {config.alpha:g}"


def _inside(problems: Sequence[Problem]) -> list[Problem]:
    """The problems as an environment has them: devices in order, float32 between volumes, nothing computed first."""
    return [
        dataclasses.replace(
            problem,
            input_dtypes=(_input_dtype(problems),),
            wires=("float32",),
            boundary_first=False,
            free_order=False,
            allow_lossy=False,
        )
        for problem in problems
    ]


def _input_dtype(problems: Sequence[Problem]) -> str:
    """The dtype in which the input is sent: what suits offloading best."""
    return offload(problems[0])[0].input.dtype


def _fastest(problem: Problem, strategies: Sequence[Decided], count: int) -> tuple[Decided, ...]:
    """The fastest of some demonstrations; all in their order where the kernel cannot say."""
    try:
        return tuple(ranked(problem, strategies)[0][:count])
    except Unsupported:
        return tuple(strategies[:count])


def make_env(
    problems: Problem | Sequence[Problem],
    config: TrainingConfig,
    scheme: Sequence[int] | None = None,
    max_devices: int | None = None,
) -> VolumesEnv:
    """Returns the environment of one model on some clusters.

    Args:
        problems: one model on each cluster, or on the one that there is.
        config: of the run.
        scheme: partition scheme, indices into `graph.cuts`; None for LC-PSS's, or where the agent chooses it.
        max_devices: as in the environments' texts.

    Raises:
        ConfigError: if a cluster has a single device.
    """
    problems = [problems] if isinstance(problems, Problem) else problems
    for problem in problems:
        if len(problem.cluster.devices) < 2:
            raise ConfigError(
                located("training", "cluster", problem.cluster.name, "a cluster of at least 2 devices")
                + ": with one there is nothing to split; `distredge plan` works"
            )
    options: dict[str, Any] = {
        "reward_scale": config.hyperparameters["reward_scale"],
        "input_dtype": _input_dtype(problems),
        "max_devices": max_devices,
        # One that has to do with several clusters must see which.
        "observe_cluster": len(problems) > 1 or bool(config.eval_cluster),
    }
    graph, clusters = problems[0].graph, [problem.cluster for problem in problems]
    if config.env == PARTITION:
        return PartitionEnv(graph, clusters, **options)
    if scheme is not None:
        return SplitRowsEnv(graph, clusters, partition=scheme, **options)
    return SplitRowsEnv(graph, clusters, alpha=config.alpha, partition_seed=config.seed, **options)


def held_out_env(env: VolumesEnv, problems: Sequence[Problem], config: TrainingConfig) -> VolumesEnv | None:
    """The environment of clusters that are not trained on, with the signature of the one that is; None without any.

    Raises:
        ConfigError: if one has a number of devices that an agent of that environment cannot act on.
    """
    if not problems:
        return None
    known = env.signature
    for problem in problems:
        try:
            known.check_cluster(problem.cluster)
        except ConfigError as error:
            raise ConfigError(f"--eval-cluster: {error}") from error
    scheme = env.partition if isinstance(env, SplitRowsEnv) else None
    found = make_env(problems, config, scheme, known.n_devices if PRESENCE in known.observed else None)
    known.check("--eval-cluster", found.signature)
    return found


def compared(problem: Problem, config: TrainingConfig, budget: Budget) -> float | None:
    """Mean latency in seconds of what `search` finds within a budget; None if it was interrupted."""
    strategy = run(problem, "search", budget, config.seed)
    return None if budget.interrupted else float(mean_latency_s(problem, [strategy])[0])


def found_strategy(
    problem: Problem,
    config: TrainingConfig,
    trained: Trained,
    place: int = 0,
    known: Sequence[Strategy] = (),
    **settings: Any,
) -> Strategy:
    """Returns what a training run found on a cluster, with where it comes from and what it is predicted to cost.

    The environments know neither boundary rows first nor several wires: what was found is given them afterwards. Under
    traces the fastest is the one with the lowest mean over `memory.start_times`. With offload in the memory nothing
    slower than the best single device is returned.

    Args:
        problem: model and cluster.
        config: of the run.
        trained: what it found.
        place: of the problem among those of the run.
        known: demonstrations under their own schemes (`Prepared.known`), among which the polish begins too.
        **settings: more to write down about its origin.

    Raises:
        Infeasible: if no episode reached the end, or none was played.
    """
    best = trained.bests[place]
    own = config.hyperparameters
    candidates = _candidates(problem, config, best, known)
    if own["offload_memory"]:
        candidates.append((offload(problem)[0], BY_ONE_DEVICE))
    if not candidates:
        why = "every episode had to cross a link that is down" if trained.episodes else "no episode was played"
        raise Infeasible(f"no strategy for {problem}: {why}")
    seconds = mean_latency_s(problem, [strategy for strategy, _ in candidates])
    if own["offload_memory"]:
        # Where nothing is faster, the single device is the plainest answer.
        seconds[-1] *= 1.0 - _SAME
    chosen = int(np.argmin(seconds))
    if not math.isfinite(seconds[chosen]):
        raise Infeasible(f"no strategy for {problem}: every one has to cross a link that is down at some time")
    partitions = config.env == PARTITION
    origin = {
        "preset": config.preset,
        "algo": config.algo,
        **({} if partitions else {"alpha": config.alpha}),
        "episodes": trained.episodes,
        "eval_freq": config.eval_freq,
        "hyperparameters": dict(sorted(own.items())),
        "found_by": candidates[chosen][1],
        **settings,
    }
    planner = PlannerRef(METHOD_PARTITION if partitions else METHOD, config.seed, origin)
    return predict(problem, candidates[chosen][0].replace(planner=planner))


def _candidates(
    problem: Problem, config: TrainingConfig, best: BestStrategy, known: Sequence[Strategy]
) -> list[tuple[Strategy, str]]:
    """The best strategy with the problem's own options, and what the polish makes of it; each with what found it."""
    if best.strategy is None and not known:
        return []
    fastest = [best.strategy] if best.strategy is not None else []
    found = [converted(problem, strategy, Budget(evaluations=1000)) for strategy in fastest]
    by = BY_EPISODE if best.episode else BY_DEMONSTRATION
    candidates = [(strategy, by) for strategy in found]
    polish_s: float = config.hyperparameters["polish_s"]
    if polish_s:
        start = [*found, *best.strategies, *known]
        candidates += [(strategy, BY_POLISH) for strategy in polished(problem, start, polish_s, config.seed)]
    return candidates


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """Plans by training, as the paper does, for as long as the budget lasts; one evaluation is one episode.

    Without a limit in evaluations it ends after the paper's number of episodes at the latest.

    Raises:
        PlannerError: for a cluster of a single device.
        Infeasible: if no device can be reached.
        MissingDependency: if stable-baselines3 is not installed.
    """
    if len(problem.cluster.devices) < 2:
        raise PlannerError(
            f"distredge: found 1 device in cluster '{problem.cluster.name}', accepted: at least 2; "
            "offload and auto work with one"
        )
    with budget.paused():  # what takes seconds here is no planning
        from distredge.agents.training import run_training

        _load()
    config = TrainingConfig(
        model=problem.graph.name,
        cluster=problem.cluster.name,
        preset="osds",
        episodes=budget.left or EPISODES,
        seed=seed,
    )
    env = make_env([problem], config)
    trained = run_training(env, config, observers=[_Spender(budget)], should_stop=budget.expired)
    return found_strategy(problem, config, trained)


def _load() -> None:
    """Loads what training would load at its first steps."""
    import torch

    from distredge.latency import kernel

    kernel.warm()
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first optimiser imports torch's compiler


class _Spender:
    """Counts episodes against a budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def episode(self, report: EpisodeReport) -> None:
        self.budget.spend()
        self.budget.report(report.best.latency_s)
