"""What is written while the frames of a strategy run, and what happens when it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distredge import metric_names
from distredge.cluster import load_cluster
from distredge.errors import FileError
from distredge.latency import offload
from distredge.model import zoo
from distredge.monitor.deployment_log import DeploymentLog
from distredge.monitor.lines import busy_shares
from distredge.problem import Problem
from distredge.timeline import Span, Timeline


@pytest.fixture(scope="module")
def problem() -> Problem:
    graph = zoo.build("vgg16", width=0.125)
    return Problem(graph, load_cluster("db-50", [graph]))


def _log(folder: Path, problem: Problem, now_s: list[float]) -> DeploymentLog:
    log = DeploymentLog(folder, problem, offload(problem)[0], lambda: now_s[0])
    log.expect(lambda: 0.02, 0.04)
    return log


def _points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(e.step, pytest.approx(e.value)) for e in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def test_points_are_there_while_frames_run_and_the_last_at_the_end(tmp_path: Path, problem: Problem) -> None:
    now_s = [0.0]
    with _log(tmp_path / "log", problem, now_s) as log:
        assert not (tmp_path / "log").exists()
        for number in range(5):
            log.frame(number, 0.01 * (number + 1))
            if number == 2:
                now_s[0] = 1.0
        # Three within a tenth of a second, the next when a second has passed, and one more after that.
        frames = tmp_path / "log" / metric_names.FRAMES_LINE
        assert _points(frames, metric_names.LINE_LATENCY_MS) == [(0, 10.0), (3, 40.0)]
    assert _points(frames, metric_names.LINE_SPEEDUP) == [(0, 4.0), (3, 1.0), (4, 0.8)]
    mean = tmp_path / "log" / metric_names.MEAN_LINE
    assert _points(mean, metric_names.LINE_LATENCY_MS) == [(0, 10.0), (3, 25.0), (4, 30.0)]
    predicted = tmp_path / "log" / metric_names.PREDICTED_LINE
    assert _points(predicted, metric_names.LINE_IMAGES_PER_S) == [(0, 50.0), (3, 50.0), (4, 50.0)]


def test_the_last_timeline_stands_at_the_last_frame_of_those_in_flight(tmp_path: Path, problem: Problem) -> None:
    (device, *_) = problem.cluster.names
    with _log(tmp_path / "log", problem, [0.0]) as log:
        for number in range(3):
            log.in_flight(number, 0.01, 100.0)
        log.pictures(Timeline(1.0, (Span(device, "compute", "x", 0.0, 1.0),), (device, "requester")))
    steps = {step for step, _ in _points(tmp_path / "log", f"{metric_names.DEVICE_BUSY}/{device}")}
    assert steps == {2}


def test_what_cannot_be_written_ends_the_log_and_not_the_run(tmp_path: Path, problem: Problem) -> None:
    (tmp_path / "log").write_text("a file, not a folder")
    with _log(tmp_path / "log", problem, [0.0]) as log:
        log.frame(0, 0.01)
        log.frame(1, 0.01)
    with pytest.raises(FileError, match="log: cannot write the log: Not a directory"):
        log.check()


def test_devices_are_busy_while_they_compute() -> None:
    spans = tuple(
        Span(device, lane, "x", start_s, stop_s)
        for device, lane, start_s, stop_s in (
            ("a", "compute", 0.0, 0.4), ("a", "compute", 0.2, 0.6), ("a", "send", 0.6, 1.0), ("b", "compute", 0.9, 1.0)
        )
    )  # fmt: skip
    shares = busy_shares(Timeline(1.0, spans), ("a", "b", "c"))
    assert shares == {"a": pytest.approx(0.6), "b": pytest.approx(0.1), "c": 0.0}
