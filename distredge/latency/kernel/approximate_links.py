"""The kernel under `shared` links, approximately: what searches price with as long as they are far from their end.

As in `shared_links` time goes from event to event, but what happens shortly after the next event is taken together with
it. Each message still starts and ends at its own time: it is the others whose rates change at the mean of what was
taken together. Rates are those of one round of filling: each link offers its connections what those leave over that get
less from their other link. All connections get their rates anew, whether they depend on what has changed or not: which
ones do, and how many, are branches that the processor would guess wrong, and those are what takes the time.

Links whose rates vary, that are down, or that one medium carries, are left to `shared_links`.
"""

from __future__ import annotations

import numpy as np
from numpy import uint64 as U

from distredge.latency.compiling import inlined, inner
from distredge.latency.kernel.coarse_room import (
    C_AFTER,
    C_BEFORE,
    C_BITS,
    C_COLUMNS,
    C_SEND,
    C_TAKE,
    FRESH,
    H_COLUMNS,
    H_LINE,
    H_SENDS,
    H_TAKES,
    INVERSE,
    L_BOUND,
    L_CAPACITY,
    L_COUNT,
    L_FAIR,
    L_SPARE,
    R_COLUMNS,
    R_FIRST,
    R_NEXT,
    R_WAITING,
    W_COLUMNS,
    W_CONNECTION,
    W_DOWN,
    W_PLACE,
    W_TO,
    W_UP,
    X_COLUMNS,
    X_DOWN,
    X_MESSAGE,
    X_UP,
    begin,
)
from distredge.latency.kernel.common_ground import S_COLUMNS, S_DEVICE
from distredge.latency.kernel.general_path import (
    M_COLUMNS,
    M_NEXT_MADE,
    M_NEXT_SENT,
    M_READY,
    T_COLUMNS,
    T_LEAD,
    T_SECONDS,
)

WINDOW, SHARE_OF_ALL = 0.015, 0.1
"""What happens within so many times the moment of the next event after it is taken together with it, or within so many
times what the busiest link takes for all of its messages, divided by the number of slab positions with 3 more: where
there are more of them each message is a smaller part of the whole."""


@inlined
def is_steady(run, links, medium):
    """Whether every link in use has a rate, always the same, and no medium carries all of them."""
    steady = not medium
    for j in range(run.wide):
        at = run.access_at + 2 * run.slabs[U(j * S_COLUMNS + S_DEVICE)]
        for side in range(2):
            steady &= (links.access[U(at + side)] > 0.0) & (links.trace[U(at + side)] < 0)
    return steady


@inner
def run_coarsely(room, run, links, ends_of, n_done):
    """Runs what `general_path.write_down` wrote, on links that are steady; returns the latency.

    `ends_of` are the links of each connection; row `n_done` of `run.done` is filled in: when each slab position has
    done its last part of a volume.
    """
    wide, group_s = run.wide, room.group_s
    least = begin(room, run, links, ends_of) * SHARE_OF_ALL / (wide + 2)
    n_flows, now, first_end = np.int64(0), 0.0, np.inf
    n_groups = hand_on(room, wide - 1, 0.0, np.int64(0))
    for j in range(wide - 1):
        run.done[U(n_done * wide + j)] = 0.0
        n_groups = settle(room, run, j, n_groups, n_done)
    while True:
        first = first_end
        for x in range(n_groups):
            first = min(first, group_s[U(x)])
        if first == np.inf:
            break
        until = first + max(first * WINDOW, least)
        n_flows, n_open, n_events, sum_s = take_ended(room, run, until, n_flows)
        n_flows, n_groups, n_open, n_events, sum_s = take_ready(
            room, run, until, n_flows, n_groups, n_open, n_events, sum_s
        )
        for x in range(n_open):
            n_groups = settle(room, run, room.open[U(x)], n_groups, n_done)
        if n_events > 0.0:
            now = max(now, sum_s / n_events)
            first_end = share(room, n_flows, now)
    result = (run.n_stages * wide + wide - 1) * H_COLUMNS
    free = room.handled[U((wide - 1) * H_COLUMNS + H_SENDS)]
    return max(free + room.handled[U(result + H_TAKES)], room.handled[U(result + H_LINE)])


