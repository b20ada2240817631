"""The coordinator for asyncio: the same results, named failures and order, and the event loop goes on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import numpy as np
import pytest

from distredge.errors import ExecutionError, ModelError, PeerTimeout
from distredge.runtime.deployment import deploy
from distredge.runtime.in_process import run_in_process
from distredge.runtime.requester.async_coordinator import AsyncCoordinator
from distredge.runtime.requester.coordinator import Coordinator
from tests.runtime.conftest import Cell
from tests.runtime.requester.conftest import equal
from tests.runtime.requester.test_lost_workers import silence


def _run(running: Coordinator, work: Callable[[AsyncCoordinator], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncCoordinator(running) as coordinator:
            await asyncio.wait_for(work(coordinator), 30.0)

    asyncio.run(main())


def test_frames_are_awaited(running, graph, strategy, image) -> None:
    expected = run_in_process(graph, strategy, image)

    async def work(coordinator: AsyncCoordinator) -> None:
        assert equal(await coordinator.infer(image), expected)
        several = await asyncio.gather(*(coordinator.infer(image) for _ in range(6)))
        assert all(equal(found, expected) for found in several)
        pending = await coordinator.submit(image)
        assert equal(await pending, expected)
        assert equal(await pending, expected), "it may be awaited again"
        await coordinator.deploy(deploy(graph, strategy), in_flight=1)
        assert equal(await coordinator.infer(image), expected)
        assert (await coordinator.timeline()).latency_s > 0
        frame = await coordinator.submit(image)
        await frame
        assert (await coordinator.timeline_of(frame.pending.ran_as)).latency_s > 0

    _run(running, work)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_of_either_kind(running, graph, strategy, is_async: bool) -> None:
    rng = np.random.default_rng(0)
    frames = [{"image": rng.standard_normal((1, 3, 33, 21), dtype=np.float32)} for _ in range(7)]
    frames[3] = {"image": np.zeros((1, 3, 2, 2), np.float32)}

    async def source() -> AsyncIterator[dict[str, np.ndarray]]:
        for frame in frames:
            yield frame

    async def work(coordinator: AsyncCoordinator) -> None:
        number = 0
        async for found in coordinator.stream(source() if is_async else frames):
            assert found.number == number
            if number == 3:
                assert isinstance(found.error, ModelError)
                assert found.outputs is found.latency_s is None
            else:
                assert equal(found.result(), run_in_process(graph, strategy, frames[number]))
            number += 1
        assert number == 7

    _run(running, work)


def test_what_a_source_raises_comes_in_its_place(running, image) -> None:
    def source() -> Iterator[dict[str, np.ndarray]]:
        yield image
        yield image
        raise OSError("the camera is gone")

    async def work(coordinator: AsyncCoordinator) -> None:
        found = []
        try:
            async for one in coordinator.stream(source()):
                found.append(one.number)
        except OSError as error:
            found.append(str(error))
        assert found == [0, 1, "the camera is gone"]

    _run(running, work)


def test_the_event_loop_goes_on_while_a_frame_waits_for_room(cell: Cell, running, image) -> None:
    silent = silence(cell, 2)

    async def work(coordinator: AsyncCoordinator) -> None:
        first = [await coordinator.submit(image, 5.0) for _ in range(2)]
        waiting = asyncio.create_task(coordinator.submit(image, 0.2))
        while not silent.is_set():
            await asyncio.sleep(0)
        with pytest.raises(PeerTimeout, match="no room for one more frame"):
            await waiting
        cell.exchange.tamper = None
        for pending in first:
            assert await pending

    _run(running, work)


def test_a_stream_that_is_left_ends_its_source(running, image) -> None:
    given = []

    async def source() -> AsyncIterator[dict[str, np.ndarray]]:
        try:
            while True:
                given.append(1)
                yield image
        finally:
            given.append(0)

    async def work(coordinator: AsyncCoordinator) -> None:
        frames = coordinator.stream(source())
        assert (await anext(frames)).result()
        await frames.aclose()
        count = len(given)
        assert (await coordinator.infer(image)).keys() == {"scores"}
        assert len(given) <= count + 1

    _run(running, work)


def test_a_stream_ends_where_no_frame_can_come_through(cell: Cell, running, graph, strategy, image) -> None:
    async def work(coordinator: AsyncCoordinator) -> None:
        stream = coordinator.stream(itertools.repeat(image))
        assert (await anext(stream)).result()
        later = cell.coordinator(take_over=True, holder="eve@desk")
        await asyncio.to_thread(later.deploy, deploy(graph, strategy))

        async def rest() -> None:
            async for one in stream:
                assert one.error is None or "taken over" in str(one.error)

        with pytest.raises(ExecutionError, match="worker 'alpha' was taken over by 'eve@desk'"):
            await rest()

    _run(running, work)


def test_a_source_that_waits_does_not_keep_a_stream_that_is_over(cell: Cell, running, graph, strategy, image) -> None:
    async def source() -> AsyncIterator[dict[str, np.ndarray]]:
        yield image
        await asyncio.Event().wait()

    async def work(coordinator: AsyncCoordinator) -> None:
        stream = coordinator.stream(source())
        assert (await anext(stream)).result()
        later = cell.coordinator(take_over=True, holder="eve@desk")
        await asyncio.to_thread(later.deploy, deploy(graph, strategy))
        with pytest.raises(ExecutionError, match="worker 'alpha' was taken over by 'eve@desk'"):
            await anext(stream)

    _run(running, work)
