"""A plan that is prepared beside the one that runs, while workers are lost and other plans are prepared too."""

from __future__ import annotations

import threading
import time

import pytest

from distredge.errors import ExecutionError
from distredge.runtime import weights
from distredge.runtime.deployment import deploy
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol import messages as m
from distredge.runtime.requester import plans
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.worker import preparing
from tests.runtime.conftest import Cell, make_strategy
from tests.runtime.requester.conftest import equal, read_any

GAMMA = "memory://gamma:1"


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants go in many small pieces, and few of them are on their way at a time."""
    monkeypatch.setattr(weights, "WEIGHT_CHUNK_BYTES", 64)
    monkeypatch.setattr(plans, "AHEAD_BYTES", 512)
    monkeypatch.setattr(preparing, "PROGRESS_BYTES", 64)


def until_it_runs(coordinator: Coordinator, image, expected) -> None:
    until_s = time.monotonic() + 30.0
    while not equal(coordinator.infer(image), expected):
        assert time.monotonic() < until_s, f"it never runs: {coordinator.beside_error}"


class Holding:
    """Holds back what a worker says to have of its constants, from the first of it on (for `Exchange.tamper`)."""

    def __init__(self) -> None:
        self.held: list[list[bytes]] = []
        self.holds = threading.Event()
        self.open = False

    def __call__(self, source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        if source != GAMMA:
            return [parts]
        if not self.open and isinstance(read_any(parts), m.Progress):
            self.held.append(parts)
            self.holds.set()
            return []
        if self.open and self.held:
            return [self.held.pop(), parts]
        return [parts]


def test_it_takes_turns_with_a_recovery(cell: Cell, running, graph, strategy, image, in_pieces) -> None:
    """Both lack the same constants: a worker that gets the pieces of two plans at a time refuses them."""
    other = make_strategy(graph, [(0, 1, 1), (1, 0, 0)], head="gamma")
    holding = Holding()
    cell.exchange.tamper = holding
    cell.stop("gamma")
    cell.start("gamma")
    assert holding.holds.wait(30.0), "its plan is not prepared again"
    running.deploy_beside(deploy(graph, other))
    holding.open = True
    running.ask_workers()
    assert running.infer(image)
    until_it_runs(running, image, run_in_process(graph, other, image))
    assert running.beside_error is None


def test_it_gives_way_to_what_is_waited_for(cell: Cell, running, graph, image) -> None:
    """And what was deployed after it stays."""
    other = make_strategy(graph, [(0, 1, 1), (1, 0, 0)], head="gamma")
    third = make_strategy(graph, [(1, 1, 1)], head="alpha")
    loses = threading.Event()
    lost: set[int] = set()

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = read_any(parts)
        if source == GAMMA and isinstance(message, m.Ready):
            lost.update([] if lost else [message.plan])
            loses.set()
            return [] if message.plan in lost else [parts]
        return [parts]

    cell.exchange.tamper = tamper
    running.deploy_beside(deploy(graph, other))
    assert loses.wait(30.0)
    running.deploy(deploy(graph, third))
    assert equal(running.infer(image), run_in_process(graph, third, image))
    assert running.beside_error is None
    assert running.deployment.strategy is third
    assert len(running._runner.plans.all()) == 1, "what came in its place ended it"


def test_the_later_of_two_takes_over(running, graph, image) -> None:
    first = make_strategy(graph, [(0, 1, 1), (1, 0, 0)], head="gamma")
    second = make_strategy(graph, [(1, 1, 1)], head="alpha")
    for one in (first, second):
        running.deploy_beside(deploy(graph, one))
    until_it_runs(running, image, run_in_process(graph, second, image))
    assert running.deployment.strategy is second


def test_a_worker_that_is_lost_meanwhile_is_its_failure_alone(cell: Cell, running, graph, image, in_pieces) -> None:
    without = make_strategy(graph, [(1, 1, 0), (1, 2, 0)])
    running.deploy(deploy(graph, without))
    holding = Holding()
    cell.stop("gamma")
    cell.start("gamma")
    cell.exchange.tamper = holding
    running.deploy_beside(deploy(graph, make_strategy(graph, [(0, 1, 1), (1, 0, 0)], head="gamma")))
    assert holding.holds.wait(30.0)
    cell.stop("gamma")
    assert running.infer(image)
    until_s = time.monotonic() + 30.0
    while running.beside_error is None:
        assert time.monotonic() < until_s
        running.infer(image)
    assert "worker 'gamma' is gone" in str(running.beside_error)
    assert running.deployment.strategy is without


def test_who_is_taken_over_is_told_while_a_plan_is_prepared(cell: Cell, running, graph, image, in_pieces) -> None:
    """At once: before, it waited for workers that were not its own any more."""
    running.deploy(deploy(graph, make_strategy(graph, [(1, 1, 0), (1, 2, 0)])))
    holding = Holding()
    cell.stop("gamma")
    cell.start("gamma")
    cell.exchange.tamper = holding
    said: list[str] = []

    def deploys() -> None:
        try:
            running.deploy(deploy(graph, make_strategy(graph, [(1, 1, 2)])))
        except ExecutionError as error:
            said.append(str(error))

    thread = threading.Thread(target=deploys)
    thread.start()
    assert holding.holds.wait(30.0)
    later = cell.coordinator(take_over=True, holder="eve@desk")
    later._runner.loop.call(later._runner.workers.connect(["alpha"], 10.0))
    thread.join(10.0)
    assert said == ["worker 'alpha' was taken over by 'eve@desk'"]
