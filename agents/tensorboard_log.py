"""TensorBoard's log of a training run: lines in sub-runs, losses, rates, actions, pictures, what it was told."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge import metric_names
from distredge.latency import offload_latency_s, simulate
from distredge.monitor import hparams, splits
from distredge.monitor.lines import WINDOW, Lines, RollingMean, gap
from distredge.monitor.pace import Pace

if TYPE_CHECKING:
    from distredge.agents.settings import TrainingConfig
    from distredge.agents.training import EpisodeReport
    from distredge.problem import Problem

_POINTS_PER_S = 5
_POINTS_SHARE = 100
"""Writing points takes at most one part in so many of the time."""

_PICTURE_SHARE = 50
"""Drawing the best strategy's timeline takes at most one part in so many of the time."""

_HISTOGRAM_PER_S = 0.5
_RATE_OVER_S = 1.0
"""Seconds over which episodes, steps and updates are counted."""

_ACTION_EDGES = np.linspace(-1.0, 1.0, 41)
_AT_BOUND = 1.0 - 1e-6

_HPARAM_METRICS = (
    metric_names.HPARAM_LATENCY_MS,
    metric_names.HPARAM_IMAGES_PER_S,
    metric_names.HPARAM_SPEEDUP,
    metric_names.HPARAM_GAP,
    metric_names.HPARAM_FOUND_IN,
    metric_names.HPARAM_EPISODES,
    metric_names.HPARAM_SECONDS,
)


class TensorboardLog:
    """Writes what TensorBoard shows of a run; a context manager. Steps are episodes.

    In sub-runs, so that they are lines of one chart: episodes, their rolling mean, the best so far, the policy without
    exploration, offload, and `search` where it is known. In the run's own file the rest: losses, exploration, rates,
    actions, pictures, what the run was told.

    Args:
        folder: where it goes.
        problem: model and cluster.
        config: shown as text, and on the page "hparams".
        clock: seconds, monotonic; points and pictures are written only as often as that takes little time.
        search_latency_s: what `search` finds, seconds; None while unknown.
    """

    def __init__(
        self,
        folder: str | Path,
        problem: Problem,
        config: TrainingConfig,
        clock: Callable[[], float] = time.perf_counter,
        search_latency_s: float | None = None,
    ) -> None:
        self._problem = problem
        self._clock = clock
        self._lines = Lines(folder, search_s=search_latency_s)
        self._points = Pace(_POINTS_PER_S, _POINTS_SHARE, clock)
        self._pictures = Pace(share=_PICTURE_SHARE, clock=clock)
        self._latency, self._offload, self._reward = RollingMean(), RollingMean(), RollingMean()
        self._rates = _Rates(clock)
        self._actions = _Actions(clock)
        self._last: EpisodeReport | None = None
        self._written = 0
        self._to_draw = False
        self._write_settings(config)

    def _write_settings(self, config: TrainingConfig) -> None:
        own = self._lines.own
        own.text(metric_names.RUN_CONFIG, f"```yaml\n{config.to_yaml()}```")
        own.summary(hparams.experiment(_columns(config), _HPARAM_METRICS))
        own.summary(hparams.session_start(_parameters(config), time.time()))

    def __enter__(self) -> TensorboardLog:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._close(done=error is None)

    def search(self, latency_s: float) -> None:
        """Says what `search` finds, at any time before the end: its line, and how far the others are from it.

        Args:
            latency_s: seconds.
        """
        self._lines.set_search(latency_s)

    def episode(self, report: EpisodeReport) -> None:
        """Takes in an episode; writes a point when one is due, or something is new."""
        self._last = report
        self._latency.add(report.latency_s)
        self._offload.add(report.offload_latency_s)
        self._reward.add(report.reward)
        self._actions.add(getattr(report, "actions", None))
        self._to_draw = self._to_draw or report.improved
        if report.improved or report.evaluation_latency_s is not None or self._points.due():
            with self._points.turn():
                self._write(report)
        if self._to_draw and self._pictures.due():
            with self._pictures.turn():
                self._draw(report)

    def evaluation(self, report: EpisodeReport) -> None:
        """Takes in what the policy did without exploration after an episode on another cluster."""
        self._lines.offload_s = offload_latency_s(self._problem)
        self._write_evaluation(report)

    def _close(self, done: bool) -> None:
        try:
            if self._last is not None and done:
                if self._written != self._last.number:
                    self._write(self._last)
                if self._to_draw:
                    self._draw(self._last)
                self._lines.own.scalars(self._outcome(self._last), self._last.number)
            self._lines.own.summary(hparams.session_end(done, time.time()))
        finally:
            self._lines.close()

    def _write(self, report: EpisodeReport) -> None:
        step, lines = report.number, self._lines
        self._written = step
        lines.offload_s = report.offload_latency_s
        lines.add(metric_names.EPISODES_LINE, report.latency_s, step)
        lines.add(metric_names.BEST_LINE, report.best.latency_s, step)
        self._write_evaluation(report)
        lines.add_references(step)
        lines.offload_s = self._offload.mean
        lines.add(metric_names.MEAN_LINE, self._latency.mean, step)
        own = {
            metric_names.EPISODE_REWARD: report.reward,
            metric_names.MEAN_REWARD: self._reward.mean,
            metric_names.EXPLORATION: report.epsilon,
            **report.training,
            **self._rates.since(report),
            **(self._outcome(report) if report.improved else {}),
        }
        lines.own.scalars({k: v for k, v in own.items() if v is not None and math.isfinite(v)}, step)
        self._actions.write(lines, step)

    def _write_evaluation(self, report: EpisodeReport) -> None:
        self._lines.add(metric_names.GREEDY_LINE, report.evaluation_latency_s, report.number)
        held_out = {f"{metric_names.HELD_OUT_SPEEDUP}/{case}": x for case, x in report.held_out_speedups.items()}
        self._lines.own.scalars(held_out, report.number)

    def _outcome(self, report: EpisodeReport) -> dict[str, float]:
        """The columns of the page "hparams", which shows the latest."""
        best_s = report.best.latency_s
        if not math.isfinite(best_s):
            return {}
        return {
            metric_names.HPARAM_LATENCY_MS: 1e3 * best_s,
            metric_names.HPARAM_IMAGES_PER_S: 1.0 / best_s,
            metric_names.HPARAM_SPEEDUP: report.offload_latency_s / best_s,
            **({} if self._lines.search_s is None else {metric_names.HPARAM_GAP: gap(best_s, self._lines.search_s)}),
            metric_names.HPARAM_FOUND_IN: report.best.episode,
            metric_names.HPARAM_EPISODES: report.number,
            metric_names.HPARAM_SECONDS: report.seconds,
        }

    def _draw(self, report: EpisodeReport) -> None:
        best = report.best
        if best.strategy is None:
            return
        self._to_draw = False
        timeline = simulate(self._problem, best.strategy)
        title = (
            f"{self._problem.graph.name} on {self._problem.cluster.name}, episode {best.episode}: "
            f"{1e3 * best.latency_s:.2f} ms, offload {1e3 * report.offload_latency_s:.2f} ms (simulated)"
        )
        own, has_head = self._lines.own, bool(self._problem.graph.body.head)
        own.timeline(metric_names.TIMELINE, timeline, best.episode, title)
        own.figure(metric_names.SPLITS, splits.figure(best.strategy, title, has_head), best.episode)
        self._lines.busy(timeline, best.strategy.devices, best.episode)


