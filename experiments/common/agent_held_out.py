"""Held-out cases of the trained agent: how they are drawn, where they stand, and what is on record of `search` on them.

Three sets of 100 cases: `four` and `sixteen` devices, seen and unseen models mixed, and `unseen`, 2 to 8 devices and
unseen models alone. In three quarters of each there is room: a short search beats the best single device by 15 %.

On record is `search` without the agent's starts: its plan after 1 s, 5 s above 8 devices (`baseline.jsonl`), and what
it finds in some milliseconds (`equal_time.jsonl`). Its budgets are in processor time over the number of its threads,
which is wall-clock time on a machine that does nothing else.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from distredge.errors import FileError, Infeasible
from distredge.experiments.common.agent_cases import (
    HELD_OUT_VARIANTS,
    UNSEEN_MODELS,
    AgentCase,
    draw_case,
    other_rates,
    read_cases,
)
from distredge.experiments.common.records import RESULTS, append_line, compact, today
from distredge.experiments.common.regimes import fingerprint
from distredge.latency import evaluate, offload_latency_s
from distredge.planners.annealing.lowest_latency import Search
from distredge.planners.budget import Budget
from distredge.planners.common.building import predict
from distredge.problem import Problem
from distredge.processors import usable_cores
from distredge.strategy import Strategy

FOLDER = RESULTS / "agent_quality"
BASELINE, EQUAL_TIME = FOLDER / "baseline.jsonl", FOLDER / "equal_time.jsonl"

ROOM = 1.15
"""A case has room where `search` gives at least so many times the images per second of the best single device."""

SHORT_EVALUATIONS = 60_000
"""Of the search that looks whether a case that was drawn has room."""

EQUAL_TIME_MS = (5.0, 10.0, 15.0, 20.0, 40.0)
EQUAL_TIME_SEEDS = (0, 1, 2)

NAMED = 10
"""Cases that an error names, at most."""

_Record = TypeVar("_Record", bound=Struct)


@dataclass(frozen=True)
class HeldOutSet:
    """How a set is drawn: seed, models, fewest and most devices, cases, and how many of them have room."""

    seed: int
    models: tuple[str, ...]
    n_devices: tuple[int, int]
    cases: int = 100
    with_room: int = 76


SETS = {
    "four": HeldOutSet(20261201, tuple(HELD_OUT_VARIANTS), (4, 4)),
    "sixteen": HeldOutSet(20261202, tuple(HELD_OUT_VARIANTS), (16, 16)),
    "unseen": HeldOutSet(20261203, UNSEEN_MODELS, (2, 8)),
}


class BaselineRun(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`search` without the agent's starts on one case.

    Attributes:
        case: its name.
        latency_s, offload_latency_s: of its strategy and of the best single device, simulated.
        budget_s: processor seconds over `threads`.
        seed: of the run.
        cpu_s: processor seconds that it took, all threads.
        threads, cores: of the search; of the machine.
        fingerprint: `regimes.fingerprint` of the problem.
        strategy: what it found.
        date: when.
    """

    case: str
    latency_s: float
    offload_latency_s: float
    budget_s: float
    seed: int
    cpu_s: float
    threads: int
    cores: int
    fingerprint: float
    strategy: dict[str, Any]
    date: str


