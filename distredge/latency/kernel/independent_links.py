"""The kernel under `independent` links of constant rate, in one pass over the stages: what searches call most."""

from __future__ import annotations

import numpy as np
from numpy import uint64 as U

from distredge.latency.compiling import borrow, inlined, inner
from distredge.latency.kernel.common_ground import (
    DEVICE,
    MADE,
    P_COLUMNS,
    PROFILE,
    REFERENCE,
    S_COLUMNS,
    SIZE,
    TOUCHED,
    V_COLUMNS,
    WIRE,
    cross,
    enter_volume,
    gather,
    gather_end,
    made_stage,
    maker,
    row_bytes,
    seconds_of,
)
from distredge.latency.tables.columns import (
    AT_HEAD_NEEDS,
    AT_NEEDS,
    AT_PHASES,
    AT_TENSORS,
    AT_VOLUMES,
    BAND,
    HAS_HEAD,
    HEAD_BYTES,
    N_CUTS,
    N_HEAD_NEEDS,
    N_HEAD_PARTIALS,
    N_NEEDS,
    N_PARTIALS,
    N_PHASES,
    N_RESULTS,
    NEED,
    NEEDS,
    PHASE,
    PHASES,
    SECONDS,
    START_CLASS,
    STOP_CLASS,
    STRIDE,
    TENSOR,
    VOLUME,
)


@inlined
def deliver(pair, base, n_devices, slabs, count, mine, done, free, ready):
    """Sends all that was gathered for slab position `mine`; returns when the last of it is in place."""
    wide = len(slabs) // S_COLUMNS
    to = base + slabs[U(mine * S_COLUMNS + DEVICE)] * P_COLUMNS
    for x in range(count):
        i = slabs[U(x * S_COLUMNS + TOUCHED)]
        size = float(slabs[U(i * S_COLUMNS + SIZE)])
        slabs[U(i * S_COLUMNS + SIZE)] = 0
        left = done[U((slabs[U(i * S_COLUMNS + MADE)] + 1) * wide + i)]
        at = to + slabs[U(i * S_COLUMNS + DEVICE)] * (n_devices + 1) * P_COLUMNS
        ready = max(ready, cross(pair, at, left, size, free, i * wide + mine))
    return ready


