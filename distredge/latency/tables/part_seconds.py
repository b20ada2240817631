"""Seconds of all parts of all volumes with one end, once `backward_walk` knows what they compute and need; compiled.

A *cell* is a part whose operators' seconds are added up: one of each class of start, class of end and number of rows
(`volume_tables`), and short parts one by one where a volume is summed. Operators are gone through backwards once; at
every start what was added up so far is written down, in the classes of that start's volume. Volumes of several phases
are added up anew, since to which phase an operator belongs depends on the start.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.latency.compiling import digest, inner, uncounted_entry
from distredge.latency.tables.backward_walk import (
    KIND_REDUCES,
    NOTE_EDGES,
    NOTE_NEEDS,
    NOTE_PARTIALS,
    OP_COMPUTED,
    OP_KIND,
    OP_SPAN_AT,
    OP_SUM_AT,
    OP_SUM_STRIDE,
    SIZE_INTS,
    SIZE_NEEDS,
    SIZE_PARTIALS,
    SIZE_PHASES,
    SIZE_SECONDS,
    SIZE_SUMS,
    START_BAND,
    START_FIRST_PHASE,
    START_HIGH,
    START_LOW,
    START_PHASES,
    START_PLACE,
    START_REDUCING,
    START_TABLE,
    TENSOR_SUM_AT,
    TENSOR_SUM_STRIDE,
    Ints,
)

FILES = ("latency.tables.backward_walk", "latency.tables.part_seconds")
"""Modules that `write` is compiled from."""

Floats = NDArray[np.float64]

CELL_LINES = 7
CELL_LO, CELL_HI, CELL_FIRST, CELL_SIZE, CELL_BUSY, CELL_ROWS, CELL_EDGES = range(CELL_LINES)
"""Lines of `Cells.cells`: columns that say where a part begins and ends; its first row and number of rows; whether it
has any rows of what was added up so far; its rows of the operator at hand; elements that enter and leave it in the
phase at hand."""

BOARD_OVERHEAD, BOARD_FACTOR, BOARD_ELEMENT = range(3)
"""Columns of `Cells.boards`, as in `profiles.part_costs.PartTerms`."""


class Cells(NamedTuple):
    """The parts whose seconds are added up, and their seconds.

    Attributes:
        boards: (n_profiles, 3).
        table_at: (n_profiles, n_ops) offset of an operator's seconds by rows in `by_rows`, or -1.
        by_rows: all tables of seconds by rows, one after the other.
        place: cell of each class of start, class of end and number of rows, or -1; then of each short part, by a and
            number of rows.
        cells: (CELL_LINES, n_cells).
        sums: (2 + n_phases, n_profiles, n_cells) room for sums: of all operators so far; of those of each phase; and
            for the seconds of the phase at hand.
        seconds: of the tables.
    """

    boards: Floats
    table_at: Ints
    by_rows: Floats
    place: Ints
    cells: Ints
    sums: Floats
    seconds: Floats


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
            cells[CELL_LO, count], cells[CELL_HI, count] = a, points + a + k
            if k < band:
                cells[CELL_LO, count] = cells[CELL_HI, count] = 2 * points + a * band + k
            cells[CELL_FIRST, count], cells[CELL_SIZE, count], cells[CELL_BUSY, count] = a, k, 0
            count += 1
    return count


@inner
def _count_rows(spans: Any, cells: Any, count: int, place: int, band: int) -> None:
    """Notes how many rows each cell has of an operator."""
    for c in range(count):
        n = spans[1, place, cells[CELL_HI, c]] - spans[0, place, cells[CELL_LO, c]]
        cells[CELL_ROWS, c] = max(n, 0)
    if band > 1:
        for c in range(count):
            cells[CELL_BUSY, c] = max(cells[CELL_BUSY, c], cells[CELL_ROWS, c])


@inner
def _add(cells: Any, sums: Any, q: int, table_at: Any, place: int, by_rows: Any, count: int) -> None:
    """Adds the seconds of the rows that were noted to sums."""
    for p in range(sums.shape[1]):
        at = table_at[p, place]
        for c in range(count if at >= 0 else 0):
            sums[q, p, c] += by_rows[at + cells[CELL_ROWS, c]]


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
def part_s(overhead_s: float, factor: float, element_s: float, operators_s: float, elements: int) -> float:
    """`profiles.part_costs.part_seconds`, compiled: the seconds of a part that computes something."""
    return overhead_s + factor * operators_s + element_s * elements


@inner
def _price(sums: Any, row: int, boards: Any, cells: Any, band: int, count: int, priced_edges: bool) -> None:
    """Seconds of the cells on every board, from the sums in a row and the cells' edges; they go to the last row."""
    last = sums.shape[0] - 1
    for p in range(len(boards)):
        overhead_s, factor, element_s = boards[p, BOARD_OVERHEAD], boards[p, BOARD_FACTOR], boards[p, BOARD_ELEMENT]
        for c in range(count if priced_edges else 0):
            sums[last, p, c] = part_s(overhead_s, factor, element_s, sums[row, p, c], cells[CELL_EDGES, c])
        for c in range(0 if priced_edges else count):
            sums[last, p, c] = part_s(overhead_s, factor, element_s, sums[row, p, c], 0)
        for c in range(count if band > 1 else 0):
            if cells[CELL_BUSY, c] == 0:
                # Nothing to do: not even a segment's overhead.
                sums[last, p, c] = 0.0


