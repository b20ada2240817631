"""Seconds of all parts of all volumes with one end, after `walk` has found what they compute and need, compiled.

A *cell* is a part whose operators' seconds are added up: one of each class of start, class of end and number of rows
(`latency.tables.volume_tables`), and short parts one by one where a volume is summed. Operators are gone through backwards once; at
every start what was added up so far is written down, in the classes of that start's volume. Volumes of several phases
are added up anew, since to which phase an operator belongs depends on the start.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distredge.latency.compiling import digest
from distredge.latency.tables.backward_walk import (
    BAND,
    COMPUTED,
    EDGES,
    FIRST_PHASE,
    HIGH,
    INTS,
    KIND,
    L_NEEDS,
    L_PARTIALS,
    L_PHASES,
    L_SUMS,
    LOW,
    N_PHASES,
    NEEDS,
    OPTIONS,
    PARTIALS,
    PLACE,
    REDUCES,
    REDUCING,
    SECONDS,
    SPAN_AT,
    SUM_AT,
    SUM_ROWS,
    T_SUM_AT,
    T_SUM_ROWS,
    TABLE,
    Ints,
    inner,
)

CELL = 6
LO, HI, FIRST, SIZE, BUSY, ROWS = range(CELL)
"""Rows of `Cells.cells`: columns that say where a part begins and ends; its first row and number of rows; whether it
has any rows of what was added up so far; its rows of the operator at hand."""

OVERHEAD, FACTOR, ELEMENT = range(3)
"""Columns of `Cells.boards`: seconds of a part are overhead + factor * operators' seconds + element * elements that
enter or leave it."""


class Cells(NamedTuple):
    """The parts whose seconds are added up, and their seconds.

    Attributes:
        boards: (n_profiles, 3).
        table_at: (n_profiles, n_ops) offset of an operator's seconds by rows in `by_rows`, or -1.
        by_rows: all tables of seconds by rows, one after the other.
        place: cell of each class of start, class of end and number of rows, or -1; then of each short part, by a and
            number of rows.
        cells: (CELL, n_cells).
        sums: (2 + n_phases, n_profiles, n_cells) room for sums: of all operators so far; of those of each phase; and
            for the seconds of the phase at hand.
        seconds: of the tables.
    """

    boards: NDArray[np.float64]
    table_at: Ints
    by_rows: NDArray[np.float64]
    place: Ints
    cells: Ints
    sums: NDArray[np.float64]
    seconds: NDArray[np.float64]


@inner
def _part(i: int, j: int, k: int, low: int, high: int, height: int) -> int:
    """First row of a part of k rows with class i of start and j of end; -1 where there is none."""
    if k == 0:
        return -1
    if i < low:
        left = height - i - k
        if j < high:
            return i if left == j else -1
        return i if left >= high else -1
    if j < high:
        return height - j - k if height - j - k >= low else -1
    return low if height - low - k >= high else -1


@inner
def _table_size(low: int, high: int, height: int) -> int:
    """Entries of a table with such classes, for one profile."""
    if high == 0 and low == height:
        return height * (height + 1) // 2
    return (low + 1) * (high + 1) * (height + 1)


@inner
def _make(cells: Any, place: Any, height: int, band: int, low: int, high: int, short: bool) -> int:
    """Makes the cells of one end; returns how many."""
    points, count = height + 1, 0
    tables = (low + 1) * (high + 1) * points
    for x in range(tables + (points * band if short else 0)):
        if x < tables:
            k = x % points
            a = _part(x // points // (high + 1), x // points % (high + 1), k, low, high, height)
        else:
            a, k = (x - tables) // band, (x - tables) % band
        place[x] = -1
        if a >= 0 and k > 0 and a + k <= height:
            place[x] = count
            cells[LO, count], cells[HI, count] = a, points + a + k
            if k < band:
                cells[LO, count] = cells[HI, count] = 2 * points + a * band + k
            cells[FIRST, count], cells[SIZE, count], cells[BUSY, count] = a, k, 0
            count += 1
    return count


@inner
def _count_rows(spans: Any, cells: Any, count: int, place: int, band: int) -> None:
    """Notes how many rows each cell has of an operator."""
    for c in range(count):
        n = spans[1, place, cells[HI, c]] - spans[0, place, cells[LO, c]]
        cells[ROWS, c] = max(n, 0)
    if band > 1:
        for c in range(count):
            cells[BUSY, c] = max(cells[BUSY, c], cells[ROWS, c])


@inner
def _add(cells: Any, sums: Any, q: int, table_at: Any, place: int, by_rows: Any, count: int) -> None:
    """Adds the seconds of the rows that were noted to sums."""
    for p in range(sums.shape[1]):
        at = table_at[p, place]
        for c in range(count if at >= 0 else 0):
            sums[q, p, c] += by_rows[at + cells[ROWS, c]]


@inner
def _clear(sums: Any, first: int, last: int, count: int) -> None:
    for q in range(first, last):
        for p in range(sums.shape[1]):
            for c in range(count):
                sums[q, p, c] = 0.0


@inner
def _edge_elements(lists: Any, ints: Any, first: int, last: int, band: int, a: int, k: int) -> int:
    """Elements that enter and leave the part of k rows from row a on; the edges are rows [first, last) of the lists."""
    total = 0
    for e in range(first, last):
        if k < band:
            size = ints[lists[e, 6] + a * band + k] - ints[lists[e, 5] + a * band + k]
        else:
            size = ints[lists[e, 4] + a + k] - ints[lists[e, 3] + a]
        total += max(size, 0) * lists[e, 1]
    return total


@inner
def _price(sums: Any, row: int, boards: Any, cells: Any, band: int, count: int) -> None:
    """Seconds of the cells on every board, edges left out, from the sums in a row; they go to the last row."""
    last = sums.shape[0] - 1
    for p in range(len(boards)):
        for c in range(count):
            sums[last, p, c] = boards[p, OVERHEAD] + boards[p, FACTOR] * sums[row, p, c]
        for c in range(count if band > 1 else 0):
            if cells[BUSY, c] == 0:
                # Nothing to do: not even a segment's overhead.
                sums[last, p, c] = 0.0


@inner
def _price_edges(
    sums: Any, boards: Any, cells: Any, band: int, count: int, lists: Any, ints: Any, first: int, last: int
) -> None:
    """Adds what enters and leaves the parts."""
    row = sums.shape[0] - 1
    for c in range(count):
        if band == 1 or cells[BUSY, c] > 0:
            elements = _edge_elements(lists, ints, first, last, band, cells[FIRST, c], cells[SIZE, c])
            for p in range(len(boards)):
                sums[row, p, c] += boards[p, ELEMENT] * elements


@inner
def _write_table(
    seconds: Any, to: int, sums: Any, place: Any, height: int, low: int, high: int, one: int, other: int
) -> int:
    """Writes the seconds of a table in classes `one` and `other`; the cells' are `low` and `high`. Returns its size."""
    points, size, row, x = height + 1, _table_size(one, other, height), sums.shape[0] - 1, 0
    dense = other == 0 and one == height
    for i in range(one + 1):
        for j in range(other + 1):
            for k in range(points):
                a = _part(i, j, k, one, other, height)
                if a >= 0:
                    cell = place[(min(a, low) * (high + 1) + min(height - a - k, high)) * points + k]
                    for p in range(sums.shape[1]):
                        seconds[to + p * size + x] = sums[row, p, cell]
                    x += 1
                elif not dense:
                    for p in range(sums.shape[1]):
                        seconds[to + p * size + x] = np.nan
                    x += 1
    return size


