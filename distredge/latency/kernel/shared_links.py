"""The kernel under `shared` links: connections in use share every access link max-min fair.

Time goes from event to event: a message that is packed, the last bit of one, a rate that changes. When connections
start or end, only those that share a link with them, directly or through others, get other rates; the rest go on.

What the functions work in are two tuples of flat arrays. Links are numbered uplinks first, then downlinks; marks are
numbers of `turn`, one for every time that rates are shared anew. Of `whole`:

- MESSAGES, SLABS: as `kernel_general` and `kernel_core` say.
- MADE_THERE: by row of the stages, the first message that leaves at its end. QUEUE: by connection, the message that is
  on it or comes next, or -1. WAITING: by (stage, slab position), messages that it still waits for. NEXT_STAGE: by slab
  position, its first part that is not settled.
- HEAP: packed messages, a binary heap by HEAP_S.
- ACTIVE: connections in use, in any order; ENDS tells when each ends. PLACE: by connection, where it stands there.
- ENDS_OF: by connection, its uplink and its downlink. ON_LINK: by link, 2 * wide places for the connections in use on
  it, OTHER_LINK: their other links, in the same order; N_ON: how many there are.
- DIRTY: links on which connections have started or ended. LINKS, SEEN, STILL: links that are shared anew, their marks,
  and how many of their connections have no rate yet; FIXED: marks of connections that have one.
- OPEN: slab positions to settle; HAND: rows of the stages whose messages leave at HAND_S, or, after them, messages to
  put on their connections from then on.

Of `real`: STAGES as `kernel_general` says, PAIR as `kernel_core` does; DONE; CAPACITY and CHANGE of each link: its rate
and when that changes; LEFT, what of it is not given away yet (or LEVEL, what it offers, and PER_BIT, seconds per bit at
that); FLOWS, F_COLUMNS for each connection: bits left at a time, its rate since then, airtime per bit. ENDS is infinite
behind the last connection in use, CHANGE behind the last link.
"""

from __future__ import annotations

import numpy as np
from numpy import uint64 as U

from distredge.latency.compiling import borrow_all, inlined, inner
from distredge.latency.kernel.common_ground import DEVICE, P_COLUMNS, POST_BYTE, POST_FIXED, PRE_BYTE, S_COLUMNS
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
    T_ARRIVED,
    T_COLUMNS,
    T_LEAD,
    T_SECONDS,
    rate_at,
)

N_WHOLE = 20
(
    MESSAGES, SLABS, MADE_THERE, QUEUE, WAITING, NEXT_STAGE, HEAP, ACTIVE, PLACE, ENDS_OF, ON_LINK, N_ON, DIRTY, LINKS,
    SEEN, STILL, FIXED, OPEN, HAND, OTHER_LINK,
) = range(N_WHOLE)  # fmt: skip

N_REAL = 11
STAGES, PAIR, DONE, HEAP_S, ENDS, CAPACITY, CHANGE, LEFT, FLOWS, HAND_S, PER_BIT = range(N_REAL)
LEVEL = LEFT

F_COLUMNS = 4
F_LEFT, F_SINCE, F_RATE, F_AIRTIME = range(F_COLUMNS)

WINDOW = 1.01
"""With `nearby`, what happens until so many times the moment of the next event is taken together with it."""

INVERSE = 1.0 / np.maximum(np.arange(4096), 1)
"""Reciprocals of numbers of connections: a look-up is faster than a division."""


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


