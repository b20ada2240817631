"""Pictures through a coordinator: each ends under its own name, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distredge.errors import ExecutionError, MediaError, ModelError
from distredge.media.pictures import Picture
from distredge.model.capture import from_onnx
from distredge.model.preprocess import Preprocess
from distredge.runtime.deployment import deploy
from distredge.runtime.in_process import run_in_process
from distredge.runtime.requester.async_coordinator import AsyncCoordinator
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.requester.pending import Offered, Request, Room
from distredge.runtime.requester.picture_frames import inputs_of
from distredge.runtime.requester.runner import Runner
from tests.runtime.conftest import DEVICES, Cell, make_strategy, small_cnn
from tests.runtime.requester.conftest import equal


@pytest.fixture(scope="module")
def photographic():
    """The small CNN, which takes pictures of any size."""
    graph = from_onnx(small_cnn())
    graph.preprocess = Preprocess((33, 21), None, (127.0,) * 3, (1 / 128,) * 3)
    return graph


@pytest.fixture
def strategy(photographic):
    return make_strategy(photographic, [(2, 1, 1), (1, 1, 2)])


@pytest.fixture
def running(cell: Cell, photographic, strategy) -> Coordinator:
    """Three workers and a coordinator that runs it, two frames at once."""
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(deadline_s=20.0)
    coordinator.deploy(deploy(photographic, strategy), in_flight=2)
    return coordinator


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five pictures of several sizes; the third is none, the fifth is missing."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths[:4]):
        Image.fromarray(rng.integers(0, 256, (30 + number, 40, 3), np.uint8)).save(path)
    paths[2].write_text("none")
    return paths


def check(found: list, files: list[Path], photographic, strategy) -> None:
    assert [one.number for one in found] == [0, 1, 2, 3, 4]
    assert [one.name for one in found] == [str(path) for path in files]
    for number in (0, 1, 3):
        pixels = np.asarray(Image.open(files[number]))
        assert found[number].picture.size == pixels.shape[:2]
        expected = run_in_process(photographic, strategy, inputs_of(photographic, strategy, pixels))
        assert equal(found[number].result(), expected)
        assert found[number].latency_s > 0
    for number in (2, 4):
        assert found[number].outputs is found[number].latency_s is None
        with pytest.raises(MediaError, match=files[number].name):
            found[number].result()


def test_pictures_end_in_order_under_their_names(running, files, photographic, strategy) -> None:
    check(list(running.stream_images(files)), files, photographic, strategy)
    kept = list(running.stream_images(files, keep_pixels=True))
    check(kept, files, photographic, strategy)
    assert np.array_equal(kept[1].picture.taken(), np.asarray(Image.open(files[1])))
    (lean,) = running.stream_images(files[:1])
    assert lean.picture.pixels is None
    assert lean.inputs["image"].shape == (1, 3, 33, 21)
    assert [one.name for one in running.stream_images(["x"])] == ["x"]


def test_pictures_end_in_order_with_asyncio(running, files, photographic, strategy) -> None:
    async def main() -> list:
        async with AsyncCoordinator(running) as coordinator:
            found = [one async for one in coordinator.stream_images(files)]
            stream = coordinator.stream_images(files)
            assert (await anext(stream)).number == 0
            await stream.aclose()
            return found

    check(asyncio.run(asyncio.wait_for(main(), 60)), files, photographic, strategy)


def test_pictures_are_read_only_ahead_of_what_is_in_flight(running) -> None:
    taken = []

    def endless() -> Iterator[Picture]:
        for number in range(1000):
            taken.append(number)
            yield Picture(f"p{number}", np.zeros((8, 8, 3), np.uint8))

    stream = running.stream_images(endless())
    for number in range(3):
        assert next(stream).number == number
    threading.Event().wait(0.2)
    assert len(taken) <= 3 + 2 * running.in_flight + 1
    stream.close()


def test_a_model_that_takes_no_pictures_says_so_at_once(cell: Cell, graph) -> None:
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator()
    with pytest.raises(ExecutionError, match="nothing is deployed"):
        coordinator.stream_images([])
    coordinator.deploy(deploy(graph, make_strategy(graph, [(2, 1, 1), (1, 1, 2)])))
    with pytest.raises(ModelError, match="does not say how a picture becomes its input"):
        coordinator.stream_images([])
    assert coordinator.deployment.graph is graph


@pytest.mark.parametrize("name", ["photos", Path("photos")])
def test_one_name_is_no_list_of_them(running, name) -> None:
    """A text would be taken letter by letter."""
    with pytest.raises(MediaError, match=r"pictures: found .*photos.*, accepted: several names, such as \[name\]"):
        running.stream_images(name)


def test_tags_come_back_and_a_source_may_give_an_error_for_a_frame(running, image) -> None:
    frames = [Offered(image, "first"), Offered(MediaError("torn"), "second"), image, Offered({}, 4)]
    found = list(running.stream(frames))
    assert [one.tag for one in found] == ["first", "second", None, 4]
    assert [type(one.error) for one in found] == [type(None), MediaError, type(None), ModelError]
    assert [one.number for one in found] == [0, 1, 2, 3]


def test_latency_does_not_count_the_wait_for_room(running, image, monkeypatch) -> None:
    placed_ns = []
    take, submit = Room.take, Runner.submit

    def waited(self: Room, *args: Any) -> bool:
        found = take(self, *args)
        placed_ns.append(time.monotonic_ns())
        return found

    def seen(self: Runner, request: Request) -> None:
        assert request.started_ns >= placed_ns[-1]
        submit(self, request)

    monkeypatch.setattr(Room, "take", waited)
    monkeypatch.setattr(Runner, "submit", seen)
    assert running.submit(image).result()
    assert len(placed_ns) == 1
