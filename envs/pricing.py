"""Times of strategies that are being built, many at once: by the compiled kernel, or by the simulator where it must."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from distredge.errors import Infeasible, Unsupported
from distredge.latency import StepSimulator
from distredge.model.wires import WIRE_NUMBERS

if TYPE_CHECKING:
    from distredge.latency.kernel.kernel import Kernel
    from distredge.problem import Problem

_log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = NDArray[np.int64] | NDArray[np.int32]


class EpisodePricer(Protocol):
    """Says when the devices are done with the volumes decided, and what a whole strategy costs."""

    def __call__(self, cuts: Ints, rows: Rows, head: Ints, cluster: Ints, start_s: Floats) -> tuple[Floats, Floats]:
        """Prices B strategies of up to L volumes on D devices.

        Args:
            cuts: (B, L) index into `graph.cuts` where each volume ends; -1 for those not decided.
            rows: (B, L, D + 1) cut points of each volume.
            head: (B,) index of the head device.
            cluster: (B,) index of the problem.
            start_s: (B,) time on the links' traces.

        Returns:
            (B, D) seconds at which each device has done the volumes decided, and (B,) seconds of the whole strategy,
            NaN where it is not whole; both infinite where a link that is needed is down.
        """


def make_pricer(problems: Sequence[Problem], input_dtype: str) -> EpisodePricer:
    """Returns the quickest pricer that knows these clusters."""
    if find_spec("numba") is None:
        _log.info("without numba the simulator prices every step; pip install 'distredge[plan]' makes that faster")
        return SimulatorPricer(problems, input_dtype)
    from distredge.latency.kernel.kernel import Kernel

    try:
        kernel = Kernel(problems[0].graph, [problem.cluster for problem in problems])
    except Unsupported as reason:
        _log.info("the simulator prices every step: the kernel does not know %s", reason)
        return SimulatorPricer(problems, input_dtype)
    return KernelPricer(kernel, input_dtype, SimulatorPricer(problems, input_dtype))


class KernelPricer:
    """Prices with the compiled kernel; strategies that it does not know go to another pricer."""

    def __init__(self, kernel: Kernel, input_dtype: str, otherwise: EpisodePricer) -> None:
        self.kernel = kernel
        self._input_wire = WIRE_NUMBERS[input_dtype]
        self._otherwise = otherwise

    def __call__(self, cuts: Ints, rows: Rows, head: Ints, cluster: Ints, start_s: Floats) -> tuple[Floats, Floats]:
        try:
            finish_s, latency_s = self.kernel.finish_s(
                cuts, rows, head, cluster=cluster, start_s=start_s, input_wire=self._input_wire
            )
        except Unsupported:
            return self._otherwise(cuts, rows, head, cluster, start_s)
        down = np.isinf(latency_s) | np.isinf(finish_s).any(axis=1)
        finish_s[down], latency_s[down] = math.inf, math.inf
        return finish_s, latency_s


class KnownPricer:
    """Prices with the compiled kernel what has no mistakes and only volumes that are tabulated, without looking."""

    def __init__(self, kernel: Kernel, input_dtype: str) -> None:
        from distredge.latency.kernel.arguments import Plans
        from distredge.latency.kernel.kernel import room_for

        self._kernel, self._plans, self._room = kernel, Plans, room_for
        self._input_wire = WIRE_NUMBERS[input_dtype]

    def __call__(self, cuts: Ints, rows: Rows, head: Ints, cluster: Ints, start_s: Floats) -> tuple[Floats, Floats]:
        count, length, points = rows.shape
        order = np.empty((count, points - 1), np.int64)
        order[:] = np.arange(points - 1)
        plans = self._plans(
            which=cluster,
            cuts=np.ascontiguousarray(cuts),
            rows=np.ascontiguousarray(rows, np.int32),
            order=order,
            head=head,
            wires=np.full((count, length), WIRE_NUMBERS["float32"], np.int64),
            input_wire=np.full(count, self._input_wire, np.int64),
            boundary=np.zeros((count, length), np.int64),
            start_s=start_s,
        )
        found = self._room(plans, True)
        self._kernel.call_general(plans, found, False)
        return found.finish_s, found.latency


class SimulatorPricer:
    """Prices with the simulator, one strategy at a time; one that goes on from the call before is not begun anew."""

    def __init__(self, problems: Sequence[Problem], input_dtype: str) -> None:
        self._problems = problems
        self._dtype = input_dtype
        self._steps: dict[int, _Steps] = {}

    def __call__(self, cuts: Ints, rows: Rows, head: Ints, cluster: Ints, start_s: Floats) -> tuple[Floats, Floats]:
        count, n_devices = len(cuts), rows.shape[2] - 1
        finish_s, latency_s = np.empty((count, n_devices)), np.empty(count)
        for b in range(count):
            volumes = [(int(c), tuple(r)) for c, r in zip(cuts[b], rows[b].tolist(), strict=True) if c >= 0]
            steps = self._steps.get(b)
            key = (int(cluster[b]), float(start_s[b]))
            if steps is None or steps.key != key or steps.volumes != volumes[: len(steps.volumes)]:
                simulator = StepSimulator(self._problems[key[0]], input_dtype=self._dtype, start_s=key[1])
                steps = self._steps[b] = _Steps(key, simulator)
            finish_s[b], latency_s[b] = steps.advance(volumes, int(head[b]))
        return finish_s, latency_s


class _Steps:
    """A strategy that is being simulated volume by volume."""

    def __init__(self, key: tuple[int, float], simulator: StepSimulator) -> None:
        self.key = key
        self.volumes: list[tuple[int, tuple[int, ...]]] = []
        self._simulator = simulator
        self._finish_s: Floats = np.zeros(len(simulator.devices))

    def advance(self, volumes: list[tuple[int, tuple[int, ...]]], head: int) -> tuple[Floats, float]:
        """Adds the volumes that are new; returns times of the devices and of the whole strategy."""
        try:
            for cut, rows in volumes[len(self.volumes) :]:
                self.volumes.append((cut, rows))
                self._finish_s = self._simulator.advance(cut, rows)
            whole = volumes[-1][0] == len(self._simulator.problem.graph.cuts) - 1
            return self._finish_s, self._simulator.finish(head) if whole else math.nan
        except Infeasible:
            self._finish_s = np.full(len(self._simulator.devices), math.inf)
            return self._finish_s, math.inf
