"""A wireless channel whose rate varies while frames run."""

from __future__ import annotations

import math

import numpy as np

from distredge.planners.deadline_reliability import Channel
from distredge.profiles.network import Trace

STEP_S = 0.5
MEMORY = 0.8
"""Correlation of one step with the next: the channel forgets in about two seconds."""


def trace_of(channel: Channel, seconds: float, seed: int) -> Trace:
    """Returns rates of a channel as a first-order Gauss-Markov process, steps of STEP_S.

    Args:
        channel: mean, spread and least rate.
        seconds: how long, before it begins again.
        seed: of the process.
    """
    rng = np.random.default_rng(seed)
    count = max(2, round(seconds / STEP_S))
    deviation = rng.standard_normal()
    rates = []
    for _ in range(count):
        rates.append(max(channel.least_bps, channel.mean_bps + channel.spread_bps * deviation))
        deviation = MEMORY * deviation + math.sqrt(1.0 - MEMORY**2) * rng.standard_normal()
    return Trace([k * STEP_S for k in range(count)], rates, period_s=count * STEP_S, name="gauss-markov")
