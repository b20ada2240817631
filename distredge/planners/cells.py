"""Seconds of all parts of all volumes with one end, after `walk` has found what they compute and need, compiled.

A *cell* is a part whose operators' seconds are added up: one of each class of start, class of end and number of rows
(`latency.tables`), and short parts one by one where a volume is summed. Operators are gone through backwards once; at
every start what was added up so far is written down, in the classes of that start's volume. Volumes of several phases
are added up anew, since to which phase an operator belongs depends on the start.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.latency.tables import LARGEST
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
    PARTIALS,
    PLACE,
    REDUCES,
    SECONDS,
    SPAN_AT,
    SUM_AT,
    SUM_ROWS,
    T_SUM_AT,
    T_SUM_ROWS,
    Ints,
    inner,
)

CELL = 5
LO, HI, FIRST, SIZE, BUSY = range(CELL)
"""Rows of `Cells.cells`: columns that say where a part begins and ends; its first row and number of rows; whether it
has any rows of what was added up so far."""

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
        rows: (n_cells,) room for the rows of one operator.
        running, several: (1 or n_phases, n_profiles, n_cells) room for sums.
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
    rows: NDArray[np.int32]
    running: NDArray[np.float64]
    several: NDArray[np.float64]
    seconds: NDArray[np.float64]
    index: Ints
    numbers: int
    nothing_at: int


@inner
def is_table(end: Any, at: int) -> bool:
    """Whether a volume has a table, as `latency.tables` decides; otherwise it is summed."""
    points = end.height + 1
    if end.starts[at, BAND] > 1:
        return points * points <= LARGEST
    return end.height < 4 or min((end.starts[at, LOW] + 1) * (end.starts[at, HIGH] + 1), points) * points <= LARGEST


@inner
def _numbered(low: int, high: int, height: int) -> tuple[int, int]:
    """Classes as `latency.tables` numbers them: the edges' rows one by one, or every start by itself."""
    if height < 4 or (low + 1) * (high + 1) > height:
        return height, 0
    return low, high


@inner
def _classes_of(end: Any, at: int) -> tuple[int, int]:
    if end.starts[at, BAND] > 1:
        return end.height, 0
    return _numbered(end.starts[at, LOW], end.starts[at, HIGH], end.height)


@inner
def finest(end: Any) -> tuple[int, int, bool]:
    """The finest classes that any volume needs (-1: all are summed), and whether any has its short parts summed."""
    low, high, short = -1, -1, False
    for at in range(len(end.starts)):
        if is_table(end, at):
            one, other = _classes_of(end, at)
            low, high = max(low, one), max(high, other)
        elif end.starts[at, BAND] > 1:
            short = True
    if low >= 0:
        low, high = _numbered(low, high, end.height)
    return low, high, short


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
def _add(end: Any, cells: Any, count: int, place: int, total: Any, q: int) -> None:
    """Adds an operator's seconds to those of a phase."""
    for c in range(count):
        n = end.spans[1, place, cells.cells[HI, c]] - end.spans[0, place, cells.cells[LO, c]]
        cells.rows[c] = max(n, 0)
    if end.band > 1:
        for c in range(count):
            if cells.rows[c] > 0:
                cells.cells[BUSY, c] = 1
    if cells.table_at[0, place] >= 0:
        for p in range(total.shape[1]):
            at = cells.table_at[p, place]
            for c in range(count):
                total[q, p, c] += cells.by_rows[at + cells.rows[c]]


@inner
def _clear(total: Any, phases: int, count: int) -> None:
    for q in range(phases):
        for p in range(total.shape[1]):
            for c in range(count):
                total[q, p, c] = 0.0


@inner
def write(end: Any, cells: Any, low: int, high: int, short: bool) -> None:
    """Writes all volumes; the three last arguments are what `finest` returned."""
    count = _make(end, cells, low, high, short)
    _clear(cells.running, 1, count)
    at, reduces = len(end.starts) - 1, 0
    for place in range(end.place - 1, end.starts[0, PLACE] - 1, -1):
        if end.operators[place, KIND] == REDUCES:
            reduces = 1
        if end.operators[place, COMPUTED]:
            _add(end, cells, count, place, cells.running, 0)
        if end.starts[at, PLACE] != place:
            continue
        phases = end.starts[at, N_PHASES]
        if phases > 1:
            _clear(cells.several, phases, count)
            for other in range(place, end.place):
                if end.operators[other, COMPUTED]:
                    _add(end, cells, count, other, cells.several, end.phase[at, other])
        _write_volume(end, cells, at, reduces)
        for q in range(phases):
            if is_table(end, at):
                _write_table(end, cells, low, high, at, q, cells.several if phases > 1 else cells.running)
            else:
                _write_short(end, cells, low, high, at, q, cells.several if phases > 1 else cells.running)
                _write_sums(end, at, q)
        at -= 1


