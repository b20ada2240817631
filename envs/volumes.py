"""What environments share in which an agent decides a strategy volume by volume."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils import EzPickle
from numpy.typing import ArrayLike, NDArray

from distredge import metric_names
from distredge.envs import decisions
from distredge.envs._setup import (
    Clusters,
    Models,
    check_choice,
    check_options,
    load_models,
    load_problems,
)
from distredge.envs.decisions import cut_points
from distredge.envs.episodes import Episode, EpisodeBatch
from distredge.envs.observation import model_features
from distredge.envs.process import OPTIONS, Process, Volumes
from distredge.envs.signature import Signature
from distredge.errors import ConfigError, located
from distredge.model.wires import PLANNABLE_INPUTS
from distredge.strategy import Strategy

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.problem import Problem

__all__ = ["OPTIONS", "REWARD_SCALES", "Episode", "VolumesEnv", "cut_points"]

REWARD_SCALES = ("offload", "paper")

INFO_FLOATS = (
    (metric_names.LATENCY_S, decisions.LATENCY_S),
    (metric_names.IMAGES_PER_S, decisions.IMAGES_PER_S),
    (metric_names.SPEEDUP, decisions.SPEEDUP),
    (metric_names.OFFLOAD_LATENCY_S, decisions.OFFLOAD_S),
    ("start_s", decisions.START_S),
)
INFO_INTS = (("volume", decisions.DECIDED), ("cluster", decisions.CLUSTER), ("model", decisions.MODEL))
INFO_FLAGS = (("feasible", decisions.FEASIBLE),)
"""Keys of infos, and the rows of `decisions.Told` that they are."""

Observation = NDArray[np.float32]
Self = TypeVar("Self", bound="VolumesEnv")


class VolumesEnv(gym.Env[Observation, NDArray[np.float32]], EzPickle, abc.ABC):
    """Steps through the volumes of a strategy; subclasses say what an action means and what is seen of the next volume.

    An environment is pickled as the arguments that it was made with.

    Args:
        model, cluster, reward_scale, observe_cluster, observe_rows, observe_model, max_devices, input_dtype,
            render_mode: as in the environments' texts.

    Raises:
        ConfigError: if an argument is not one of those that the environments' texts accept.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 1}  # noqa: RUF012 - as in Env

    env_id: ClassVar[str]
    """Name under which Gymnasium knows it, with its version."""

    def __new__(cls: type[Self], *args: Any, **arguments: Any) -> Self:
        made = super().__new__(cls)
        EzPickle.__init__(made, *args, **arguments)
        return made

    def __init__(
        self,
        model: Models = "vgg16",
        cluster: Clusters = "db-50",
        *,
        reward_scale: str = "offload",
        observe_cluster: bool = False,
        observe_rows: bool = False,
        observe_model: bool | None = None,
        max_devices: int | None = None,
        input_dtype: str = "float32",
        render_mode: str | None = None,
    ) -> None:
        check_choice(self.name, "reward_scale", reward_scale, REWARD_SCALES)
        check_choice(self.name, "input_dtype", input_dtype, PLANNABLE_INPUTS)
        if render_mode is not None:
            check_choice(self.name, "render_mode", render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.reward_scale = reward_scale
        self.observe_cluster = observe_cluster
        self.observe_rows = observe_rows
        self.input_dtype = input_dtype
        self.graphs = load_models(self.name, model)
        self.observe_model = len(self.graphs) > 1 if observe_model is None else observe_model
        problems = load_problems(self.name, self.graphs, cluster, input_dtype)
        most = max(len(problem.cluster.devices) for problem in problems)
        if max_devices is not None and max_devices < most:
            raise ConfigError(located(self.name, "max_devices", max_devices, f"at least {most}, the largest cluster's"))
        volumes = self._described(self.graphs, most)
        if self.observe_model:
            volumes = [
                Volumes(item.ends, np.hstack([item.features, model_features(graph, item.places)]), item.places)
                for graph, item in zip(self.graphs, volumes, strict=True)
            ]
        self.process = Process(
            self.name, problems, volumes, reward_scale=reward_scale, input_dtype=input_dtype,
            observe_cluster=observe_cluster, observe_rows=observe_rows, max_devices=max_devices,
        )  # fmt: skip
        self._batch: EpisodeBatch | None = None
        self._running = False
        self.observation_space = spaces.Box(-1.0, 1.0, (self.process.n_observed,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.process.n_values,), np.float32)
        self._shape = (self.process.n_values,)

    @property
    def name(self) -> str:
        """The environment's name without namespace and version."""
        return type(self).__name__.removesuffix("Env")

    @abc.abstractmethod
    def _described(self, graphs: Sequence[Graph], n_devices: int) -> list[Volumes]:
        """How strategies of each model are built on so many devices; asked once."""

    @property
    def graph(self) -> Graph:
        """Model of the current episode."""
        return self.problem.graph

    @property
    def problem(self) -> Problem:
        """Model and cluster of the current episode."""
        return self.problems[0] if self._batch is None else self._batch.problem(0)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every model on every cluster, all clusters of the first model first."""
        return self.process.problems

    @property
    def n_devices(self) -> int:
        """Devices that actions and observations have room for: those of the largest cluster, or `max_devices`."""
        return self.process.n_devices

    @property
    def max_volumes(self) -> int:
        """The largest number of steps of an episode."""
        return self.process.max_volumes

    @property
    def last_episode(self) -> Episode | None:
        """The last episode that ended; None before there is one."""
        return None if self._batch is None else self._batch.last_ended(0)

    @property
    def signature(self) -> Signature:
        """What an agent relies on: the environment's version, and what actions and observations consist of."""
        process = self.process
        return Signature(self.env_id, process.n_devices, process.n_values, process.blocks)

    def twin(self: Self) -> Self:
        """Another environment made with the same arguments."""
        arguments: Any = self
        return type(self)(*arguments._ezpickle_args, **arguments._ezpickle_kwargs)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        given = check_options(f"{self.name}.reset", options, OPTIONS)
        super().reset(seed=seed)
        problem, start_s = self.process.choose(self.np_random, 1, given, single=True)
        if self._batch is None:
            self._batch = EpisodeBatch(self.process, 1)
            self._told = self._batch.room()[1]
        obs = self._new_observation()
        self._batch.begin(_FIRST, problem, start_s, obs, self._told)
        self._running = True
        return obs[0], self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Adds a volume: action (n_values + n_devices - 1,), observation (n_features,), as the class's text says.

        Raises:
            ResetNeeded: if no episode is under way.
            InvalidAction: if the action is of another shape, or not of finite numbers.
        """
        if not self._running or self._batch is None:
            raise ResetNeeded("the episode is over (or none has started): call reset() before step()")
        obs, told = self._new_observation(), self._told
        self._batch.step(self._check_action(action), obs, told)
        done = bool(told.flags[decisions.DONE, 0])
        self._running = not done
        return obs[0], float(told.rewards[0]), done, False, self._info()

    def render(self) -> Any:
        """The timeline of the volumes decided so far, as text or as a picture, by `render_mode`."""
        if self.render_mode is None:
            return None
        batch = EpisodeBatch(self.process, 1) if self._batch is None else self._batch
        return batch.render(0, self.render_mode, not self._running and self.last_episode is not None)

    def strategy(self, episode: Episode | None = None, **origin: Any) -> Strategy:
        """The strategy of an episode.

        Args:
            episode: a complete one; None takes the last one that ended.
            **origin: `method`, `seed`, `settings` and `predicted` of `Strategy.make`.

        Raises:
            ResetNeeded: if no episode has reached its last volume.
        """
        episode = self.last_episode if episode is None else episode
        if episode is None or not episode.complete:
            raise ResetNeeded("there is no strategy yet: run an episode to its last volume")
        devices = episode.problem.cluster.names
        graph, head = episode.problem.graph, devices[episode.head]
        return Strategy.make(graph, devices, episode.volumes, head=head, input_dtype=self.input_dtype, **origin)

    def _new_observation(self) -> Observation:
        return np.empty((1, self.process.n_observed), np.float32)

    def _info(self) -> dict[str, Any]:
        floats, ints, flags = self._told.floats[:, 0].tolist(), self._told.ints[:, 0].tolist(), self._told.flags[:, 0]
        info: dict[str, Any] = {key: floats[row] for key, row in INFO_FLOATS}
        info |= {key: ints[row] for key, row in INFO_INTS}
        return info | {key: bool(flags[row]) for key, row in INFO_FLAGS}

    def _check_action(self, action: ArrayLike) -> NDArray[np.float64]:
        values = np.array(action, np.float64, ndmin=1)
        if values.shape != self._shape or not np.isfinite(values).all():
            raise InvalidAction(f"action: found {action!r}, accepted: {self._shape[0]} numbers from -1 to 1")
        return values[None]


_FIRST = np.zeros(1, np.int64)
