"""The times of operators while they are measured: which runs show them, what is settled, what comes next."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from distredge.model.wires import FLOAT32_BYTES
from distredge.profiles.measuring.bench import Bench, Effort
from distredge.profiles.measuring.correcting import Beside
from distredge.profiles.measuring.repeats import Series, rounded
from distredge.profiles.measuring.row_sampling import RowSampler
from distredge.profiles.measuring.segments import SegmentCase
from distredge.profiles.measuring.windows import Alone, OperatorWindow, alone_of, shows_rows, whole_windows, windows_of
from distredge.profiles.part_costs import edge_elements
from distredge.profiles.schema import Measured, ProfileFile

_LARGE_SHARE = 0.05
"""Share of a window's time from which on an operator's bends are followed."""


@dataclass(frozen=True)
class _Shown:
    """An operator that a run of a window shows at so many rows, and where it stands."""

    operator: int
    key: str
    rows: int
    inside: bool


class OperatorTimes:
    """Times by signature and rows.

    Args:
        benches: of the models.
        effort: repeats of one burst.
        sampler: its limits; the rows are each window's own.
        start: an earlier profile whose times are kept.
    """

    def __init__(
        self, benches: Sequence[Bench], effort: Effort, sampler: RowSampler, start: ProfileFile | None = None
    ) -> None:
        self.benches = tuple(benches)
        self._effort = effort
        self._sampler = sampler
        self._earlier: Mapping[str, Measured] = (start.operators or {}) if start is not None else {}
        self._whole = whole_windows(self.benches)
        self._windows = windows_of(self.benches)
        shown = frozenset(key for window in self._windows for key in window.keys)
        self._alone = alone_of(self.benches, shown)
        self.keys = (*sorted(shown), *(alone.signature.key for alone in self._alone))
        self._done = {key for key, entry in self._earlier.items() if entry.complete}
        self._open = [w for w in self._windows if w.keys - self._done]
        self._points: dict[tuple[str, bool], dict[int, dict[object, Series]]] = {}
        self._totals: dict[tuple[object, int], Series] = {}
        self._curves: dict[OperatorWindow, dict[int, dict[int, Series]]] = {}
        self._begun: set[object] = set()
        self.besides: list[Beside] = []

    def complete(self, key: str) -> bool:
        """Whether an operator is measured at all of its starting rows."""
        if key in self._done:
            return True
        runs = [*(w for w in self._windows if key in w.keys), *(a for a in self._alone if a.signature.key == key)]
        return all(run in self._begun for run in runs)

    def operators(self) -> dict[str, Measured]:
        """Returns the file's entries, of what is known so far."""
        found = {
            key: msgspec.structs.replace(entry, complete=self.complete(key)) for key, entry in self._earlier.items()
        }
        for key in {key for key, _ in self._points} - self._done:
            # What is known of an operator amid others counts, and what was seen at a window's ends only without it.
            points = self._points.get((key, True), {})
            if len(points) < 2:
                points = {**self._points.get((key, False), {}), **points}
            found[key] = _merged(self._earlier.get(key), points, self.complete(key))
        return found

    def whole(self, first: bool) -> Iterator[tuple[str, Callable[[], None]]]:
        """What to run for whole models, and alone: everything that has one row count, or at its largest.

        Args:
            first: whether this is the first sweep.
        """
        for window in self._whole:
            wanted = {key for key in window.keys if key not in self._done}
            if not wanted or (first and self._known(window, window.height)):
                continue
            if first or not self._settled(window, window.height):
                yield f"{window.bench.graph.name}, whole", functools.partial(self._burst, window, window.height)
        for alone in self._alone:
            if alone.signature.key not in self._done:
                for rows in self._rows_alone(alone, first):
                    yield alone.signature.key, functools.partial(self._burst_alone, alone, rows)
                self._begun.add(alone)

    def parts(self, first: bool, count: int) -> Iterator[tuple[str, Callable[[], None]]]:
        """What to run for rows in the middle, window by window.

        Args:
            first: whether this is the first sweep.
            count: new row counts of one window at most, beyond its starting ones.
        """
        # The first row counts of all windows, then the second: when time is short, something is known everywhere.
        wanted = [self._rows(window, first, count) for window in self._open]
        for round_ in itertools.zip_longest(*wanted):
            for window, rows in zip(self._open, round_, strict=True):
                if rows is not None:
                    name = f"{window.bench.graph.name}, {window.bench.graph.cuts[window.last].reference}"
                    yield f"{name}, {rows} rows", functools.partial(self._burst, window, rows)
        self._begun.update(self._open)

    def _rows(self, window: OperatorWindow, first: bool, count: int) -> tuple[int, ...]:
        sampler = replace(self._sampler, rows=window.height)
        if first:
            return tuple(rows for rows in sampler.starting() if not self._known(window, rows))
        known = {rows for run, rows in self._totals if run == window}
        unsettled = tuple(rows for rows in sorted(known) if not self._settled(window, rows))
        if unsettled:
            return unsettled
        gaps: dict[int, float] = {}
        for curve in self._large(window):
            for (_, _, between), bend in sampler.bends(curve).items():
                gaps[between] = max(bend, gaps.get(between, 0.0))
        order = sorted((rows for rows in gaps if rows not in known), key=lambda rows: (-gaps[rows], rows))
        return tuple(order[: max(0, min(count, sampler.points - len(known)))])

    def _large(self, window: OperatorWindow) -> Iterator[dict[int, float]]:
        """Seconds of the larger operators of a window by rows of the window's output."""
        curves = self._curves.get(window, {})
        total = max((series.seconds for (run, _), series in self._totals.items() if run == window), default=0.0)
        for curve in curves.values():
            seconds = {rows: series.seconds for rows, series in curve.items()}
            if max(seconds.values()) >= _LARGE_SHARE * total:
                yield seconds

    def _rows_alone(self, alone: Alone, first: bool) -> tuple[int, ...]:
        sampler = replace(self._sampler, rows=alone.rows)
        earlier = self._earlier.get(alone.signature.key)
        if first:
            return tuple(rows for rows in sampler.starting() if earlier is None or rows not in earlier.rows)
        known = {rows: series for (run, rows), series in self._totals.items() if run == alone}
        unsettled = tuple(rows for rows, series in known.items() if not series.settled)
        return unsettled or sampler.next({rows: series.seconds for rows, series in known.items()}, 1) if known else ()

    def _settled(self, run: object, rows: int) -> bool:
        series = self._totals.get((run, rows))
        return series is None or series.settled

    def _known(self, window: OperatorWindow, rows: int) -> bool:
        """Whether an earlier profile has all that a run would show."""
        if not self._earlier:
            return False
        shown = [item for case in window.cases(rows) for item in self._shown(window, case)]
        return all(i.key in self._earlier and i.rows in self._earlier[i.key].rows for i in shown)

    def _shown(self, window: OperatorWindow, case: SegmentCase) -> Iterator[_Shown]:
        graph = window.bench.graph
        for item in case.part.operators:
            signature = graph.signatures[item.operator]
            if signature is None or not shows_rows(graph, item.operator):
                continue
            yield _Shown(item.operator, signature.key, item.region.rows.size, window.inside(item.operator))

    def _burst(self, window: OperatorWindow, rows: int) -> None:
        graph = window.bench.graph
        total: float | np.ndarray[tuple[int], np.dtype[np.float64]] = 0.0
        for case in window.cases(rows):
            segment = window.bench.segment(case.part, case.layout)
            sample = window.bench.run(segment, self._effort)
            if sample.kernels:
                beside = np.median((sample.total_s - sample.kernels_s)[sample.counts])
                edge_bytes = FLOAT32_BYTES * edge_elements(graph, case.part)
                self.besides.append(Beside(float(beside), sample.kernels, edge_bytes))
            total = total + float(np.median(sample.kernels_s[sample.counts]))
            for item in self._shown(window, case):
                seconds = sample.operators.get(item.operator)
                if seconds is None and graph.macs[item.operator]:
                    continue
                if seconds is None:
                    seconds = np.zeros(len(sample.total_s))
                points = self._points.setdefault((item.key, item.inside), {}).setdefault(item.rows, {})
                series = points.setdefault((window, item.operator), Series())
                series.add(seconds, sample.counts)
                self._curves.setdefault(window, {}).setdefault(item.operator, {})[rows] = series
        self._totals.setdefault((window, rows), Series()).add(np.array([total]))

    def _burst_alone(self, alone: Alone, rows: int) -> None:
        # An operator that always runs whole has but one row count, whatever its tensors' height.
        part = alone.bench.operator_part(alone.operator, rows if alone.rows > 1 else alone.signature.rows)
        sample = alone.bench.run(alone.bench.segment(part), self._effort)
        series = self._totals.setdefault((alone, rows), Series())
        series.add(sample.kernels_s, sample.counts)
        self._points.setdefault((alone.signature.key, True), {}).setdefault(rows, {})[alone] = series


