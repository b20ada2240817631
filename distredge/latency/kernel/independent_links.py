"""The kernel under `independent` links of constant rate, in one pass over the stages: what searches call most."""

from __future__ import annotations

import numpy as np
from numpy import uint64 as U

from distredge.latency.compiling import inlined, inner
from distredge.latency.kernel.common_ground import (
    P_COLUMNS,
    S_COLUMNS,
    S_DEVICE,
    S_PROFILE,
    S_TOUCHED,
    V_COLUMNS,
    V_WIRE,
    AtHand,
    Ways,
    cross,
    enter_volume,
    gather,
    gather_end,
    made_stage,
    maker,
    owned_until,
    row_bytes,
    seconds_of,
    taken,
)
from distredge.latency.tables import columns as col


@inner
def price_all(tables, links, plans, found, room):
    """Prices all strategies; arguments as `entry_points.independent`, then `entry_points.Room` to work in."""
    model, slabs, rows = tables.model, room.slabs, plans.rows.reshape(-1)
    n_volumes, n_slabs, n_devices = plans.cuts.shape[1], plans.order.shape[1], links.profile_of.shape[1]
    wide = n_slabs + 1
    slabs[n_slabs * S_COLUMNS + S_DEVICE] = n_devices
    for k in range(plans.cuts.shape[0]):
        c = plans.which[k]
        for j in range(n_slabs):
            slabs[U(j * S_COLUMNS + S_DEVICE)] = plans.order[k, j]
            slabs[U(j * S_COLUMNS + S_PROFILE)] = links.profile_of[c, plans.order[k, j]]
        room.volumes[n_volumes * V_COLUMNS + V_WIRE] = plans.input_wire[k]
        room.free[:] = 0.0
        hand = AtHand(rows, k * n_volumes * wide, wide, room.volumes, slabs, room.edges)
        ways = Ways(links.pair, c * (n_devices + 1) * (n_devices + 1) * P_COLUMNS, n_devices, room.done, room.free)
        stage, n, start = np.int64(0), np.int64(0), np.int64(0)
        for w in range(n_volumes):
            end = plans.cuts[k, w]
            if end < 0:
                break
            n = w + 1
            stage = price_volume(tables, hand, ways, w, start, end, stage, plans.wires[k, w])
            start = end + 1
        if found.finish_s.shape[0] > 0:
            for j in range(n_slabs):
                found.finish_s[k, j] = room.done[stage * wide + j]
        if start != model[col.N_CUTS]:
            found.latency[k] = np.nan
        else:
            found.latency[k] = price_end(tables, hand, ways, n, stage, plans.head[k])


@inlined
def price_volume(tables, hand, ways, w, start, end, stage, wire):
    """All parts of volume w, which begins after cut `start - 1` and ends at cut `end`; returns the stage after it."""
    model = tables.model
    v = enter_volume(model, hand.volumes, w, start, end, stage, wire, np.int64(0))
    at = model[col.AT_VOLUMES] + v * col.VOLUME
    for q in range(model[U(at + col.PHASES)], model[U(at + col.PHASES)] + model[U(at + col.N_PHASES)]):
        phase = model[col.AT_PHASES] + q * col.PHASE
        one = model[U(phase + col.N_NEEDS)] == 1 and model[U(phase + col.N_PARTIALS)] == 0
        if one and model[U(at + col.START_CLASS)] >= 0 and model[U(at + col.BAND)] == 1:
            simple_phase(tables, hand, ways, w, v, q, stage)
        else:
            any_phase(tables, hand, ways, w, v, q, stage)
        stage += 1
    return stage


@inlined
def price_end(tables, hand, ways, n, stage, head):
    """What follows the n volumes, the first stage after which is `stage`; returns the latency."""
    model = tables.model
    if model[col.N_HEAD_NEEDS] == 1 and model[col.N_HEAD_PARTIALS] == 0 and model[col.N_RESULTS] == 0:
        return simple_end(tables, hand, ways, n, stage, head)
    return any_end(tables, hand, ways, n, stage, head)


