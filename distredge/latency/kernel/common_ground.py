"""The compiled kernel's common ground: its arrays, and what a split-part fetches from whom.

`latency.kernel.kernel` is the door to the kernel and says what it does; `kernel_independent`, `kernel_general` and
`kernel_shared` are its parts; `kernel_entry` compiles them. Everything works on flat arrays:

- ``model``, ``ints``, ``seconds``: the graph on its boards (`latency.tables.volume_tables`).
- ``volumes``: of the strategy at hand, V_COLUMNS for each volume; the last row is the input.
- ``slabs``: of the strategy at hand, S_COLUMNS for each slab position; the last row is the requester.
- ``rows``: cut points of all strategies; those of the strategy at hand begin at `at_rows`.
- ``edges``: for each (volume, slab position) the number of rows at the top and at the bottom that others wait for.
- ``done``: when each slab position has done each stage; row 0 is the start of the image.
- ``free``: from when on the connection from one slab position to another is free.
- ``pair``: P_COLUMNS costs of a message from one device to another.

`wide` is the number of slab positions with the requester. Two habits are for speed: indices are cast to unsigned
(`U`), which spares numba's test for a negative one; and arrays are borrowed (`borrow`), because counting references
takes longer than what most of these functions do.
"""

from __future__ import annotations

import numpy as np
from numpy import uint64 as U

from distredge.latency.compiling import inlined
from distredge.latency.tables.columns import (
    AT_CUTS,
    AT_HEAD_NEEDS,
    AT_HEAD_PARTIALS,
    AT_INDEX,
    AT_NEEDS,
    AT_PARTIALS,
    AT_PHASES,
    AT_RESULTS,
    AT_SUMS,
    AT_TENSORS,
    AT_VOLUMES,
    BAND,
    HEAD_BYTES,
    HEIGHT,
    MADE_IN,
    N_CUTS,
    N_HEAD_NEEDS,
    N_HEAD_PARTIALS,
    N_NEEDS,
    N_PARTIALS,
    N_RESULTS,
    N_SUMS,
    NEED,
    NEEDS,
    PARTIAL,
    PARTIALS,
    PHASE,
    SECONDS,
    START_CLASS,
    STOP_CLASS,
    STRIDE,
    SUM,
    SUMS,
    TENSOR,
    VOLUME,
)

V_COLUMNS = 6
ROW, FIRST_STAGE, PLACE, WIRE, BOUNDARY, REFERENCE = range(V_COLUMNS)
"""Row in the tables, first stage, first body operator, bytes per element, whether its boundary goes first, height."""

S_COLUMNS = 5
DEVICE, PROFILE, SIZE, MADE, TOUCHED = range(S_COLUMNS)
"""Device and its profile; bytes that the part at hand fetches from it and the last stage that makes any of them; the
list of sources, in the order in which they were met."""

P_COLUMNS = 5
PRE_FIXED, PRE_BYTE, WIRE_BYTE, POST_FIXED, POST_BYTE = range(P_COLUMNS)
"""Seconds before, on and after the connection; WIRE_BYTE is negative where a rate varies."""

INPUT = -1
"""Stage that makes the graph's inputs."""


@inlined
def enter_volume(model, volumes, w, start, end, stage, wire, boundary):
    """Notes volume w, which begins after cut `start - 1` and ends at cut `end`; returns its row in the tables."""
    v = model[U(model[AT_INDEX] + start * model[N_CUTS] + end)]
    at = w * V_COLUMNS
    volumes[U(at + ROW)] = v
    volumes[U(at + FIRST_STAGE)] = stage
    volumes[U(at + PLACE)] = np.int64(0) if start == 0 else model[U(model[AT_CUTS] + start - 1)]
    volumes[U(at + WIRE)] = wire
    volumes[U(at + BOUNDARY)] = boundary
    volumes[U(at + REFERENCE)] = model[U(model[AT_VOLUMES] + v * VOLUME + HEIGHT)]
    return v


@inlined
def maker(model, volumes, tensor, before):
    """Returns the volume, counted back from `before`, in which a tensor is made."""
    place = model[U(model[AT_TENSORS] + tensor * TENSOR)]
    m = before - 1
    while volumes[U(m * V_COLUMNS + PLACE)] > place:
        m -= 1
    return m