class EqualTimeRun(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`search` without the agent's starts under budgets of milliseconds; boards and model were planned before.

    Attributes:
        case: its name.
        asked_ms: budgets, in processor time over `threads`.
        latency_s: median over `seeds`, simulated, for each budget.
        wall_ms: wall-clock time of a whole call, the lowest of the seeds, for each budget.
        cpu_ms: processor time of a whole call, all threads, median over the seeds, for each budget.
        seeds: of the runs.
        threads, cores, fingerprint, date: as in `BaselineRun`.
    """

    case: str
    asked_ms: tuple[float, ...]
    latency_s: tuple[float, ...]
    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]
    seeds: tuple[int, ...]
    threads: int
    cores: int
    fingerprint: float
    date: str

    @property
    def call_ms(self) -> tuple[float, ...]:
        """Least time that each call takes on a machine that does nothing else.

        All threads compute within the budget and one outside of it, so that it is processor time less what the other
        threads spent. Parts within the budget in which one thread computes make it longer, which is not counted.
        """
        each = zip(self.cpu_ms, self.asked_ms, strict=True)
        return tuple(cpu_ms - (self.threads - 1) * asked_ms for cpu_ms, asked_ms in each)


_Kind: TypeAlias = type[BaselineRun] | type[EqualTimeRun]


def draw_set(name: str, wanted: HeldOutSet) -> Iterator[AgentCase]:
    """Draws a set; its seed alone decides which cases it has.

    Args:
        name: of the set.
        wanted: how it is drawn.
    """
    rng = np.random.default_rng(wanted.seed)
    left = {True: wanted.with_room, False: wanted.cases - wanted.with_room}
    while sum(left.values()):
        done = wanted.cases - sum(left.values())
        case = draw_case(rng, wanted.models, wanted.n_devices, held_out=True, name=f"{name}-{done}")
        room = has_room(case.problem())
        if left[room]:
            left[room] -= 1
            yield case


def has_room(problem: Problem) -> bool:
    """Whether a short search, limited in evaluations, beats the best single device by `ROOM`."""
    try:
        found = Search(problem, Budget(evaluations=SHORT_EVALUATIONS), 0).run()
    except Infeasible:
        return False
    return offload_latency_s(problem) >= ROOM * evaluate(problem, found)


def path_of(name: str) -> Path:
    """Where a set stands."""
    return FOLDER / f"{name}.json"


def held_out(name: str) -> tuple[AgentCase, ...]:
    """The cases of a set.

    Raises:
        FileError: when it is not there or wrong.
    """
    return read_cases(path_of(name))


def baseline_seconds(devices: int) -> float:
    """What the baseline is given: 1 s, 5 s above 8 devices."""
    return 1.0 if devices <= 8 else 5.0


def search_alone(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """`search` without the agent's starts, whatever the default is, with its predicted figures."""
    return predict(problem, Search(problem, budget, seed).run())


def record_baseline(case: AgentCase, seed: int = 0) -> BaselineRun:
    """Runs the baseline on a case."""
    problem, threads = case.problem(), _threads()
    budget_s = baseline_seconds(len(case.boards))
    begin_s = time.process_time()
    strategy = search_alone(problem, Budget(budget_s, clock=_clock(threads)), seed)
    return BaselineRun(
        case=case.name,
        latency_s=strategy.predicted["latency_s"],
        offload_latency_s=strategy.predicted["offload_latency_s"],
        budget_s=budget_s,
        seed=seed,
        cpu_s=round(time.process_time() - begin_s, 3),
        threads=threads,
        cores=os.cpu_count() or 1,
        fingerprint=fingerprint(problem),
        strategy=compact(strategy),
        date=today(),
    )


def record_equal_time(case: AgentCase) -> EqualTimeRun:
    """Runs the search under budgets of milliseconds, after it has planned the same boards and model before."""
    threads = _threads()
    search_alone(other_rates(case, 1).problem(), Budget(0.02, clock=_clock(threads)), 0)
    problem = case.problem()
    search_alone(problem, Budget(0.02, clock=_clock(threads)), 0)
    latency_s, wall_ms, cpu_ms = [], [], []
    for asked_ms in EQUAL_TIME_MS:
        runs = []
        for seed in EQUAL_TIME_SEEDS:
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            found = search_alone(problem, Budget(asked_ms / 1e3, clock=_clock(threads)), seed)
            runs.append((found.predicted["latency_s"], time.perf_counter() - wall_s, time.process_time() - cpu_s))
        latency_s.append(statistics.median(run[0] for run in runs))
        wall_ms.append(round(1e3 * min(run[1] for run in runs), 3))
        cpu_ms.append(round(1e3 * statistics.median(run[2] for run in runs), 3))
    return EqualTimeRun(
        case=case.name,
        asked_ms=EQUAL_TIME_MS,
        latency_s=tuple(latency_s),
        wall_ms=tuple(wall_ms),
        cpu_ms=tuple(cpu_ms),
        seeds=EQUAL_TIME_SEEDS,
        threads=threads,
        cores=os.cpu_count() or 1,
        fingerprint=fingerprint(problem),
        date=today(),
    )


def read_records(path: Path, kind: type[_Record]) -> dict[str, _Record]:
    """Records by case; the newest counts, and a line that was cut off by a kill is left out.

    Raises:
        FileError: naming file and line, if a line is not of that kind.
    """
    found: dict[str, _Record] = {}
    if not path.exists():
        return found
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            fields = json.loads(line)
        except json.JSONDecodeError:
            continue
        try:
            record = msgspec.convert(fields, kind)
        except msgspec.ValidationError as reason:
            raise FileError(f"{path}: line {number}: {reason}") from None
        found[fields["case"]] = record
    return found


def append_record(path: Path, record: Struct) -> None:
    """Adds a record as one line."""
    append_line(path, msgspec.json.encode(record))


def missing(cases: Sequence[AgentCase], path: Path, kind: _Kind) -> list[AgentCase]:
    """Cases that have no record yet, or one from under another cost model."""
    there = read_records(path, kind)
    return [case for case in cases if not _is_of(there.get(case.name), fingerprint(case.problem()))]


def check_records(cases: Sequence[AgentCase]) -> None:
    """Checks that what a planner is held against is on record, and from under the cost model of today.

    Raises:
        FileError: naming the first cases of which it is not, and what to do.
    """
    today = {case.name: fingerprint(case.problem()) for case in cases}
    compared: tuple[tuple[Path, _Kind], ...] = ((BASELINE, BaselineRun), (EQUAL_TIME, EqualTimeRun))
    for path, kind in compared:
        there = read_records(path, kind)
        lacking = [name for name, seconds in today.items() if not _is_of(there.get(name), seconds)]
        if lacking:
            others = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
            raise FileError(
                f"{path}: no record under the cost model of today of {', '.join(lacking[:NAMED])}{others}: "
                "run it with --baseline first"
            )


def _is_of(record: BaselineRun | EqualTimeRun | None, today: float) -> bool:
    return record is not None and math.isclose(record.fingerprint, today, rel_tol=1e-9)


def _threads() -> int:
    """Threads of the search: as many as it takes by itself."""
    from distredge.planners.annealing.pace import POPULATIONS

    return min(POPULATIONS, usable_cores())


def _clock(threads: int) -> Callable[[], float]:
    return lambda: time.process_time() / threads
