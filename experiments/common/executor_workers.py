"""Real workers, pinned, and a requester for the executor's benchmark: what it uses of the runtime is in this file."""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from distredge.errors import DistredgeError
from distredge.runtime.deployment import Deployment
from distredge.runtime.hosting.worker_process import WorkerProcesses, local_order
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.security import REQUESTER_NAME, Keys, make_keys
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.requester.pending import FrameResult, Pending

Arrays = Mapping[str, NDArray[Any]]

START_S = 60.0
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Cores:
    """Which core is whose.

    Attributes:
        workers: one for each worker.
        requester: what the requester may use: the rest, or all of them where a worker has every core.
    """

    workers: tuple[int, ...]
    requester: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """All of them."""
        return tuple(sorted({*self.workers, *self.requester}))

    @property
    def shared(self) -> bool:
        """Whether the requester shares the workers' cores."""
        return bool(set(self.workers) & set(self.requester))


def place_on(cores: Sequence[int], workers: int = 2) -> Cores:
    """Gives each worker a core of its own, as far as there are some, and the requester what is left.

    Args:
        cores: numbers of those that may be used, at least one.
        workers: how many workers run at the same time.
    """
    taken = tuple(cores[k % len(cores)] for k in range(workers))
    rest = tuple(core for core in cores if core not in taken)
    return Cores(taken, rest or tuple(cores))


def own_cores() -> Cores:
    """Cores of this computer as two workers and the requester use them.

    Of no more than two the requester uses both, and goes where the system puts it.
    """
    return place_on(_AT_START)


_AT_START = sorted(os.sched_getaffinity(0))
"""Before anything is pinned."""


def pin_process(pid: int, cores: Sequence[int]) -> None:
    """Keeps every thread of a process on some cores; threads that it starts later inherit that."""
    for thread in psutil.Process(pid).threads():
        os.sched_setaffinity(thread.id, set(cores))


class Others:
    """How much of some cores other programs use, from now on.

    Args:
        cores: numbers of the cores.
    """

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = cores
        self._began_s = time.monotonic()
        self._used_s = self._used()

    def share(self) -> float:
        """Their share so far, 0 to 1; processes of this one count as its own once they have ended."""
        seconds = (time.monotonic() - self._began_s) * len(self._cores)
        return min(1.0, max(0.0, (self._used() - self._used_s) / seconds))

    def _used(self) -> float:
        """Processor seconds of all programs on these cores, less those of this process and its children."""
        each = psutil.cpu_times(percpu=True)
        busy_s = sum(_busy_s(each[core]) for core in self._cores)
        own = os.times()
        return busy_s - own.user - own.system - own.children_user - own.children_system


def _busy_s(times: Any) -> float:
    # Linux counts those of guests among its users' as well.
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


@dataclass(frozen=True)
class Running:
    """Workers with a plan, and who asks them.

    Attributes:
        coordinator: the requester.
        network: makes the requester's sockets.
        addresses: of the workers.
        pids: process id of each worker.
    """

    coordinator: Coordinator
    network: ZmqNetwork
    addresses: tuple[WorkerAddress, ...]
    pids: Mapping[str, int]

    def latencies_s(self, inputs: Arrays, frames: int) -> list[float]:
        """Runs frames one after the other; returns the latency of each."""
        found = []
        for _ in range(frames):
            pending = self.coordinator.submit(inputs)
            pending.result()
            found.append(latency_of(pending))
        return found


def latency_of(pending: Pending) -> float:
    """Seconds from submitting a frame that ended well until its last output was there."""
    assert pending.latency_s is not None
    return pending.latency_s


def outputs_of(result: FrameResult) -> Arrays:
    """The outputs of what `Coordinator.stream` yields for one frame."""
    return result.result()


