"""The folder of a training run: strategies, configuration, what is known of it, agent, state, figures and events."""

from __future__ import annotations

import datetime
import json
import math
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distredge import metric_names
from distredge.agents.exporting import save_onnx
from distredge.agents.hyperparameters import PRESETS
from distredge.agents.memory import mean_latency_s, start_times
from distredge.agents.settings import BY_EPISODE
from distredge.envs import SPLIT_ROWS
from distredge.envs.signature import Signature
from distredge.errors import FileError
from distredge.latency import offload, offload_latency_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stable_baselines3.common.base_class import BaseAlgorithm

    from distredge.agents.settings import TrainingConfig
    from distredge.agents.training import Trained
    from distredge.envs.volumes import VolumesEnv
    from distredge.problem import Problem
    from distredge.strategy import Strategy

FORMAT = "distredge.run/1"
STRATEGY = "strategy.json"
CONFIG = "config.yaml"
ABOUT = "run.json"
AGENT = "model.zip"
PROGRESS = "progress.csv"
STATE = "state.npz"
ONNX = "agent.onnx"

_NAMED = 3
"""Clusters that the name of a run's folder names."""

_PACKAGES = ("distredge", "gymnasium", "numpy", "stable-baselines3", "torch")


class RunFolder:
    """A new folder for one run.

    Args:
        parent: folder of all runs; made when it is missing.
        name: of the run; `_2`, `_3`, ... is added when there is a run of that name.

    Raises:
        FileError: if the folder cannot be made.
    """

    def __init__(self, parent: str | Path, name: str) -> None:
        self.path = _make(Path(parent), name)
        self._strategies: dict[int, Path] = {}
        self.started = datetime.datetime.now(datetime.timezone.utc)

    @property
    def strategy(self) -> Path:
        """The strategy file."""
        return self.path / STRATEGY

    @property
    def state(self) -> Path:
        """The state from which `--resume` goes on."""
        return self.path / STATE

    def strategy_of(self, problem: Problem) -> Path:
        """The strategy file of a cluster: one of its own where there are several."""
        return self._strategies.get(id(problem), self.strategy)

    @property
    def progress(self) -> Path:
        """The figures of every episode."""
        return self.path / PROGRESS

    def going_on(self) -> str | None:
        """How to go on from what a run that failed left: from its state, or its last checkpoint; None from nothing."""
        if self.state.exists():
            return f"--resume {self.path} goes on from its state"
        saved = sorted(self.path.glob("checkpoint_*.zip"), key=lambda path: path.stat().st_mtime)
        return f"-i {saved[-1]} begins with its networks" if saved else None

    def save_config(self, config: TrainingConfig) -> None:
        """Writes the merged configuration, which `train-agent --config` reads."""
        (self.path / CONFIG).write_text(config.to_yaml(), encoding="utf-8")

    def save_checkpoint(self, agent: BaseAlgorithm, episode: int) -> None:
        """Writes the agent as it is after an episode."""
        path = self.path / f"checkpoint_{episode}.zip"
        beside = path.with_suffix(".part")
        try:
            agent.save(beside)  # first, so that a run that fails here leaves no half of one
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def save_result(
        self,
        problems: Sequence[Problem],
        strategies: Sequence[Strategy],
        trained: Trained,
        about: Sequence[Mapping[str, Any]],
        env: VolumesEnv,
        began_with: str | None,
    ) -> None:
        """Writes the strategies, the agent that is kept, and what is known of the run.

        Args:
            problems: one model on each cluster.
            strategies: the best one on each.
            trained: what the run found.
            about: `describe` of each.
            env: that the agent was trained in.
            began_with: agent or state that the run began with.
        """
        for k, (problem, strategy) in enumerate(zip(problems, strategies, strict=True)):
            if len(problems) > 1:
                name = f"strategy_{_plain(problem.cluster.name)}"
                taken = set(self._strategies.values())
                path = self.path / f"{name}.json"
                self._strategies[id(problem)] = path if path not in taken else self.path / f"{name}_{k + 1}.json"
            strategy.save(self.strategy_of(problem))
        trained.agent.save(self.path / AGENT)
        save_onnx(trained.agent, env, self.path / ONNX)
        found = {
            **(about[0] if len(about) == 1 else {"clusters": list(about)}),
            "environment": env.signature.to_json(),
            "started": self.started.isoformat(timespec="seconds"),
            "trained_agent": began_with,
            "versions": {package: version(package) for package in _PACKAGES},
            "machine": {"python": platform.python_version(), "platform": platform.platform()},
        }
        text = json.dumps({"format": FORMAT, **found}, indent=1, allow_nan=False)
        (self.path / ABOUT).write_text(text + "\n", encoding="utf-8")