@inner
def _count_edges(cells: Any, band: int, count: int, lists: Any, ints: Any, first: int, last: int) -> None:
    """Notes how many elements enter and leave each cell by the edges in rows [first, last) of the lists."""
    for c in range(count):
        cells[CELL_EDGES, c] = _edge_elements(lists, ints, first, last, band, cells[CELL_FIRST, c], cells[CELL_SIZE, c])


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
            seconds[to + p * size + x] = boards[p, BOARD_OVERHEAD]
        for x in range(short if first < len(place) else 0):
            if place[first + x] >= 0:
                seconds[to + p * size + x] = sums[row, p, place[first + x]]
    return size


@inner
def _write_phase(lists: Any, sizes: Any, shift: Any, notes: Any, at: int, q: int, size: int) -> None:
    """Writes the row of a phase, without sums, whose seconds are written next."""
    row = sizes[SIZE_PHASES]
    lists[row, 0], lists[row, 1] = notes[at, q, NOTE_NEEDS] + shift[SIZE_NEEDS], notes[at, q, NOTE_NEEDS + 1]
    lists[row, 2], lists[row, 3] = notes[at, q, NOTE_PARTIALS] + shift[SIZE_PARTIALS], notes[at, q, NOTE_PARTIALS + 1]
    lists[row, 4], lists[row, 5] = sizes[SIZE_SECONDS], size
    lists[row, 6], lists[row, 7] = sizes[SIZE_SUMS] + shift[SIZE_SUMS], 0
    sizes[SIZE_PHASES] = row + 1


@inner
def _write_sums(end: Any, at: int, q: int) -> None:
    """Writes what the summed phase that was written last consists of: rows and seconds of its operators and edges."""
    points, lists, row = end.height + 1, end.lists, end.sizes[SIZE_SUMS]
    for place in range(end.place - 1, end.starts[at, START_PLACE] - 1, -1):
        operator_at = end.operators[place, OP_SUM_AT]
        if not end.operators[place, OP_COMPUTED] or operator_at < 0 or end.phase[at, place] != q:
            continue
        size = end.sizes[SIZE_INTS]
        if end.operators[place, OP_SPAN_AT] < 0:
            end.operators[place, OP_SPAN_AT] = size
            for x in range(points):
                end.ints[size + x] = end.spans[0, place, x]
                end.ints[size + points + x] = end.spans[1, place, points + x]
            end.sizes[SIZE_INTS] = size + 2 * points
        lists[row, 0], lists[row, 1] = end.operators[place, OP_SPAN_AT], end.operators[place, OP_SPAN_AT] + points
        lists[row, 2], lists[row, 3] = operator_at, end.operators[place, OP_SUM_STRIDE]
        row += 1
    first = end.notes[at, q, NOTE_EDGES]
    for e in range(first, first + end.notes[at, q, NOTE_EDGES + 1]):
        lists[row, 0], lists[row, 1] = lists[e, 3], lists[e, 4]
        lists[row, 2], lists[row, 3] = (
            end.tensors[lists[e, 0], TENSOR_SUM_AT],
            end.tensors[lists[e, 0], TENSOR_SUM_STRIDE],
        )
        row += 1
    lists[end.sizes[SIZE_PHASES] - 1, 7] = row - end.sizes[SIZE_SUMS]
    end.sizes[SIZE_SUMS] = row


