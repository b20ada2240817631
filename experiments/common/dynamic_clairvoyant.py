"""What could have been: for each image the fastest of all plans that anybody made, rates to come known.

Besides every method's plans the pool has searches at the true rates of moments spread over the hour. How much lower
a descent under the traces themselves would come says whether that is the envelope (`slack`).
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from distredge.experiments.common.dynamic_replay import Hour, Replay
from distredge.planners import run
from distredge.planners.agent.online import descend, remaining
from distredge.planners.budget import Budget

Floats = NDArray[np.float64]

LEAST_RATE_BPS = 1e5


def add_searches(hour: Hour, count: int, seconds: float) -> None:
    """Plans by `search`, at the rates of so many moments, what joins the pool."""
    for k in np.linspace(0, len(hour.times_s) - 1, count).astype(int):
        problem = hour.problem_at(np.maximum(hour.now_bps[k], LEAST_RATE_BPS))
        hour.true_s(run(problem, "search", Budget(seconds, clock=time.process_time), seed=1))


def lowest_s(hour: Hour) -> tuple[Floats, list[str]]:
    """Returns (n,) the lowest latency of each image over the pool, and the key of the plan that has it."""
    keys = list(hour.known)
    best_s = np.full(len(hour.times_s), np.inf)
    which = np.zeros(len(hour.times_s), dtype=np.int64)
    for number, key in enumerate(keys):
        seconds = hour.true_s(hour.known[key])
        lower = seconds < best_s
        best_s[lower], which[lower] = seconds[lower], number
    return best_s, [keys[number] for number in which.tolist()]


def slack(hour: Hour, best_s: Floats, keys: list[str], count: int) -> float:
    """Returns by which share, over a sample, the envelope still falls by descent under the traces themselves."""
    chosen = np.linspace(0, len(hour.times_s) - 1, count).astype(int)
    lower = [
        float(hour.kernel.latency_s(**hour.kernel.encode([plan]), start_s=hour.times_s[k])[0])
        for k in chosen.tolist()
        for plan in [descend(hour.kernel, hour.problem, hour.known[keys[k]], 0, start_s=float(hour.times_s[k]))]
    ]
    return 1 - float(np.sum(np.minimum(lower, best_s[chosen])) / np.sum(best_s[chosen]))


def online_gain(hour: Hour, found: Replay, count: int) -> dict[str, float]:
    """Says what deciding anew after every volume gives over leaving the plan as it is.

    Args:
        hour: images and links.
        found: whose plans are in force.
        count: images of the sample; the deciding itself is not charged, but measured.

    Returns:
        Mean latencies over the sample with and without, and the milliseconds of a decision.
    """
    chosen = np.linspace(0, len(hour.times_s) - 1, count).astype(int)
    plain, online, took = [], [], []
    for k in chosen.tolist():
        plan = found.strategies[found.in_force[k]]
        start_s = float(hour.times_s[k])
        plain.append(float(hour.true_s(plan)[k]))
        for done in range(1, len(plan.volumes)):
            if plan.volumes[done - 1].boundary_first:
                continue
            encoded = hour.kernel.encode([plan])
            encoded["cuts"][:, done:] = -1
            finish_s, _ = hour.kernel.finish_s(**encoded, start_s=start_s)
            began_s = time.process_time()
            plan = remaining(hour.problem, plan, done, finish_s[0, : len(plan.devices)].tolist(), hour.seen_bps[k])
            took.append(time.process_time() - began_s)
        online.append(float(hour.kernel.latency_s(**hour.kernel.encode([plan]), start_s=start_s)[0]))
    return {
        "plain_ms": 1e3 * float(np.mean(plain)),
        "online_ms": 1e3 * float(np.mean(online)),
        "decision_ms": 1e3 * float(np.mean(took)) if took else 0.0,
    }
