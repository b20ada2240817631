"""What Python calls of the compiled kernel.

Their digest is `stamp`; see `latency.compiling`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distredge.latency import compiling
from distredge.latency.compiling import digest, entry, inner, making, signature_of
from distredge.latency.kernel.arguments import Found, KernelTables, LinkArrays, Plans
from distredge.latency.kernel.batches import make_general_room, run_all
from distredge.latency.kernel.common_ground import make_room
from distredge.latency.kernel.independent_links import price_all
from distredge.latency.tables import columns as col

OK, BAD_CUTS, BAD_ROWS, BAD_ORDER, BAD_HEAD, BAD_WIRE, BAD_INPUT_WIRE = range(7)
"""What `check_plans` may find."""

FILES = (
    "latency.kernel.approximate_links",
    "latency.kernel.arguments",
    "latency.kernel.batches",
    "latency.kernel.coarse_room",
    "latency.kernel.common_ground",
    "latency.kernel.entry_points",
    "latency.kernel.fair_shares",
    "latency.kernel.general_path",
    "latency.kernel.independent_links",
    "latency.kernel.processor_time",
    "latency.kernel.shared_links",
    "latency.kernel.traffic",
    "latency.tables.columns",
)
"""Modules that the kernel is compiled from."""


@making
def look_over(index, cuts, wires):
    """Finds what volumes of (B, L) strategies need.

    Returns (n, 2) those that are not tabulated, by cut before (-1: none) and last cut, and (B,) which strategies have a
    packed wire.
    """
    n_cuts = index.shape[0]
    packed = np.zeros(cuts.shape[0], np.bool_)
    asked = np.zeros((n_cuts, n_cuts), np.bool_)
    for k in range(cuts.shape[0]):
        start = 0
        for w in range(cuts.shape[1]):
            end = cuts[k, w]
            if end < 0:
                break
            if index[start, end] < 0:
                asked[start, end] = True
            if wires[k, w] == col.PACKED_FLOAT32 or wires[k, w] == col.PACKED_FLOAT16:
                packed[k] = True
            start = end + 1
    found = np.zeros((asked.sum(), 2), np.int64)
    at = 0
    for start in range(n_cuts):
        for end in range(n_cuts):
            if asked[start, end]:
                found[at, 0], found[at, 1] = start - 1, end
                at += 1
    return found, packed


@making
def find_wrong(plans, heights, n_devices):
    """Finds the first strategy that contradicts itself, and what is wrong with it: (-1, OK) when all are well.

    `heights` are the rows of the reference of each cut, `n_devices` (B,) the devices of each strategy's cluster.
    """
    order, head = plans.order, plans.head
    most = 1
    for k in range(len(n_devices)):
        most = max(most, n_devices[k])
    seen = np.zeros(most, np.int64)
    for k in range(plans.cuts.shape[0]):
        wrong = wrong_volumes(plans.cuts, plans.rows, plans.wires, heights, k)
        if wrong != OK:
            return k, wrong
        for j in range(order.shape[1]):
            d = order[k, j]
            if d < 0 or d >= n_devices[k] or seen[d] == k + 1:
                return k, BAD_ORDER
            seen[d] = k + 1
        if head[k] < 0 or head[k] >= order.shape[1]:
            return k, BAD_HEAD
        wire = plans.input_wire[k]
        if wire < 0 or wire >= col.N_WIRES or wire == col.PACKED_FLOAT32 or wire == col.PACKED_FLOAT16:
            return k, BAD_INPUT_WIRE
    return -1, OK


@inner
def wrong_volumes(cuts, rows, wires, heights, k):
    """What is wrong with the volumes of strategy k."""
    n_slabs, before = rows.shape[2] - 1, -1
    for w in range(cuts.shape[1]):
        end = cuts[k, w]
        if end < 0 and w > 0:
            break
        if end <= before or end >= len(heights):
            return BAD_CUTS
        before = end
        if rows[k, w, 0] != 0 or rows[k, w, n_slabs] != heights[end]:
            return BAD_ROWS
        if wires[k, w] < 0 or wires[k, w] >= col.N_WIRES:
            return BAD_WIRE
        for j in range(n_slabs):
            if rows[k, w, j] > rows[k, w, j + 1]:
                return BAD_ROWS
    return OK


def _compiled(stamp):
    """The functions below, in each of which `stamp` is a constant."""

    @entry
    def needs(index, cuts, wires):
        """As `look_over`."""
        len(stamp)
        return look_over(index, cuts, wires)

    @entry
    def check_plans(plans, heights, n_devices):
        """As `find_wrong`."""
        len(stamp)
        return find_wrong(plans, heights, n_devices)

    @entry
    def independent(tables, links, plans, found):
        """Prices strategies under `independent` links of constant rate without volumes that send their boundary first.

        Takes the first three of `arguments`; fills in latency and, where there is room, finish_s of `Found`.
        """
        len(stamp)
        room = make_room(plans.cuts.shape[1], plans.order.shape[1] + 1, tables.max_phases)
        price_all(tables, links, plans, found, room)

    @entry
    def general(tables, links, plans, nearby, found):
        """Prices strategies under everything that the kernel knows, and fills in all of `Found` that has room.

        `nearby` allows the approximation of `approximate_links`.
        """
        len(stamp)
        room = make_general_room(plans.cuts.shape[1], plans.order.shape[1] + 1, tables.max_phases)
        run_all(tables, links, plans, nearby, found, room)

    return needs, check_plans, independent, general


needs, check_plans, independent, general = _compiled(digest(*FILES))


def _signatures() -> dict[Any, tuple[Any, ...]]:
    """The types of what `latency.kernel.kernel` gives each of them."""
    ints, floats, flags = np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.bool_)
    table, flow = np.zeros((1, 1), np.int64), np.zeros((1, 1))
    rows = np.zeros((1, 1, 1), np.int32)
    tables = KernelTables(ints, np.zeros(1, np.int32), floats, floats, 1)
    links = LinkArrays(
        floats, table, floats, ints, floats, floats, ints, floats, floats, ints, table, flow, flow, flags, flags, flags,
        flags,
    )  # fmt: skip
    plans = Plans(ints, table, rows, table, ints, table, ints, table, floats)
    found = Found(floats, flow, flow, floats)
    return {
        needs: signature_of(table, table, table),
        check_plans: signature_of(plans, ints, ints),
        independent: signature_of(tables, links, plans, found),
        general: signature_of(tables, links, plans, True, found),
    }


SIGNATURES = _signatures()
"""The types of the arguments of each function."""


def compile_all() -> None:
    """Compiles all of them for the arguments that `latency.kernel.kernel` gives them, or loads them from the cache."""
    for function, signature in SIGNATURES.items():
        function.compile(signature)


def is_cached(function: Any) -> bool:
    """Whether one of them can be loaded from numba's cache, as it is now and for the arguments that it is given."""
    return compiling.is_cached(function, SIGNATURES[function])


def folder() -> str | None:
    """Returns where they are kept; None if every process compiles them anew."""
    return compiling.folder_of(independent)


def all_cached() -> bool:
    """Whether all of them can."""
    return all(is_cached(function) for function in SIGNATURES)
