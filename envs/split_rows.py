"""OSDS's decision process: one volume after the other, the agent deals its rows out over the devices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils import EzPickle
from numpy.typing import ArrayLike, NDArray

from distredge.envs import rendering
from distredge.envs._setup import (
    Clusters,
    Model,
    check_choice,
    check_partition,
    load_model,
    load_problems,
    longest_period_s,
)
from distredge.envs.observation import LAYER_FEATURES, cluster_features, layer_features, scale_time
from distredge.errors import ConfigError, Infeasible, located
from distredge.latency import StepSimulator
from distredge.monitor import names
from distredge.planners import lc_pss
from distredge.problem import Problem
from distredge.strategy import INPUT_DTYPES, Strategy

REWARD_SCALES = ("offload", "paper")
OPTIONS = ("cluster", "start_s")
_WHERE = "SplitRows"

Observation = NDArray[np.float32]


@dataclass(frozen=True)
class Episode:
    """What an episode decided.

    Attributes:
        problem: model and cluster that it was about.
        rows: cut points of each volume, (n_devices + 1,) each.
        head: index of the head device.
        latency_s: end-to-end latency; infinite when a link is down.
        start_s: time on the links' traces at which the image started.
    """

    problem: Problem
    rows: tuple[tuple[int, ...], ...]
    head: int
    latency_s: float
    start_s: float


def cut_points(action: ArrayLike, height: int) -> tuple[int, ...]:
    """Maps an action to the cut points of a volume: sorted, -1 to 0 and 1 to `height`, rounded half up.

    Args:
        action: (n_devices - 1,), each in [-1, 1].
        height: rows of the volume's reference tensor.

    Returns:
        (n_devices + 1,) cut points, 0 first and `height` last (DistrEdge, equation of the action's mapping).
    """
    shares = (np.sort(np.asarray(action, np.float64)) + 1.0) / 2.0
    inner = np.floor(np.clip(shares, 0.0, 1.0) * height + 0.5).astype(np.int64)
    return (0, *inner.tolist(), height)


class SplitRowsEnv(gym.Env[Observation, NDArray[np.float32]], EzPickle):
    """Deal the rows of each layer-volume out over the devices of a cluster.

    ## Description

    A CNN is cut into layer-volumes; in step l the agent decides which rows of volume l's output each device computes.
    After the last volume the devices gather their rows on the head device, which runs what cannot be split by rows and
    returns the result. This is the decision process of OSDS (Hou et al., "DistrEdge", IPDPS 2022, Algorithm 2); what
    an episode costs is said by `distredge.latency`. The head device is the one with most rows of the last volume, the
    first of them on a tie, as in the paper. Devices keep the order of the cluster file.

    ## Action Space

    `Box(-1, 1, (n_devices - 1,), float32)`. The values are sorted; value a becomes the cut point
    `round(height * (a + 1) / 2)` of the rows of the volume's output. Device i computes the rows between cut points i
    and i + 1, counted with 0 before and `height` after them; two equal cut points leave a device without work.

    ## Observation Space

    `Box(-1, 1, (n_devices + 4,), float32)`, `(3 * n_devices + 4,)` with `observe_cluster`. D = n_devices.

    | Index  | Meaning                                      | Min | Max      | Unit          | Scaled as          |
    |--------|----------------------------------------------|-----|----------|---------------|--------------------|
    | 0      | D values: when each device has done its part | 0   | infinity | offload times | 2 x / (1 + x) - 1  |
    | D      | height of the next volume's last layer       | 1   | 4096     | rows          | log x / log 64 - 1 |
    | D + 1  | its channels                                 | 1   | 4096     | channels      | log x / log 64 - 1 |
    | D + 2  | its kernel                                   | 0   | 15       | rows          | 2 x / 15 - 1       |
    | D + 3  | its stride                                   | 0   | 8        | rows          | x / 4 - 1          |
    | D + 4  | D values (†): the whole model on each device | 0   | infinity | offload times | 2 x / (1 + x) - 1  |
    | 2D + 4 | D values (†): the input's way to each device | 0   | infinity | offload times | 2 x / (1 + x) - 1  |

    (†) only with `observe_cluster`. An offload time is the latency of the whole model on the best single device of the
    cluster, in seconds. Values above the maximum are cut off. After the last volume the four layer features are -1.

    ## Rewards

    0 before the last volume; then T_offload / T, the speed-up over the best single device (`reward_scale="offload"`),
    or 1 / T in images per second (`reward_scale="paper"`). 0 if a link that is needed is down.

    ## Starting State

    No volume decided, all times 0. With several clusters one is drawn uniformly; with traces on its links, the time on
    them at which the image starts is drawn uniformly from the longest trace's period. `reset(options=...)` takes
    `cluster` (index) and `start_s` (seconds) instead.

    ## Episode End

    Terminated after the last volume, or as soon as a link that is needed is down. Never truncated.

    ## Arguments

    | Argument          | Default     | Meaning                                                                       |
    |-------------------|-------------|-------------------------------------------------------------------------------|
    | `model`           | `"vgg16"`   | zoo name, path of an ONNX file, or a `Graph`                                  |
    | `cluster`         | `"db-50"`   | name, path or `Cluster`, or a sequence of them with equally many devices      |
    | `partition`       | `None`      | indices into `graph.cuts`, the last one ending the body; `None`: LC-PSS       |
    | `alpha`           | `0.75`      | LC-PSS's weight of transmission, 0 to 1                                       |
    | `n_random`        | `100`       | LC-PSS's number of random split decisions                                     |
    | `partition_seed`  | `0`         | LC-PSS's seed                                                                 |
    | `reward_scale`    | `"offload"` | `"offload"` or `"paper"`                                                      |
    | `observe_cluster` | `False`     | whether the observation describes the devices (needed for several clusters)   |
    | `input_dtype`     | `"float32"` | what the requester sends, `"float32"` or `"uint8"`                            |
    | `render_mode`     | `None`      | `"ansi"` or `"rgb_array"`                                                     |

    `info` has the same keys after every step: `latency_s` (of what is decided so far; end to end at the end),
    `images_per_s` and `speedup_over_offload` (0 before the end), `offload_latency_s`, `volume` (volumes decided),
    `cluster` (index), `start_s` (seconds on the traces), `feasible`.

    ## Vectorized environment

    `gymnasium.make_vec("distredge/SplitRows-v0", num_envs=n)` runs copies of this environment.

    ## Version History

    * v0: initial version.

    Raises:
        ConfigError: if an argument is not one of those above.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 1}  # noqa: RUF012

    def __init__(
        self,
        model: Model = "vgg16",
        cluster: Clusters = "db-50",
        *,
        partition: Sequence[int] | None = None,
        alpha: float = lc_pss.ALPHA,
        n_random: int = lc_pss.N_RANDOM,
        partition_seed: int = 0,
        reward_scale: str = "offload",
        observe_cluster: bool = False,
        input_dtype: str = "float32",
        render_mode: str | None = None,
    ) -> None:
        EzPickle.__init__(
            self,
            model,
            cluster,
            partition=partition,
            alpha=alpha,
            n_random=n_random,
            partition_seed=partition_seed,
            reward_scale=reward_scale,
            observe_cluster=observe_cluster,
            input_dtype=input_dtype,
            render_mode=render_mode,
        )
        check_choice(_WHERE, "reward_scale", reward_scale, REWARD_SCALES)
        check_choice(_WHERE, "input_dtype", input_dtype, INPUT_DTYPES)
        if render_mode is not None:
            check_choice(_WHERE, "render_mode", render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.reward_scale = reward_scale
        self.observe_cluster = observe_cluster
        self.input_dtype = input_dtype
        self.graph = load_model(model)
        self.problems = load_problems(_WHERE, self.graph, cluster, input_dtype)
        self.n_devices = len(self.problems[0].cluster.devices)
        self.partition = (
            lc_pss.partition(self.graph, self.n_devices, alpha, n_random, partition_seed)
            if partition is None
            else check_partition(_WHERE, self.graph, partition)
        )
        self._layers = [layer_features(self.graph, self.graph.cuts[index]) for index in self.partition]
        self._simulators = [StepSimulator(problem, input_dtype=input_dtype) for problem in self.problems]
        size = self.n_devices * (3 if observe_cluster else 1) + LAYER_FEATURES
        self.observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.n_devices - 1,), np.float32)
        self.last_episode: Episode | None = None
        self._cluster = 0
        self._start_s = 0.0
        self._about_cluster = np.zeros(0)
        self._rows: list[tuple[int, ...]] = []
        self._running = False

    @property
    def problem(self) -> Problem:
        """Model and cluster of the current episode."""
        return self.problems[self._cluster]

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        given = dict(options or {})
        for key in given:
            check_choice(f"{_WHERE}.reset", "options", key, OPTIONS)
        self._cluster = self._choose_cluster(given.get("cluster"))
        self._start_s = self._choose_start_s(given.get("start_s"))
        self._simulators[self._cluster].reset(self._start_s)
        if self.observe_cluster:
            self._about_cluster = cluster_features(self.problem, self._start_s)
        self._rows = []
        self._running = True
        finish_s = np.zeros(self.n_devices)
        return self._observe(finish_s), self._info(0.0, done=False)

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        if not self._running:
            raise ResetNeeded("the episode is over (or none has started): call reset() before step()")
        index = self.partition[len(self._rows)]
        rows = cut_points(self._check_action(action), self.graph.cuts[index].height)
        self._rows.append(rows)
        last = len(self._rows) == len(self.partition)
        simulator = self._simulators[self._cluster]
        head = int(np.argmax(np.diff(rows))) if last else 0
        try:
            finish_s = simulator.advance(index, rows)
            latency_s = simulator.finish(head) if last else float(finish_s.max())
        except Infeasible:
            finish_s, latency_s = np.full(self.n_devices, math.inf), math.inf
        done = last or math.isinf(latency_s)
        if done:
            self._running = False
            self.last_episode = Episode(self.problem, tuple(self._rows), head, latency_s, self._start_s)
        reward = self._reward(latency_s) if done else 0.0
        return self._observe(finish_s), reward, done, False, self._info(latency_s, done=done)

    def render(self) -> Any:
        """The timeline of the volumes decided so far, as text or as a picture, by `render_mode`."""
        if self.render_mode is None:
            return None
        rows = self._rows
        title = (
            f"{self.graph.name} on {self.problem.cluster.name}, {len(rows)} of {len(self.partition)} volumes decided"
        )
        episode = self.last_episode
        if not self._running and episode is not None:
            title += f": {1e3 * episode.latency_s:.2f} ms, offload {1e3 * self.problem.offload_latency_s:.2f} ms"
            # Where a link is down nothing can be simulated.
            rows = [] if math.isinf(episode.latency_s) else rows
        head = int(np.argmax(np.diff(rows[-1]))) if rows else 0
        timeline = rendering.decided_timeline(self.problem, self.partition, rows, head, self._start_s, self.input_dtype)
        return getattr(rendering, self.render_mode)(timeline, title)

    def strategy(self, episode: Episode | None = None, **origin: Any) -> Strategy:
        """The strategy of an episode.

        Args:
            episode: a whole one; None takes the last one that ended.
            **origin: `method`, `seed`, `settings` and `predicted` of `Strategy.make`.

        Raises:
            ResetNeeded: if no episode has reached its last volume.
        """
        episode = self.last_episode if episode is None else episode
        if episode is None or len(episode.rows) != len(self.partition):
            raise ResetNeeded("there is no strategy yet: run an episode to its last volume")
        devices = episode.problem.cluster.names
        volumes = list(zip(self.partition, episode.rows, strict=True))
        return Strategy.make(
            self.graph, devices, volumes, head=devices[episode.head], input_dtype=self.input_dtype, **origin
        )

    def _reward(self, latency_s: float) -> float:
        unit_s = self.problem.offload_latency_s if self.reward_scale == "offload" else 1.0
        return unit_s / latency_s

    def _observe(self, finish_s: NDArray[np.float64]) -> Observation:
        times = scale_time(finish_s, self.problem.offload_latency_s)
        done = len(self._rows)
        layer = self._layers[done] if done < len(self._layers) else np.full(LAYER_FEATURES, -1.0)
        return np.concatenate([times, layer, self._about_cluster], dtype=np.float32)

    def _info(self, latency_s: float, *, done: bool) -> dict[str, Any]:
        offload_s = self.problem.offload_latency_s
        return {
            names.LATENCY_S: latency_s,
            names.IMAGES_PER_S: 1.0 / latency_s if done else 0.0,
            names.SPEEDUP: offload_s / latency_s if done else 0.0,
            names.OFFLOAD_LATENCY_S: offload_s,
            "volume": len(self._rows),
            "cluster": self._cluster,
            "start_s": self._start_s,
            "feasible": not math.isinf(latency_s),
        }

    def _check_action(self, action: ArrayLike) -> NDArray[np.float64]:
        values = np.asarray(action, np.float64)
        if values.shape != self.action_space.shape or not np.isfinite(values).all():
            raise InvalidAction(f"action: found {action!r}, accepted: {self.n_devices - 1} numbers from -1 to 1")
        return values

    def _choose_cluster(self, wanted: int | None) -> int:
        if wanted is None:
            return int(self.np_random.integers(len(self.problems))) if len(self.problems) > 1 else 0
        if not 0 <= wanted < len(self.problems):
            raise ConfigError(located(f"{_WHERE}.reset", "options: cluster", wanted, f"0 to {len(self.problems) - 1}"))
        return wanted

    def _choose_start_s(self, wanted: float | None) -> float:
        if wanted is None:
            period_s = longest_period_s(self.problem.cluster)
            return float(self.np_random.uniform(0.0, period_s)) if period_s else 0.0
        if not (math.isfinite(wanted) and wanted >= 0):
            raise ConfigError(located(f"{_WHERE}.reset", "options: start_s", wanted, "a number of seconds >= 0"))
        return float(wanted)
