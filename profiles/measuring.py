"""Measuring a board: every operator signature of some models, at row counts chosen on the way."""

from __future__ import annotations

import datetime
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import psutil

from distredge.errors import ProfileError
from distredge.model.graph import Graph
from distredge.model.layout import Part
from distredge.profiles.compute import ComputeProfile, write_profile
from distredge.profiles.copies import measure_copy, measure_encryption
from distredge.profiles.jobs import Job, jobs_of
from distredge.profiles.kernels import Bench, Effort, EngineSettings, Sample
from distredge.profiles.machine import Watch, describe, pinned, temperature_c, throttled
from distredge.profiles.power import Sensor, find_sensor
from distredge.profiles.sampling import RowSampler
from distredge.profiles.schema import Copy, Measured, Origin, Power, ProfileFile, Runtime, Segments
from distredge.profiles.segments import SegmentTimes, correction, random_cases
from distredge.profiles.series import Series

_LOG = logging.getLogger(__name__)

CORRECTION_SEED = 1_000_003
"""Seed of the segments that correct a profile; `verify` draws others."""

_SAVE_EVERY_S = 5.0
_ROWS_AT_ONCE = 4
_REST_S = 6.0
_FEW_EDGES = 5


_EFFORT = Effort()


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Args:
        budget_s: time for all operators together; every one is measured at its starting rows once, whatever it takes.
        points: row counts for one operator at most.
        start: row counts that every operator is measured at, at least.
        effort: repeats of one burst.
        segments: fused segments of each model that correct the profile.
        power_s: seconds to watch the power sensor, idle and busy.
    """

    budget_s: float = 120.0
    points: int = 26
    start: int = 13
    effort: Effort = _EFFORT
    segments: int = 20
    power_s: float = 3.0


QUICK = Plan(budget_s=20.0, points=9, start=7, effort=Effort(3, 60, 0.002, 0.05, 0.02), segments=8, power_s=1.0)


@dataclass(frozen=True)
class Progress:
    """What has been done: `done` of `total` steps, what comes now, and the seconds that are left, roughly."""

    done: int
    total: int
    what: str
    left_s: float


@dataclass
class _Point:
    """An operator at one row count: what it takes with its company, and what of that is the company's."""

    all_s: Series = field(default_factory=Series)
    company_s: dict[int, Series] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        return self.all_s.settled and all(series.settled for series in self.company_s.values())

    @property
    def company_seconds(self) -> float:
        return sum(series.seconds for series in self.company_s.values())

    @property
    def seconds(self) -> float:
        return max(0.0, self.all_s.seconds - self.company_seconds)

    @property
    def p95_s(self) -> float:
        return max(self.seconds, self.all_s.p95_s - self.company_seconds)


