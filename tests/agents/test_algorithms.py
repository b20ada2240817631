"""Making agents and loading saved ones: what cannot be used is refused in plain words."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium.error import InvalidAction
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from distredge.agents.algorithms import errors_explained, load_parameters, make_agent
from distredge.agents.osds import make_env
from distredge.agents.settings import TrainingConfig
from distredge.agents.training import run_training
from distredge.errors import ConfigError, FileError
from distredge.problem import Problem


def _agent(problem: Problem, config: TrainingConfig) -> BaseAlgorithm:
    env = make_env(problem, config, [len(problem.graph.cuts) - 1])
    vec = DummyVecEnv([lambda: env])
    return make_agent(config.algo, vec, config.hyperparameters, config.seed, config.device)


@pytest.mark.parametrize(
    ("algo", "device", "values", "message"),
    [
        ("ppo", "cpu", {"batch_size": 1}, "ppo does not take these hyper-parameters: `batch_size` must be greater"),
        ("ppo", "cpu", {"n_steps": 1}, "`n_steps \\* n_envs` must be greater than 1"),
        ("ddpg", "meta", {}, "device: found 'meta'"),
    ],
)
def test_what_an_algorithm_does_not_take(
    problem: Problem, algo: str, device: str, values: dict[str, Any], message: str
) -> None:
    config = TrainingConfig(algo=algo, device=device, preset="osds", hyperparameters=values)
    with pytest.raises(ConfigError, match=message):
        _agent(problem, config)


@pytest.mark.filterwarnings("ignore:This system does not have apparently enough memory")
def test_more_memory_than_there_is(problem: Problem) -> None:
    config = TrainingConfig(preset="osds", episodes=2, hyperparameters={"buffer_size": 10**15})
    with pytest.raises(ConfigError, match="out of memory: lower buffer_size"):
        run_training(make_env(problem, config, [len(problem.graph.cuts) - 1]), config)


@pytest.mark.parametrize("algo", ["td3", "sac"])
def test_networks_that_diverge(problem: Problem, algo: str) -> None:
    own = {"learning_rate": 1e30, "learning_starts": 2, "actor_layers": [8], "critic_layers": [8], "batch_size": 4}
    config = TrainingConfig(algo=algo, preset="osds", episodes=40, hyperparameters=own)
    with pytest.raises(ConfigError, match=r"the networks diverged.*: lower the learning rate"):
        run_training(make_env(problem, config, [len(problem.graph.cuts) - 1]), config)


@pytest.mark.parametrize(
    ("error", "explained"),
    [
        (InvalidAction("actions: found some that are not finite"), "diverged"),
        (MemoryError("Unable to allocate 1 TiB"), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 1 GiB"), "out of memory"),
        (ConfigError("a.zip: not a saved agent"), "not a saved agent"),
        (RuntimeError("something else"), None),
    ],
)
def test_only_errors_of_these_kinds_are_explained(error: Exception, explained: str | None) -> None:
    with pytest.raises(RuntimeError if explained is None else ConfigError, match=explained), errors_explained():
        raise error


def _saved(agent: BaseAlgorithm, path: Path, networks: bytes | None = None) -> Path:
    """A saved agent, with other bytes in place of its networks if there are any."""
    agent.save(path)
    if networks is not None:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (content | {"policy.pth": networks}).items():
                archive.writestr(name, data)
    return path


def test_damaged_agents(problem: Problem, config: TrainingConfig, tmp_path: Path) -> None:
    agent = _agent(problem, config)
    path = _saved(agent, tmp_path / "model.zip")
    load_parameters(agent, path)
    whole = zipfile.ZipFile(path).read("policy.pth")
    for networks in (b"", whole[: len(whole) // 2], b"garbage" * 9, pickle.dumps(Path("x"), 2)):
        with pytest.raises(FileError, match=r"model.zip: (the saved agent is damaged|not a saved agent)") as found:
            load_parameters(agent, _saved(agent, path, networks))
        assert "weights_only" not in str(found.value)


def test_an_agent_with_weights_that_are_no_numbers(problem: Problem, config: TrainingConfig, tmp_path: Path) -> None:
    agent, other = _agent(problem, config), _agent(problem, config)
    with torch.no_grad():
        next(iter(agent.policy.parameters())).fill_(float("nan"))
    with pytest.raises(FileError, match=r"model.zip: its networks hold weights that are no finite numbers"):
        load_parameters(other, _saved(agent, tmp_path / "model.zip"))
