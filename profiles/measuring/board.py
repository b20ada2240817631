"""Measuring a board: every operator signature of some models, at row counts chosen on the way."""

from __future__ import annotations

import datetime
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from distredge.errors import DistredgeError, ProfileError
from distredge.model.graph import Graph
from distredge.profiles.compute import ComputeProfile, write_profile
from distredge.profiles.measuring.bench import Bench, Effort
from distredge.profiles.measuring.correcting import ExpectedError, correction
from distredge.profiles.measuring.engines import CPU, EngineSettings
from distredge.profiles.measuring.machine import Watch, describe, pinned, temperature_c, throttled
from distredge.profiles.measuring.message_ends import measure_copy, measure_encryption
from distredge.profiles.measuring.operator_times import OperatorTimes
from distredge.profiles.measuring.pictures import measure_pictures
from distredge.profiles.measuring.power import Sensor, find_sensor
from distredge.profiles.measuring.repeats import rounded
from distredge.profiles.measuring.row_sampling import RowSampler
from distredge.profiles.measuring.segments import SegmentCase, SegmentTimes, edge_cases, make_case, random_cases
from distredge.profiles.schema import Copy, Measured, Messages, Origin, Pictures, Power, ProfileFile, Segments

_LOG = logging.getLogger(__name__)

CORRECTION_SEED = 1_000_003
"""Seed of the segments that correct a profile; `verify` draws others."""

_SAVE_EVERY_S = 5.0
_ROWS_AT_ONCE = 4
_PARTS_PER_SEGMENT = 3
_MESSAGES_S = 2.0
_LONG_S = 100e-6
"""Spread of what takes less says little: the clock's ticks show."""
_EFFORT = Effort()


@dataclass(frozen=True)
class MeasuringPlan:
    """How much to measure.

    Args:
        budget_s: time for everything; measuring stops at the first chance after it.
        stretch: how many times that it may take where other programs have the processor meanwhile.
        points: row counts for one window of operators at most.
        start: row counts that every one is measured at, at least.
        effort: repeats of one burst.
        segments: random fused segments of each model that correct the profile, beside others chosen for their edges.
        power_s: seconds to watch the power sensor, idle and busy, at most.
    """

    budget_s: float = 120.0
    points: int = 26
    start: int = 13
    effort: Effort = _EFFORT
    segments: int = 30
    power_s: float = 3.0
    stretch: float = 1.0


QUICK = MeasuringPlan(
    budget_s=20.0,
    points=9,
    start=7,
    effort=Effort(3, 60, 0.002, 0.05, spread=0.02),
    segments=8,
    power_s=1.0,
    stretch=3.0,
)


@dataclass(frozen=True)
class MeasuringProgress:
    """What has been done: `done` of `total` steps, what comes now, and the seconds that are left at most."""

    done: int
    total: int
    what: str
    left_s: float


class _Task(NamedTuple):
    what: str
    action: Callable[[], object]


