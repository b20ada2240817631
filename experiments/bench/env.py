"""How fast environments step: one, and many together, on one core.

    python experiments/bench/env.py [--quick]

VGG-16 on the published case db-50 with LC-PSS's partition scheme, actions uniform from -1 to 1, drawn beforehand. A
step is one volume of one environment: a split decision, its price, observation, reward and info, and the reset where an
episode ends. Vector environments begin anew in the same step (stable-baselines3's contract) or in the next one
(Gymnasium's default, where the step that begins an episode counts as one: it is less work). The single environment is
measured as `gymnasium.make` gives it, in its default wrappers (PassiveEnvChecker, OrderEnforcing), and bare.

The rows below that are the same under `shared` links, where every step prices all volumes decided, and with
`distredge/Partition-v0`, where the agent chooses where volumes end.

The process is bound to one core. Rates are steps per second of processor time, so that programs
beside it count little (they still take cache and clock from it: `others_share` is what they used of that core
meanwhile); each is the median of several repeats, the best one stands beside it.

Prints a table and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from distredge.cluster import Cluster, load_cluster
from distredge.envs import PARTITION, SPLIT_ROWS
from distredge.experiments.common.executor_workers import Others
from distredge.model.capture import load_model

CASE, MODEL = "db-50", "vgg16"
COUNTS = (1, 64, 1024, 4096)
MODES = ("SameStep", "NextStep")
REPEATS, SECONDS = 5, 0.5
QUICK_REPEATS, QUICK_SECONDS = 3, 0.2
DRAWN = 16
"""Steps for which vector environments have actions of their own before these come again."""


def rates(step: Callable[[int], object], n_envs: int, repeats: int, seconds: float) -> tuple[float, float]:
    """Median and best rate over repeats.

    Args:
        step: takes one step of all environments; given its number.
        n_envs: that step together.
        repeats: how often the rate is taken.
        seconds: of processor time for each, about.
    """
    for number in range(8):
        step(number)  # loads, compiles and fills caches
    count, took = 8, 0.0
    while took < seconds / 4:
        count *= 2
        began_s = time.process_time()
        for number in range(count):
            step(number)
        took = time.process_time() - began_s
    count = max(1, round(count * seconds / took))
    found = []
    for _ in range(repeats):
        began_s = time.process_time()
        for number in range(count):
            step(number)
        found.append(n_envs * count / (time.process_time() - began_s))
    return statistics.median(found), max(found)


def single_step(name: str, bare: bool, **arguments: Any) -> Callable[[int], object]:
    """A step of one environment, which is reset when its episode is over."""
    env: Any = gym.make(name, **arguments)
    env = env.unwrapped if bare else env
    actions = np.random.default_rng(0).uniform(-1, 1, (1024, env.action_space.shape[0])).astype(np.float32)
    env.reset(seed=0)

    def step(number: int) -> None:
        _, _, done, _, _ = env.step(actions[number % 1024])
        if done:
            env.reset()

    return step


def vector_step(name: str, n_envs: int, mode: str, **arguments: Any) -> Callable[[int], object]:
    """A step of so many environments."""
    vector = gym.make_vec(name, num_envs=n_envs, autoreset_mode=mode, **arguments)
    batch = vector.action_space.shape or ()
    actions = np.random.default_rng(0).uniform(-1, 1, (DRAWN, *batch)).astype(np.float32)
    vector.reset(seed=0)
    return lambda number: vector.step(actions[number % DRAWN])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repeats (about 20 s)")
    options = parser.parse_args()
    repeats, seconds = (QUICK_REPEATS, QUICK_SECONDS) if options.quick else (REPEATS, SECONDS)
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    graph, case = load_model(MODEL), load_cluster(CASE)
    shared = Cluster(f"{CASE}-shared", case.requester, case.devices, "shared")
    kinds: tuple[tuple[str, str, str | Cluster], ...] = (
        ("", SPLIT_ROWS, CASE),
        ("shared_", SPLIT_ROWS, shared),
        ("partition_", PARTITION, CASE),
    )
    others, found = Others([core]), {}
    print(f"{'steps per second':<44}{'median':>14}{'best':>14}")

    def measure(key: str, step: Callable[[int], object], n_envs: int) -> None:
        median, best = rates(step, n_envs, repeats, seconds)
        found[key] = round(median)
        print(f"{key:<44}{median:>14,.0f}{best:>14,.0f}", flush=True)

    for prefix, name, cluster in kinds:
        arguments = {"model": graph, "cluster": cluster}
        measure(f"{prefix}single_steps_per_s", single_step(name, False, **arguments), 1)
        measure(f"{prefix}single_bare_steps_per_s", single_step(name, True, **arguments), 1)
        for n_envs in COUNTS:
            for mode in MODES:
                key = f"{prefix}vector_{'next' if mode == 'NextStep' else 'same'}_steps_per_s_{n_envs}"
                measure(key, vector_step(name, n_envs, mode, **arguments), n_envs)
        found[f"{prefix}vector_steps_per_s"] = found[f"{prefix}vector_same_steps_per_s_{COUNTS[-1]}"]
    print(f"\nother programs used {others.share():.0%} of core {core} meanwhile")
    print(json.dumps({"cores": 1, "others_share": round(others.share(), 3), **found}))


if __name__ == "__main__":
    main()
