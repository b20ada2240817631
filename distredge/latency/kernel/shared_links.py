"""The kernel under `shared` links: connections in use share every access link max-min fair.

Time goes from event to event: a message that is ready for its connection, the last bit of one, a rate that changes.
When connections start or end, only those that share a link with them, directly or through others, get other rates; the
rest go on. When messages are handled is known as soon as the last of a part's inputs is there, and is no event.

What the functions work in are two sets of flat arrays (`traffic`): `Traffic`, and `SharedRun`, the strategy at hand.
`fair_shares` gives the rates.
"""

from __future__ import annotations

import numpy as np
from numpy import uint64 as U

from distredge.latency.compiling import inlined, inner
from distredge.latency.kernel.common_ground import S_COLUMNS, S_DEVICE
from distredge.latency.kernel.fair_shares import share_anew, share_medium
from distredge.latency.kernel.general_path import (
    M_COLUMNS,
    M_FROM,
    M_MADE,
    M_NEXT_MADE,
    M_NEXT_SENT,
    M_READY,
    M_SIZE,
    M_STAGE,
    M_TO,
    rate_at,
)
from distredge.latency.kernel.processor_time import hand_on, handle_inputs, settle_all, take_in
from distredge.latency.kernel.traffic import F_COLUMNS, F_LEFT, F_RATE, F_SINCE, places


@inner
def run_shared(traffic, run, links, medium, turn):
    """Runs what `general_path.write_down` wrote; `run.done` holds when each slab position has done each stage.

    `medium` says that one carries everything; `turn` is a mark that no earlier call has used. Returns the latency,
    infinite when something cannot get through, and the last mark used.
    """
    varies = begin_run(traffic, run, links)
    # The requester hands on the input; every slab position may have a part that needs none of it.
    n_active, n_open = np.int64(0), np.int64(run.wide - 1)
    size, n_open, run.done[U(run.wide - 1)] = hand_on(traffic, run, run.wide - 1, 0.0, np.int64(0), n_open)
    while True:
        size = settle_all(traffic, run, n_open, size)
        first_end = earliest(traffic.ends, n_active)
        now = min(first_end, traffic.heap_s[0]) if size > 0 else first_end
        if varies and n_active > 0:
            now = min(now, earliest(traffic.change, 2 * run.wide))
        if np.isinf(now):
            break
        n_dirty, n_open = np.int64(0), np.int64(0)
        size, n_next = take_packed(traffic, run, now, size)
        if first_end <= now:
            n_active, n_dirty, n_open, n_next = take_ended(traffic, run, now, n_active, n_next)
        n_active, n_dirty = begin_flows(traffic, run, n_next, n_active, n_dirty)
        for link in range(2 * run.wide if varies else 0):
            if traffic.change[U(link)] <= now:
                refresh(traffic, run, links, link, now)
                traffic.dirty[U(n_dirty)] = link
                n_dirty += 1
        if n_dirty == 0:
            continue
        turn += 1
        if medium:
            share_medium(traffic, run, now, n_active, turn)
        else:
            share_anew(traffic, run, now, n_dirty, turn)
    result = run.n_stages * run.wide + run.wide - 1
    for x in range(n_active):
        traffic.ends[x] = np.inf
    if n_active > 0 or traffic.waiting[U(result)] > 0:
        return np.inf, turn
    return handle_inputs(traffic, run, result, run.wide - 1, run.done[U(run.wide - 1)]), turn


@inlined
def begin_run(traffic, run, links):
    """Brings everything to the start of the image; returns whether any link's rate varies."""
    list_messages(traffic, run)
    varies = False
    for link in range(2 * run.wide):
        refresh(traffic, run, links, link, 0.0)
        varies = varies or not np.isinf(traffic.change[link])
    for j in range(run.wide - 1):
        run.done[j] = 0.0
        traffic.open[j] = j
    return varies