@inlined
def list_messages(whole, real, n_messages, n_stages, wide):
    """Lists the messages by the part that makes them and by connection, and empties what is counted."""
    messages, made_there, queue = whole[MESSAGES], whole[MADE_THERE], whole[QUEUE]
    waiting, next_stage, n_on, stages = whole[WAITING], whole[NEXT_STAGE], whole[N_ON], real[STAGES]
    for x in range((n_stages + 2) * wide):
        made_there[U(x)] = -1
        waiting[U(x)] = 0
        stages[U(x * T_COLUMNS + T_ARRIVED)] = 0.0
    for x in range(wide * wide):
        queue[U(x)] = -1
    for x in range(wide):
        next_stage[U(x)] = 0
        n_on[U(x)] = n_on[U(wide + x)] = 0
    for m in range(n_messages - 1, -1, -1):
        at = m * M_COLUMNS
        made, connection = messages[U(at + M_MADE)], messages[U(at + M_FROM)] * wide + messages[U(at + M_TO)]
        messages[U(at + M_NEXT_MADE)] = made_there[U(made)]
        made_there[U(made)] = m
        messages[U(at + M_NEXT_SENT)] = queue[U(connection)]
        queue[U(connection)] = m
        messages[U(at + M_READY)] = 0
        waiting[U(messages[U(at + M_STAGE)] * wide + messages[U(at + M_TO)])] += 1


@inlined
def cost_of(slabs, base, n_devices, i, j):
    """Where the costs of a message from slab position i to j are."""
    place = slabs[U(i * S_COLUMNS + DEVICE)] * (n_devices + 1) + slabs[U(j * S_COLUMNS + DEVICE)]
    return base + place * P_COLUMNS


@inlined
def hand_on(whole, real, row, leave, base, n_devices, wide, board, size):
    """Packs the messages that leave at the end of a row of the stages; returns the heap's size."""
    messages, waiting, stages, pair = whole[MESSAGES], whole[WAITING], real[STAGES], real[PAIR]
    m = whole[MADE_THERE][U(row)]
    while m >= 0:
        at = m * M_COLUMNS
        i, j = messages[U(at + M_FROM)], messages[U(at + M_TO)]
        if (i == board and j == wide - 1) or (i == wide - 1 and j == board):
            place = messages[U(at + M_STAGE)] * wide + j
            waiting[U(place)] -= 1
            arrived = place * T_COLUMNS + T_ARRIVED
            stages[U(arrived)] = max(stages[U(arrived)], leave)
        else:
            cost = cost_of(whole[SLABS], base, n_devices, i, j)
            ready = leave + pair[U(cost)] + pair[U(cost + PRE_BYTE)] * float(messages[U(at + M_SIZE)])
            size = push(whole[HEAP], real[HEAP_S], size, ready, m)
        m = messages[U(at + M_NEXT_MADE)]
    return size


@inlined
def settle(whole, real, j, n_stages, wide, n_hand):
    """Settles the parts of slab position j of which the last bit of all inputs is over.

    Their start and end are known then, and when their messages leave: nothing that happens until then can change that,
    so that neither is an event. Returns the number of rows of the stages that are to be handed on.
    """
    waiting, next_stage, stages, done = whole[WAITING], whole[NEXT_STAGE], real[STAGES], real[DONE]
    while next_stage[U(j)] < n_stages:
        at = next_stage[U(j)] * wide + j
        if waiting[U(at)] > 0:
            break
        t = done[U(at)]
        seconds = stages[U(at * T_COLUMNS + T_SECONDS)]
        if seconds >= 0.0:
            t = max(t, stages[U(at * T_COLUMNS + T_ARRIVED)])
            whole[HAND][U(n_hand)] = at + wide
            real[HAND_S][U(n_hand)] = t + stages[U(at * T_COLUMNS + T_LEAD)]
            n_hand += 1
            t += seconds
        done[U(at + wide)] = t
        next_stage[U(j)] += 1
    return n_hand


@inlined
def place_ends(ends_of, wide, board):
    """Fills in the links of each connection; the requester on a device's board has that board's."""
    for i in range(wide):
        for j in range(wide):
            at = 2 * (i * wide + j)
            ends_of[U(at)] = board if board >= 0 and i == wide - 1 else i
            ends_of[U(at + 1)] = wide + (board if board >= 0 and j == wide - 1 else j)


