"""The folder of a training run: `strategy.json`, `config.yaml`, `run.json`, `model.zip`, `progress.csv` and events."""

from __future__ import annotations

import datetime
import json
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distredge import metric_names
from distredge.envs import SPLIT_ROWS
from distredge.errors import FileError
from distredge.latency import offload_latency_s

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from distredge.agents.settings import TrainingConfig
    from distredge.agents.training import Trained
    from distredge.problem import Problem
    from distredge.strategy import Strategy

FORMAT = "distredge.run/1"
STRATEGY = "strategy.json"
CONFIG = "config.yaml"
ABOUT = "run.json"
AGENT = "model.zip"
PROGRESS = "progress.csv"

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
        self.started = datetime.datetime.now(datetime.timezone.utc)

    @property
    def strategy(self) -> Path:
        """The strategy file."""
        return self.path / STRATEGY

    @property
    def progress(self) -> Path:
        """The figures of every episode."""
        return self.path / PROGRESS

    def save_config(self, config: TrainingConfig) -> None:
        """Writes the merged configuration, which `train-agent --config` reads."""
        (self.path / CONFIG).write_text(config.to_yaml(), encoding="utf-8")

    def save_checkpoint(self, agent: BaseAlgorithm, episode: int) -> None:
        """Writes the agent as it is after an episode."""
        agent.save(self.path / f"checkpoint_{episode}.zip")

    def save_result(self, problem: Problem, strategy: Strategy, trained: Trained, trained_agent: str | None) -> None:
        """Writes the strategy, the agent that found it, and what is known of the run."""
        strategy.save(self.strategy)
        trained.agent.save(self.path / AGENT)
        about = describe(problem, strategy, trained)
        about |= {
            "started": self.started.isoformat(timespec="seconds"),
            "trained_agent": trained_agent,
            "versions": {package: version(package) for package in _PACKAGES},
            "machine": {"python": platform.python_version(), "platform": platform.platform()},
        }
        text = json.dumps({"format": FORMAT, **about}, indent=1, allow_nan=False)
        (self.path / ABOUT).write_text(text + "\n", encoding="utf-8")


def run_name(problem: Problem, config: TrainingConfig) -> str:
    """Model, cluster, algorithm and seed, as in `vgg16_db-50_ddpg_1`; an environment other than OSDS's is named too."""
    environment = [] if config.env == SPLIT_ROWS else [re.sub(r".*/|-v\d+$", "", config.env).lower()]
    parts = [problem.graph.name, problem.cluster.name, *environment, config.algo, str(config.seed)]
    return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part).strip("-.") or "x" for part in parts)


def describe(problem: Problem, strategy: Strategy, trained: Trained) -> dict[str, Any]:
    """What a run found and how long it took, for JSON."""
    latency_s = strategy.predicted[metric_names.LATENCY_S]
    return {
        "model": problem.graph.name,
        "cluster": problem.cluster.name,
        metric_names.LATENCY_S: latency_s,
        metric_names.IMAGES_PER_S: 1.0 / latency_s,
        metric_names.OFFLOAD_LATENCY_S: offload_latency_s(problem),
        metric_names.SPEEDUP: offload_latency_s(problem) / latency_s,
        "volumes": len(strategy.volumes),
        "found_in_episode": trained.best.episode,
        "episodes": trained.episodes,
        "steps": trained.steps,
        "updates": trained.updates,
        "seconds": trained.seconds,
        "episodes_per_s": trained.episodes / trained.seconds,
        "updates_per_s": trained.updates / trained.seconds,
        "interrupted": trained.stopped,
    }


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
