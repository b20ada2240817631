"""How near `train-agent` comes to the best on record, over the published cases.

    python experiments/train_agent_gap.py [--quick | --full] [--variants A,B] [--workers N] [--clock cpu|wall]

Runs the default preset with a budget of 60 s on all 32 published cases, on shared links and as published (regimes
`shared` and `paper`), beside it `distredge/Partition-v0` (`--full`), the preset `osds`, and annealing of the rows on
LC-PSS's scheme, its ceiling. Budgets are processor seconds of the process, so that other programs do not matter.
`--quick` takes 3 cases with 10 s. Runs are resumable: a line each in `experiments/results/train_agent/`. What was
measured under another cost model, with other hyper-parameters or another shipped agent is measured anew.

The last line on stdout is a JSON object:

train_agent_gap_mean            of the default preset: latency over the best on record, minus 1
train_agent_gap_mean_room       the same over cases in which the best beats one device by 15 %
train_agent_worse_than_offload  runs that are slower than the best single device
train_agent_policy_gap_mean     of the greedy rollout of the policy alone: images per second that it lacks
partition_agent_gap_mean, osds_gap_mean, lcpss_ceiling_gap_mean
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from distredge.agents.settings import TrainingConfig  # noqa: E402 - threads are chosen first
from distredge.envs import PARTITION  # noqa: E402
from distredge.experiments.common import osds_ceiling, osds_runs, published, records  # noqa: E402
from distredge.experiments.common.regimes import fingerprint, published_problem  # noqa: E402
from distredge.model import zoo  # noqa: E402

REGIMES = ("shared", "paper")
QUICK = (("vgg16", "db-50"), ("resnet50", "db-50"), ("vgg16", "nd-xavier"))
VARIANTS: dict[str, dict[str, Any]] = {
    "distredge": {},
    "osds": {"preset": "osds"},
    "partition": {"env": PARTITION},
}
CEILING = "lcpss-ceiling"
PATH = records.RESULTS / "train_agent" / "gap.jsonl"

Task = tuple[str, str, str, str, float, str]
"""Model, cluster, regime, variant, budget in seconds, clock."""


def main() -> None:
    """Runs what is missing and says the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="3 cases, 10 s each")
    size.add_argument("--full", action="store_true", help="also the environment in which the agent chooses the cuts")
    parser.add_argument("--budget", type=osds_runs.seconds, help="seconds of a run (default: 60; 10 with --quick)")
    parser.add_argument("--variants", type=_variants, help=f"some of {', '.join((*VARIANTS, CEILING))}, with commas")
    parser.add_argument("--clock", choices=list(osds_runs.CLOCKS), default="cpu")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    budget_s = given.budget or (10.0 if given.quick else 60.0)
    cases = QUICK if given.quick else published.cases()
    variants = given.variants or [name for name in (*VARIANTS, CEILING) if given.full or name != "partition"]
    tasks: list[Task] = [
        (*case, regime, variant, budget_s, given.clock) for variant in variants for case in cases for regime in REGIMES
    ]
    print(json.dumps(figures(osds_runs.all_of(PATH, tasks, _key, _fingerprint, run_task, given.workers))))


def _variants(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in (*VARIANTS, CEILING):
            raise argparse.ArgumentTypeError(f"found {name}, accepted: {', '.join((*VARIANTS, CEILING))}")
    return names


def figures(found: list[osds_runs.TrainingRecord]) -> dict[str, float | int | None]:
    """The keys of the module's text, from the records of one measurement."""
    own = [record for record in found if record.variant == "distredge"]
    return {
        "train_agent_gap_mean": _mean([record.gap for record in own]),
        "train_agent_gap_mean_room": _mean([record.gap for record in own if record.has_room]),
        "train_agent_gap_worst": max((record.gap for record in own), default=None),
        "train_agent_worse_than_offload": sum(r.latency_s > r.offload_s * (1 + 1e-9) for r in own),
        "train_agent_policy_gap_mean": _mean([record.policy_gap for record in own]),
        "partition_agent_gap_mean": _mean([record.gap for record in found if record.variant == "partition"]),
        "osds_gap_mean": _mean([record.gap for record in found if record.variant == "osds"]),
        "osds_policy_gap_mean": _mean([record.policy_gap for record in found if record.variant == "osds"]),
        "lcpss_ceiling_gap_mean": _mean([record.gap for record in found if record.variant == CEILING]),
        "runs": len(found),
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def run_task(task: Task) -> osds_runs.TrainingRecord:
    """Makes one run and adds its record."""
    model, cluster, regime, variant, budget_s, clock = task
    problem, best_s = _problem(model, cluster, regime)
    case = f"{model} on {cluster}"
    if variant == CEILING:
        record = osds_ceiling.ceiling_s(problem, case, regime, budget_s, clock, best_s)
    else:
        record = osds_runs.train(problem, case, regime, variant, _config(task), clock, best_s)
    osds_runs.append(PATH, record)
    return record


def _config(task: Task) -> TrainingConfig:
    model, cluster, _, variant, budget_s, _ = task
    return TrainingConfig(model=model, cluster=cluster, budget_s=budget_s, **VARIANTS[variant])


@functools.cache
def _problem(model: str, cluster: str, regime: str) -> tuple[Any, float]:
    problem = published_problem(zoo.build(model), cluster, regime)
    return problem, osds_runs.best_on_record_s(problem, f"{model} on {cluster}", regime)


def _key(task: Task) -> tuple[Any, ...]:
    model, cluster, regime, variant, budget_s, clock = task
    settings = osds_ceiling.settings() if variant == CEILING else osds_runs.settings_of(_config(task))
    return f"{model} on {cluster}", regime, variant, 0, budget_s, clock, settings


def _fingerprint(task: Task) -> float:
    return fingerprint(_problem(*task[:3])[0])


if __name__ == "__main__":
    main()
