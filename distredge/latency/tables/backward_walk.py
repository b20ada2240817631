"""The backward walk of `model.volumes.BackwardWalk`, compiled: one walk serves every volume with the same end.

A test holds the two equal. `all_volumes` says what for, `part_seconds` goes on from here. What parts of the volumes
compute and need is noted for some parts only, the *columns* of `End.spans`: those of rows [a, height) for every a,
which say where everything begins; those of rows [0, b) for every b, which say where it ends; and, where tensors of
different heights are alive, every part of fewer rows than `band` (by a and number of rows), which may be empty inside.
Empty is [FAR, -FAR), so that hulls are minima and maxima.

Everything is in few arrays of many columns, and nothing is allocated or counted here: numba's compiling time grows with
the number of arrays that a function gets, and with all that it allocates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distredge.latency.compiling import digest, inner, uncounted_entry

FILES = ("latency.tables.backward_walk",)
"""Modules that the walk is compiled from."""

KIND_NORMAL, KIND_REDUCES, KIND_STOPS = range(3)
"""What the walk does with an operator: takes its rows' needs; deals out the rows of its input; gives up."""

FAR = 1 << 30

ENTRY_NEEDED, ENTRY_CARRIED, ENTRY_KEPT = range(3)
"""Rows that cross the edge of a phase: from outside the volume, from an earlier phase, for outside or a later phase."""

OP_COLUMNS = 8
OP_KIND, OP_IN_AT, OP_OUT_AT, OP_PARTIAL_BYTES, OP_SUM_AT, OP_SUM_STRIDE, OP_COMPUTED, OP_SPAN_AT = range(OP_COLUMNS)
"""Columns of `End.operators`: what to do; where inputs and outputs start; bytes of a partial result; where its seconds
by rows stand for sums, and how far it is to the next profile (-1: costs nothing). Then the state of a walk: whether
anything is computed; where its rows stand for sums, or -1."""

TENSOR_COLUMNS = 19
(
    TENSOR_HEIGHT, TENSOR_MAKER, TENSOR_LAST_USE, TENSOR_NUMBER, TENSOR_ROW_ELEMENTS, TENSOR_SUM_AT, TENSOR_SUM_STRIDE,
    TENSOR_READS, TENSOR_SEEN, TENSOR_NEED_KEY, TENSOR_NEED_AT, _, _, _, TENSOR_OWN_KEY, TENSOR_OWN_AT, _, _, _,
) = range(TENSOR_COLUMNS)  # fmt: skip
"""Columns of `End.tensors`: rows; place of the operator that makes it (-1: before the body) and of the last that reads
it (-1: nobody outside a volume does); number in the tables, or -1; elements of a row; seconds of its rows at an edge,
as for operators. Then the state of a walk: how often it is read; the tensors read, in order; for how many reads and
which band its vector of needs holds, and the vector; the same for the rows owned.

A vector says where rows stand in `End.ints`: first rows by a, last rows by b, and those of short parts."""

START_COLUMNS = 9
(
    START_PLACE,
    START_INDEX_ROW,
    START_BAND,
    START_PHASES,
    START_LOW,
    START_HIGH,
    START_TABLE,
    START_REDUCING,
    START_FIRST_PHASE,
) = range(START_COLUMNS)
"""Columns of `End.starts`: number of operators before it; row of `Tables.index`; from how many rows on no part is empty
inside; number of phases; how many rows at either edge are unlike the others, which the walk fills in; whether the
volume has a table, whose classes START_LOW and START_HIGH then are. `part_seconds` fills in whether anything in it
reduces rows, and the row of its first phase in `End.lists`."""

NOTE_COLUMNS = 6
NOTE_NEEDS, NOTE_PARTIALS, NOTE_EDGES = 0, 2, 4
"""Columns of `End.notes`: first row and number of rows of each kind in `End.lists`."""

LIST_COLUMNS = 8
SIZE_NEEDS, SIZE_PARTIALS, SIZE_EDGES, SIZE_PHASES, SIZE_SUMS, SIZE_INTS, SIZE_SECONDS = range(7)
"""Entries of `End.sizes`: the next free row of `lists` for each kind, and how far `ints` and the seconds are filled."""

Ints = NDArray[np.int64]


