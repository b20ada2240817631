"""LC-PSS: where to cut a CNN into layer-volumes (Hou et al., "DistrEdge", IPDPS 2022, arXiv 2202.01699, Algorithm 1).

Transmitted data is weighed against repeated computation: a partition scheme costs ``C = alpha * T + (1 - alpha) * O``,
where T is the data that its volumes fetch and O the multiply-adds that the devices do together, recomputed halos
included, both averaged over a fixed set of random split decisions. Starting from one volume, every pass puts the
cheapest location into each volume of the scheme of the pass before, until a pass adds nothing.

What the paper leaves open is chosen here as follows.

- Normalisation: T is divided by its value for the scheme with a cut at every location (the most data), O by its value
  for one volume (the most recomputation), so that both are at most about 1 and `alpha` weighs like against like.
- T: bytes that cross the network into each volume, in float32: rows that a device needs and does not own. The first
  volume's come from the requester. What head and requester fetch at the end is the same for every scheme and left out;
  so are operators whose results nobody but the requester reads, but in volumes that end the body.
- Random decisions: at every location D - 1 cut points drawn uniformly and sorted, independent of one another.
- Ties: a location is added only if it lowers the score; among equals the earliest one.
- Layers: the locations are the cuts of `Graph.cuts` (18 for VGG-16: 13 convolutions and 5 poolings). The head is no
  volume here. The paper reports 16 volumes of VGG-16 for `alpha` 0 and 2 for `alpha` 1; this gives 13 and 1, which is
  the same if the 3 fully connected layers count one each in the first case (13 + 3) and, the paper's search starting
  from the locations of the first and the last layer, once in the second (1 + 1).
- A tensor that skips whole volumes is taken as dealt out like the others where the volume that reads it starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distredge.errors import ConfigError
from distredge.latency.tables.volume_geometry import RowSpans
from distredge.model.graph import Graph
from distredge.planners.common.split_rows import fetched_rows, walk_of_splits

ALPHA = 0.75
"""Weight of transmission in the score (paper, section V)."""

N_RANDOM = 100
"""Number of random split decisions (paper, section V)."""

_ROUNDING = 1e-12
"""A gain that is smaller than this share of a score is a tie."""

IntArray = NDArray[np.int64]


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
    splits = random_splits(graph, n_devices, n_random, seed)
    n = len(graph.cuts)
    tables = ScoreTables(np.zeros((n + 1, n + 1)), np.zeros((n + 1, n + 1)))
    for end in range(1, n + 1):
        _fill_column(graph, end, splits, tables)
    return tables


def random_splits(graph: Graph, n_devices: int, n_random: int, seed: int) -> list[IntArray]:
    """Returns random cut points of the rows at every cut, (n_random, n_devices + 1) int64 each, from 0 to all rows."""
    rng = np.random.default_rng(seed)
    found = []
    for cut in graph.cuts:
        inner = np.sort(rng.integers(0, cut.height + 1, (n_random, n_devices - 1)), axis=1)
        zeros = np.zeros((n_random, 1), np.int64)
        found.append(np.concatenate([zeros, inner, zeros + cut.height], axis=1))
    return found


def _fill_column(graph: Graph, end: int, splits: list[IntArray], tables: ScoreTables) -> None:
    """Fills in what the volumes that end at a location cost."""
    starts = {cut.position: cut.index + 1 for cut in graph.cuts[: end - 1]} | {0: 0}
    walk = walk_of_splits(graph, end, splits[end - 1])
    walk.owned = {name: rows for name, rows in walk.owned.items() if name in graph.cuts[end - 1].tensors}
    operations = 0.0
    for place in range(graph.cuts[end - 1].position - 1, -1, -1):
        index = graph.body.operators[place]
        walk.step(index)
        if index in walk.computed and graph.macs[index]:
            height = graph.tensors[graph.operators[index].outputs[0]].height
            operations += graph.macs[index] / height * _mean_sum(walk.computed[index].count)
        start = starts.get(place)
        if start is not None:
            tables.operations[start, end] = operations
            tables.transmitted[start, end] = _fetched(graph, start, splits, walk.needed)


def _fetched(graph: Graph, start: int, splits: list[IntArray], needed: Mapping[str, RowSpans]) -> float:
    """Mean bytes that a volume from location `start` fetches from others."""
    # Nobody owns what is needed at location 0, whose splits do not count.
    rows = fetched_rows(graph, max(1, start), splits[max(1, start) - 1], needed)
    return sum(graph.tensors[name].row_bytes * _mean_sum(count) for name, count in rows.items())


def _mean_sum(rows: IntArray) -> float:
    """Sum over devices, mean over decisions."""
    return float(rows.sum(axis=1).mean())
