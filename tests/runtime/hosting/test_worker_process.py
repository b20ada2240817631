"""One real worker process: how it ends when a thread of it dies, what memory it takes, and whom it believes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import psutil
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from distredge.model.capture import from_onnx
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.hosting.worker_process import START_S, WorkerProcess, local_order
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.orders import Bound
from distredge.runtime.protocol.row_messages import Rows, is_rows, read_head
from distredge.runtime.protocol.security import REQUESTER_NAME, Keys, make_keys
from distredge.runtime.protocol.transport import Endpoint, Received, Waiter, ZmqNetwork
from tests.runtime.conftest import make_strategy
from tests.runtime.worker.conftest import PATIENCE_S, Speaker, rows_of

MB = 1_000_000


@pytest.fixture
def alone(graph) -> Deployment:
    """Everything on one worker, whose name is alpha."""
    return deploy(graph, make_strategy(graph, [(1,)], head="alpha"))


# How it ends.

_DYING = """
import sys, threading
from distredge.runtime.worker.__main__ import main

def adapt(engine, network):
    bind = network.bind
    def dying(address, plane):
        endpoint = bind(address, plane)
        receive = endpoint.receive
        def wrapped():
            found = receive()
            if found is not None and plane == "control":
                raise MemoryError("no room")
            if found is not None and sys.argv[1] == "hang":
                threading.Event().wait()
            return found
        endpoint.receive = wrapped
        return endpoint
    network.bind = dying
    return engine, network

main(adapt)
"""


@pytest.mark.parametrize("data_plane", ["well", "hang"])
def test_a_dead_thread_ends_the_process_with_one_line(data_plane: str) -> None:
    """Even where another thread hangs. Before, the process lived on and never answered again."""
    command = [sys.executable, "-c", _DYING, data_plane]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    network = ZmqNetwork(None)
    try:
        process.stdin.write(msgspec.json.encode(local_order("alpha", None)) + b"\n")
        process.stdin.flush()
        bound = msgspec.json.decode(process.stdout.readline(), type=Bound)
        if data_plane == "hang":
            data = network.connect(bound.data, "data")
            waiter = network.waiter([data])
            while not any(event.kind == "connected" for event in data.events()):
                assert waiter.wait(PATIENCE_S)
            data.send([m.encode(m.Echo(1, False))])
        Speaker(network, bound.control, "alpha").send(m.Ping(1))
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr.read().decode() == "the worker ends: its thread 'control' died of MemoryError: no room\n"
    finally:
        network.close()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


# Its memory.


def _with_a_large_head() -> ModelProto:
    """A convolution and a fully connected layer of 64 MB, as VGG's is in small."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "fc": rng.standard_normal((1000, 16_000)).astype(np.float32) / 100,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "fc"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 80, 50))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 1000))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


class Served:
    """A worker process alpha, and who asks it as its requester."""

    def __init__(self, memory_bytes: int | None = None) -> None:
        self.keys = make_keys(["alpha", "beta"])
        self.process = WorkerProcess(local_order("alpha", self.keys["alpha"].for_worker(), memory_bytes=memory_bytes))
        self._networks: list[ZmqNetwork] = []
        self.bound = self.process.wait_bound(time.monotonic() + START_S)
        self.speaker = self.speaks_with(self.keys[REQUESTER_NAME], b"s1")

    def network(self, keys: Keys) -> ZmqNetwork:
        """A network of somebody with these keys."""
        made = ZmqNetwork(keys.for_requester())
        self._networks.append(made)
        return made

    def speaks_with(self, keys: Keys, session: bytes) -> Speaker:
        """A connection to its control plane."""
        return Speaker(
            self.network(keys), self.bound.control, "alpha", session, server_key=self.keys["alpha"].public["alpha"]
        )

    def on_data(self, keys: Keys) -> Results:
        """A connection to its data plane."""
        return Results(self.network(keys), self.bound.data, self.keys["alpha"].public["alpha"])

    def close(self) -> None:
        for network in self._networks:
            network.close()
        self.process.stop()