class End(NamedTuple):
    """The volumes with one end.

    Attributes:
        operators: (n_ops + 1, OP_COLUMNS); the last row ends the inputs and outputs.
        tensors: (n_tensors, TENSOR_COLUMNS).
        inputs: (n_inputs, 2) tensor, and offset of its rows in `reach`.
        outputs: (n_outputs,) tensor.
        reach: (2, n) first input row, and end of the input rows, of each output row of each input.
        starts: (n_starts, START_COLUMNS), by rising place; the walk ends at the first.
        phase: (n_starts, n_ops) phase of each operator.
        notes: (n_starts, n_phases, NOTE_COLUMNS), filled in.
        spans: (2, n_ops + n_tensors + n_entries + 1, n_columns) room for first rows, and ends of the rows, of what is
            computed of each operator, read of each tensor, and crosses the edge of a phase; then the parts themselves.
        entries: (n_entries, 5) room for kind, phase and tensor of what crosses; phase and reduction of partial results.
        lists: (n, LIST_COLUMNS) rows of the tables, as in `latency.tables.volume_tables`, each kind in a stretch of its
            own; edges are tensor, elements of a row, phase, vector.
        sizes: (7,) how far everything is filled.
        shift: (5,) what added to a row of `lists` is its row in the tables.
        ints: of the tables.
        place, height: number of operators before the end, rows of its reference.
        band: the largest of the starts'.
        columns: number of parts.
        priced_edges: whether what enters or leaves a part costs.
    """

    operators: Ints
    tensors: Ints
    inputs: Ints
    outputs: Ints
    reach: NDArray[np.int32]
    starts: Ints
    phase: Ints
    notes: Ints
    spans: NDArray[np.int32]
    entries: Ints
    lists: Ints
    sizes: Ints
    shift: Ints
    ints: NDArray[np.int32]
    place: int
    height: int
    band: int
    columns: int
    priced_edges: bool


def _compiled(stamp: str) -> tuple[Any, Any]:
    """The functions below, in which `stamp` is a constant and so part of numba's key; see `latency.compiling`."""

    @uncounted_entry
    def walk(end: Any) -> None:
        """Fills in the rows of operators in `spans`, needs, partial results and edges of every start, and its notes."""
        len(stamp)
        low, high, met, at = 0, 0, 0, len(end.starts) - 1
        rows = end.ints.reshape((1, 1, len(end.ints)))
        for t in range(len(end.tensors)):
            end.tensors[t, TENSOR_READS] = end.tensors[t, TENSOR_NEED_KEY] = end.tensors[t, TENSOR_OWN_KEY] = 0
        for place in range(end.place - 1, end.starts[0, START_PLACE] - 1, -1):
            end.operators[place, OP_SPAN_AT] = -1
            end.operators[place, OP_COMPUTED] = _compute(end, place)
            if end.operators[place, OP_COMPUTED]:
                low, high = _uneven(end.spans, 0, place, 0, 1, place, end.height + 1, end.height, low, high)
                met = _read(end, place, met)
            if end.starts[at, START_PLACE] == place:
                if end.starts[at, START_PHASES] == 1:
                    _note_needs(end, at, met)
                else:
                    count, pairs = _find_edges(end, at)
                    _note_phases(end, at, count, pairs)
                _note_edges(end.starts, end.notes, end.lists, rows, at, end.height, low, high)
                at -= 1

    @uncounted_entry
    def find_phases(operators: Any, tensors: Any, inputs: Any, starts: Any, found: Any) -> None:
        """Fills in the phase of every operator in the volumes from each start on, (n_starts, n_ops)."""
        len(stamp)
        for at in range(found.shape[0]):
            start = starts[at, START_PLACE]
            for place in range(start, found.shape[1]):
                found[at, place] = 0
                for x in range(operators[place, OP_IN_AT], operators[place + 1, OP_IN_AT]):
                    maker = tensors[inputs[x, 0], TENSOR_MAKER]
                    if maker >= start:
                        ready = found[at, maker] + (1 if operators[maker, OP_KIND] == KIND_REDUCES else 0)
                        found[at, place] = max(found[at, place], ready)

    return walk, find_phases


walk, find_phases = _compiled(digest(*FILES))


@inner
def _reset(spans: Any, row: int, columns: int) -> None:
    """Empties a row of `spans`."""
    for c in range(columns):
        spans[0, row, c], spans[1, row, c] = FAR, -FAR


@inner
def _hull(spans: Any, row: int, other: int, columns: int) -> None:
    """Widens a row of `spans` by another one."""
    for c in range(columns):
        spans[0, row, c] = min(spans[0, row, c], spans[0, other, c])
        spans[1, row, c] = max(spans[1, row, c], spans[1, other, c])