@inlined
def list_messages(traffic, run):
    """Lists the messages by the part that makes them and by connection, and empties what is counted."""
    messages, made_there, queue = run.messages, traffic.made_there, traffic.queue
    waiting, next_stage, n_on, last_in = traffic.waiting, traffic.next_stage, traffic.n_on, traffic.last_in
    for x in range((run.n_stages + 2) * run.wide):
        made_there[U(x)] = -1
        last_in[U(x)] = -1
        waiting[U(x)] = 0
    for x in range(run.wide * run.wide):
        queue[U(x)] = -1
    for x in range(run.wide):
        next_stage[U(x)] = 0
        n_on[U(x)] = n_on[U(run.wide + x)] = 0
    for m in range(run.n_messages - 1, -1, -1):
        at = m * M_COLUMNS
        made, connection = messages[U(at + M_MADE)], messages[U(at + M_FROM)] * run.wide + messages[U(at + M_TO)]
        messages[U(at + M_NEXT_MADE)] = made_there[U(made)]
        made_there[U(made)] = m
        messages[U(at + M_NEXT_SENT)] = queue[U(connection)]
        queue[U(connection)] = m
        messages[U(at + M_READY)] = 0
        waiting[U(messages[U(at + M_STAGE)] * run.wide + messages[U(at + M_TO)])] += 1


@inlined
def place_ends(ends_of, wide, board):
    """Fills in the links of each connection; the requester on a device's board has that board's."""
    for i in range(wide):
        for j in range(wide):
            at = 2 * (i * wide + j)
            ends_of[U(at)] = board if board >= 0 and i == wide - 1 else i
            ends_of[U(at + 1)] = wide + (board if board >= 0 and j == wide - 1 else j)


@inlined
def place_hosts(ends_of, slabs, computer, cluster):
    """As `place_ends` where devices share computers: all on one have the links of its first slab position."""
    wide = len(slabs) // S_COLUMNS
    for i in range(wide):
        mine, first = computer[cluster, slabs[i * S_COLUMNS + S_DEVICE]], np.int64(0)
        while computer[cluster, slabs[first * S_COLUMNS + S_DEVICE]] != mine:
            first += 1
        for j in range(wide):
            ends_of[2 * (i * wide + j)] = first
            ends_of[2 * (j * wide + i) + 1] = wide + first


@inlined
def take_packed(traffic, run, until, size):
    """Marks the messages that are ready; lists those in HAND whose connection is free. Returns heap and list sizes."""
    messages, queue, heap, heap_s = run.messages, traffic.queue, traffic.heap, traffic.heap_s
    n_next = np.int64(0)
    while size > 0 and heap_s[0] <= until:
        m, ready = heap[0], heap_s[0]
        size = pop(heap, heap_s, size)
        at = m * M_COLUMNS
        messages[U(at + M_READY)] = 1
        if queue[U(messages[U(at + M_FROM)] * run.wide + messages[U(at + M_TO)])] == m:
            traffic.hand[U(n_next)], traffic.hand_s[U(n_next)] = m, ready
            n_next += 1
    return size, n_next


@inlined
def take_ended(traffic, run, until, n_active, n_next):
    """Takes in the messages whose last bit is over; adds to HAND those that may follow on their connections.

    Returns how many connections are in use, links are dirty, slab positions are to be settled, messages may follow.
    """
    messages, queue, active, ends = run.messages, traffic.queue, traffic.active, traffic.ends
    n_dirty, n_open, x = np.int64(0), np.int64(0), np.int64(0)
    while x < n_active:
        end = ends[U(x)]
        if end > until:
            x += 1
            continue
        connection = active[U(x)]
        n_active, n_dirty = end_flow(traffic, run, connection, n_active, n_dirty)
        m = queue[U(connection)]
        n_open = take_in(traffic, run, m, end, n_open)
        after = messages[U(m * M_COLUMNS + M_NEXT_SENT)]
        queue[U(connection)] = after
        if after >= 0 and messages[U(after * M_COLUMNS + M_READY)] != 0:
            traffic.hand[U(n_next)], traffic.hand_s[U(n_next)] = after, end
            n_next += 1
    return n_active, n_dirty, n_open, n_next


@inlined
def begin_flows(traffic, run, n_next, n_active, n_dirty):
    """Puts the connections of the messages in HAND in use; returns how many are in use, and links are dirty."""
    messages = run.messages
    for x in range(n_next):
        at = traffic.hand[U(x)] * M_COLUMNS
        connection = messages[U(at + M_FROM)] * run.wide + messages[U(at + M_TO)]
        bits = 8.0 * float(messages[U(at + M_SIZE)])
        start = traffic.hand_s[U(x)]
        n_active, n_dirty = begin_flow(traffic, run, connection, bits, start, n_active, n_dirty)
    return n_active, n_dirty


