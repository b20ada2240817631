"""The kernel for strategies that are built volume by volume: each step prices the new volume alone.

Under `independent` links of constant rate, and without volumes that send their boundary first, what comes later changes
nothing of what is priced. So a `Prefixes` keeps, of many strategies, when devices and connections are free after the
volumes decided, and `price_next` goes on from there with the recurrence of `independent_links`, on clusters of any
sizes. Functions for compiled callers alone: environments.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy import uint64 as U

from distredge.latency.compiling import inlined
from distredge.latency.kernel.arguments import Floats, Ints, LinkArrays
from distredge.latency.kernel.common_ground import (
    P_COLUMNS,
    S_COLUMNS,
    S_DEVICE,
    S_PROFILE,
    V_COLUMNS,
    V_WIRE,
    AtHand,
    Ways,
)
from distredge.latency.kernel.independent_links import price_end, price_volume
from distredge.latency.tables import columns as col
from distredge.model.wires import WIRE_NUMBERS

FILES = (
    "latency.kernel.arguments",
    "latency.kernel.common_ground",
    "latency.kernel.independent_links",
    "latency.kernel.stepping",
    "latency.tables.columns",
)
"""Modules that `price_next` is compiled from."""


class Prefixes(NamedTuple):
    """What is known of n strategies of up to L volumes on up to N devices after the volumes decided.

    Attributes:
        stage: (n,) the first stage that is not priced.
        volumes: (n, (L + 1) * V_COLUMNS) as in `common_ground.AtHand`.
        done: (n, n_rows * (N + 1)), free: (n, (N + 1) * (N + 1)) as in `common_ground.Ways`, both packed for the
            devices of the strategy's own cluster.
        slabs: (C, (N + 1) * S_COLUMNS) the devices of each cluster, as in `common_ground.AtHand`.
        n_devices: (C,) how many those are.
        wire: number of the wire between volumes.
    """

    stage: Ints
    volumes: Ints
    done: Floats
    free: Floats
    slabs: Ints
    n_devices: Ints
    wire: int


def make_prefixes(
    count: int, n_volumes: int, max_phases: int, links: LinkArrays, n_devices: Ints, input_wire: int
) -> Prefixes:
    """Makes room for strategies that are being built.

    Args:
        count: of strategies.
        n_volumes: the most that one has.
        max_phases: the most phases that any volume has.
        links: of a kernel; those of other models on the same clusters are the same.
        n_devices: (C,) int64 devices of each of the kernel's clusters.
        input_wire: number of the wire of the input.
    """
    wide = links.profile_of.shape[1] + 1
    volumes = np.zeros((count, (n_volumes + 1) * V_COLUMNS), np.int64)
    volumes[:, n_volumes * V_COLUMNS + V_WIRE] = input_wire
    slabs = np.zeros((len(n_devices), wide, S_COLUMNS), np.int64)
    for c, own in enumerate(n_devices.tolist()):
        slabs[c, :own, S_DEVICE] = np.arange(own)
        slabs[c, :own, S_PROFILE] = links.profile_of[c, :own]
        slabs[c, own, S_DEVICE] = wide - 1
    return Prefixes(
        np.zeros(count, np.int64),
        volumes,
        np.zeros((count, (n_volumes * max_phases + 3) * wide)),
        np.zeros((count, wide * wide)),
        slabs.reshape(len(n_devices), -1),
        n_devices,
        WIRE_NUMBERS["float32"],
    )


@inlined
def price_next(
    tables: Any, links: Any, prefixes: Any, k: Any, c: Any, rows: Any, w: Any, start: Any, end: Any, head: Any,
    finish_s: Any,
) -> Any:  # fmt: skip
    """Prices volume w of strategy k, on cluster c; returns the latency of the whole strategy, NaN if it is not whole.

    `rows` are (n,) cut points of its volumes, D + 1 for each, one volume after the other; the volume begins after cut
    `start - 1` and ends at cut `end`; `head` is the head device, which counts at the end alone. `finish_s`, (N,),
    receives when each device has done the volumes decided.
    """
    volumes, done, free, slabs = prefixes.volumes[k], prefixes.done[k], prefixes.free[k], prefixes.slabs[c]
    n_slabs, n_devices = prefixes.n_devices[c], links.profile_of.shape[1]
    wide = n_slabs + 1
    stage = prefixes.stage[k]
    if w == 0:
        stage = np.int64(0)
        for j in range(wide):
            done[U(j)] = 0.0
        for x in range(wide * wide):
            free[U(x)] = 0.0
    # No volume sends its boundary first, so nobody looks at its edges.
    hand = AtHand(rows, np.int64(0), wide, volumes, slabs, prefixes.stage)
    ways = Ways(links.pair, c * (n_devices + 1) * (n_devices + 1) * P_COLUMNS, n_devices, done, free)
    stage = price_volume(tables, hand, ways, w, start, end, stage, prefixes.wire)
    prefixes.stage[k] = stage
    for j in range(n_slabs):
        finish_s[U(j)] = done[U(stage * wide + j)]
    if end + 1 < tables.model[col.N_CUTS]:
        return np.nan
    return price_end(tables, hand, ways, w + 1, stage, head)