@inlined
def simple_phase(
    model, ints, seconds, volumes, slabs, rows, at_rows, pair, base, n_devices, w, v, q, stage, done, free
):
    """All parts of a phase that reads one tensor: each owner is one source, in order, so nothing has to be gathered."""
    wide = len(slabs) // S_COLUMNS
    n_slabs = wide - 1
    need = model[AT_NEEDS] + model[U(model[AT_PHASES] + q * PHASE + NEEDS)] * NEED
    tensor, lo_at, hi_at = model[U(need)], model[U(need + 1)], model[U(need + 2)]
    starts = model[U(model[AT_VOLUMES] + v * VOLUME + START_CLASS)]
    stops = model[U(model[AT_VOLUMES] + v * VOLUME + STOP_CLASS)]
    seconds_at = model[U(model[AT_PHASES] + q * PHASE + SECONDS)]
    stride = model[U(model[AT_PHASES] + q * PHASE + STRIDE)]
    before, after, mine = stage * wide, (stage + 1) * wide, at_rows + w * wide
    tensor_at = model[AT_TENSORS] + tensor * TENSOR
    is_input = model[U(tensor_at)] < 0
    made, i = np.int64(0), np.int64(0)
    if is_input:
        per_row = float(row_bytes(model, volumes, tensor, len(volumes) // V_COLUMNS - 1))
    else:
        m = maker(model, volumes, tensor, w)
        made = (made_stage(model, ints, volumes, tensor, m) + 1) * wide
        per_row = float(row_bytes(model, volumes, tensor, m))
        reference, height = volumes[U(m * V_COLUMNS + REFERENCE)], model[U(tensor_at + 1)]
        # Borrowed for the owners' cut points: nothing is gathered meanwhile.
        for x in range(wide):
            own = np.int64(rows[U(at_rows + m * wide + x)])
            slabs[U(x * S_COLUMNS + TOUCHED)] = own if reference == height else own * height // reference
    b = np.int64(0)
    for j in range(n_slabs):
        a = b
        b = np.int64(rows[U(mine + j + 1)])
        t = done[U(before + j)]
        if a < b:
            lo, hi = np.int64(ints[U(lo_at + a)]), np.int64(ints[U(hi_at + b)])
            to = base + slabs[U(j * S_COLUMNS + DEVICE)] * P_COLUMNS
            if is_input:
                at = to + n_devices * (n_devices + 1) * P_COLUMNS
                t = max(t, cross(pair, at, 0.0, float(hi - lo) * per_row, free, n_slabs * wide + j))
            else:
                while slabs[U((i + 1) * S_COLUMNS + TOUCHED)] <= lo:
                    i += 1
                x, row = i, lo
                while row < hi:
                    stop = min(slabs[U((x + 1) * S_COLUMNS + TOUCHED)], hi)
                    if x != j and stop > row:
                        at = to + slabs[U(x * S_COLUMNS + DEVICE)] * (n_devices + 1) * P_COLUMNS
                        size = float(stop - row) * per_row
                        t = max(t, cross(pair, at, done[U(made + x)], size, free, x * wide + j))
                    row = stop
                    x += 1
            at = seconds_at + stride * slabs[U(j * S_COLUMNS + PROFILE)]
            t += seconds[U(at + np.int64(ints[U(starts + a)]) + np.int64(ints[U(stops + b)]))]
        done[U(after + j)] = t


@inlined
def any_phase(
    model, ints, seconds, volumes, slabs, rows, at_rows, edges, pair, base, n_devices, w, v, q, stage, done, free
):
    """All parts of a phase, whatever it reads."""
    wide = len(slabs) // S_COLUMNS
    for j in range(wide - 1):
        t = done[stage * wide + j]
        a, b = np.int64(rows[at_rows + w * wide + j]), np.int64(rows[at_rows + w * wide + j + 1])
        if a < b:
            count = gather(model, ints, volumes, slabs, rows, at_rows, edges, w, q, a, b, j)
            t = deliver(pair, base, n_devices, slabs, count, j, done, free, t)
            t += seconds_of(model, ints, seconds, v, q, a, b, slabs[U(j * S_COLUMNS + PROFILE)])
        done[(stage + 1) * wide + j] = t


@inlined
def simple_end(
    model, ints, head_seconds, volumes, slabs, rows, at_rows, pair, base, n_devices, n, stage, head, done, free
):
    """The end of a model whose head reads one tensor and makes all results; returns the latency."""
    wide = len(slabs) // S_COLUMNS
    tensor = model[U(model[AT_HEAD_NEEDS])]
    m = maker(model, volumes, tensor, n)
    made = (made_stage(model, ints, volumes, tensor, m) + 1) * wide
    per_row = float(row_bytes(model, volumes, tensor, m))
    reference, height = volumes[U(m * V_COLUMNS + REFERENCE)], model[U(model[AT_TENSORS] + tensor * TENSOR + 1)]
    to = base + slabs[U(head * S_COLUMNS + DEVICE)] * P_COLUMNS
    t = done[U(stage * wide + head)]
    stop = np.int64(0)
    for i in range(wide - 1):
        start = stop
        stop = np.int64(rows[U(at_rows + m * wide + i + 1)])
        if reference != height:
            stop = stop * height // reference
        if stop > start and i != head:
            at = to + slabs[U(i * S_COLUMNS + DEVICE)] * (n_devices + 1) * P_COLUMNS
            size = float(stop - start) * per_row
            t = max(t, cross(pair, at, done[U(made + i)], size, free, i * wide + head))
    t += head_seconds[U(slabs[U(head * S_COLUMNS + PROFILE)])]
    at = base + (slabs[U(head * S_COLUMNS + DEVICE)] * (n_devices + 1) + n_devices) * P_COLUMNS
    return cross(pair, at, t, float(model[HEAD_BYTES]), free, head * wide + wide - 1)


@inlined
def any_end(
    model, ints, head_seconds, volumes, slabs, rows, at_rows, edges, pair, base, n_devices, n, stage, head, done, free
):
    """The end of any model; returns the latency."""
    wide = len(slabs) // S_COLUMNS
    if model[HAS_HEAD]:
        count = gather_end(model, ints, volumes, slabs, rows, at_rows, edges, n, head, np.int64(-1))
        t = deliver(pair, base, n_devices, slabs, count, head, done, free, done[stage * wide + head])
        done[(stage + 1) * wide + head] = t + head_seconds[slabs[head * S_COLUMNS + PROFILE]]
    count = gather_end(model, ints, volumes, slabs, rows, at_rows, edges, n, head, stage)
    return deliver(pair, base, n_devices, slabs, count, wide - 1, done, free, 0.0)


@inner
def price_all(
    model, ints, seconds, head_seconds, pair, profile_of, which, cuts, rows, order, head, wires, input_wire, latency,
    finish_s, volumes, slabs, edges, done, free,
):  # fmt: skip
    """Prices all strategies; arguments as `kernel_entry.independent`, then room to work in."""
    model, ints, seconds, head_seconds = borrow(model), borrow(ints), borrow(seconds), borrow(head_seconds)
    volumes, slabs, edges = borrow(volumes), borrow(slabs), borrow(edges)
    pair, done, free, flat = borrow(pair), borrow(done), borrow(free), borrow(rows.reshape(-1))
    n_volumes, n_slabs, n_devices = cuts.shape[1], order.shape[1], profile_of.shape[1]
    wide = n_slabs + 1
    slabs[n_slabs * S_COLUMNS + DEVICE] = n_devices
    has_simple_end = model[N_HEAD_NEEDS] == 1 and model[N_HEAD_PARTIALS] == 0 and model[N_RESULTS] == 0
    for k in range(cuts.shape[0]):
        base = which[k] * (n_devices + 1) * (n_devices + 1) * P_COLUMNS
        for j in range(n_slabs):
            slabs[U(j * S_COLUMNS + DEVICE)] = order[k, j]
            slabs[U(j * S_COLUMNS + PROFILE)] = profile_of[which[k], order[k, j]]
        volumes[n_volumes * V_COLUMNS + WIRE] = input_wire[k]
        free[:] = 0.0
        at_rows = k * n_volumes * wide
        stage, n, start = np.int64(0), np.int64(0), np.int64(0)
        for w in range(n_volumes):
            end = cuts[k, w]
            if end < 0:
                break
            n = w + 1
            v = enter_volume(model, volumes, w, start, end, stage, wires[k, w], np.int64(0))
            start = end + 1
            at = model[AT_VOLUMES] + v * VOLUME
            for q in range(model[U(at + PHASES)], model[U(at + PHASES)] + model[U(at + N_PHASES)]):
                phase = model[AT_PHASES] + q * PHASE
                one = model[U(phase + N_NEEDS)] == 1 and model[U(phase + N_PARTIALS)] == 0
                if one and model[U(at + START_CLASS)] >= 0 and model[U(at + BAND)] == 1:
                    simple_phase(
                        model, ints, seconds, volumes, slabs, flat, at_rows, pair, base, n_devices, w, v, q, stage,
                        done, free,
                    )  # fmt: skip
                else:
                    any_phase(
                        model, ints, seconds, volumes, slabs, flat, at_rows, edges, pair, base, n_devices, w, v, q,
                        stage, done, free,
                    )  # fmt: skip
                stage += 1
        if finish_s.shape[0] > 0:
            for j in range(n_slabs):
                finish_s[k, j] = done[stage * wide + j]
        if start != model[N_CUTS]:
            latency[k] = np.nan
        elif has_simple_end:
            latency[k] = simple_end(
                model, ints, head_seconds, volumes, slabs, flat, at_rows, pair, base, n_devices, n, stage, head[k],
                done, free,
            )  # fmt: skip
        else:
            latency[k] = any_end(
                model, ints, head_seconds, volumes, slabs, flat, at_rows, edges, pair, base, n_devices, n, stage,
                head[k], done, free,
            )  # fmt: skip
