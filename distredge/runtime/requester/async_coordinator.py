"""The coordinator for asyncio: frames are awaited, and nothing blocks the event loop.

async with AsyncCoordinator(Coordinator(network, addresses)) as coordinator:
    await coordinator.deploy(deployment, in_flight=2)
    outputs = await coordinator.infer({"image": image})
    async for frame in coordinator.stream(images()):
        print(frame.number, frame.latency_s, frame.error)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from distredge.errors import DistredgeError
from distredge.runtime.buffers import Array
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.requester.pending import FrameResult, Given, Offered, Pending, RanAs, offered
from distredge.runtime.requester.picture_frames import PictureResult, picture_result
from distredge.runtime.requester.streaming import AHEAD, LOOK_S

if TYPE_CHECKING:
    from pathlib import Path

    from distredge.media.pictures import Picture
    from distredge.runtime.deployment import Deployment
    from distredge.timeline import Timeline

T = TypeVar("T")

Inputs: TypeAlias = Mapping[str, Array]


class AsyncPending:
    """A frame that was submitted. Awaiting it gives its outputs, or raises why there are none; see `Pending`."""

    def __init__(self, pending: Pending) -> None:
        self.pending = pending
        self._ended = asyncio.get_running_loop().create_future()
        pending.add_done_callback(self._tell)

    def _tell(self, _: Pending) -> None:
        # A loop that was closed meanwhile waits for nothing any more.
        with contextlib.suppress(RuntimeError):
            self._ended.get_loop().call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def wait(self) -> None:
        """Waits until it has ended; may be given up and taken up again."""
        await asyncio.shield(self._ended)

    def __await__(self) -> Generator[object, None, dict[str, Array]]:
        yield from self.wait().__await__()
        return self.pending.result()


class _Started(NamedTuple):
    """A frame that was started, or why it could not be."""

    frame: AsyncPending | DistredgeError
    tag: object


class AsyncCoordinator:
    """The same as `Coordinator`, awaited.

    A coroutine that is cancelled waits no longer; a frame that has begun goes on to its end.

    Args:
        coordinator: does the work; closed with this one.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator

    async def __aenter__(self) -> AsyncCoordinator:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def deploy(self, deployment: Deployment, in_flight: int = 1) -> None:
        """Prepares a deployment and runs frames on it from then on; see `Coordinator.deploy`."""
        await asyncio.to_thread(self.coordinator.deploy, deployment, in_flight)

    async def infer(self, inputs: Inputs, deadline_s: float | None = None) -> dict[str, Array]:
        """Runs one frame: inputs such as (N, C, H, W), outputs such as (N, classes); see `Coordinator.infer`."""
        return await (await self.submit(inputs, deadline_s))

    async def submit(self, inputs: Inputs, deadline_s: float | None = None) -> AsyncPending:
        """Starts a frame once there is room; awaiting what it returns gives the outputs.

        Args:
            inputs: tensor name -> array, such as (N, C, H, W); may be written again at once.
            deadline_s: for this frame, waiting for room included.

        Raises:
            ModelError: if the inputs do not fit the graph.
            PeerTimeout: if there is no room in time.
        """
        pending = await self._started(inputs, deadline_s)
        assert pending is not None
        return AsyncPending(pending)

    async def _started(self, inputs: Inputs, deadline_s: float | None) -> Pending | None:
        pending = self.coordinator.submit_when(inputs, deadline_s, lambda: False)
        if pending is not None:
            return pending
        wanted = [True]
        try:
            return await asyncio.to_thread(self.coordinator.submit_when, inputs, deadline_s, lambda: wanted[0])
        except asyncio.CancelledError:
            wanted[0] = False
            self.coordinator.look()
            raise

    async def stream(
        self, frames: AsyncIterable[Given] | Iterable[Given], deadline_s: float | None = None
    ) -> AsyncGenerator[FrameResult, None]:
        """Runs frames with as many in flight as the plan allows; see `Coordinator.stream`.

        Args:
            frames: the inputs of each, such as (N, C, H, W), or `Offered`. What is no asynchronous iterable is iterated
                in threads.
            deadline_s: for each of them.
        """
        items: asyncio.Queue[_Started | None] = asyncio.Queue(AHEAD * self.coordinator.in_flight)
        feeder = asyncio.create_task(self._feed(frames, deadline_s, items))
        number = 0
        try:
            while (item := await self._next(items)) is not None:
                frame, tag = item
                if isinstance(frame, AsyncPending):
                    await frame.wait()
                    ended = frame.pending
                    yield FrameResult(number, ended.outputs, ended.error, ended.latency_s, tag, ended.ran_as)
                else:
                    yield FrameResult(number, None, frame, None, tag)
                number += 1
            # What the source raised comes after all results before it.
            await feeder
        finally:
            feeder.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await feeder

    async def _next(self, items: asyncio.Queue[_Started | None]) -> _Started | None:
        """Waits for the next frame; raises why none can come through, also while the source gives none."""
        while True:
            try:
                return await asyncio.wait_for(items.get(), LOOK_S)
            except asyncio.TimeoutError:
                if items.empty() and (over := self.coordinator.over()) is not None:
                    raise over from None

    async def _feed(
        self,
        frames: AsyncIterable[Given] | Iterable[Given],
        deadline_s: float | None,
        items: asyncio.Queue[_Started | None],
    ) -> None:
        try:
            async for given in _each(frames):
                if (over := self.coordinator.over()) is not None:
                    raise over
                inputs, tag = offered(given)
                try:
                    if isinstance(inputs, DistredgeError):
                        raise inputs
                    pending = await self._started(inputs, deadline_s)
                except DistredgeError as error:
                    await items.put(_Started(error, tag))
                else:
                    assert pending is not None
                    await items.put(_Started(AsyncPending(pending), tag))
        except asyncio.CancelledError:
            # Nobody takes anything any more.
            raise
        except BaseException:
            await items.put(None)
            raise
        await items.put(None)

    def stream_images(
        self,
        pictures: Iterable[str | Path | Picture],
        deadline_s: float | None = None,
        *,
        keep_pixels: bool = False,
    ) -> AsyncGenerator[PictureResult, None]:
        """Runs pictures, which are read in threads; see `Coordinator.stream_images`."""
        return self._pictures(self.coordinator.offer(pictures, keep_pixels), deadline_s)

    async def _pictures(
        self, frames: Iterable[Offered], deadline_s: float | None
    ) -> AsyncGenerator[PictureResult, None]:
        async with contextlib.aclosing(self.stream(frames, deadline_s)) as results:
            async for result in results:
                yield picture_result(result)

    async def timeline(self, frames: int = 1) -> Timeline:
        """What happened in the latest frames that ended well; see `Coordinator.timeline`."""
        return await asyncio.to_thread(self.coordinator.timeline, frames)

    async def timeline_of(self, ran_as: RanAs) -> Timeline:
        """What happened in one frame that ended well; see `Coordinator.timeline_of`."""
        return await asyncio.to_thread(self.coordinator.timeline_of(ran_as).wait)

    async def close(self) -> None:
        """Says goodbye to the workers; frames in flight end with an error."""
        await asyncio.to_thread(self.coordinator.close)


async def _each(source: AsyncIterable[T] | Iterable[T]) -> AsyncIterator[T]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
        return
    items = iter(source)
    while (taken := await asyncio.to_thread(_take, items)) is not None:
        yield taken[0]


def _take(items: Iterator[T]) -> tuple[T] | None:
    """The next of them; `StopIteration` cannot leave a coroutine."""
    for item in items:
        return (item,)
    return None
