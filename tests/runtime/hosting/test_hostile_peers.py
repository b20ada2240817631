"""Worker processes under hostile peers: they live, keep their memory, and serve whoever is honest."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest

from distredge.experiments.common.hostile import ask_for_echoes, dial, holder, send_command, send_without_end
from distredge.runtime.deployment import deploy
from distredge.runtime.hosting.worker_process import OWN_COMMAND, WorkerProcess, local_order
from distredge.runtime.links.one_link import ping
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.door import UNREAD_BYTES
from distredge.runtime.protocol.messages import Echo, decode_on_data, encode
from distredge.runtime.protocol.security import Keys, make_keys
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from tests.runtime.conftest import make_strategy

PATIENCE_S = 60.0
MIB = 1024 * 1024
LIMITED = ("sh", "-c", 'ulimit -n 1024; exec "$@"', "sh", *OWN_COMMAND)
"""A worker that may open as many files as most systems let it."""


class Attacked:
    """A worker process with its keys, and how it is.

    Attributes:
        address: where it is.
        keys: of everybody.
        largest_bytes: the most memory that it had since `measured` was entered.
    """

    def __init__(self) -> None:
        self.keys: dict[str, Keys] = make_keys(["alpha", "beta"])
        self._process = WorkerProcess(local_order("alpha", self.keys["alpha"].for_worker()), command=LIMITED)
        try:
            bound = self._process.wait_bound(time.monotonic() + PATIENCE_S)
        except BaseException:
            self._process.stop()
            raise
        self.address = WorkerAddress("alpha", bound.control, bound.data, self.server_key)
        self.network = ZmqNetwork(self.keys["requester"].for_requester())
        self._watched = psutil.Process(self._process.pid)

    @property
    def server_key(self) -> str:
        """Its public key."""
        return self.keys["alpha"].public["alpha"]

    def growth_bytes(self, attack: Callable[[], None]) -> int:
        """How much memory it takes while it is attacked, at the most."""
        before = largest = self._watched.memory_info().rss
        thread = threading.Thread(target=attack)
        thread.start()
        while thread.is_alive():
            largest = max(largest, self._watched.memory_info().rss)
            thread.join(0.005)
        return max(largest, self._watched.memory_info().rss) - before

    def dropped(self) -> dict[str, int]:
        """What it says that it has dropped; it answers, so that it lives."""
        return ping(self.network, self.address, PATIENCE_S).dropped

    def close(self) -> None:
        """Ends it."""
        self.network.close()
        self._process.stop()


@pytest.fixture
def attacked() -> Iterator[Attacked]:
    made = Attacked()
    yield made
    made.close()


def test_idle_connections_take_no_descriptor_from_a_deploy(attacked: Attacked, graph, image, whole_model) -> None:
    """Fault: 2000 idle connections against 1024 descriptors, then a deploy; the worker ended."""
    idle: list[socket.socket] = []
    try:
        for number in range(2000):
            idle.append(dial(attacked.address.data if number % 2 else attacked.address.control))
        strategy = make_strategy(graph, [(1,)], head="alpha")
        with Coordinator(attacked.network, [attacked.address], connect_s=PATIENCE_S) as coordinator:
            coordinator.deploy(deploy(graph, strategy))
            assert np.allclose(coordinator.infer(image)["scores"], whole_model(image)["scores"], atol=1e-5)
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.parametrize("announced_bytes", [62_000_000, 2_000_000])
def test_strangers_take_no_memory(attacked: Attacked, announced_bytes: int) -> None:
    """Fault: 20 strangers with a command of 62 MB each took a worker from 74 to 1372 MB."""
    sent: list[int] = []

    def attack() -> None:
        connections = [dial(attacked.address.data) for _ in range(20)]
        threads = [
            threading.Thread(target=lambda c=c: sent.append(send_command(c, announced_bytes, announced_bytes)))
            for c in connections
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()

    assert attacked.growth_bytes(attack) < 64 * MIB
    assert len(sent) == 20
    attacked.dropped()


def test_a_key_does_not_open_the_memory(attacked: Attacked) -> None:
    """A message without an end, from somebody whose key is allowed: libzmq counts whole messages."""

    def attack() -> None:
        with holder(attacked.address.data, attacked.keys["beta"].for_requester(), attacked.server_key) as dealer:
            dealer.send(encode(Echo(1, False)))
            dealer.recv()
            send_without_end(dealer, 16 * UNREAD_BYTES)
            # Answered over a new connection, and so after the old one has been cut off.
            dealer.send(encode(Echo(2, False)))
            answer = decode_on_data(dealer.recv())
            assert isinstance(answer, Echo)

    assert attacked.growth_bytes(attack) < 4 * UNREAD_BYTES
    assert attacked.dropped()["sends too much: 'beta'"] >= 1


def test_answers_that_nobody_reads_take_no_memory(attacked: Attacked) -> None:
    """Fault: 150 small requests for large answers took another worker to 2.1 GB."""

    def attack() -> None:
        with holder(attacked.address.data, attacked.keys["beta"].for_requester(), attacked.server_key, 1) as dealer:
            ask_for_echoes(dealer, 150)
            deadline_s = time.monotonic() + PATIENCE_S
            while "reads too little: 'beta'" not in attacked.dropped():
                assert time.monotonic() < deadline_s

    assert attacked.growth_bytes(attack) < 64 * MIB
