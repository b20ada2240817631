"""A strategy built volume by volume: what an environment asks after each split decision."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.errors import StrategyError, Unsupported, located
from distredge.latency.simulator.simulation import Simulation, run
from distredge.model.laying_out import lay_out_decisions
from distredge.model.layout import Layout
from distredge.model.volumes import Decision

if TYPE_CHECKING:
    from distredge.problem import Problem


class StepSimulator:
    """Simulates the volumes decided so far.

    Volumes that send their boundary first are not among what it can do: which rows of a volume go first is known only
    when the volumes that read them are decided, so that a later decision would change earlier times. `simulate` prices
    them when the strategy is complete.

    Args:
        problem: model and cluster.
        devices: names in slab order; None takes the cluster's.
        input_dtype: dtype in which the requester sends the input.
        wire: dtype in which rows travel between volumes.
        start_s: time on the links' traces at which the image starts.
        boundary_first: must be False, as said above.

    Raises:
        Unsupported: for volumes that send their boundary first.
    """

    def __init__(
        self,
        problem: Problem,
        devices: Sequence[str] | None = None,
        *,
        input_dtype: str = "float32",
        wire: str = "float32",
        start_s: float = 0.0,
        boundary_first: bool = False,
    ) -> None:
        if boundary_first:
            raise Unsupported(
                "volumes that send their boundary first, step by step; `simulate` prices whole strategies"
            )
        self.problem = problem
        self.devices = tuple(problem.cluster.names if devices is None else devices)
        self.input_dtype = input_dtype
        self.wire = wire
        self.start_s = start_s
        self._decisions: list[Decision] = []

    @property
    def volumes(self) -> int:
        """Number of volumes decided so far."""
        return len(self._decisions)

    def reset(self, start_s: float | None = None) -> None:
        """Starts over, at another time on the traces when one is given."""
        self._decisions = []
        if start_s is not None:
            self.start_s = start_s

    def advance(self, cut: int, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """Adds a volume.

        Under shared links a later volume's messages may still delay an earlier one's, and the devices that send them,
        so that these times are those of the volumes decided so far.

        Args:
            cut: where it ends, an index into `graph.cuts` after the volume before.
            rows: (n_devices + 1,) cut points of the reference's rows, 0 first, its height last.

        Returns:
            (n_devices,) seconds at which each device has done its part of this volume and all before, and has sent what
            is known to be needed of them; 0 for one that has had nothing to do.

        Raises:
            StrategyError: if the volume does not follow the one before or the rows do not cover the tensor.
            Infeasible: if a message has to cross a link that is down.
        """
        self._decisions.append(self._decision(cut, rows))
        simulation = run(self.problem, self._prefix(), start_s=self.start_s)
        return np.array(simulation.free_s[:-1])

    def finish(self, head: int) -> float:
        """Returns the latency of the whole strategy.

        Args:
            head: index of the head device.

        Raises:
            StrategyError: if the last volume does not end the body.
        """
        return self._whole(head).frames[0].done_s

    def _whole(self, head: int) -> Simulation:
        layout = lay_out_decisions(self.problem.graph, self.devices, self._decisions, head, self.input_dtype)
        return run(self.problem, layout, start_s=self.start_s)

    def _decision(self, cut: int, rows: Sequence[int] | NDArray[np.int64]) -> Decision:
        cuts = self.problem.graph.cuts
        first = self._decisions[-1].cut.index + 1 if self._decisions else 0
        if not first <= cut < len(cuts):
            raise StrategyError(located("step", "cut", cut, f"{first} to {len(cuts) - 1}"))
        points = tuple(int(x) for x in rows)
        rising = all(a <= b for a, b in itertools.pairwise(points))
        if len(points) != len(self.devices) + 1 or points[0] != 0 or points[-1] != cuts[cut].height or not rising:
            accepted = f"{len(self.devices) + 1} cut points from 0 to {cuts[cut].height} that never fall"
            raise StrategyError(located("step", "rows", list(points), accepted))
        return Decision(cuts[cut], points, None, self.wire)

    def _prefix(self) -> Layout:
        """Layout of the volumes decided so far: of a strategy that ends on the first device, without its end."""
        last = self.problem.graph.cuts[-1]
        decisions = list(self._decisions)
        if decisions[-1].cut.index != last.index:
            decisions.append(Decision(last, (0, *[last.height] * len(self.devices)), None, self.wire))
        layout = lay_out_decisions(self.problem.graph, self.devices, decisions, 0, self.input_dtype)
        stages = tuple(s for s in layout.stages if 0 <= s.volume < len(self._decisions))
        transfers = tuple(t for t in layout.transfers if t.stage < len(stages))
        return Layout(layout.devices, stages, transfers, layout.tensors, False)
