"""Many environments at once: one call of the compiled kernel prices the step of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from distredge.envs._setup import check_options
from distredge.envs.decisions import DONE, Told
from distredge.envs.episodes import Episode, EpisodeBatch
from distredge.envs.partition import PartitionEnv
from distredge.envs.process import OPTIONS
from distredge.envs.split_rows import SplitRowsEnv
from distredge.envs.volumes import INFO_FLAGS, INFO_FLOATS, INFO_INTS, VolumesEnv
from distredge.errors import ConfigError, located

if TYPE_CHECKING:
    from distredge.problem import Problem

Array = NDArray[Any]
_MASK = "reset_mask"


def split_rows(
    num_envs: int = 1, autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **arguments: Any
) -> VolumesVectorEnv:
    """Returns `num_envs` environments `distredge/SplitRows-v0`; the other arguments are that environment's."""
    return VolumesVectorEnv(SplitRowsEnv(**arguments), num_envs, autoreset_mode)


def partition(
    num_envs: int = 1, autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **arguments: Any
) -> VolumesVectorEnv:
    """Returns `num_envs` environments `distredge/Partition-v0`; the other arguments are that environment's."""
    return VolumesVectorEnv(PartitionEnv(**arguments), num_envs, autoreset_mode)


class VolumesVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.float32], Array]):
    """Copies of an environment that step together.

    What happens to an environment whose episode ends, `autoreset_mode` says, in Gymnasium's words:

    - `NEXT_STEP` (what `gymnasium.make_vec` gives): its next step begins a new episode, whatever the action, with the
      first observation, reward 0 and nothing ended. Gymnasium's wrappers of observations need this one.
    - `SAME_STEP` (stable-baselines3's contract): the new episode begins at once; the observation is its first one,
      `infos["final_obs"]` and `infos["final_info"]` hold the last of the old one.
    - `DISABLED`: it has to be reset, alone with `reset(options={"reset_mask": mask})`.

    Every array that is returned is a new one. Options of `reset` are those of the environment, for all or one for each.

    Args:
        env: the environment to copy; it is not stepped.
        num_envs: number of copies, at least 1.
        autoreset_mode: of Gymnasium, or its value, such as "NextStep".

    Raises:
        ConfigError: if there are no copies, or the mode is unknown.
    """

    def __init__(
        self, env: VolumesEnv, num_envs: int, autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP
    ) -> None:
        if num_envs < 1:
            raise ConfigError(located(env.name, "num_envs", num_envs, "at least 1"))
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            accepted = ", ".join(repr(mode.value) for mode in AutoresetMode)
            raise ConfigError(located(env.name, "autoreset_mode", autoreset_mode, accepted)) from None
        self.env = env
        self.num_envs = num_envs
        self.render_mode = env.render_mode
        self.metadata = {**env.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self._process = env.process
        self._batch = EpisodeBatch(env.process, num_envs)
        self._running = False
        self._over = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins an episode in every environment, or in some.

        Args:
            seed: of all random choices.
            options: `model` and `cluster` (indices) and `start_s` (seconds), each one value or one for each environment
                that begins; `reset_mask`, (num_envs,) bool, says which do.

        Returns:
            (num_envs, n_features) observations from -1 to 1, and the infos.

        Raises:
            ConfigError: if the options are not those.
            ResetNeeded: if only some begin where none has begun before.
        """
        given = check_options(f"{self.env.name}.reset", options, (*OPTIONS, _MASK))
        mask = self._check_mask(given.pop(_MASK, None))
        if not (self._running or mask.all()):
            raise ResetNeeded("call reset() for all environments first")
        super().reset(seed=seed)
        which = np.flatnonzero(mask)
        obs, told = self._batch.room()
        if not mask.all():
            # What the others saw last is told again.
            self._batch.tell(np.flatnonzero(~mask), obs, told)
        self._begin(which, given, obs, told)
        self._over[which] = False
        self._running = True
        return obs, _with_masks(_info(told), mask)

    def step(self, actions: NDArray[np.float32]) -> tuple[NDArray[np.float32], Array, Array, Array, dict[str, Any]]:
        """Adds a volume in every environment.

        Args:
            actions: (num_envs, n_values + n_devices - 1) from -1 to 1.

        Returns:
            (num_envs, n_features) float32 observations; (num_envs,) float64 rewards; (num_envs,) bool, which episodes
            ended; the same of none, since no episode is truncated; the infos.

        Raises:
            ResetNeeded: before the first `reset`, or where an episode is over and no other begins by itself.
            InvalidAction: if the actions are of another shape, or not finite.
        """
        if not self._running:
            raise ResetNeeded("call reset() before step()")
        values = self._check_actions(actions)
        obs, told = self._batch.room()
        self._batch.step(values, obs, told, self._begin_others(obs, told))
        done = told.flags[DONE]
        infos: dict[str, Any] = {}
        if done.any():
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                infos = _final(obs, told)
                done = done.copy()
                self._begin(np.flatnonzero(done), {}, obs, told)
            else:
                self._over = done.copy()
        infos |= _with_masks(_info(told), np.ones(self.num_envs, np.bool_))
        return obs, told.rewards, done, np.zeros_like(done), infos

    def _begin_others(self, obs: NDArray[np.float32], told: Told) -> NDArray[np.int64] | None:
        """Begins the episodes that the ends of others left to this step; returns which go on instead, None for all."""
        over = self._over
        if not over.any():
            return None
        if self.autoreset_mode is AutoresetMode.DISABLED:
            which = np.flatnonzero(over).tolist()
            raise ResetNeeded(f"the episodes of environments {which} are over: reset them with options['reset_mask']")
        self._begin(np.flatnonzero(over), {}, obs, told)
        self._over = np.zeros_like(over)
        return np.flatnonzero(~over)

    def _begin(
        self, which: NDArray[np.int64], options: Mapping[str, Any], obs: NDArray[np.float32], told: Told
    ) -> None:
        """Begins an episode in some environments."""
        problem, start_s = self._process.choose(self.np_random, len(which), options, single=False)
        self._batch.begin(which, problem, start_s, obs, told)

    def last_episode(self, index: int) -> Episode | None:
        """The last episode that ended in one of the environments; None before there is one."""
        return self._batch.last_ended(index)

    def problem(self, index: int) -> Problem:
        """Model and cluster of the episode in one of the environments."""
        return self._batch.problem(index)

    def render(self) -> tuple[Any, ...] | None:
        """The timeline of each environment's volumes, as text or as a picture by `render_mode`; None without one."""
        if self.render_mode is None:
            return None
        return tuple(self.render_one(k) for k in range(self.num_envs))

    def render_one(self, index: int) -> Any:
        """That of one of the environments; there must be a `render_mode`."""
        assert self.render_mode is not None
        return self._batch.render(index, self.render_mode, bool(self._over[index]))

    def _check_mask(self, mask: Any) -> NDArray[np.bool_]:
        """Which environments begin, (num_envs,); all without a mask."""
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        found = np.asarray(mask)
        if found.shape != (self.num_envs,) or found.dtype != np.bool_ or not found.any():
            accepted = f"({self.num_envs},) bool, at least one of them true"
            raise ConfigError(located(f"{self.env.name}.reset", f"options: {_MASK}", mask, accepted))
        return found

    def _check_actions(self, actions: ArrayLike) -> NDArray[np.float64]:
        values = np.asarray(actions, np.float64)
        if values.shape != self.action_space.shape or not np.isfinite(values).all():
            found = f"shape {values.shape}" if values.shape != self.action_space.shape else "some that are not finite"
            raise InvalidAction(f"actions: found {found}, accepted: {self.action_space.shape}, numbers from -1 to 1")
        return values


def _info(told: Told) -> dict[str, Array]:
    return {
        **{key: told.floats[row] for key, row in INFO_FLOATS},
        **{key: told.ints[row] for key, row in INFO_INTS},
        **{key: told.flags[row] for key, row in INFO_FLAGS},
    }


def _final(obs: NDArray[np.float32], told: Told) -> dict[str, Any]:
    """What is told of the last step of the episodes that end, in Gymnasium's form: copies."""
    done = told.flags[DONE].copy()
    final_obs = np.full(len(done), None, object)
    final_obs[done] = np.fromiter(obs[done], object, int(done.sum()))
    return {
        "final_obs": final_obs,
        "_final_obs": done,
        "final_info": _with_masks(_info(told), done),
        "_final_info": done.copy(),
    }


def _with_masks(info: Mapping[str, Array], where: NDArray[np.bool_]) -> dict[str, Any]:
    """The form of infos in vector environments: each array with a mask of where it holds."""
    found: dict[str, Any] = {}
    for key, value in info.items():
        found[key] = np.where(where, value, np.zeros((), value.dtype))
        found[f"_{key}"] = where.copy()
    return found