@contextmanager
def processes(
    names: Sequence[str], encrypted: bool, engine: Literal["onnxruntime", "sleep"] = "onnxruntime"
) -> Iterator[tuple[WorkerProcesses, tuple[WorkerAddress, ...], ZmqNetwork]]:
    """Workers, each on its core, where they listen, and the requester's network.

    Args:
        names: of the workers.
        encrypted: with CURVE and the authenticator, or in plaintext.
        engine: "sleep" computes nothing.
    """
    keys = make_keys(names)
    orders = [
        msgspec.structs.replace(local_order(name, keys[name].for_worker() if encrypted else None), engine=engine)
        for name in names
    ]
    mine: Keys | None = keys[REQUESTER_NAME] if encrypted else None
    cores = own_cores()
    workers = WorkerProcesses(orders)
    try:
        addresses = workers.wait(START_S, mine)
        for name, core in zip(names, cores.workers, strict=False):
            pin_process(workers.pids[name], [core])
        network = ZmqNetwork(mine.for_requester() if mine else None)
        try:
            yield workers, addresses, network
        finally:
            network.close()
    finally:
        workers.close()


@contextmanager
def running(
    deployment: Deployment,
    *,
    encrypted: bool = False,
    engine: Literal["onnxruntime", "sleep"] = "onnxruntime",
    in_flight: int = 1,
    names: Sequence[str] = (),
) -> Iterator[Running]:
    """Workers on which a deployment stands.

    Args:
        deployment: what to run first.
        encrypted: with CURVE and the authenticator, or in plaintext.
        engine: "sleep" computes nothing.
        in_flight: frames that may be in flight.
        names: of the workers, each on its core in this order; those of the deployment where none are given.
    """
    wanted = names or [deployment.devices[i] for i in deployment.busy]
    with (
        processes(wanted, encrypted, engine) as (workers, addresses, network),
        Coordinator(network, addresses, deadline_s=DEADLINE_S, connect_s=START_S) as coordinator,
    ):
        coordinator.deploy(deployment, in_flight)
        yield Running(coordinator, network, addresses, workers.pids)


def noise_for(deployment: Deployment) -> dict[str, NDArray[Any]]:
    """Inputs of seeded noise, of the shapes of the graph, such as (1, 3, 224, 224), and the strategy's dtypes."""
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(deployment.graph.tensors[name].shape).astype(dtype)
        for name, dtype in deployment.input_dtypes.items()
    }


@dataclass
class FirstFrame:
    """When frames were begun on a deployment, `at_s` on the clock of `time.monotonic`; None before the first."""

    at_s: float | None = None


class NotedDeployment(Deployment):
    """A deployment that notes when the requester begins the first frame on it, which is when it makes its outputs."""

    def __init__(self, plain: Deployment, first: FirstFrame, clock: Callable[[], float]) -> None:
        super().__init__(plain.graph, plain.strategy, plain.layout, plain.programs, plain.messages)
        object.__setattr__(self, "_first", first)
        object.__setattr__(self, "_clock", clock)

    def empty_outputs(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Notes the time; inputs such as (N, C, H, W) and what it returns as in `Deployment`."""
        first: FirstFrame = self.__dict__["_first"]
        if first.at_s is None:
            first.at_s = self.__dict__["_clock"]()
        return super().empty_outputs(inputs)


@dataclass(frozen=True)
class Ended:
    """A frame as it ended: when it was begun and its result was taken (`time.monotonic`), its latency, or its error."""

    begun_s: float
    ended_s: float
    latency_s: float
    error: DistredgeError | None = None


def in_turn(
    running: Running, inputs: Arrays, in_flight: int, more: Callable[[int], bool], clock: Callable[[], float]
) -> list[Ended]:
    """Runs frames with several in flight.

    Args:
        running: the workers.
        inputs: of every frame, such as (N, C, H, W).
        in_flight: how many at once.
        more: asked before each frame, with the number of those begun, whether there is to be one more.
        clock: the time in seconds.

    Returns:
        The frames in order.
    """
    waiting: deque[tuple[float, Pending]] = deque()
    found: list[Ended] = []
    begun = 0
    going = True
    while going or waiting:
        going = going and more(begun)
        if going:
            begun_s = clock()
            waiting.append((begun_s, running.coordinator.submit(inputs)))
            begun += 1
        while waiting and (not going or len(waiting) >= in_flight):
            begun_s, pending = waiting.popleft()
            try:
                pending.result()
                found.append(Ended(begun_s, clock(), latency_of(pending)))
            except DistredgeError as error:
                found.append(Ended(begun_s, clock(), 0.0, error))
    return found


@dataclass(frozen=True)
class Figure:
    """Seconds of the same thing done many times: median and best of them all."""

    median: float
    best: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Figure:
        """Of at least one."""
        return cls(statistics.median(seconds), min(seconds))
