"""Strategies of one problem as arrays, for searches, and back."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distredge.latency.beside import beside
from distredge.latency.costs.computers import interchangeable
from distredge.model.wires import WIRE_NUMBERS, is_packed, wire_of_number
from distredge.planners.annealing.strategy_arrays import Batch, Choices, empty_batch
from distredge.planners.common.building import build, volume

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.problem import Problem
    from distredge.strategy import PlannerRef, Strategy

MOST_VOLUMES = 48
"""Volumes that a searched strategy may have; every exchange costs at least its messages' fixed time."""

MOST_CANDIDATES = 48
"""Cuts that a search considers."""

TRIALS, TRIAL_STEPS, CROSSES = 0.003, 400, 0.3
"""How often a chain of the search goes on trial with another structure, for how many steps, and how many of these
structures come from two chains."""

LEAST_REACH, REACH = 0.05, 50.0
"""Share of a map's rows that a step moves at most: at least, and per unit of temperature."""


class Codec:
    """What may be chosen in a problem, and how strategies stand in a `Batch`.

    Args:
        problem: model and cluster.

    Attributes:
        names: the cluster's devices.
        candidates: cuts that a search considers.
        choices: what the problem leaves open.
        input_wire: number of the wire in which the input travels.
        most_volumes: volumes that fit a batch.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.names = problem.cluster.names
        self.input_wire = min(WIRE_NUMBERS[dtype] for dtype in problem.input_dtypes)
        self._wires = wire_of_number(problem.wires)
        self.candidates = candidate_cuts(problem)
        self.most_volumes = min(MOST_VOLUMES, len(problem.graph.cuts))
        self.choices = Choices(
            np.array(self.candidates, np.int64),
            np.array([cut.height for cut in problem.graph.cuts], np.int64),
            np.array(interchangeable(problem.cluster), np.int64),
            problem.free_order,
            np.array(sorted(WIRE_NUMBERS[wire] for wire in problem.wires), np.int64),
            any(map(is_packed, problem.wires)),
            problem.boundary_first,
            TRIALS,
            TRIAL_STEPS,
            CROSSES,
            LEAST_REACH,
            REACH,
        )

    def empty(self, size: int) -> Batch:
        """A batch of the problem's dimensions."""
        return empty_batch(size, self.most_volumes, len(self.names), int(self.choices.wires[0]))

    def strategy(self, batch: Batch, k: int, planner: PlannerRef) -> Strategy:
        """One strategy of a batch; devices that do nothing are left out where the problem lets their order free."""
        graph = self.problem.graph
        count = int((batch.cuts[k] >= 0).sum())
        rows = batch.rows[k, :count]
        if self.problem.free_order:
            works = np.asarray((np.diff(rows, axis=1) > 0).any(axis=0))
            kept = [slab for slab in range(len(self.names)) if works[slab] or slab == batch.head[k]]
        else:
            kept = list(range(len(self.names)))
        volumes = []
        for w in range(count):
            points = [0, *(int(rows[w, slab + 1]) for slab in kept)]
            made = volume(graph.cuts[batch.cuts[k, w]], points)
            wire = self._wires[int(batch.wires[k, w])]
            volumes.append(dataclasses.replace(made, wire=wire, boundary_first=bool(batch.boundary[k, w])))
        devices = [self.names[batch.order[k, slab]] for slab in kept]
        return build(self.problem, devices, volumes, self.names[batch.order[k, batch.head[k]]], planner)

    def fits(self, strategy: Strategy) -> bool:
        """Whether a batch can hold a strategy as it is, and the problem lets it be chosen."""
        problem = self.problem
        return (
            len(strategy.volumes) <= self.most_volumes
            and all(v.columns is None and v.wire in problem.wires for v in strategy.volumes)
            and (problem.boundary_first or not any(v.boundary_first for v in strategy.volumes))
            and (problem.free_order or _in_order([self.names.index(name) for name in strategy.devices]))
        )

    def encode(self, strategies: Sequence[Strategy]) -> Batch:
        """Strategies that fit, as a batch; devices that one leaves out get empty shares."""
        batch = self.empty(len(strategies))
        for k, strategy in enumerate(strategies):
            used = [self.names.index(name) for name in strategy.devices]
            if self.problem.free_order:
                order = used + [i for i in range(len(self.names)) if i not in used]
            else:
                order = list(range(len(self.names)))
            batch.order[k] = order
            batch.head[k] = order.index(self.names.index(strategy.head.device))
            slabs = {device: slab for slab, device in enumerate(used)}
            for w, (chosen, decision) in enumerate(
                zip(strategy.volumes, strategy.decisions(self.problem.graph), strict=True)
            ):
                batch.cuts[k, w] = decision.cut.index
                batch.wires[k, w] = WIRE_NUMBERS[chosen.wire]
                batch.boundary[k, w] = chosen.boundary_first
                sizes = np.diff(chosen.rows)
                batch.rows[k, w, 1:] = np.cumsum([sizes[slabs[d]] if d in slabs else 0 for d in order])
        return batch


def _in_order(places: list[int]) -> bool:
    return places == sorted(places)


def candidate_cuts(problem: Problem) -> list[int]:
    """Cuts that a search considers, of each graph looked for once; the last one ends the body.

    Between two cuts without an operator that widens its rows (kernel 1, elementwise), cutting later costs no halo. Of
    such a run the last cut and the one with the fewest bytes alive are kept. Of more than `MOST_CANDIDATES` those go
    first that have more bytes alive than their neighbours and lie close to them.
    """
    graph = problem.graph
    return list(beside(graph).get("candidate cuts", (), lambda: _candidates(graph)))


def _candidates(graph: Graph) -> list[int]:
    alive = [sum(graph.tensors[t].size_bytes for t in cut.tensors) for cut in graph.cuts]
    runs: list[list[int]] = [[]]
    for cut in graph.cuts:
        runs[-1].append(cut.index)
        following = graph.cuts[cut.index + 1].position if cut.index + 1 < len(graph.cuts) else cut.position
        if any(_widens(graph, place) for place in range(cut.position, following)):
            runs.append([])
    last = graph.cuts[-1].index
    kept = sorted({last} | {i for run in runs if run for i in (run[-1], min(run, key=lambda i: alive[i]))})
    done = [0, *itertools.accumulate(graph.macs[i] for i in graph.body.operators)]
    while len(kept) > MOST_CANDIDATES:
        # The first and the last stay; of the others the one that is least worth having goes.
        costs = [
            alive[kept[x]]
            / min(alive[kept[x - 1]], alive[kept[x + 1]])
            / (0.01 * done[-1] + done[graph.cuts[kept[x + 1]].position] - done[graph.cuts[kept[x - 1]].position])
            for x in range(1, len(kept) - 1)
        ]
        del kept[1 + costs.index(max(costs))]
    return kept


def _widens(graph: Graph, place: int) -> bool:
    """Whether the operator at a place of the body needs other rows than it makes."""
    op = graph.operators[graph.body.operators[place]]
    out = graph.tensors[op.outputs[0]].height
    kernel = op.attributes.get("kernel_shape", ())
    if any(int(k) > 1 for k in kernel):
        return True
    return any(graph.tensors[name].height not in (1, out) for name in op.activation_names)
