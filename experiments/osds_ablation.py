"""What each addition of the preset `distredge` gives over OSDS as published.

    python experiments/osds_ablation.py [--quick] [--seeds N] [--budget S] [--workers N] [--clock cpu|wall]

Variants: the paper (preset `osds`), the paper with each addition alone, all of them (preset `distredge`), and all
without each. Each is run with several seeds on published cases in the regime `paper`, with the same budget in processor
seconds. Runs are resumable: a line each in `experiments/results/osds_ablation.jsonl`; what was measured under another
cost model, with other hyper-parameters or another shipped agent is measured anew. Prints a table of the mean gap to the
best on record, of the whole and of the policy alone, and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from distredge.agents.hyperparameters import default_hyperparameters  # noqa: E402 - threads are chosen first
from distredge.agents.settings import TrainingConfig  # noqa: E402
from distredge.experiments.common import osds_runs, records  # noqa: E402
from distredge.experiments.common.regimes import fingerprint, published_problem  # noqa: E402
from distredge.model import zoo  # noqa: E402

REGIME = "paper"
CASES = (
    ("vgg16", "db-50"), ("vgg16", "nd-xavier"), ("vgg16", "ld"), ("resnet50", "db-50"), ("yolov2", "db-50"),
    ("vgg16", "na-nano"),
)  # fmt: skip
SEEDS, BUDGET_S = (0, 1, 2), 20.0
ADDITIONS: dict[str, tuple[str, ...]] = {
    "epsilon": ("epsilon_decay",),
    "vector": ("n_envs", "gradient_steps", "noise_spread", "noise_density"),
    "demonstrations": ("demonstrations",),
    "demonstration-polish": ("demonstration_polish_s",),
    "schemes": ("schemes",),
    "imitation": ("imitation_weight", "imitation_last", "actor_learning_rate"),
    "greedy-choice": ("greedy_freq",),
    "offload": ("offload_memory",),
    "polish": ("polish_s",),
}
"""Addition -> its hyper-parameters. Schemes, their polish and imitation need demonstrations, which they bring along."""

_NEED_DEMONSTRATIONS = ("demonstration-polish", "schemes", "imitation")
PATH = records.RESULTS / "osds_ablation.jsonl"


def variants() -> dict[str, dict[str, Any]]:
    """Variant -> the hyper-parameters in which it differs from the paper's."""
    ours = default_hyperparameters("ddpg")
    found: dict[str, dict[str, Any]] = {"osds": {}}
    for name, keys in ADDITIONS.items():
        needed = (*keys, "demonstrations") if name in _NEED_DEMONSTRATIONS else keys
        found[f"osds+{name}"] = {key: ours[key] for key in needed}
    every = {key: ours[key] for keys in ADDITIONS.values() for key in keys}
    found["distredge"] = every
    for name, keys in ADDITIONS.items():
        found[f"distredge-{name}"] = {key: value for key, value in every.items() if key not in keys}
    return found


Task = tuple[str, str, str, int, float, str]
"""Model, cluster, variant, seed, budget in seconds, clock."""


def main() -> None:
    """Runs what is missing and says the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 cases, 1 seed, 5 s each")
    parser.add_argument("--seeds", type=int, choices=range(1, len(SEEDS) + 1), help=f"default: {len(SEEDS)}")
    parser.add_argument("--budget", type=osds_runs.seconds, help=f"seconds of a run (default: {BUDGET_S:g})")
    parser.add_argument("--clock", choices=list(osds_runs.CLOCKS), default="cpu")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    cases, default_seeds, default_s = (CASES[:2], SEEDS[:1], 5.0) if given.quick else (CASES, SEEDS, BUDGET_S)
    seeds, budget_s = SEEDS[: given.seeds or len(default_seeds)], given.budget or default_s
    tasks: list[Task] = [
        (*case, variant, seed, budget_s, given.clock) for seed in seeds for case in cases for variant in variants()
    ]
    records_of = osds_runs.all_of(PATH, tasks, _key, _fingerprint, run_task, given.workers)
    found: dict[str, list[osds_runs.TrainingRecord]] = {}
    for record in records_of:
        found.setdefault(record.variant, []).append(record)
    print(f"{'variant':32} {'gap':>8} {'policy gap':>11} {'runs':>5}")
    for variant, own in found.items():
        gap, policy = (sum(values) / len(own) for values in ([r.gap for r in own], [r.policy_gap for r in own]))
        print(f"{variant:32} {gap:8.2%} {policy:11.2%} {len(own):5}")
    print(json.dumps({variant: sum(r.gap for r in own) / len(own) for variant, own in found.items()}))


def run_task(task: Task) -> osds_runs.TrainingRecord:
    """Makes one run and adds its record."""
    model, cluster, variant, _, _, clock = task
    problem, best_s = _problem(model, cluster)
    record = osds_runs.train(problem, f"{model} on {cluster}", REGIME, variant, _config(task), clock, best_s)
    osds_runs.append(PATH, record)
    return record


def _config(task: Task) -> TrainingConfig:
    model, cluster, variant, seed, budget_s, _ = task
    return TrainingConfig(
        model=model, cluster=cluster, preset="osds", seed=seed, budget_s=budget_s, hyperparameters=variants()[variant]
    )


@functools.cache
def _problem(model: str, cluster: str) -> tuple[Any, float]:
    problem = published_problem(zoo.build(model), cluster, REGIME)
    return problem, osds_runs.best_on_record_s(problem, f"{model} on {cluster}", REGIME)


def _key(task: Task) -> tuple[Any, ...]:
    model, cluster, variant, seed, budget_s, clock = task
    settings = osds_runs.settings_of(_config(task))
    return f"{model} on {cluster}", REGIME, variant, seed, budget_s, clock, settings


def _fingerprint(task: Task) -> float:
    return fingerprint(_problem(*task[:2])[0])


if __name__ == "__main__":
    main()
