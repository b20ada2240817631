"""Where the strategies of the fidelity campaign run: a testbed, or workers of this machine side by side."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from distredge.experiments.common.fidelity_draw import SetUp
from distredge.problem import Problem
from distredge.runtime.hosting.local_cluster import LocalCluster
from distredge.runtime.requester.pending import Pending
from distredge.strategy import Strategy


class Frames(Protocol):
    """What a testbed's `Measured` has that is used here; see there."""

    @property
    def latencies_s(self) -> tuple[float, ...]: ...
    @property
    def starts_s(self) -> tuple[float, ...]: ...
    @property
    def invalid(self) -> int: ...
    @property
    def frames(self) -> int: ...
    @property
    def dilation(self) -> float: ...
    @property
    def processor_share(self) -> float: ...
    @property
    def outputs(self) -> Mapping[str, Any]: ...


class Bed(Protocol):
    """What a `Testbed` has that is used here; see there."""

    @property
    def mode(self) -> str: ...

    def measure(
        self,
        problem: Problem,
        strategy: Strategy,
        inputs: Mapping[str, Any],
        frames: int = 20,
        in_flight: int = 1,
        warmup: int = 3,
    ) -> Frames: ...


OpenBed = Callable[[Problem, SetUp], AbstractContextManager[Bed]]


def open_bed(problem: Problem, set_up: SetUp) -> AbstractContextManager[Bed]:
    """What a set-up runs on: paced boards are dilated as far as needed, others not at all."""
    pinned = {name: core for core, name in enumerate(problem.cluster.names)} if set_up.pinned else {}
    if set_up.kind == "this-machine":
        return LocalWorkers(pinned)
    from distredge.testbed.testbed import Testbed

    paced = set_up.kind == "paced"
    return Testbed(
        problem.cluster,
        engine=set_up.engine,
        paced=paced,
        dilation="auto" if paced else 1.0,
        pinned=pinned,
    )


@dataclass(frozen=True)
class LocalFrames:
    """Frames of a strategy on workers of this machine; the fields are those of a testbed's `Measured`."""

    latencies_s: tuple[float, ...]
    processor_share: float
    outputs: Mapping[str, Any]
    starts_s: tuple[float, ...] = ()
    invalid: int = 0
    dilation: float = 1.0

    @property
    def frames(self) -> int:
        """All of them count."""
        return len(self.latencies_s)


class LocalWorkers(AbstractContextManager["LocalWorkers"]):
    """Workers of this machine as `deploy-strategy` starts them, which may be pinned to a core each.

    Args:
        pinned: worker -> core.
    """

    mode = "this-machine"

    def __init__(self, pinned: Mapping[str, int]) -> None:
        self._pinned = pinned

    def __exit__(self, *_: object) -> None:
        """Nothing stands between two strategies."""

    def measure(
        self,
        problem: Problem,
        strategy: Strategy,
        inputs: Mapping[str, Any],
        frames: int = 20,
        in_flight: int = 1,
        warmup: int = 3,
    ) -> LocalFrames:
        """Starts workers, runs a strategy on them, and ends them; see `Testbed.measure`."""
        with LocalCluster(problem, strategy, in_flight=in_flight) as local:
            for name, pid in local.pids.items():
                if name in self._pinned:
                    pin(pid, self._pinned[name])
            outputs = local.infer(inputs)
            self._run(local, inputs, warmup, in_flight)
            psutil.cpu_percent()
            latencies_s = self._run(local, inputs, frames, in_flight)
            return LocalFrames(tuple(latencies_s), psutil.cpu_percent() / 100.0, outputs)

    @staticmethod
    def _run(local: LocalCluster, inputs: Mapping[str, Any], frames: int, in_flight: int) -> list[float]:
        waiting: deque[Pending] = deque()
        found: list[float] = []
        left = frames
        while left or waiting:
            while left and len(waiting) < in_flight:
                waiting.append(local.submit(inputs))
                left -= 1
            pending = waiting.popleft()
            pending.result()
            found.append(pending.latency_s or 0.0)
        return found


def pin(pid: int, core: int) -> None:
    """Keeps all threads of a process on one core."""
    for thread in psutil.Process(pid).threads():
        os.sched_setaffinity(thread.id, {core})