@inlined
def begin_flow(traffic, run, connection, bits, now, n_active, n_dirty):
    """Puts a connection in use; returns how many are, and how many links have to be shared anew."""
    at = connection * F_COLUMNS
    flows, capacity, on_link, n_on = traffic.flows, traffic.capacity, traffic.on_link, traffic.n_on
    flows[U(at + F_LEFT)], flows[U(at + F_SINCE)], flows[U(at + F_RATE)] = bits, now, 0.0
    up, down = traffic.ends_of[U(2 * connection)], traffic.ends_of[U(2 * connection + 1)]
    unbounded = np.isinf(capacity[U(up)]) and np.isinf(capacity[U(down)])
    traffic.active[U(n_active)] = connection
    traffic.place[U(connection)] = n_active
    traffic.ends[U(n_active)] = now if unbounded else np.inf
    on_link[U(up * places(run.wide) + n_on[U(up)])] = connection
    on_link[U(down * places(run.wide) + n_on[U(down)])] = connection
    traffic.other_link[U(up * places(run.wide) + n_on[U(up)])] = down
    traffic.other_link[U(down * places(run.wide) + n_on[U(down)])] = up
    n_on[U(up)] += 1
    n_on[U(down)] += 1
    traffic.dirty[U(n_dirty)], traffic.dirty[U(n_dirty + 1)] = up, down
    return n_active + 1, n_dirty + 2


@inlined
def end_flow(traffic, run, connection, n_active, n_dirty):
    """Takes a connection out of use; returns how many are in use, and how many links have to be shared anew."""
    active, place, ends = traffic.active, traffic.place, traffic.ends
    n_active -= 1
    x, other = place[U(connection)], active[U(n_active)]
    active[U(x)], ends[U(x)], place[U(other)] = other, ends[U(n_active)], x
    ends[U(n_active)] = np.inf
    up, down = traffic.ends_of[U(2 * connection)], traffic.ends_of[U(2 * connection + 1)]
    leave_link(traffic.on_link, traffic.other_link, traffic.n_on, up, connection, run.wide)
    leave_link(traffic.on_link, traffic.other_link, traffic.n_on, down, connection, run.wide)
    traffic.dirty[U(n_dirty)], traffic.dirty[U(n_dirty + 1)] = up, down
    return n_active, n_dirty + 2


@inlined
def leave_link(on_link, other_link, n_on, link, connection, wide):
    """Takes a connection off a link's list."""
    x = link * places(wide)
    while on_link[U(x)] != connection:
        x += 1
    n_on[U(link)] -= 1
    on_link[U(x)] = on_link[U(link * places(wide) + n_on[U(link)])]
    other_link[U(x)] = other_link[U(link * places(wide) + n_on[U(link)])]


@inner
def refresh(traffic, run, links, link, now):
    """Looks up the rate of a link from `now` on."""
    side = 0 if link < run.wide else 1
    device = run.slabs[(link - side * run.wide) * S_COLUMNS + S_DEVICE]
    rate, until = rate_at(links, run.access_at + 2 * device + side, now + run.start_s)
    traffic.capacity[link], traffic.change[link] = rate, until - run.start_s


@inlined
def earliest(times, n):
    """The least of the first n times; infinite if there is none. There must be three infinite ones behind them.

    Four at once: the processor need not know the result of one comparison to begin with the next.
    """
    one = two = three = four = np.inf
    for x in range(0, n, 4):
        one, two = min(one, times[U(x)]), min(two, times[U(x + 1)])
        three, four = min(three, times[U(x + 2)]), min(four, times[U(x + 3)])
    return min(min(one, two), min(three, four))


@inlined
def pop(heap, heap_s, size):
    """Removes the first of the heap; returns its size."""
    size -= 1
    time, item = heap_s[U(size)], heap[U(size)]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap_s[U(child + 1)] < heap_s[U(child)]:
            child += 1
        if heap_s[U(child)] >= time:
            break
        heap_s[U(at)], heap[U(at)] = heap_s[U(child)], heap[U(child)]
        at = child
    heap_s[U(at)], heap[U(at)] = time, item
    return size
