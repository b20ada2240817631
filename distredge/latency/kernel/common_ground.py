"""The compiled kernel's common ground: the strategy at hand, and what a split-part fetches from whom.

`latency.kernel.kernel` is the door to the kernel and says what it does; `independent_links`, `general_path` and
`shared_links` are its parts; `entry_points` compiles them. What they take is in `arguments`. Everything works on flat
arrays:

- ``tables.model``, ``tables.ints``, ``tables.seconds``: the graph on its boards (`latency.tables.volume_tables`).
- ``hand``: the strategy at hand (`AtHand`), ``ways``: what its messages cost and when they are over (`Ways`).
- ``links.pair``: P_COLUMNS costs of a message from one device to another.

Indices are cast to unsigned (`U`), which spares numba's test for a negative one. What is small takes only the arrays
that it needs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import uint64 as U
from numpy.typing import NDArray

from distredge.latency.compiling import inlined, making
from distredge.latency.kernel.arguments import Floats, Ints
from distredge.latency.tables import columns as col

V_COLUMNS = 6
V_ROW, V_FIRST_STAGE, V_PLACE, V_WIRE, V_BOUNDARY, V_REFERENCE = range(V_COLUMNS)
"""Row in the tables, first stage, first body operator, number of its wire, whether its boundary goes first, height."""

S_COLUMNS = 5
S_DEVICE, S_PROFILE, S_SIZE, S_MADE, S_TOUCHED = range(S_COLUMNS)
"""Device and its profile; bytes that the part at hand fetches from it and the last stage that makes any of them; the
list of sources, in the order in which they were met."""

P_COLUMNS = 5
PRE_FIXED, PRE_BYTE, WIRE_BYTE, POST_FIXED, POST_BYTE = range(P_COLUMNS)
"""Seconds before, on and after the connection; WIRE_BYTE is VARIES where a rate does, and INSIDE where a message
crosses no link but is handled, which is so under `shared` alone."""

INPUT = -1
"""Stage that makes the graph's inputs."""


class AtHand(NamedTuple):
    """The strategy at hand, of L volumes on D slab positions.

    Attributes:
        rows: (n,) cut points of all strategies.
        at_rows: where those of this one begin, D + 1 for each volume.
        wide: number of slab positions with the requester.
        volumes: ((L + 1) * V_COLUMNS,) of each volume; the last row is the input.
        slabs: ((D + 1) * S_COLUMNS,) of each slab position; the last row is the requester.
        edges: (2 * L * (D + 1),) for each volume and slab position the rows at the top and at the bottom that others
            wait for.
    """

    rows: NDArray[np.int32]
    at_rows: int
    wide: int
    volumes: Ints
    slabs: Ints
    edges: Ints


class Ways(NamedTuple):
    """What messages between the devices of a cluster of N cost, and how far time has come.

    Attributes:
        pair: of all clusters, as `arguments.LinkArrays` says.
        base: where the costs in this cluster begin.
        n_devices: devices of the largest cluster, N; the requester is number N.
        done: (n_rows * (D + 1),) seconds when each slab position has done each stage; row 0 is the start of the image.
        free: ((D + 1) * (D + 1),) seconds from when on the connection from one slab position to another is free.
    """

    pair: Floats
    base: int
    n_devices: int
    done: Floats
    free: Floats


class Room(NamedTuple):
    """Arrays to work in: what `AtHand` and `Ways` hold of the strategy at hand."""

    volumes: Ints
    slabs: Ints
    edges: Ints
    done: Floats
    free: Floats


@making
def make_room(n_volumes, wide, max_phases):
    """Makes room for strategies of so many volumes, on `wide` slab positions with the requester."""
    return Room(
        np.zeros((n_volumes + 1) * V_COLUMNS, np.int64),
        np.zeros(wide * S_COLUMNS, np.int64),
        np.zeros(2 * (n_volumes + 1) * wide, np.int64),
        np.zeros((n_volumes * max_phases + 3) * wide),
        np.zeros(wide * wide),
    )


