"""Seconds of all parts of all volumes with one end, after `walk` has found what they compute and need, compiled.

A *cell* is a part whose operators' seconds are added up: one of each class of start, class of end and number of rows
(`latency.tables`), and short parts one by one where a volume is summed. Operators are gone through backwards once; at
every start what was added up so far is written down, in the classes of that start's volume. Volumes of several phases
are added up anew, since to which phase an operator belongs depends on the start.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distredge.planners.walk import (
    BAND,
    COMPUTED,
    EDGES,
    HIGH,
    INDEX_ROW,
    INTS,
    KIND,
    L_NEEDS,
    L_PARTIALS,
    L_PHASES,
    L_SUMS,
    L_VOLUMES,
    LOW,
    MAKER,
    N_PHASES,
    NEEDS,
    NUMBER,
    OPTIONS,
    PARTIALS,
    PLACE,
    REDUCES,
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
        index: of the tables, filled in.
        numbers: how many tensors have a number in the tables.
        nothing_at: as many zeros in the tables' integers: all are made in the first phase.
    """

    boards: NDArray[np.float64]
    table_at: Ints
    by_rows: NDArray[np.float64]
    place: Ints
    cells: Ints
    sums: NDArray[np.float64]
    seconds: NDArray[np.float64]
    index: Ints
    numbers: int
    nothing_at: int


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
def _add_cell(end: Any, cells: Any, count: int, a: int, k: int) -> int:
    points = end.height + 1
    lo, hi = a, points + a + k
    if k < end.band:
        lo = hi = 2 * points + a * end.band + k
    cells.cells[LO, count], cells.cells[HI, count] = lo, hi
    cells.cells[FIRST, count], cells.cells[SIZE, count] = a, k
    cells.cells[BUSY, count] = 0
    return count + 1


@inner
def _make(end: Any, cells: Any, low: int, high: int, short: bool) -> int:
    """Makes the cells of one end; returns how many."""
    height, points, count, x = end.height, end.height + 1, 0, 0
    for i in range(low + 1):
        for j in range(high + 1):
            for k in range(points):
                a = _part(i, j, k, low, high, height)
                cells.place[x] = -1
                if a >= 0:
                    cells.place[x] = count
                    count = _add_cell(end, cells, count, a, k)
                x += 1
    for y in range(points * end.band if short else 0):
        a, k = y // end.band, y % end.band
        cells.place[x + y] = -1
        if k > 0 and a + k <= height:
            cells.place[x + y] = count
            count = _add_cell(end, cells, count, a, k)
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
        for c in range(count):
            sums[q, p, c] += by_rows[at + cells[ROWS, c]]


@inner
def _add_operator(end: Any, cells: Any, count: int, place: int, q: int) -> None:
    """Adds an operator's seconds to sums."""
    if end.operators[place, COMPUTED]:
        _count_rows(end.spans, cells.cells, count, place, end.band)
        if cells.table_at[0, place] >= 0:
            _add(cells.cells, cells.sums, q, cells.table_at, place, cells.by_rows, count)


@inner
def _clear(sums: Any, first: int, last: int, count: int) -> None:
    for q in range(first, last):
        for p in range(sums.shape[1]):
            for c in range(count):
                sums[q, p, c] = 0.0


@inner
def _write_volume(end: Any, cells: Any, at: int, reduces: int) -> None:
    """Writes the row of a volume."""
    lists, v, phases = end.lists, end.sizes[L_VOLUMES], end.starts[at, N_PHASES]
    lists[v, 0], lists[v, 1], lists[v, 2], lists[v, 3] = end.height, end.starts[at, BAND], -1, -1
    lists[v, 4], lists[v, 5] = end.sizes[L_PHASES] + end.shift[L_PHASES], phases
    lists[v, 6], lists[v, 7] = cells.nothing_at, reduces
    if end.starts[at, TABLE]:
        _write_classes(end, at, v)
    if phases > 1:
        lists[v, 6] = _write_made(end, cells.numbers, at)
    cells.index[end.starts[at, INDEX_ROW], end.cut] = v + end.shift[L_VOLUMES]
    end.sizes[L_VOLUMES] = v + 1


