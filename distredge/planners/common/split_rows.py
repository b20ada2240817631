"""Which rows every device computes, needs and fetches under a batch of splits, in the volumes with one end.

Location 0 is the input, location i the cut `graph.cuts[i - 1]`. Which rows of a tensor a volume needs depends only on
where it ends; so one walk backwards from an end serves the volumes from every start to it. After the operators from a
start on, `needed` of the walk is what the volume from there needs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.latency.tables.volume_geometry import PartRows, RowSpans, rising_needs
from distredge.model.volumes import BackwardWalk, VolumeGraph, volume_between

if TYPE_CHECKING:
    from distredge.model.graph import Graph

Ints = NDArray[np.int64]


def walk_of_splits(graph: Graph, end: int, points: Ints) -> BackwardWalk[RowSpans]:
    """Returns a walk from a location back to the input; its rows are (n_splits, n_devices).

    Args:
        graph: the model.
        end: location, 1 to the number of cuts.
        points: (n_splits, n_devices + 1) cut points of the rows at `end`.
    """
    return BackwardWalk(graph, graph.once(_volume_to, end), rows_of_splits(graph, end, points))


def _volume_to(graph: Graph, end: int) -> VolumeGraph:
    """The volume from the input to a location, its operators those of the whole body.

    A walk steps through some of these only, and many locations would each want what holds for all operators before it.
    """
    body, cut = graph.body, graph.cuts[end - 1]
    whole = volume_between(graph, 0, len(body.operators))
    if cut.position == whole.end:
        return whole
    made = body.operators[cut.position - 1]
    results = [n for n in graph.output_names if n in whole.exports and graph.producer[n] <= made]
    exports = {name: whole.phase_of[graph.producer[name]] for name in (*cut.tensors, *results)}
    return dataclasses.replace(whole, end=cut.position, exports=exports)


def rows_of_splits(graph: Graph, location: int, points: Ints) -> PartRows:
    """Returns the rows, (n_splits, n_devices), that (n_splits, n_devices + 1) cut points at a location deal out."""
    reach = functools.partial(rising_needs, graph)
    return PartRows(graph, reach, graph.cuts[location - 1].height, points[:, :-1], points[:, 1:])


def fetched_rows(graph: Graph, location: int, points: Ints, needed: Mapping[str, RowSpans]) -> dict[str, Ints]:
    """Returns the number of rows, (n_splits, n_devices), of each tensor that devices need and do not own.

    Args:
        graph: the model.
        location: where the rows are needed.
        points: (n_splits, n_devices + 1) cut points of the rows there; of graph inputs nobody owns any.
        needed: rows of each tensor that each device needs, (n_splits, n_devices).
    """
    owners = rows_of_splits(graph, location, points)
    return {
        name: rows.beyond(owners.share(name)) if name in graph.producer else rows.count for name, rows in needed.items()
    }
