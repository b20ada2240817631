"""The kernel's figures beyond the latency: how long each device computes, and how long the busiest link is in use.

A function for compiled callers alone: with its own compiled copy of the kernel everybody would wait for what few use.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from distredge.latency import kernel_entry
from distredge.latency.kernel_core import S_COLUMNS, V_COLUMNS, inner
from distredge.latency.kernel_entry import run_all
from distredge.latency.kernel_general import M_COLUMNS, T_COLUMNS
from distredge.latency.kernel_shared import F_COLUMNS


def digest() -> str:
    """SHA-256 of this file and of the kernel's."""
    found = hashlib.sha256(kernel_entry.digest().encode())
    found.update(Path(__file__).read_bytes())
    return found.hexdigest()


@inner
def room(n_volumes, wide, max_phases):
    """Arrays that `loads` works in; making them takes longer than pricing a strategy when there are many devices."""
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


@inner
def loads(
    model, ints, seconds, head_seconds, pair, profile_of, access, trace, times, rates, trace_at, period, board, medium,
    shared, which, cuts, rows, order, head, wires, input_wire, boundary, start_s, nearby, latency, finish_s, busy_s,
    link_s, work,
):  # fmt: skip
    """As `kernel_entry.general`, with what each strategy makes devices and links do.

    Filled as well: busy_s, (B, D), seconds that each slab position computes; link_s, (B,), seconds for which one image
    occupies the busiest connection, or, under `shared`, access link or medium. `work` is from `room`.
    """
    # What marks connections and links must be as new: the marks begin from one again.
    work[5][:] = 0
    work[8][:] = np.inf
    run_all(
        model, ints, seconds, head_seconds, pair, profile_of, access, trace, times, rates, trace_at, period, board,
        medium, shared, which, cuts, rows, order, head, wires, input_wire, boundary, start_s, nearby, latency, finish_s,
        work[0], work[1], work[2], work[3], work[4], work[5], work[6], work[7], work[8], work[9], busy_s, link_s,
        work[10],
    )  # fmt: skip
