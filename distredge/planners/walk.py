"""One walk backwards through the body of a graph that serves every volume with the same end, compiled.

`tabulate` says what for, `cells` goes on from here. What parts of the volumes compute and need is noted for some parts
only, the *columns* of `End.spans`: those of rows [a, height) for every a, which say where everything begins; those of
rows [0, b) for every b, which say where it ends; and, where tensors of different heights are alive, every part of
fewer rows than `band` (by a and number of rows), which may be empty inside. Empty is [FAR, -FAR), so that hulls are
minima and maxima.

Everything is in few arrays of many columns, and nothing is allocated or counted here: numba's compiling time grows with
the number of arrays that a function gets, and with all that it allocates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

NORMAL, REDUCES, EVERYWHERE, STOPS = range(4)
"""What the walk does with an operator: takes its rows' needs; deals out the rows of its input; computes all of it
wherever any of it is needed; gives up."""

FAR = 1 << 30

NEEDED, CARRIED, KEPT = range(3)
"""Rows that cross the edge of a phase: from outside the volume, from an earlier phase, for outside or a later phase."""

OPERATOR = 8
KIND, IN_AT, OUT_AT, PARTIAL_BYTES, SUM_AT, SUM_ROWS, COMPUTED, SPAN_AT = range(OPERATOR)
"""Columns of `End.operators`: what to do; where inputs and outputs start; bytes of a partial result; where its seconds
by rows stand for sums, and how far it is to the next profile (-1: costs nothing). Then the state of a walk: whether
anything is computed; where its rows stand for sums, or -1."""

N_TENSOR = 19
(
    T_HEIGHT, MAKER, LAST_USE, NUMBER, ROW_ELEMENTS, T_SUM_AT, T_SUM_ROWS, READS, SEEN, NEED_KEY, NEED_AT, _, _, _,
    OWN_KEY, OWN_AT, _, _, _,
) = range(N_TENSOR)  # fmt: skip
"""Columns of `End.tensors`: rows; place of the operator that makes it (-1: before the body) and of the last that reads
it (-1: nobody outside a volume does); number in the tables, or -1; elements of a row; seconds of its rows at an edge,
as for operators. Then the state of a walk: how often it is read; the tensors read, in order; for how many reads and
which band its vector of needs holds, and the vector; the same for the rows owned.

