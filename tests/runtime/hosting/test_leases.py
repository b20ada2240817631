"""Worker processes have one holder at a time, whoever starts when, and whatever becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest

from distredge.runtime.deployment import deploy
from distredge.runtime.hosting.worker_process import WorkerProcesses, local_order
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.requester.leases import WorkerHeld
from tests.runtime.conftest import DEVICES
from tests.runtime.requester.conftest import equal

TOGETHER = 4


@pytest.fixture(scope="module")
def addresses() -> Iterator[tuple[WorkerAddress, ...]]:
    """Three workers, for whoever comes."""
    workers = WorkerProcesses([local_order(name, None) for name in DEVICES])
    try:
        yield workers.wait(60.0, None)
    finally:
        workers.close()


def test_of_several_that_start_at_once_one_gets_all(addresses, graph, strategy, image) -> None:
    deployment, expected = deploy(graph, strategy), run_in_process(graph, strategy, image)
    together, over = threading.Barrier(TOGETHER), threading.Barrier(TOGETHER)
    good: list[bool] = []
    held: list[str] = []

    def start(number: int) -> None:
        network = ZmqNetwork(None)
        # However they are listed.
        listed = addresses[number % 3 :] + addresses[: number % 3]
        with Coordinator(network, listed, connect_s=30.0, holder=f"number {number}") as coordinator:
            together.wait(60)
            try:
                coordinator.deploy(deployment)
                good.append(equal(coordinator.infer(image), expected))
            except WorkerHeld as error:
                held.append(str(error))
            over.wait(60)
        network.close()

    threads = [threading.Thread(target=start, args=(number,)) for number in range(TOGETHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert good == [True]
    assert len(held) == TOGETHER - 1
    assert len({error.split(" for ")[0] for error in held}) == 1, "all are told of the same one"


_HOLDER = """
import sys, time
from distredge.model.capture import load_model
from distredge.runtime.deployment import deploy
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.strategy import Strategy

addresses = [WorkerAddress(*one.split(",")) for one in sys.argv[3:]]
coordinator = Coordinator(ZmqNetwork(None), addresses, holder="the dead")
coordinator.deploy(deploy(load_model(sys.argv[1]), Strategy.load(sys.argv[2])))
print("holds", flush=True)
time.sleep(300)
"""


@pytest.mark.slow
def test_a_dead_holders_lease_ends(addresses, graph, strategy, image, tmp_path) -> None:
    import onnx

    onnx.save(graph.proto, str(tmp_path / "small.onnx"))
    strategy.save(tmp_path / "s.json")
    listed = [f"{one.name},{one.control},{one.data}" for one in addresses]
    command = [sys.executable, "-c", textwrap.dedent(_HOLDER), str(tmp_path / "small.onnx"), str(tmp_path / "s.json")]
    holder = subprocess.Popen([*command, *listed], stdout=subprocess.PIPE, text=True)
    network = ZmqNetwork(None)
    try:
        assert holder.stdout.readline() == "holds\n"
        with Coordinator(network, addresses) as coordinator, pytest.raises(WorkerHeld, match="held by 'the dead'"):
            coordinator.deploy(deploy(graph, strategy))
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(20)
        with Coordinator(network, addresses, connect_s=60.0) as coordinator:
            coordinator.deploy(deploy(graph, strategy))
            assert equal(coordinator.infer(image), run_in_process(graph, strategy, image))
    finally:
        holder.kill()
        holder.communicate()
        network.close()