@inlined
def begin_flow(whole, real, connection, bits, now, wide, n_active, n_dirty):
    """Puts a connection in use; returns how many are, and how many links have to be shared anew."""
    at = connection * F_COLUMNS
    flows, capacity, on_link, n_on = real[FLOWS], real[CAPACITY], whole[ON_LINK], whole[N_ON]
    flows[U(at + F_LEFT)], flows[U(at + F_SINCE)], flows[U(at + F_RATE)] = bits, now, 0.0
    up, down = whole[ENDS_OF][U(2 * connection)], whole[ENDS_OF][U(2 * connection + 1)]
    unbounded = np.isinf(capacity[U(up)]) and np.isinf(capacity[U(down)])
    whole[ACTIVE][U(n_active)] = connection
    whole[PLACE][U(connection)] = n_active
    real[ENDS][U(n_active)] = now if unbounded else np.inf
    on_link[U(up * 2 * wide + n_on[U(up)])] = connection
    on_link[U(down * 2 * wide + n_on[U(down)])] = connection
    whole[OTHER_LINK][U(up * 2 * wide + n_on[U(up)])] = down
    whole[OTHER_LINK][U(down * 2 * wide + n_on[U(down)])] = up
    n_on[U(up)] += 1
    n_on[U(down)] += 1
    whole[DIRTY][U(n_dirty)], whole[DIRTY][U(n_dirty + 1)] = up, down
    return n_active + 1, n_dirty + 2


@inlined
def leave_link(on_link, other_link, n_on, link, connection, wide):
    """Takes a connection off a link's list."""
    x = link * 2 * wide
    while on_link[U(x)] != connection:
        x += 1
    n_on[U(link)] -= 1
    on_link[U(x)] = on_link[U(link * 2 * wide + n_on[U(link)])]
    other_link[U(x)] = other_link[U(link * 2 * wide + n_on[U(link)])]


@inlined
def end_flow(whole, real, connection, wide, n_active, n_dirty):
    """Takes a connection out of use; returns how many are in use, and how many links have to be shared anew."""
    active, place, ends = whole[ACTIVE], whole[PLACE], real[ENDS]
    n_active -= 1
    x, other = place[U(connection)], active[U(n_active)]
    active[U(x)], ends[U(x)], place[U(other)] = other, ends[U(n_active)], x
    ends[U(n_active)] = np.inf
    up, down = whole[ENDS_OF][U(2 * connection)], whole[ENDS_OF][U(2 * connection + 1)]
    leave_link(whole[ON_LINK], whole[OTHER_LINK], whole[N_ON], up, connection, wide)
    leave_link(whole[ON_LINK], whole[OTHER_LINK], whole[N_ON], down, connection, wide)
    whole[DIRTY][U(n_dirty)], whole[DIRTY][U(n_dirty + 1)] = up, down
    return n_active, n_dirty + 2


@inlined
def set_rate(flows, ends, place, connection, rate, now):
    """Gives a connection another rate from `now` on."""
    at = connection * F_COLUMNS
    before = flows[U(at + F_RATE)]
    if rate == before:
        return
    if now > flows[U(at + F_SINCE)]:
        flows[U(at + F_LEFT)] -= before * (now - flows[U(at + F_SINCE)])
        flows[U(at + F_SINCE)] = now
    flows[U(at + F_RATE)] = rate
    from_s = max(now, flows[U(at + F_SINCE)])
    end = from_s + max(flows[U(at + F_LEFT)], 0.0) / rate if rate > 0.0 else np.inf
    ends[U(place[U(connection)])] = end