@inlined
def take_ended(room, run, until, n_flows):
    """Takes in the messages whose last bit is over, and lets the next ones follow on their connections.

    Returns how many connections are in use, slab positions are to be settled, events that were, and the sum of their
    times.
    """
    messages, ways, queue, links, hits = run.messages, room.ways, room.queue, room.links, room.hits
    flows, end, rate, since = room.flows, room.end, room.rate, room.since
    n, n_open, n_events, sum_s = np.int64(0), np.int64(0), 0.0, 0.0
    for x in range(n_flows):
        hits[U(n)] = x
        n += end[U(x)] <= until
        up, down = flows[U(x * X_COLUMNS + X_UP)], flows[U(x * X_COLUMNS + X_DOWN)]
        links[U(up + L_SPARE)] = links[U(up + L_BOUND)] = 0.0
        links[U(down + L_SPARE)] = links[U(down + L_BOUND)] = 0.0
    # From the last one on: the last connection takes the place of one that ends.
    for h in range(n - 1, -1, -1):
        x = hits[U(h)]
        over, m = end[U(x)], flows[U(x * X_COLUMNS + X_MESSAGE)]
        sum_s += over
        n_events += 1.0
        n_open = take_in(room, m, over, n_open)
        after = messages[U(m * M_COLUMNS + M_NEXT_SENT)]
        queue[U(ways[U(m * W_COLUMNS + W_CONNECTION)])] = after
        if after >= 0 and messages[U(after * M_COLUMNS + M_READY)] != 0:
            flows[U(x * X_COLUMNS + X_MESSAGE)] = after
            end[U(x)], rate[U(x)], since[U(x)] = room.costs[U(after * C_COLUMNS + C_BITS)], FRESH, over
            continue
        count(links, flows[U(x * X_COLUMNS + X_UP)], -1.0)
        count(links, flows[U(x * X_COLUMNS + X_DOWN)], -1.0)
        n_flows -= 1
        end[U(x)], rate[U(x)], since[U(x)] = end[U(n_flows)], rate[U(n_flows)], since[U(n_flows)]
        for c in range(X_COLUMNS):
            flows[U(x * X_COLUMNS + c)] = flows[U(n_flows * X_COLUMNS + c)]
    return n_flows, n_open, n_events, sum_s


@inlined
def take_ready(room, run, until, n_flows, n_groups, n_open, n_events, sum_s):
    """Puts the messages that are ready on their connections, where those are free.

    Returns how many connections are in use, and rows have messages left, then what `take_ended` does.
    """
    messages, ways, costs, hits = run.messages, room.ways, room.costs, room.hits
    flows, end, rate, since = room.flows, room.end, room.rate, room.since
    group, group_s, leave_s, n = room.group, room.group_s, room.leave_s, np.int64(0)
    for x in range(n_groups):
        hits[U(n)] = x
        n += group_s[U(x)] <= until
    for h in range(n - 1, -1, -1):
        x = hits[U(h)]
        m, start, leave = group[U(x)], group_s[U(x)], leave_s[U(x)]
        while start <= until:
            up, down = ways[U(m * W_COLUMNS + W_UP)], ways[U(m * W_COLUMNS + W_DOWN)]
            messages[U(m * M_COLUMNS + M_READY)] = 1
            if up < 0:
                n_open = take_in(room, m, start, n_open)
            elif room.queue[U(ways[U(m * W_COLUMNS + W_CONNECTION)])] == m:
                count(room.links, up, 1.0)
                count(room.links, down, 1.0)
                to = n_flows * X_COLUMNS
                flows[U(to + X_UP)], flows[U(to + X_DOWN)], flows[U(to + X_MESSAGE)] = up, down, m
                end[U(n_flows)], rate[U(n_flows)], since[U(n_flows)] = costs[U(m * C_COLUMNS + C_BITS)], FRESH, start
                n_flows += 1
                sum_s += start
                n_events += 1.0
            m = messages[U(m * M_COLUMNS + M_NEXT_MADE)]
            if m < 0:
                n_groups -= 1
                group[U(x)], group_s[U(x)], leave_s[U(x)] = (
                    group[U(n_groups)],
                    group_s[U(n_groups)],
                    leave_s[U(n_groups)],
                )
                break
            leave += costs[U(m * C_COLUMNS + C_SEND)]
            start = leave + costs[U(m * C_COLUMNS + C_BEFORE)]
            group[U(x)], group_s[U(x)], leave_s[U(x)] = m, start, leave
    return n_flows, n_groups, n_open, n_events, sum_s


