"""What is written of every episode."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distredge import metric_names
from distredge.agents.observers import ProgressBar, ProgressCsv, TensorboardLog, figures
from distredge.agents.osds import make_env
from distredge.agents.settings import TrainingConfig
from distredge.agents.training import EpisodeReport, run_training
from distredge.latency import offload_latency_s
from distredge.problem import Problem


class _Keep:
    def __init__(self) -> None:
        self.reports: list[EpisodeReport] = []
        self.figures: list[dict[str, float]] = []

    def episode(self, report: EpisodeReport) -> None:
        self.reports.append(report)
        self.figures.append(figures(report))


def _read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0}).Reload()


def test_csv_and_tensorboard_hold_every_episode(problem: Problem, config: TrainingConfig, tmp_path: Path) -> None:
    kept = _Keep()
    with ProgressCsv(tmp_path / "progress.csv") as rows, TensorboardLog(tmp_path, problem, config) as log:
        trained = run_training(make_env(problem, config), config, observers=[kept, rows, log])
    with (tmp_path / "progress.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [int(row["episode"]) for row in found] == list(range(1, 9))
    assert [float(row[metric_names.EPISODE_LATENCY_S]) for row in found] == [r.latency_s for r in kept.reports]
    assert found[0]["train/critic_loss"] == ""
    assert float(found[-1]["train/critic_loss"]) == kept.reports[-1].training["train/critic_loss"]
    events = _read(tmp_path)
    for name in (
        metric_names.EPISODE_REWARD,
        metric_names.EPISODE_LATENCY_S,
        metric_names.EPISODE_IMAGES_PER_S,
        metric_names.BEST_IMAGES_PER_S,
        metric_names.OFFLOAD_IMAGES_PER_S,
        metric_names.EXPLORATION,
    ):
        written = events.Scalars(name)
        assert [e.step for e in written] == list(range(1, 9))
        assert [e.value for e in written] == pytest.approx([f[name] for f in kept.figures], rel=1e-6)
    assert {"train/actor_loss", "train/critic_loss"} <= set(events.Tags()["scalars"])
    assert events.Scalars(metric_names.OFFLOAD_IMAGES_PER_S)[0].value == pytest.approx(1 / offload_latency_s(problem))
    assert "batch_size: 64" in events.Tensors(metric_names.RUN_CONFIG)[0].tensor_proto.string_val[0].decode()
    assert events.Images(metric_names.BEST_TIMELINE)[-1].step == trained.best.episode


def test_pictures_take_little_of_the_time(problem: Problem, config: TrainingConfig, tmp_path: Path) -> None:
    kept = _Keep()
    run_training(make_env(problem, config), config, observers=[kept])
    improved = [r for r in kept.reports if r.improved]
    assert len(improved) >= 2
    # Every look at the clock takes a second: a picture takes one, so the next may come 20 later.
    for step_s, expected in ((1.0, 2), (30.0, len(improved))):
        now = [0.0]

        def clock(step_s: float = step_s, now: list[float] = now) -> float:
            now[0] += step_s / 3 if step_s > 1 else 0.01
            return now[0]

        folder = tmp_path / str(step_s)
        with TensorboardLog(folder, problem, config, clock) as log:
            for report in improved:
                log.episode(report)
                if step_s > 1:
                    now[0] += 1000.0
        assert len(_read(folder).Images(metric_names.BEST_TIMELINE)) == expected


def test_progress_bar_names_best_and_time_left(
    problem: Problem, config: TrainingConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    with ProgressBar(config.episodes) as bar:
        trained = run_training(make_env(problem, config), config, observers=[bar])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "8/8" in shown.err
    assert f"best {1e3 * trained.best.latency_s:.2f} ms" in shown.err
    assert "x offload" in shown.err
    assert "left" in shown.err
