"""LC-PSS: where to cut a CNN into layer-volumes, by transmitted data against repeated computation.

DistrEdge (IPDPS 2022), Algorithm 1. A partition scheme costs ``C = alpha * T + (1 - alpha) * O``: T is the data that
its volumes fetch, O the multiply-adds that the devices do together, recomputed halos included, both averaged over a
fixed set of random split decisions. Starting from one volume, every pass puts the cheapest location into each volume
of the scheme of the pass before, until a pass adds nothing.

What the paper leaves open is chosen here as follows.

- Normalisation: T is divided by its value for the scheme with a cut at every location (the most data), O by its value
  for one volume (the most recomputation), so that both are at most about 1 and `alpha` weighs like against like.
- T: bytes that cross the network into each volume, in float32: rows that a device needs and does not own. The first
  volume's come from the requester. What head and requester fetch at the end is the same for every scheme and left out.
- Random decisions: at every location D - 1 cut points drawn uniformly and sorted, independent of one another.
- Ties: a location is added only if it lowers the score; among equals the earliest one.
- Layers: the locations are the cuts of `Graph.cuts` (18 for VGG-16: 13 convolutions and 5 poolings). The head is no
  volume here. The paper reports 16 volumes of VGG-16 for `alpha` 0 and 2 for `alpha` 1; this gives 13 and 1, which is
  the same if the 3 fully connected layers count one each in the first case (13 + 3) and, the paper's search starting
  from the locations of the first and the last layer, once in the second (1 + 1).
- A tensor that skips whole volumes is taken as dealt out like the others where the volume that reads it starts.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distredge.errors import ConfigError
from distredge.model.cuts import needs_of
from distredge.model.graph import Graph
from distredge.model.nodes import Operator
from distredge.model.operators import Kind
from distredge.model.rows import Interval, Region

ALPHA = 0.75
"""Weight of transmission in the score (paper, section V)."""

N_RANDOM = 100
"""Number of random split decisions (paper, section V)."""

_ROUNDING = 1e-12
"""A gain that is smaller than this share of a score is a tie."""

IntArray = NDArray[np.int64]
Rows = tuple[IntArray, IntArray]
"""First row and end of the rows of each device under each random decision, (n_random, n_devices) each."""


@dataclass(frozen=True)
class ScoreTables:
    """What every possible volume costs, averaged over the random split decisions.

    Location 0 is the graph's input, location i the cut `graph.cuts[i - 1]`.

    Attributes:
        transmitted: (n_cuts + 1, n_cuts + 1), bytes that the volume between two locations fetches.
        operations: (n_cuts + 1, n_cuts + 1), multiply-adds of the volume between two locations.
    """

    transmitted: NDArray[np.float64]
    operations: NDArray[np.float64]

    @property
    def n_locations(self) -> int:
        """Number of cuts."""
        return len(self.transmitted) - 1

    def combined(self, alpha: float) -> NDArray[np.float64]:
        """The score of every possible volume, (n_cuts + 1, n_cuts + 1); a scheme's score is the sum of its volumes'."""
        last = self.n_locations
        every = np.arange(last)
        most_transmitted = float(self.transmitted[every, every + 1].sum())
        most_operations = float(self.operations[0, last])
        return alpha * self.transmitted / max(most_transmitted, 1.0) + (
            (1.0 - alpha) * self.operations / max(most_operations, 1.0)
        )


def partition(
    graph: Graph, n_devices: int, alpha: float = ALPHA, n_random: int = N_RANDOM, seed: int = 0
) -> tuple[int, ...]:
    """Chooses where to cut.

    Args:
        graph: the model.
        n_devices: number of devices that share it, at least 1.
        alpha: weight of transmission against computation, 0 to 1.
        n_random: number of random split decisions, at least 1.
        seed: seed of these.

    Returns:
        Indices into `graph.cuts`, rising; the last one ends the body.

    Raises:
        ConfigError: if an argument is out of its range.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(f"alpha: found {alpha!r}, accepted: a number from 0 to 1")
    return search(score_tables(graph, n_devices, n_random, seed).combined(alpha))


def search(score: NDArray[np.float64]) -> tuple[int, ...]:
    """Algorithm 1 on a table of volume scores, (n_cuts + 1, n_cuts + 1); returns indices of cuts."""
    scheme = [0, len(score) - 1]
    while True:
        grown = set(scheme)
        for start, end in itertools.pairwise(scheme):
            inside = np.arange(start + 1, end)
            if not len(inside):
                continue
            cost = score[start, inside] + score[inside, end]
            best = int(np.argmin(cost))
            if cost[best] < score[start, end] * (1.0 - _ROUNDING):
                grown.add(int(inside[best]))
        if len(grown) == len(scheme):
            return tuple(location - 1 for location in scheme[1:])
        scheme = sorted(grown)