@inner
def _write_short(seconds: Any, to: int, sums: Any, place: Any, first: int, short: int, boards: Any) -> int:
    """Writes the seconds of short parts of a summed phase, and a segment's overhead; returns how many.

    Where their cells are stands in `place` from `first` on.
    """
    size, row = short + 1, sums.shape[0] - 1
    for p in range(len(boards)):
        for x in range(size):
            seconds[to + p * size + x] = boards[p, OVERHEAD]
        for x in range(short if first < len(place) else 0):
            if place[first + x] >= 0:
                seconds[to + p * size + x] = sums[row, p, place[first + x]]
    return size


@inner
def _write_phase(lists: Any, sizes: Any, shift: Any, notes: Any, at: int, q: int, size: int) -> None:
    """Writes the row of a phase, without sums, whose seconds are written next."""
    row = sizes[L_PHASES]
    lists[row, 0], lists[row, 1] = notes[at, q, NEEDS] + shift[L_NEEDS], notes[at, q, NEEDS + 1]
    lists[row, 2], lists[row, 3] = notes[at, q, PARTIALS] + shift[L_PARTIALS], notes[at, q, PARTIALS + 1]
    lists[row, 4], lists[row, 5] = sizes[SECONDS], size
    lists[row, 6], lists[row, 7] = sizes[L_SUMS] + shift[L_SUMS], 0
    sizes[L_PHASES] = row + 1


