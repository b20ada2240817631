"""Batches of strategies on every kind of links: each is written down and run by what its cluster asks for.

Functions for compiled callers alone: `entry_points` and the loops of searches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distredge.latency.compiling import inner, making
from distredge.latency.kernel.approximate_links import is_steady, run_coarsely
from distredge.latency.kernel.arguments import E_COLUMNS, Floats, Ints
from distredge.latency.kernel.coarse_room import CoarseRoom, make_coarse_room
from distredge.latency.kernel.common_ground import (
    P_COLUMNS,
    S_COLUMNS,
    S_DEVICE,
    S_PROFILE,
    V_COLUMNS,
    V_WIRE,
    AtHand,
    Room,
    Ways,
    make_room,
)
from distredge.latency.kernel.general_path import (
    M_COLUMNS,
    T_COLUMNS,
    Site,
    crowd,
    run_independent,
    sum_loads,
    write_down,
)
from distredge.latency.kernel.shared_links import place_ends, place_hosts, run_shared
from distredge.latency.kernel.traffic import SharedRun, Traffic, clear, make_traffic


class GeneralRoom(NamedTuple):
    """Arrays that `run_all` works in.

    Attributes:
        room: for the strategy at hand.
        messages, stages: as in `general_path.Written`.
        sent_s: ((D + 1) * (D + 1),) seconds for which each link, or connection, is in use.
        traffic: for time under `shared` links.
        coarse: for time under them, approximately.
    """

    room: Room
    messages: Ints
    stages: Floats
    sent_s: Floats
    traffic: Traffic
    coarse: CoarseRoom


@making
def make_general_room(n_volumes, wide, max_phases):
    """Makes what `run_all` works in, which takes longer than pricing a strategy when there are many devices.

    For strategies of so many volumes, on `wide` slab positions with the requester, with so many phases at most.
    """
    n_rows = n_volumes * max_phases + 3
    return GeneralRoom(
        make_room(n_volumes, wide, max_phases),
        np.zeros(n_rows * wide * wide * M_COLUMNS, np.int64),
        np.zeros(n_rows * wide * T_COLUMNS),
        np.zeros(wide * wide),
        make_traffic(n_rows * wide * wide, wide),
        make_coarse_room(n_rows, wide),
    )


@inner
def run_all(tables, links, plans, nearby, found, general):
    """Writes down and runs all strategies; arguments as `entry_points.general`, then `GeneralRoom` to work in.

    What `found` has room for is filled in.
    """
    room, traffic, slabs, rows = general.room, general.traffic, general.room.slabs, plans.rows.reshape(-1)
    n_volumes, n_slabs, n_devices = plans.cuts.shape[1], plans.order.shape[1], links.profile_of.shape[1]
    wide = n_slabs + 1
    clear(traffic)
    slabs[n_slabs * S_COLUMNS + S_DEVICE] = n_devices
    turn, placed = np.int64(0), np.int64(-2)
    for k in range(plans.cuts.shape[0]):
        c, board = plans.which[k], np.int64(-1)
        for j in range(n_slabs):
            slabs[j * S_COLUMNS + S_DEVICE] = plans.order[k, j]
            slabs[j * S_COLUMNS + S_PROFILE] = links.profile_of[c, plans.order[k, j]]
            if plans.order[k, j] == links.board[c]:
                board = j
        room.volumes[n_volumes * V_COLUMNS + V_WIRE] = plans.input_wire[k]
        hand = AtHand(rows, k * n_volumes * wide, wide, room.volumes, slabs, room.edges)
        ways = Ways(links.pair, c * (n_devices + 1) * (n_devices + 1) * P_COLUMNS, n_devices, room.done, room.free)
        site = Site(c, 2 * c * (n_devices + 1), plans.start_s[k])
        written = write_down(tables, plans, k, hand, general.messages, general.stages)
        if links.shared[c]:
            if links.hosted[c]:
                place_hosts(traffic.ends_of, slabs, links.computer, c)
                placed = np.int64(-2)
                crowd(written, links, c, slabs)
            elif board != placed:
                place_ends(traffic.ends_of, wide, board)
                placed = board
            run = SharedRun(
                written.messages, written.stages, written.n_messages, written.n_stages, slabs, ways.pair, ways.base,
                n_devices, ways.done, links.handling, c * (n_devices + 1) * E_COLUMNS, site.access_at, site.start_s,
                wide,
            )  # fmt: skip
            if nearby and is_steady(run, links, links.medium[c]):
                t = run_coarsely(general.coarse, run, links, traffic.ends_of, written.n_done)
            else:
                t, turn = run_shared(traffic, run, links, links.medium[c], turn)
        else:
            t = run_independent(written, links, site, slabs, ways)
        found.latency[k] = t if written.whole else np.nan
        if found.finish_s.shape[0] > 0:
            for j in range(n_slabs):
                found.finish_s[k, j] = room.done[written.n_done * wide + j]
        if found.busy_s.shape[0] > 0:
            sum_loads(written, links, site, slabs, traffic.ends_of, k, found, general.sent_s)