class Measuring:
    """A profile in the making.

    Args:
        graphs: models whose operators to measure.
        settings: provider and threads.
        plan: how much to measure.
        out: file that is kept up to date on the way, so that a break loses little; None keeps nothing.
        name: the profile's name.
        models: how the user named the models; None takes the graphs' own names.
        start: an earlier result of the same board and runtime, whose completely measured operators are kept.
        report: called with the progress.

    Raises:
        ProfileError: if the runtime lacks the provider, or `start` is of another runtime.
    """

    def __init__(
        self,
        graphs: Sequence[Graph],
        settings: EngineSettings,
        plan: Plan,
        out: Path | None = None,
        name: str = "this-machine",
        models: Sequence[str] | None = None,
        start: ProfileFile | None = None,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        settings.check()
        self.settings = settings
        self.plan = plan
        self.out = out
        self.report = report
        self.benches = [Bench(graph, settings) for graph in graphs]
        named = [graph.name for graph in graphs] if models is None else models
        self.data = ProfileFile(
            name=name,
            device=describe(settings.threads),
            runtime=runtime_of(settings),
            origin=Origin(kind="measured", date=datetime.date.today().isoformat()),
            memory_bytes=int(psutil.virtual_memory().available),
            models=tuple(dict.fromkeys([*(start.models if start is not None else ()), *named])),
            operators={},
        )
        self.operators: dict[str, Measured] = {}
        if start is not None:
            check_same(start, self.data, str(out or start.name))
            self.operators = {key: entry for key, entry in (start.operators or {}).items() if entry.complete}
        self.watch: Watch
        self._saved = time.perf_counter()
        self._points: dict[str, dict[int, _Point]] = {}
        self._edges: list[tuple[int, float]] = []
        self._segments = [
            SegmentTimes(bench, random_cases(bench.graph, plan.segments, CORRECTION_SEED), plan.effort)
            for bench in self.benches
        ]

    def run(self) -> ProfileFile:
        """Measures; returns the profile, which is saved, too, when there is a file.

        What was measured is saved before an interruption goes on.
        """
        with pinned(self.settings.threads) as cores:
            _LOG.info("pinned to cores %s", cores)
            self.watch = Watch()
            sensor = find_sensor()
            idle_w = sensor.mean_w(self.plan.power_s) if sensor else None
            try:
                self._sweep_all()
                self._rest(sensor, idle_w)
            finally:
                self._note_state()
                self._save()
        return self.data

    def _sweep_all(self) -> None:
        """Goes round all operators and segments until each is settled or the time is over.

        So the bursts of one figure lie apart, and those of all lie in the same hours, good and bad.
        """
        jobs = [job for job in jobs_of(self.benches) if job.signature.key not in self.operators]
        stop = time.perf_counter() + self.plan.budget_s
        for sweep in itertools.count():
            open_jobs = [job for job in jobs if not self._is_complete(job)]
            settled = all(times.settled for times in self._segments)
            if (not open_jobs and settled) or (sweep and time.perf_counter() >= stop):
                break
            for what, action in self._tasks(open_jobs, first=not sweep):
                if sweep and time.perf_counter() >= stop:
                    break
                done = len(jobs) - len(open_jobs)
                self.report(Progress(done, len(jobs), what, max(0.0, stop - time.perf_counter()) + _REST_S))
                action()
                self.watch.look()
                if time.perf_counter() - self._saved > _SAVE_EVERY_S:
                    self._save()
        for job in jobs:
            self._keep(job, complete=True)

    def _tasks(self, jobs: Sequence[Job], first: bool) -> Iterator[tuple[str, Callable[[], object]]]:
        for job in jobs:
            yield job.signature.key, functools.partial(self._visit, job, first)
        for times in self._segments:
            sweep = times.sweep()
            for case in times.cases:
                if next(sweep, None) is None:
                    break
                yield f"{times.bench.graph.name}, segments up to cut {case.last}", lambda: None

    def _is_complete(self, job: Job) -> bool:
        entry = self.operators.get(job.signature.key)
        return entry is not None and entry.complete

    def _visit(self, job: Job, first: bool) -> None:
        """Measures an operator's open points once more, or new ones when all are settled."""
        points = self._points.setdefault(job.signature.key, {})
        sampler = RowSampler(job.rows, self.plan.points, self.plan.start)
        rows = [r for r, point in points.items() if not point.settled]
        if first:
            rows = list(sampler.starting())
        elif not rows:
            known = {r: point.seconds for r, point in points.items()}
            rows = list(sampler.next(known, _ROWS_AT_ONCE))
            if not rows:
                self._keep(job, complete=True)
        for count in rows:
            self._burst(job, count, points)
        if rows:
            self._keep(job, complete=False)

    def _burst(self, job: Job, rows: int, points: dict[int, _Point]) -> None:
        point = points.setdefault(rows, _Point())
        # An operator that always runs whole has but one row count, whatever its tensors' height.
        rows = rows if job.rows > 1 else job.signature.rows
        part = job.bench.operator_part(job.operator, rows, job.before, job.after)
        sample = self._time(job.bench, part)
        alone = job.bench.graph.operators[job.operator].op_type in sample.op_types
        if not job.before:
            point.all_s.add(sample.kernels_s)
            self._edges.extend(sample.edges)
            return
        # Where it has a kernel of its own, the convolutions around it show apart; else it made one of them longer.
        point.all_s.add(sample.others_s if alone else sample.kernels_s)
        computed = {item.operator: item.region.rows.size for item in part.operators}
        for other in (*job.before, *job.after):
            if alone and job.bench.graph.operators[other].op_type == "Conv":
                continue
            sample = self._time(job.bench, job.bench.operator_part(other, computed[other]))
            point.company_s.setdefault(other, Series()).add(sample.kernels_s)

    def _time(self, bench: Bench, part: Part) -> Sample:
        return bench.run(bench.segment(part), self.plan.effort)

    def _keep(self, job: Job, complete: bool) -> None:
        points = self._points.get(job.signature.key)
        if points:
            self.operators[job.signature.key] = _measured(points, complete)

    def _rest(self, sensor: Sensor | None, idle_w: float | None) -> None:
        self.report(Progress(0, 1, "copies and encryption", _REST_S))
        copy = measure_copy(min(1.0, self.plan.budget_s / 40))
        encrypt_s = measure_encryption() or 0.0
        profile = ComputeProfile(msgspec.structs.replace(self.data, operators=dict(self.operators)))
        checks = [check for times in self._segments for check in times.checks(profile)]
        found = correction(checks, edge_s_per_byte(self._edges))
        self.data = msgspec.structs.replace(
            self.data,
            copy=Copy(fixed_s=_round(copy.fixed_s), s_per_byte=_round(copy.s_per_byte)),
            encrypt_s_per_byte=_round(encrypt_s),
            segments=Segments(
                factor=_round(found.factor), overhead_s=_round(found.overhead_s), s_per_byte=_round(found.s_per_byte)
            ),
        )
        if sensor is not None and idle_w is not None:
            power = Power(idle_w=_round(idle_w), busy_w=_round(self._busy_w(sensor)), where=sensor.where)
            self.data = msgspec.structs.replace(self.data, power=power)
        self.report(Progress(1, 1, "done", 0.0))

    def _busy_w(self, sensor: Sensor) -> float:
        """Watts while the longest operator runs again and again beside the sensor's reading."""
        import threading

        bench = self.benches[0]
        longest = max(jobs_of([bench]), key=lambda job: max(self.operators[job.signature.key].median_s))
        segment = bench.segment(bench.operator_part(longest.operator, longest.signature.rows))
        effort = Effort(1, 1_000_000, seconds=self.plan.power_s + 0.5, spread=0.0)
        thread = threading.Thread(target=bench.run, args=(segment, effort, False))
        thread.start()
        try:
            return sensor.mean_w(self.plan.power_s)
        finally:
            thread.join()

    def _note_state(self) -> None:
        temperatures = [t for t in (self.data.device.temperature_c, temperature_c()) if t is not None]
        state = msgspec.structs.replace(
            self.data.device,
            temperature_c=max(temperatures, default=None),
            load=_round(self.watch.load),
            pace=_round(self.watch.pace),
            throttled=throttled(),
        )
        self.data = msgspec.structs.replace(self.data, device=state)

    def _save(self) -> None:
        self.data = msgspec.structs.replace(self.data, operators=dict(self.operators))
        self._saved = time.perf_counter()
        if self.out is not None and self.operators:
            write_profile(self.data, self.out)


def edge_s_per_byte(edges: Sequence[tuple[int, float]]) -> float | None:
    """Returns what a byte costs at the edge of a segment, from (bytes, seconds) of many; None when few were seen.

    The median over bytes, not over edges: small ones show what starting one costs.
    """
    if len(edges) < _FEW_EDGES:
        return None
    ordered = sorted(edges, key=lambda edge: edge[1] / edge[0])
    sizes = np.cumsum([size for size, _ in ordered])
    size, seconds = ordered[int(np.searchsorted(sizes, sizes[-1] / 2))]
    return seconds / size


def runtime_of(settings: EngineSettings) -> Runtime:
    """Returns which engine runs here."""
    import onnxruntime

    return Runtime(name="onnxruntime", version=onnxruntime.__version__, provider=settings.provider)


def check_same(earlier: ProfileFile, now: ProfileFile, where: str) -> None:
    """Raises ProfileError when an earlier profile cannot go on here: other runtime, provider, threads or processor."""
    if earlier.origin.kind != "measured":
        raise ProfileError(f"{where}: found a modelled profile, accepted: a measured one; use another file")
    for what, found, here in (
        ("runtime", f"{earlier.runtime.name} {earlier.runtime.version}", f"{now.runtime.name} {now.runtime.version}"),
        ("runtime.provider", earlier.runtime.provider, now.runtime.provider),
        ("device.threads", earlier.device.threads, now.device.threads),
        ("device.processor", earlier.device.processor, now.device.processor),
    ):
        if found != here:
            raise ProfileError(
                f"{where}: {what}: found {found!r}, accepted: {here!r}, which is what runs here; measure anew with "
                "--restart or into another file with --out"
            )


def warnings_of(data: ProfileFile) -> list[str]:
    """Returns what may spoil a measured profile, with the figures."""
    found = []
    device = data.device
    if device.pace is not None and device.pace > 1.1:
        found.append(
            f"disturbed machine: a fixed kernel ran up to {100 * (device.pace - 1):.0f} % slower than at its best"
        )
    if device.load is not None and device.load > 0.1:
        found.append(f"other programs used {100 * device.load:.0f} % of the processors")
    if device.throttled:
        found.append("the board has slowed itself down (heat or supply voltage)")
    if device.governor not in ("", "performance"):
        found.append(f"the frequency governor is '{device.governor}', not 'performance'")
    noisy = [key for key, entry in (data.operators or {}).items() if max(entry.spread) > 0.1]
    if noisy:
        found.append(f"{len(noisy)} of {len(data.operators or {})} operators have a spread above 10 %, as '{noisy[0]}'")
    if any(not entry.complete for entry in (data.operators or {}).values()):
        found.append("measuring was interrupted; run the same command again to go on")
    return found


def _measured(points: dict[int, _Point], complete: bool) -> Measured:
    rows = sorted(points)
    return Measured(
        rows=tuple(rows),
        median_s=tuple(_round(points[r].seconds) for r in rows),
        p95_s=tuple(_round(points[r].p95_s) for r in rows),
        spread=tuple(_round(points[r].all_s.spread) for r in rows),
        repeats=tuple(points[r].all_s.repeats for r in rows),
        complete=complete,
    )


def _round(value: float) -> float:
    """Four digits: more than any measurement has, and files stay small."""
    return float(f"{value:.4g}")