def _merged(earlier: Measured | None, points: Mapping[int, Mapping[object, Series]], complete: bool) -> Measured:
    """One entry of the file: what was measured now, in several places, beside what is known from before."""
    found: dict[int, tuple[float, float, float, int]] = {}
    if earlier is not None:
        rows = zip(earlier.rows, earlier.median_s, earlier.p95_s, earlier.spread, earlier.repeats, strict=True)
        found = {r: (median, p95, spread, repeats) for r, median, p95, spread, repeats in rows}
    for r, places in points.items():
        # Whole merges are computed inside convolutions where their shortcut is in the convolutions' layout, as it is in
        # the whole model, and by themselves where it is not; so every run counts as much as another.
        runs: dict[object, list[Series]] = {}
        for place, series in places.items():
            runs.setdefault(place[0] if isinstance(place, tuple) else place, []).append(series)
        seconds, p95_s, spread = (
            float(np.mean([np.mean([getattr(one, field) for one in run]) for run in runs.values()]))
            for field in ("seconds", "p95_s", "spread")
        )
        found[r] = (seconds, max(seconds, p95_s), spread, sum(s.repeats for s in places.values()))
    order = sorted(found)
    return Measured(
        rows=tuple(order),
        median_s=tuple(rounded(found[r][0]) for r in order),
        p95_s=tuple(rounded(found[r][1]) for r in order),
        spread=tuple(rounded(found[r][2]) for r in order),
        repeats=tuple(found[r][3] for r in order),
        complete=complete,
    )
