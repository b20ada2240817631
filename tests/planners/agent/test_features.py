"""What the shipped agent sees: worked out once beside the graph, whichever thread asks, and the same afterwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from distredge.cluster import load_cluster
from distredge.latency.beside import beside
from distredge.model import zoo
from distredge.planners.agent import features as seen
from distredge.planners.annealing.batch_pricing import BatchPricer
from distredge.planners.annealing.loading import load
from distredge.planners.budget import Budget
from distredge.problem import Problem


@pytest.fixture
def pricer() -> BatchPricer:
    graph = zoo.build("vgg16", (1, 3, 64, 64), width=0.25)
    found = load(Problem.as_published(graph, load_cluster("db-50", [graph])), Budget(evaluations=1))
    found.fill()
    return found


def _never() -> Any:
    pytest.fail("it was not kept beside the graph")


def test_facts_stand_beside_the_graph(pricer: BatchPricer) -> None:
    codec, kernel = pricer.codec, pricer.kernel
    model, board = seen.model_facts(codec), seen.board_facts(kernel, codec, 0)
    shelf, cuts = beside(codec.problem.graph), tuple(codec.candidates)
    assert shelf.get("agent's model", cuts, _never) is model
    profile = kernel.tables.costs[0].profile
    assert shelf.get("agent's boards", (profile, cuts), _never) is board
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: (seen.model_facts(codec), seen.board_facts(kernel, codec, 0)), range(16)))
    assert all(one is model and other is board for one, other in found)


def test_boards_that_made_room_are_seen_as_before(pricer: BatchPricer, monkeypatch: pytest.MonkeyPatch) -> None:
    order = np.arange(4)
    before, unit_s = seen.features(pricer, order)
    assert before.shape == (4, len(pricer.codec.candidates), seen.FEATURES)
    monkeypatch.setattr(seen, "MOST_BOARDS", 1)
    for _ in range(2):
        after, other_s = seen.features(pricer, order)
        assert after.tobytes() == before.tobytes()
        assert other_s == unit_s
