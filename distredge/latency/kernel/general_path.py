"""The kernel's general path: first all parts and messages of a strategy are written down, then time runs.

Here is the writing down, and time under `independent` with rates that vary or boundary rows first; `shared_links` has
time under `shared`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import uint64 as U

from distredge.latency.compiling import inlined, inner
from distredge.latency.kernel.arguments import (
    E_COLUMNS,
    RECEIVE_BYTE,
    RECEIVE_FIXED,
    RECEIVE_PACKED,
    SEND_BYTE,
    SEND_FIXED,
    SEND_PACKED,
    Floats,
    Ints,
)
from distredge.latency.kernel.common_ground import (
    P_COLUMNS,
    POST_BYTE,
    POST_FIXED,
    PRE_BYTE,
    S_COLUMNS,
    S_DEVICE,
    S_PROFILE,
    V_BOUNDARY,
    V_COLUMNS,
    V_FIRST_STAGE,
    V_ROW,
    WIRE_BYTE,
    cross,
    enter_volume,
    gather,
    gather_end,
    seconds_of,
    taken,
)
from distredge.latency.tables import columns as col

M_COLUMNS = 9
M_STAGE, M_FROM, M_TO, M_SIZE, M_PACKED, M_MADE, M_NEXT_MADE, M_NEXT_SENT, M_READY = range(M_COLUMNS)
"""Stage that needs it, slab positions, bytes, bytes of float32 that are packed into it, row of `stages` whose end it
leaves at; the next message that leaves then, and after it has arrived the one that arrived before it for the same part;
the next one on its connection; whether it is ready for it."""

T_COLUMNS = 3
T_SECONDS, T_LEAD, T_LEFT = range(T_COLUMNS)
"""Seconds of the part (-1: none), seconds after its start at which its messages leave, when they have left (row 0: the
start of the image)."""

SIZE_MASK = (1 << col.PACKED_SHIFT) - 1
"""Bits of the bytes of a message in `AtHand.slabs`; above them are the bytes of float32 that are packed into it."""

IDLE_PIECES = 10_000
"""Pieces of traces without a bit after which a link counts as down."""


class Written(NamedTuple):
    """What was written down of a strategy.

    Attributes:
        messages: (n * M_COLUMNS,) those of one stage together, by destination.
        stages: (n_rows * (D + 1) * T_COLUMNS,) of each stage and slab position.
        n_messages, n_stages: number of messages; of stages, with the head.
        n_done: number of stages of volumes.
        whole: whether the strategy reaches the body's end.
    """

    messages: Ints
    stages: Floats
    n_messages: int
    n_stages: int
    n_done: int
    whole: bool


class Site(NamedTuple):
    """Where a strategy runs, and from when on.

    Attributes:
        cluster: its number.
        access_at: where the links of its cluster begin in `access` and `trace` of `arguments.LinkArrays`.
        start_s: seconds on the links' traces.
    """

    cluster: int
    access_at: int
    start_s: float


@inlined
def write_down(tables, plans, k, hand, messages, stages):
    """Writes down all parts and messages of strategy k, which is at hand; returns `Written`."""
    model, volumes, slabs, edges = tables.model, hand.volumes, hand.slabs, hand.edges
    cuts, head, n_volumes, wide = plans.cuts, plans.head[k], plans.cuts.shape[1], hand.wide
    n_messages, stage, n, start = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for w in range(n_volumes):
        end = cuts[k, w]
        if end < 0:
            break
        n = w + 1
        v = enter_volume(model, volumes, w, start, end, stage, plans.wires[k, w], plans.boundary[k, w])
        start = end + 1
        for x in range(2 * wide):
            edges[U(2 * w * wide + x)] = 0
        at = model[col.AT_VOLUMES] + v * col.VOLUME
        for q in range(model[at + col.PHASES], model[at + col.PHASES] + model[at + col.N_PHASES]):
            for j in range(wide - 1):
                share = hand.at_rows + w * wide + j
                a, b = np.int64(hand.rows[U(share)]), np.int64(hand.rows[U(share + 1)])
                stages[U((stage * wide + j) * T_COLUMNS + T_SECONDS)] = -1.0
                if a < b:
                    count = gather(tables, hand, w, q, a, b, j)
                    n_messages = note(slabs, count, messages, n_messages, stage, j)
            stage += 1
    n_stages, whole = stage, start == model[col.N_CUTS]
    if whole:
        if model[col.HAS_HEAD]:
            for j in range(wide - 1):
                stages[U((stage * wide + j) * T_COLUMNS + T_SECONDS)] = -1.0
            count = gather_end(tables, hand, n, head, np.int64(-1))
            n_messages = note(slabs, count, messages, n_messages, stage, head)
            at = (stage * wide + head) * T_COLUMNS
            stages[at + T_SECONDS] = stages[at + T_LEAD] = tables.head_seconds[slabs[head * S_COLUMNS + S_PROFILE]]
            n_stages += 1
        count = gather_end(tables, hand, n, head, stage)
        n_messages = note(slabs, count, messages, n_messages, n_stages, wide - 1)
    for w in range(n):
        price(tables, hand, w, stages)
    return Written(messages, stages, n_messages, n_stages, stage, whole)


@inlined
def note(slabs, count, messages, n_messages, stage, mine):
    """Writes down the messages that were gathered for slab position `mine`; returns the number of all messages."""
    wide = len(slabs) // S_COLUMNS
    for x in range(count):
        i, size, made = taken(slabs, x)
        at = n_messages * M_COLUMNS
        messages[U(at + M_STAGE)] = stage
        messages[U(at + M_FROM)] = i
        messages[U(at + M_TO)] = mine
        messages[U(at + M_SIZE)] = size & SIZE_MASK
        messages[U(at + M_PACKED)] = size >> col.PACKED_SHIFT
        messages[U(at + M_MADE)] = (made + 1) * wide + i
        n_messages += 1
    return n_messages


@inlined
def price(tables, hand, w, stages):
    """Fills in the seconds of all parts of volume w; a boundary-first part is two strips and what is between them."""
    model, volumes, edges, wide = tables.model, hand.volumes, hand.edges, hand.wide
    v = volumes[U(w * V_COLUMNS + V_ROW)]
    at = model[col.AT_VOLUMES] + v * col.VOLUME
    n_phases = model[U(at + col.N_PHASES)]
    first = volumes[U(w * V_COLUMNS + V_BOUNDARY)] != 0 and n_phases == 1 and model[U(at + col.REDUCES)] == 0
    for phase in range(n_phases):
        q = model[U(at + col.PHASES)] + phase
        stage = volumes[U(w * V_COLUMNS + V_FIRST_STAGE)] + phase
        for j in range(wide - 1):
            share = w * wide + j
            a, b = np.int64(hand.rows[U(hand.at_rows + share)]), np.int64(hand.rows[U(hand.at_rows + share + 1)])
            if a == b:
                continue
            profile = hand.slabs[U(j * S_COLUMNS + S_PROFILE)]
            to = (stage * wide + j) * T_COLUMNS
            top, bottom = edges[U(2 * share)], edges[U(2 * share + 1)]
            if not (first and 0 < top + bottom < b - a):
                lead = whole = seconds_of(tables, v, q, a, b, profile)
            else:
                lead = 0.0
                if top > 0:
                    lead += seconds_of(tables, v, q, a, a + top, profile)
                if bottom > 0:
                    lead += seconds_of(tables, v, q, b - bottom, b, profile)
                whole = lead + seconds_of(tables, v, q, a + top, b - bottom, profile)
            stages[U(to + T_SECONDS)], stages[U(to + T_LEAD)] = whole, lead


@inner
def crowd(written, links, cluster, slabs):
    """Makes parts longer that share the cores of a host with others of their stage."""
    stages, threads, cores, computer = written.stages, links.threads, links.cores, links.computer
    wide = len(slabs) // S_COLUMNS
    for stage in range(written.n_stages):
        for j in range(wide - 1):
            mine = slabs[j * S_COLUMNS + S_DEVICE]
            to = (stage * wide + j) * T_COLUMNS
            if stages[to + T_SECONDS] < 0.0 or np.isinf(cores[cluster, mine]):
                continue
            used = 0.0
            for i in range(wide - 1):
                other = slabs[i * S_COLUMNS + S_DEVICE]
                if computer[cluster, other] == computer[cluster, mine]:
                    used += (
                        threads[cluster, other] if stages[(stage * wide + i) * T_COLUMNS + T_SECONDS] >= 0.0 else 0.0
                    )
            # No seconds stay none, so that whether others have a part can still be told.
            factor = max(used / cores[cluster, mine], 1.0)
            stages[to + T_SECONDS] *= factor
            stages[to + T_LEAD] *= factor


@inlined
def sum_loads(written, links, site, slabs, ends_of, k, found, sent_s):
    """Sums up what was written down of strategy k.

    `ends_of` are the links of each connection, `sent_s` is room for a number for each connection. Filled in `found`:
    busy_s and link_s, in which a link whose rate varies counts by its mean.
    """
    messages, stages, access = written.messages, written.stages, links.access
    wide = len(slabs) // S_COLUMNS
    shared, handling = links.shared[site.cluster], links.handling
    handling_at = site.access_at // 2 * E_COLUMNS
    for j in range(wide - 1):
        found.busy_s[k, j] = 0.0
    for stage in range(written.n_stages):
        for j in range(wide - 1):
            found.busy_s[k, j] += max(stages[U((stage * wide + j) * T_COLUMNS + T_SECONDS)], 0.0)
    for x in range(wide * wide):
        sent_s[U(x)] = 0.0
    most, total, asks_s = 0.0, 0.0, 0.0
    for m in range(written.n_messages):
        i, j = messages[U(m * M_COLUMNS + M_FROM)], messages[U(m * M_COLUMNS + M_TO)]
        size, packed = float(messages[U(m * M_COLUMNS + M_SIZE)]), float(messages[U(m * M_COLUMNS + M_PACKED)])
        source, target = slabs[U(i * S_COLUMNS + S_DEVICE)], slabs[U(j * S_COLUMNS + S_DEVICE)]
        inside = links.computer[site.cluster, source] == links.computer[site.cluster, target]
        if shared:
            at = handling_at + source * E_COLUMNS
            sends_s = handling[U(at + SEND_FIXED)] + handling[U(at + SEND_BYTE)] * size
            sends_s += handling[U(at + SEND_PACKED)] * packed
            at = handling_at + target * E_COLUMNS
            takes_s = handling[U(at + RECEIVE_FIXED)] + handling[U(at + RECEIVE_BYTE)] * size
            takes_s += handling[U(at + RECEIVE_PACKED)] * packed
            if i < wide - 1:
                found.busy_s[k, i] += sends_s
            else:
                asks_s += sends_s
            if j < wide - 1:
                found.busy_s[k, j] += takes_s
            else:
                asks_s += takes_s
        bits = 8.0 * size
        if bits == 0.0 or inside:
            continue
        up_s = bits / access[U(site.access_at + 2 * source)]
        down_s = bits / access[U(site.access_at + 2 * target + 1)]
        if shared:
            up, down = ends_of[U(2 * (i * wide + j))], ends_of[U(2 * (i * wide + j) + 1)]
            sent_s[U(up)] += up_s
            sent_s[U(down)] += down_s
            most = max(most, sent_s[U(up)], sent_s[U(down)])
        else:
            sent_s[U(i * wide + j)] += max(up_s, down_s)
            most = max(most, sent_s[U(i * wide + j)])
        total += up_s + down_s
    most = max(most, asks_s)
    found.link_s[k] = max(most, total) if links.medium[site.cluster] else most


@inner
def trace_piece(times, rates, first, last, period, time):
    """The rate of a trace from `time` on, and when it changes next."""
    turn = np.floor(time / period)
    row, above = first, last
    while above - row > 1:
        middle = (row + above) >> 1
        if times[middle] <= time - turn * period:
            row = middle
        else:
            above = middle
    change = turn * period + (times[row + 1] if row + 1 < last else period)
    while change <= time:
        row += 1
        if row == last:
            row = first
            turn += 1.0
        change = turn * period + (times[row + 1] if row + 1 < last else period)
    return rates[row], change


@inlined
def rate_at(links, at, time):
    """The rate of a link from `time` on, and when it changes next; the link is at `at` in `links.access`."""
    number = links.trace[at]
    if number < 0:
        return links.access[at], np.inf
    first, last = links.trace_at[number], links.trace_at[number + 1]
    return trace_piece(links.times, links.rates, first, last, links.period[number], time)


@inlined
def finish_at(links, up, down, start, bits):
    """When bits that have both links to themselves are over; infinite if never."""
    now, left, idle = start, bits, 0
    while left > 0.0:
        rate_up, change_up = rate_at(links, up, now)
        rate_down, change_down = rate_at(links, down, now)
        rate, change = min(rate_up, rate_down), min(change_up, change_down)
        if rate > 0.0 and (np.isinf(rate) or left <= rate * (change - now)):
            return now + left / rate
        idle = idle + 1 if rate == 0.0 else 0
        if np.isinf(change) or idle > IDLE_PIECES:
            return np.inf
        left -= rate * (change - now)
        now = change
    return now


@inlined
def run_independent(written, links, site, slabs, ways):
    """Runs what was written down, every message in the order of stages, every part when all is there.

    Returns the latency; `ways.done` holds when each slab position has done each stage.
    """
    messages, stages, done, free, pair = written.messages, written.stages, ways.done, ways.free, ways.pair
    wide, n_devices, n_stages = len(slabs) // S_COLUMNS, ways.n_devices, written.n_stages
    free[: wide * wide] = 0.0
    for j in range(wide):
        done[j] = stages[j * T_COLUMNS + T_LEFT] = 0.0
    x = np.int64(0)
    for stage in range(n_stages + 1):
        for j in range(wide):
            t = done[stage * wide + j] if j < wide - 1 else 0.0
            while (
                x < written.n_messages
                and messages[x * M_COLUMNS + M_STAGE] == stage
                and messages[x * M_COLUMNS + M_TO] == j
            ):
                i, size = messages[x * M_COLUMNS + M_FROM], float(messages[x * M_COLUMNS + M_SIZE])
                left = stages[messages[x * M_COLUMNS + M_MADE] * T_COLUMNS + T_LEFT]
                source, target = slabs[i * S_COLUMNS + S_DEVICE], slabs[j * S_COLUMNS + S_DEVICE]
                at = ways.base + (source * (n_devices + 1) + target) * P_COLUMNS
                if pair[at + WIRE_BYTE] >= 0.0:
                    t = max(t, cross(ways, at, left, size, i * wide + j))
                else:
                    start = max(left + pair[at] + pair[at + PRE_BYTE] * size, free[i * wide + j]) + site.start_s
                    up, down = site.access_at + 2 * source, site.access_at + 2 * target + 1
                    free[i * wide + j] = finish_at(links, up, down, start, 8.0 * size) - site.start_s
                    t = max(t, free[i * wide + j] + pair[at + POST_FIXED] + pair[at + POST_BYTE] * size)
                x += 1
            if stage == n_stages and j == wide - 1:
                return t
            if stage == n_stages or j == wide - 1:
                continue
            at = (stage * wide + j) * T_COLUMNS
            if stages[at + T_SECONDS] >= 0.0:
                stages[at + wide * T_COLUMNS + T_LEFT] = t + stages[at + T_LEAD]
                t += stages[at + T_SECONDS]
            done[(stage + 1) * wide + j] = t
    return np.nan