@inlined
def dirty_links(whole, real, n_dirty, turn):
    """Marks and lists the links that have to be shared anew; an unbounded one binds nobody. Returns their number."""
    dirty, links, seen, n_on, capacity = whole[DIRTY], whole[LINKS], whole[SEEN], whole[N_ON], real[CAPACITY]
    n_links = np.int64(0)
    for x in range(n_dirty):
        link = dirty[U(x)]
        if seen[U(link)] != turn and n_on[U(link)] > 0 and capacity[U(link)] < np.inf:
            seen[U(link)] = turn
            links[U(n_links)] = link
            n_links += 1
    return n_links


@inlined
def dependent_links(whole, real, n_links, wide, turn):
    """Adds the links that depend on those listed, through connections, to the list; returns their number."""
    links, seen, n_on, other_link = whole[LINKS], whole[SEEN], whole[N_ON], whole[OTHER_LINK]
    still, left, capacity = whole[STILL], real[LEFT], real[CAPACITY]
    x = np.int64(0)
    while x < n_links:
        link = links[U(x)]
        n = n_on[U(link)]
        left[U(link)], still[U(link)] = capacity[U(link)], n
        for y in range(link * 2 * wide, link * 2 * wide + n):
            other = other_link[U(y)]
            if seen[U(other)] != turn and capacity[U(other)] < np.inf:
                seen[U(other)] = turn
                links[U(n_links)] = other
                n_links += 1
        x += 1
    return n_links


@inlined
def share_anew(whole, real, now, wide, n_dirty, turn):
    """Max-min fair rates of all connections that depend on the dirty links, by progressive filling.

    The same result as `latency.costs.links.max_min` for all connections: the others share no link with these.
    """
    links, n_on, on_link = whole[LINKS], whole[N_ON], whole[ON_LINK]
    still, fixed, left = whole[STILL], whole[FIXED], real[LEFT]
    n_links = dependent_links(whole, real, dirty_links(whole, real, n_dirty, turn), wide, turn)
    while True:
        level, tight = np.inf, np.int64(-1)
        x = np.int64(0)
        while x < n_links:
            link = links[U(x)]
            n = still[U(link)]
            if n == 0:
                n_links -= 1
                links[U(x)] = links[U(n_links)]
                continue
            x += 1
            share = left[U(link)] / n
            if share < level:
                level, tight = share, link
        if tight < 0:
            break
        level = max(level, 0.0)
        for y in range(tight * 2 * wide, tight * 2 * wide + n_on[U(tight)]):
            connection = on_link[U(y)]
            if fixed[U(connection)] == turn:
                continue
            fixed[U(connection)] = turn
            set_rate(real[FLOWS], real[ENDS], whole[PLACE], connection, level, now)
            other = whole[OTHER_LINK][U(y)]
            left[U(other)] -= level
            still[U(other)] -= 1
        still[U(tight)] = 0


@inlined
def fair_level(whole, real, link, wide):
    """About what a link offers each of its connections: what those leave over that get less from their other link.

    One round of what `share_anew` repeats until nothing changes; more rounds bring no latency nearer to the exact one.
    """
    other_link, level = whole[OTHER_LINK], real[LEVEL]
    n, at, capacity = whole[N_ON][U(link)], link * 2 * wide, real[CAPACITY][U(link)]
    fair = capacity * INVERSE[U(n)]
    if n == 1:
        return fair
    left, still, most = capacity, n, 0.0
    for y in range(at, at + n):
        offered = level[U(other_link[U(y)])]
        if offered < fair:
            left -= offered
            still -= 1
            most = max(most, offered)
    # When all are bound elsewhere, what is left could go to the fastest of them.
    return left * INVERSE[U(still)] if still > 0 else left + most


