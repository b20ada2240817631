"""A coordinator runs frames: results are exact, in order, and said when and where they were made."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from distredge.errors import ExecutionError, ModelError
from distredge.runtime.deployment import deploy
from distredge.runtime.in_process import run_in_process
from tests.runtime.conftest import DEVICES, Cell, make_strategy
from tests.runtime.requester.conftest import equal


def test_results_are_those_of_one_process(running, graph, strategy, image) -> None:
    expected = run_in_process(graph, strategy, image)
    for _ in range(3):
        assert equal(running.infer(image), expected)
    assert running.last_latency_s > 0
    assert not running.dropped


def test_several_frames_in_flight_come_out_in_order(running, graph, strategy) -> None:
    rng = np.random.default_rng(0)
    frames = [{"image": rng.standard_normal((1, 3, 33, 21), dtype=np.float32)} for _ in range(7)]
    found = [one.result() for one in running.stream(frames)]
    assert len(found) == 7
    for frame, outputs in zip(frames, found, strict=True):
        assert equal(outputs, run_in_process(graph, strategy, frame))


def test_idle_devices_need_no_worker(cell: Cell, graph, image) -> None:
    strategy = make_strategy(graph, [(1, 0, 1), (0, 0, 1)], head="gamma")
    for name in ("alpha", "gamma"):
        cell.start(name)
    coordinator = cell.coordinator()
    coordinator.deploy(deploy(graph, strategy))
    assert equal(coordinator.infer(image), run_in_process(graph, strategy, image))


def test_wrong_inputs_cost_no_frame(running, image) -> None:
    with pytest.raises(ModelError, match="missing"):
        running.infer({})
    assert running.infer(image)


def test_several_threads_take_turns(running, graph, strategy, image) -> None:
    expected = run_in_process(graph, strategy, image)
    good: list[bool] = []

    def ask() -> None:
        for _ in range(5):
            good.append(equal(running.infer(image), expected))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert good == [True] * 15


def test_frames_in_flight_end_when_the_coordinator_closes(running, image) -> None:
    pending = running.submit(image)
    running.close()
    with pytest.raises(ExecutionError, match="the coordinator was closed"):
        pending.result()


def test_the_timeline_of_a_frame(running, graph, image) -> None:
    with pytest.raises(ExecutionError, match="no frame has been run yet"):
        running.timeline()
    running.infer(image)
    latency_s = running.last_latency_s
    timeline = running.timeline()
    assert timeline.origin == "measured"
    assert timeline.devices == (*DEVICES, "requester")
    assert 0 < timeline.latency_s <= latency_s
    layout = running._runner.current.layout
    computing = [s for s in timeline.spans if s.lane == "compute"]
    parts = [(stage.index, part.device) for stage in layout.stages for part in stage.parts if not part.empty]
    assert sorted((s.stage, DEVICES.index(s.device)) for s in computing) == sorted(parts)
    assert timeline.bytes_sent == layout.bytes_sent
    assert all(s.stop_s <= timeline.latency_s + 1e-9 for s in timeline.spans)
    for _ in range(3):
        running.infer(image)
    assert len(running.timeline(frames=2).frame_latency_s) == 2