def score_tables(graph: Graph, n_devices: int, n_random: int = N_RANDOM, seed: int = 0) -> ScoreTables:
    """Computes what every possible volume transmits and computes, over the same random split decisions.

    Raises:
        ConfigError: if `n_devices` or `n_random` is less than 1.
    """
    if n_devices < 1 or n_random < 1:
        raise ConfigError(f"LC-PSS: found {n_devices} devices and {n_random} decisions, accepted: at least 1 of each")
    walker = _Walker(graph, n_devices, n_random, seed)
    n = len(graph.cuts)
    tables = ScoreTables(np.zeros((n + 1, n + 1)), np.zeros((n + 1, n + 1)))
    for end in range(1, n + 1):
        walker.walk(end, tables)
    return tables


class _Walker:
    """Walks the body backwards from a cut, for all devices and random decisions at once.

    Which rows of a tensor are needed depends only on where the volume ends; so one walk prices the volumes from every
    start to that end.
    """

    def __init__(self, graph: Graph, n_devices: int, n_random: int, seed: int) -> None:
        self.graph = graph
        rng = np.random.default_rng(seed)
        self.shares: list[Rows] = []
        for cut in graph.cuts:
            inner = np.sort(rng.integers(0, cut.height + 1, (n_random, n_devices - 1)), axis=1)
            zeros = np.zeros((n_random, 1), np.int64)
            points = np.concatenate([zeros, inner, zeros + cut.height], axis=1)
            self.shares.append((points[:, :-1], points[:, 1:]))
        self.reach = {
            (index, position): _reach(graph, graph.operators[index], position)
            for index in graph.body.operators
            for position in graph.operators[index].activations
        }
        self.start_of = {cut.position: cut.index + 1 for cut in graph.cuts[:-1]} | {0: 0}

    def owned(self, tensor: str, location: int) -> Rows:
        """Rows of a tensor that each device owns at a cut."""
        cut = self.graph.cuts[location - 1]
        height = self.graph.tensors[tensor].height
        first, stop = self.shares[location - 1]
        return first * height // cut.height, stop * height // cut.height

    def walk(self, end: int, tables: ScoreTables) -> None:
        """Fills the column `end` of both tables."""
        graph = self.graph
        cut = graph.cuts[end - 1]
        needed: dict[str, Rows] = {}
        operations = 0.0
        for place in range(cut.position - 1, -1, -1):
            op = graph.operators[graph.body.operators[place]]
            reduces = graph.body.verdicts[op.index].kind is Kind.REDUCE
            out = _hull_all(
                [needed.pop(name) for name in op.outputs if name in needed]
                + [self.owned(name, end) for name in op.outputs if name in cut.tensors]
            )
            if out is not None:
                height = graph.tensors[op.outputs[0]].height
                operations += graph.macs[op.index] / height * _mean_sum(out[1] - out[0])
            for position in op.activations:
                name = op.inputs[position]
                # A reduction takes every row once: each device the rows that it owns at the end of the volume.
                need = self.owned(name, end) if reduces else self._need(op, position, out)
                if need is not None:
                    needed[name] = _hull(needed[name], need) if name in needed else need
            start = self.start_of.get(place)
            if start is not None:
                tables.operations[start, end] = operations
                tables.transmitted[start, end] = self._fetched(needed, start)

    def _need(self, op: Operator, position: int, out: Rows | None) -> Rows | None:
        """Rows of an input that the rows `out` of the output read."""
        if out is None:
            return None
        first_of, stop_of = self.reach[op.index, position]
        empty = out[1] <= out[0]
        first = np.where(empty, 0, first_of[np.minimum(out[0], len(first_of) - 1)])
        stop = np.where(empty, 0, stop_of[np.maximum(out[1] - 1, 0)])
        return first, stop

    def _fetched(self, needed: dict[str, Rows], start: int) -> float:
        """Mean bytes that a volume from location `start` fetches from others."""
        total = 0.0
        for name, (first, stop) in needed.items():
            rows = stop - first
            if name in self.graph.producer:
                own_first, own_stop = self.owned(name, start)
                rows = rows - np.maximum(0, np.minimum(stop, own_stop) - np.maximum(first, own_first))
            total += self.graph.tensors[name].row_bytes * _mean_sum(rows)
        return total


def _mean_sum(rows: IntArray) -> float:
    """Sum over devices, mean over decisions."""
    return float(rows.sum(axis=1).mean())


def _hull_all(intervals: list[Rows]) -> Rows | None:
    return functools.reduce(_hull, intervals) if intervals else None


def _hull(one: Rows, other: Rows) -> Rows:
    """Elementwise hull; empty intervals count for nothing."""
    here, there = one[1] > one[0], other[1] > other[0]
    both = here & there
    first = np.where(both, np.minimum(one[0], other[0]), np.where(there, other[0], one[0]))
    stop = np.where(both, np.maximum(one[1], other[1]), np.where(there, other[1], one[1]))
    return first, stop


def _reach(graph: Graph, op: Operator, position: int) -> Rows:
    """First input row, and the end of the input rows, that each single output row reads; both never fall."""
    height = graph.tensors[op.outputs[0]].height
    needs = [needs_of(graph, graph.body, op, position, Region(Interval(row, row + 1))).rows for row in range(height)]
    first = np.array([need.start for need in needs], np.int64)
    stop = np.array([need.stop for need in needs], np.int64)
    return np.minimum.accumulate(first[::-1])[::-1], np.maximum.accumulate(stop)
