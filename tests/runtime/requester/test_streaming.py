"""A stream: results and named failures come when they are there, in order, whatever the source and the consumer do."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from distredge.errors import ExecutionError, ModelError, PeerTimeout
from distredge.runtime.deployment import deploy
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol.row_messages import Rows
from distredge.runtime.requester.streaming import AHEAD
from tests.runtime.conftest import Cell, make_strategy
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


def test_a_closed_coordinator_fails_the_rest(running, image) -> None:
    stream = running.stream([image, image, image])
    assert next(stream).result()
    running.close()
    for one in stream:
        if one.error is not None:
            assert isinstance(one.error, ExecutionError)
            assert "the coordinator was closed" in str(one.error)
    with pytest.raises(ExecutionError, match="the coordinator was closed"):
        running.infer(image)


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
