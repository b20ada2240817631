"""What is kept beside a graph."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from distredge.latency.beside import beside
from distredge.model import zoo
from distredge.model.graph import Graph


class Thing:
    """Can be referred to weakly."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph


def build() -> Graph:
    return zoo.build("vgg16", (1, 3, 32, 32), width=0.0625)


@pytest.fixture
def graph() -> Graph:
    return build()


def test_is_made_once_and_goes_with_the_graph() -> None:
    graphs = [build()]

    def get(kind: str, key: int) -> Thing:
        return beside(graphs[0]).get(kind, key, lambda: Thing(graphs[0]))

    made = get("thing", 1)
    assert get("thing", 1) is made
    assert get("thing", 2) is not made
    assert get("other", 1) is not made
    kept = weakref.ref(made)
    del made
    gc.collect()
    assert kept() is not None
    graphs.clear()
    gc.collect()
    assert kept() is None


def test_keeps_what_was_asked_for_last(graph: Graph) -> None:
    shelf, made = beside(graph), []

    def get(key: int) -> None:
        shelf.get("number", key, lambda: made.append(key), most=2)

    for key in (1, 2, 1, 3, 1, 2):
        get(key)
    assert made == [1, 2, 3, 2]


def test_one_thread_makes_it(graph: Graph) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: id(beside(graph).get("thing", 1, lambda: Thing(graph))), range(64)))
    assert len(set(found)) == 1


@pytest.mark.parametrize("way", [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))])  # noqa: S301
def test_does_not_travel_with_the_graph(graph: Graph, way: object) -> None:
    assert callable(way)
    made = beside(graph).get("thing", 1, lambda: Thing(graph))
    other = way(graph)
    assert beside(other).get("thing", 1, lambda: None) is None
    assert beside(graph).get("thing", 1, lambda: None) is made
