"""Rates of connections that share links: max-min fair, and with one medium for all.

The arrays are those of `traffic`.
"""

from __future__ import annotations

import numpy as np
from numpy import uint64 as U

from distredge.latency.compiling import inlined, inner
from distredge.latency.kernel.traffic import F_AIRTIME, F_COLUMNS, F_LEFT, F_RATE, F_SINCE, places


@inlined
def share_anew(traffic, run, now, n_dirty, turn):
    """Max-min fair rates of all connections that depend on the dirty links, by progressive filling.

    The same result as `latency.costs.links.max_min` for all connections: the others share no link with these.
    """
    links, n_on, on_link = traffic.links, traffic.n_on, traffic.on_link
    still, fixed, left = traffic.still, traffic.fixed, traffic.left
    n_links = dependent_links(traffic, run, dirty_links(traffic, n_dirty, turn), turn)
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
        for y in range(tight * places(run.wide), tight * places(run.wide) + n_on[U(tight)]):
            connection = on_link[U(y)]
            if fixed[U(connection)] == turn:
                continue
            fixed[U(connection)] = turn
            set_rate(traffic.flows, traffic.ends, traffic.place, connection, level, now)
            other = traffic.other_link[U(y)]
            left[U(other)] -= level
            still[U(other)] -= 1
        still[U(tight)] = 0


@inner
def share_medium(traffic, run, now, n_active, turn):
    """As `share_anew`, of all connections at once, which share one medium's airtime as well."""
    active, ends_of, still, fixed = traffic.active, traffic.ends_of, traffic.still, traffic.fixed
    left, capacity, flows = traffic.left, traffic.capacity, traffic.flows
    for link in range(2 * run.wide):
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
        for link in range(2 * run.wide):
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
                set_rate(flows, traffic.ends, traffic.place, connection, level, now)
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


@inlined
def dirty_links(traffic, n_dirty, turn):
    """Marks and lists the links that have to be shared anew; an unbounded one binds nobody. Returns their number."""
    dirty, links, seen, n_on, capacity = traffic.dirty, traffic.links, traffic.seen, traffic.n_on, traffic.capacity
    n_links = np.int64(0)
    for x in range(n_dirty):
        link = dirty[U(x)]
        if seen[U(link)] != turn and n_on[U(link)] > 0 and capacity[U(link)] < np.inf:
            seen[U(link)] = turn
            links[U(n_links)] = link
            n_links += 1
    return n_links


@inlined
def dependent_links(traffic, run, n_links, turn):
    """Adds the links that depend on those listed, through connections, to the list; returns their number."""
    links, seen, n_on, other_link = traffic.links, traffic.seen, traffic.n_on, traffic.other_link
    still, left, capacity = traffic.still, traffic.left, traffic.capacity
    x = np.int64(0)
    while x < n_links:
        link = links[U(x)]
        n = n_on[U(link)]
        left[U(link)], still[U(link)] = capacity[U(link)], n
        for y in range(link * places(run.wide), link * places(run.wide) + n):
            other = other_link[U(y)]
            if seen[U(other)] != turn and capacity[U(other)] < np.inf:
                seen[U(other)] = turn
                links[U(n_links)] = other
                n_links += 1
        x += 1
    return n_links


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