def run_name(problems: Sequence[Problem], config: TrainingConfig) -> str:
    """Model, clusters, algorithm and seed, as in `vgg16_db-50_ddpg_1`; what is not the default is named too."""
    environment = [] if config.env == SPLIT_ROWS else [re.sub(r".*/|-v\d+$", "", config.env).lower()]
    preset = [] if config.preset == PRESETS[0] else [config.preset]
    clusters = [problem.cluster.name for problem in problems[:_NAMED]]
    clusters += [f"and-{len(problems) - _NAMED}"] if len(problems) > _NAMED else []
    parts = [problems[0].graph.name, *clusters, *environment, *preset, config.algo, str(config.seed)]
    return "_".join(map(_plain, parts))


def _plain(part: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", part).strip("-.") or "x"


def describe(
    problem: Problem,
    strategy: Strategy,
    trained: Trained,
    place: int = 0,
    *,
    held_out: Mapping[str, float] | None = None,
    search_s: float = 0.0,
    search_latency_s: float | None = None,
) -> dict[str, Any]:
    """What a run found on a cluster and how long it took, for JSON.

    Args:
        problem: model and cluster.
        strategy: the best one, from `osds.found_strategy`.
        trained: what the run found.
        place: of the problem among those of the run.
        held_out: latency of the policy on each cluster that it was not trained on.
        search_s: seconds of the search that it is compared with; 0 without one.
        search_latency_s: what that found; None without one.
    """
    times = len(start_times(problem.cluster))
    latency_s, offload_s = strategy.predicted[metric_names.LATENCY_S], offload_latency_s(problem)
    if times > 1:
        latency_s, offload_s = mean_latency_s(problem, [strategy, offload(problem)[0]]).tolist()
    found_by = strategy.planner.settings["found_by"]
    seconds = max(trained.seconds, 1e-9)
    return {
        "model": problem.graph.name,
        "cluster": problem.cluster.name,
        metric_names.LATENCY_S: latency_s,
        metric_names.IMAGES_PER_S: 1.0 / latency_s,
        metric_names.OFFLOAD_LATENCY_S: offload_s,
        metric_names.SPEEDUP: offload_s / latency_s,
        "start_times": times,
        "one_device_is_best": len(_computing(strategy)) == 1,
        "search_s": search_s,
        "search_latency_s": search_latency_s,
        "gain_over_search": None if search_latency_s is None else search_latency_s / latency_s - 1.0,
        "policy_latency_s": _finite(trained.policy_s[place]),
        "held_out_latency_s": {name: _finite(value) for name, value in (held_out or {}).items()},
        "volumes": len(strategy.volumes),
        "found_by": found_by,
        "found_in_episode": trained.bests[place].episode if found_by == BY_EPISODE else None,
        "episodes": trained.episodes,
        "steps": trained.steps,
        "updates": trained.updates,
        "seconds": trained.seconds,
        "episodes_per_s": trained.episodes / seconds,
        "updates_per_s": trained.updates / seconds,
        "interrupted": trained.stopped,
    }


def _computing(strategy: Strategy) -> set[str]:
    """Devices that compute something, in whichever volume."""
    shared = {k for volume in strategy.volumes for k in np.flatnonzero(np.diff(volume.rows)).tolist()}
    return {strategy.devices[k] for k in shared} | {strategy.head.device}


def _finite(value: float) -> float | None:
    """A number that JSON can say."""
    return value if math.isfinite(value) else None


def state_file(run: str | Path) -> Path:
    """The state of a run folder.

    Raises:
        FileError: if there is none.
    """
    found = Path(run) / STATE
    if not found.is_file():
        raise FileError(f"{run}: no state of a training run here; give a run folder that holds {STATE}")
    return found


def check_agent(path: str | Path, signature: Signature) -> None:
    """Checks that a saved agent was trained in an environment with the same signature, where its run folder says so.

    Raises:
        FileError: if what the folder says cannot be read.
        ConfigError: if it was another version of the environment, or one of other actions or observations.
    """
    about = Path(path).parent / ABOUT
    if not about.is_file():
        return
    try:
        said = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{about}: cannot read what is known of the run: {error}") from error
    if isinstance(said, dict) and "environment" in said:
        signature.check(str(path), Signature.from_json(str(about), said["environment"]))


def agent_file(path: str | Path) -> Path:
    """The saved agent of a run folder, or the path itself when it is a file.

    Raises:
        FileError: if there is none.
    """
    found = Path(path)
    found = found / AGENT if found.is_dir() else found
    if not found.is_file():
        raise FileError(f"{path}: no saved agent here; give a run folder or its {AGENT}")
    return found


def _make(parent: Path, name: str) -> Path:
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}_{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            if not path.is_dir():
                raise FileError(f"{path}: cannot make the run's folder: a file of that name exists") from error
            number += 1
        except OSError as error:
            raise FileError(f"{path}: cannot make the run's folder: {error.strerror or error}") from error
        else:
            return path