class Measuring:
    """A profile in the making.

    Args:
        graphs: models whose operators to measure.
        settings: what computes, and with how many threads.
        plan: how much to measure; its time runs from here on.
        out: file that is kept up to date on the way, so that a break loses little; None keeps nothing.
        name: the profile's name.
        models: how the user named the models; None takes the graphs' own names.
        start: an earlier result of the same board and runtime, which is kept and gone on with.
        report: called with the progress.
        messages: measures what messages cost within so many seconds, about; None leaves that out.

    Raises:
        ProfileError: if `start` is of another runtime.
    """

    def __init__(
        self,
        graphs: Sequence[Graph],
        settings: EngineSettings,
        plan: MeasuringPlan,
        out: Path | None = None,
        name: str = "this-machine",
        models: Sequence[str] | None = None,
        start: ProfileFile | None = None,
        report: Callable[[MeasuringProgress], None] = lambda progress: None,
        messages: Callable[[float], Messages] | None = None,
    ) -> None:
        self._began_s, self._began_cpu_s = time.perf_counter(), time.process_time()
        self.settings = settings
        self.plan = plan
        self.out = out
        self.report = report
        self._messages = messages
        self._no_messages = ""
        named = [graph.name for graph in graphs] if models is None else models
        self.data = ProfileFile(
            name=name,
            device=describe(settings.threads),
            runtime=settings.runtime(),
            origin=Origin(kind="measured", date=datetime.date.today().isoformat()),
            memory_bytes=int(psutil.virtual_memory().available),
            models=tuple(dict.fromkeys([*(start.models if start is not None else ()), *named])),
            operators={},
        )
        if start is not None:
            check_same(start, self.data, str(out or start.name))
            self.data = msgspec.structs.replace(
                self.data,
                segments=start.segments,
                copy=start.copy,
                encrypt_s_per_byte=start.encrypt_s_per_byte,
                messages=start.messages,
                pictures=start.pictures,
                power=start.power,
                operators=start.operators,
            )
        self.watch: Watch
        self._saved = time.perf_counter()
        self._has_ends = start is not None and start.copy.s_per_byte > 0
        self._segments: list[SegmentTimes] = []
        self.expected: ExpectedError | None = None
        benches = [Bench(graph, settings) for graph in graphs]
        self.table = OperatorTimes(benches, plan.effort, RowSampler(1, plan.points, plan.start), start)

    @property
    def operators(self) -> dict[str, Measured]:
        """The operators' times as far as they are known."""
        return self.table.operators()

    @property
    def missing(self) -> tuple[str, ...]:
        """What the time did not suffice for; the same command run again measures it."""
        open_keys = [key for key in self.table.keys if not self.table.complete(key)]
        found = []
        if open_keys:
            none = sum(key not in self.operators for key in open_keys)
            found.append(
                f"{len(open_keys)} of {len(self.table.keys)} operators are not finished, {none} of them not begun"
            )
        if not any(True for times in self._segments for _ in times.timed) and self.data.segments == Segments():
            found.append("no segment was timed, so that nothing corrects the sum of operators")
        if not self._has_ends:
            found.append("copies and encryption were not measured")
        if self._no_messages:
            found.append(f"what messages cost was not measured: {self._no_messages}")
        return tuple(found)

    def run(self) -> ProfileFile:
        """Measures; returns the profile, which is saved, too, when there is a file.

        What was measured is saved before an interruption goes on.
        """
        self._measure_messages()
        with pinned(self.settings.threads, self.settings.pid) as cores:
            _LOG.info("pinned to cores %s", cores)
            self.watch = Watch()
            sensor = find_sensor()
            power_s = min(self.plan.power_s, self.plan.budget_s / 20)
            idle_w = sensor.mean_w(power_s) if sensor else None
            try:
                self._sweep_all()
                if sensor is not None and idle_w is not None:
                    power = Power(
                        idle_w=rounded(idle_w), busy_w=rounded(self._busy_w(sensor, power_s)), where=sensor.where
                    )
                    self.data = msgspec.structs.replace(self.data, power=power)
            finally:
                self._correct()
                self._note_state()
                self._save()
        self.report(MeasuringProgress(1, 1, "done", 0.0))
        return self.data

    def _left_s(self) -> float:
        """Seconds that are left: by the clock, or by the time that this process had the processor."""
        passed_s = time.perf_counter() - self._began_s
        if self.plan.stretch > 1 and self.settings.pid is None and self.settings.provider == CPU:
            used_s = (time.process_time() - self._began_cpu_s) / self.settings.threads
            passed_s = max(passed_s / self.plan.stretch, min(passed_s, used_s))
        return self.plan.budget_s - passed_s

    def _sweep_all(self) -> None:
        """Goes round all operators and segments until each is settled or the time is over.

        So the bursts of one figure lie apart, and those of all lie in the same hours, good and bad.
        """
        keys = self.table.keys
        for sweep in itertools.count():
            tasks = 0
            for task in self._tasks(first=not sweep):
                done = sum(self.table.complete(key) for key in keys)
                left_s = self._left_s()
                # One measurement at least, so that going on again and again comes to an end whatever the budget.
                if left_s <= 0 and (sweep or tasks):
                    return
                tasks += 1
                self.report(MeasuringProgress(done, len(keys), task.what, max(0.0, left_s)))
                task.action()
                self.watch.look()
                if time.perf_counter() - self._saved > _SAVE_EVERY_S:
                    self._save()
            if not tasks:
                return

    def _tasks(self, first: bool) -> Iterator[_Task]:
        """What one sweep measures, the indispensable first."""
        for what, action in self.table.whole(first):
            yield _Task(what, action)
        if first and not self._has_ends:
            yield _Task("copies and encryption", self._measure_ends)
        if first and self.data.pictures is None:
            yield _Task("a JPEG picture", self._measure_pictures)
        if first:
            self._segments = [
                SegmentTimes(bench, self._cases(bench.graph), self.plan.effort) for bench in self.table.benches
            ]
        # In between, so that segments and the operators that they are compared with meet the same hours.
        segments = self._segment_tasks()
        for number, (what, action) in enumerate(self.table.parts(first, _ROWS_AT_ONCE)):
            yield _Task(what, action)
            if number % _PARTS_PER_SEGMENT == 0:
                yield from itertools.islice(segments, 1)
        yield from segments

    def _cases(self, graph: Graph) -> tuple[SegmentCase, ...]:
        """Segments that correct the profile, drawn and chosen in turn: when time is short both are there."""
        drawn = list(random_cases(graph, self.plan.segments, CORRECTION_SEED))
        chosen = edge_cases(graph, (self.plan.segments + 1) // 2, CORRECTION_SEED + 1)
        both = itertools.zip_longest(drawn, chosen)
        return tuple(case for pair in both for case in pair if case is not None)

    def _segment_tasks(self) -> Iterator[_Task]:
        for times in self._segments:
            for index in times.unsettled:
                what = f"{times.bench.graph.name}, segment up to cut {times.cases[index].last}"
                yield _Task(what, functools.partial(times.time, index))

    def _measure_messages(self) -> None:
        """Before this process is pinned: the transport's threads have cores of their own where there are some."""
        if self._messages is None or self.data.messages is not None:
            return
        seconds = min(_MESSAGES_S, self.plan.budget_s / 10)
        self.report(MeasuringProgress(0, len(self.table.keys), "messages", max(0.0, self._left_s())))
        try:
            self.data = msgspec.structs.replace(self.data, messages=self._messages(seconds))
        except DistredgeError as reason:
            self._no_messages = str(reason)

    def _measure_ends(self) -> None:
        copy = measure_copy(min(1.0, self.plan.budget_s / 40))
        encrypt_s = measure_encryption(32 if self.plan.budget_s > 60 else 4) or 0.0
        self.data = msgspec.structs.replace(
            self.data,
            copy=Copy(fixed_s=rounded(copy.fixed_s), s_per_byte=rounded(copy.s_per_byte)),
            encrypt_s_per_byte=rounded(encrypt_s),
        )
        self._has_ends = True

    def _measure_pictures(self) -> None:
        found = measure_pictures(min(1.0, self.plan.budget_s / 40))
        if found is not None:
            costs = Pictures(s_per_pixel=rounded(found.s_per_pixel), s_per_input_pixel=rounded(found.s_per_input_pixel))
            self.data = msgspec.structs.replace(self.data, pictures=costs)

    def _correct(self) -> None:
        """Finds the correction of segments, if all operators of those that were timed are known."""
        profile = ComputeProfile(msgspec.structs.replace(self.data, operators=self.operators))
        checks = [check for times in self._segments for check in times.checks(profile)]
        if not checks:
            return
        found, self.expected = correction(checks, self.table.besides, self.data.copy.s_per_byte)
        if self.expected is None:
            return
        segments = Segments(
            factor=rounded(found.factor), overhead_s=rounded(found.overhead_s), s_per_byte=rounded(found.s_per_byte)
        )
        self.data = msgspec.structs.replace(self.data, segments=segments)

    def _busy_w(self, sensor: Sensor, seconds: float) -> float:
        """Watts while a segment runs again and again beside the sensor's reading."""
        import threading

        bench = self.table.benches[0]
        case = make_case(bench.graph, -1, len(bench.graph.cuts) - 1, (0, bench.graph.cuts[-1].height), 0)
        assert case is not None
        segment = bench.segment(case.part, case.layout)
        effort = Effort(1, 1_000_000, seconds=seconds + 0.5, most_s=seconds + 0.5, spread=0.0)
        thread = threading.Thread(target=bench.run, args=(segment, effort, False))
        thread.start()
        try:
            return sensor.mean_w(seconds)
        finally:
            thread.join()

    def _note_state(self) -> None:
        temperatures = [t for t in (self.data.device.temperature_c, temperature_c()) if t is not None]
        state = msgspec.structs.replace(
            self.data.device,
            temperature_c=max(temperatures, default=None),
            load=rounded(self.watch.load),
            pace=rounded(self.watch.pace),
            throttled=throttled(),
        )
        self.data = msgspec.structs.replace(self.data, device=state)

    def _save(self) -> None:
        self.data = msgspec.structs.replace(self.data, operators=self.operators)
        self._saved = time.perf_counter()
        if self.out is not None and self.data.operators:
            write_profile(self.data, self.out)


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
    noisy = [
        key
        for key, entry in (data.operators or {}).items()
        if any(s > 0.1 and t > _LONG_S for s, t in zip(entry.spread, entry.median_s, strict=True))
    ]
    if noisy:
        found.append(f"{len(noisy)} of {len(data.operators or {})} operators have a spread above 10 %, as '{noisy[0]}'")
    if any(not entry.complete for entry in (data.operators or {}).values()):
        found.append("measuring did not come to its end; run the same command again to go on")
    return found