@inlined
def share_nearby(whole, real, now, wide, n_dirty, turn):
    """Approximately `share_anew`: fair shares of the dirty links alone, as long as other links offer what they did.

    Without a test whether a rate has changed, which the processor would guess wrong half of the time.
    """
    links, n_on, on_link, other_link = whole[LINKS], whole[N_ON], whole[ON_LINK], whole[OTHER_LINK]
    flows, level, per_bit, ends, place = real[FLOWS], real[LEVEL], real[PER_BIT], real[ENDS], whole[PLACE]
    n_links = dirty_links(whole, real, n_dirty, turn)
    for x in range(n_links):
        link = links[U(x)]
        level[U(link)] = fair_level(whole, real, link, wide)
        per_bit[U(link)] = 1.0 / level[U(link)]
    for x in range(n_links):
        link = links[U(x)]
        offered, least = level[U(link)], per_bit[U(link)]
        for y in range(link * 2 * wide, link * 2 * wide + n_on[U(link)]):
            connection = on_link[U(y)]
            other = other_link[U(y)]
            rate, seconds = min(offered, level[U(other)]), max(least, per_bit[U(other)])
            at = connection * F_COLUMNS
            since, before = flows[U(at + F_SINCE)], flows[U(at + F_RATE)]
            start = max(now, since)
            left = max(flows[U(at + F_LEFT)] - before * (start - since), 0.0)
            flows[U(at + F_LEFT)], flows[U(at + F_SINCE)], flows[U(at + F_RATE)] = left, start, rate
            ends[U(place[U(connection)])] = start + left * seconds if rate > 0.0 else np.inf


@inner
def share_medium(whole, real, now, wide, n_active, turn):
    """As `share_anew`, of all connections at once, which share one medium's airtime as well."""
    active, ends_of, still, fixed = whole[ACTIVE], whole[ENDS_OF], whole[STILL], whole[FIXED]
    left, capacity, flows = real[LEFT], real[CAPACITY], real[FLOWS]
    for link in range(2 * wide):
        left[link], still[link] = capacity[link], 0
    airtime, airtime_left = 0.0, 1.0
    for x in range(n_active):
        up, down = ends_of[2 * active[x]], ends_of[2 * active[x] + 1]
        still[up] += 1
        still[down] += 1
        per_bit = 0.0
        if capacity[up] > 0.0 and capacity[down] > 0.0:
            per_bit = 1.0 / capacity[up] + 1.0 / capacity[down]
        flows[active[x] * F_COLUMNS + F_AIRTIME] = per_bit
        airtime += per_bit
    n_still = n_active
    while n_still > 0:
        level, tight = np.inf, np.int64(-1)
        for link in range(2 * wide):
            if still[link] > 0 and left[link] / still[link] < level:
                level, tight = left[link] / still[link], link
        by_medium = airtime > 0.0 and airtime_left / airtime < level
        level = max(airtime_left / airtime if by_medium else level, 0.0)
        before = n_still
        for x in range(n_active):
            connection = active[x]
            if fixed[connection] == turn:
                continue
            up, down = ends_of[2 * connection], ends_of[2 * connection + 1]
            per_bit = flows[connection * F_COLUMNS + F_AIRTIME]
            if np.isinf(level) or (per_bit > 0.0 if by_medium else up == tight or down == tight):
                fixed[connection] = turn
                set_rate(flows, real[ENDS], whole[PLACE], connection, level, now)
                left[up] -= level
                left[down] -= level
                still[up] -= 1
                still[down] -= 1
                airtime -= per_bit
                airtime_left -= per_bit * level
                n_still -= 1
        if n_still == before:
            # Rounding has left airtime to connections that take none.
            airtime = 0.0