A vector says where rows stand in `End.ints`: first rows by a, last rows by b, and those of short parts."""

N_START = 6
PLACE, INDEX_ROW, BAND, N_PHASES, LOW, HIGH = range(N_START)
"""Columns of `End.starts`: number of operators before it; row of `Tables.index`; from how many rows on no part is empty
inside; number of phases. Filled in: how many rows at either edge are unlike the others."""

N_NOTE = 6
NEEDS, PARTIALS, EDGES = 0, 2, 4
"""Columns of `End.notes`: first row and number of rows of each kind in `End.lists`."""

LISTS = 8
L_NEEDS, L_PARTIALS, L_EDGES, L_VOLUMES, L_PHASES, L_SUMS, INTS, SECONDS = range(8)
"""Entries of `End.sizes`: the next free row of `lists` for each kind, and how far `ints` and the seconds are filled."""

Ints = NDArray[np.int64]


class End(NamedTuple):
    """The volumes with one end.

    Attributes:
        operators: (n_ops + 1, OPERATOR); the last row ends the inputs and outputs.
        tensors: (n_tensors, N_TENSOR).
        inputs: (n_inputs, 2) tensor, and offset of its rows in `reach`.
        outputs: (n_outputs,) tensor.
        reach: (2, n) first input row, and end of the input rows, of each output row of each input.
        starts: (n_starts, N_START), by rising place; the walk ends at the first.
        phase: (n_starts, n_ops) phase of each operator.
        parts: (2, n_columns) first row of each part, and end of its rows.
        notes: (n_starts, n_phases, N_NOTE), filled in.
        spans: (2, n_ops + n_tensors + n_entries, n_columns) room for first and last rows of what is computed of each
            operator, read of each tensor, and crosses the edge of a phase.
        entries: (n_entries, 5) room for kind, phase and tensor of what crosses; phase and reduction of partial results.
        lists: (n, LISTS) rows of the tables, as in `latency.tables`, each kind in a stretch of its own; edges are
            tensor, elements of a row, phase, vector.
        sizes: (8,) how far everything is filled.
        shift: (6,) what added to a row of `lists` is its row in the tables.
        ints: of the tables.
        cut, place, height: index of the cut at the end, number of operators before it, rows of its reference.
        band: the largest of the starts'.
        priced_edges: whether what enters or leaves a part costs.
    """

    operators: Ints
    tensors: Ints
    inputs: Ints
    outputs: Ints
    reach: NDArray[np.int32]
    starts: Ints
    phase: Ints
    parts: Ints
    notes: Ints
    spans: NDArray[np.int32]
    entries: Ints
    lists: Ints
    sizes: Ints
    shift: Ints
    ints: NDArray[np.int32]
    cut: int
    place: int
    height: int
    band: int
    priced_edges: bool


OPTIONS: Any = {"nogil": True, "boundscheck": False, "error_model": "numpy", "_nrt": False}
"""Without numba's counting of references, which these functions do not need and which takes most of the time to
compile."""

inner = njit(**OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@inner
def walk(end: Any) -> None:
    """Fills in the rows of operators in `spans`, needs, partial results and edges of every start, and its notes."""
    low, high, met, at = 0, 0, 0, len(end.starts) - 1
    for t in range(len(end.tensors)):
        end.tensors[t, READS] = end.tensors[t, NEED_KEY] = end.tensors[t, OWN_KEY] = 0
    for place in range(end.place - 1, end.starts[0, PLACE] - 1, -1):
        end.operators[place, SPAN_AT] = -1
        end.operators[place, COMPUTED] = _compute(end, place)
        if end.operators[place, COMPUTED]:
            low, high = _uneven(end.spans, 0, place, 0, 1, place, end.height + 1, end.height, low, high)
            met = _read(end, place, met)
        if end.starts[at, PLACE] == place:
            if end.starts[at, N_PHASES] == 1:
                _note_needs(end, at, met)
            else:
                _note_phases(end, at)
            _note_edges(end, at, low, high)
            at -= 1


@inner
def _share(end: Any, height: int, row: int, fresh: bool) -> None:
    """Widens a row of `spans` by what is owned of a tensor."""
    for c in range(end.parts.shape[1]):
        start, stop = end.parts[0, c], end.parts[1, c]
        if height != end.height:
            start, stop = start * height // end.height, stop * height // end.height
        if start >= stop:
            start, stop = FAR, -FAR
        if not fresh:
            start, stop = min(start, end.spans[0, row, c]), max(stop, end.spans[1, row, c])
        end.spans[0, row, c], end.spans[1, row, c] = start, stop


@inner
def _compute(end: Any, place: int) -> int:
    """Notes which rows every part computes of an operator; 1 if any."""
    operators, spans = end.operators, end.spans
    if operators[place, KIND] == REDUCES:
        _share(end, end.tensors[end.inputs[operators[place, IN_AT], 0], T_HEIGHT], place, True)
        return 1
    found = 0
    for x in range(operators[place, OUT_AT], operators[place + 1, OUT_AT]):
        t = end.outputs[x]
        if end.tensors[t, READS] > 0:
            row = len(operators) - 1 + t
            for c in range(end.parts.shape[1]):
                start, stop = spans[0, row, c], spans[1, row, c]
                if found:
                    start, stop = min(start, spans[0, place, c]), max(stop, spans[1, place, c])
                spans[0, place, c], spans[1, place, c] = start, stop
            found = 1
        if end.tensors[t, LAST_USE] >= end.place:
            _share(end, end.tensors[t, T_HEIGHT], place, found == 0)
            found = 1
    if found and operators[place, KIND] == EVERYWHERE:
        height = end.tensors[end.outputs[operators[place, OUT_AT]], T_HEIGHT]
        for c in range(end.parts.shape[1]):
            if spans[0, place, c] < spans[1, place, c]:
                spans[0, place, c], spans[1, place, c] = 0, height
    return found


@inner
def _widen(end: Any, place: int, x: int, row: int, fresh: bool) -> None:
    """Widens a row of `spans` by what an operator reads of its input x."""
    kind, reach, spans = end.operators[place, KIND], end.inputs[x, 1], end.spans
    whole = end.tensors[end.inputs[x, 0], T_HEIGHT]
    for c in range(end.parts.shape[1]):
        start, stop = np.int64(spans[0, place, c]), np.int64(spans[1, place, c])
        if start < stop:
            if kind == NORMAL:
                start, stop = np.int64(end.reach[0, reach + start]), np.int64(end.reach[1, reach + stop - 1])
            elif kind == EVERYWHERE:
                start, stop = 0, whole
        if not fresh:
            start, stop = min(start, spans[0, row, c]), max(stop, spans[1, row, c])
        spans[0, row, c], spans[1, row, c] = start, stop


@inner
def _is_reduction(end: Any, maker: int) -> bool:
    return maker >= 0 and end.operators[maker, KIND] == REDUCES


@inner
def _read(end: Any, place: int, met: int) -> int:
    """Notes which rows every part needs of an operator's inputs; returns how many tensors have been read."""
    for x in range(end.operators[place, IN_AT], end.operators[place + 1, IN_AT]):
        t = end.inputs[x, 0]
        if _is_reduction(end, end.tensors[t, MAKER]):
            # Completed from partial results wherever it is read.
            continue
        reads = end.tensors[t, READS]
        _widen(end, place, x, len(end.operators) - 1 + t, reads == 0)
        if reads == 0:
            end.tensors[met, SEEN] = t
            met += 1
        end.tensors[t, READS] = reads + 1
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
def _note_edges(end: Any, at: int, low: int, high: int) -> None:
    """Notes how many rows are unlike the others, what enters and leaves included."""
    ints = end.ints.reshape((1, 1, len(end.ints)))
    for q in range(end.starts[at, N_PHASES]):
        first = end.notes[at, q, EDGES]
        for e in range(first, first + end.notes[at, q, EDGES + 1]):
            low, high = _uneven(ints, 0, 0, end.lists[e, 3], 0, 0, end.lists[e, 4], end.height, low, high)
    end.starts[at, LOW], end.starts[at, HIGH] = low, high


