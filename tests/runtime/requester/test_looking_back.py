"""What workers say of themselves while frames run, and the timeline of any frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from distredge import metric_names
from distredge.errors import ExecutionError
from distredge.runtime.deployment import deploy
from distredge.runtime.engine import OnnxRuntimeEngine
from distredge.runtime.requester import workers
from distredge.runtime.requester.pending import RanAs
from distredge.runtime.worker import control_plane
from tests.runtime.conftest import DEVICES, Cell


def _samples(coordinator, wanted) -> dict:
    """What the workers say, once `wanted` is so."""
    until_s = time.monotonic() + 10
    while True:
        coordinator.ask_workers()
        found = {sample.device: sample for sample in coordinator.samples()}
        if len(found) == len(DEVICES) and all(map(wanted, found.values())):
            return found
        assert time.monotonic() < until_s, found
        time.sleep(0.005)


def test_workers_say_what_they_do(running, image, monkeypatch) -> None:
    monkeypatch.setattr(workers, "SAMPLE_NS", 0)
    # However long the machine lets them wait for being asked.
    monkeypatch.setattr(control_plane, "RUNS_NS", 60 * 10**9)
    began_s = time.monotonic()
    for _ in range(3):
        running.infer(image)
    found = _samples(running, lambda sample: sample.frames == 3)
    for sample in found.values():
        assert (sample.state, sample.open_frames, sample.queued, sample.dropped) == ("running", 0, 0, 0)
        assert 0 < sample.busy_s < time.monotonic() - began_s
        # All in this process: one clock.
        assert abs(sample.clock_offset_s) <= sample.clock_error_s
        assert began_s < sample.at_s <= sample.came_s
    timeline = running.timeline(3)
    received = {name: 0 for name in found}
    for span in timeline.spans:
        if span.lane == "receive" and span.device in received:
            received[span.device] += span.bytes
    assert {name: sample.received_bytes for name, sample in found.items()} == received
    sent = {name: sum(s.bytes for s in timeline.spans if s.lane == "send" and s.device == name) for name in found}
    assert {name: sample.sent_bytes for name, sample in found.items()} == sent


class _HeldEngine(OnnxRuntimeEngine):
    """Computes nothing until it may."""

    warms_up = False

    def __init__(self) -> None:
        super().__init__()
        self.held, self.may_go_on = threading.Event(), threading.Event()

    def load(self, model, weights, ranges=None):
        return _HeldLoaded(super().load(model, weights, ranges), self)


class _HeldLoaded:
    def __init__(self, inner, engine: _HeldEngine) -> None:
        self._inner, self._engine = inner, engine

    def bind(self, inputs, outputs, stage: int) -> Callable[[], None]:
        compute = self._inner.bind(inputs, outputs, stage)

        def run() -> None:
            self._engine.held.set()
            self._engine.may_go_on.wait(20)
            compute()

        return run


def test_a_worker_that_computes_counts_as_busy_meanwhile(cell: Cell, graph, strategy, image, monkeypatch) -> None:
    monkeypatch.setattr(workers, "SAMPLE_NS", 0)
    engine = _HeldEngine()
    for name in DEVICES:
        cell.start(name, engine if name == "beta" else None)
    coordinator = cell.coordinator(deadline_s=20.0)
    coordinator.deploy(deploy(graph, strategy), in_flight=2)
    pending = [coordinator.submit(image) for _ in range(2)]
    assert engine.held.wait(10)
    first = _samples(coordinator, lambda s: s.device != "beta" or s.open_frames >= 1)["beta"]
    later = _samples(coordinator, lambda s: s.device != "beta" or s.busy_s > first.busy_s + 0.3)["beta"]
    # The two are read one after the other, by a thread that others may hold up.
    assert later.busy_s - first.busy_s == pytest.approx(later.at_s - first.at_s, abs=0.15)
    engine.may_go_on.set()
    for one in pending:
        one.result()
    done = _samples(coordinator, lambda s: s.frames == 2)["beta"]
    assert (done.open_frames, done.queued) == (0, 0)


def test_workers_are_not_asked_twice_a_second(running, cell: Cell, image) -> None:
    running.infer(image)
    for _ in range(50):
        running.ask_workers()
    asked = sum(len(running._runner.workers[name].asked) for name in DEVICES)
    assert asked <= len(DEVICES)


def test_the_timeline_of_a_frame_that_is_not_the_latest(running, image) -> None:
    frames = [running.submit(image) for _ in range(6)]
    for frame in frames:
        frame.result()
    asked = [running.timeline_of(frame.ran_as) for frame in frames]
    for frame, call in zip(frames, asked, strict=True):
        timeline = call.wait()
        # From packing the inputs on; the caller's preparing comes before that.
        assert 0 < timeline.latency_s <= frame.latency_s
        assert set(timeline.details[metric_names.CLOCK_ERROR_S]) == set(DEVICES)
        for name, offset_s in timeline.details[metric_names.CLOCK_OFFSET_S].items():
            assert abs(offset_s) <= timeline.details[metric_names.CLOCK_ERROR_S][name]
    assert len({call.wait().latency_s for call in asked}) > 1


def test_a_frame_that_nobody_remembers(running, image) -> None:
    running.infer(image)
    for ran_as in (RanAs(1, 0), RanAs(running._runner.plans.active.number, 77)):
        with pytest.raises(ExecutionError, match="what was recorded of this frame is forgotten already"):
            running.timeline_of(ran_as).wait()
