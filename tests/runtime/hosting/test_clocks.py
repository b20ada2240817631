"""Workers whose clocks are hours apart: the kernel shows each of them another monotonic clock."""

from __future__ import annotations

import contextlib
import subprocess
import time

import psutil
import pytest

from distredge import metric_names
from distredge.runtime.deployment import deploy
from distredge.runtime.hosting.worker_process import OWN_COMMAND, START_S, WorkerProcess, local_order, stop_all
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from tests.runtime.conftest import DEVICES

OFFSETS_S = dict(zip(DEVICES, (3600, 86400, 0), strict=True))


def _command(offset_s: int) -> list[str]:
    return ["unshare", "--time", "--monotonic", str(offset_s), "--kill-child", *OWN_COMMAND]


def _stop(processes: list[WorkerProcess]) -> None:
    """`unshare` ends when its child does, and hands no signal on."""
    for process in processes:
        for child in psutil.Process(process.pid).children():
            child.terminate()
    stop_all(processes)


@pytest.fixture
def coordinator():
    """Of three processes in time namespaces of their own."""
    try:
        subprocess.run([*_command(1)[:5], "true"], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"needs time namespaces: {error}")
    with contextlib.ExitStack() as stack:
        orders = [(local_order(name, None, outlive_parent=True), _command(OFFSETS_S[name])) for name in DEVICES]
        processes = [WorkerProcess(order, command=command) for order, command in orders]
        stack.callback(_stop, processes)
        bound = [process.wait_bound(time.monotonic() + START_S) for process in processes]
        addresses = [WorkerAddress(n, b.control, b.data) for n, b in zip(DEVICES, bound, strict=True)]
        network = ZmqNetwork(None)
        stack.callback(network.close)
        yield stack.enter_context(Coordinator(network, addresses, connect_s=START_S))


def test_offsets_are_found_and_a_trace_is_on_one_clock(coordinator: Coordinator, graph, strategy, image) -> None:
    coordinator.deploy(deploy(graph, strategy))
    for _ in range(3):
        pending = coordinator.submit(image)
        pending.result()
    timeline = coordinator.timeline_of(pending.ran_as).wait()
    errors_s = timeline.details[metric_names.CLOCK_ERROR_S]
    for name, offset_s in OFFSETS_S.items():
        assert timeline.details[metric_names.CLOCK_OFFSET_S][name] == pytest.approx(offset_s, abs=errors_s[name])
        # A round trip on this machine, however busy it is.
        assert 0 < errors_s[name] < 0.1
    error_s = max(errors_s.values())
    for span in timeline.spans:
        assert span.start_s <= timeline.latency_s + error_s
    # What is computed from rows begins after their sending began, as far as clocks can tell.
    computed = {(s.device, s.stage): s.start_s for s in timeline.spans if s.lane == "compute"}
    for span in timeline.spans:
        if span.lane == "send" and (span.peer, span.stage) in computed:
            assert computed[span.peer, span.stage] >= span.start_s - 2 * error_s