@inlined
def made_stage(model, ints, volumes, tensor, m):
    """Returns the stage in which volume m makes a tensor."""
    at = model[U(model[AT_VOLUMES] + volumes[U(m * V_COLUMNS + ROW)] * VOLUME + MADE_IN)]
    return volumes[U(m * V_COLUMNS + FIRST_STAGE)] + np.int64(ints[U(at + tensor)])


@inlined
def row_bytes(model, volumes, tensor, m):
    """Returns the bytes of one row of a tensor that volume m makes, on the wire."""
    at = model[AT_TENSORS] + tensor * TENSOR
    own = model[U(at + 3)]
    return model[U(at + 2)] * (own if own != 0 else volumes[U(m * V_COLUMNS + WIRE)])


@inlined
def seconds_of(model, ints, seconds, v, q, a, b, profile):
    """Seconds of rows [a, b) of a volume's phase on a board of a profile."""
    at, phase = model[AT_VOLUMES] + v * VOLUME, model[AT_PHASES] + q * PHASE
    place = model[U(phase + SECONDS)] + model[U(phase + STRIDE)] * profile
    starts = model[U(at + START_CLASS)]
    if starts >= 0:
        stops = model[U(at + STOP_CLASS)]
        return seconds[U(place + np.int64(ints[U(starts + a)]) + np.int64(ints[U(stops + b)]))]
    band = model[U(at + BAND)]
    if b - a < band:
        return seconds[U(place + a * band + b - a)]
    total = seconds[U(place + (model[U(at + HEIGHT)] + 1) * band)]
    for x in range(model[U(phase + SUMS)], model[U(phase + SUMS)] + model[U(phase + N_SUMS)]):
        row = model[AT_SUMS] + x * SUM
        first, last = np.int64(ints[U(model[U(row)] + a)]), np.int64(ints[U(model[U(row + 1)] + b)])
        total += seconds[U(model[U(row + 2)] + model[U(row + 3)] * profile + last - first)]
    return total


@inlined
def add(slabs, count, source, size, made):
    """Adds bytes to what the part at hand fetches from a source; returns the number of sources."""
    at = source * S_COLUMNS
    if slabs[U(at + SIZE)] == 0:
        slabs[U(count * S_COLUMNS + TOUCHED)] = source
        slabs[U(at + MADE)] = made
        count += 1
    elif made > slabs[U(at + MADE)]:
        slabs[U(at + MADE)] = made
    slabs[U(at + SIZE)] += size
    return count


@inlined
def fetch_rows(model, ints, volumes, slabs, rows, at_rows, edges, before, tensor, lo, hi, mine, count):
    """Adds what owners other than slab position `mine` send of rows [lo, hi) of a tensor to volume `before`."""
    wide = len(slabs) // S_COLUMNS
    at = model[AT_TENSORS] + tensor * TENSOR
    if model[U(at)] < 0:
        last = len(volumes) // V_COLUMNS - 1
        return add(slabs, count, wide - 1, (hi - lo) * row_bytes(model, volumes, tensor, last), np.int64(INPUT))
    m = maker(model, volumes, tensor, before)
    made = made_stage(model, ints, volumes, tensor, m)
    size = row_bytes(model, volumes, tensor, m)
    reference, height = volumes[U(m * V_COLUMNS + REFERENCE)], model[U(at + 1)]
    boundary = volumes[U(m * V_COLUMNS + BOUNDARY)]
    stop = np.int64(0)
    for i in range(wide - 1):
        start = stop
        stop = np.int64(rows[U(at_rows + m * wide + i + 1)])
        if reference != height:
            stop = stop * height // reference
        if stop <= lo or stop <= start:
            continue
        if i != mine:
            first, last = max(start, lo), min(stop, hi)
            count = add(slabs, count, i, (last - first) * size, made)
            if boundary != 0:
                wait_for(rows, at_rows, edges, m * wide + i, first - start, last, stop - last, first, height, reference)
        if stop >= hi:
            break
    return count


