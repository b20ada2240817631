"""Many frames: how near a stream comes to its bound, what a swap of strategies costs it, whether memory stays flat."""

from __future__ import annotations

import functools
import itertools
import operator
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

import psutil

from distredge.experiments.common.executor_children import child
from distredge.experiments.common.executor_models import WARM_UP, candidates, halves
from distredge.experiments.common.executor_path import computed_in
from distredge.experiments.common.executor_plain import CASES, model
from distredge.experiments.common.executor_workers import (
    Arrays,
    Ended,
    FirstFrame,
    NotedDeployment,
    Running,
    in_turn,
    noise_for,
    outputs_of,
    own_cores,
    running,
)
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.runtime.deployment import deploy

IN_FLIGHT: Final = 4
FEWEST: Final = 20
MANY_S: Final = 3600.0
PIECE: Final = 1000
SWAP_S: Final = 60.0
"""Within which a new strategy must be live."""

SMALL: Final = ("mobilenet-v2", (1, 3, 64, 64), 0.1)
"""Model, input shape and width of the frames that are counted in thousands."""


# Streams.


@dataclass
class Streamed:
    """A stream: frames per second in each round, and seconds that the busiest worker computes for a frame, each frame
    on its own."""

    per_s: list[float]
    busiest_s: list[float]

    @property
    def over_bound(self) -> float:
        """Frames per second over what the busiest worker allows, which does nothing but compute."""
        return statistics.median(self.per_s) * statistics.median(self.busiest_s)


def streaming(key: str, rounds: int, seconds: float) -> Streamed:
    """Streams frames through the planner's strategy, in turn with frames on their own, which say what is computed.

    Args:
        key: in `CASES`.
        rounds: of both.
        seconds: of each in a round.
    """
    case = CASES[key]
    deployment = deploy(graph := model(case.model, case.end), next(iter(candidates(graph).values())))
    inputs = noise_for(deployment)
    found = Streamed([], [])
    with running(deployment, in_flight=IN_FLIGHT) as workers:
        each_s = statistics.median(workers.latencies_s(inputs, WARM_UP))
        count = max(FEWEST, round(seconds / each_s))
        for _ in range(rounds):
            alone = min(count, 50)
            workers.latencies_s(inputs, alone)
            timeline = workers.coordinator.timeline(alone)
            for frame in computed_in(timeline, deployment.devices):
                found.busiest_s.append(max(sum(s for _, s in stages) for stages in frame.values()))
            found.per_s.append(_per_s(workers, inputs, count))
    return found


def _per_s(workers: Running, inputs: Arrays, count: int) -> float:
    ends_s = []
    for result in workers.coordinator.stream(inputs for _ in range(count)):
        assert outputs_of(result)
        ends_s.append(time.perf_counter())
    # Before as many have ended as are in flight, and while the last ones end, the stream is not full.
    return (len(ends_s) - 1 - 2 * IN_FLIGHT) / (ends_s[-1 - IN_FLIGHT] - ends_s[IN_FLIGHT])


# Swaps.


@dataclass(frozen=True)
class Swap:
    """A new strategy beside a running stream.

    Attributes:
        live_s: from asking for it until the first frame began on it.
        delay_frames: the longest that a frame or the next result was held up, in times between two results before it.
        lost: frames that ended with an error.
    """

    live_s: float
    delay_frames: float
    lost: int


def swaps(graph: Graph, count: int) -> list[Swap]:
    """Two frames of a model in flight, from halves in three volumes to halves in five and back again, so many times."""
    plans = [deploy(graph, halves(graph, volumes)) for volumes in (3, 5)]
    found = []
    with running(plans[0], in_flight=2) as workers:
        workers.latencies_s(noise_for(plans[0]), WARM_UP)
        for number in range(count):
            first = FirstFrame()
            following = NotedDeployment(plans[(number + 1) % 2], first, time.monotonic)
            found.append(_swap(workers, following, first))
    return found


def _swap(workers: Running, following: NotedDeployment, first: FirstFrame) -> Swap:
    asked: list[float] = []
    live_at: list[int] = []

    def more(begun: int) -> bool:
        if begun == FEWEST:
            asked.append(time.monotonic())
            workers.coordinator.deploy_beside(following, 2)
        if asked and first.at_s is None and time.monotonic() > asked[0] + SWAP_S:
            raise TimeoutError(f"the new strategy is not live after {SWAP_S} s: {workers.coordinator.beside_error}")
        if first.at_s is not None and not live_at:
            live_at.append(begun)
        return not live_at or begun < live_at[0] + FEWEST // 2

    frames = in_turn(workers, noise_for(following), 2, more, time.monotonic)
    assert first.at_s is not None
    lost = sum(frame.error is not None for frame in frames)
    return Swap(first.at_s - asked[0], delay_frames(frames, asked[0]), lost)


def delay_frames(frames: Sequence[Ended], since_s: float) -> float:
    """The longest that a frame or the next result was held up, in times between two results before.

    Args:
        frames: in order, at least three that ended before `since_s` and one after it.
        since_s: when what may hold them up began.
    """
    before = [frame for frame in frames if frame.ended_s <= since_s]
    after = [frame for frame in frames if frame.ended_s > since_s and frame.error is None]
    each_s = statistics.median(b.ended_s - a.ended_s for a, b in itertools.pairwise(before))
    usual_s = statistics.median(frame.latency_s for frame in before)
    gaps_s = [b.ended_s - a.ended_s for a, b in itertools.pairwise([before[-1], *after])]
    held_s = max(max(gaps_s) - each_s, max(frame.latency_s for frame in after) - usual_s)
    return max(0.0, held_s) / each_s


# Memory.


def memory_growth(warm_up: int, frames: int) -> dict[str, float]:
    """By how much of itself the memory (RSS) of each process has grown after so many frames of a small model, CURVE.

    The requester is a process of its own, which holds nothing else.

    Args:
        warm_up: frames before: what is kept of the latest frames is bounded, and must have filled up.
        frames: counted.
    """
    cores = own_cores()
    with child(requester_of_many, cores.requester, warm_up, frames) as process:
        found: dict[str, float] = process.answer(MANY_S)
    return found


def requester_of_many(pipe: Connection, warm_up: int, frames: int) -> None:
    """Runs the frames of `memory_growth` and answers what that returns."""
    name, shape, width = SMALL
    graph = load_model(name, shape, width=width)
    deployment = deploy(graph, halves(graph, 3))
    inputs = noise_for(deployment)
    with running(deployment, encrypted=True, in_flight=IN_FLIGHT) as workers:
        pids = {"requester": os.getpid(), **workers.pids}
        pipe.send("ready")
        in_turn(workers, inputs, IN_FLIGHT, functools.partial(operator.gt, warm_up), time.monotonic)
        before = {name: psutil.Process(pid).memory_info().rss for name, pid in pids.items()}
        left = frames
        while left > 0:
            # In pieces, since what is noted of every frame would grow.
            count = min(left, PIECE)
            in_turn(workers, inputs, IN_FLIGHT, functools.partial(operator.gt, count), time.monotonic)
            left -= count
        pipe.send({name: psutil.Process(pid).memory_info().rss / before[name] - 1.0 for name, pid in pids.items()})
