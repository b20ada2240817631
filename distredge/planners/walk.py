"""One walk backwards through the body of a graph that serves every volume with the same end, compiled.

`tabulate` says what for. Parts of one row are enough: what a part of rows [a, b) needs begins where row a's needs begin
and ends where row b - 1's end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

NORMAL, REDUCES, STOPS = range(3)
"""What the walk does with an operator: takes its rows' needs, deals out the rows of its input, gives up."""

_NOTHING, _SOME, _FAILED = range(3)


class Flat(NamedTuple):
    """The body of a graph as arrays.

    Attributes:
        kind: (n_ops,) what the walk does with each operator.
        in_at, out_at: (n_ops + 1,) where inputs and outputs of each operator start.
        in_tensor, in_reach: tensor of each input, and offset of its rows in `first` and `stop`.
        out_tensor: tensor of each output.
        first, stop: first input row, and end of the input rows, of each output row of each input.
        reduced: (n_ops,) rows of what a reduction reads.
        height, maker, last_use: (n_tensors,) rows; place that makes it (-1: before the body); place that last reads it.
        table_at: (n_profiles, n_ops) offset of an operator's seconds by rows in `seconds`, or -1.
        seconds: all tables of seconds by rows, one after the other.
    """

    kind: NDArray[np.int64]
    in_at: NDArray[np.int64]
    in_tensor: NDArray[np.int64]
    in_reach: NDArray[np.int64]
    out_at: NDArray[np.int64]
    out_tensor: NDArray[np.int64]
    first: NDArray[np.int64]
    stop: NDArray[np.int64]
    reduced: NDArray[np.int64]
    height: NDArray[np.int64]
    maker: NDArray[np.int64]
    last_use: NDArray[np.int64]
    table_at: NDArray[np.int64]
    seconds: NDArray[np.float64]


_OPTIONS: Any = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
_inner = njit(**_OPTIONS)
_entry = njit(cache=True, **_OPTIONS)


@_entry
def walk_back(flat: Any, end_place: int, rows: int, starts: Any, spans: Any, needs: Any) -> tuple[int, Any, Any]:
    """Spans of every operator and of every start's needs, for parts of one row each.

    Args:
        flat: the body, a `Flat`.
        end_place: number of operators before the end.
        rows: height of the end's reference.
        starts: rising places before the end at which volumes may start.
        spans: (2, end_place, rows) filled with start and stop of what each operator computes; spans[0, place, 0] < 0:
            nothing.
        needs: (2, n_starts, n_needs, rows) filled with start and stop of what is needed of each tensor.

    Returns:
        First start that could be reached; the tensors needed by each start, (n_starts, n_needs), -1 behind the last;
        how many rows at the low and the high edge are unlike the others in the volume from each start, (n_starts, 2).
    """
    wanted = np.zeros(len(flat.height), np.bool_)
    here = np.zeros((2, len(flat.height), rows), np.int64)
    tensors = np.full((len(starts), needs.shape[2]), -1, np.int64)
    edges = np.zeros((len(starts), 2), np.int64)
    low = high = 0
    at = len(starts) - 1
    for place in range(end_place - 1, -1, -1):
        if flat.kind[place] == STOPS:
            break
        found = _compute(flat, place, end_place, rows, wanted, here, spans)
        if found == _FAILED:
            break
        if found == _NOTHING:
            spans[0, place, 0] = -1
        else:
            low, high = _uneven(spans[0, place], spans[1, place], rows, low, high)
            _read(flat, place, rows, wanted, here, spans)
        if at >= 0 and starts[at] == place:
            count = 0
            for t in range(len(flat.height)):
                if wanted[t] and flat.maker[t] < place:
                    tensors[at, count] = t
                    needs[0, at, count] = here[0, t]
                    needs[1, at, count] = here[1, t]
                    count += 1
            edges[at] = low, high
            at -= 1
    return at + 1, tensors, edges


