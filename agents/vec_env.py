"""The native vector environment in the form that stable-baselines3 takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

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
        seed, options = self._seeds[0], self._options[0]
        obs, infos = self.vector.reset(seed=seed, options=options)
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
            finals = _split(infos["final_info"], self.num_envs)
            for i in np.flatnonzero(done).tolist():
                split[i] = finals[i] | {"terminal_observation": infos["final_obs"][i]}
        for i, info in enumerate(split):
            info["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return obs, rewards.astype(np.float32), done, split

    def close(self) -> None:
        self.vector.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self.vector.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError("the copies have no attributes of their own")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError("the copies have no methods of their own")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """None for each of the copies, which draw nothing, in place of (height, width, 3) pixels."""
        return [None] * self.num_envs


def _split(infos: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """One info per environment, of plain numbers."""
    columns = {
        key: value.tolist()
        for key, value in infos.items()
        if isinstance(value, np.ndarray) and value.dtype != object and not key.startswith("_")
    }
    return [{key: values[i] for key, values in columns.items()} for i in range(count)]
