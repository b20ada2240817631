"""What was planned before: a file of JSON lines per regime, only ever added to, so that long runs can go on."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distredge.errors import DistredgeError, Infeasible
from distredge.latency import evaluate
from distredge.problem import Problem
from distredge.strategy import Strategy

RESULTS = Path(__file__).resolve().parent.parent / "results"
_SAME = 1e-9


@dataclass(frozen=True)
class MethodRun:
    """One method's run on one problem, as its record stands in the file.

    Attributes:
        case: model and cluster, or number of a random case.
        method: planner.
        budget_s: seconds that it was given; of the processor where `clock` says so.
        clock: "cpu" or "wall".
        seed: of the run.
        latency_s: of its strategy; None where the method does not apply.
        taken_s: seconds that it took, by `clock`.
        cpu_s: processor seconds that it took, all threads.
        evaluations: strategies that it priced.
        reached: (seconds since its start by `clock`, best latency by then), whenever it improved.
        strategy: what it found; None where it is not kept.
        refused: why it does not apply; "" where it does.
        fingerprint: `regimes.fingerprint` of the problem.
        cut_short: what the budget cut off, in the method's words.
        date, cores: when, and on how many processors.
    """

    case: str
    method: str
    budget_s: float
    clock: str
    seed: int
    latency_s: float | None
    taken_s: float
    cpu_s: float
    evaluations: int
    fingerprint: float
    reached: tuple[tuple[float, float], ...] = ()
    strategy: dict[str, Any] | None = None
    refused: str = ""
    cut_short: str = ""
    date: str = ""
    cores: int = 0

    def is_of(self, fingerprint: float) -> bool:
        """Whether it was found under the cost model of today."""
        return math.isclose(self.fingerprint, fingerprint, rel_tol=_SAME)


def path_of(regime: str) -> Path:
    """Where the records of a regime stand."""
    return RESULTS / "planner_quality" / f"{regime}.jsonl"


def read(path: Path) -> list[MethodRun]:
    """All records of a file; a line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            fields = json.loads(line)
        except json.JSONDecodeError:
            continue
        found.append(MethodRun(**{**fields, "reached": tuple((s, v) for s, v in fields.get("reached", ()))}))
    return found


def append(path: Path, record: MethodRun) -> None:
    """Adds a record in one write, with the date and the number of processors."""
    fields = {**record.__dict__, "date": today(), "cores": len(os.sched_getaffinity(0))}
    kept = {key: value for key, value in fields.items() if value not in (None, (), "")}
    append_line(path, json.dumps({"latency_s": None, **kept}, separators=(",", ":"), allow_nan=False).encode())


def append_line(path: Path, line: bytes) -> None:
    """Adds a line to a file in one write; a line before it that was cut off by a kill is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        broken = False
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            broken = file.read(1) != b"\n"
        file.write(b"\n" * broken + line + b"\n")


def today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def compact(strategy: Strategy) -> dict[str, Any]:
    """A strategy's file as one object, without what it was predicted to cost."""
    content: dict[str, Any] = json.loads(strategy.replace(predicted={}).to_json())
    return content


def price(problem: Problem, record: MethodRun) -> float | None:
    """Latency of a record today: its strategy priced again, or what it says if the cost model is the same."""
    if record.strategy is None:
        return record.latency_s
    try:
        strategy = Strategy.from_json(json.dumps(record.strategy), "record")
        strategy.check(problem.graph)
        return evaluate(problem, strategy)
    except Infeasible:
        return math.inf
    except DistredgeError:
        return None


def best_latency_s(problem: Problem, records: Iterable[MethodRun]) -> float:
    """The lowest latency that any record's strategy has; infinite without one."""
    found = (price(problem, record) for record in records if record.strategy is not None)
    return min((latency_s for latency_s in found if latency_s is not None), default=math.inf)
