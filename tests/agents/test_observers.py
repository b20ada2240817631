"""What is written of every episode."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distredge import metric_names
from distredge.agents.observers import ROWS_PER_S, ProgressBar, ProgressCsv, TensorboardLog, figures
from distredge.agents.osds import make_env
from distredge.agents.settings import TrainingConfig
from distredge.agents.tensorboard_log import _Rates
from distredge.agents.training import EpisodeReport, run_training
from distredge.cli.train_agent import _OfCluster
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
        log.search(0.01)
    with (tmp_path / "progress.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [int(row["episode"]) for row in found] == list(range(1, 9))
    assert [float(row[metric_names.EPISODE_LATENCY_S]) for row in found] == [r.latency_s for r in kept.reports]
    assert found[0]["train/critic_loss"] == ""
    assert float(found[-1]["train/critic_loss"]) == kept.reports[-1].training["train/critic_loss"]
    own = _read(tmp_path)
    assert {"train/actor_loss", "train/critic_loss"} <= set(own.Tags()["scalars"])
    assert "batch_size: 64" in own.Tensors(metric_names.RUN_CONFIG)[0].tensor_proto.string_val[0].decode()
    assert (
        own.Images(metric_names.TIMELINE)[-1].step == own.Images(metric_names.SPLITS)[-1].step == trained.best.episode
    )
    assert own.Scalars(metric_names.HPARAM_LATENCY_MS)[-1].value == pytest.approx(1e3 * trained.best.latency_s)
    last = kept.reports[-1]
    offload_s, mean_s = offload_latency_s(problem), sum(r.latency_s for r in kept.reports) / len(kept.reports)
    for line, latency_s in (
        (metric_names.EPISODES_LINE, last.latency_s),
        (metric_names.MEAN_LINE, mean_s),
        (metric_names.BEST_LINE, trained.best.latency_s),
        (metric_names.OFFLOAD_LINE, offload_s),
        (metric_names.SEARCH_LINE, 0.01),
    ):
        events = _read(tmp_path / line)
        for tag, value in (
            (metric_names.LINE_LATENCY_MS, 1e3 * latency_s),
            (metric_names.LINE_IMAGES_PER_S, 1 / latency_s),
            (metric_names.LINE_GAP, latency_s / 0.01 - 1),
            (metric_names.LINE_SPEEDUP, offload_s / latency_s),
        ):
            point = events.Scalars(tag)[-1]
            assert (point.step, point.value) == (8, pytest.approx(value, rel=1e-5, abs=1e-6)), (line, tag)


def test_pictures_take_little_of_the_time(problem: Problem, config: TrainingConfig, tmp_path: Path) -> None:
    kept = _Keep()
    run_training(make_env(problem, config), config, observers=[kept])
    improved = [r for r in kept.reports if r.improved]
    assert len(improved) >= 2
    # A picture's turn takes a second, so the next is due 50 seconds later; the last is drawn at the end.
    for pause_s, expected in ((0.0, 2), (1000.0, len(improved))):
        now_s = [0.0]

        def clock(now_s: list[float] = now_s) -> float:
            now_s[0] += 0.1
            return now_s[0]

        folder = tmp_path / str(pause_s)
        with TensorboardLog(folder, problem, config, clock) as log:
            for report in improved:
                log.episode(report)
                now_s[0] += pause_s
        assert len(_read(folder).Images(metric_names.TIMELINE)) == expected


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


def test_time_left_is_that_of_the_nearer_limit() -> None:
    now_s = [0.0]
    bar = ProgressBar(100, budget_s=30.0, clock=lambda: now_s[0])
    now_s[0] = 10.0
    assert bar.reached(20) == (pytest.approx(1 / 3), pytest.approx(20.0))
    assert bar.reached(80) == (0.8, pytest.approx(2.5))


def test_a_run_that_goes_on_counts_its_own_episodes(
    problem: Problem, config: TrainingConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    kept = _Keep()
    run_training(make_env(problem, config), config, observers=[kept])
    now_s = [0.0]
    rates = _Rates(lambda: now_s[0])
    told = []
    with ProgressBar(16) as bar:
        for report in kept.reports:
            now_s[0] += 0.25
            later = dataclasses.replace(report, number=report.number + 1000)
            bar.episode(later)
            told.append(rates.since(later).get(metric_names.EPISODES_PER_S))
    assert "8/16 episodes" in capsys.readouterr().err
    assert [rate for rate in told if rate is not None] == [pytest.approx(4.0)]


def test_thins_out_what_nobody_could_read(problem: Problem, config: TrainingConfig, tmp_path: Path) -> None:
    kept = _Keep()
    run_training(make_env(problem, config), config, observers=[kept])
    plain = next(report for report in kept.reports if not report.improved)
    now_s = [0.0]
    with ProgressCsv(tmp_path / "progress.csv", clock=lambda: now_s[0]) as rows:
        for number in range(1, 1001):
            now_s[0] += 0.001
            told = {"improved": number == 500, "evaluation_latency_s": 0.25 if number == 700 else None}
            rows.episode(dataclasses.replace(plain, number=number, **told))  # type: ignore[arg-type]
    with (tmp_path / "progress.csv").open() as file:
        found = {int(row["episode"]): row for row in csv.DictReader(file)}
    assert 2 * ROWS_PER_S - 3 <= len(found) <= 2 * ROWS_PER_S + 3
    assert {1, 500, 700, 1000} <= set(found)
    assert {row["cluster"] for row in found.values()} == {"db-50"}


def test_evaluations_after_episodes_on_other_clusters_are_drawn(
    problem: Problem, small: dict[str, Any], tmp_path: Path
) -> None:
    cluster = problem.cluster
    problems = [problem, Problem(problem.graph, dataclasses.replace(cluster, name="other"))]
    config = TrainingConfig(preset="osds", episodes=24, eval_freq=2, seed=1, hyperparameters=small)
    held_out = make_env([Problem(problem.graph, dataclasses.replace(cluster, name="third"))] * 2, config)
    kept = _Keep()
    with TensorboardLog(tmp_path, problem, config) as log:
        env = make_env(problems, config)
        run_training(env, config, observers=[kept, _OfCluster(log, problem)], held_out=held_out)
    evaluated = [r.number for r in kept.reports if r.evaluation_latency_s is not None]
    assert {r.cluster for r in kept.reports if r.evaluation_latency_s is not None} == {"db-50", "other"}
    greedy = _read(tmp_path / metric_names.GREEDY_LINE).Scalars(metric_names.LINE_SPEEDUP)
    assert [event.step for event in greedy] == evaluated
    drawn = _read(tmp_path).Scalars(f"{metric_names.HELD_OUT_SPEEDUP}/third")
    assert [event.step for event in drawn] == evaluated
