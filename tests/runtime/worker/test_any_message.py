"""Any messages in any order, from two who have the requester's key: the worker answers to the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.in_process_transport import InProcessNetwork
from distredge.runtime.protocol.prepare_parts import prepare_parts
from distredge.runtime.weights import weight_messages
from distredge.runtime.worker import data_plane
from tests.runtime.conftest import Cell
from tests.runtime.worker.conftest import Speaker

PLANS = st.integers(1, 3)
COUNTS = st.one_of(st.integers(0, 3), st.sampled_from([2**31, 2**62 - 1]))
DIMENSIONS = st.lists(st.sampled_from([0, 1, 3, 2**31 - 1]), max_size=8).map(tuple)
PEERS = st.builds(
    PeerAddress,
    st.sampled_from(["alpha", "beta"]),
    st.sampled_from(["memory://alpha:2", "memory://nowhere:2", "tcp://", "x"]),
    st.sampled_from(["", "k" * 40, "?"]),
)


def _messages(deployment) -> st.SearchStrategy[tuple[m.ToWorker, list[bytes]]]:
    """One message with its parts; plans and constants are those of a deployment, or wrong."""
    store = deployment.weights(0)
    digests = st.sampled_from([*sorted(store), "0" * 64])
    right = [
        (message, [bytes(content)])
        for number in (1, 2)
        for digest in store
        for message, content in weight_messages(number, digest, store[digest])
    ]

    def prepare(number: int) -> tuple[m.ToWorker, list[bytes]]:
        message, parts = prepare_parts(deployment.device_plan(0, number), deployment.models(0))
        return message, [bytes(part) for part in parts]

    wrong = st.one_of(
        st.builds(m.Prepare, PLANS, COUNTS, st.lists(COUNTS, max_size=3).map(tuple), st.integers(0, 2**32 - 1)),
        st.builds(m.Weight, PLANS, digests, st.sampled_from(["float32", "int8", "x"]), DIMENSIONS, COUNTS, COUNTS),
        st.builds(
            m.Hello, st.sampled_from([b"s1", b"s2"]), st.just("0.1.0"), st.sampled_from(["alpha", "beta"]),
            st.text(max_size=20), st.booleans(),
        ),
        st.builds(m.Retire, PLANS),
        st.builds(m.Ping, COUNTS),
        st.builds(m.Ask, PLANS, COUNTS),
        st.builds(m.Fetch, PLANS, COUNTS),
        st.just(m.Goodbye()),
        st.builds(m.Measure, COUNTS, PEERS, st.booleans(), st.just((0,)), st.just(1), st.just(0.05)),
        st.builds(m.Redial, PLANS, st.integers(-1, 4095)),
    )  # fmt: skip
    parts = st.lists(st.binary(max_size=8), max_size=2)
    return st.one_of(st.tuples(wrong, parts), PLANS.map(prepare), st.sampled_from(right))


@pytest.fixture
def worker(cell: Cell, monkeypatch) -> Iterator[tuple[Speaker, Speaker]]:
    """Two who speak to it."""
    monkeypatch.setattr(data_plane, "PEER_S", 0.2)
    cell.start("alpha")
    network = InProcessNetwork(cell.exchange)
    yield Speaker(network, "memory://alpha:1", "alpha"), Speaker(network, "memory://alpha:1", "alpha", b"s2")
    network.close()


def test_any_messages(worker: tuple[Speaker, Speaker], alone) -> None:
    @settings(max_examples=150)
    @given(said=st.lists(st.tuples(st.integers(0, 1), _messages(alone)), max_size=15), token=st.integers(2**60, 2**61))
    def say(said, token: int) -> None:
        for who, (message, parts) in said:
            worker[who].send(message, parts)
        for speaker in worker:
            speaker.send(m.Ping(token))
            while speaker.receive(m.Pong).token != token:
                pass

    say()
    # And it still does what it is for.
    worker[0].hello(m.Welcome, take_over=True)
    for number in (1, 2, 3):
        worker[0].send(m.Retire(number))
    assert isinstance(worker[0].deploy(alone, 0, 7), m.Ready)
