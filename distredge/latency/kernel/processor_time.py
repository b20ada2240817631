"""What devices do between the events of `shared_links`: they handle messages that have arrived, compute, and send.

All of it follows as soon as the last of a part's inputs is over its connection.
"""

from __future__ import annotations

from numpy import uint64 as U

from distredge.latency.compiling import inlined, inner
from distredge.latency.kernel.arguments import (
    E_COLUMNS,
    INSIDE,
    RECEIVE_BYTE,
    RECEIVE_FIXED,
    RECEIVE_PACKED,
    SEND_BYTE,
    SEND_FIXED,
    SEND_PACKED,
)
from distredge.latency.kernel.common_ground import (
    P_COLUMNS,
    POST_BYTE,
    POST_FIXED,
    PRE_BYTE,
    S_COLUMNS,
    S_DEVICE,
    WIRE_BYTE,
)
from distredge.latency.kernel.general_path import (
    M_COLUMNS,
    M_FROM,
    M_NEXT_MADE,
    M_PACKED,
    M_SIZE,
    M_STAGE,
    M_TO,
    T_COLUMNS,
    T_LEAD,
    T_SECONDS,
)


@inlined
def settle_all(traffic, run, n_open, size):
    """Settles the slab positions of OPEN, and those that get what they wait for from them; returns the heap's size."""
    while n_open > 0:
        n_open -= 1
        size, n_open = settle(traffic, run, traffic.open[U(n_open)], size, n_open)
    return size


@inlined
def settle(traffic, run, j, size, n_open):
    """Settles the parts of slab position j of which the last bit of all inputs is over, and hands on what they make.

    Their start and end are known then, and when their messages leave: nothing that happens until then can change that,
    so that neither is an event. Returns the heap's size and the number of slab positions to settle.
    """
    waiting, next_stage, stages, done = traffic.waiting, traffic.next_stage, run.stages, run.done
    while next_stage[U(j)] < run.n_stages:
        at = next_stage[U(j)] * run.wide + j
        if waiting[U(at)] > 0:
            break
        t = done[U(at)]
        seconds = stages[U(at * T_COLUMNS + T_SECONDS)]
        if seconds >= 0.0:
            t = handle_inputs(traffic, run, at, j, t)
            size, n_open, sends_s = hand_on(
                traffic, run, at + run.wide, t + stages[U(at * T_COLUMNS + T_LEAD)], size, n_open
            )
            t += seconds + sends_s
        done[U(at + run.wide)] = t
        next_stage[U(j)] += 1
    return size, n_open


@inlined
def handle_inputs(traffic, run, place, j, free):
    """Handles what has arrived for a row of the stages, on slab position j that is free from then on.

    Returns when that is done: each message is handled when it is there and the one before it is done, so that the end
    is the latest of what all of them take from `free` on and of what each and those after it take from its arrival on.
    """
    messages, handling, in_s = run.messages, run.handling, traffic.in_s
    cost = run.handling_at + run.slabs[U(j * S_COLUMNS + S_DEVICE)] * E_COLUMNS
    fixed, per_byte = handling[U(cost + RECEIVE_FIXED)], handling[U(cost + RECEIVE_BYTE)]
    per_packed = handling[U(cost + RECEIVE_PACKED)]
    total, line = 0.0, 0.0
    m = traffic.last_in[U(place)]
    while m >= 0:
        at = m * M_COLUMNS
        total += fixed + per_byte * float(messages[U(at + M_SIZE)]) + per_packed * float(messages[U(at + M_PACKED)])
        line = max(line, in_s[U(m)] + total)
        m = messages[U(at + M_NEXT_MADE)]
    return max(free + total, line)


@inlined
def hand_on(traffic, run, row, leave, size, n_open):
    """Handles the messages that leave at the end of a row of the stages, one after the other.

    Returns the heap's size, the number of slab positions to settle, and the seconds that handling takes.
    """
    messages, pair, handling, slabs = run.messages, run.pair, run.handling, run.slabs
    m = traffic.made_there[U(row)]
    spent = 0.0
    if m < 0:
        return size, n_open, spent
    source = slabs[U(messages[U(m * M_COLUMNS + M_FROM)] * S_COLUMNS + S_DEVICE)]
    at, costs = run.handling_at + source * E_COLUMNS, run.base + source * (run.n_devices + 1) * P_COLUMNS
    fixed, per_byte = handling[U(at + SEND_FIXED)], handling[U(at + SEND_BYTE)]
    per_packed = handling[U(at + SEND_PACKED)]
    while m >= 0:
        at = m * M_COLUMNS
        after, n_bytes = messages[U(at + M_NEXT_MADE)], float(messages[U(at + M_SIZE)])
        cost = costs + slabs[U(messages[U(at + M_TO)] * S_COLUMNS + S_DEVICE)] * P_COLUMNS
        spent += fixed + per_byte * n_bytes + per_packed * float(messages[U(at + M_PACKED)])
        ready = leave + spent + pair[U(cost)] + pair[U(cost + PRE_BYTE)] * n_bytes
        if pair[U(cost + WIRE_BYTE)] == INSIDE:
            n_open = take_in(traffic, run, m, ready, n_open)
        else:
            size = push(traffic.heap, traffic.heap_s, size, ready, m)
        m = after
    return size, n_open, spent


@inlined
def take_in(traffic, run, m, now, n_open):
    """Notes that the last bit of message m is over; returns the number of slab positions to settle."""
    messages, pair, waiting, last_in, in_s = run.messages, run.pair, traffic.waiting, traffic.last_in, traffic.in_s
    at = m * M_COLUMNS
    j = messages[U(at + M_TO)]
    cost = cost_of(run, messages[U(at + M_FROM)], j)
    place = messages[U(at + M_STAGE)] * run.wide + j
    t = now + pair[U(cost + POST_FIXED)] + pair[U(cost + POST_BYTE)] * float(messages[U(at + M_SIZE)])
    in_s[U(m)] = t
    # Those of one part are listed from the last to the first to arrive; few overtake others.
    before = last_in[U(place)]
    if before < 0 or in_s[U(before)] <= t:
        messages[U(at + M_NEXT_MADE)] = before
        last_in[U(place)] = m
    else:
        insert(messages, in_s, before, m, t)
    waiting[U(place)] -= 1
    if waiting[U(place)] == 0 and j < run.wide - 1:
        traffic.open[U(n_open)] = j
        n_open += 1
    return n_open


@inner
def insert(messages, in_s, after, m, t):
    """Puts message m, which arrived at t, into the list of those of its part, somewhere behind the one given."""
    before = messages[after * M_COLUMNS + M_NEXT_MADE]
    while before >= 0 and in_s[before] > t:
        after, before = before, messages[before * M_COLUMNS + M_NEXT_MADE]
    messages[after * M_COLUMNS + M_NEXT_MADE], messages[m * M_COLUMNS + M_NEXT_MADE] = m, before


@inlined
def cost_of(run, i, j):
    """Where the costs of a message from slab position i to j are."""
    slabs = run.slabs
    place = slabs[U(i * S_COLUMNS + S_DEVICE)] * (run.n_devices + 1) + slabs[U(j * S_COLUMNS + S_DEVICE)]
    return run.base + place * P_COLUMNS


@inlined
def push(heap, heap_s, size, time, item):
    """Adds to the heap; returns its size."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if heap_s[U(parent)] <= time:
            break
        heap_s[U(at)], heap[U(at)] = heap_s[U(parent)], heap[U(parent)]
        at = parent
    heap_s[U(at)], heap[U(at)] = time, item
    return size + 1
