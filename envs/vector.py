"""Many environments at once: one call of the compiled kernel prices the step of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from distredge import metric_names
from distredge.envs._setup import check_options, longest_period_s
from distredge.envs.observation import scale_time
from distredge.envs.partition import PartitionEnv
from distredge.envs.split_rows import SplitRowsEnv
from distredge.envs.volumes import OPTIONS, Episode, VolumesEnv, cut_points
from distredge.errors import ConfigError, located
from distredge.latency import offload_latency_s

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
        ConfigError: if there are no copies, the mode is unknown, or the environment is one that draws.
    """

    def __init__(
        self, env: VolumesEnv, num_envs: int, autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP
    ) -> None:
        if num_envs < 1:
            raise ConfigError(located(env.name, "num_envs", num_envs, "at least 1"))
        if env.render_mode is not None:
            raise ConfigError(
                located(env.name, "render_mode", env.render_mode, "None here; vectorization_mode='sync' draws")
            )
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            accepted = ", ".join(repr(mode.value) for mode in AutoresetMode)
            raise ConfigError(located(env.name, "autoreset_mode", autoreset_mode, accepted)) from None
        self.env = env
        self.num_envs = num_envs
        self.metadata = {**env.metadata, "render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self._heights = np.array([cut.height for cut in env.graph.cuts], np.int64)
        self._offload_s = np.array([offload_latency_s(problem) for problem in env.problems])
        self._periods_s = [longest_period_s(problem.cluster) for problem in env.problems]
        self._every = np.arange(num_envs)
        shape = (num_envs, env.max_volumes)
        self._cuts = np.full(shape, -1, np.int64)
        self._rows = np.zeros((*shape, env.n_devices + 1), np.int64)
        self._count = np.zeros(num_envs, np.int64)
        self._cluster = np.zeros(num_envs, np.int64)
        self._start_s = np.zeros(num_envs)
        self._about_cluster = np.zeros((num_envs, 2 * env.n_devices if env.observe_cluster else 0))
        self._ended = {
            "cuts": self._cuts.copy(),
            "rows": self._rows.copy(),
            "cluster": self._cluster.copy(),
            "start_s": self._start_s.copy(),
            "head": np.zeros(num_envs, np.int64),
            "latency_s": np.full(num_envs, np.nan),
        }
        self._running = False
        self._over = np.zeros(num_envs, np.bool_)
        self._done_s = np.zeros((num_envs, env.n_devices))

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins an episode in every environment, or in some.

        Args:
            seed: of all random choices.
            options: `cluster` (index) and `start_s` (seconds), each one value or one for each environment that begins;
                `reset_mask`, (num_envs,) bool, says which do.

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
        self._begin(np.flatnonzero(mask), given)
        self._running = True
        self._done_s[mask] = 0.0
        none = np.zeros(self.num_envs)
        return self._observe(self._done_s), _with_masks(self._info(none, none > 0), mask)

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
        head, latency_s, last = self._decide(values, self._begin_next())
        done = last | np.isinf(latency_s)
        finish_s = self._done_s
        env = self.env
        unit_s = self._offload_s[self._cluster] if env.reward_scale == "offload" else 1.0
        rewards = np.where(done, unit_s / np.where(done, latency_s, 1.0), 0.0)
        obs, info = self._observe(finish_s), self._info(latency_s, done)
        infos: dict[str, Any] = {}
        if done.any():
            ended = np.flatnonzero(done)
            self._remember(ended, head, latency_s)
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                infos = self._final(obs, info, done)
                self._begin(ended, {})
                finish_s[done] = 0.0
                obs[done] = self._observe(finish_s)[done]
                info = self._info(np.where(done, 0.0, latency_s), np.zeros_like(done))
            else:
                self._over = done.copy()
        infos |= _with_masks(info, np.ones_like(done))
        return obs, rewards, done, np.zeros_like(done), infos

    def _begin_next(self) -> NDArray[np.bool_]:
        """Begins the episodes that the ends of others left to this step; returns which go on instead, (num_envs,)."""
        over = self._over
        if self.autoreset_mode is AutoresetMode.DISABLED and over.any():
            which = np.flatnonzero(over).tolist()
            raise ResetNeeded(f"the episodes of environments {which} are over: reset them with options['reset_mask']")
        goes_on = ~over
        if over.any():
            self._begin(np.flatnonzero(over), {})
        return goes_on

    def _decide(
        self, values: NDArray[np.float64], goes_on: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
        """Adds a volume to the episodes that go on, and prices them.

        Args:
            values: (num_envs, n_values + n_devices - 1) actions.
            goes_on: (num_envs,) bool; the others have just begun.

        Returns:
            (num_envs,) int64 head devices, float64 latencies, and which volumes are last; zeros where one has begun.
        """
        env, every = self.env, self._every[goes_on]
        index = env.decide(values[every], self._place[every])
        rows = cut_points(values[every, values.shape[1] + 1 - env.n_devices :], self._heights[index])
        self._cuts[every, self._count[every]] = index
        self._rows[every, self._count[every]] = rows
        self._count[every] += 1
        ends = index == len(self._heights) - 1
        heads = np.where(ends, np.argmax(np.diff(rows, axis=1), axis=1), 0)
        head, latency_s = np.zeros(self.num_envs, np.int64), np.zeros(self.num_envs)
        last = np.zeros(self.num_envs, np.bool_)
        self._done_s = np.zeros((self.num_envs, env.n_devices))
        if len(every):
            longest = int(self._count.max())
            finish_s, whole_s = env.pricer(
                self._cuts[every, :longest], self._rows[every, :longest], heads, self._cluster[every],
                self._start_s[every],
            )  # fmt: skip
            self._done_s[every] = finish_s
            head[every], last[every] = heads, ends
            latency_s[every] = np.where(ends, whole_s, finish_s.max(axis=1))
        return head, latency_s, last

    def last_episode(self, index: int) -> Episode | None:
        """The last episode that ended in one of the environments; None before there is one."""
        ended = {key: value[index] for key, value in self._ended.items()}
        if np.isnan(ended["latency_s"]):
            return None
        count = int((ended["cuts"] >= 0).sum())
        volumes = zip(ended["cuts"][:count].tolist(), map(tuple, ended["rows"][:count].tolist()), strict=True)
        return Episode(
            self.env.problems[ended["cluster"]],
            tuple(volumes),
            int(ended["head"]),
            float(ended["latency_s"]),
            float(ended["start_s"]),
        )

    @property
    def _place(self) -> NDArray[np.int64]:
        last_cut = np.where(self._count > 0, self._cuts[self._every, np.maximum(self._count - 1, 0)], -1)
        return self.env.place(self._count, last_cut)

    def _observe(self, finish_s: NDArray[np.float64]) -> NDArray[np.float32]:
        times = scale_time(finish_s, self._offload_s[self._cluster, None])
        return np.concatenate([times, self.env.features[self._place], self._about_cluster], axis=1, dtype=np.float32)

    def _info(self, latency_s: NDArray[np.float64], done: NDArray[np.bool_]) -> dict[str, Array]:
        offload_s = self._offload_s[self._cluster]
        divisor = np.where(done, latency_s, np.inf)
        return {
            metric_names.LATENCY_S: latency_s.copy(),
            metric_names.IMAGES_PER_S: 1.0 / divisor,
            metric_names.SPEEDUP: offload_s / divisor,
            metric_names.OFFLOAD_LATENCY_S: offload_s,
            "volume": self._count.copy(),
            "cluster": self._cluster.copy(),
            "start_s": self._start_s.copy(),
            "feasible": ~np.isinf(latency_s),
        }

    def _final(self, obs: NDArray[np.float32], info: dict[str, Array], done: NDArray[np.bool_]) -> dict[str, Any]:
        """What is told of the last step of the episodes that end, in Gymnasium's form."""
        final_obs = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(done):
            final_obs[i] = obs[i].copy()
        return {
            "final_obs": final_obs,
            "_final_obs": done.copy(),
            "final_info": _with_masks(info, done),
            "_final_info": done.copy(),
        }

    def _remember(self, which: NDArray[np.int64], head: NDArray[np.int64], latency_s: NDArray[np.float64]) -> None:
        """Keeps what the episodes that end in some environments decided."""
        now = (self._cuts, self._rows, self._cluster, self._start_s, head, latency_s)
        for kept, value in zip(self._ended.values(), now, strict=True):
            kept[which] = value[which]

    def _begin(self, which: NDArray[np.int64], options: Mapping[str, Any]) -> None:
        """Begins an episode in some environments."""
        count = len(which)
        clusters = len(self.env.problems)
        self._cuts[which] = -1
        self._count[which] = 0
        self._over[which] = False
        if "cluster" in options:
            chosen = self._option("cluster", options["cluster"], count)
            if ((chosen < 0) | (chosen >= clusters) | (chosen != np.floor(chosen))).any():
                raise ConfigError(
                    located(f"{self.env.name}.reset", "options: cluster", options["cluster"], f"0 to {clusters - 1}")
                )
            self._cluster[which] = chosen
        else:
            self._cluster[which] = self.np_random.integers(clusters, size=count) if clusters > 1 else 0
        if "start_s" in options:
            start_s = self._option("start_s", options["start_s"], count)
            if not (np.isfinite(start_s) & (start_s >= 0)).all():
                raise ConfigError(
                    located(f"{self.env.name}.reset", "options: start_s", options["start_s"], "seconds >= 0")
                )
            self._start_s[which] = start_s
        else:
            periods_s = np.array([self._periods_s[c] for c in self._cluster[which]])
            self._start_s[which] = self.np_random.uniform(0.0, periods_s) if periods_s.any() else 0.0
        if self.env.observe_cluster:
            for i in which:
                self._about_cluster[i] = self.env.cluster_view(int(self._cluster[i]), float(self._start_s[i]))

    def _check_mask(self, mask: Any) -> NDArray[np.bool_]:
        """Which environments begin, (num_envs,); all without a mask."""
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        found = np.asarray(mask)
        if found.shape != (self.num_envs,) or found.dtype != np.bool_ or not found.any():
            accepted = f"({self.num_envs},) bool, at least one of them true"
            raise ConfigError(located(f"{self.env.name}.reset", f"options: {_MASK}", mask, accepted))
        return found

    def _option(self, key: str, value: ArrayLike, count: int) -> NDArray[np.float64]:
        try:
            found = np.asarray(value)
            if found.dtype.kind in "iuf":
                return np.broadcast_to(found.astype(np.float64), count)
        except ValueError:
            pass
        raise ConfigError(located(f"{self.env.name}.reset", f"options: {key}", value, f"one value, or {count}"))

    def _check_actions(self, actions: ArrayLike) -> NDArray[np.float64]:
        values = np.asarray(actions, np.float64)
        if values.shape != self.action_space.shape or not np.isfinite(values).all():
            raise InvalidAction(
                f"actions: found shape {values.shape}, accepted: {self.action_space.shape}, numbers from -1 to 1"
            )
        return values


def _with_masks(info: Mapping[str, Array], where: NDArray[np.bool_]) -> dict[str, Any]:
    """The form of infos in vector environments: each array with a mask of where it holds."""
    found: dict[str, Any] = {}
    for key, value in info.items():
        found[key] = np.where(where, value, np.zeros((), value.dtype))
        found[f"_{key}"] = where.copy()
    return found
