"""What time under `shared` links works in: messages on their connections, and connections on their links.

Links are numbered uplinks first, then downlinks, `wide` of each, one for each slab position and the requester;
connections by `from * wide + to`. Marks are numbers of `turn`, one for every time that rates are shared anew.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distredge.latency.compiling import inlined, making
from distredge.latency.kernel.arguments import Floats, Ints

F_COLUMNS = 4
F_LEFT, F_SINCE, F_RATE, F_AIRTIME = range(F_COLUMNS)
"""Of a connection in use: bits left at a time, which is the second column, its rate since then, airtime per bit."""


class Traffic(NamedTuple):
    """Room for the run of one strategy, W = D + 1 slab positions with the requester.

    Those by message and by row of the stages are (n_messages,) at least, those by link and by connection (W * W,).

    Attributes:
        made_there: by row of the stages, the first message that leaves at its end.
        waiting: by (stage, slab position), messages that it still waits for.
        heap, heap_s: packed messages, a binary heap by the seconds at which they are.
        hand, hand_s: messages to put on their connections from those seconds on.
        last_in: by row of the stages, the message for it that arrived last, or -1.
        in_s: by message, when it arrived.
        open: slab positions to settle, at most one for each message.
        queue: by connection, the message that is on it or comes next, or -1.
        next_stage: by slab position, its first part that is not settled.
        active, ends: connections in use, in any order, and when each ends; infinite behind the last one in use.
        place: by connection, where it stands there.
        ends_of: by connection, its uplink and its downlink.
        on_link, other_link: by link, `places` for the connections in use on it, and their other links in the same
            order.
        n_on: by link, how many connections are in use on it.
        dirty: links on which connections have started or ended.
        links, seen, still: links that are shared anew; by link, their marks, and how many of their connections have no
            rate yet.
        fixed: by connection, marks of those that have one.
        capacity, change: by link, its rate, and when that changes, infinite behind the last link.
        left: by link, what of its rate is not given away yet.
        flows: (W * W * F_COLUMNS,) of each connection.
    """

    made_there: Ints
    waiting: Ints
    heap: Ints
    hand: Ints
    last_in: Ints
    open: Ints
    heap_s: Floats
    hand_s: Floats
    in_s: Floats
    queue: Ints
    next_stage: Ints
    active: Ints
    place: Ints
    ends_of: Ints
    on_link: Ints
    other_link: Ints
    n_on: Ints
    dirty: Ints
    links: Ints
    seen: Ints
    still: Ints
    fixed: Ints
    ends: Floats
    capacity: Floats
    change: Floats
    left: Floats
    flows: Floats


class SharedRun(NamedTuple):
    """The strategy whose messages are under way, and what they cost.

    Attributes:
        messages, stages, n_messages, n_stages: as in `general_path.Written`.
        slabs: as in `common_ground.AtHand`.
        pair, base, n_devices, done: as in `common_ground.Ways`.
        handling: as in `arguments.LinkArrays`; handling_at: where it begins for this cluster.
        access_at, start_s: as in `general_path.Site`.
        wide: number of slab positions with the requester.
    """

    messages: Ints
    stages: Floats
    n_messages: int
    n_stages: int
    slabs: Ints
    pair: Floats
    base: int
    n_devices: int
    done: Floats
    handling: Floats
    handling_at: int
    access_at: int
    start_s: float
    wide: int


@inlined
def places(wide):
    """Most connections on one link: of k slab positions on one computer with those that are not, or of one with all."""
    return max(2 * wide, wide * wide // 4)


@making
def make_traffic(per_message, wide):
    """Makes room for so many messages and rows of the stages, between `wide` slab positions with the requester."""
    # Few arrays, cut to pieces: making one takes as long as pricing a strategy of few devices.
    by_message, by_message_s = np.zeros((6, per_message), np.int64), np.zeros((3, per_message))
    per_connection = 4 * wide * wide + 2 * wide
    by_connection = np.zeros((11, per_connection), np.int64)
    on_link = np.zeros((2, 2 * wide * places(wide)), np.int64)
    by_connection_s = np.zeros((4, per_connection + 3))
    return Traffic(
        by_message[0], by_message[1], by_message[2], by_message[3], by_message[4], by_message[5],
        by_message_s[0], by_message_s[1], by_message_s[2],
        by_connection[0], by_connection[1], by_connection[2], by_connection[3], by_connection[4],
        on_link[0], on_link[1],
        by_connection[5], by_connection[6], by_connection[7], by_connection[8], by_connection[9], by_connection[10],
        by_connection_s[0], by_connection_s[1], by_connection_s[2], by_connection_s[3],
        np.zeros(wide * wide * F_COLUMNS),
    )  # fmt: skip


@inlined
def clear(traffic):
    """Makes what connections and links are marked in as new, for the marks begin from one again, and nothing in use."""
    traffic.seen[:] = 0
    traffic.fixed[:] = 0
    traffic.ends[:] = np.inf
    traffic.change[:] = np.inf
