"""What the compiled kernel takes and fills: arrays with names."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

VARIES, INSIDE = -1.0, -2.0
"""Marks in the place of seconds per byte on a connection: its rate varies; the message stays inside a computer."""

E_COLUMNS = 6
SEND_FIXED, SEND_BYTE, SEND_PACKED, RECEIVE_FIXED, RECEIVE_BYTE, RECEIVE_PACKED = range(E_COLUMNS)
"""Seconds for which a message occupies the processor, at the sending and at the receiving end: as it is one, for each
of its bytes, and for each byte of float32 that is packed into it."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class KernelTables(NamedTuple):
    """A graph on its boards; `latency.tables.volume_tables` says what each array holds.

    Attributes:
        model: (n,) all tables of integers.
        ints: (n,) rows and places, to which offsets in `model` point.
        seconds: (n,) seconds of parts.
        head_seconds: (n_profiles,) seconds of the head.
        max_phases: the most phases of any volume.
    """

    model: Ints
    ints: NDArray[np.int32]
    seconds: Floats
    head_seconds: Floats
    max_phases: int


class LinkArrays(NamedTuple):
    """Links of C clusters of up to N devices, the requester at N.

    Attributes:
        pair: (C * (N + 1) * (N + 1) * P_COLUMNS,) what a message from one to the other costs; see
            `latency.kernel.common_ground`.
        profile_of: (C, N) column of the tables.
        access: (C * (N + 1) * 2,) bits per second up and down.
        trace: (C * (N + 1) * 2,) number of a trace, or -1.
        times: (n_points,) seconds at which the rates of all traces change, one trace after the other.
        rates: (n_points,) bits per second from then on.
        trace_at: (n_traces + 1,) where each trace starts.
        period: (n_traces,) seconds after which it begins anew.
        handling: (C * (N + 1) * E_COLUMNS,) what messages cost the processor at either end.
        board: (C,) the device that is the requester's board, or -1.
        computer: (C, N + 1) equal for members of one computer.
        threads, cores: (C, N) threads of each device, and cores of its host; infinite without one.
        hosted: (C,) whether devices share computers.
        medium: (C,) whether one medium carries everything.
        shared: (C,) whether messages share links.
        hard: (C,) whether the cluster takes the general path.
    """

    pair: Floats
    profile_of: Ints
    access: Floats
    trace: Ints
    times: Floats
    rates: Floats
    trace_at: Ints
    period: Floats
    handling: Floats
    board: Ints
    computer: Ints
    threads: Floats
    cores: Floats
    hosted: Bools
    medium: Bools
    shared: Bools
    hard: Bools


class Plans(NamedTuple):
    """B strategies of at most L volumes on D slab positions; `latency.kernel.kernel` says what each array holds.

    Attributes:
        which: (B,) cluster.
        cuts: (B, L) cut at the end of each volume, or -1.
        rows: (B, L, D + 1) cut points.
        order: (B, D) device of each slab position.
        head: (B,) slab position of the head.
        wires: (B, L) number of the wire of what leaves a volume.
        input_wire: (B,) number of the wire of the input.
        boundary: (B, L) whether a volume computes first what others wait for.
        start_s: (B,) seconds on the links' traces.
    """

    which: Ints
    cuts: Ints
    rows: NDArray[np.int32]
    order: Ints
    head: Ints
    wires: Ints
    input_wire: Ints
    boundary: Ints
    start_s: Floats


class Found(NamedTuple):
    """What the kernel fills in; an array of no rows is left out.

    Attributes:
        latency: (B,) seconds; infinite where a link is down, NaN for a strategy that does not reach the body's end.
        finish_s: (B, D) or (0, D) when each slab position has done its volumes.
        busy_s: (B, D) or (0, D) seconds for which one image occupies the processor of each slab position.
        link_s: (B,) or (0,) seconds for which one image occupies the busiest connection, or, under `shared`, access
            link, medium or the requester.
    """

    latency: Floats
    finish_s: Floats
    busy_s: Floats
    link_s: Floats