@inner
def refresh(whole, real, link, wide, c, n_devices, access, trace, times, rates, trace_at, period, start_s, now):
    """Looks up the rate of a link from `now` on."""
    side = 0 if link < wide else 1
    device = whole[SLABS][(link - side * wide) * S_COLUMNS + DEVICE]
    at = 2 * (c * (n_devices + 1) + device) + side
    rate, until = rate_at(access, trace, at, times, rates, trace_at, period, now + start_s)
    real[CAPACITY][link], real[CHANGE][link] = rate, until - start_s


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
def begin_run(
    whole, real, n_messages, n_stages, wide, c, n_devices, access, trace, times, rates, trace_at, period, start_s
):
    """Brings everything to the start of the image; returns whether any link's rate varies."""
    list_messages(whole, real, n_messages, n_stages, wide)
    varies = False
    for link in range(2 * wide):
        refresh(whole, real, link, wide, c, n_devices, access, trace, times, rates, trace_at, period, start_s, 0.0)
        real[LEVEL][link] = real[CAPACITY][link]
        real[PER_BIT][link] = 1.0 / real[CAPACITY][link]
        varies = varies or not np.isinf(real[CHANGE][link])
    for j in range(wide - 1):
        real[DONE][j] = 0.0
        whole[OPEN][j] = j
    # The requester hands on the input; every slab position may have a part that needs none of it.
    whole[HAND][0], real[HAND_S][0] = wide - 1, 0.0
    return varies


@inlined
def take_in(whole, real, m, base, n_devices, wide, now, n_open):
    """Notes that the last bit of message m is over; returns the number of slab positions to settle."""
    messages, stages, pair, waiting = whole[MESSAGES], real[STAGES], real[PAIR], whole[WAITING]
    at = m * M_COLUMNS
    j = messages[U(at + M_TO)]
    cost = cost_of(whole[SLABS], base, n_devices, messages[U(at + M_FROM)], j)
    place = messages[U(at + M_STAGE)] * wide + j
    t = now + pair[U(cost + POST_FIXED)] + pair[U(cost + POST_BYTE)] * float(messages[U(at + M_SIZE)])
    stages[U(place * T_COLUMNS + T_ARRIVED)] = max(stages[U(place * T_COLUMNS + T_ARRIVED)], t)
    waiting[U(place)] -= 1
    if waiting[U(place)] == 0 and j < wide - 1:
        whole[OPEN][U(n_open)] = j
        n_open += 1
    return n_open


@inlined
def settle_all(whole, real, n_hand, n_open, n_stages, base, n_devices, wide, board, size):
    """Settles the slab positions of OPEN and hands on what they make, and what HAND holds; returns the heap's size."""
    while n_hand + n_open > 0:
        for x in range(n_hand):
            row, leave = whole[HAND][U(x)], real[HAND_S][U(x)]
            size = hand_on(whole, real, row, leave, base, n_devices, wide, board, size)
        n_hand = np.int64(0)
        for x in range(n_open):
            n_hand = settle(whole, real, whole[OPEN][U(x)], n_stages, wide, n_hand)
        n_open = np.int64(0)
    return size


@inlined
def take_packed(whole, real, wide, until, size):
    """Marks the messages that are packed; lists those in HAND whose connection is free. Returns heap and list sizes."""
    messages, queue, heap, heap_s = whole[MESSAGES], whole[QUEUE], whole[HEAP], real[HEAP_S]
    n_next = np.int64(0)
    while size > 0 and heap_s[0] <= until:
        m, ready = heap[0], heap_s[0]
        size = pop(heap, heap_s, size)
        at = m * M_COLUMNS
        messages[U(at + M_READY)] = 1
        if queue[U(messages[U(at + M_FROM)] * wide + messages[U(at + M_TO)])] == m:
            whole[HAND][U(n_next)], real[HAND_S][U(n_next)] = m, ready
            n_next += 1
    return size, n_next


