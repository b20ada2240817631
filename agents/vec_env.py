"""The native vector environment in the form that stable-baselines3 takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from distredge.envs.episodes import Episode
from distredge.envs.vector import VolumesVectorEnv
from distredge.errors import ConfigError, located


class KernelVecEnv(VecEnv):
    """Gives a `VolumesVectorEnv` stable-baselines3's contract.

    `reset` returns observations only, `step` four values with one info per environment; the last observation of an
    episode is in `infos[i]["terminal_observation"]`.

    Args:
        vector: the environment; its copies have no wrappers of their own, and begin anew in the same step.

    Raises:
        ConfigError: if they begin anew in another step.
    """

    def __init__(self, vector: VolumesVectorEnv) -> None:
        if vector.autoreset_mode is not AutoresetMode.SAME_STEP:
            found = vector.autoreset_mode.value
            raise ConfigError(located("KernelVecEnv", "autoreset_mode", found, repr(AutoresetMode.SAME_STEP.value)))
        self.vector = vector
        self._actions: NDArray[np.float32] | None = None
        super().__init__(vector.num_envs, vector.single_observation_space, vector.single_action_space)

    def reset(self) -> VecEnvObs:
        obs, infos = self.vector.reset(seed=self._seeds[0], options=_merged(self._options))
        self.reset_infos = _split(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: NDArray[np.float32]) -> None:
        """Takes the actions of the next step: (num_envs, n_values + n_devices - 1) float32, from -1 to 1."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        assert self._actions is not None
        obs, rewards, terminated, truncated, infos = self.vector.step(self._actions)
        done = terminated | truncated
        split = _split(infos, self.num_envs)
        if done.any():
            ended = np.flatnonzero(done)
            finals = _split({key: value[ended] for key, value in infos["final_info"].items()}, len(ended))
            for i, final in zip(ended.tolist(), finals, strict=True):
                split[i] = final | {"terminal_observation": infos["final_obs"][i]}
        for i, info in enumerate(split):
            info["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return obs, rewards.astype(np.float32), done, split

    def close(self) -> None:
        self.vector.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each copy: of an environment of its own episode, or what all of them share."""
        found = []
        for i in self._get_indices(indices):
            if attr_name in _OWN:
                found.append(_OWN[attr_name](self.vector, i))
            else:
                found.append(getattr(self.vector.env, attr_name))
        return found

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of all copies at once, which have none of their own.

        Raises:
            NotImplementedError: for some of the copies, or for what they are made of.
        """
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise NotImplementedError(f"{attr_name}: the copies have no attributes of their own: set it for all")
        if attr_name in _FIXED or attr_name in _OWN:
            raise NotImplementedError(f"{attr_name}: fixed when an environment is made; make another one")
        setattr(self.vector.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Calls a method of the copies that changes none of them: `strategy`, `render`, `get_wrapper_attr`, `twin`.

        `strategy` is that of the last episode which ended in each copy.

        Raises:
            NotImplementedError: for any other; stepping and resetting one copy is what `step` and `reset` are for.
        """
        which = list(self._get_indices(indices))
        if method_name == "strategy":
            return [self.vector.env.strategy(*(args or (self._ended(i),)), **kwargs) for i in which]
        if method_name == "render":
            return [None if self.render_mode is None else self.vector.render_one(i) for i in which]
        if method_name in _SHARED:
            return [getattr(self.vector.env, method_name)(*args, **kwargs) for _ in which]
        accepted = ", ".join(("strategy", "render", *_SHARED))
        raise NotImplementedError(f"{method_name}: the copies step together; accepted: {accepted}")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """A picture of each copy, (height, width, 3), with `render_mode="rgb_array"`; None for each without it."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"the environment's render_mode is {self.render_mode!r}: pictures need 'rgb_array'", stacklevel=2
            )
            return [None] * self.num_envs
        pictures = [self.vector.render_one(i) for i in range(self.num_envs)]
        # Clusters of unequal size make pictures of unequal height, which cannot be tiled.
        height = max(len(picture) for picture in pictures)
        width = max(picture.shape[1] for picture in pictures)
        return [
            np.pad(p, ((0, height - len(p)), (0, width - p.shape[1]), (0, 0)), constant_values=_WHITE) for p in pictures
        ]

    def _ended(self, index: int) -> Episode:
        episode = self.vector.last_episode(index)
        if episode is None:
            raise ResetNeeded(f"environment {index}: no episode has ended yet")
        return episode


_OWN: dict[str, Any] = {
    "last_episode": lambda vector, i: vector.last_episode(i),
    "problem": lambda vector, i: vector.problem(i),
    "graph": lambda vector, i: vector.problem(i).graph,
}
"""Attributes of the environments that are not the same for all copies."""

_SHARED = ("get_wrapper_attr", "has_wrapper_attr", "twin")
"""Methods of the environments that change nothing, and say the same of all copies."""

_FIXED = (
    "action_space", "graphs", "input_dtype", "max_volumes", "n_devices", "observation_space", "observe_cluster",
    "observe_model", "observe_rows", "partition", "problems", "process", "render_mode", "reward_scale", "signature",
)  # fmt: skip
"""Attributes that are compiled into the process, so that setting them would change nothing or break it."""


_WHITE = 255


def _merged(options: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The options of each copy as one dict of lists.

    Raises:
        ConfigError: if some copies have an option that others lack.
    """
    names = list(options[0])
    for i, own in enumerate(options):
        if set(own) != set(names):
            raise ConfigError(located("KernelVecEnv", f"options[{i}]", own, f"the same keys for all: {names}"))
    return {name: [own[name] for own in options] for name in names}


def _split(infos: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """One info per environment, of plain numbers."""
    columns = {
        key: value.tolist()
        for key, value in infos.items()
        if isinstance(value, np.ndarray) and value.dtype != object and not key.startswith("_")
    }
    return [{key: values[i] for key, values in columns.items()} for i in range(count)]