@inner
def _share(spans: Any, row: int, columns: int, height: int, reference: int) -> None:
    """Widens a row of `spans` by what parts own of a tensor of some height; they stand in the last row."""
    parts = spans.shape[1] - 1
    if height == reference:
        _hull(spans, row, parts, columns)
        return
    for c in range(columns):
        start, stop = spans[0, parts, c] * height // reference, spans[1, parts, c] * height // reference
        if start < stop:
            spans[0, row, c], spans[1, row, c] = min(start, spans[0, row, c]), max(stop, spans[1, row, c])


@inner
def _widen(spans: Any, row: int, columns: int, place: int, reach: Any, at: int) -> None:
    """Widens a row of `spans` by what the rows of an operator need of an input, which `reach` says from `at` on."""
    for c in range(columns):
        start, stop = spans[0, place, c], spans[1, place, c]
        if start < stop:
            spans[0, row, c] = min(spans[0, row, c], reach[0, at + start])
            spans[1, row, c] = max(spans[1, row, c], reach[1, at + stop - 1])


@inner
def _compute(end: Any, place: int) -> int:
    """Notes which rows every part computes of an operator; 1 if any."""
    operators, columns, found = end.operators, end.columns, 0
    _reset(end.spans, place, columns)
    if operators[place, OP_KIND] == KIND_REDUCES:
        height = end.tensors[end.inputs[operators[place, OP_IN_AT], 0], TENSOR_HEIGHT]
        _share(end.spans, place, columns, height, end.height)
        return 1
    for x in range(operators[place, OP_OUT_AT], operators[place + 1, OP_OUT_AT]):
        t = end.outputs[x]
        if end.tensors[t, TENSOR_READS] > 0:
            _hull(end.spans, place, len(operators) - 1 + t, columns)
            found = 1
        if end.tensors[t, TENSOR_LAST_USE] >= end.place:
            _share(end.spans, place, columns, end.tensors[t, TENSOR_HEIGHT], end.height)
            found = 1
    return found


@inner
def _read(end: Any, place: int, met: int) -> int:
    """Notes which rows every part needs of an operator's inputs; returns how many tensors have been read."""
    for x in range(end.operators[place, OP_IN_AT], end.operators[place + 1, OP_IN_AT]):
        t = end.inputs[x, 0]
        maker = end.tensors[t, TENSOR_MAKER]
        if maker >= 0 and end.operators[maker, OP_KIND] == KIND_REDUCES:
            # Completed from partial results wherever it is read.
            continue
        row = len(end.operators) - 1 + t
        if end.tensors[t, TENSOR_READS] == 0:
            _reset(end.spans, row, end.columns)
            end.tensors[met, TENSOR_SEEN] = t
            met += 1
        _widen(end.spans, row, end.columns, place, end.reach, end.inputs[x, 1])
        end.tensors[t, TENSOR_READS] += 1
    return met


@inner
def _uneven(
    rows: Any, i: int, x: int, start_at: int, j: int, y: int, stop_at: int, height: int, low: int, high: int
) -> tuple[int, int]:  # fmt: skip
    """Widens the edges beyond which the number of rows depends on the size of a part alone.

    First rows by a are in rows[i, x, start_at:], last rows by b in rows[j, y, stop_at:].
    """
    if height < 4:
        return low, high
    middle = start_at + (height - 1) // 2
    steady = rows[i, x, middle + 1] - rows[i, x, middle]
    for r in range(height - 2, low - 1, -1):
        if rows[i, x, start_at + r + 1] - rows[i, x, start_at + r] != steady:
            low = r + 1
            break
    for r in range(height - 1 - high):
        if rows[j, y, stop_at + r + 2] - rows[j, y, stop_at + r + 1] != steady:
            high = height - 1 - r
            break
    return low, high


@inner
def _note_edges(starts: Any, notes: Any, lists: Any, rows: Any, at: int, height: int, low: int, high: int) -> None:
    """Notes how many rows are unlike the others, what enters and leaves included."""
    for q in range(starts[at, START_PHASES]):
        for e in range(notes[at, q, NOTE_EDGES], notes[at, q, NOTE_EDGES] + notes[at, q, NOTE_EDGES + 1]):
            low, high = _uneven(rows, 0, 0, lists[e, 3], 0, 0, lists[e, 4], height, low, high)
    starts[at, START_LOW], starts[at, START_HIGH] = low, high


