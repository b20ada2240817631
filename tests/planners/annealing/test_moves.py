"""What the search changes leaves strategies valid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

from distredge.model.graph import Graph
from distredge.planners.annealing import compiled_steps, moves
from distredge.planners.annealing.encoding import Codec
from distredge.planners.annealing.starts import starts
from distredge.planners.annealing.strategy_arrays import take
from distredge.problem import Problem
from distredge.strategy import PlannerRef

ProblemIn = Callable[[Graph, str, str], Problem]


@njit
def _change_structure(states: Any, plans: Any, choices: Any) -> None:
    for k in range(len(states)):
        moves.change_structure(states, plans, k, choices)


@njit
def _cross(states: Any, source: Any, which: Any, plans: Any) -> None:
    for k in range(len(states)):
        moves.cross(states, source, which[k], plans, k)


@pytest.mark.parametrize("regime", ["paper", "ours"])
@pytest.mark.parametrize("model", ["vgg", "resnet"])
def test_changes_of_structure_leave_valid_strategies(
    problem_in: ProblemIn, vgg: Graph, resnet: Graph, model: str, regime: str
) -> None:
    problem = problem_in({"vgg": vgg, "resnet": resnet}[model], "na-nano", regime)
    codec = Codec(problem)
    batch = take(starts(codec)[0], np.arange(64))
    before = take(batch, np.arange(64))
    states = np.arange(1, 65, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    crossed = 0
    for _ in range(20):
        _change_structure(states, batch, codec.choices)
        uncrossed = take(batch, np.arange(64))
        _cross(states, before, (states % np.uint64(64)).astype(np.int64), batch)
        crossed += int((uncrossed.rows != batch.rows).any(axis=(1, 2)).sum())
        for k in range(64):
            strategy = codec.strategy(batch, k, PlannerRef("search"))
            strategy.check(problem.graph)
            count = len(strategy.volumes)
            assert (batch.cuts[k, count:] == -1).all()
    assert crossed > 300


def test_cuts_that_are_no_candidates_stay_between_their_neighbours(problem_in: ProblemIn, resnet: Graph) -> None:
    codec = Codec(problem_in(resnet, "na-nano", "paper"))
    candidates, heights = codec.candidates, codec.choices.heights
    before, after = next((a, b) for a, b in itertools.pairwise(candidates) if b - a > 1)
    batch = codec.empty(1)
    for w, cut in enumerate((before, before + 1, after, candidates[-1])):
        batch.cuts[0, w], batch.rows[0, w, 1:] = cut, heights[cut]
    batch = take(batch, np.zeros(4000, np.int64))
    states = np.random.default_rng(0).integers(1, 2**63, 4000, dtype=np.uint64)
    for _ in range(5):
        compiled_steps.change(states, batch, codec.choices)
        rising = np.diff(batch.cuts, axis=1) > 0
        assert (rising | (batch.cuts[:, 1:] < 0)).all()
        assert (batch.cuts.max(axis=1) == candidates[-1]).all()


def test_crossing_takes_a_run_of_volumes_from_the_other(problem_in: ProblemIn, vgg: Graph) -> None:
    codec = Codec(problem_in(vgg, "na-nano", "ours"))
    mine, other = codec.empty(1), codec.empty(1)
    mine.cuts[0, :3] = codec.candidates[1], codec.candidates[4], codec.candidates[-1]
    other.cuts[0, :4] = codec.candidates[0], codec.candidates[2], codec.candidates[3], codec.candidates[-1]
    for batch, share in ((mine, 1), (other, 3)):
        for w in range(4):
            height = codec.choices.heights[batch.cuts[0, w]]
            batch.rows[0, w] = np.array([0, share, share, 4, 4]) * height // 4
    other.order[0] = 3, 0, 2, 1
    states = np.array([12345], np.uint64)
    seen = set()
    for _ in range(200):
        plan = take(mine, [0])
        _cross(states, other, np.zeros(1, np.int64), plan)
        count = int((plan.cuts[0] >= 0).sum())
        origins = ""
        for w in range(count):
            sizes = np.diff(plan.rows[0, w])
            # Device 3 has rows in the other one alone.
            origins += "o" if sizes[3] > 0 else "m"
        assert "o" in origins
        assert all(plan.cuts[0, w] in (other if o == "o" else mine).cuts[0] for w, o in enumerate(origins))
        seen.add(origins)
    assert any(o.startswith("o") and o.endswith("m") for o in seen)
    assert any(o.startswith("m") and o.endswith("o") for o in seen)
    assert any("mo" in o and "om" in o for o in seen)
