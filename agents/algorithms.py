"""Builds stable-baselines3 agents from hyper-parameters."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distredge.agents.hyperparameters import ALGORITHMS, check_algorithm
from distredge.errors import ConfigError, FileError, MissingDependency

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

VARIANCE_FEW = 0.1
VARIANCE_MANY = 1.0
MANY_DEVICES = 16

_OWN_KEYS = frozenset(
    {"reward_scale", "actor_layers", "critic_layers", "epsilon_decay", "noise_variance", "noise_spread",
     "noise_density", "n_envs", "imitation_last", "demonstrations", "schemes", "offload_memory", "greedy_freq",
     "polish_s", "demonstration_polish_s"}
)  # fmt: skip
"""Hyper-parameters that are not arguments of the algorithm's class."""


def noise_variance(hyperparameters: Mapping[str, Any], n_devices: int) -> float:
    """Variance of the exploration noise: the one that is set, or the paper's for that many devices."""
    found = hyperparameters["noise_variance"]
    if found is not None:
        return float(found)
    return VARIANCE_MANY if n_devices >= MANY_DEVICES else VARIANCE_FEW


def make_agent(
    algo: str, env: VecEnv, hyperparameters: Mapping[str, Any], seed: int, device: str = "cpu"
) -> BaseAlgorithm:
    """Makes an untrained agent.

    Args:
        algo: one of `ALGORITHMS`.
        env: environments that it acts in.
        hyperparameters: complete, as `merge_hyperparameters` returns them.
        seed: of the networks, the exploration and the sampling.
        device: where the networks are, as torch names it.

    Raises:
        ConfigError: if there is no such algorithm or device.
        MissingDependency: if its package is not installed.
    """
    values = {key: value for key, value in hyperparameters.items() if key not in _OWN_KEYS}
    layers = {
        "pi": list(hyperparameters["actor_layers"]),
        "vf" if algo == "ppo" else "qf": list(hyperparameters["critic_layers"]),
    }
    policy: dict[str, Any] = {"net_arch": layers}
    if device == "cpu":
        # The fused Adam takes a fifth off an update of such small networks.
        policy["optimizer_kwargs"] = {"fused": True}
    if "epsilon_decay" in hyperparameters:
        from distredge.agents.noise import EpsilonNoise, EpsilonNoises

        assert env.action_space.shape is not None
        n_actions = env.action_space.shape[0]
        variance = noise_variance(hyperparameters, n_actions + 1)
        noise = EpsilonNoise(n_actions, variance, hyperparameters["epsilon_decay"], seed)
        values["action_noise"] = (
            noise
            if env.num_envs == 1
            else EpsilonNoises(noise, env.num_envs, hyperparameters["noise_spread"], hyperparameters["noise_density"])
        )
    if "ent_coef" in values and values["ent_coef"] is None:
        values["ent_coef"] = "auto"
    agent_class = _agent_class(algo)
    try:
        return agent_class("MlpPolicy", env, policy_kwargs=policy, seed=seed, device=_device(device), **values)
    except ModuleNotFoundError as error:
        raise MissingDependency(error.name or "a package", f"by {algo}", "train") from error


def load_parameters(agent: BaseAlgorithm, path: str | Path) -> None:
    """Puts the network weights and optimiser states of a saved agent into this one.

    Only arrays are read. (`BaseAlgorithm.load` would run code from the archive.)

    Raises:
        FileError: if the file is no saved agent.
        ConfigError: if the saved agent is another algorithm's, or for another size of network or number of devices.
    """
    try:
        agent.set_parameters(str(path), device=agent.device)
    except (OSError, zipfile.BadZipFile) as error:
        raise FileError(f"{path}: cannot read the agent: {getattr(error, 'strerror', None) or error}") from error
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:
        if "zip-file" in str(error):
            raise FileError(f"{path}: not a saved agent") from error
        reason = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(
            f"{path}: found an agent of another algorithm, network size, or number of devices, accepted: one trained "
            f"with the same --algo, layers and number of devices ({reason})"
        ) from error


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Lets torch use one thread: faster for such small networks, and the same sums in every run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _agent_class(algo: str) -> type[BaseAlgorithm]:
    check_algorithm(algo)
    module, _, name = ALGORITHMS[algo].partition(":")
    try:
        found: type[BaseAlgorithm] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0].replace("_", "-")
        raise MissingDependency(package, f"by the algorithm '{algo}'", "train") from error
    return found


def _device(device: str) -> str:
    import torch

    try:
        torch.empty(0, device=torch.device(device) if device != "auto" else "cpu")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device: found {device!r}, accepted: auto, cpu, or a device of torch's ({reason})"
        ) from error
    return device
