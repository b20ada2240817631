"""Workers that are lost: named, waited for, or planned around, and the frames that they took along are run again."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from distredge.errors import PeerTimeout, PlannerError
from distredge.runtime.deployment import deploy
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol.row_messages import Rows
from distredge.runtime.protocol.transport import ConnectionEvent
from distredge.runtime.requester.recovery import Recovery
from tests.runtime.conftest import DEVICES, Cell, make_strategy
from tests.runtime.requester.conftest import equal, read_any

GAMMA_IS_LOST = r"worker 'gamma' is gone|cannot send rows to 'gamma'|worker 'gamma': cannot be sent its rows"
"""Whoever notices first says so: the requester, when it waits or when it sends, or a worker that has rows for it."""


def test_a_lost_worker_ends_the_frame_at_once(cell: Cell, running, image) -> None:
    blocked = threading.Event()

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        if isinstance(read_any(parts), Rows) and target.startswith("memory://gamma"):
            blocked.set()
            return []
        return [parts]

    cell.exchange.tamper = tamper
    pending = running.submit(image, deadline_s=60.0)
    assert blocked.wait(10)
    cell.stop("gamma")
    with pytest.raises(PeerTimeout, match=GAMMA_IS_LOST):
        pending.result()


def test_a_worker_that_stays_away_is_named(cell: Cell, running, image) -> None:
    running.infer(image)
    cell.stop("beta")
    with pytest.raises(PeerTimeout, match="cannot reach worker 'beta' at memory://beta:1"):
        running.infer(image, deadline_s=0.5)


def test_a_worker_that_comes_back_works_again(cell: Cell, running, graph, strategy, image) -> None:
    running.infer(image)
    cell.stop("beta")
    cell.start("beta")
    for _ in range(3):
        assert equal(running.infer(image), run_in_process(graph, strategy, image))


def test_a_worker_whose_handshake_breaks_off_as_it_starts_is_waited_for(
    cell: Cell, running, graph, strategy, image
) -> None:
    """Before, every frame ended at once, as if the keys did not fit."""
    running.infer(image)
    runner = running._runner
    cell.stop("gamma")
    until_s = time.monotonic() + 30.0
    while runner.plans.active.error is None:
        assert time.monotonic() < until_s
        time.sleep(0.001)

    def breaks_off():
        runner.workers["gamma"].control.noticed.append(ConnectionEvent("refused", "the handshake broke off"))
        return
        yield

    runner.loop.call(breaks_off())
    with pytest.raises(PeerTimeout, match=r"cannot reach worker 'gamma' .*\(the handshake broke off\) within 0.5 s"):
        running.infer(image, deadline_s=0.5)
    assert running.over() is None
    cell.start("gamma")
    assert equal(running.infer(image), run_in_process(graph, strategy, image))


def test_a_plan_without_the_lost_worker_takes_over(cell: Cell, graph, strategy, image) -> None:
    asked: list[frozenset[str]] = []
    without = make_strategy(graph, [(1, 1, 0), (1, 2, 0)])

    def replan(lost: frozenset[str]):
        asked.append(lost)
        return deploy(graph, without)

    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(replan=replan, deadline_s=8.0)
    coordinator.deploy(deploy(graph, strategy))
    coordinator.infer(image)
    cell.stop("gamma")
    for _ in range(2):
        assert equal(coordinator.infer(image), run_in_process(graph, without, image))
    assert asked == [{"gamma"}]


def test_a_worker_lost_while_the_plan_is_prepared_again_is_planned_around(
    cell: Cell, graph, strategy, image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker saw the loss first: when the coordinator begins anew the lost one still seems to stand."""
    without = make_strategy(graph, [(1, 1, 0), (1, 2, 0)])
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(replan=lambda lost: deploy(graph, without), deadline_s=20.0, connect_s=0.2)
    coordinator.deploy(deploy(graph, strategy))
    coordinator.infer(image)
    reached, seen = Recovery._reached, []

    def late(self, names):
        seen.append(names)
        if len(seen) > 1:
            return (yield from reached(self, names))
        cell.stop("gamma")
        return set()

    monkeypatch.setattr(Recovery, "_reached", late)
    coordinator._runner.plans.active.error = PeerTimeout("worker 'beta': cannot send rows to 'gamma'")
    assert equal(coordinator.infer(image), run_in_process(graph, without, image))
    assert len(seen) >= 2


@pytest.mark.parametrize("in_flight", [1, 3])
def test_frames_of_a_lost_worker_are_run_again(cell: Cell, graph, strategy, in_flight: int) -> None:
    """None of them ends in an error, and they come in order; the caller's array may be used again at once."""
    without = make_strategy(graph, [(1, 1, 0), (1, 2, 0)])
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(replan=lambda lost: deploy(graph, without), deadline_s=20.0, connect_s=0.2)
    coordinator.deploy(deploy(graph, strategy), in_flight)
    silent = silence(cell, 2)
    array = np.empty((1, 3, 33, 21), np.float32)
    images = [np.full_like(array, k + 1) for k in range(in_flight)]
    waiting = []
    for image in images:
        array[:] = image
        waiting.append(coordinator.submit({"image": array}))
    assert silent.wait(10.0)
    cell.stop("gamma")
    cell.exchange.tamper = None
    for image, pending in zip(images, waiting, strict=True):
        assert equal(pending.result(), run_in_process(graph, without, {"image": image}))
        assert pending.latency_s is not None


def test_without_another_plan_frames_of_a_lost_worker_end_in_an_error(cell: Cell, running, image) -> None:
    silent = silence(cell, 2)
    pending = running.submit(image)
    assert silent.wait(10.0)
    cell.stop("gamma")
    with pytest.raises(PeerTimeout, match=GAMMA_IS_LOST):
        pending.result()


def test_a_frame_that_waited_for_its_place_says_how_long_it_had(cell: Cell, graph, strategy, image) -> None:
    """Not what was left of that when it got it."""
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator()
    coordinator.deploy(deploy(graph, strategy))
    cell.stop("gamma")
    until_s = time.monotonic() + 30.0
    while coordinator._runner.plans.active.error is None:
        assert time.monotonic() < until_s
        time.sleep(0.001)
    first = coordinator.submit(image, deadline_s=0.4)
    with pytest.raises(PeerTimeout, match=r"cannot reach worker 'gamma' .* within 0\.8 s; "):
        coordinator.infer(image, deadline_s=0.8)
    with pytest.raises(PeerTimeout, match=r" within 0\.4 s; "):
        first.result()


def test_a_plan_that_cannot_be_made_ends_the_frame(cell: Cell, graph, strategy, image) -> None:
    def replan(lost: frozenset[str]):
        raise PlannerError("nothing is left to plan with")

    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(replan=replan, deadline_s=8.0, connect_s=0.2)
    coordinator.deploy(deploy(graph, strategy))
    coordinator.infer(image)
    cell.stop("gamma")
    with pytest.raises(PlannerError, match="nothing is left"):
        coordinator.infer(image)


def silence(cell: Cell, device: int) -> threading.Event:
    """Loses all rows that a device sends; the event is set at the first of them."""
    silent = threading.Event()

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = read_any(parts)
        if isinstance(message, Rows) and message.source == device:
            silent.set()
            return []
        return [parts]

    cell.exchange.tamper = tamper
    return silent
