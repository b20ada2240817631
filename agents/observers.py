"""Who is told of every episode: a CSV file, TensorBoard, a progress bar."""

from __future__ import annotations

import abc
import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from distredge import metric_names
from distredge.latency import simulate
from distredge.monitor.tensorboard import TRAINING_CHARTS, TensorboardWriter

if TYPE_CHECKING:
    from rich.progress import Progress

    from distredge.agents.settings import TrainingConfig
    from distredge.agents.training import EpisodeReport
    from distredge.problem import Problem

Self = TypeVar("Self", bound="_ClosedAtTheEnd")

_PICTURE_SHARE = 20
"""Drawing the best strategy's timeline takes at most one part in so many of the time."""


def figures(report: EpisodeReport) -> dict[str, float]:
    """The figures of an episode by their names; those that there are not are left out."""
    found = {
        metric_names.EPISODE_REWARD: report.reward,
        metric_names.EPISODE_LATENCY_S: report.latency_s,
        metric_names.EPISODE_IMAGES_PER_S: 1.0 / report.latency_s,
        metric_names.BEST_LATENCY_S: report.best.latency_s,
        metric_names.BEST_IMAGES_PER_S: 1.0 / report.best.latency_s,
        metric_names.OFFLOAD_IMAGES_PER_S: 1.0 / report.offload_latency_s,
        metric_names.EXPLORATION: report.epsilon,
        metric_names.EVALUATION_LATENCY_S: report.evaluation_latency_s,
        **report.training,
    }
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


class _ClosedAtTheEnd(abc.ABC):
    """A context manager of itself."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(done=error is None)

    @abc.abstractmethod
    def _close(self, done: bool) -> None:
        """Ends it.

        Args:
            done: whether no error did.
        """


class ProgressCsv(_ClosedAtTheEnd):
    """Writes `progress.csv`, a row per episode; a context manager.

    Args:
        path: file to write.
    """

    COLUMNS = (
        "episode",
        metric_names.EPISODE_REWARD,
        metric_names.EPISODE_LATENCY_S,
        metric_names.BEST_LATENCY_S,
        metric_names.EVALUATION_LATENCY_S,
        metric_names.EXPLORATION,
        "train/n_updates",
        "train/actor_loss",
        "train/critic_loss",
    )

    def __init__(self, path: str | Path) -> None:
        # Written line by line, so that a run can be followed.
        self._file = Path(path).open("w", buffering=1, encoding="utf-8", newline="")  # noqa: SIM115 - see __exit__
        self._rows = csv.DictWriter(self._file, self.COLUMNS, extrasaction="ignore")
        self._rows.writeheader()

    def _close(self, done: bool) -> None:
        self._file.close()

    def episode(self, report: EpisodeReport) -> None:
        """Adds a row."""
        self._rows.writerow({"episode": report.number, **figures(report)})


class TensorboardLog(_ClosedAtTheEnd):
    """Writes an event file; a context manager. Steps are episodes.

    Args:
        folder: where it goes.
        problem: model and cluster.
        config: shown as text.
        clock: seconds, monotonic; the timeline of the best strategy is drawn only as often as that takes little time.
    """

    def __init__(
        self,
        folder: str | Path,
        problem: Problem,
        config: TrainingConfig,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._problem = problem
        self._clock = clock
        self._writer = TensorboardWriter(folder)
        self._writer.text(metric_names.RUN_CONFIG, f"```yaml\n{config.to_yaml()}```")
        self._writer.charts(TRAINING_CHARTS)
        self._last: EpisodeReport | None = None
        self._to_draw = False
        self._draw_from_s = -math.inf

    def _close(self, done: bool) -> None:
        if self._to_draw and done:
            self._draw()
        self._writer.close()

    def episode(self, report: EpisodeReport) -> None:
        """Adds the figures of an episode, and a picture when the best strategy is a new one."""
        for name, value in figures(report).items():
            self._writer.scalar(name, value, report.number)
        self._last = report
        self._to_draw = self._to_draw or report.improved
        if self._to_draw and self._clock() >= self._draw_from_s:
            self._draw()

    def _draw(self) -> None:
        assert self._last is not None
        best = self._last.best
        assert best.strategy is not None
        start_s = self._clock()
        timeline = simulate(self._problem, best.strategy)
        title = (
            f"{self._problem.graph.name} on {self._problem.cluster.name}, episode {best.episode}: "
            f"{1e3 * best.latency_s:.2f} ms, offload {1e3 * self._last.offload_latency_s:.2f} ms (simulated)"
        )
        self._writer.timeline(metric_names.BEST_TIMELINE, timeline, best.episode, title)
        self._to_draw = False
        end_s = self._clock()
        self._draw_from_s = end_s + _PICTURE_SHARE * (end_s - start_s)


class ProgressBar(_ClosedAtTheEnd):
    """A bar on stderr with the best latency and the time left; a context manager.

    Args:
        episodes: length of the run.
    """

    def __init__(self, episodes: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar: Progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes, {task.fields[best]}, left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("training", total=episodes, best="nothing yet")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def _close(self, done: bool) -> None:
        self._bar.stop()

    def episode(self, report: EpisodeReport) -> None:
        """Moves on by one episode."""
        best_s = report.best.latency_s
        found = "nothing yet"
        if math.isfinite(best_s):
            found = f"best {1e3 * best_s:.2f} ms, {report.offload_latency_s / best_s:.2f} x offload"
        self._bar.update(self._task, advance=1, best=found)
