"""Tabulates all volumes of a graph at once, compiled, before a search asks for them one by one.

`volume_tables` goes through a volume with numpy when a strategy first uses it, which takes milliseconds; a search over
a large graph meets a thousand. Here one walk backwards from each end serves every start (`backward_walk`,
`part_seconds`). Left to `volume_tables` are volumes with an operator whose need of rows does not rise with its output,
those that it refuses, and those of which too many parts can be empty inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.latency.tables import backward_walk as w
from distredge.latency.tables import part_seconds as c
from distredge.latency.tables.columns import (
    BAND,
    HEIGHT,
    MADE_IN,
    N_PHASES,
    PHASES,
    REDUCES,
    START_CLASS,
    STOP_CLASS,
    VOLUME,
)
from distredge.latency.tables.graph_arrays import BodyArrays, flatten
from distredge.latency.tables.volume_tables import LARGEST

if TYPE_CHECKING:
    from distredge.latency.tables.volume_tables import Tables

MOST_SHORT = 100_000
"""Parts of an end's volumes that can be empty inside beyond which these volumes are left to be tabulated on demand."""

AT_ONCE = 1 << 24
"""Seconds, in number, for which there is room before the first is written: copying them takes longer than that."""

Ints = NDArray[np.int64]


def fill(tables: Tables, cuts: list[int], stop: Callable[[], bool] = lambda: False) -> NDArray[np.bool_]:
    """Tabulates every volume between some cuts that the compiled walk can do and `tables` does not have yet.

    Args:
        tables: of a kernel.
        cuts: rising indices into `graph.cuts`.
        stop: asked after each end; true leaves the rest to be tabulated on demand.

    Returns:
        (n_cuts, n_cuts) which volumes the walk can do and are tabulated now, whoever asked for them first.
    """
    with tables.lock:
        done = tables.filled.get(tuple(cuts))
        if done is None:
            able, whole = _fill(tables, cuts, stop)
            done = np.asarray(able & (tables.index >= 0))
            if whole:
                tables.filled[tuple(cuts)] = done
    return done


def _fill(tables: Tables, cuts: list[int], stop: Callable[[], bool]) -> tuple[NDArray[np.bool_], bool]:
    """What the walk can do, (n_cuts, n_cuts), and whether all of that is tabulated now."""
    body = flatten(tables)
    able = np.zeros(tables.index.shape, bool)
    jobs = _jobs(tables, body, cuts, able)
    if not jobs:
        return able, True
    _place_sums(tables, body, any((job.height + 1) ** 2 > LARGEST for job in jobs))
    nothing_at = tables.ints.add(np.zeros(len(tables.numbers), np.int32))
    operators, tensors, entries = len(body.operators), len(body.tensors), body.most_entries
    spans = np.empty((2, operators + tensors + entries, max(job.parts.shape[1] for job in jobs)), np.int32)
    room = np.empty((entries, 5), np.int64)
    tables.seconds.reserve(min(sum(_most(body, job)[w.SIZE_SECONDS] for job in jobs), AT_ONCE))
    for job in jobs:
        if stop():
            return able, False
        _fill_end(tables, body, job, spans, room, nothing_at)
    return able, True


@dataclass(frozen=True)
class _Job:
    """The volumes with one end.

    Attributes:
        cut, place, height: index of the cut at the end, number of operators before it, rows of its reference.
        band: from how many rows on no part of any of the volumes is empty inside.
        starts: (n_starts, START_COLUMNS) as in `backward_walk.End`.
        phase: (n_starts, n_ops) phase of each operator.
        parts: (2, n_columns) the parts that the walk looks at.
    """

    cut: int
    place: int
    height: int
    band: int
    starts: Ints
    phase: Ints
    parts: Ints


def _jobs(tables: Tables, body: BodyArrays, cuts: list[int], able: NDArray[np.bool_]) -> list[_Job]:
    """What there is to do for each end; `able` is filled with what the walk can do, done before or not."""
    starts = np.zeros((len(cuts) + 1, w.START_COLUMNS), np.int64)
    starts[1:, w.START_PLACE] = [tables.graph.cuts[i].position for i in cuts]
    starts[1:, w.START_INDEX_ROW] = np.array(cuts) + 1
    phase = np.zeros((len(starts), len(body.operators) - 1), np.int64)
    w.find_phases(body.operators, body.tensors, body.inputs, starts, phase)
    last_phase = np.maximum.accumulate(phase, axis=1)
    found = []
    for cut, place in zip(cuts, starts[1:, w.START_PLACE].tolist(), strict=True):
        height = tables.graph.cuts[cut].height
        stops = np.flatnonzero(body.operators[:place, w.OP_KIND] == w.KIND_STOPS)
        reached = int(stops[-1]) + 1 if len(stops) else 0
        chosen = np.flatnonzero((starts[:, w.START_PLACE] >= reached) & (starts[:, w.START_PLACE] < place))
        own = starts[chosen]
        own[:, w.START_PHASES] = last_phase[chosen, place - 1] + 1
        own[:, w.START_BAND] = _bands(body, place, height)[own[:, w.START_PLACE]]
        uneven = own[:, w.START_BAND] > 1
        possible = ~uneven | ((own[:, w.START_PHASES] == 1) & (own[:, w.START_BAND] * (height + 1) <= MOST_SHORT))
        able[own[possible, w.START_INDEX_ROW], cut] = True
        possible &= tables.index[own[:, w.START_INDEX_ROW], cut] < 0
        if possible.any():
            own, uneven = own[possible], uneven[possible]
            band = int(own[:, w.START_BAND].max())
            own[uneven, w.START_BAND] = band
            found.append(_Job(cut, place, height, band, own, phase[chosen[possible]], _parts(height, band)))
    return found


