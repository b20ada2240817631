"""Watching a stream: who is asked how often, what views hear, and what the report says."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from distredge import metric_names
from distredge.device_sample import DeviceSample
from distredge.monitor import stream_watch
from distredge.monitor.stream_watch import StreamWatch
from tests.monitor.streams import Coordinator, Frame, snapshot


class _Strategy:
    devices = ("pi-a", "pi-b")


class _View:
    """Counts what it hears; fails when it is told to."""

    per_s = 1.0

    def __init__(self, fails: str = "", error: Exception | None = None) -> None:
        self._error = error or OSError(32, "Broken pipe")
        self.heard: list[str] = []
        self.snapshots: list = []
        self.shown = threading.Event()
        self._fails = fails

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        if what == self._fails:
            raise self._error

    def begin(self, strategy) -> None:
        self._hear("begin")

    def frame(self, frame) -> None:
        self._hear("frame")

    def show(self, found) -> None:
        self.snapshots.append(found)
        self.shown.set()
        self._hear("show")

    def end(self) -> None:
        self._hear("end")


@pytest.fixture
def now_s() -> list[float]:
    return [100.0]


@pytest.fixture
def coordinator(now_s) -> Coordinator:
    samples = {n: DeviceSample(n, 100.0, 100.0, "running", temperature_c=50.0) for n in ("pi-b", "pi-a", "other")}
    return Coordinator(now_s, found=samples)


def test_devices_are_asked_once_a_second(coordinator: Coordinator, now_s) -> None:
    view = _View()
    watch = StreamWatch([view], lambda: now_s[0])
    watch._watched = coordinator
    for _ in range(40):
        watch._turn()
        now_s[0] += 0.25
    assert coordinator.asked == 10
    assert view.heard.count("show") == 10


def test_what_views_hear_and_the_report_says(coordinator: Coordinator, now_s, monkeypatch) -> None:
    monkeypatch.setattr(stream_watch, "TURN_S", 0.001)
    view = _View()
    watch = StreamWatch([view], lambda: now_s[0])
    watch.begin(coordinator, _Strategy, 0.05)
    assert view.shown.wait(10)
    now_s[0] += 2.0
    watch.frame(Frame(0, 0.04, 1.0))
    watch.frame(Frame(1, None, 1.5))
    told = watch.end()["watch"]
    assert watch.end()["watch"]["devices"] == told["devices"]
    assert (view.heard[0], view.heard[-2:], view.heard.count("frame")) == ("begin", ["show", "end"], 2)
    last = view.snapshots[-1]
    assert (last.elapsed_s, last.frames, last.errors, last.predicted_s) == (2.0, 1, 1, 0.05)
    assert last.percentiles_s == (0.04, 0.04, 0.04)
    # In the strategy's order; then those that are not in it.
    assert [state.device for state in last.devices] == list(told["devices"]) == ["pi-a", "pi-b", "other"]
    assert told["devices"]["pi-a"]["temperature_c"] == 50.0
    assert 0 <= told["processor_share"] < 1
    assert told["faults"] == []


def test_a_stream_that_is_over_at_once_has_what_devices_say(now_s, monkeypatch) -> None:
    late = Coordinator(now_s)
    watch = StreamWatch([], lambda: now_s[0])
    watch.begin(late, _Strategy, None)
    looks = []

    def samples() -> tuple[DeviceSample, ...]:
        looks.append(1)
        return (DeviceSample("pi-a", 100.0, 100.0, "running"),) if len(looks) > 3 else ()

    monkeypatch.setattr(late, "samples", samples)
    assert list(watch.end()["watch"]["devices"]) == ["pi-a"]


def test_devices_that_never_answer_are_not_waited_for_long(now_s, monkeypatch) -> None:
    monkeypatch.setattr(stream_watch, "_FIRST_S", 0.01)
    watch = StreamWatch([], lambda: now_s[0])
    watch.begin(Coordinator(now_s), _Strategy, None)
    assert watch.end()["watch"]["devices"] == {}


@pytest.mark.parametrize("error", [OSError(32, "Broken pipe"), ValueError("no such column")])
def test_a_view_that_fails_is_left_out(coordinator: Coordinator, now_s, error: Exception) -> None:
    broken, sound, said = _View("frame", error), _View(), []
    watch = StreamWatch([broken, sound], lambda: now_s[0], said.append)
    watch.begin(coordinator, _Strategy, None)
    for number in range(3):
        watch.frame(Frame(number, 0.04, 1.0))
    faults = watch.end()["watch"]["faults"]
    assert faults in (["_View: Broken pipe"], ["_View: ValueError: no such column"])
    assert said == [f"the stream goes on without {faults[0]}"]
    assert broken.heard.count("frame") == 1
    assert broken.heard[-1] == "end", "what it holds is given back all the same"
    assert sound.heard.count("frame") == 3


def test_a_view_that_fails_in_the_watching_thread_is_left_out(coordinator: Coordinator, now_s, monkeypatch) -> None:
    monkeypatch.setattr(stream_watch, "TURN_S", 0.001)
    broken, sound, said = _View("show", ValueError("no such column")), _View(), []
    watch = StreamWatch([broken, sound], lambda: now_s[0], said.append)
    watch.begin(coordinator, _Strategy, None)
    assert sound.shown.wait(10)
    now_s[0] += 2.0
    sound.shown.clear()
    assert sound.shown.wait(10), "the others are shown on"
    assert watch.end()["watch"]["faults"] == ["_View: ValueError: no such column"]
    assert len(said) == 1


def test_what_ends_the_watching_itself_is_said(coordinator: Coordinator, now_s, monkeypatch) -> None:
    def breaks() -> None:
        raise KeyError("pi-a")

    view, said = _View(), []
    watch = StreamWatch([view], lambda: now_s[0], said.append)
    monkeypatch.setattr(coordinator, "samples", breaks)
    watch.begin(coordinator, _Strategy, None)
    watch._thread.join(10)
    watch.frame(Frame(0, 0.04, 1.0))
    found = watch.end()["watch"]
    assert found["faults"] == ["watching: KeyError: 'pi-a'", "what is seen of the workers: KeyError: 'pi-a'"]
    assert len(said) == 2
    assert found["devices"] == {}
    assert view.heard == ["begin", "frame", "end"]


def test_a_coordinator_that_is_closed_is_no_fault_of_watching(coordinator: Coordinator, now_s) -> None:
    coordinator.closed = True
    watch = StreamWatch([_View()], lambda: now_s[0])
    watch._watched = coordinator
    watch._turn()
    assert watch.end()["watch"]["asked"] == 0


def test_before_the_stream_began_there_is_nothing_to_say() -> None:
    view = _View()
    assert StreamWatch([view]).end() == {}
    assert view.heard == ["end"], "what it holds, such as a port, is given back"


def test_no_thread_is_left(coordinator: Coordinator, now_s) -> None:
    before = threading.active_count()
    watch = StreamWatch([], lambda: now_s[0])
    watch.begin(coordinator, _Strategy, None)
    watch.end()
    assert threading.active_count() == before


def test_scalars_of_devices_under_the_tags_of_training(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from distredge.cluster import load_cluster
    from distredge.latency import offload
    from distredge.model import zoo
    from distredge.monitor.deployment_log import DeploymentLog, LogView
    from distredge.problem import Problem

    graph = zoo.build("vgg16", width=0.125)
    problem = Problem(graph, load_cluster("db-50", [graph]))
    with DeploymentLog(tmp_path / "log", problem, offload(problem)[0]) as log:
        view = LogView(log)
        view.begin(_Strategy)
        view.frame(Frame(0, 0.04, 0.1))
        view.show(snapshot(images_per_s=21.0))
        view.show(snapshot(images_per_s=22.0))
        for number in range(1, 5):
            view.frame(Frame(number, 0.04, 1.0))
        view.show(snapshot(images_per_s=23.0))
        view.end()
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    # With the number of the frame that ended next, and at the end.
    assert [(e.step, e.value) for e in events.Scalars(metric_names.STREAM_IMAGES_PER_S)] == [(1, 22.0), (4, 23.0)]
    assert [round(e.value, 1) for e in events.Scalars(metric_names.STREAM_P95_MS)] == [40.2, 40.2]
    assert [e.value for e in events.Scalars(f"{metric_names.DEVICE_BUSY}/pi-a")] == [0.5, 0.5]
    assert [e.value for e in events.Scalars(f"{metric_names.DEVICE_TEMPERATURE}/pi-a")] == [61.5, 61.5]
    assert [e.value for e in events.Scalars(f"{metric_names.DEVICE_QUEUE}/pi-b")] == [1.0, 1.0]
    assert f"{metric_names.DEVICE_TEMPERATURE}/pi-b" not in events.Tags()["scalars"]