@inner
def _write_sums(end: Any, at: int, q: int) -> None:
    """Writes what the summed phase that was written last consists of: rows and seconds of its operators and edges."""
    points, lists, row = end.height + 1, end.lists, end.sizes[L_SUMS]
    for place in range(end.place - 1, end.starts[at, PLACE] - 1, -1):
        operator_at = end.operators[place, SUM_AT]
        if not end.operators[place, COMPUTED] or operator_at < 0 or end.phase[at, place] != q:
            continue
        size = end.sizes[INTS]
        if end.operators[place, SPAN_AT] < 0:
            end.operators[place, SPAN_AT] = size
            for x in range(points):
                end.ints[size + x] = end.spans[0, place, x]
                end.ints[size + points + x] = end.spans[1, place, points + x]
            end.sizes[INTS] = size + 2 * points
        lists[row, 0], lists[row, 1] = end.operators[place, SPAN_AT], end.operators[place, SPAN_AT] + points
        lists[row, 2], lists[row, 3] = operator_at, end.operators[place, SUM_ROWS]
        row += 1
    first = end.notes[at, q, EDGES]
    for e in range(first, first + end.notes[at, q, EDGES + 1]):
        lists[row, 0], lists[row, 1] = lists[e, 3], lists[e, 4]
        lists[row, 2], lists[row, 3] = end.tensors[lists[e, 0], T_SUM_AT], end.tensors[lists[e, 0], T_SUM_ROWS]
        row += 1
    lists[end.sizes[L_PHASES] - 1, 7] = row - end.sizes[L_SUMS]
    end.sizes[L_SUMS] = row


@inner
def _write_seconds(end: Any, cells: Any, count: int, low: int, high: int, at: int, q: int) -> None:
    """Writes all that the seconds of a phase consist of, and its row."""
    sums, boards, height, band = cells.sums, cells.boards, end.height, end.starts[at, BAND]
    _price(sums, q + 1 if end.starts[at, N_PHASES] > 1 else 0, boards, cells.cells, band, count)
    if end.priced_edges:
        first = end.notes[at, q, EDGES]
        last = first + end.notes[at, q, EDGES + 1]
        _price_edges(sums, boards, cells.cells, band, count, end.lists, end.ints, first, last)
    to = end.sizes[SECONDS]
    if end.starts[at, TABLE]:
        one, other = end.starts[at, LOW], end.starts[at, HIGH]
        size = _write_table(cells.seconds, to, sums, cells.place, height, low, high, one, other)
    else:
        first = (low + 1) * (high + 1) * (height + 1) if band > 1 else len(cells.place)
        size = _write_short(cells.seconds, to, sums, cells.place, first, (height + 1) * band, boards)
    _write_phase(end.lists, end.sizes, end.shift, end.notes, at, q, size)
    end.sizes[SECONDS] = to + size * len(boards)
    if not end.starts[at, TABLE]:
        _write_sums(end, at, q)


def _compiled(stamp: str) -> Any:
    """The function below, in which `stamp` is a constant and so part of numba's key; see `latency.kernel.entry_points`."""

    @njit(cache=True, **OPTIONS)
    def write(end: Any, cells: Any, low: int, high: int, short: bool) -> None:
        """Writes the phases of the volumes of an end that `walk` has been through.

        Args:
            end: `walk.End`.
            cells: `Cells`.
            low: finest classes of starts that any volume with a table needs, -1 without one.
            high: the same of ends.
            short: whether short parts of any volume are summed.
        """
        len(stamp)
        count = _make(cells.cells, cells.place, end.height, end.band, low, high, short)
        _clear(cells.sums, 0, 1, count)
        at, reduces = len(end.starts) - 1, 0
        for place in range(end.place - 1, end.starts[0, PLACE] - 1, -1):
            if end.operators[place, KIND] == REDUCES:
                reduces = 1
            if end.operators[place, COMPUTED]:
                _count_rows(end.spans, cells.cells, count, place, end.band)
                _add(cells.cells, cells.sums, 0, cells.table_at, place, cells.by_rows, count)
            if end.starts[at, PLACE] != place:
                continue
            phases = end.starts[at, N_PHASES]
            if phases > 1:
                _clear(cells.sums, 1, 1 + phases, count)
                for other in range(place, end.place):
                    if end.operators[other, COMPUTED]:
                        q = 1 + end.phase[at, other]
                        _count_rows(end.spans, cells.cells, count, other, end.band)
                        _add(cells.cells, cells.sums, q, cells.table_at, other, cells.by_rows, count)
            end.starts[at, REDUCING], end.starts[at, FIRST_PHASE] = reduces, end.sizes[L_PHASES]
            for q in range(phases):
                _write_seconds(end, cells, count, low, high, at, q)
            at -= 1

    return write


write = _compiled(digest("latency.tables.backward_walk", "latency.tables.part_seconds"))
