"""Strategies as arrays, one row per strategy, and what a search may choose in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.latency.kernel.arguments import Ints, KernelTables, LinkArrays


class Batch(NamedTuple):
    """N strategies of at most L volumes on D slab positions.

    Attributes:
        cuts: (N, L) indices into `graph.cuts`, rising; -1 behind the last.
        rows: (N, L, D + 1) cut points of each volume's reference rows.
        order: (N, D) device at each slab position.
        head: (N,) slab position of the head device.
        wires: (N, L) number of the wire of what leaves a volume.
        boundary: (N, L) whether a volume computes first what others wait for.
    """

    cuts: Ints
    rows: NDArray[np.int32]
    order: Ints
    head: Ints
    wires: Ints
    boundary: Ints


class Choices(NamedTuple):
    """What may be chosen.

    Attributes:
        candidates: rising indices of the cuts that may be used; the last one is the end of the body.
        heights: (n_cuts,) rows of each cut's reference.
        kinds: (D,) equal for devices that are interchangeable.
        free_order: whether devices may change places.
        wires: rising numbers of the wires that may be chosen for what leaves a volume.
        packing: whether one of them is packed, so that fewer bytes are not always faster.
        boundary: whether a volume may compute first what others wait for.
        trials: probability that a chain goes on trial with another structure.
        trial_steps: steps in which its rows may adapt before it is judged.
        crosses: share of the trials in which the structure comes from two chains.
        reach_least: share of a map's rows that a step moves at most, when it is cold.
        reach_heat: the same per unit of temperature; never more than half a map.
    """

    candidates: Ints
    heights: Ints
    kinds: Ints
    free_order: bool
    wires: Ints
    packing: bool
    boundary: bool
    trials: float
    trial_steps: int
    crosses: float
    reach_least: float
    reach_heat: float


class Pricing(NamedTuple):
    """What N strategies at a time are priced with.

    Attributes:
        row_of: (n_cuts, n_cuts) row of each tabulated volume that may be used, by cut before it plus 1 and cut at its
            end; or -1.
        tables: of the kernel, as they stand.
        links: of the kernel.
        input_wire: (N,) number of the wire of the input.
        nearby: whether rates of shared links may be approximate.
    """

    row_of: Ints
    tables: KernelTables
    links: LinkArrays
    input_wire: Ints
    nearby: bool


def empty_batch(size: int, volumes: int, devices: int, wire: int) -> Batch:
    """A batch of zeros, everything to travel in the wire of number `wire`."""
    return Batch(
        np.full((size, volumes), -1, np.int64),
        np.zeros((size, volumes, devices + 1), np.int32),
        np.tile(np.arange(devices), (size, 1)),
        np.zeros(size, np.int64),
        np.full((size, volumes), wire, np.int64),
        np.zeros((size, volumes), np.int64),
    )


def take(batch: Batch, chosen: Any) -> Batch:
    """A copy of some strategies of a batch; `chosen` are their indices."""
    return Batch(*(array[chosen] for array in batch))


def put(source: Batch, target: Batch, chosen: Any) -> None:
    """Replaces some strategies of a batch by those of another one in the same places."""
    pairs: Any = zip(target, source, strict=True)
    for array, new in pairs:
        array[chosen] = new[chosen]


def joined(batches: Sequence[Batch]) -> Batch:
    """The strategies of several batches in one."""
    return Batch(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