@inlined
def take_in(room, m, over, n_open):
    """Notes that message m is over; returns the number of slab positions to settle.

    The end of handling is that of `shared_links.handle_inputs`, with messages of one event in any order.
    """
    ways, costs, rows, handled = room.ways, room.costs, room.rows, room.handled
    place, cost = ways[U(m * W_COLUMNS + W_PLACE)], m * C_COLUMNS
    row, takes = place * H_COLUMNS, costs[U(cost + C_TAKE)]
    handled[U(row + H_LINE)] = max(handled[U(row + H_LINE)], over + costs[U(cost + C_AFTER)]) + takes
    handled[U(row + H_TAKES)] += takes
    left = rows[U(place * R_COLUMNS + R_WAITING)] - 1
    rows[U(place * R_COLUMNS + R_WAITING)] = left
    room.open[U(n_open)] = ways[U(m * W_COLUMNS + W_TO)]
    return n_open + (left == 0)


@inlined
def settle(room, run, j, n_groups, n_done):
    """Settles the parts of slab position j of which the last bit of all inputs is over; returns the number of rows."""
    rows, handled, stages, wide = room.rows, room.handled, run.stages, run.wide
    free, stage = room.free[U(j)], room.next_stage[U(j)]
    while True:
        at = stage * wide + j
        if rows[U(at * R_COLUMNS + R_WAITING)] > 0:
            break
        t = max(free + handled[U(at * H_COLUMNS + H_TAKES)], handled[U(at * H_COLUMNS + H_LINE)])
        row = at + wide
        n_groups = hand_on(room, row, t + stages[U(at * T_COLUMNS + T_LEAD)], n_groups)
        free = t + stages[U(at * T_COLUMNS + T_SECONDS)] + handled[U(row * H_COLUMNS + H_SENDS)]
        if stage < n_done:
            run.done[U(n_done * wide + j)] = free
        stage = rows[U(row * R_COLUMNS + R_NEXT)]
    room.free[U(j)], room.next_stage[U(j)] = free, stage
    return n_groups


@inlined
def hand_on(room, row, leave, n_groups):
    """Notes that the messages of a row of the stages leave from then on; returns the number of rows that have some."""
    m, costs = room.rows[U(row * R_COLUMNS + R_FIRST)], room.costs
    if m >= 0:
        leave += costs[U(m * C_COLUMNS + C_SEND)]
        room.group[U(n_groups)], room.leave_s[U(n_groups)] = m, leave
        room.group_s[U(n_groups)] = leave + costs[U(m * C_COLUMNS + C_BEFORE)]
        n_groups += 1
    return n_groups


@inlined
def share(room, n_flows, now):
    """Gives all connections in use new rates from `now` on; returns when the first message ends."""
    end, rate, since, flows, links = room.end, room.rate, room.since, room.flows, room.links
    first = np.inf
    for x in range(n_flows):
        up, down = flows[U(x * X_COLUMNS + X_UP)], flows[U(x * X_COLUMNS + X_DOWN)]
        by_up, by_down = links[U(up + L_FAIR)], links[U(down + L_FAIR)]
        least = min(by_up, by_down)
        links[U(up + L_SPARE)] += by_up - least
        links[U(down + L_SPARE)] += by_down - least
        links[U(up + L_BOUND)] += 1.0 if by_up <= by_down else 0.0
        links[U(down + L_BOUND)] += 1.0 if by_down <= by_up else 0.0
    for x in range(n_flows):
        up, down = flows[U(x * X_COLUMNS + X_UP)], flows[U(x * X_COLUMNS + X_DOWN)]
        by_up = links[U(up + L_FAIR)] + links[U(up + L_SPARE)] * INVERSE[U(np.int64(links[U(up + L_BOUND)]))]
        by_down = links[U(down + L_FAIR)] + links[U(down + L_SPARE)] * INVERSE[U(np.int64(links[U(down + L_BOUND)]))]
        new, before, over = min(by_up, by_down), rate[U(x)], end[U(x)]
        fresh = before == FRESH
        begun = since[U(x)]
        start = begun if fresh else now
        bits = over if fresh else max(over - now, 0.0) * before
        over = start + bits / new
        end[U(x)], rate[U(x)] = over, new
        first = min(first, over)
    return first


@inlined
def count(links, at, by):
    """Notes that a link has so many more connections."""
    number = links[U(at + L_COUNT)] + by
    links[U(at + L_COUNT)] = number
    links[U(at + L_FAIR)] = links[U(at + L_CAPACITY)] * INVERSE[U(np.int64(number))]
