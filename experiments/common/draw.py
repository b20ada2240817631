"""Cases drawn at random: any zoo model on 2 to 16 boards behind links of 20 to 1000 Mbit/s, in any regime."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from distredge.cluster import Cluster, Device, Link, Requester
from distredge.experiments.common.regimes import make_problem
from distredge.model import zoo
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile, load_profile

SEED = 20260101
BOARDS = ("nano", "tx2", "xavier", "xavier-nx", "orin-nano", "agx-orin", "pi3", "pi4", "pi5")
_LOWEST_BPS, _HIGHEST_BPS = 20e6, 1000e6


@dataclass(frozen=True)
class Drawn:
    """A model's name, a regime and a cluster."""

    model: str
    regime: str
    cluster: Cluster


def draw(number: int) -> Drawn:
    """Case `number`; each depends on its number alone.

    Rates are drawn uniformly in their logarithm, one for all devices in a third of the cases; boards are drawn from a
    few kinds, as people's clusters are.
    """
    rng = np.random.default_rng((SEED, number))
    entries = zoo.entries()
    model = entries[rng.integers(len(entries))].name
    regime = ("paper", "shared", "ours")[rng.integers(3)]
    count = int(rng.integers(2, 17))
    kinds = rng.choice(BOARDS, int(rng.integers(1, 5)), replace=False)
    rates = np.exp(rng.uniform(math.log(_LOWEST_BPS), math.log(_HIGHEST_BPS), count))
    if rng.random() < 1 / 3:
        rates[:] = rates[0]
    devices = []
    for k in range(count):
        board = str(kinds[rng.integers(len(kinds))])
        link = Link(rate_bps=float(round(rates[k])), fixed_s=0.0006, rtt_s=0.002)
        devices.append(Device(f"{board}-{k}", _profile(board), link, link))
    return Drawn(model, regime, Cluster(f"random-{number}", Requester(), tuple(devices)))


def drawn_problem(number: int) -> Problem:
    """The problem of case `number`."""
    drawn = draw(number)
    return make_problem(_graph(drawn.model), drawn.cluster, drawn.regime)


@functools.lru_cache
def _profile(board: str) -> ComputeProfile:
    return load_profile(f"default:{board}")


@functools.lru_cache(maxsize=2)
def _graph(model: str) -> Graph:
    return load_model(model)
