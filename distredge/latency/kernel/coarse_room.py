"""What `approximate_links` works in: what messages cost, what rows of the stages wait for, connections on their links.

Links and connections are numbered as in `traffic`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import uint64 as U

from distredge.latency.compiling import inlined, making
from distredge.latency.kernel.arguments import (
    E_COLUMNS,
    INSIDE,
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
    WIRE_BYTE,
)
from distredge.latency.kernel.general_path import (
    M_COLUMNS,
    M_FROM,
    M_MADE,
    M_NEXT_MADE,
    M_NEXT_SENT,
    M_PACKED,
    M_READY,
    M_SIZE,
    M_STAGE,
    M_TO,
    T_COLUMNS,
    T_SECONDS,
)

INVERSE = 1.0 / np.maximum(np.arange(4096), 1)
"""Reciprocals of numbers of connections: a look-up is faster than a division."""

MOST_BPS = 1e30
"""What an unbounded link counts as."""

W_COLUMNS = 5
W_PLACE, W_TO, W_UP, W_DOWN, W_CONNECTION = range(W_COLUMNS)
"""Of a message: row of the stages that needs it, slab position, where its links are in `CoarseRoom.links` (-1 in W_UP
where it crosses none), its connection."""

C_COLUMNS = 5
C_BITS, C_SEND, C_BEFORE, C_AFTER, C_TAKE = range(C_COLUMNS)
"""Of a message: bits; seconds of the sender's processor, on the way before the connection, on the way after it, and of
the receiver's processor."""

R_COLUMNS = 3
R_WAITING, R_FIRST, R_NEXT = range(R_COLUMNS)
"""Of a row of the stages: messages that it still waits for, the first message that leaves at its end, and from it on
the first stage in which its slab position has a part."""

H_COLUMNS = 3
H_LINE, H_TAKES, H_SENDS = range(H_COLUMNS)
"""Of a row of the stages: when what has arrived is handled, seconds that this takes, and that what leaves takes."""

L_COLUMNS = 5
L_CAPACITY, L_FAIR, L_SPARE, L_BOUND, L_COUNT = range(L_COLUMNS)
"""Of a link: its rate, an equal share of it, what its connections leave over of those, and how many of them it binds
and has; L_SPARE and L_BOUND are none between two times that rates are shared."""

X_COLUMNS = 3
X_UP, X_DOWN, X_MESSAGE = range(X_COLUMNS)
"""Of a connection in use: where its links are, and the message on it."""

FRESH = -1.0
"""Rate of a connection that has none yet."""


class CoarseRoom(NamedTuple):
    """Arrays to work in, for W = D + 1 slab positions with the requester.

    Attributes:
        ways, costs: W_COLUMNS and C_COLUMNS of each message.
        rows, handled: R_COLUMNS and H_COLUMNS of each row of the stages.
        next_stage, free: (W,) by slab position, stage of its next part, and when it has done the one before that.
        queue: (W * W,) by connection, the message that is on it or comes next, or -1.
        links: (2 * W * L_COLUMNS,) of each link.
        flows, end, rate, since: of the connections in use, in any order: X_COLUMNS, when the message on it ends, its
            rate, and when it has begun. Before it has a rate, `end` holds its bits. Behind the last one ends nothing.
        group, group_s, leave_s: rows of the stages of which messages have yet to leave, in any order: the next of
            those, when it is ready for its connection, and when the sender has handled it.
        hits: what the next event takes together.
        open: slab positions to settle.
    """

    ways: Ints
    costs: Floats
    rows: Ints
    handled: Floats
    next_stage: Ints
    free: Floats
    queue: Ints
    links: Floats
    flows: Ints
    end: Floats
    rate: Floats
    since: Floats
    group: Ints
    group_s: Floats
    leave_s: Floats
    hits: Ints
    open: Ints


@making
def make_coarse_room(n_rows, wide):
    """Makes room for so many rows of `wide` slab positions with the requester."""
    per_row, per_connection = n_rows * wide, wide * wide
    per_message = n_rows * per_connection
    return CoarseRoom(
        np.zeros(per_message * W_COLUMNS, np.int64),
        np.zeros(per_message * C_COLUMNS),
        np.zeros(per_row * R_COLUMNS, np.int64),
        np.zeros(per_row * H_COLUMNS),
        np.zeros(wide, np.int64),
        np.zeros(wide),
        np.zeros(per_connection, np.int64),
        np.zeros(2 * wide * L_COLUMNS),
        np.zeros(per_connection * X_COLUMNS, np.int64),
        np.zeros(per_connection),
        np.zeros(per_connection),
        np.zeros(per_connection),
        np.zeros(per_row, np.int64),
        np.zeros(per_row),
        np.zeros(per_row),
        np.zeros(per_connection + per_row, np.int64),
        np.zeros(per_message, np.int64),
    )