@inner
def _write(end: Any, row: int, band: int, t: int, column: int) -> None:
    """Copies a row of `spans` to `ints`, and notes where it is in a tensor's vector."""
    points, at = end.height + 1, end.sizes[INTS]
    end.tensors[t, column], end.tensors[t, column + 1] = at, at + points
    end.tensors[t, column + 2] = end.tensors[t, column + 3] = 0
    for c in range(points):
        end.ints[at + c] = end.spans[0, row, c]
        end.ints[at + points + c] = end.spans[1, row, points + c]
    at += 2 * points
    if band > 1:
        size = points * band
        end.tensors[t, column + 2], end.tensors[t, column + 3] = at, at + size
        for c in range(size):
            end.ints[at + c] = end.spans[0, row, 2 * points + c]
            end.ints[at + size + c] = end.spans[1, row, 2 * points + c]
        at += 2 * size
    end.sizes[INTS] = at


@inner
def _add_edge(end: Any, t: int, q: int, column: int, needed: bool) -> None:
    """Adds a tensor, whose vector is in its columns from `column` on, to the edges and, if it is `needed`, needs."""
    if needed:
        at = end.sizes[L_NEEDS]
        end.lists[at, 0] = end.tensors[t, NUMBER]
        for x in range(4):
            end.lists[at, 1 + x] = end.tensors[t, column + x]
        end.sizes[L_NEEDS] = at + 1
    if end.priced_edges:
        at = end.sizes[L_EDGES]
        end.lists[at, 0], end.lists[at, 1], end.lists[at, 2] = t, end.tensors[t, ROW_ELEMENTS], q
        for x in range(4):
            end.lists[at, 3 + x] = end.tensors[t, column + x]
        end.sizes[L_EDGES] = at + 1


@inner
def _begin(end: Any, at: int, q: int) -> None:
    """Notes where what is written from here on of a phase begins."""
    end.notes[at, q, NEEDS], end.notes[at, q, PARTIALS] = end.sizes[L_NEEDS], end.sizes[L_PARTIALS]
    end.notes[at, q, EDGES] = end.sizes[L_EDGES]


@inner
def _finish(end: Any, at: int, q: int) -> None:
    """Notes how much that was."""
    end.notes[at, q, NEEDS + 1] = end.sizes[L_NEEDS] - end.notes[at, q, NEEDS]
    end.notes[at, q, PARTIALS + 1] = end.sizes[L_PARTIALS] - end.notes[at, q, PARTIALS]
    end.notes[at, q, EDGES + 1] = end.sizes[L_EDGES] - end.notes[at, q, EDGES]


