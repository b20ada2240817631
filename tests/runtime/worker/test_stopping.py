"""A worker that is told to end ends in time, whatever it is in the midst of."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from distredge.runtime.deployment import deploy
from distredge.runtime.hosting.worker_process import local_order
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.orders import Bound
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.weights import weight_messages
from tests.runtime.conftest import make_strategy
from tests.runtime.worker.conftest import PATIENCE_S, Speaker

_LOADS_FOR_MINUTES = """
import time
from distredge.runtime.worker.__main__ import main

def adapt(engine, network):
    engine.load = lambda *_: time.sleep(600)
    return engine, network

main(adapt)
"""


def test_ctrl_c_does_not_wait_for_what_is_loaded_for_minutes(graph, tmp_path: Path) -> None:
    """TensorRT builds engines for so long. Before, the first Ctrl-C seemed to do nothing."""
    deployment = deploy(graph, make_strategy(graph, [(1,)], head="alpha"))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _LOADS_FOR_MINUTES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
    network = ZmqNetwork(None)
    try:
        process.stdin.write(msgspec.json.encode(local_order("alpha", None)) + b"\n")
        process.stdin.flush()
        bound = msgspec.json.decode(process.stdout.readline(), type=Bound)
        speaker = Speaker(network, bound.control, "alpha")
        speaker.hello(m.Welcome)
        store = deployment.weights(0)
        for digest in speaker.prepare(deployment.device_plan(0, 1), deployment.models(0)).digests:
            for message, content in weight_messages(1, digest, store[digest]):
                speaker.send(message, [content])
        while speaker.receive(m.Progress).models == 0:
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    finally:
        network.close()
        process.kill()
        process.communicate()
    assert "ended by SIGINT in the midst of what it was doing" in (tmp_path / "log").read_text()
