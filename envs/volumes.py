"""What environments share in which an agent decides a strategy volume by volume."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils import EzPickle
from numpy.typing import ArrayLike, NDArray

from distredge import metric_names
from distredge.envs import rendering
from distredge.envs._setup import (
    Clusters,
    Model,
    check_choice,
    check_options,
    is_number,
    load_model,
    load_problems,
    longest_period_s,
)
from distredge.envs.observation import compute_times, reach_times, scale_time
from distredge.envs.pricing import make_pricer
from distredge.errors import ConfigError, located
from distredge.latency import offload_latency_s
from distredge.model.wires import INPUT_DTYPES
from distredge.problem import Problem
from distredge.strategy import Strategy

REWARD_SCALES = ("offload", "paper")
OPTIONS = ("cluster", "start_s")

Observation = NDArray[np.float32]
Self = TypeVar("Self", bound="VolumesEnv")


@dataclass(frozen=True)
class Episode:
    """What an episode decided.

    Attributes:
        problem: model and cluster that it was about.
        volumes: (index into `graph.cuts`, cut points (n_devices + 1,)) of each volume.
        head: index of the head device.
        latency_s: end-to-end latency; infinite when a link is down.
        start_s: time on the links' traces at which the image started.
    """

    problem: Problem
    volumes: tuple[tuple[int, tuple[int, ...]], ...]
    head: int
    latency_s: float
    start_s: float

    @property
    def complete(self) -> bool:
        """Whether it reached the end of the body, and so is a strategy."""
        return self.volumes[-1][0] == len(self.problem.graph.cuts) - 1 and math.isfinite(self.latency_s)


def cut_points(action: ArrayLike, height: ArrayLike) -> NDArray[np.int64]:
    """Maps actions to the cut points of volumes: sorted, -1 to 0 and 1 to `height`, rounded half up.

    Args:
        action: (n_envs, n_devices - 1), or (n_devices - 1,) of a single environment, each in [-1, 1].
        height: (n_envs,), or a single number: rows of the volumes' reference tensors.

    Returns:
        (n_envs, n_devices + 1) or (n_devices + 1,) int64 cut points, 0 first and `height` last (DistrEdge, equation of
        the action's mapping).
    """
    shares = np.clip((np.sort(np.asarray(action, np.float64), axis=-1) + 1.0) / 2.0, 0.0, 1.0)
    heights = np.asarray(height, np.int64)[..., None]
    inner = np.floor(shares * heights + 0.5).astype(np.int64)
    return np.concatenate([np.zeros_like(heights), inner, heights], axis=-1)


class VolumesEnv(gym.Env[Observation, NDArray[np.float32]], EzPickle, abc.ABC):
    """Steps through the volumes of a strategy; subclasses say what an action means and what is seen of the next volume.

    An environment is pickled as the arguments that it was made with.

    Args:
        model, cluster, reward_scale, observe_cluster, input_dtype, render_mode: as in the environments' texts.

    Raises:
        ConfigError: if an argument is not one of those that the environments' texts accept.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 1}  # noqa: RUF012 - as in Env

    def __new__(cls: type[Self], *args: Any, **arguments: Any) -> Self:
        made = super().__new__(cls)
        EzPickle.__init__(made, *args, **arguments)
        return made

    def __init__(
        self,
        model: Model = "vgg16",
        cluster: Clusters = "db-50",
        *,
        reward_scale: str = "offload",
        observe_cluster: bool = False,
        input_dtype: str = "float32",
        render_mode: str | None = None,
    ) -> None:
        check_choice(self.name, "reward_scale", reward_scale, REWARD_SCALES)
        check_choice(self.name, "input_dtype", input_dtype, INPUT_DTYPES)
        if render_mode is not None:
            check_choice(self.name, "render_mode", render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.reward_scale = reward_scale
        self.observe_cluster = observe_cluster
        self.input_dtype = input_dtype
        self.graph = load_model(model)
        self.problems = load_problems(self.name, self.graph, cluster, input_dtype)
        self.n_devices = len(self.problems[0].cluster.devices)
        self.pricer = make_pricer(self.problems, input_dtype)
        self.last_episode: Episode | None = None
        self._compute_s: dict[int, NDArray[np.float64]] = {}
        self._cluster = 0
        self._start_s = 0.0
        self._about_cluster = np.zeros(0)
        self._volumes: list[tuple[int, tuple[int, ...]]] = []
        self._running = False
        n_values, self.features, self.max_volumes = self._described()
        size = self.n_devices * (3 if self.observe_cluster else 1) + self.features.shape[1]
        self.observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (n_values + self.n_devices - 1,), np.float32)

    @property
    def name(self) -> str:
        """The environment's name without namespace and version."""
        return type(self).__name__.removesuffix("Env")

    @abc.abstractmethod
    def _described(self) -> tuple[int, NDArray[np.float64], int]:
        """What the spaces are made of; asked once, when the graph and the problems are known.

        Returns:
            How many numbers of an action stand before the n_devices - 1 cut points; (n_places, n_features), what is
            seen of the next volume at each place, in [-1, 1]; the largest number of steps of an episode.
        """

    @abc.abstractmethod
    def place(self, n_volumes: ArrayLike, last_cut: ArrayLike) -> NDArray[np.int64]:
        """Returns the row of `features` that belongs to what is decided.

        Args:
            n_volumes: (n_envs,), or a single number: volumes decided.
            last_cut: alike, index into `graph.cuts` where the last one ends, -1 before the first.

        Returns:
            Alike, int64, rows of `features`, (n_places, n_features).
        """

    @abc.abstractmethod
    def decide(self, action: NDArray[np.float64], place: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns where the next volume ends.

        Args:
            action: (n_envs, n_values + n_devices - 1), or without the first axis; each from -1 to 1.
            place: (n_envs,), or a single number, as `place` returns it.

        Returns:
            Shaped like `place`, int64, indices into `graph.cuts`.
        """

    @property
    def problem(self) -> Problem:
        """Model and cluster of the current episode."""
        return self.problems[self._cluster]

    def cluster_view(self, cluster: int, start_s: float) -> NDArray[np.float64]:
        """What is seen of a cluster: how fast each device computes and can be reached, (2 * n_devices,)."""
        problem = self.problems[cluster]
        if cluster not in self._compute_s:
            self._compute_s[cluster] = compute_times(problem)
        times_s = np.concatenate([self._compute_s[cluster], reach_times(problem, start_s)])
        return scale_time(times_s, offload_latency_s(problem))

    def twin(self: Self) -> Self:
        """Another environment made with the same arguments."""
        arguments: Any = self
        return type(self)(*arguments._ezpickle_args, **arguments._ezpickle_kwargs)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        given = check_options(f"{self.name}.reset", options, OPTIONS)
        super().reset(seed=seed)
        self._cluster = self._choose_cluster(given.get("cluster"))
        self._start_s = self._choose_start_s(given.get("start_s"))
        if self.observe_cluster:
            self._about_cluster = self.cluster_view(self._cluster, self._start_s)
        self._volumes = []
        self._running = True
        return self._observe(np.zeros(self.n_devices)), self._info(0.0, done=False)

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Adds a volume: action (n_values + n_devices - 1,), observation (n_features,), as the class's text says.

        Raises:
            ResetNeeded: if no episode is under way.
            InvalidAction: if the action is of another shape, or not of finite numbers.
        """
        if not self._running:
            raise ResetNeeded("the episode is over (or none has started): call reset() before step()")
        values = self._check_action(action)
        index = int(self.decide(values, self._place))
        rows = cut_points(values[1 - self.n_devices :], self.graph.cuts[index].height)
        self._volumes.append((index, tuple(rows.tolist())))
        last = index == len(self.graph.cuts) - 1
        head = _largest_share(rows) if last else 0
        finish_s, whole_s = self._price(head)
        latency_s = whole_s if last else float(finish_s.max())
        done = last or math.isinf(latency_s)
        if done:
            self._running = False
            self.last_episode = Episode(self.problem, tuple(self._volumes), head, latency_s, self._start_s)
        reward = self._reward(latency_s) if done else 0.0
        return self._observe(finish_s), reward, done, False, self._info(latency_s, done=done)

    def render(self) -> Any:
        """The timeline of the volumes decided so far, as text or as a picture, by `render_mode`."""
        if self.render_mode is None:
            return None
        volumes = self._volumes
        done = volumes[-1][0] + 1 if volumes else 0
        title = (
            f"{self.graph.name} on {self.problem.cluster.name}, volumes decided: {len(volumes)}, up to cut {done} of "
            f"{len(self.graph.cuts)}"
        )
        episode = self.last_episode
        if not self._running and episode is not None:
            title += f": {1e3 * episode.latency_s:.2f} ms, offload {1e3 * offload_latency_s(self.problem):.2f} ms"
            # Where a link is down nothing can be simulated.
            volumes = [] if math.isinf(episode.latency_s) else volumes
        head = _largest_share(volumes[-1][1]) if volumes else 0
        timeline = rendering.decided_timeline(self.problem, volumes, head, self._start_s, self.input_dtype)
        return getattr(rendering, self.render_mode)(timeline, title)

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
        head = devices[episode.head]
        return Strategy.make(self.graph, devices, episode.volumes, head=head, input_dtype=self.input_dtype, **origin)

    @property
    def _place(self) -> NDArray[np.int64]:
        return self.place(len(self._volumes), self._volumes[-1][0] if self._volumes else -1)

    def _price(self, head: int) -> tuple[NDArray[np.float64], float]:
        """When each device has done the volumes decided, (n_devices,), and the latency of the whole strategy."""
        cuts = np.array([[index for index, _ in self._volumes]], np.int64)
        rows = np.array([[points for _, points in self._volumes]], np.int64)
        finish_s, latency_s = self.pricer(
            cuts, rows, np.array([head]), np.array([self._cluster]), np.array([self._start_s])
        )
        return finish_s[0], float(latency_s[0])

    def _reward(self, latency_s: float) -> float:
        unit_s = offload_latency_s(self.problem) if self.reward_scale == "offload" else 1.0
        return unit_s / latency_s

    def _observe(self, finish_s: NDArray[np.float64]) -> Observation:
        times = scale_time(finish_s, offload_latency_s(self.problem))
        return np.concatenate([times, self.features[self._place], self._about_cluster], dtype=np.float32)

    def _info(self, latency_s: float, *, done: bool) -> dict[str, Any]:
        offload_s = offload_latency_s(self.problem)
        return {
            metric_names.LATENCY_S: latency_s,
            metric_names.IMAGES_PER_S: 1.0 / latency_s if done else 0.0,
            metric_names.SPEEDUP: offload_s / latency_s if done else 0.0,
            metric_names.OFFLOAD_LATENCY_S: offload_s,
            "volume": len(self._volumes),
            "cluster": self._cluster,
            "start_s": self._start_s,
            "feasible": not math.isinf(latency_s),
        }

    def _check_action(self, action: ArrayLike) -> NDArray[np.float64]:
        values = np.asarray(action, np.float64)
        shape = self.action_space.shape
        if values.shape != shape or not np.isfinite(values).all():
            assert shape is not None
            raise InvalidAction(f"action: found {action!r}, accepted: {shape[0]} numbers from -1 to 1")
        return values

    def _choose_cluster(self, wanted: int | None) -> int:
        count = len(self.problems)
        if wanted is None:
            return int(self.np_random.integers(count)) if count > 1 else 0
        if not is_number(wanted) or not 0 <= wanted < count or wanted != int(wanted):
            raise ConfigError(located(f"{self.name}.reset", "options: cluster", wanted, f"0 to {count - 1}"))
        return int(wanted)

    def _choose_start_s(self, wanted: float | None) -> float:
        if wanted is None:
            period_s = longest_period_s(self.problem.cluster)
            return float(self.np_random.uniform(0.0, period_s)) if period_s else 0.0
        if not is_number(wanted) or wanted < 0:
            raise ConfigError(located(f"{self.name}.reset", "options: start_s", wanted, "a number of seconds >= 0"))
        return float(wanted)


def _largest_share(rows: ArrayLike) -> int:
    """Who has most rows, the first among equals."""
    return int(np.argmax(np.diff(rows)))