@_inner
def _compute(flat: Any, place: int, end_place: int, rows: int, wanted: Any, here: Any, spans: Any) -> int:
    """Notes which rows every part computes of an operator."""
    if flat.kind[place] == REDUCES:
        return _contribute(flat, place, rows, wanted, spans)
    found = _NOTHING
    for x in range(flat.out_at[place], flat.out_at[place + 1]):
        t = flat.out_tensor[x]
        leaves = flat.last_use[t] >= end_place
        for r in range(rows if leaves or wanted[t] else 0):
            start, stop = np.int64(1) << 40, np.int64(-1)
            if wanted[t]:
                start, stop = here[0, t, r], here[1, t, r]
            if leaves:
                own, after = r * flat.height[t] // rows, (r + 1) * flat.height[t] // rows
                if own == after:
                    return _FAILED
                start, stop = min(start, own), max(stop, after)
            if found == _SOME:
                start, stop = min(start, spans[0, place, r]), max(stop, spans[1, place, r])
            spans[0, place, r], spans[1, place, r] = start, stop
        if leaves or wanted[t]:
            found = _SOME
    return found


@_inner
def _contribute(flat: Any, place: int, rows: int, wanted: Any, spans: Any) -> int:
    """Deals out the rows that a reduction reads; a volume that reads its result has a further phase: not done here."""
    for x in range(flat.out_at[place], flat.out_at[place + 1]):
        if wanted[flat.out_tensor[x]]:
            return _FAILED
    for r in range(rows):
        spans[0, place, r] = r * flat.reduced[place] // rows
        spans[1, place, r] = (r + 1) * flat.reduced[place] // rows
        if spans[0, place, r] == spans[1, place, r]:
            return _FAILED
    return _SOME


@_inner
def _read(flat: Any, place: int, rows: int, wanted: Any, here: Any, spans: Any) -> None:
    """Notes which rows every part needs of an operator's inputs."""
    for x in range(flat.in_at[place], flat.in_at[place + 1]):
        t, reach = flat.in_tensor[x], flat.in_reach[x]
        for r in range(rows):
            start, stop = spans[0, place, r], spans[1, place, r]
            if flat.kind[place] == NORMAL:
                start, stop = flat.first[reach + start], flat.stop[reach + stop - 1]
            if wanted[t]:
                start, stop = min(start, here[0, t, r]), max(stop, here[1, t, r])
            here[0, t, r], here[1, t, r] = start, stop
        wanted[t] = True


@_inner
def _uneven(start: Any, stop: Any, rows: int, low: int, high: int) -> tuple[int, int]:
    """Widens the edges beyond which the number of rows depends on the size of a part alone."""
    if rows < 2:
        return low, high
    middle = (rows - 1) // 2
    steady = start[middle + 1] - start[middle]
    for r in range(rows - 2, low - 1, -1):
        if start[r + 1] - start[r] != steady:
            low = max(low, r + 1)
            break
    for r in range(rows - 1 - high):
        if stop[r + 1] - stop[r] != steady:
            high = max(high, rows - 1 - r)
            break
    return low, high


@_entry
def sum_seconds(
    flat: Any, end_place: int, starts: Any, reached: int, spans: Any, part_start: Any, part_stop: Any
) -> Any:
    """Seconds of the operators of one part of each kind, in the volumes from each start.

    Args:
        flat: the body, a `Flat`.
        end_place: number of operators before the end.
        starts: rising places before the end at which volumes may start.
        reached: first of them that counts.
        spans: from `walk_back`.
        part_start: (n_cells,) first row of a part of each kind, -1 where there is none.
        part_stop: (n_cells,) end of its rows.

    Returns:
        (n_starts, n_profiles, n_cells), NaN where there is no such part.
    """
    n_profiles, cells = flat.table_at.shape[0], len(part_start)
    total = np.zeros((n_profiles, cells))
    found = np.full((len(starts), n_profiles, cells), np.nan)
    at = len(starts) - 1
    for place in range(end_place - 1, -1, -1):
        if at < reached:
            break
        if spans[0, place, 0] >= 0 and flat.table_at[0, place] >= 0:
            _add_seconds(flat, place, spans, part_start, part_stop, total)
        if starts[at] == place:
            for cell in range(cells):
                if part_start[cell] >= 0:
                    for p in range(n_profiles):
                        found[at, p, cell] = total[p, cell]
            at -= 1
    return found


@_inner
def _add_seconds(flat: Any, place: int, spans: Any, part_start: Any, part_stop: Any, total: Any) -> None:
    for cell in range(len(part_start)):
        if part_start[cell] >= 0:
            n = spans[1, place, part_stop[cell] - 1] - spans[0, place, part_start[cell]]
            for p in range(total.shape[0]):
                total[p, cell] += flat.seconds[flat.table_at[p, place] + n]
