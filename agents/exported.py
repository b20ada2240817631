"""Plans with an agent that a user has trained and exported: its ONNX file, without torch."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distredge.agents.memory import BestStrategy, mean_latency_s
from distredge.agents.playing import play
from distredge.agents.polish import polished
from distredge.envs.partition import PartitionEnv
from distredge.envs.signature import PRESENCE, Signature
from distredge.envs.split_rows import SplitRowsEnv
from distredge.errors import ConfigError, FileError, MissingDependency, PlannerError, Unsupported, located
from distredge.latency import offload
from distredge.planners.annealing.loading import load
from distredge.planners.budget import Budget
from distredge.planners.common.building import predict
from distredge.planners.common.converting import converted
from distredge.planners.objectives import needs_figures
from distredge.strategy import ModelRef, PlannerRef

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distredge.envs.volumes import VolumesEnv
    from distredge.problem import Problem
    from distredge.strategy import Strategy

FORMAT = "distredge.agent/1"
INPUT, OUTPUT = "observation", "action"

SAMPLES, SPREAD = 32, 0.05
"""Episodes with noise beside the one without, and its standard deviation on actions from -1 to 1."""

POLISH_S, POLISHED = 0.01, 4
"""Seconds of local annealing, about, and how many of the best are given them."""


@dataclass(frozen=True)
class ExportedAgent:
    """An agent as its file says.

    Attributes:
        path: of the file.
        session: of ONNX Runtime.
        environment: that it was trained in.
        model: name of the model.
        topology: digest of it.
        partition: partition scheme; None where the agent chooses it.
        observe: what it observes beside the times: "cluster", "rows", "model".
        input_dtype: in which the input is sent.
    """

    path: str
    session: Any
    environment: Signature
    model: str
    topology: str
    partition: tuple[int, ...] | None
    observe: dict[str, bool]
    input_dtype: str

    def __call__(self, seen: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n_features,) observation -> (n_values,) action."""
        found: NDArray[np.float32] = self.session.run([OUTPUT], {INPUT: seen[None]})[0][0]
        return found


def load_agent(path: str | Path) -> ExportedAgent:
    """Reads an exported agent.

    Raises:
        FileError: if the file cannot be read or is no exported agent.
        MissingDependency: if ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingDependency("onnxruntime", "to plan with an agent", "engine") from error
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot read the agent: {error.strerror or error}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # faster for networks of this size
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        about = json.loads(session.get_modelmeta().custom_metadata_map["distredge"])
        if about["format"] != FORMAT:
            raise FileError(located(path, "format", about["format"], repr(FORMAT)))
        partition = about["partition"]
        return ExportedAgent(
            str(path),
            session,
            Signature.from_json(str(path), about["environment"]),
            str(about["model"]["name"]),
            str(about["model"]["topology"]),
            None if partition is None else tuple(map(int, partition)),
            {key: bool(about["observe"][key]) for key in ("cluster", "rows", "model")},
            str(about["input_dtype"]),
        )
    except (FileError, ConfigError):
        raise
    except Exception as error:  # ONNX Runtime's own errors have no common base but this
        raise FileError(f"{path}: not an agent that train-agent has exported ({str(error).splitlines()[0]})") from error


def plan_with(problem: Problem, budget: Budget, seed: int, path: str | Path) -> Strategy:
    """Plans with a user's own agent: it plays, with and without noise, and the best strategies are polished.

    It is a planner once it has its path: `planners.run` checks the problem before and the strategy after it.

    Args:
        problem: the agent's model, on a cluster of as many devices as it was trained for; an agent that was trained on
            clusters of unequal size also takes any smaller one.
        budget: one evaluation an episode; the first one is played in any case.
        seed: of the noise and the polish.
        path: of the ONNX file.

    Raises:
        FileError, MissingDependency: as `load_agent`.
        ConfigError: if the agent is for another model, another version of the environment or another number of devices.
        Infeasible: if no device can be reached.
        PlannerError: under objectives and limits other than latency's.
    """
    if needs_figures(problem):
        raise PlannerError(
            f"{path}: an agent plans for latency, not under such objectives and limits ({problem.objective})"
        )
    with budget.paused():  # loading and compiling are no planning
        agent = load_agent(path)
        env = _env(problem, agent)
        play(env, agent)
        with contextlib.suppress(Unsupported):
            load(problem, Budget(evaluations=1))
    best = BestStrategy(env)
    rng = np.random.default_rng(seed)
    played = 0
    for number in range(1 + SAMPLES):
        if number and (budget.expired() or best.latency_s == math.inf):
            break

        def act(seen: NDArray[np.float32], spread: float = SPREAD * (number > 0)) -> NDArray[np.float32]:
            action = agent(seen)
            noise = rng.normal(0.0, spread, action.shape) if spread else 0.0
            return np.asarray(np.clip(action + noise, -1.0, 1.0), np.float32)

        best.offer(play(env, act).episode, number + 1)
        played += 1
        budget.spend()
        budget.report(best.latency_s)
    candidates = [offload(problem)[0]]
    if best.strategy is not None:
        candidates.append(converted(problem, best.strategy, Budget(evaluations=1000)))
        left_s = budget.left_s
        seconds = POLISH_S if left_s is None else min(POLISH_S, left_s)
        if seconds:
            candidates += polished(problem, candidates[1:] + best.strategies[:POLISHED], seconds, seed)
    figures = mean_latency_s(problem, candidates)
    chosen = candidates[int(np.argmin(figures))]
    planner = PlannerRef("agent", seed, {"agent": Path(path).name, "episodes": played})
    return predict(problem, chosen.replace(planner=planner))


def _env(problem: Problem, agent: ExportedAgent) -> VolumesEnv:
    """The environment of the problem as the agent knows it, with room for as many devices."""
    reference = ModelRef.of(problem.graph)
    if reference.topology != agent.topology:
        raise ConfigError(
            located(agent.path, "model", agent.model, f"'{reference.name}', or the same layers under another name")
            + ": the agent was trained for another model"
        )
    if agent.input_dtype not in problem.input_dtypes:
        raise ConfigError(located(agent.path, "input_dtype", agent.input_dtype, " or ".join(problem.input_dtypes)))
    try:
        agent.environment.check_cluster(problem.cluster)
    except ConfigError as error:
        raise ConfigError(f"{agent.path}: {error}") from error
    options: dict[str, Any] = {f"observe_{key}": value for key, value in agent.observe.items()}
    if PRESENCE in agent.environment.observed:
        options["max_devices"] = agent.environment.n_devices
    options["input_dtype"] = agent.input_dtype
    env: VolumesEnv
    if agent.partition is None:
        env = PartitionEnv(problem.graph, problem.cluster, **options)
    else:
        env = SplitRowsEnv(problem.graph, problem.cluster, partition=agent.partition, **options)
    env.signature.check(agent.path, agent.environment)
    return env