@inner
def _write(
    ints: Any, sizes: Any, spans: Any, row: int, points: int, band: int, vector: Any, t: int, column: int
) -> None:
    """Copies a row of `spans` to `ints`, and notes where it is in the vector from a column on."""
    at = sizes[SIZE_INTS]
    vector[t, column], vector[t, column + 1] = at, at + points
    vector[t, column + 2] = vector[t, column + 3] = 0
    for c in range(points):
        ints[at + c] = spans[0, row, c]
        ints[at + points + c] = spans[1, row, points + c]
    at += 2 * points
    if band > 1:
        size = points * band
        vector[t, column + 2], vector[t, column + 3] = at, at + size
        for c in range(size):
            ints[at + c] = spans[0, row, 2 * points + c]
            ints[at + size + c] = spans[1, row, 2 * points + c]
        at += 2 * size
    sizes[SIZE_INTS] = at


@inner
def _add_edge(lists: Any, sizes: Any, tensors: Any, t: int, q: int, column: int, needed: bool, priced: bool) -> None:
    """Adds a tensor, whose vector is in its columns from `column` on, to the needs, and to the edges if they cost."""
    if needed:
        at = sizes[SIZE_NEEDS]
        lists[at, 0] = tensors[t, TENSOR_NUMBER]
        for x in range(4):
            lists[at, 1 + x] = tensors[t, column + x]
        sizes[SIZE_NEEDS] = at + 1
    if priced:
        at = sizes[SIZE_EDGES]
        lists[at, 0], lists[at, 1], lists[at, 2] = t, tensors[t, TENSOR_ROW_ELEMENTS], q
        for x in range(4):
            lists[at, 3 + x] = tensors[t, column + x]
        sizes[SIZE_EDGES] = at + 1


@inner
def _begin(notes: Any, sizes: Any, at: int, q: int) -> None:
    """Notes where what is written from here on of a phase begins."""
    notes[at, q, NOTE_NEEDS], notes[at, q, NOTE_PARTIALS], notes[at, q, NOTE_EDGES] = (
        sizes[SIZE_NEEDS],
        sizes[SIZE_PARTIALS],
        sizes[SIZE_EDGES],
    )


@inner
def _finish(notes: Any, sizes: Any, at: int, q: int) -> None:
    """Notes how much that was."""
    notes[at, q, NOTE_NEEDS + 1] = sizes[SIZE_NEEDS] - notes[at, q, NOTE_NEEDS]
    notes[at, q, NOTE_PARTIALS + 1] = sizes[SIZE_PARTIALS] - notes[at, q, NOTE_PARTIALS]
    notes[at, q, NOTE_EDGES + 1] = sizes[SIZE_EDGES] - notes[at, q, NOTE_EDGES]


@inner
def _note_needs(end: Any, at: int, met: int) -> None:
    """Writes down what a volume of one phase needs, and the edges; rows that stand there already are used again."""
    start, band, points = end.starts[at, START_PLACE], end.starts[at, START_BAND], end.height + 1
    first, tensors, sizes, spans = len(end.operators) - 1, end.tensors, end.sizes, end.spans
    _begin(end.notes, sizes, at, 0)
    for x in range(met):
        t = tensors[x, TENSOR_SEEN]
        if tensors[t, TENSOR_MAKER] >= start:
            continue
        key = tensors[t, TENSOR_READS] * 2 + (1 if band > 1 else 0)
        if tensors[t, TENSOR_NEED_KEY] != key:
            _write(end.ints, sizes, spans, first + t, points, band, tensors, t, TENSOR_NEED_AT)
            tensors[t, TENSOR_NEED_KEY] = key
        _add_edge(end.lists, sizes, tensors, t, 0, TENSOR_NEED_AT, True, end.priced_edges)
    if end.priced_edges:
        for x in range(end.operators[start, OP_OUT_AT], end.operators[end.place, OP_OUT_AT]):
            t = end.outputs[x]
            if tensors[t, TENSOR_LAST_USE] >= end.place:
                if tensors[t, TENSOR_OWN_KEY] != band:
                    row = first + len(tensors)
                    _reset(spans, row, end.columns)
                    _share(spans, row, end.columns, tensors[t, TENSOR_HEIGHT], end.height)
                    _write(end.ints, sizes, spans, row, points, band, tensors, t, TENSOR_OWN_AT)
                    tensors[t, TENSOR_OWN_KEY] = band
                _add_edge(end.lists, sizes, tensors, t, 0, TENSOR_OWN_AT, False, True)
    _finish(end.notes, sizes, at, 0)


