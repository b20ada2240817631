"""A stream: results and named failures come when they are there, in order, whatever the source and the consumer do."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from distredge.errors import ExecutionError, ModelError, PeerTimeout, PlannerError
from distredge.runtime.deployment import deploy
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol.row_messages import Rows
from distredge.runtime.requester.streaming import AHEAD
from tests.runtime.conftest import DEVICES, Cell, make_strategy
from tests.runtime.requester.conftest import equal, read_any

Inputs = dict[str, np.ndarray]


def test_a_result_does_not_wait_for_the_next_frame(running, graph, strategy, image) -> None:
    got = threading.Event()

    def source() -> Iterator[Inputs]:
        yield image
        assert got.wait(20), "the first result waits for the second frame"
        yield image

    stream = running.stream(source())
    first = next(stream)
    assert equal(first.result(), run_in_process(graph, strategy, image))
    assert first.latency_s > 0
    got.set()
    assert [one.number for one in stream] == [1]


def test_a_bad_frame_fails_in_its_place(cell: Cell, running, graph, strategy, image) -> None:
    """One whose inputs do not fit, and one whose rows are lost for good."""

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = read_any(parts)
        return [] if isinstance(message, Rows) and lost.is_set() else [parts]

    lost, ended = threading.Event(), threading.Event()
    cell.exchange.tamper = tamper

    def source() -> Iterator[Inputs]:
        yield image
        yield {"image": np.zeros((1, 3, 2, 2), np.float32)}
        # The frames before have come through, or what is lost would be theirs.
        assert ended.wait(20)
        lost.set()
        yield image
        assert ended.wait(20)
        yield image

    found = []
    for one in running.stream(source(), deadline_s=0.5):
        found.append(one)
        if one.number == 1:
            ended.set()
        if one.number == 2:
            lost.clear()
    assert [type(one.error) for one in found[:3]] == [type(None), ModelError, PeerTimeout]
    assert found[2].outputs is found[2].latency_s is None
    with pytest.raises(ModelError, match="found shape"):
        found[1].result()
    assert equal(found[0].result(), run_in_process(graph, strategy, image))


def test_what_the_source_raises_comes_after_the_results_before_it(running, image) -> None:
    def source() -> Iterator[Inputs]:
        yield image
        yield image
        raise OSError("the camera is gone")

    stream = running.stream(source())
    assert [next(stream).number, next(stream).number] == [0, 1]
    with pytest.raises(OSError, match="the camera is gone"):
        next(stream)


def test_a_stream_that_is_left_ends_its_thread(running, image) -> None:
    stream = running.stream(itertools.repeat(image))
    assert next(stream).result()
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "stream"]
    assert running.infer(image)


def test_a_deadline_may_be_as_late_as_one_likes(running, image) -> None:
    """More frames than have room: they wait for it no longer than the system can count."""
    assert all(one.result() for one in running.stream([image] * 6, deadline_s=1e300))


def test_a_slow_consumer_holds_the_source_back(running, image) -> None:
    given = []

    def source() -> Iterator[Inputs]:
        while True:
            given.append(1)
            yield image

    stream = running.stream(source())
    for number in range(5):
        assert next(stream).number == number
        # Those that wait, the one that was just taken, and the one that the source is asked for next.
        assert len(given) <= number + 1 + AHEAD * running.in_flight + 1
    stream.close()


def rest(stream) -> list[str]:
    """What the frames that are left failed with; the last one is what ended the stream."""
    said: list[str] = []
    try:
        for one in stream:
            said.append(str(one.error or ""))
    except ExecutionError as ended:
        return [*said, str(ended)]
    raise AssertionError("it came to its end")


def test_a_closed_coordinator_ends_the_stream(running, image) -> None:
    stream = running.stream(itertools.repeat(image))
    assert next(stream).result()
    running.close()
    *failed, last = rest(stream)
    assert last == "the coordinator was closed"
    assert set(failed) <= {"", last}
    with pytest.raises(ExecutionError, match="the coordinator was closed"):
        running.infer(image)


def test_workers_that_somebody_else_takes_end_the_stream(cell: Cell, running, graph, strategy, image) -> None:
    stream = running.stream(itertools.repeat(image))
    assert next(stream).result()
    later = cell.coordinator(take_over=True, holder="eve@desk")
    later.deploy(deploy(graph, strategy))
    assert rest(stream)[-1] == "worker 'alpha' was taken over by 'eve@desk'"
    later.close()
    # That was the stream's end, not the coordinator's.
    running.deploy(deploy(graph, strategy))
    assert next(running.stream([image])).result()


@pytest.mark.parametrize("replans", [False, True])
def test_a_worker_that_never_comes_back_ends_the_stream(cell: Cell, graph, strategy, image, replans: bool) -> None:
    """Unless there is a plan without it."""
    without = make_strategy(graph, [(1, 1, 0), (1, 2, 0)])
    gone: dict[str, str] = {}

    def replan(lost: frozenset[str]):
        if lost != {"gamma"}:
            raise PlannerError("no worker is left")
        return deploy(graph, without)

    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(deadline_s=4.0, gone=gone.get, replan=replan if replans else None)
    coordinator.deploy(deploy(graph, strategy))
    stream = coordinator.stream(itertools.repeat(image))
    assert next(stream).result()
    gone["gamma"] = "its process has ended"
    cell.stop("gamma")
    if replans:
        until_s = time.monotonic() + 30.0
        while not equal(next(stream).result(), run_in_process(graph, without, image)):
            assert time.monotonic() < until_s
        gone |= {"alpha": "ended too", "beta": "ended too"}
        cell.stop("alpha")
        cell.stop("beta")
    expected = (
        "no plan can be run any more: no worker is left"
        if replans
        else "cannot reach worker 'gamma' at memory://gamma:1: its process has ended"
    )
    assert rest(stream)[-1] == expected


def test_a_worker_that_may_come_back_is_waited_for(cell: Cell, graph, strategy, image) -> None:
    """However long that takes, while others are there; with none of them for so long the stream ends."""
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(deadline_s=0.3, connect_s=0.5, gone=lambda name: None)
    coordinator.deploy(deploy(graph, strategy))
    stream = coordinator.stream(itertools.repeat(image))
    assert next(stream).result()
    cell.stop("gamma")
    failed = 0
    while failed < 4:
        failed += next(stream).error is not None
    cell.start("gamma")
    until_s = time.monotonic() + 30.0
    while next(stream).error is not None:
        assert time.monotonic() < until_s, "it is not taken back"
    for name in DEVICES:
        cell.stop(name)
    last = rest(stream)[-1]
    assert last.startswith("cannot reach workers 'alpha' at memory://alpha:1")
    assert " within 0.5 s; " in last


def test_a_worker_that_refuses_the_plan_ends_the_stream(cell: Cell, running, image, monkeypatch) -> None:
    stream = running.stream(itertools.repeat(image))
    assert next(stream).result()
    cell.stop("gamma")
    cell.start("gamma", memory_bytes=1000)
    assert "worker 'gamma': with it plans need" in rest(stream)[-1]


@pytest.mark.parametrize("beside", [False, True])
def test_a_new_plan_loses_no_frame(running, graph, strategy, image, beside: bool) -> None:
    """Frames stream on while it is prepared; each is computed by the old plan or by the new one."""
    other = make_strategy(graph, [(0, 1, 1), (1, 0, 0)], head="gamma")
    expected = [run_in_process(graph, each, image) for each in (strategy, other)]
    assert not equal(*expected), "the two sum in another order"
    over = threading.Event()

    def source() -> Iterator[Inputs]:
        while not over.is_set():
            yield image

    swap = running.deploy_beside if beside else running.deploy
    thread = threading.Thread(target=swap, args=(deploy(graph, other), 2))
    ran_on_new = 0
    for one in running.stream(source(), deadline_s=20.0):
        assert any(equal(one.result(), each) for each in expected)
        if one.number == 3:
            thread.start()
        ran_on_new += equal(one.result(), expected[1])
        if ran_on_new == 5:
            over.set()
    thread.join(20)
    assert ran_on_new >= 5