@inner
def _write_seconds(end: Any, cells: Any, count: int, low: int, high: int, at: int, q: int) -> None:
    """Writes all that the seconds of a phase consist of, and its row."""
    sums, boards, height, band = cells.sums, cells.boards, end.height, end.starts[at, START_BAND]
    if end.priced_edges:
        first = end.notes[at, q, NOTE_EDGES]
        _count_edges(cells.cells, band, count, end.lists, end.ints, first, first + end.notes[at, q, NOTE_EDGES + 1])
    _price(sums, q + 1 if end.starts[at, START_PHASES] > 1 else 0, boards, cells.cells, band, count, end.priced_edges)
    to = end.sizes[SIZE_SECONDS]
    if end.starts[at, START_TABLE]:
        one, other = end.starts[at, START_LOW], end.starts[at, START_HIGH]
        size = _write_table(cells.seconds, to, sums, cells.place, height, low, high, one, other)
    else:
        first = (low + 1) * (high + 1) * (height + 1) if band > 1 else len(cells.place)
        size = _write_short(cells.seconds, to, sums, cells.place, first, (height + 1) * band, boards)
    _write_phase(end.lists, end.sizes, end.shift, end.notes, at, q, size)
    end.sizes[SIZE_SECONDS] = to + size * len(boards)
    if not end.starts[at, START_TABLE]:
        _write_sums(end, at, q)


def _compiled(stamp: str) -> Any:
    """The function below, in which `stamp` is a constant and so part of numba's key; see `latency.compiling`."""

    @uncounted_entry
    def write(end: Any, cells: Any, low: int, high: int, short: bool) -> None:
        """Writes the phases of the volumes of an end that `backward_walk.walk` has been through.

        Args:
            end: `backward_walk.End`.
            cells: `Cells`.
            low: finest classes of starts that any volume with a table needs, -1 without one.
            high: the same of ends.
            short: whether short parts of any volume are summed.
        """
        len(stamp)
        count = _make(cells.cells, cells.place, end.height, end.band, low, high, short)
        _clear(cells.sums, 0, 1, count)
        at, reduces = len(end.starts) - 1, 0
        for place in range(end.place - 1, end.starts[0, START_PLACE] - 1, -1):
            if end.operators[place, OP_KIND] == KIND_REDUCES:
                reduces = 1
            if end.operators[place, OP_COMPUTED]:
                _count_rows(end.spans, cells.cells, count, place, end.band)
                _add(cells.cells, cells.sums, 0, cells.table_at, place, cells.by_rows, count)
            if end.starts[at, START_PLACE] != place:
                continue
            phases = end.starts[at, START_PHASES]
            if phases > 1:
                _clear(cells.sums, 1, 1 + phases, count)
                # Backwards as well, so that sums are those of `volume_tables` to the last digit.
                for other in range(end.place - 1, place - 1, -1):
                    if end.operators[other, OP_COMPUTED]:
                        q = 1 + end.phase[at, other]
                        _count_rows(end.spans, cells.cells, count, other, end.band)
                        _add(cells.cells, cells.sums, q, cells.table_at, other, cells.by_rows, count)
            end.starts[at, START_REDUCING], end.starts[at, START_FIRST_PHASE] = reduces, end.sizes[SIZE_PHASES]
            for q in range(phases):
                _write_seconds(end, cells, count, low, high, at, q)
            at -= 1

    return write


write = _compiled(digest(*FILES))
