"""Episodes of one environment or of many: where each of them stands, and the step that takes all of them on."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.envs import decisions, rendering
from distredge.envs.decisions import N_FLAGS, N_FLOATS, N_INTS, Ended, Episodes, Told
from distredge.latency import offload_latency_s

if TYPE_CHECKING:
    from distredge.envs.process import Process
    from distredge.latency.kernel.stepping import Prefixes
    from distredge.problem import Problem

_log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Observations = NDArray[np.float32]


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


class EpisodeBatch:
    """The episodes of n copies of an environment.

    Args:
        process: of the environment.
        count: n.
    """

    def __init__(self, process: Process, count: int) -> None:
        self.process = process
        n, length = process.n_devices, process.max_volumes
        self._state = Episodes(
            problem=np.zeros(count, np.int64),
            n_decided=np.zeros(count, np.int64),
            next_cut=np.zeros(count, np.int64),
            head=np.zeros(count, np.int64),
            cuts=np.full((count, length), -1, np.int64),
            rows=np.zeros((count, length * (n + 1)), np.int32),
            finish_s=np.zeros((count, n)),
            latency_s=np.full(count, np.nan),
            start_s=np.zeros(count),
            tail=process.tails(np.zeros(count, np.int64), np.zeros(count)),
            shares=np.zeros(n),
        )
        state = self._state
        self._ended = Ended(
            state.problem.copy(), state.n_decided.copy(), state.head.copy(), state.cuts.copy(), state.rows.copy(),
            state.latency_s.copy(), state.start_s.copy(),
        )  # fmt: skip
        self._prefixes = self._make_prefixes(count)
        # Where one compiled function does for all, nothing has to be looked up at every step.
        first = process.steps[0]
        self._one = process.n_models == 1 and not first.hard.any()
        self._one_general = process.n_models == 1 and bool(first.hard.all()) and not process.uneven
        self._compiled: Any = None
        self._numbers = np.arange(count)

    def _make_prefixes(self, count: int) -> Prefixes | None:
        """Room for the compiled step, which all models share; None if it knows none of them."""
        known = [(s.tables, s.links) for s in self.process.steps if s.tables and s.links and not s.hard.all()]
        if not known:
            return None
        from distredge.latency.kernel.stepping import make_prefixes

        most = max(tables.max_phases for tables, _ in known)
        sizes = self.process.rules.n_devices[: self.process.n_clusters]
        return make_prefixes(count, self.process.max_volumes, most, known[0][1], sizes, self.process.input_wire)

    def room(self) -> tuple[Observations, Told]:
        """New arrays for what is told of a step: (n, n_observed) float32 observations, and all else."""
        count = len(self._numbers)
        told = Told(
            np.zeros(count), np.empty((N_FLOATS, count)), np.empty((N_INTS, count), np.int64),
            np.zeros((N_FLAGS, count), np.bool_),
        )  # fmt: skip
        return np.empty((count, self.process.n_observed), np.float32), told

    def begin(self, which: Ints, problem: Ints, start_s: Floats, obs: Observations, told: Told) -> None:
        """Begins episodes in the copies `which`, (m,); problems and times, (m,), as from `Process.choose`."""
        tail = self.process.tails(problem, start_s)
        decisions.begin(self.process.rules, self._state, which, problem, start_s, tail, obs, told)

    def step(self, actions: Floats, obs: Observations, told: Told, which: Ints | None = None) -> None:
        """Adds a volume to the episodes of the copies `which`, (m,) int64, or of all.

        Args:
            actions: (n, n_values) float64, finite.
            obs: from `room`; filled in for these copies.
            told: alike.
            which: None for all.
        """
        if which is None:
            which = self._numbers
        if self._one:
            self._step_compiled(0, which, actions, obs, told)
            return
        rules = self.process.rules
        if self._one_general and len(which):
            decisions.decide(rules, self._state, which, actions)
            self._price(0, which, self.process.n_devices)
            decisions.report(rules, self._state, self._ended, which, obs, told)
            return
        problem = self._state.problem[which]
        for model, steps in enumerate(self.process.steps):
            own = rules.model[problem] == model
            hard = own & steps.hard[rules.cluster[problem]]
            easy = own & ~hard
            if easy.any():
                self._step_compiled(model, which[easy], actions, obs, told)
            if hard.any():
                chosen = which[hard]
                decisions.decide(rules, self._state, chosen, actions)
                for size in np.unique(rules.n_devices[problem[hard]]).tolist():
                    self._price(model, chosen[rules.n_devices[problem[hard]] == size], size)
                decisions.report(rules, self._state, self._ended, chosen, obs, told)

    def _step_compiled(self, model: int, which: Ints, actions: Floats, obs: Observations, told: Told) -> None:
        steps = self.process.steps[model]
        arguments = (
            steps.tables, steps.links, self._prefixes, self.process.rules, self._state, self._ended, which,
            actions, obs, told,
        )  # fmt: skip
        if self._compiled is None:
            self._compiled = _compiled_step(arguments)
        self._compiled(*arguments)

    def _price(self, model: int, which: Ints, size: int) -> None:
        """Prices all volumes of some copies, (m,), whose clusters have `size` devices."""
        state, rules = self._state, self.process.rules
        longest = int(state.n_decided[which].max())
        rows = state.rows[which, : longest * (size + 1)].reshape(len(which), longest, size + 1)
        finish_s, latency_s = self.process.steps[model].quickest(
            state.cuts[which, :longest], rows, state.head[which],
            rules.cluster[state.problem[which]], state.start_s[which],
        )  # fmt: skip
        state.finish_s[which, :size] = finish_s
        state.latency_s[which] = latency_s

    def tell(self, which: Ints, obs: Observations, told: Told) -> None:
        """Fills in again what was told last of some copies, (m,), whose episodes have begun; rewards are 0."""
        decisions.tell(self.process.rules, self._state, which, obs, told)

    def problem(self, k: int) -> Problem:
        """Model and cluster of the episode of copy k."""
        problem: Problem = self.process.problems[self._state.problem[k]]
        return problem

    def last_ended(self, k: int) -> Episode | None:
        """The last episode that ended in copy k; None before there is one."""
        ended = self._ended
        latency_s = float(ended.latency_s[k])
        if math.isnan(latency_s):
            return None
        return Episode(
            self.process.problems[ended.problem[k]], self._volumes(ended, k), int(ended.head[k]), latency_s,
            float(ended.start_s[k]),
        )  # fmt: skip

    def render(self, k: int, mode: str, over: bool) -> Any:
        """The timeline of what copy k has decided, as text or as a picture; `over` says whether its episode is."""
        state, problem = self._state, self.problem(k)
        volumes: Any = self._volumes(state, k)
        done = volumes[-1][0] + 1 if volumes else 0
        title = (
            f"{problem.graph.name} on {problem.cluster.name}, volumes decided: {len(volumes)}, up to cut {done} of "
            f"{len(problem.graph.cuts)}"
        )
        if over:
            latency_s = float(self._ended.latency_s[k])
            title += f": {1e3 * latency_s:.2f} ms, offload {1e3 * offload_latency_s(problem):.2f} ms"
            # Where a link is down nothing can be simulated.
            volumes = () if math.isinf(latency_s) else volumes
        head = int(np.argmax(np.diff(volumes[-1][1]))) if volumes else 0
        start_s = float(state.start_s[k])
        timeline = rendering.decided_timeline(problem, volumes, head, start_s, self.process.input_dtype)
        return getattr(rendering, mode)(timeline, title)

    def _volumes(self, state: Episodes | Ended, k: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
        count, wide = int(state.n_decided[k]), int(self.process.rules.n_devices[state.problem[k]]) + 1
        rows = state.rows[k, : count * wide].reshape(count, wide).tolist()
        return tuple(zip(state.cuts[k, :count].tolist(), map(tuple, rows), strict=True))


def _compiled_step(arguments: tuple[Any, ...]) -> Any:
    """The compiled step, which cannot be imported where numba is missing; says once when it has to be compiled."""
    from distredge.envs.compiled_steps import step
    from distredge.latency.compiling import can_be_kept, is_cached, signature_of

    if not _looked and can_be_kept(step) and not is_cached(step, signature_of(*arguments)):
        _log.warning("compiling the environments' step, once: some 10 seconds")
    _looked.add(True)
    return step


_looked: set[bool] = set()