@inlined
def begin(room, run, links, ends_of):
    """Writes down what messages cost, and empties the rest; returns the seconds that the busiest link takes for all."""
    messages, rows, handled, costs, ways = run.messages, room.rows, room.handled, room.costs, room.ways
    stages, pair, handling, slabs, wide = run.stages, run.pair, run.handling, run.slabs, run.wide
    for x in range((run.n_stages + 1) * wide * H_COLUMNS):
        handled[U(x)] = 0.0
    for j in range(wide):
        at = (run.n_stages * wide + j) * R_COLUMNS
        rows[U(at + R_WAITING)], rows[U(at + R_FIRST)], rows[U(at + R_NEXT)] = 1, -1, run.n_stages
    for stage in range(run.n_stages - 1, -1, -1):
        for x in range(stage * wide, (stage + 1) * wide):
            at = x * R_COLUMNS
            later = rows[U(at + wide * R_COLUMNS + R_NEXT)]
            rows[U(at + R_WAITING)], rows[U(at + R_FIRST)] = 0, -1
            rows[U(at + R_NEXT)] = stage if stages[U(x * T_COLUMNS + T_SECONDS)] >= 0.0 else later
    for j in range(wide):
        room.next_stage[U(j)] = rows[U(j * R_COLUMNS + R_NEXT)]
        room.free[U(j)] = 0.0
    for x in range(wide * wide):
        room.queue[U(x)] = -1
    for x in range(2 * wide):
        side = 0 if x < wide else 1
        device = slabs[U((x - side * wide) * S_COLUMNS + S_DEVICE)]
        room.links[U(x * L_COLUMNS + L_CAPACITY)] = min(links.access[U(run.access_at + 2 * device + side)], MOST_BPS)
        for c in range(L_FAIR, L_COLUMNS):
            room.links[U(x * L_COLUMNS + c)] = 0.0
    for m in range(run.n_messages - 1, -1, -1):
        at = m * M_COLUMNS
        i, j, made = messages[U(at + M_FROM)], messages[U(at + M_TO)], messages[U(at + M_MADE)]
        size, packed = float(messages[U(at + M_SIZE)]), float(messages[U(at + M_PACKED)])
        connection = i * wide + j
        messages[U(at + M_NEXT_MADE)] = rows[U(made * R_COLUMNS + R_FIRST)]
        rows[U(made * R_COLUMNS + R_FIRST)] = m
        place = messages[U(at + M_STAGE)] * wide + j
        rows[U(place * R_COLUMNS + R_WAITING)] += 1
        source, target = slabs[U(i * S_COLUMNS + S_DEVICE)], slabs[U(j * S_COLUMNS + S_DEVICE)]
        cost = run.base + (source * (run.n_devices + 1) + target) * P_COLUMNS
        sends, takes = run.handling_at + source * E_COLUMNS, run.handling_at + target * E_COLUMNS
        send = handling[U(sends + SEND_FIXED)] + handling[U(sends + SEND_BYTE)] * size
        send += handling[U(sends + SEND_PACKED)] * packed
        handled[U(made * H_COLUMNS + H_SENDS)] += send
        to = m * C_COLUMNS
        costs[U(to + C_BITS)] = 8.0 * size
        costs[U(to + C_SEND)] = send
        costs[U(to + C_BEFORE)] = pair[U(cost)] + pair[U(cost + PRE_BYTE)] * size
        costs[U(to + C_AFTER)] = pair[U(cost + POST_FIXED)] + pair[U(cost + POST_BYTE)] * size
        take = handling[U(takes + RECEIVE_FIXED)] + handling[U(takes + RECEIVE_BYTE)] * size
        costs[U(to + C_TAKE)] = take + handling[U(takes + RECEIVE_PACKED)] * packed
        inside = pair[U(cost + WIRE_BYTE)] == INSIDE
        to = m * W_COLUMNS
        ways[U(to + W_PLACE)], ways[U(to + W_TO)] = place, j
        ways[U(to + W_UP)] = -1 if inside else ends_of[U(2 * connection)] * L_COLUMNS
        ways[U(to + W_DOWN)] = ends_of[U(2 * connection + 1)] * L_COLUMNS
        ways[U(to + W_CONNECTION)] = connection
        messages[U(at + M_READY)] = 0
        messages[U(at + M_NEXT_SENT)] = room.queue[U(connection)]
        if not inside:
            room.queue[U(connection)] = m
            room.links[U(ways[U(to + W_UP)] + L_SPARE)] += 8.0 * size
            room.links[U(ways[U(to + W_DOWN)] + L_SPARE)] += 8.0 * size
    most = 0.0
    for x in range(2 * wide):
        most = max(most, room.links[U(x * L_COLUMNS + L_SPARE)] / room.links[U(x * L_COLUMNS + L_CAPACITY)])
        room.links[U(x * L_COLUMNS + L_SPARE)] = 0.0
    return most
