"""The coordinator's thread: it works without anybody waiting, ends what it can on time, and dies visibly."""

from __future__ import annotations

import threading

import msgspec
import pytest

from distredge.errors import ExecutionError, PeerTimeout
from distredge.runtime.deployment import deploy
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol import messages as m
from tests.runtime.conftest import DEVICES, Cell, make_strategy
from tests.runtime.requester.conftest import equal, read_any
from tests.runtime.requester.test_lost_workers import silence


def test_frames_end_without_anybody_waiting(running, image) -> None:
    ended = threading.Event()
    pending = running.submit(image)
    pending.add_done_callback(lambda _: ended.set())
    assert ended.wait(20)
    assert pending.done
    assert 0 < pending.latency_s <= 20
    called = []
    pending.add_done_callback(called.append)
    assert called == [pending], "at once when it has ended already"


def test_the_callers_array_may_be_used_again_at_once(running, graph, strategy, image) -> None:
    array = image["image"].copy()
    pending = running.submit({"image": array})
    array[:] = 7.0
    assert equal(pending.result(), run_in_process(graph, strategy, image))


def test_a_thread_that_dies_says_so_to_everybody(cell: Cell, running, image) -> None:
    silence(cell, 2)
    pending = running.submit(image, deadline_s=60.0)

    def broken() -> float:
        raise RuntimeError("a bug")

    running._runner.turn = broken
    with pytest.raises(ExecutionError, match="the coordinator's thread ended: RuntimeError: a bug"):
        pending.result()
    for call in (lambda: running.infer(image), running.timeline, lambda: running.submit(image)):
        with pytest.raises(ExecutionError, match="the coordinator's thread ended: RuntimeError: a bug"):
            call()


def test_planning_anew_does_not_hold_up_a_deadline(cell: Cell, graph, strategy, image) -> None:
    release, asked = threading.Event(), threading.Event()
    without = make_strategy(graph, [(1, 1, 0), (1, 2, 0)])

    def replan(lost: frozenset[str]):
        asked.set()
        assert release.wait(20), "frames wait for planning to end"
        return deploy(graph, without)

    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(replan=replan, deadline_s=0.5, connect_s=0.1)
    coordinator.deploy(deploy(graph, strategy))
    coordinator.infer(image)
    silent = silence(cell, 2)
    pending = coordinator.submit(image)
    assert silent.wait(10)
    cell.stop("gamma")
    with pytest.raises(PeerTimeout, match="gamma"):
        pending.result()
    assert asked.wait(10)
    with pytest.raises(PeerTimeout, match="planning anew"):
        coordinator.infer(image)
    cell.exchange.tamper = None
    waiting = coordinator.submit(image, deadline_s=20.0)
    release.set()
    assert equal(waiting.result(), run_in_process(graph, without, image))


@pytest.mark.parametrize(
    "wrong",
    [{"waits_for": (77,)}, {"waits_in": 9000}, {"done": (9000,)}, {"frame": 1 << 40}],
    ids=["waits_for", "waits_in", "done", "frame"],
)
def test_a_situation_that_does_not_fit_the_plan_is_dropped(cell: Cell, running, image, wrong: dict) -> None:
    silence(cell, 2)
    lose = cell.exchange.tamper

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = read_any(parts)
        if isinstance(message, m.Told) and message.situation is not None:
            told = msgspec.structs.replace(message.situation, **wrong)
            return [[m.encode(msgspec.structs.replace(message, situation=told))]]
        return lose(source, target, parts)

    cell.exchange.tamper = tamper
    with pytest.raises(PeerTimeout, match="no result within 1 s"):
        running.infer(image, deadline_s=1.0)
    assert running.dropped["unreadable"] > 0
    cell.exchange.tamper = None
    assert running.infer(image)


@pytest.mark.parametrize("wrong", [{"peer": 77}, {"stage": 9000}, {"kind": "magic"}], ids=["peer", "stage", "kind"])
def test_records_that_do_not_fit_the_plan_are_dropped(cell: Cell, running, image, monkeypatch, wrong: dict) -> None:
    monkeypatch.setattr("distredge.runtime.requester.runner.ANSWER_S", 0.2)

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = read_any(parts)
        if isinstance(message, m.Records):
            records = tuple(msgspec.structs.replace(record, **wrong) for record in message.records)
            return [[m.encode(m.Records(message.plan, records))]]
        return [parts]

    running.infer(image)
    cell.exchange.tamper = tamper
    with pytest.raises(PeerTimeout, match="does not answer"):
        running.timeline()
    assert running.dropped["unreadable"] == 1
