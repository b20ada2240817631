"""Who is told of every episode: a CSV file, TensorBoard, a progress bar.

Vector environments end thousands of episodes a second: an observer takes in each of them, and writes or draws only as
often as a person can look.
"""

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
from distredge.agents.tensorboard_log import TensorboardLog
from distredge.monitor.pace import Pace

if TYPE_CHECKING:
    from rich.progress import Progress

    from distredge.agents.training import EpisodeReport

__all__ = ["ROWS_PER_S", "ProgressBar", "ProgressCsv", "TensorboardLog", "figures"]

Self = TypeVar("Self", bound="_ClosedAtTheEnd")

ROWS_PER_S = 50
"""Rows of `progress.csv` per second, at most, on average: some 20 MB an hour."""


def figures(report: EpisodeReport) -> dict[str, float]:
    """The figures of an episode by their names; those that there are not are left out."""
    found = {
        metric_names.EPISODE_REWARD: report.reward,
        metric_names.EPISODE_LATENCY_S: report.latency_s,
        metric_names.BEST_LATENCY_S: report.best.latency_s,
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
    """Writes `progress.csv`, a row per episode, up to `ROWS_PER_S`; a context manager.

    Beyond that it leaves episodes out, but for those that improve, those after which the policy was played without
    exploration, and the last one.

    Args:
        path: file to write.
        clock: seconds, monotonic; rows reach the file once a second, so that a run can be followed.
    """

    COLUMNS = (
        "episode",
        "cluster",
        metric_names.EPISODE_REWARD,
        metric_names.EPISODE_LATENCY_S,
        metric_names.BEST_LATENCY_S,
        metric_names.EVALUATION_LATENCY_S,
        metric_names.EXPLORATION,
        "train/n_updates",
        "train/actor_loss",
        "train/critic_loss",
    )

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self._file = Path(path).open("w", encoding="utf-8", newline="")  # noqa: SIM115 - see __exit__
        self._rows = csv.writer(self._file)
        self._rows.writerow(self.COLUMNS)
        self._flushes = Pace(1.0, clock=clock)
        self._clock = clock
        self._from_s, self._room = clock(), float(ROWS_PER_S)
        self._left_out: EpisodeReport | None = None

    def _close(self, done: bool) -> None:
        try:
            if self._left_out is not None:
                self._write(self._left_out)
        finally:
            self._file.close()

    def episode(self, report: EpisodeReport) -> None:
        """Adds a row, if there is room for one."""
        now_s = self._clock()
        self._room = min(float(ROWS_PER_S), self._room + ROWS_PER_S * (now_s - self._from_s))
        self._from_s = now_s
        wanted = report.improved or report.evaluation_latency_s is not None
        if not wanted and self._room < 1.0:
            self._left_out = report
            return
        self._room = max(0.0, self._room - 1.0)
        self._write(report)

    def _write(self, report: EpisodeReport) -> None:
        found = figures(report)
        self._rows.writerow([report.number, report.cluster, *map(found.get, self.COLUMNS[2:])])
        self._left_out = None
        if self._flushes.due():
            with self._flushes.turn():
                self._file.flush()


class ProgressBar(_ClosedAtTheEnd):
    """A bar on stderr with the best latency and the time left; a context manager.

    Args:
        episodes: length of the run; None for no limit.
        budget_s: seconds after which it ends; None for no limit.
        clock: seconds, monotonic, from which both the bar and the time left come.
    """

    def __init__(
        self,
        episodes: int | None,
        budget_s: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._episodes = episodes
        self._budget_s = budget_s
        self._clock = clock
        self._start_s = clock()
        self._updates = Pace(10.0, clock=clock)
        self._last: EpisodeReport | None = None
        self._count = 0
        self._bar: Progress = Progress(
            TextColumn("training"), BarColumn(), TextColumn("{task.fields[said]}"), console=Console(stderr=True)
        )
        self._task = self._bar.add_task("training", total=1.0, said="nothing yet")

    def __enter__(self) -> ProgressBar:
        self._start_s = self._clock()
        self._bar.start()
        return self

    def _close(self, done: bool) -> None:
        if self._last is not None:
            self._show(self._last)
        self._bar.stop()

    def episode(self, report: EpisodeReport) -> None:
        """Moves on to an episode."""
        self._last = report
        self._count += 1
        if self._updates.due():
            with self._updates.turn():
                self._show(report)

    def _show(self, report: EpisodeReport) -> None:
        # Not the episode's number: a run may go on from another one.
        done, left_s = self.reached(self._count)
        count = f"{self._count}" if self._episodes is None else f"{self._count}/{self._episodes}"
        best_s = report.best.latency_s
        found = "nothing yet"
        if math.isfinite(best_s):
            found = f"best {1e3 * best_s:.2f} ms, {report.offload_latency_s / best_s:.2f} x offload"
        self._bar.update(self._task, completed=done, said=f"{count} episodes, {found}, left {_time(left_s)}")

    def reached(self, number: int) -> tuple[float, float | None]:
        """How far a run is by its nearer limit.

        Args:
            number: of the latest episode, counted from 1 in this run.

        Returns:
            The share that is done, from 0 to 1, and the seconds left; None for these where there is no limit.
        """
        passed_s = self._clock() - self._start_s
        limits = []
        if self._episodes is not None:
            limits.append((number / self._episodes, (self._episodes - number) * passed_s / number))
        if self._budget_s is not None:
            limits.append((min(1.0, passed_s / self._budget_s), max(0.0, self._budget_s - passed_s)))
        return min(limits, key=lambda limit: limit[1]) if limits else (0.0, None)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