@inner
def _write_volume(end: Any, cells: Any, at: int, reduces: int) -> None:
    """Writes the row of a volume."""
    lists, v, phases = end.lists, end.sizes[L_VOLUMES], end.starts[at, N_PHASES]
    lists[v, 0], lists[v, 1], lists[v, 2], lists[v, 3] = end.height, end.starts[at, BAND], -1, -1
    lists[v, 4], lists[v, 5] = end.sizes[L_PHASES] + end.shift[L_PHASES], phases
    lists[v, 6], lists[v, 7] = cells.nothing_at, reduces
    if is_table(end, at):
        _write_classes(end, at, v)
    if phases > 1:
        lists[v, 6] = _write_made(end, cells.numbers, at)
    cells.index[end.starts[at, INDEX_ROW], end.cut] = v + end.shift[L_VOLUMES]
    end.sizes[L_VOLUMES] = v + 1


@inner
def _write_classes(end: Any, at: int, v: int) -> None:
    """Writes the two terms whose sum is the place of a part's seconds, or takes those of the volume before."""
    points, size, lists = end.height + 1, end.sizes[INTS], end.lists
    low, high = _classes_of(end, at)
    if at + 1 < len(end.starts) and is_table(end, at + 1):
        one, other = _classes_of(end, at + 1)
        if one == low and other == high:
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
def _edge_elements(end: Any, at: int, q: int, a: int, k: int) -> int:
    """Elements that enter and leave the part of k rows from row a on."""
    band, lists, ints, total = end.starts[at, BAND], end.lists, end.ints, 0
    first = end.notes[at, q, EDGES]
    for e in range(first, first + end.notes[at, q, EDGES + 1]):
        if k < band:
            size = ints[lists[e, 6] + a * band + k] - ints[lists[e, 5] + a * band + k]
        else:
            size = ints[lists[e, 4] + a + k] - ints[lists[e, 3] + a]
        total += max(size, 0) * lists[e, 1]
    return total


@inner
def _write_seconds(end: Any, cells: Any, at: int, q: int, total: Any, cell: int, to: int, size: int) -> None:
    """Writes the seconds of one cell on every profile (-1: no such part); a part without any rows takes none."""
    works = cell >= 0 and (end.starts[at, BAND] == 1 or cells.cells[BUSY, cell] != 0)
    elements = 0
    if end.priced_edges and works:
        elements = _edge_elements(end, at, q, cells.cells[FIRST, cell], cells.cells[SIZE, cell])
    for p in range(len(cells.boards)):
        found = np.nan if cell < 0 else 0.0
        if works:
            found = cells.boards[p, OVERHEAD] + cells.boards[p, FACTOR] * total[q, p, cell]
            found += cells.boards[p, ELEMENT] * elements
        cells.seconds[to + p * size] = found


@inner
def _write_table(end: Any, cells: Any, low: int, high: int, at: int, q: int, total: Any) -> None:
    """Writes the seconds of all cells of a phase."""
    height, points, to = end.height, end.height + 1, end.sizes[SECONDS]
    one, other = _classes_of(end, at)
    size, x = _table_size(one, other, height), 0
    dense = other == 0 and one == height
    for i in range(one + 1):
        for j in range(other + 1):
            for k in range(points):
                a, cell = _part(i, j, k, one, other, height), -1
                if a >= 0:
                    cell = cells.place[(min(a, low) * (high + 1) + min(height - a - k, high)) * points + k]
                elif dense:
                    continue
                _write_seconds(end, cells, at, q, total, cell, to + x, size)
                x += 1
    _write_phase(end, at, q, to, size)
    end.sizes[SECONDS] = to + size * len(cells.boards)


@inner
def _write_short(end: Any, cells: Any, low: int, high: int, at: int, q: int, total: Any) -> None:
    """Writes the seconds of short parts of a summed phase, and a segment's overhead."""
    band, to = end.starts[at, BAND], end.sizes[SECONDS]
    size = (end.height + 1) * band + 1
    for x in range(size):
        cell = cells.place[(low + 1) * (high + 1) * (end.height + 1) + x] if band > 1 and x + 1 < size else -1
        if cell >= 0:
            _write_seconds(end, cells, at, q, total, cell, to + x, size)
        else:
            for p in range(len(cells.boards)):
                cells.seconds[to + p * size + x] = cells.boards[p, OVERHEAD]
    _write_phase(end, at, q, to, size)
    end.sizes[SECONDS] = to + size * len(cells.boards)


@inner
def _write_phase(end: Any, at: int, q: int, seconds_at: int, size: int) -> None:
    """Writes the row of a phase, without sums."""
    lists, row = end.lists, end.sizes[L_PHASES]
    lists[row, 0], lists[row, 1] = end.notes[at, q, NEEDS] + end.shift[L_NEEDS], end.notes[at, q, NEEDS + 1]
    lists[row, 2], lists[row, 3] = end.notes[at, q, PARTIALS] + end.shift[L_PARTIALS], end.notes[at, q, PARTIALS + 1]
    lists[row, 4], lists[row, 5] = seconds_at, size
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