def _bands(body: BodyArrays, place: int, height: int) -> Ints:
    """From how many rows on no part is empty inside, for volumes from each place to an end, (place,)."""
    found = np.ones(place, np.int64)
    makers, heights = body.tensors[:, w.TENSOR_MAKER], body.tensors[:, w.TENSOR_HEIGHT]
    leaves = (makers >= 0) & (makers < place) & (body.tensors[:, w.TENSOR_LAST_USE] >= place)
    np.maximum.at(found, makers[leaves], -(-height // heights[leaves]))
    reductions = np.flatnonzero(body.operators[:place, w.OP_KIND] == w.KIND_REDUCES)
    read = heights[body.inputs[body.operators[reductions, w.OP_IN_AT], 0]]
    np.maximum.at(found, reductions, -(-height // read))
    return np.maximum.accumulate(found[::-1])[::-1]


def _parts(height: int, band: int) -> Ints:
    """First row and end of the rows of the parts that the walk looks at, (2, n_columns)."""
    points = np.arange(height + 1)
    first = [np.minimum(points, height - 1), np.zeros_like(points)]
    stop = [np.full_like(points, height), np.maximum(points, 1)]
    if band > 1:
        short = np.arange((height + 1) * band)
        first.append(short // band)
        stop.append(np.minimum(short // band + short % band, height))
    parts = np.stack([np.concatenate(first), np.concatenate(stop)])
    parts[:, parts[0] >= parts[1]] = [[w.FAR], [-w.FAR]]
    return parts


def _place_sums(tables: Tables, body: BodyArrays, summed: bool) -> None:
    """Notes where the seconds of single operators and edges stand in the tables, if any volume is summed."""
    body.operators[:, w.OP_SUM_AT] = -1
    if not summed:
        return
    for place in np.flatnonzero(body.table_at[0] >= 0):
        operator = tables.graph.body.operators[place]
        body.operators[place, w.OP_SUM_AT], body.operators[place, w.OP_SUM_STRIDE] = tables.operator_seconds(operator)
    for t, name in enumerate(body.names if body.priced_edges else ()):
        body.tensors[t, w.TENSOR_SUM_AT], body.tensors[t, w.TENSOR_SUM_STRIDE] = tables.edge_seconds(name)


def _fill_end(
    tables: Tables, body: BodyArrays, job: _Job, spans: NDArray[np.int32], entries: Ints, nothing_at: int
) -> None:
    counts = _most(body, job)
    lists = tables.lists()
    ints, seconds = tables.ints, tables.seconds
    spans[:, -1, : job.parts.shape[1]] = job.parts
    ints.reserve(counts[w.SIZE_INTS])
    seconds.reserve(counts[w.SIZE_SECONDS])
    sizes = np.cumsum([0, *counts[: w.SIZE_INTS]])
    end = w.End(
        *(body.operators, body.tensors, body.inputs, body.outputs, body.reach),
        starts=job.starts,
        phase=job.phase,
        notes=np.empty((len(job.starts), int(job.starts[:, w.START_PHASES].max()), w.NOTE_COLUMNS), np.int64),
        spans=spans,
        entries=entries,
        lists=np.empty((int(sizes[-1]), w.LIST_COLUMNS), np.int64),
        sizes=np.array([*sizes[:-1], ints.size, seconds.size], np.int64),
        shift=np.array([0 if made is None else made.size for made in lists], np.int64) - sizes[:-1],
        ints=ints.data,
        place=job.place,
        height=job.height,
        band=job.band,
        columns=job.parts.shape[1],
        priced_edges=body.priced_edges,
    )
    w.walk(end)
    low, high, short = _choose_classes(job)
    c.write(end, _cells(tables, body, job, low, high, short), low, high, short)
    for kind, made in enumerate(lists):
        if made is not None:
            made.add(end.lists[sizes[kind] : end.sizes[kind], : made.data.shape[1]])
    ints.size, seconds.size = int(end.sizes[w.SIZE_INTS]), int(end.sizes[w.SIZE_SECONDS])
    places = job.starts[:, w.START_FIRST_PHASE] + end.shift[w.SIZE_PHASES]
    _add_volumes(tables, body, job, places, nothing_at)


def _add_volumes(tables: Tables, body: BodyArrays, job: _Job, places: Ints, nothing_at: int) -> None:
    """Adds the volumes of one end, whose phases are in the tables from some places on."""
    starts, height = job.starts, job.height
    rows = np.empty((len(starts), VOLUME), np.int64)
    rows[:, HEIGHT], rows[:, BAND], rows[:, PHASES] = height, starts[:, w.START_BAND], places
    rows[:, N_PHASES], rows[:, REDUCES] = starts[:, w.START_PHASES], starts[:, w.START_REDUCING]
    rows[:, START_CLASS], rows[:, STOP_CLASS], rows[:, MADE_IN] = -1, -1, nothing_at
    placed: dict[tuple[int, int], tuple[int, int]] = {}
    for at in np.flatnonzero(starts[:, w.START_TABLE]).tolist():
        key = int(starts[at, w.START_LOW]), int(starts[at, w.START_HIGH])
        if key not in placed:
            placed[key] = tables.place_classes(height, *key)
        rows[at, START_CLASS], rows[at, STOP_CLASS] = placed[key]
    several = np.flatnonzero(starts[:, w.START_PHASES] > 1)
    if len(several):
        makers = body.tensors[: len(tables.numbers), w.TENSOR_MAKER]
        inside = (makers >= starts[several, w.START_PLACE, None]) & (makers < job.place)
        made = np.where(inside, job.phase[several][:, makers], 0)
        rows[several, MADE_IN] = tables.ints.add(made.ravel()) + np.arange(len(several)) * made.shape[1]
    tables.add_volumes(starts[:, w.START_INDEX_ROW], job.cut, rows)


def _choose_classes(job: _Job) -> tuple[int, int, bool]:
    """Decides as `latency.tables.volume_tables` does which volumes have a table, and its classes.

    Returns:
        The finest classes of starts and ends that any table needs (-1: there is none), and whether short parts of any
        volume are summed.
    """
    height, points, starts = job.height, job.height + 1, job.starts
    low, high = starts[:, w.START_LOW], starts[:, w.START_HIGH]
    classes = (low + 1) * (high + 1)
    uneven = starts[:, w.START_BAND] > 1
    starts[:, w.START_TABLE] = (height < 4) | (
        np.where(uneven, points, np.minimum(classes, points)) * points <= LARGEST
    )
    each = uneven | (height < 4) | (classes > height)
    low[each], high[each] = height, 0
    table = starts[:, w.START_TABLE] > 0
    if not table.any():
        return -1, -1, bool(uneven.any())
    finest_low, finest_high = int(low[table].max()), int(high[table].max())
    if (finest_low + 1) * (finest_high + 1) > height:
        finest_low, finest_high = height, 0
    return finest_low, finest_high, bool((uneven & ~table).any())


def _cells(tables: Tables, body: BodyArrays, job: _Job, low: int, high: int, short: bool) -> c.Cells:
    """Room for the cells of an end."""
    size = (low + 1) * (high + 1) * (job.height + 1) + ((job.height + 1) * job.band if short else 0)
    phases = int(job.starts[:, w.START_PHASES].max())
    profiles = len(body.boards)
    return c.Cells(
        body.boards, body.table_at, body.by_rows, np.empty(size, np.int64), np.empty((c.CELL_LINES, size), np.int64),
        np.empty((2 + phases if phases > 1 else 2, profiles, size)), tables.seconds.data,
    )  # fmt: skip


def _most(body: BodyArrays, job: _Job) -> list[int]:
    """How much the volumes of one end can take at most of each kind, as in `End.sizes`."""
    places, phases = job.starts[:, w.START_PLACE], job.starts[:, w.START_PHASES]
    operators, points, several = job.place - places, job.height + 1, phases > 1
    inputs = body.operators[job.place, w.OP_IN_AT] - body.operators[places, w.OP_IN_AT]
    outputs = body.operators[job.place, w.OP_OUT_AT] - body.operators[places, w.OP_OUT_AT]
    edges = (2 * inputs + outputs) * body.priced_edges
    table = max(min(points * points, max(LARGEST, 25)), points * job.band + 1)
    summed = points * points > LARGEST
    # Of a volume of one phase, vectors are written anew only where an operator reads a tensor once more.
    vectors = 2 * (1 + job.band) * int(inputs.max() + outputs.max()) + int((np.maximum(inputs, edges) * several).sum())
    ints = 2 * points * (vectors * 2 + len(places) + int(operators.max())) + int(several.sum()) * len(body.tensors)
    found = [
        inputs.sum(), (inputs * several).sum(), edges.sum(), phases.sum(),
        ((operators + edges) * summed).sum(), ints, phases.sum() * len(body.boards) * table,
    ]  # fmt: skip
    return [int(x) for x in found]
