"""Builds stable-baselines3 agents from hyper-parameters."""

from __future__ import annotations

import importlib
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distredge.agents.hyperparameters import ALGORITHMS, check_algorithm
from distredge.errors import ConfigError, DistredgeError, FileError, MissingDependency

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

    from distredge.agents.settings import TrainingConfig
    from distredge.agents.vec_env import KernelVecEnv
    from distredge.envs.volumes import VolumesEnv

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
        ConfigError: if there is no such algorithm or device, or the algorithm does not take the hyper-parameters.
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
    agent_class, device = _agent_class(algo), _device(device)
    try:
        return agent_class("MlpPolicy", env, policy_kwargs=policy, seed=seed, device=device, **values)
    except ModuleNotFoundError as error:
        raise MissingDependency(error.name or "a package", f"by {algo}", "train") from error
    except (AssertionError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(f"{algo} does not take these hyper-parameters: {_first_line(error)}") from error


def load_parameters(agent: BaseAlgorithm, path: str | Path) -> None:
    """Puts the network weights and optimiser states of a saved agent into this one.

    Only arrays are read. (`BaseAlgorithm.load` would run code from the archive.)

    Raises:
        FileError: if the file is no saved agent, is damaged, or holds weights that are no finite numbers.
        ConfigError: if the saved agent is another algorithm's, or for another size of network or number of devices.
    """
    try:
        agent.set_parameters(str(path), device=agent.device)
    except (OSError, zipfile.BadZipFile) as error:
        raise FileError(f"{path}: cannot read the agent: {getattr(error, 'strerror', None) or error}") from error
    except (EOFError, pickle.UnpicklingError, zlib.error) as error:
        raise FileError(f"{path}: the saved agent is damaged") from error
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:
        if "zip-file" in str(error):
            raise FileError(f"{path}: not a saved agent") from error
        if "PytorchStreamReader" in str(error):
            raise FileError(f"{path}: the saved agent is damaged") from error
        reason = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(
            f"{path}: found an agent of another algorithm, network size, or number of devices, accepted: one trained "
            f"with the same --algo, layers and number of devices ({reason})"
        ) from error
    if not all(bool(values.isfinite().all()) for values in agent.policy.state_dict().values()):
        raise FileError(f"{path}: its networks hold weights that are no finite numbers: they diverged")


def check_parameters(path: str | Path, env: VolumesEnv, config: TrainingConfig) -> None:
    """Checks that a saved agent can be loaded into one that a configuration makes for an environment.

    Raises:
        ConfigError, FileError, MissingDependency: as `make_agent` and `load_parameters`.
    """
    load_parameters(make_agent(config.algo, vec_env(env, config), config.hyperparameters, config.seed), path)


def vec_env(env: VolumesEnv, config: TrainingConfig) -> DummyVecEnv | KernelVecEnv:
    """The environments in which a run steps, as many as it says."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    from distredge.agents.vec_env import KernelVecEnv
    from distredge.envs.vector import VolumesVectorEnv

    n_envs: int = config.hyperparameters["n_envs"]
    # Without SB3's Monitor: episodes are counted in `training`, and its records would hold the time of day.
    return DummyVecEnv([lambda: env]) if n_envs == 1 else KernelVecEnv(VolumesVectorEnv(env, n_envs))


@contextmanager
def errors_explained() -> Iterator[None]:
    """Says what to change where hyper-parameters make networks diverge, or ask for more memory than there is.

    Raises:
        ConfigError: in place of what others raise then.
    """
    from gymnasium.error import InvalidAction

    try:
        yield
    except DistredgeError:
        raise
    except (InvalidAction, MemoryError, RuntimeError, ValueError) as error:
        text = str(error)
        if isinstance(error, InvalidAction) or "of distribution" in text:
            raise ConfigError(
                "the networks diverged, so that their actions are no finite numbers: lower the learning rate"
            ) from error
        if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
            raise ConfigError(
                "out of memory: lower buffer_size, batch_size, n_envs, actor_layers or critic_layers "
                f"({_first_line(error)})"
            ) from error
        raise


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
        # What is computed there must come back, which it does not from torch's `meta`.
        torch.zeros(1, device=torch.device(device) if device != "auto" else "cpu").cpu()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device: found {device!r}, accepted: auto, cpu, or a device of torch's ({_first_line(error)})"
        ) from error
    return device


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