class _Rates:
    """Episodes, environment steps and updates per second, each over at least `_RATE_OVER_S`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._from_s = clock()
        self._from: dict[str, float] | None = None

    def since(self, report: EpisodeReport) -> dict[str, float]:
        """The rates since they were last told; none before that is long enough ago."""
        now_s = self._clock()
        if self._from is not None and now_s - self._from_s < _RATE_OVER_S:
            return {}
        counts = {
            metric_names.EPISODES_PER_S: report.number,
            metric_names.STEPS_PER_S: getattr(report, "steps", None),
            metric_names.UPDATES_PER_S: getattr(report, "updates", None) or report.training.get("train/n_updates"),
        }
        known = {name: float(count) for name, count in counts.items() if count is not None}
        # Counts begin with the first report: a run may go on from another one.
        passed_s, before = now_s - self._from_s, self._from or {}
        self._from_s, self._from = now_s, known
        return {name: (count - before[name]) / passed_s for name, count in known.items() if name in before}


class _Actions:
    """Histograms of what the agent did in the latest episodes, one for each number that an action has."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._pace = Pace(_HISTOGRAM_PER_S, _POINTS_SHARE, clock)
        self._episodes: deque[NDArray[Any]] = deque(maxlen=WINDOW)

    def add(self, actions: NDArray[Any] | None) -> None:
        """Takes in the actions of an episode: (n_steps, n_values), float, each in [-1, 1]."""
        if actions is not None:
            self._episodes.append(actions)

    def write(self, lines: Lines, step: int) -> None:
        """Writes them when that is due, and how many stand at their bounds."""
        if not self._episodes or not self._pace.due():
            return
        with self._pace.turn():
            actions = np.clip(np.concatenate(self._episodes), -1.0, 1.0)
            self._episodes.clear()
            at_bounds = float((np.abs(actions) >= _AT_BOUND).mean())
            lines.own.scalar(metric_names.ACTIONS_AT_BOUNDS, at_bounds, step)
            for index, values in enumerate(actions.T):
                counts, edges = np.histogram(values, _ACTION_EDGES)
                lines.own.histogram(f"{metric_names.ACTIONS}/{index}", counts, edges, step)


def _parameters(config: TrainingConfig) -> dict[str, hparams.Parameter]:
    """Every option and hyper-parameter that has a value, as the page "hparams" shows them."""
    options = {name: value for name, value in vars(config).items() if name != "hyperparameters"}
    merged = {**options, **config.hyperparameters}
    return {name: _shown(value) for name, value in merged.items() if value is not None}


def _columns(config: TrainingConfig) -> dict[str, hparams.Parameter]:
    """The same with what other algorithms have: the columns of the first run are those of all runs beside it."""
    from distredge.agents.settings import ALGORITHMS, merge_hyperparameters

    columns: dict[str, hparams.Parameter] = {}
    for algo in ALGORITHMS:
        defaults = merge_hyperparameters(algo, env_id=config.env)
        columns |= {name: _shown(value) for name, value in defaults.items() if value is not None}
    return columns | _parameters(config)


def _shown(value: Any) -> hparams.Parameter:
    return value if isinstance(value, bool | int | float | str) else str(value)