class Results:
    """A data connection to a worker, over which somebody wants results."""

    def __init__(self, network: ZmqNetwork, address: str, server_key: str) -> None:
        self._endpoint: Endpoint = network.connect(address, "data", server_key)
        self._waiter: Waiter = network.waiter([self._endpoint])
        until_s = time.monotonic() + PATIENCE_S
        while not any(event.kind == "connected" for event in self._endpoint.events()):
            assert time.monotonic() < until_s, "never connected"
            self._waiter.wait(1.0)

    def send(self, parts: Sequence[bytes]) -> None:
        self._endpoint.send(parts)

    def attach(self, session: bytes) -> None:
        """Asks for the results of a session; the echo that follows is answered when that has been dealt with."""
        self.send([m.encode(m.Attach(session, 7))])
        self.send([m.encode(m.Echo(8, False))])

    def received(self) -> list[Received]:
        """What has come until nothing comes any more for a moment."""
        found = []
        while self._waiter.wait(0.3):
            self._endpoint.events()
            while (received := self._endpoint.receive()) is not None:
                found.append(received)
        return found

    def answers(self, count: int) -> list[m.OnData | Rows]:
        """The next messages, as many as are due."""
        found: list[m.OnData | Rows] = []
        until_s = time.monotonic() + PATIENCE_S
        while len(found) < count:
            assert time.monotonic() < until_s, found
            self._waiter.wait(1.0)
            self._endpoint.events()
            while (received := self._endpoint.receive()) is not None:
                head = received.head
                found.append(read_head(head) if is_rows(head) else m.decode_on_data(head))
        return found


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    made = Served(getattr(request, "param", None))
    yield made
    made.close()


@pytest.mark.parametrize("served", [40 * MB], indirect=True)
def test_a_plan_that_is_too_large_is_refused_before_it_takes_memory(served: Served, alone, graph) -> None:
    """Before, arriving constants and the engine's copies of them counted as nothing."""
    large = from_onnx(_with_a_large_head())
    deployment = deploy(large, make_strategy(large, [(1,)], head="alpha"))
    speaker = served.speaker
    speaker.hello(m.Welcome)
    before = psutil.Process(served.process.pid).memory_info().rss
    failed = speaker.deploy(deployment, 0, 1)
    assert isinstance(failed, m.Failed)
    assert failed.kind == "memory"
    assert "64.0 MB for constants; the limit is 40.0 MB" in failed.reason
    assert isinstance(speaker.deploy(alone, 0, 2), m.Ready)
    grown = psutil.Process(served.process.pid).memory_info().rss - before
    assert grown < 40 * MB


# Whom it believes.


def test_a_worker_gets_nothing_of_another_ones_results(served: Served, alone, graph, image) -> None:
    """With its own key and the session that it must not know, or with the requester's and another session."""
    served.speaker.hello(m.Welcome)
    assert isinstance(served.speaker.deploy(alone, 0, 1), m.Ready)
    mine = served.on_data(served.keys[REQUESTER_NAME])
    mine.attach(b"s1")
    assert [answer.token for answer in mine.answers(2)] == [7, 8]
    thieves = [served.on_data(served.keys["beta"]), served.on_data(served.keys[REQUESTER_NAME])]
    for thief, session in zip(thieves, (b"s1", b"s2"), strict=True):
        thief.attach(session)
        assert [answer.token for answer in thief.answers(1)] == [8], "its echo is answered, and nothing else"
    plan = alone.device_plan(0, 1)
    for frame in range(2):
        for message in plan.incoming:
            mine.send(rows_of(plan, message, frame))
        (rows,) = mine.answers(1)
        assert isinstance(rows, Rows)
        assert rows.frame == frame
        assert [thief.received() for thief in thieves] == [[]] * len(thieves)
        # The second frame is run when they are gone.
        thieves = []
    dropped = served.speaker.ask(m.Ping(1), m.Pong).dropped
    assert (dropped["imposter"], dropped["another session"]) == (1, 1)


def test_a_workers_key_is_nothing_on_the_control_plane(served: Served) -> None:
    thief = served.network(served.keys["beta"])
    endpoint = thief.connect(served.bound.control, "control", served.keys["alpha"].public["alpha"])
    waiter = thief.waiter([endpoint])
    until_s = time.monotonic() + PATIENCE_S
    events = []
    while not events:
        assert time.monotonic() < until_s
        waiter.wait(1.0)
        events = endpoint.events()
    assert (events[0].kind, events[0].reason) == ("refused", "it does not accept this side's key")
    served.speaker.hello(m.Welcome)


def test_a_key_that_is_none_is_answered_and_the_next_link_is_measured(served: Served) -> None:
    """Over real sockets, where libzmq refuses the key. Before, the worker was "measuring another link" for ever."""
    where = served.bound.data
    for _ in range(2):
        bad = m.Measure(1, PeerAddress("alpha", where, "\u00e9" * 40), False, (0,), 1, 5.0)
        assert "not one of 40 Z85 characters" in served.speaker.ask(bad, m.LinkMeasured).error
    good = PeerAddress("alpha", where, served.keys["alpha"].public["alpha"])
    assert served.speaker.ask(m.Measure(2, good, False, (0,), 1, 20.0), m.LinkMeasured).error == ""
