"""While sub-models load, which can take minutes, a worker says how far it is; the requester waits and says so too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from distredge.runtime.buffers import Array
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.engine import Loaded, OnnxRuntimeEngine
from distredge.runtime.hosting import session
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.device_plan import ShapeRange
from distredge.runtime.protocol.row_messages import CONTENT
from distredge.runtime.weights import weight_messages
from distredge.runtime.worker import control_plane
from tests.runtime.conftest import Cell, make_strategy
from tests.runtime.worker.conftest import PATIENCE_S, Speaker


class SlowEngine(OnnxRuntimeEngine):
    """Loads a sub-model for every permit that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.permits = threading.Semaphore(0)

    def load(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange] | None = None
    ) -> Loaded:
        assert self.permits.acquire(timeout=PATIENCE_S)
        return super().load(model, weights, ranges)


@pytest.fixture
def slow(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowEngine]:
    """The engine of worker alpha, which is started with it and tells how it is at every turn."""
    monkeypatch.setattr(control_plane, "ALIVE_S", 0.0)
    engine = SlowEngine()
    cell.start("alpha", engine)
    yield engine
    engine.permits.release(100)


@pytest.fixture
def alone(graph) -> Deployment:
    return deploy(graph, make_strategy(graph, [(1,), (1,)], head="alpha"))


def _wait_for(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.01)


def test_a_worker_says_how_far_it_is(slow: SlowEngine, speaker: Speaker, alone: Deployment) -> None:
    count = len(alone.models(0))
    assert count > 1
    speaker.hello(m.Welcome)
    missing = speaker.prepare(alone.device_plan(0, 1), alone.models(0))
    store = alone.weights(0)
    for digest in missing.digests:
        for message, content in weight_messages(1, digest, store[digest]):
            speaker.send(message, [content])
    while (progress := speaker.receive(m.Progress)).models == 0:
        pass
    assert (progress.loaded, progress.models) == (0, count)
    slow.permits.release()
    while (progress := speaker.receive(m.Progress)).loaded == 0:
        pass
    assert (progress.loaded, progress.models) == (1, count)
    about = speaker.ask(m.Ping(1), m.Pong).about
    assert about.preparing == (m.PreparingPlan(1, 1, count),)
    assert about.plans == ()
    slow.permits.release(count - 1)
    ready = speaker.receive(m.Ready)
    assert ready.loaded == count
    # Nothing lay on the disk.
    assert 0 < ready.build_s <= ready.load_s
    about = speaker.ask(m.Ping(2), m.Pong).about
    assert (about.preparing, about.plans) == ((), (1,))


def test_what_preparing_took_is_known_by_worker_and_by_plan(cell: Cell, graph, image) -> None:
    """A plan that shares sub-models with the one that runs loads those alone that are not there yet."""
    for name in ("alpha", "beta"):
        cell.start(name)
    first = deploy(graph, make_strategy(graph, [(1, 1), (1, 1)], head="beta"))
    other = deploy(graph, make_strategy(graph, [(1, 1), (1, 1)], head="alpha"))
    coordinator = cell.coordinator(["alpha", "beta"])
    coordinator.deploy(first)
    begun = coordinator.prepared
    assert {name: took.loaded for name, took in begun.items()} == {
        name: len(first.models(index)) for index, name in enumerate(first.devices)
    }
    assert all(took.load_s > 0 for took in begun.values())
    sent_bytes = {name: sum(a.nbytes for a in first.weights(k).values()) for k, name in enumerate(first.devices)}
    assert {name: took.weights_sent_bytes for name, took in begun.items()} == sent_bytes
    coordinator.infer(image)
    coordinator.deploy(other)
    later = coordinator.prepared
    head = other.programs[0].segments[-1]
    assert (later["alpha"].loaded, later["beta"].loaded) == (1, 0)
    assert later["alpha"].weights_sent_bytes == sum(graph.weight(name).nbytes for name in head.weights)
    assert later["beta"].weights_sent_bytes == 0
    assert coordinator.prepared_ever == {name: begun[name] + later[name] for name in begun}
    assert coordinator.took_s(other) == coordinator.prepared_s
    assert min(coordinator.took_s(first), coordinator.took_s(other)) > 0
    assert coordinator.took_s(deploy(graph, first.strategy)) is None


class KeepingEngine(OnnxRuntimeEngine):
    """One whose engines lie on the disk already, and took a minute each to be built."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.kept_in = folder
        (folder / "seconds").write_text("60")

    def load(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange] | None = None
    ) -> Loaded:
        loaded = super().load(model, weights, ranges)
        loaded.folder = self.kept_in
        return loaded


def test_engines_from_the_disk_say_what_it_took_to_build_them(cell: Cell, alone: Deployment, tmp_path: Path) -> None:
    cell.start("alpha", KeepingEngine(tmp_path))
    coordinator = cell.coordinator(["alpha"])
    coordinator.deploy(alone)
    took = coordinator.prepared["alpha"]
    assert (took.loaded, took.build_s) == (len(alone.models(0)), 60.0 * len(alone.models(0)))
    assert 0 < took.load_s < took.build_s


def test_constants_that_come_in_slowly_are_progress(slow: SlowEngine, speaker: Speaker, alone: Deployment) -> None:
    """Before, nothing was said until 8 MiB had come: 30 s at 2.2 Mbit/s, the patience of a requester."""
    speaker.hello(m.Welcome)
    digest = speaker.prepare(alone.device_plan(0, 1), alone.models(0)).digests[0]
    message, content = next(iter(weight_messages(1, digest, alone.weights(0)[digest])))
    speaker.send(message, [content])
    assert speaker.receive(m.Progress) == m.Progress(1, len(content))


def test_the_requester_waits_as_long_as_it_goes_on(cell: Cell, slow: SlowEngine, alone: Deployment, image) -> None:
    count = len(alone.models(0))
    coordinator = cell.coordinator(["alpha"], patience_s=3.0)
    assert coordinator.prepared_s is None
    deploying = threading.Thread(target=coordinator.deploy, args=(alone,))
    deploying.start()
    for loaded in range(count):
        _wait_for(lambda loaded=loaded: coordinator.prepares == (f"'alpha' has loaded {loaded} of {count} sub-models",))
        slow.permits.release()
    deploying.join(PATIENCE_S)
    assert coordinator.prepares == ()
    assert coordinator.prepared_s > 0
    coordinator.infer(image)


def test_the_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Preparing:
        waits_for = ()
        prepares = ("'nano-0' has loaded 2 of 5 sub-models", "'nano-1' has loaded 0 of 3 sub-models")

    monkeypatch.setattr(session, "QUIET_S", 0.0)
    said: list[str] = []
    heard = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        heard.set()

    with session._telling(Preparing(), say):
        assert heard.wait(PATIENCE_S)
    assert said[0] == (
        "waiting for the workers to prepare the plan: "
        "'nano-0' has loaded 2 of 5 sub-models, 'nano-1' has loaded 0 of 3 sub-models"
    )


class ProgressOfBefore(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """As a version wrote it that did not count sub-models."""

    plan: int
    received_bytes: int


def test_versions_that_count_and_that_do_not_understand_each_other() -> None:
    before = m.seal(msgspec.msgpack.encode(ProgressOfBefore(1, 5)))
    assert m.decode_to_coordinator(before) == m.Progress(1, 5)
    now = m.encode(m.Progress(1, 5, 2, 3))[CONTENT:]
    assert msgspec.msgpack.decode(now, type=ProgressOfBefore) == ProgressOfBefore(1, 5)
