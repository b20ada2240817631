"""OSDS: learn the split decisions of one model on one cluster (Hou et al., "DistrEdge", IPDPS 2022, Algorithm 2).

LC-PSS chooses the partition scheme, an agent then plays `distredge/SplitRows-v0`, and the fastest strategy of all its
episodes is the result. The paper's agent, DDPG with its settings, is the default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distredge.agents.settings import EPISODES, TrainingConfig
from distredge.envs import PARTITION
from distredge.envs.partition import PartitionEnv
from distredge.envs.split_rows import SplitRowsEnv
from distredge.errors import Infeasible, PlannerError
from distredge.latency import offload
from distredge.planners.budget import Budget
from distredge.planners.common.building import predict
from distredge.planners.common.converting import converted
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.agents.training import EpisodeReport, Trained
    from distredge.envs.volumes import VolumesEnv
    from distredge.problem import Problem
    from distredge.strategy import Strategy

METHOD = "distredge"
"""Name of the planning method."""


METHOD_PARTITION = "distredge-partition"
"""The same with the agent choosing the partition scheme as well, in place of LC-PSS."""


def make_env(problem: Problem, config: TrainingConfig) -> VolumesEnv:
    """Returns the environment of a problem; the input is sent in the dtype that suits offloading best."""
    reward_scale = config.hyperparameters["reward_scale"]
    dtype = offload(problem)[0].input.dtype
    if config.env == PARTITION:
        return PartitionEnv(problem.graph, problem.cluster, reward_scale=reward_scale, input_dtype=dtype)
    return SplitRowsEnv(
        problem.graph,
        problem.cluster,
        alpha=config.alpha,
        partition_seed=config.seed,
        reward_scale=reward_scale,
        input_dtype=dtype,
    )


def found_strategy(problem: Problem, config: TrainingConfig, trained: Trained, **settings: Any) -> Strategy:
    """Returns what a training run found, with where it comes from and what it is predicted to cost.

    The environments know neither boundary rows first nor several wires: what was found is given them afterwards.

    Args:
        problem: model and cluster.
        config: of the run.
        trained: what it found.
        **settings: more to write down about its origin.

    Raises:
        Infeasible: if no episode reached the end.
    """
    if trained.best.strategy is None:
        raise Infeasible(f"no strategy for {problem}: every episode had to cross a link that is down")
    partitions = config.env == PARTITION
    origin = {
        "algo": config.algo,
        **({} if partitions else {"alpha": config.alpha}),
        "episodes": trained.episodes,
        "eval_freq": config.eval_freq,
        "hyperparameters": dict(sorted(config.hyperparameters.items())),
        **settings,
    }
    planner = PlannerRef(METHOD_PARTITION if partitions else METHOD, config.seed, origin)
    return predict(
        problem, converted(problem, trained.best.strategy.replace(planner=planner), Budget(evaluations=1000))
    )


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """Plans by training for as long as the budget lasts; one evaluation is one episode.

    Without a limit in evaluations it ends after the paper's number of episodes at the latest.

    Raises:
        PlannerError: if the cluster has a single device.
        Infeasible: if every strategy tried needs a link that is down.
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
        episodes=budget.left or EPISODES,
        seed=seed,
    )
    env = make_env(problem, config)
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