@inner
def _note_needs(end: Any, at: int, met: int) -> None:
    """Writes down what a volume of one phase needs, and the edges; rows that stand there already are used again."""
    start, band = end.starts[at, PLACE], end.starts[at, BAND]
    first = len(end.operators) - 1
    _begin(end, at, 0)
    for x in range(met):
        t = end.tensors[x, SEEN]
        if end.tensors[t, MAKER] >= start:
            continue
        key = end.tensors[t, READS] * 2 + (1 if band > 1 else 0)
        if end.tensors[t, NEED_KEY] != key:
            _write(end, first + t, band, t, NEED_AT)
            end.tensors[t, NEED_KEY] = key
        _add_edge(end, t, 0, NEED_AT, True)
    if end.priced_edges:
        for x in range(end.operators[start, OUT_AT], end.operators[end.place, OUT_AT]):
            t = end.outputs[x]
            if end.tensors[t, LAST_USE] >= end.place:
                if end.tensors[t, OWN_KEY] != band:
                    row = first + len(end.tensors)
                    _share(end, end.tensors[t, T_HEIGHT], row, True)
                    _write(end, row, band, t, OWN_AT)
                    end.tensors[t, OWN_KEY] = band
                _add_edge(end, t, 0, OWN_AT, False)
    _finish(end, at, 0)


@inner
def _entry(end: Any, count: int, kind: int, q: int, t: int) -> int:
    """Place among the entries of a tensor at the edge of a phase; `count` when it was not there yet."""
    entries = end.entries
    for e in range(count):
        if entries[e, 2] == t and entries[e, 1] == q and entries[e, 0] == kind:
            return e
    entries[count, 0], entries[count, 1], entries[count, 2] = kind, q, t
    return count


@inner
def _cross(end: Any, place: int, x: int, kind: int, q: int, count: int) -> int:
    """Notes that what an operator reads of its input x crosses the edge of a phase; returns the number of entries."""
    e = _entry(end, count, kind, q, end.inputs[x, 0])
    _widen(end, place, x, len(end.operators) - 1 + len(end.tensors) + e, e == count)
    return max(count, e + 1)


@inner
def _finished(end: Any, count: int, q: int, maker: int) -> int:
    """Notes that a phase reads the result of a reduction; returns the number of such pairs."""
    for y in range(count):
        if end.entries[y, 3] == q and end.entries[y, 4] == maker:
            return count
    end.entries[count, 3], end.entries[count, 4] = q, maker
    return count + 1


@inner
def _find_edges(end: Any, at: int) -> tuple[int, int]:
    """Finds what crosses the edges of a volume's phases; returns the numbers of entries and of partial results."""
    start, count, pairs = end.starts[at, PLACE], 0, 0
    for place in range(end.place - 1, start - 1, -1):
        if not end.operators[place, COMPUTED]:
            continue
        q = end.phase[at, place]
        for x in range(end.operators[place, IN_AT], end.operators[place + 1, IN_AT]):
            maker = end.tensors[end.inputs[x, 0], MAKER]
            if maker < start:
                count = _cross(end, place, x, NEEDED, q, count)
            elif _is_reduction(end, maker):
                pairs = _finished(end, pairs, q, maker)
            elif end.priced_edges and end.phase[at, maker] < q:
                count = _cross(end, place, x, CARRIED, q, count)
                count = _cross(end, place, x, KEPT, end.phase[at, maker], count)
        for x in range(end.operators[place, OUT_AT], end.operators[place + 1, OUT_AT]):
            t = end.outputs[x]
            if end.priced_edges and end.tensors[t, LAST_USE] >= end.place:
                e = _entry(end, count, KEPT, q, t)
                _share(end, end.tensors[t, T_HEIGHT], len(end.operators) - 1 + len(end.tensors) + e, e == count)
                count = max(count, e + 1)
    return count, pairs


@inner
def _note_phases(end: Any, at: int) -> None:
    """Writes down what each phase of a volume needs, its partial results, and the edges."""
    count, pairs = _find_edges(end, at)
    for q in range(end.starts[at, N_PHASES]):
        _begin(end, at, q)
        for e in range(count):
            if end.entries[e, 1] == q:
                t = end.entries[e, 2]
                _write(end, len(end.operators) - 1 + len(end.tensors) + e, 1, t, OWN_AT)
                _add_edge(end, t, q, OWN_AT, end.entries[e, 0] == NEEDED)
                end.tensors[t, OWN_KEY] = 0
        for y in range(pairs):
            if end.entries[y, 3] == q:
                maker, row = end.entries[y, 4], end.sizes[L_PARTIALS]
                end.lists[row, 0], end.lists[row, 1] = end.phase[at, maker], end.operators[maker, PARTIAL_BYTES]
                end.lists[row, 2] = end.tensors[end.inputs[end.operators[maker, IN_AT], 0], T_HEIGHT]
                end.sizes[L_PARTIALS] = row + 1
        _finish(end, at, q)
