"""The decision process of one environment: its problems, what is seen of them, and what prices its steps."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.envs._setup import is_number, longest_period_s
from distredge.envs.decisions import Rules
from distredge.envs.observation import compute_times, reach_times, scale_time
from distredge.envs.pricing import EpisodePricer, KernelPricer, KnownPricer, make_pricer
from distredge.envs.signature import PRESENCE
from distredge.errors import ConfigError, Unsupported, located
from distredge.latency import offload_latency_s
from distredge.model.wires import WIRE_NUMBERS

if TYPE_CHECKING:
    from distredge.latency.kernel.arguments import KernelTables, LinkArrays
    from distredge.problem import Problem

_log = logging.getLogger(__name__)

OPTIONS = ("model", "cluster", "start_s")
"""Options of a reset."""


@dataclass(frozen=True)
class Volumes:
    """How the strategies of one model are built.

    Attributes:
        ends: indices into `graph.cuts` where volumes end; None if the first value of an action says where each does.
        features: (n_places, n_features) float64 from -1 to 1, what is seen of the next volume at each place: after
            each number of volumes, or with `ends` None after each cut, the beginning first.
        places: (n_places,) the cut before each, -1 at the beginning.
    """

    ends: tuple[int, ...] | None
    features: NDArray[np.float64]
    places: tuple[int, ...]


@dataclass(frozen=True)
class ModelSteps:
    """What prices the steps of one model.

    Attributes:
        pricer: of any strategy, on all clusters.
        tables, links: for the compiled step; None if that does not know the model.
        hard: (n_clusters,) bool, which clusters the compiled step does not know.
        known: of strategies that environments build; None unless all of their volumes are tabulated.
    """

    pricer: EpisodePricer
    tables: KernelTables | None
    links: LinkArrays | None
    hard: NDArray[np.bool_]
    known: KnownPricer | None = None

    @property
    def quickest(self) -> EpisodePricer:
        """What prices the volumes that there can be, as cheaply as it is known to."""
        return self.pricer if self.known is None else self.known


class Process:
    """What all episodes of an environment have in common.

    Args:
        name: of the environment, for messages.
        problems: every model on every cluster, all clusters of the first model first.
        volumes: of each model.
        reward_scale: "offload" or "paper".
        input_dtype: of what the requester sends.
        observe_cluster, observe_rows, max_devices: as in the environments' texts.

    Attributes:
        n_models, n_clusters: how many models and clusters there are.
        n_devices: that actions and observations have room for.
        uneven: whether there is room that some cluster does not need, or may not; which devices there are is seen then.
        max_volumes: the largest number of steps of an episode.
        rules: for the compiled loops.
        steps: of each model.
        blocks: names and sizes of what an observation consists of, in order.
        input_wire: number of the wire of the input.
    """

    def __init__(
        self,
        name: str,
        problems: Sequence[Problem],
        volumes: Sequence[Volumes],
        *,
        reward_scale: str,
        input_dtype: str,
        observe_cluster: bool,
        observe_rows: bool,
        max_devices: int | None = None,
    ) -> None:
        self.name = name
        self.problems = tuple(problems)
        self.n_models, self.n_clusters = len(volumes), len(problems) // len(volumes)
        self.graphs = tuple(problem.graph for problem in problems[:: self.n_clusters])
        sizes = np.array([len(problem.cluster.devices) for problem in problems], np.int64)
        self.n_devices = int(sizes.max()) if max_devices is None else max_devices
        self.observe_cluster = observe_cluster
        self.uneven = max_devices is not None or bool((sizes != self.n_devices).any())
        self.input_dtype = input_dtype
        self.input_wire = WIRE_NUMBERS[input_dtype]
        self.max_volumes = max(
            len(graph.cuts if item.ends is None else item.ends)
            for graph, item in zip(self.graphs, volumes, strict=True)
        )
        self.rules = self._rules(volumes, sizes, reward_scale, observe_rows)
        self._periods_s = np.array([longest_period_s(problem.cluster) for problem in problems])
        self._compute_s: dict[int, NDArray[np.float64]] = {}
        self._tails = np.array([self._tail(p, 0.0) for p in range(len(problems))], np.float32)
        self.steps = tuple(
            _steps(problems[m * self.n_clusters : (m + 1) * self.n_clusters], input_dtype, item.ends)
            for m, item in enumerate(volumes)
        )
        n = self.n_devices
        blocks = {
            "finish": n,
            "next_volume": self.rules.features.shape[1],
            "cluster": 2 * n if observe_cluster else 0,
            PRESENCE: n if self.uneven else 0,
            "rows": n - 1 if observe_rows else 0,
        }
        self.blocks = {key: size for key, size in blocks.items() if size}
        self.n_observed, self.n_values = sum(blocks.values()), self.rules.n_values + n - 1

    def _rules(
        self, volumes: Sequence[Volumes], sizes: NDArray[np.int64], reward_scale: str, observe_rows: bool
    ) -> Rules:
        chooses = volumes[0].ends is None
        ends = [np.array(item.ends or (), np.int64) for item in volumes]
        heights = [np.array([cut.height for cut in graph.cuts], np.int64) for graph in self.graphs]
        offload_s = np.array([offload_latency_s(problem) for problem in self.problems])
        return Rules(
            n_values=int(chooses),
            ends=np.concatenate(ends),
            ends_at=_starts(ends)[:-1],
            features=np.concatenate([item.features for item in volumes]).astype(np.float32),
            features_at=_starts([item.features for item in volumes])[:-1],
            heights=np.concatenate(heights),
            heights_at=_starts(heights),
            model=np.repeat(np.arange(self.n_models), self.n_clusters),
            cluster=np.tile(np.arange(self.n_clusters), self.n_models),
            n_devices=sizes,
            offload_s=offload_s,
            reward_s=offload_s if reward_scale == "offload" else np.ones_like(offload_s),
            with_rows=observe_rows,
        )

    def choose(
        self, rng: np.random.Generator, count: int, options: Mapping[str, Any], *, single: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Chooses what the next episodes are about.

        Args:
            rng: for what the options do not say.
            count: of episodes.
            options: any of `OPTIONS`, each a number, or one for each episode.
            single: whether only a number is accepted.

        Returns:
            (count,) int64 indices of problems and float64 seconds on the links' traces.

        Raises:
            ConfigError: if an option is not one of the accepted values.
        """
        model = self._index(rng, count, "model", self.n_models, options, single)
        cluster = self._index(rng, count, "cluster", self.n_clusters, options, single)
        problem = model * self.n_clusters + cluster
        if "start_s" in options:
            start_s = self._option("start_s", options["start_s"], count, single)
            if not (np.isfinite(start_s) & (start_s >= 0)).all():
                raise ConfigError(located(f"{self.name}.reset", "options: start_s", options["start_s"], "seconds >= 0"))
            return problem, start_s
        periods_s = self._periods_s[problem]
        return problem, rng.uniform(0.0, periods_s) if periods_s.any() else np.zeros(count)

    def _index(
        self, rng: np.random.Generator, count: int, key: str, number: int, options: Mapping[str, Any], single: bool
    ) -> NDArray[np.int64]:
        if key not in options:
            return np.asarray(rng.integers(number, size=count)) if number > 1 else np.zeros(count, np.int64)
        chosen = self._option(key, options[key], count, single)
        if not ((chosen >= 0) & (chosen < number) & (chosen == np.floor(chosen))).all():
            raise ConfigError(located(f"{self.name}.reset", f"options: {key}", options[key], f"0 to {number - 1}"))
        return chosen.astype(np.int64)

    def _option(self, key: str, value: Any, count: int, single: bool) -> NDArray[np.float64]:
        try:
            found = np.asarray(value)
            if found.dtype.kind in "iuf" and (not single or is_number(value)):
                return np.broadcast_to(found.astype(np.float64), count)
        except ValueError:
            pass
        accepted = "a number" if single else f"one value, or {count}"
        raise ConfigError(located(f"{self.name}.reset", f"options: {key}", value, accepted))

    def tails(self, problem: NDArray[np.int64], start_s: NDArray[np.float64]) -> NDArray[np.float32]:
        """What is seen of the clusters of some problems, (m, n_fixed), at some times on their links' traces, (m,)."""
        found = self._tails[problem]
        if self.observe_cluster:
            for x in np.flatnonzero((self._periods_s[problem] > 0) & (start_s != 0)).tolist():
                found[x] = self._tail(int(problem[x]), float(start_s[x]))
        return found

    def _tail(self, p: int, start_s: float) -> NDArray[np.float64]:
        """How fast each device computes and can be reached, 1 for absent ones, and which ones there are."""
        problem, n = self.problems[p], self.n_devices
        own = len(problem.cluster.devices)
        found = []
        if self.observe_cluster:
            if p not in self._compute_s:
                self._compute_s[p] = compute_times(problem)
            for times_s in (self._compute_s[p], reach_times(problem, start_s)):
                found.append(np.pad(scale_time(times_s, offload_latency_s(problem)), (0, n - own), constant_values=1.0))
        if self.uneven:
            found.append(np.where(np.arange(n) < own, 1.0, -1.0))
        return np.concatenate(found) if found else np.zeros(0)


