"""What Python calls of the compiled kernel.

Their digest is `stamp`; see `latency.compiling`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from distredge.latency.compiling import borrow, digest, inlined, inner
from distredge.latency.kernel.common_ground import DEVICE, P_COLUMNS, PROFILE, S_COLUMNS, V_COLUMNS, WIRE
from distredge.latency.kernel.general_path import M_COLUMNS, T_COLUMNS, run_independent, sum_loads, write_down
from distredge.latency.kernel.independent_links import price_all
from distredge.latency.kernel.shared_links import ENDS_OF, F_COLUMNS, place_ends, run_shared

OK, BAD_CUTS, BAD_ROWS, BAD_ORDER, BAD_HEAD = range(5)
"""What `check_plans` may find."""

FILES = (
    "latency.kernel.common_ground",
    "latency.kernel.entry_points",
    "latency.kernel.general_path",
    "latency.kernel.independent_links",
    "latency.kernel.shared_links",
    "latency.tables.columns",
)
"""Modules that the kernel is compiled from."""

_entry = numba.njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")


@inner
def find_missing(index, cuts):
    """Finds the volumes of (B, L) strategies that are not tabulated: (n, 2) cut before (-1: none) and last cut."""
    n_cuts = index.shape[0]
    asked = np.zeros((n_cuts, n_cuts), np.bool_)
    for k in range(cuts.shape[0]):
        start = 0
        for w in range(cuts.shape[1]):
            end = cuts[k, w]
            if end < 0:
                break
            if index[start, end] < 0:
                asked[start, end] = True
            start = end + 1
    found = np.zeros((asked.sum(), 2), np.int64)
    at = 0
    for start in range(n_cuts):
        for end in range(n_cuts):
            if asked[start, end]:
                found[at, 0], found[at, 1] = start - 1, end
                at += 1
    return found


@inner
def wrong_volumes(cuts, rows, heights, k):
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
        for j in range(n_slabs):
            if rows[k, w, j] > rows[k, w, j + 1]:
                return BAD_ROWS
    return OK


@inner
def find_wrong(cuts, rows, order, head, heights, n_devices):
    """Finds the first strategy that contradicts itself, and what is wrong with it: (-1, OK) when all are well.

    `heights` are the rows of the reference of each cut, `n_devices` (B,) the devices of each strategy's cluster.
    """
    most = 1
    for k in range(len(n_devices)):
        most = max(most, n_devices[k])
    seen = np.zeros(most, np.int64)
    for k in range(cuts.shape[0]):
        wrong = wrong_volumes(cuts, rows, heights, k)
        if wrong != OK:
            return k, wrong
        for j in range(order.shape[1]):
            d = order[k, j]
            if d < 0 or d >= n_devices[k] or seen[d] == k + 1:
                return k, BAD_ORDER
            seen[d] = k + 1
        if head[k] < 0 or head[k] >= order.shape[1]:
            return k, BAD_HEAD
    return -1, OK


def _compiled(stamp):
    """The functions below, in each of which `stamp` is a constant."""

    @_entry
    def missing_volumes(index, cuts):
        """As `find_missing`."""
        len(stamp)
        return find_missing(index, cuts)

    @_entry
    def check_plans(cuts, rows, order, head, heights, n_devices):
        """As `find_wrong`."""
        len(stamp)
        return find_wrong(cuts, rows, order, head, heights, n_devices)

    @_entry
    def independent(
        model, ints, seconds, head_seconds, pair, profile_of, which, cuts, rows, order, head, wires, input_wire,
        max_phases, latency, finish_s,
    ):  # fmt: skip
        """Prices strategies under `independent` links of constant rate without volumes that send their boundary first.

        Of `latency.tables.volume_tables.Tables`: model, ints, seconds, head_seconds, max_phases (the most phases of any volume). Of
        all clusters, as `latency.kernel.link_arrays.LinkArrays` says: pair, profile_of. Of the strategies, (B, ...), as
        `latency.kernel.kernel` says: which (cluster), cuts, rows, order, head, wires, input_wire. Filled: latency, (B,)
        seconds, NaN for a strategy that does not reach the end of the body; finish_s, (B, D) or (0, D), when each slab
        position has done its volumes.
        """
        len(stamp)
        n_volumes, wide = cuts.shape[1], order.shape[1] + 1
        price_all(
            model, ints, seconds, head_seconds, pair, profile_of, which, cuts, rows, order, head, wires, input_wire,
            latency, finish_s,
            np.zeros((n_volumes + 1) * V_COLUMNS, np.int64),
            np.zeros(wide * S_COLUMNS, np.int64),
            np.zeros(2 * (n_volumes + 1) * wide, np.int64),
            np.zeros((n_volumes * max_phases + 3) * wide),
            np.zeros(wide * wide),
        )  # fmt: skip

    @_entry
    def general(
        model, ints, seconds, head_seconds, pair, profile_of, access, trace, times, rates, trace_at, period, board,
        medium, shared, which, cuts, rows, order, head, wires, input_wire, boundary, start_s, nearby, max_phases,
        latency, finish_s,
    ):  # fmt: skip
        """Prices strategies under everything that the kernel knows.

        Arguments as for `independent`, all that `latency.kernel.link_arrays.LinkArrays` holds, and of the strategies boundary, (B, L),
        and start_s, (B,); `nearby` allows the rates of `kernel_shared.share_nearby`.
        """
        len(stamp)
        work, none = room(cuts.shape[1], order.shape[1] + 1, max_phases), np.empty(0)
        run_all(
            model, ints, seconds, head_seconds, pair, profile_of, access, trace, times, rates, trace_at, period, board,
            medium, shared, which, cuts, rows, order, head, wires, input_wire, boundary, start_s, nearby, latency,
            finish_s, work[0], work[1], work[2], work[3], work[4], work[5], work[6], work[7], work[8], work[9],
            none.reshape((0, 1)), none, none,
        )  # fmt: skip

    return missing_volumes, check_plans, independent, general


@inner
def room(n_volumes, wide, max_phases):
    """Arrays that `run_all` works in; making them takes longer than pricing a strategy when there are many devices."""
    n_rows = n_volumes * max_phases + 3
    per_message, per_connection = n_rows * wide * wide, 4 * wide * wide + 2 * wide
    return (
        np.zeros((n_volumes + 1) * V_COLUMNS, np.int64),
        np.zeros(2 * (n_volumes + 1) * wide, np.int64),
        np.zeros(per_message * M_COLUMNS, np.int64),
        np.zeros(wide * S_COLUMNS, np.int64),
        np.zeros((4, per_message), np.int64),
        np.zeros((14, per_connection), np.int64),
        np.zeros(n_rows * wide * T_COLUMNS),
        np.zeros((3, per_message)),
        np.full((6, per_connection + 3), np.inf),
        np.zeros(wide * wide * F_COLUMNS),
        np.zeros(wide * wide),
    )  # fmt: skip


@inlined
def clear(work):
    """Makes what `run_all` marks connections and links in as new, for the marks begin from one again."""
    work[5][:] = 0
    work[8][:] = np.inf


@inner
def run_all(
    model, ints, seconds, head_seconds, pair, profile_of, access, trace, times, rates, trace_at, period, board, medium,
    shared, which, cuts, rows, order, head, wires, input_wire, boundary, start_s, nearby, latency, finish_s, volumes,
    edges, messages, slabs, by_message, by_connection, stages, by_message_s, by_connection_s, flows, busy_s, link_s,
    sent_s,
):  # fmt: skip
    """Writes down and runs all strategies; arguments as `general`, then room to work in and what `loads` fills."""
    model, ints, seconds, head_seconds = borrow(model), borrow(ints), borrow(seconds), borrow(head_seconds)
    pair, access, trace, flat = borrow(pair), borrow(access), borrow(trace), borrow(rows.reshape(-1))
    times, rates, trace_at, period = borrow(times), borrow(rates), borrow(trace_at), borrow(period)
    volumes, slabs, edges, messages = borrow(volumes), borrow(slabs), borrow(edges), borrow(messages)
    stages, done, free = borrow(stages), borrow(by_message_s[0]), borrow(by_connection_s[0])
    # In the order of `kernel_shared`'s names.
    whole = (
        messages, slabs, borrow(by_message[0]), borrow(by_connection[0]), borrow(by_message[1]),
        borrow(by_connection[1]), borrow(by_message[2]), borrow(by_connection[2]), borrow(by_connection[3]),
        borrow(by_connection[4]), borrow(by_connection[5]), borrow(by_connection[6]), borrow(by_connection[7]),
        borrow(by_connection[8]), borrow(by_connection[9]), borrow(by_connection[10]), borrow(by_connection[11]),
        borrow(by_connection[12]), borrow(by_message[3]), borrow(by_connection[13]),
    )  # fmt: skip
    real = (
        stages, pair, done, borrow(by_message_s[1]), borrow(by_connection_s[1]), borrow(by_connection_s[2]),
        borrow(by_connection_s[3]), borrow(by_connection_s[4]), borrow(flows), borrow(by_message_s[2]),
        borrow(by_connection_s[5]),
    )  # fmt: skip
    n_volumes, n_slabs, n_devices = cuts.shape[1], order.shape[1], profile_of.shape[1]
    wide = n_slabs + 1
    slabs[n_slabs * S_COLUMNS + DEVICE] = n_devices
    turn, placed = np.int64(0), np.int64(-2)
    for k in range(cuts.shape[0]):
        c = which[k]
        base, home = c * (n_devices + 1) * (n_devices + 1) * P_COLUMNS, np.int64(-1)
        for j in range(n_slabs):
            slabs[j * S_COLUMNS + DEVICE] = order[k, j]
            slabs[j * S_COLUMNS + PROFILE] = profile_of[c, order[k, j]]
            if order[k, j] == board[c]:
                home = j
        volumes[n_volumes * V_COLUMNS + WIRE] = input_wire[k]
        n_messages, stage, n_stages, ended = write_down(
            model, ints, seconds, head_seconds, volumes, slabs, flat, k * n_volumes * wide, edges, cuts, wires,
            boundary, k, head[k], messages, stages,
        )  # fmt: skip
        if shared[c]:
            if home != placed:
                place_ends(whole[ENDS_OF], wide, home)
                placed = home
            t, turn = run_shared(
                whole, real, n_messages, n_stages, wide, base, n_devices, c, access, trace, times, rates, trace_at,
                period, start_s[k], home, medium[c], nearby, turn,
            )  # fmt: skip
        else:
            t = run_independent(
                n_messages, n_stages, messages, stages, slabs, pair, base, n_devices, c, access, trace, times, rates,
                trace_at, period, start_s[k], done, free,
            )  # fmt: skip
        latency[k] = t if ended else np.nan
        if finish_s.shape[0] > 0:
            for j in range(n_slabs):
                finish_s[k, j] = done[stage * wide + j]
        if busy_s.shape[0] > 0:
            sum_loads(
                n_messages, n_stages, messages, stages, slabs, wide, home, 2 * c * (n_devices + 1), access, shared[c],
                medium[c], k, busy_s, link_s, sent_s,
            )  # fmt: skip


missing_volumes, check_plans, independent, general = _compiled(digest(*FILES))

_i1, _i2, _i3 = (numba.types.Array(numba.int64, n, "C") for n in (1, 2, 3))
_r3 = numba.types.Array(numba.int32, 3, "C")
_n1 = numba.types.Array(numba.int32, 1, "C")
_f1, _f2 = (numba.types.Array(numba.float64, n, "C") for n in (1, 2))
_b1 = numba.types.Array(numba.boolean, 1, "C")
_plans = (_i1, _i2, _r3, _i2, _i1, _i2, _i1)
_signatures = {
    missing_volumes: (_i2, _i2),
    check_plans: (_i2, _r3, _i2, _i1, _i1, _i1),
    independent: (_i1, _n1, _f1, _f1, _f1, _i2, *_plans, numba.int64, _f1, _f2),
    general: (
        _i1, _n1, _f1, _f1, _f1, _i2, _f1, _i1, _f1, _f1, _i1, _f1, _i1, _b1, _b1, *_plans, _i2, _f1, numba.boolean,
        numba.int64, _f1, _f2,
    ),
}  # fmt: skip


def compile_all() -> None:
    """Compiles all of them for the arguments that `latency.kernel.kernel` gives them, or loads them from the cache."""
    for function, signature in _signatures.items():
        function.compile(signature)


def is_cached(function: Any) -> bool:
    """Whether one of them can be loaded from numba's cache, as it is now and for the arguments that it is given."""
    key = function._cache._index_key(_signatures[function], function.targetctx.codegen())
    return key in function._cache._cache_file._load_index()


def all_cached() -> bool:
    """Whether all of them can."""
    return all(is_cached(function) for function in _signatures)