@inlined
def wait_for(rows, at_rows, edges, share, above, last, below, first, height, reference):
    """Notes that others wait for rows [first, last) of a share: they count to the end of it that they are nearer to.

    The share is that of `volume * wide + slab position`; `above` and `below` are its rows before `first` and after
    `last`; `height` are the rows of the tensor, `reference` those of the reference, in which depths are counted.
    """
    a, b = np.int64(rows[U(at_rows + share)]), np.int64(rows[U(at_rows + share + 1)])
    if above <= below:
        # The least x with floor(x * height / reference) >= last.
        depth = min(-(-last * reference // height), b) - a
        edges[U(2 * share)] = max(edges[U(2 * share)], depth)
    else:
        # The greatest x with floor(x * height / reference) <= first.
        depth = b - max(-(-(first + 1) * reference // height) - 1, a)
        edges[U(2 * share + 1)] = max(edges[U(2 * share + 1)], depth)


@inlined
def fetch_partials(volumes, slabs, rows, at_rows, m, height, size, made, mine, count):
    """Adds the partial results that every slab position with rows of a reduction's input sends to `mine`."""
    wide = len(slabs) // S_COLUMNS
    stop = np.int64(0)
    for i in range(wide - 1):
        start = stop
        stop = np.int64(rows[U(at_rows + m * wide + i + 1)]) * height // volumes[U(m * V_COLUMNS + REFERENCE)]
        if stop > start and i != mine:
            count = add(slabs, count, i, size, made)
    return count


@inlined
def gather(model, ints, volumes, slabs, rows, at_rows, edges, w, q, a, b, mine):
    """Collects what rows [a, b) of phase q of volume w fetch; returns the number of sources."""
    v = model[AT_VOLUMES] + volumes[U(w * V_COLUMNS + ROW)] * VOLUME
    at_start, at_stop, short = a, b, 0
    if b - a < model[U(v + BAND)]:
        at_start = at_stop = a * model[U(v + BAND)] + b - a
        short = 2
    count = np.int64(0)
    phase = model[AT_PHASES] + q * PHASE
    for x in range(model[U(phase + NEEDS)], model[U(phase + NEEDS)] + model[U(phase + N_NEEDS)]):
        need = model[AT_NEEDS] + x * NEED
        lo = np.int64(ints[U(model[U(need + 1 + short)] + at_start)])
        hi = np.int64(ints[U(model[U(need + 2 + short)] + at_stop)])
        if lo < hi:
            tensor = model[U(need)]
            count = fetch_rows(model, ints, volumes, slabs, rows, at_rows, edges, w, tensor, lo, hi, mine, count)
    for x in range(model[U(phase + PARTIALS)], model[U(phase + PARTIALS)] + model[U(phase + N_PARTIALS)]):
        partial = model[AT_PARTIALS] + x * PARTIAL
        made = volumes[U(w * V_COLUMNS + FIRST_STAGE)] + model[U(partial)]
        size, height = model[U(partial + 1)], model[U(partial + 2)]
        count = fetch_partials(volumes, slabs, rows, at_rows, w, height, size, made, mine, count)
    return count


@inlined
def gather_end(model, ints, volumes, slabs, rows, at_rows, edges, n, head, head_stage):
    """Collects what the head (before it has run) or the requester fetches; returns the number of sources.

    There are n volumes; `head` is the slab position of the head device; `head_stage` is the stage that the head was, or
    -1 before it has run.
    """
    count = np.int64(0)
    if head_stage < 0:
        at, last, mine = model[AT_HEAD_NEEDS], model[N_HEAD_NEEDS], head
    else:
        at, last, mine = model[AT_RESULTS], model[N_RESULTS], np.int64(-1)
    for x in range(last):
        tensor = model[U(at + x)]
        height = model[U(model[AT_TENSORS] + tensor * TENSOR + 1)]
        count = fetch_rows(
            model, ints, volumes, slabs, rows, at_rows, edges, n, tensor, np.int64(0), height, mine, count
        )
    if head_stage >= 0:
        if model[HEAD_BYTES] > 0:
            count = add(slabs, count, head, model[HEAD_BYTES], head_stage)
        return count
    for x in range(model[N_HEAD_PARTIALS]):
        tensor = model[U(model[AT_HEAD_PARTIALS] + 2 * x)]
        size = model[U(model[AT_HEAD_PARTIALS] + 2 * x + 1)]
        m = maker(model, volumes, tensor, n)
        made = made_stage(model, ints, volumes, tensor, m)
        height = model[U(model[AT_TENSORS] + tensor * TENSOR + 1)]
        count = fetch_partials(volumes, slabs, rows, at_rows, m, height, size, made, mine, count)
    return count


@inlined
def cross(pair, at, ready, size, free, connection):
    """Sends a message over its connection, which has the links to itself; returns when it is in place."""
    wire = max(ready + pair[U(at)] + pair[U(at + PRE_BYTE)] * size, free[U(connection)])
    wire += pair[U(at + WIRE_BYTE)] * size
    free[U(connection)] = wire
    return wire + pair[U(at + POST_FIXED)] + pair[U(at + POST_BYTE)] * size