@inner
def _entry(entries: Any, count: int, kind: int, q: int, t: int, spans: Any, first: int, columns: int) -> int:
    """Place among the entries of a tensor at the edge of a phase; `count`, emptied, when it was not there yet."""
    for e in range(count):
        if entries[e, 2] == t and entries[e, 1] == q and entries[e, 0] == kind:
            return e
    entries[count, 0], entries[count, 1], entries[count, 2] = kind, q, t
    _reset(spans, first + count, columns)
    return count


@inner
def _finished(entries: Any, count: int, q: int, maker: int) -> int:
    """Notes that a phase reads the result of a reduction; returns the number of such pairs."""
    for y in range(count):
        if entries[y, 3] == q and entries[y, 4] == maker:
            return count
    entries[count, 3], entries[count, 4] = q, maker
    return count + 1


@inner
def _find_edges(end: Any, at: int) -> tuple[int, int]:
    """Finds what crosses the edges of a volume's phases; returns the numbers of entries and of partial results."""
    start, count, pairs = end.starts[at, START_PLACE], 0, 0
    operators, entries, spans, columns = end.operators, end.entries, end.spans, end.columns
    first = len(operators) - 1 + len(end.tensors)
    for place in range(end.place - 1, start - 1, -1):
        if not operators[place, OP_COMPUTED]:
            continue
        q = end.phase[at, place]
        for x in range(operators[place, OP_IN_AT], operators[place + 1, OP_IN_AT]):
            t = end.inputs[x, 0]
            maker = end.tensors[t, TENSOR_MAKER]
            if maker >= start and operators[maker, OP_KIND] == KIND_REDUCES:
                pairs = _finished(entries, pairs, q, maker)
            elif maker < start or (end.priced_edges and end.phase[at, maker] < q):
                e = _entry(
                    entries, count, ENTRY_NEEDED if maker < start else ENTRY_CARRIED, q, t, spans, first, columns
                )
                _widen(spans, first + e, columns, place, end.reach, end.inputs[x, 1])
                count = max(count, e + 1)
                if maker >= start:
                    e = _entry(entries, count, ENTRY_KEPT, end.phase[at, maker], t, spans, first, columns)
                    _widen(spans, first + e, columns, place, end.reach, end.inputs[x, 1])
                    count = max(count, e + 1)
        for x in range(operators[place, OP_OUT_AT], operators[place + 1, OP_OUT_AT]):
            t = end.outputs[x]
            if end.priced_edges and end.tensors[t, TENSOR_LAST_USE] >= end.place:
                e = _entry(entries, count, ENTRY_KEPT, q, t, spans, first, columns)
                _share(spans, first + e, columns, end.tensors[t, TENSOR_HEIGHT], end.height)
                count = max(count, e + 1)
    return count, pairs


@inner
def _note_phases(end: Any, at: int, count: int, pairs: int) -> None:
    """Writes down what each phase of a volume needs, its partial results, and the edges."""
    entries, tensors, sizes, lists = end.entries, end.tensors, end.sizes, end.lists
    first = len(end.operators) - 1 + len(tensors)
    for q in range(end.starts[at, START_PHASES]):
        _begin(end.notes, sizes, at, q)
        for e in range(count):
            if entries[e, 1] == q:
                t = entries[e, 2]
                _write(end.ints, sizes, end.spans, first + e, end.height + 1, 1, tensors, t, TENSOR_OWN_AT)
                _add_edge(lists, sizes, tensors, t, q, TENSOR_OWN_AT, entries[e, 0] == ENTRY_NEEDED, end.priced_edges)
                tensors[t, TENSOR_OWN_KEY] = 0
        for y in range(pairs):
            if entries[y, 3] == q:
                maker, row = entries[y, 4], sizes[SIZE_PARTIALS]
                lists[row, 0], lists[row, 1] = end.phase[at, maker], end.operators[maker, OP_PARTIAL_BYTES]
                lists[row, 2] = tensors[end.inputs[end.operators[maker, OP_IN_AT], 0], TENSOR_HEIGHT]
                sizes[SIZE_PARTIALS] = row + 1
        _finish(end.notes, sizes, at, q)