@inlined
def take_ended(whole, real, base, n_devices, wide, until, n_active, n_next):
    """Takes in the messages whose last bit is over; adds to HAND those that may follow on their connections.

    Returns how many connections are in use, links are dirty, slab positions are to be settled, messages may follow.
    """
    messages, queue, active, ends = whole[MESSAGES], whole[QUEUE], whole[ACTIVE], real[ENDS]
    n_dirty, n_open, x = np.int64(0), np.int64(0), np.int64(0)
    while x < n_active:
        end = ends[U(x)]
        if end > until:
            x += 1
            continue
        connection = active[U(x)]
        n_active, n_dirty = end_flow(whole, real, connection, wide, n_active, n_dirty)
        m = queue[U(connection)]
        n_open = take_in(whole, real, m, base, n_devices, wide, end, n_open)
        after = messages[U(m * M_COLUMNS + M_NEXT_SENT)]
        queue[U(connection)] = after
        if after >= 0 and messages[U(after * M_COLUMNS + M_READY)] != 0:
            whole[HAND][U(n_next)], real[HAND_S][U(n_next)] = after, end
            n_next += 1
    return n_active, n_dirty, n_open, n_next


@inlined
def begin_flows(whole, real, n_next, wide, n_active, n_dirty):
    """Puts the connections of the messages in HAND in use; returns how many are in use, and links are dirty."""
    messages = whole[MESSAGES]
    for x in range(n_next):
        at = whole[HAND][U(x)] * M_COLUMNS
        connection = messages[U(at + M_FROM)] * wide + messages[U(at + M_TO)]
        bits = 8.0 * float(messages[U(at + M_SIZE)])
        start = real[HAND_S][U(x)]
        n_active, n_dirty = begin_flow(whole, real, connection, bits, start, wide, n_active, n_dirty)
    return n_active, n_dirty


@inner
def run_shared(
    whole, real, n_messages, n_stages, wide, base, n_devices, c, access, trace, times, rates, trace_at, period, start_s,
    board, medium, nearby, turn,
):  # fmt: skip
    """Runs what `kernel_general.write_down` wrote; DONE holds when each slab position has done each stage.

    `board` is the slab position of the requester's board, or negative; `nearby` allows the rates of `share_nearby`;
    `turn` is a mark that no earlier call has used. Returns the latency, infinite when something cannot get through,
    and the last mark used.
    """
    whole, real = borrow_all(whole), borrow_all(real)
    varies = begin_run(
        whole, real, n_messages, n_stages, wide, c, n_devices, access, trace, times, rates, trace_at, period, start_s
    )
    n_open, n_hand, n_active, size = wide - 1, np.int64(1), np.int64(0), np.int64(0)
    while True:
        size = settle_all(whole, real, n_hand, n_open, n_stages, base, n_devices, wide, board, size)
        first_end = earliest(real[ENDS], n_active)
        now = min(first_end, real[HEAP_S][0]) if size > 0 else first_end
        if varies and n_active > 0:
            now = min(now, earliest(real[CHANGE], 2 * wide))
        if np.isinf(now):
            break
        n_hand, n_dirty, n_open = np.int64(0), np.int64(0), np.int64(0)
        until = now * WINDOW if nearby and not varies else now
        size, n_next = take_packed(whole, real, wide, until, size)
        if first_end <= until:
            n_active, n_dirty, n_open, n_next = take_ended(whole, real, base, n_devices, wide, until, n_active, n_next)
        n_active, n_dirty = begin_flows(whole, real, n_next, wide, n_active, n_dirty)
        for link in range(2 * wide if varies else 0):
            if real[CHANGE][U(link)] <= now:
                refresh(
                    whole, real, link, wide, c, n_devices, access, trace, times, rates, trace_at, period, start_s, now
                )
                whole[DIRTY][U(n_dirty)] = link
                n_dirty += 1
        if n_dirty == 0:
            continue
        turn += 1
        if medium:
            share_medium(whole, real, now, wide, n_active, turn)
        elif nearby:
            share_nearby(whole, real, now, wide, n_dirty, turn)
        else:
            share_anew(whole, real, now, wide, n_dirty, turn)
    result = n_stages * wide + wide - 1
    for x in range(n_active):
        real[ENDS][x] = np.inf
    if n_active > 0 or whole[WAITING][U(result)] > 0:
        return np.inf, turn
    return real[STAGES][U(result * T_COLUMNS + T_ARRIVED)], turn