def _steps(problems: Sequence[Problem], input_dtype: str, ends: tuple[int, ...] | None) -> ModelSteps:
    """What prices the steps of the model of some problems, with every volume tabulated that there can be."""
    pricer = make_pricer(problems, input_dtype)
    if not isinstance(pricer, KernelPricer):
        return ModelSteps(pricer, None, None, np.ones(len(problems), np.bool_))
    kernel = pricer.kernel
    if not _tabulated(pricer, ends):
        return ModelSteps(pricer, None, None, np.ones(len(problems), np.bool_))
    known = KnownPricer(kernel, input_dtype)
    return ModelSteps(pricer, kernel.arguments(), kernel.links, kernel.links.hard, known)


def _tabulated(pricer: KernelPricer, ends: tuple[int, ...] | None) -> bool:
    """Tabulates the volumes of a scheme, or all that there are; returns whether that was possible."""
    tables = pricer.kernel.tables
    if ends is not None:
        try:
            for first, last in itertools.pairwise((-1, *ends)):
                tables.require(first, last)
        except Unsupported as reason:
            _log.info("the simulator prices every step: the kernel does not know %s", reason)
            return False
        return True
    from distredge.latency.tables.all_volumes import fill

    count = len(tables.index)
    fill(tables, list(range(count)))
    if (tables.index[np.triu_indices(count)] < 0).any():
        _log.info("%s: not all volumes can be tabulated beforehand: every step prices all volumes", tables.graph.name)
        return False
    return True


def _starts(parts: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Where each of some arrays begins when they are put one after the other, and where the last one ends."""
    return np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int64)
