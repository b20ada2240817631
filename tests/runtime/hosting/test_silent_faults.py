"""Workers that stop without a word, and connections over which nothing arrives: found and got round in time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import pytest

from distredge.errors import PeerTimeout
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.hosting.worker_process import WorkerProcesses, local_order
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.security import REQUESTER_NAME, make_keys
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.strategy import Strategy
from tests.runtime.conftest import DEVICES, make_strategy
from tests.runtime.hosting.freezing_relay import FreezingRelay
from tests.runtime.requester.conftest import equal

DEADLINE_S = 12.0

Replan = Callable[[frozenset[str]], Deployment]


@dataclass
class Cluster:
    """Three worker processes; rows for gamma from other workers go through a relay."""

    coordinator: Coordinator
    pids: dict[str, int]
    relay: FreezingRelay

    def freeze(self, worker: str, also_new: bool) -> None:
        """Lets what a worker sends to gamma fall silent."""
        ports = {c.laddr.port for c in psutil.Process(self.pids[worker]).net_connections() if c.laddr}
        self.relay.freeze(ports, also_new)


@contextmanager
def started(deployment: Deployment, replan: Replan | None = None) -> Iterator[Cluster]:
    keys = make_keys(DEVICES)
    workers = WorkerProcesses([local_order(name, keys[name].for_worker()) for name in DEVICES])
    network = ZmqNetwork(keys[REQUESTER_NAME].for_requester())
    relay = None
    try:
        addresses = workers.wait(60.0, keys[REQUESTER_NAME])
        (gamma,) = (one for one in addresses if one.name == "gamma")
        relay = FreezingRelay(int(gamma.data.rpartition(":")[2]))
        with Coordinator(network, addresses, deadline_s=DEADLINE_S, replan=replan, connect_s=30.0) as coordinator:
            through = PeerAddress("gamma", relay.address, gamma.public_key)
            coordinator._runner.workers["gamma"].for_others = lambda: through
            coordinator.deploy(deployment)
            yield Cluster(coordinator, workers.pids, relay)
    finally:
        for pid in workers.pids.values():
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGCONT)
        network.close()
        workers.close()
        if relay is not None:
            relay.close()


class Replanner:
    """Plans on the workers that are left, and remembers what it was asked."""

    def __init__(self, graph, then: Callable[[], None] = lambda: None) -> None:
        self._graph, self._then = graph, then
        self._gone: set[str] = set()
        self.asked: list[frozenset[str]] = []
        self.strategy: Strategy | None = None

    def __call__(self, lost: frozenset[str]) -> Deployment:
        self.asked.append(lost)
        self._gone |= lost
        shares = [0 if name in self._gone else 1 for name in DEVICES]
        head = next(name for name in DEVICES if name not in self._gone)
        self.strategy = make_strategy(self._graph, [shares, shares], head=head)
        if len(self.asked) == 1:
            self._then()
        return deploy(self._graph, self.strategy)


def test_a_stopped_worker_is_planned_around_before_the_deadline(graph, strategy, image) -> None:
    replan = Replanner(graph)
    with started(deploy(graph, strategy), replan) as cluster:
        cluster.coordinator.infer(image)
        os.kill(cluster.pids["beta"], signal.SIGSTOP)
        found = cluster.coordinator.infer(image)
        assert replan.asked == [{"beta"}]
        assert equal(found, run_in_process(graph, replan.strategy, image))


def test_one_that_stops_while_the_new_plan_is_prepared_is_planned_around_too(graph, strategy, image) -> None:
    pids: dict[str, int] = {}
    replan = Replanner(graph, lambda: os.kill(pids["beta"], signal.SIGSTOP))
    with started(deploy(graph, strategy), replan) as cluster:
        pids |= cluster.pids
        cluster.coordinator.infer(image)
        os.kill(pids["gamma"], signal.SIGKILL)
        found = cluster.coordinator.infer(image, deadline_s=60.0)
        assert replan.asked == [{"gamma"}, {"beta"}]
        assert equal(found, run_in_process(graph, replan.strategy, image))


@pytest.mark.parametrize("later", [False, True], ids=["first frame", "later"])
def test_a_silent_connection_is_made_anew(graph, strategy, image, later: bool) -> None:
    with started(deploy(graph, strategy)) as cluster:
        if later:
            cluster.coordinator.infer(image)
        cluster.freeze("alpha", also_new=False)
        assert equal(cluster.coordinator.infer(image), run_in_process(graph, strategy, image))


def test_a_connection_that_stays_silent_is_planned_around(graph, strategy, image) -> None:
    replan = Replanner(graph)
    with started(deploy(graph, strategy), replan) as cluster:
        cluster.coordinator.infer(image)
        cluster.freeze("alpha", also_new=True)
        found = cluster.coordinator.infer(image)
        # Of the two, the one that has less to do.
        assert replan.asked in ([{"alpha"}], [{"gamma"}])
        assert equal(found, run_in_process(graph, replan.strategy, image))


def test_without_another_plan_a_silent_connection_is_named(graph, strategy, image) -> None:
    with started(deploy(graph, strategy)) as cluster:
        cluster.coordinator.infer(image)
        cluster.freeze("alpha", also_new=True)
        with pytest.raises(
            PeerTimeout, match=r"rows from 'alpha' to 'gamma' do not arrive|cannot send rows to 'gamma'"
        ):
            cluster.coordinator.infer(image, deadline_s=3.0)
