"""One run of `train-agent` on a published case, measured by processor time, and its record."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from distredge.agents.osds import found_strategy, prepare
from distredge.agents.settings import TrainingConfig
from distredge.agents.training import run_training
from distredge.experiments.common import records
from distredge.experiments.common.digests import agent_digest, digest
from distredge.experiments.common.regimes import fingerprint
from distredge.latency import offload_latency_s
from distredge.planners.budget import Budget
from distredge.problem import Problem

Task = TypeVar("Task", bound=tuple[Any, ...])

CLOCKS: Mapping[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.monotonic}


@dataclass(frozen=True)
class TrainingRecord:
    """What a run found.

    Attributes:
        case: model and cluster.
        regime: one of `regimes.REGIMES`.
        variant: what was run, such as "distredge" or "osds".
        seed: of the run.
        budget_s: seconds that it was given, by `clock`.
        clock: "cpu" or "wall".
        latency_s: of its strategy.
        policy_s: of the greedy rollout of its policy alone.
        offload_s: of the best single device.
        best_s: the lowest on record when it was measured.
        episodes, updates: of the run.
        found_in_episode: 0 for a demonstration.
        prepared_s: seconds of `budget_s` that demonstrations and the scheme took.
        taken_s: seconds that the run took in all, by `clock`.
        scheme: where the partition scheme comes from.
        fingerprint: of the cost model.
        settings: `settings_of` its configuration.
        date, cores: when, and on how many processors.
    """

    case: str
    regime: str
    variant: str
    seed: int
    budget_s: float
    clock: str
    latency_s: float
    policy_s: float
    offload_s: float
    best_s: float
    episodes: int
    updates: int
    found_in_episode: int
    prepared_s: float
    taken_s: float
    scheme: str
    fingerprint: float
    settings: str = ""
    date: str = field(default_factory=records.today)
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells runs apart."""
        return self.case, self.regime, self.variant, self.seed, self.budget_s, self.clock, self.settings

    def is_of(self, fingerprint: float) -> bool:
        """Whether it was found under the cost model of today."""
        return math.isclose(self.fingerprint, fingerprint, rel_tol=1e-9)

    @property
    def gap(self) -> float:
        """How much longer it takes than the best on record; 0 where it is that."""
        return max(0.0, self.latency_s / self.best_s - 1.0)

    @property
    def policy_gap(self) -> float:
        """Share of the best's images per second that the policy alone lacks."""
        return max(0.0, 1.0 - self.best_s / self.policy_s)

    @property
    def has_room(self) -> bool:
        """Whether the best on record beats the best single device by 15 %."""
        return self.offload_s / self.best_s >= 1.15


def settings_of(config: TrainingConfig) -> str:
    """Letters for all that decides what a run finds beside problem, seed and time, the shipped agent included.

    The agent is asked where there are demonstrations.
    """
    agent = agent_digest() if config.hyperparameters["demonstrations"] else ""
    return digest([config.algo, config.env, config.alpha, dict(config.hyperparameters), agent])


def train(
    problem: Problem, case: str, regime: str, variant: str, config: TrainingConfig, clock: str, best_s: float
) -> TrainingRecord:
    """Runs one training; loading and compiling do not count.

    Args:
        problem: model and cluster.
        case, regime, variant: for the record.
        config: with `budget_s`.
        clock: one of `CLOCKS`.
        best_s: the lowest latency on record.
    """
    assert config.budget_s is not None
    _load(problem, config)
    now = CLOCKS[clock]
    begin_s = now()
    budget = Budget(config.budget_s, config.episodes, clock=now)
    prepared = prepare([problem], config)
    prepared_s = now() - begin_s
    trained = run_training(prepared.env, config, demonstrations=prepared.demonstrations, budget=budget)
    strategy = found_strategy(problem, config, trained, known=prepared.known[0])
    return TrainingRecord(
        case, regime, variant, config.seed, config.budget_s, clock,
        strategy.predicted["latency_s"], trained.policy_s[0], offload_latency_s(problem), best_s,
        trained.episodes, trained.updates, trained.best.episode, prepared_s, now() - begin_s, prepared.scheme,
        fingerprint(problem), settings_of(config),
    )  # fmt: skip


_loaded: set[tuple[str, str, bool]] = set()


def _load(problem: Problem, config: TrainingConfig) -> None:
    """Compiles what a run needs, on a short one."""
    import dataclasses

    key = config.algo, config.env, problem.cluster.link_model == "shared"
    if key in _loaded:
        return
    _loaded.add(key)
    short = dataclasses.replace(config, budget_s=None, episodes=40)
    prepared = prepare([problem], short)
    trained = run_training(prepared.env, short, demonstrations=prepared.demonstrations)
    found_strategy(problem, short, trained, known=prepared.known[0])


def seconds(text: str) -> float:
    """A budget on a command line.

    Raises:
        argparse.ArgumentTypeError: unless it is a finite number above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"found {text}, accepted: a number of seconds above 0")
    return value


def read(path: Path) -> list[TrainingRecord]:
    """All records of a file; a line that was cut off by a kill is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(TrainingRecord(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return found


def append(path: Path, record: TrainingRecord) -> None:
    """Adds a record in one write."""
    records.append_line(path, json.dumps(asdict(record), separators=(",", ":"), allow_nan=False).encode())


def is_done(record: TrainingRecord | None, fingerprint_now: float) -> bool:
    """Whether there is a record, under the cost model of today."""
    return record is not None and record.is_of(fingerprint_now)


def all_of(
    path: Path,
    tasks: Sequence[Task],
    key_of: Callable[[Task], tuple[Any, ...]],
    fingerprint_of: Callable[[Task], float],
    run_task: Callable[[Task], TrainingRecord],
    workers: int,
) -> list[TrainingRecord]:
    """Runs the tasks of which there is no record under the cost model of today; returns the records of all.

    Args:
        path: of the records.
        tasks: what is wanted.
        key_of: key of a task's record.
        fingerprint_of: says the cost model of a task.
        run_task: makes a run and adds its record; a function of a module.
        workers: processes.
    """
    done = {record.key: record for record in read(path)}
    missing = [task for task in tasks if not is_done(done.get(key_of(task)), fingerprint_of(task))]
    # A process of its own for each worker, begun anew: torch and numba do not survive a fork with threads.
    with ProcessPoolExecutor(max(1, workers), mp_context=get_context("spawn")) as pool:
        for number, record in enumerate(pool.map(run_task, missing), 1):
            done[record.key] = record
            print(
                f"{number}/{len(missing)} {record.case} {record.regime} {record.variant} {record.seed}: "
                f"{1e3 * record.latency_s:.2f} ms, gap {record.gap:.2%}, policy gap {record.policy_gap:.2%}",
                flush=True,
            )
    return [done[key_of(task)] for task in tasks]


def best_on_record_s(problem: Problem, case: str, regime: str) -> float:
    """The lowest latency of any record of `planner_quality` on a case, priced today."""
    own = [record for record in records.read(records.path_of(regime)) if record.case == case]
    return records.best_latency_s(problem, own)