@inlined
def enter_volume(model, volumes, w, start, end, stage, wire, boundary):
    """Notes volume w, which begins after cut `start - 1` and ends at cut `end`; returns its row in the tables."""
    v = model[U(model[col.AT_INDEX] + start * model[col.N_CUTS] + end)]
    at = w * V_COLUMNS
    volumes[U(at + V_ROW)] = v
    volumes[U(at + V_FIRST_STAGE)] = stage
    volumes[U(at + V_PLACE)] = np.int64(0) if start == 0 else model[U(model[col.AT_CUTS] + start - 1)]
    volumes[U(at + V_WIRE)] = wire
    volumes[U(at + V_BOUNDARY)] = boundary
    volumes[U(at + V_REFERENCE)] = model[U(model[col.AT_VOLUMES] + v * col.VOLUME + col.HEIGHT)]
    return v


@inlined
def maker(model, volumes, tensor, before):
    """Returns the volume, counted back from `before`, in which a tensor is made."""
    place = model[U(model[col.AT_TENSORS] + tensor * col.TENSOR + col.CROSSING_PLACE)]
    m = before - 1
    while volumes[U(m * V_COLUMNS + V_PLACE)] > place:
        m -= 1
    return m


@inlined
def made_stage(model, ints, volumes, tensor, m):
    """Returns the stage in which volume m makes a tensor."""
    at = model[U(model[col.AT_VOLUMES] + volumes[U(m * V_COLUMNS + V_ROW)] * col.VOLUME + col.MADE_IN)]
    return volumes[U(m * V_COLUMNS + V_FIRST_STAGE)] + np.int64(ints[U(at + tensor)])


@inlined
def row_bytes(model, volumes, tensor, m):
    """Returns the bytes of one row of a tensor that volume m makes, as the tables have them."""
    at = model[col.AT_TENSORS] + tensor * col.TENSOR + col.CROSSING_BYTES
    return model[U(at + volumes[U(m * V_COLUMNS + V_WIRE)])]


@inlined
def owned_until(hand, m, i, height):
    """Returns where the rows end that slab position i owns of a tensor of `height` rows, which volume m makes."""
    stop = np.int64(hand.rows[U(hand.at_rows + m * hand.wide + i + 1)])
    reference = hand.volumes[U(m * V_COLUMNS + V_REFERENCE)]
    return stop if reference == height else stop * height // reference


@inlined
def seconds_of(tables, v, q, a, b, profile):
    """Seconds of rows [a, b) of a volume's phase on a board of a profile."""
    model, ints, seconds = tables.model, tables.ints, tables.seconds
    at, phase = model[col.AT_VOLUMES] + v * col.VOLUME, model[col.AT_PHASES] + q * col.PHASE
    place = model[U(phase + col.SECONDS)] + model[U(phase + col.STRIDE)] * profile
    starts = model[U(at + col.START_CLASS)]
    if starts >= 0:
        stops = model[U(at + col.STOP_CLASS)]
        return seconds[U(place + np.int64(ints[U(starts + a)]) + np.int64(ints[U(stops + b)]))]
    band = model[U(at + col.BAND)]
    if b - a < band:
        return seconds[U(place + a * band + b - a)]
    total = seconds[U(place + (model[U(at + col.HEIGHT)] + 1) * band)]
    for x in range(model[U(phase + col.SUMS)], model[U(phase + col.SUMS)] + model[U(phase + col.N_SUMS)]):
        row = model[col.AT_SUMS] + x * col.SUM
        first = np.int64(ints[U(model[U(row + col.SUM_FIRST)] + a)])
        last = np.int64(ints[U(model[U(row + col.SUM_LAST)] + b)])
        at = model[U(row + col.SUM_SECONDS)] + model[U(row + col.SUM_STRIDE)] * profile
        total += seconds[U(at + last - first)]
    return total


