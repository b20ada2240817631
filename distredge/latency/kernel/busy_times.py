"""The kernel's figures beyond the latency: how long each device computes, and how long the busiest link is in use.

A function for compiled callers alone: with its own compiled copy of the kernel everybody would wait for what few use.
"""

from __future__ import annotations

from distredge.latency.compiling import inner
from distredge.latency.kernel import entry_points
from distredge.latency.kernel.entry_points import clear, run_all

FILES = (*entry_points.FILES, "latency.kernel.busy_times")
"""Modules that `loads` is compiled from."""


@inner
def loads(
    model, ints, seconds, head_seconds, pair, profile_of, access, trace, times, rates, trace_at, period, board, medium,
    shared, which, cuts, rows, order, head, wires, input_wire, boundary, start_s, nearby, latency, finish_s, busy_s,
    link_s, work,
):  # fmt: skip
    """As `kernel_entry.general`, with what each strategy makes devices and links do.

    Filled as well: busy_s, (B, D), seconds that each slab position computes; link_s, (B,), seconds for which one image
    occupies the busiest connection, or, under `shared`, access link or medium. `work` is from `kernel_entry.room`.
    """
    clear(work)
    run_all(
        model, ints, seconds, head_seconds, pair, profile_of, access, trace, times, rates, trace_at, period, board,
        medium, shared, which, cuts, rows, order, head, wires, input_wire, boundary, start_s, nearby, latency, finish_s,
        work[0], work[1], work[2], work[3], work[4], work[5], work[6], work[7], work[8], work[9], busy_s, link_s,
        work[10],
    )  # fmt: skip