@inner
def _write_classes(end: Any, at: int, v: int) -> None:
    """Writes the two terms whose sum is the place of a part's seconds, or takes those of the volume before."""
    points, size, lists = end.height + 1, end.sizes[INTS], end.lists
    low, high = end.starts[at, LOW], end.starts[at, HIGH]
    after = min(at + 1, len(end.starts) - 1)
    same = end.starts[after, LOW] == low and end.starts[after, HIGH] == high
    if after > at and same and end.starts[after, TABLE]:
        lists[v, 2], lists[v, 3] = lists[v - 1, 2], lists[v - 1, 3]
        return
    for x in range(points):
        if high == 0 and low == end.height:
            # Every part by itself: those that begin at row x, by their ends, behind those that begin before.
            end.ints[size + x] = x * end.height - x * (x - 1) // 2 - x - 1
            end.ints[size + points + x] = x
        else:
            end.ints[size + x] = min(x, low) * (high + 1) * points - x
            end.ints[size + points + x] = min(end.height - x, high) * points + x
    lists[v, 2], lists[v, 3] = size, size + points
    end.sizes[INTS] = size + 2 * points


@inner
def _write_made(end: Any, numbers: int, at: int) -> int:
    """Writes the phase in which each tensor is made that leaves the volume, or partial result that the head reads."""
    size = end.sizes[INTS]
    for x in range(numbers):
        end.ints[size + x] = 0
    for t in range(len(end.tensors)):
        maker, number = end.tensors[t, MAKER], end.tensors[t, NUMBER]
        if number >= 0 and end.starts[at, PLACE] <= maker < end.place:
            end.ints[size + number] = end.phase[at, maker]
    end.sizes[INTS] = size + numbers
    return size


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
def _write_phase(end: Any, at: int, q: int, size: int) -> None:
    """Writes the row of a phase, without sums, whose seconds are written next."""
    lists, row = end.lists, end.sizes[L_PHASES]
    lists[row, 0], lists[row, 1] = end.notes[at, q, NEEDS] + end.shift[L_NEEDS], end.notes[at, q, NEEDS + 1]
    lists[row, 2], lists[row, 3] = end.notes[at, q, PARTIALS] + end.shift[L_PARTIALS], end.notes[at, q, PARTIALS + 1]
    lists[row, 4], lists[row, 5] = end.sizes[SECONDS], size
    lists[row, 6], lists[row, 7] = end.sizes[L_SUMS] + end.shift[L_SUMS], 0
    end.sizes[L_PHASES] = row + 1


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
    _write_phase(end, at, q, size)
    end.sizes[SECONDS] = to + size * len(boards)
    if not end.starts[at, TABLE]:
        _write_sums(end, at, q)


def _compiled(stamp: str) -> Any:
    """The function below, in which `stamp` is a constant and so part of numba's key; see `latency.kernel_entry`."""

    @njit(cache=True, **OPTIONS)
    def write(end: Any, cells: Any, low: int, high: int, short: bool) -> None:
        """Writes the volumes of an end that `walk` has been through.

        Args:
            end: `walk.End`.
            cells: `Cells`.
            low: finest classes of starts that any volume with a table needs, -1 without one.
            high: the same of ends.
            short: whether short parts of any volume are summed.
        """
        len(stamp)
        count = _make(end, cells, low, high, short)
        _clear(cells.sums, 0, 1, count)
        at, reduces = len(end.starts) - 1, 0
        for place in range(end.place - 1, end.starts[0, PLACE] - 1, -1):
            if end.operators[place, KIND] == REDUCES:
                reduces = 1
            _add_operator(end, cells, count, place, 0)
            if end.starts[at, PLACE] != place:
                continue
            phases = end.starts[at, N_PHASES]
            if phases > 1:
                _clear(cells.sums, 1, 1 + phases, count)
                for other in range(place, end.place):
                    _add_operator(end, cells, count, other, 1 + end.phase[at, other])
            _write_volume(end, cells, at, reduces)
            for q in range(phases):
                _write_seconds(end, cells, count, low, high, at, q)
            at -= 1

    return write


def _digest() -> str:
    found = hashlib.sha256()
    for name in ("cells", "walk"):
        found.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return found.hexdigest()


write = _compiled(_digest())