@inlined
def add(slabs, count, source, size, made):
    """Adds bytes to what the part at hand fetches from a source; returns the number of sources."""
    at = source * S_COLUMNS
    if slabs[U(at + S_SIZE)] == 0:
        slabs[U(count * S_COLUMNS + S_TOUCHED)] = source
        slabs[U(at + S_MADE)] = made
        count += 1
    elif made > slabs[U(at + S_MADE)]:
        slabs[U(at + S_MADE)] = made
    slabs[U(at + S_SIZE)] += size
    return count


@inlined
def taken(slabs, x):
    """Takes what the x-th source sends off the list; returns source, bytes and the last stage that makes any."""
    source = slabs[U(x * S_COLUMNS + S_TOUCHED)]
    size = slabs[U(source * S_COLUMNS + S_SIZE)]
    slabs[U(source * S_COLUMNS + S_SIZE)] = 0
    return source, size, slabs[U(source * S_COLUMNS + S_MADE)]


@inlined
def fetch_rows(tables, hand, before, tensor, lo, hi, mine, count):
    """Adds what owners other than slab position `mine` send of rows [lo, hi) of a tensor to volume `before`."""
    model, volumes = tables.model, hand.volumes
    at = model[col.AT_TENSORS] + tensor * col.TENSOR
    if model[U(at + col.CROSSING_PLACE)] < 0:
        size = row_bytes(model, volumes, tensor, len(volumes) // V_COLUMNS - 1)
        return add(hand.slabs, count, hand.wide - 1, (hi - lo) * size, np.int64(INPUT))
    m = maker(model, volumes, tensor, before)
    made = made_stage(model, tables.ints, volumes, tensor, m)
    size = row_bytes(model, volumes, tensor, m)
    height, boundary = model[U(at + col.CROSSING_HEIGHT)], volumes[U(m * V_COLUMNS + V_BOUNDARY)]
    stop = np.int64(0)
    for i in range(hand.wide - 1):
        start = stop
        stop = owned_until(hand, m, i, height)
        if stop <= lo or stop <= start:
            continue
        if i != mine:
            first, last = max(start, lo), min(stop, hi)
            count = add(hand.slabs, count, i, (last - first) * size, made)
            if boundary != 0:
                wait_for(hand, m, i, first - start, last, stop - last, first, height)
        if stop >= hi:
            break
    return count


@inlined
def wait_for(hand, m, i, above, last, below, first, height):
    """Notes that others wait for rows [first, last) of a share: they count to the end of it that they are nearer to.

    The share is that of slab position i in volume m; `above` and `below` are its rows before `first` and after `last`;
    `height` are the rows of the tensor. Depths are counted in rows of the reference.
    """
    share, reference = m * hand.wide + i, hand.volumes[U(m * V_COLUMNS + V_REFERENCE)]
    a, b = np.int64(hand.rows[U(hand.at_rows + share)]), np.int64(hand.rows[U(hand.at_rows + share + 1)])
    edges = hand.edges
    if above <= below:
        # The least x with floor(x * height / reference) >= last.
        depth = min(-(-last * reference // height), b) - a
        edges[U(2 * share)] = max(edges[U(2 * share)], depth)
    else:
        # The greatest x with floor(x * height / reference) <= first.
        depth = b - max(-(-(first + 1) * reference // height) - 1, a)
        edges[U(2 * share + 1)] = max(edges[U(2 * share + 1)], depth)


@inlined
def fetch_partials(hand, m, height, size, made, mine, count):
    """Adds the partial results that every slab position with rows of a reduction's input sends to `mine`."""
    stop = np.int64(0)
    for i in range(hand.wide - 1):
        start = stop
        stop = owned_until(hand, m, i, height)
        if stop > start and i != mine:
            count = add(hand.slabs, count, i, size, made)
    return count


@inlined
def gather(tables, hand, w, q, a, b, mine):
    """Collects what rows [a, b) of phase q of volume w fetch; returns the number of sources."""
    model, ints, volumes = tables.model, tables.ints, hand.volumes
    v = model[col.AT_VOLUMES] + volumes[U(w * V_COLUMNS + V_ROW)] * col.VOLUME
    at_start, at_stop, first, last = a, b, col.NEED_FIRST, col.NEED_LAST
    if b - a < model[U(v + col.BAND)]:
        at_start = at_stop = a * model[U(v + col.BAND)] + b - a
        first, last = col.NEED_SHORT_FIRST, col.NEED_SHORT_LAST
    count = np.int64(0)
    phase = model[col.AT_PHASES] + q * col.PHASE
    for x in range(model[U(phase + col.NEEDS)], model[U(phase + col.NEEDS)] + model[U(phase + col.N_NEEDS)]):
        need = model[col.AT_NEEDS] + x * col.NEED
        lo = np.int64(ints[U(model[U(need + first)] + at_start)])
        hi = np.int64(ints[U(model[U(need + last)] + at_stop)])
        if lo < hi:
            count = fetch_rows(tables, hand, w, model[U(need + col.NEED_TENSOR)], lo, hi, mine, count)
    for x in range(model[U(phase + col.PARTIALS)], model[U(phase + col.PARTIALS)] + model[U(phase + col.N_PARTIALS)]):
        partial = model[col.AT_PARTIALS] + x * col.PARTIAL
        made = volumes[U(w * V_COLUMNS + V_FIRST_STAGE)] + model[U(partial + col.PARTIAL_PHASE)]
        size, height = model[U(partial + col.PARTIAL_SIZE)], model[U(partial + col.PARTIAL_HEIGHT)]
        count = fetch_partials(hand, w, height, size, made, mine, count)
    return count


@inlined
def gather_end(tables, hand, n, head, head_stage):
    """Collects what the head (before it has run) or the requester fetches; returns the number of sources.

    There are n volumes; `head` is the slab position of the head device; `head_stage` is the stage that the head was, or
    -1 before it has run.
    """
    model = tables.model
    count = np.int64(0)
    if head_stage < 0:
        at, last, mine = model[col.AT_HEAD_NEEDS], model[col.N_HEAD_NEEDS], head
    else:
        at, last, mine = model[col.AT_RESULTS], model[col.N_RESULTS], np.int64(-1)
    for x in range(last):
        tensor = model[U(at + x)]
        height = model[U(model[col.AT_TENSORS] + tensor * col.TENSOR + col.CROSSING_HEIGHT)]
        count = fetch_rows(tables, hand, n, tensor, np.int64(0), height, mine, count)
    if head_stage >= 0:
        if model[col.HEAD_BYTES] > 0:
            count = add(hand.slabs, count, head, model[col.HEAD_BYTES], head_stage)
        return count
    for x in range(model[col.N_HEAD_PARTIALS]):
        tensor = model[U(model[col.AT_HEAD_PARTIALS] + 2 * x)]
        size = model[U(model[col.AT_HEAD_PARTIALS] + 2 * x + 1)]
        m = maker(model, hand.volumes, tensor, n)
        made = made_stage(model, tables.ints, hand.volumes, tensor, m)
        height = model[U(model[col.AT_TENSORS] + tensor * col.TENSOR + col.CROSSING_HEIGHT)]
        count = fetch_partials(hand, m, height, size, made, mine, count)
    return count


@inlined
def cross(ways, at, ready, size, connection):
    """Sends a message over its connection, which has the links to itself; returns when it is in place.

    Its costs are at `at` in `ways.pair`.
    """
    pair, free = ways.pair, ways.free
    wire = max(ready + pair[U(at)] + pair[U(at + PRE_BYTE)] * size, free[U(connection)])
    wire += pair[U(at + WIRE_BYTE)] * size
    free[U(connection)] = wire
    return wire + pair[U(at + POST_FIXED)] + pair[U(at + POST_BYTE)] * size