@inlined
def simple_phase(tables, hand, ways, w, v, q, stage):
    """All parts of a phase that reads one tensor: each owner is one source, in order, so nothing has to be gathered."""
    model, ints, rows, volumes, slabs, done = (
        tables.model, tables.ints, hand.rows, hand.volumes, hand.slabs, ways.done
    )  # fmt: skip
    wide, n_slabs, n_devices = hand.wide, hand.wide - 1, ways.n_devices
    need = model[col.AT_NEEDS] + model[U(model[col.AT_PHASES] + q * col.PHASE + col.NEEDS)] * col.NEED
    tensor = model[U(need + col.NEED_TENSOR)]
    lo_at, hi_at = model[U(need + col.NEED_FIRST)], model[U(need + col.NEED_LAST)]
    starts = model[U(model[col.AT_VOLUMES] + v * col.VOLUME + col.START_CLASS)]
    stops = model[U(model[col.AT_VOLUMES] + v * col.VOLUME + col.STOP_CLASS)]
    seconds_at = model[U(model[col.AT_PHASES] + q * col.PHASE + col.SECONDS)]
    stride = model[U(model[col.AT_PHASES] + q * col.PHASE + col.STRIDE)]
    before, after, mine = stage * wide, (stage + 1) * wide, hand.at_rows + w * wide
    tensor_at = model[col.AT_TENSORS] + tensor * col.TENSOR
    is_input = model[U(tensor_at + col.CROSSING_PLACE)] < 0
    made, i = np.int64(0), np.int64(0)
    if is_input:
        per_row = float(row_bytes(model, volumes, tensor, len(volumes) // V_COLUMNS - 1))
    else:
        m = maker(model, volumes, tensor, w)
        made = (made_stage(model, ints, volumes, tensor, m) + 1) * wide
        per_row = float(row_bytes(model, volumes, tensor, m))
        # Borrowed for the owners' cut points: nothing is gathered meanwhile.
        for x in range(wide):
            slabs[U(x * S_COLUMNS + S_TOUCHED)] = owned_until(hand, m, x - 1, model[U(tensor_at + col.CROSSING_HEIGHT)])
    b = np.int64(0)
    for j in range(n_slabs):
        a = b
        b = np.int64(rows[U(mine + j + 1)])
        t = done[U(before + j)]
        if a < b:
            lo, hi = np.int64(ints[U(lo_at + a)]), np.int64(ints[U(hi_at + b)])
            to = ways.base + slabs[U(j * S_COLUMNS + S_DEVICE)] * P_COLUMNS
            if is_input:
                at = to + n_devices * (n_devices + 1) * P_COLUMNS
                t = max(t, cross(ways, at, 0.0, float(hi - lo) * per_row, n_slabs * wide + j))
            else:
                while slabs[U((i + 1) * S_COLUMNS + S_TOUCHED)] <= lo:
                    i += 1
                x, row = i, lo
                while row < hi:
                    stop = min(slabs[U((x + 1) * S_COLUMNS + S_TOUCHED)], hi)
                    if x != j and stop > row:
                        at = to + slabs[U(x * S_COLUMNS + S_DEVICE)] * (n_devices + 1) * P_COLUMNS
                        size = float(stop - row) * per_row
                        t = max(t, cross(ways, at, done[U(made + x)], size, x * wide + j))
                    row = stop
                    x += 1
            at = seconds_at + stride * slabs[U(j * S_COLUMNS + S_PROFILE)]
            t += tables.seconds[U(at + np.int64(ints[U(starts + a)]) + np.int64(ints[U(stops + b)]))]
        done[U(after + j)] = t


@inlined
def any_phase(tables, hand, ways, w, v, q, stage):
    """All parts of a phase, whatever it reads."""
    wide, done = hand.wide, ways.done
    for j in range(wide - 1):
        t = done[stage * wide + j]
        share = hand.at_rows + w * wide + j
        a, b = np.int64(hand.rows[share]), np.int64(hand.rows[share + 1])
        if a < b:
            count = gather(tables, hand, w, q, a, b, j)
            t = deliver(hand, ways, count, j, t)
            t += seconds_of(tables, v, q, a, b, hand.slabs[U(j * S_COLUMNS + S_PROFILE)])
        done[(stage + 1) * wide + j] = t


@inlined
def deliver(hand, ways, count, mine, ready):
    """Sends all that was gathered for slab position `mine`; returns when the last of it is in place."""
    slabs, wide = hand.slabs, hand.wide
    to = ways.base + slabs[U(mine * S_COLUMNS + S_DEVICE)] * P_COLUMNS
    for x in range(count):
        i, size, made = taken(slabs, x)
        left = ways.done[U((made + 1) * wide + i)]
        at = to + slabs[U(i * S_COLUMNS + S_DEVICE)] * (ways.n_devices + 1) * P_COLUMNS
        ready = max(ready, cross(ways, at, left, float(size), i * wide + mine))
    return ready


@inlined
def simple_end(tables, hand, ways, n, stage, head):
    """The end of a model whose head reads one tensor and makes all results; returns the latency."""
    model, volumes, slabs, done = tables.model, hand.volumes, hand.slabs, ways.done
    wide, n_devices = hand.wide, ways.n_devices
    tensor = model[U(model[col.AT_HEAD_NEEDS])]
    m = maker(model, volumes, tensor, n)
    made = (made_stage(model, tables.ints, volumes, tensor, m) + 1) * wide
    per_row = float(row_bytes(model, volumes, tensor, m))
    height = model[U(model[col.AT_TENSORS] + tensor * col.TENSOR + col.CROSSING_HEIGHT)]
    to = ways.base + slabs[U(head * S_COLUMNS + S_DEVICE)] * P_COLUMNS
    t = done[U(stage * wide + head)]
    stop = np.int64(0)
    for i in range(wide - 1):
        start = stop
        stop = owned_until(hand, m, i, height)
        if stop > start and i != head:
            at = to + slabs[U(i * S_COLUMNS + S_DEVICE)] * (n_devices + 1) * P_COLUMNS
            t = max(t, cross(ways, at, done[U(made + i)], float(stop - start) * per_row, i * wide + head))
    t += tables.head_seconds[U(slabs[U(head * S_COLUMNS + S_PROFILE)])]
    at = ways.base + (slabs[U(head * S_COLUMNS + S_DEVICE)] * (n_devices + 1) + n_devices) * P_COLUMNS
    return cross(ways, at, t, float(model[col.HEAD_BYTES]), head * wide + wide - 1)


@inlined
def any_end(tables, hand, ways, n, stage, head):
    """The end of any model; returns the latency."""
    wide, done = hand.wide, ways.done
    if tables.model[col.HAS_HEAD]:
        count = gather_end(tables, hand, n, head, np.int64(-1))
        t = deliver(hand, ways, count, head, done[stage * wide + head])
        done[(stage + 1) * wide + head] = t + tables.head_seconds[hand.slabs[head * S_COLUMNS + S_PROFILE]]
    count = gather_end(tables, hand, n, head, stage)
    return deliver(hand, ways, count, wide - 1, 0.0)
