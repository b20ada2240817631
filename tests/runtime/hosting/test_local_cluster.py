"""Real worker processes over real sockets, encrypted: exact, named when something dies, and gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from distredge.child_processes import python_command
from distredge.errors import ExecutionError, ModelError, PeerTimeout
from distredge.runtime.deployment import deploy
from distredge.runtime.hosting.local_cluster import LocalCluster
from distredge.runtime.hosting.worker_process import WorkerProcess, local_order
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol.security import is_key, make_keys
from distredge.strategy import Strategy
from tests.runtime.conftest import DEVICES, make_strategy, small_cnn
from tests.runtime.requester.test_lost_workers import GAMMA_IS_LOST


@pytest.fixture(scope="module")
def shared(problem, graph) -> Iterator[LocalCluster]:
    """One cluster for the tests that break nothing."""
    with LocalCluster(problem, make_strategy(graph, [(2, 1, 1), (1, 1, 2)]), in_flight=2) as local:
        yield local


def test_results_are_those_of_one_process(shared, graph, strategy, image) -> None:
    expected = run_in_process(graph, strategy, image)
    for _ in range(3):
        assert np.array_equal(shared.infer(image)["scores"], expected["scores"])
    assert shared.last_latency_s > 0


def test_pictures_need_a_model_that_takes_them(shared) -> None:
    with pytest.raises(ModelError, match="does not say how a picture becomes its input"):
        shared.stream_images(["a.jpg"])


def test_boundary_rows_first(problem, graph, image) -> None:
    """What neighbours wait for arrives before the part that makes it is done; the result is the same."""
    strategy = make_strategy(graph, [(2, 1, 1), (1, 1, 2)])
    strategy = strategy.replace(volumes=tuple(replace(v, boundary_first=True) for v in strategy.volumes))
    assert any(s.after >= 0 for s in deploy(graph, strategy).device_plan(0).segments)
    with LocalCluster(problem, strategy, in_flight=2) as local:
        frames = [{"image": image["image"] * scale} for scale in (1.0, 0.5, 2.0)]
        for frame, found in zip(frames, local.stream(frames), strict=True):
            assert np.array_equal(found.result()["scores"], run_in_process(graph, strategy, frame)["scores"])
        assert local.timeline.bytes_sent == local.deployment.layout.bytes_sent


def test_packed_rows_are_fewer_and_no_bit_differs(problem, graph, image) -> None:
    frames = [{"image": image["image"] * scale} for scale in (1.0, 0.0, -3.0)]
    outputs, sent = {}, {}
    for wire in ("float32", "float32-packed"):
        # Where the first volume ends two tensors are alive, of which one has zeros.
        volumes = [(1, (0, 10, 20, 33)), (4, (0, 4, 9, 17)), (5, (0, 3, 5, 8))]
        strategy = Strategy.make(graph, DEVICES, volumes, head="beta", wire=wire)
        with LocalCluster(problem, strategy, in_flight=2) as local:
            outputs[wire] = [found.result()["scores"].tobytes() for found in local.stream(frames)]
            sent[wire] = local.timeline.bytes_sent
    assert outputs["float32-packed"] == outputs["float32"]
    assert sent["float32-packed"] < sent["float32"]


def test_frames_in_flight(shared, graph, strategy) -> None:
    rng = np.random.default_rng(0)
    frames = [{"image": rng.standard_normal((1, 3, 33, 21), dtype=np.float32)} for _ in range(6)]
    for frame, found in zip(frames, shared.stream(frames), strict=True):
        assert np.array_equal(found.result()["scores"], run_in_process(graph, strategy, frame)["scores"])


def test_the_timeline_has_every_byte(shared, image) -> None:
    shared.infer(image)
    timeline = shared.timeline
    assert timeline.bytes_sent == shared.deployment.layout.bytes_sent
    assert {s.device for s in timeline.spans if s.lane == "compute"} == set(DEVICES)


def test_workers_are_processes_of_their_own_and_hold_no_secret_in_sight(shared) -> None:
    assert len(set(shared.pids.values())) == 3
    for pid in shared.pids.values():
        process = psutil.Process(pid)
        assert process.cmdline() == [*python_command("distredge.runtime.worker")]
        assert not [key for key, value in process.environ().items() if is_key(value)]
        assert process.ppid() == os.getpid()


def test_workers_load_no_planning_or_training_package(shared) -> None:
    for pid in shared.pids.values():
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "onnxruntime" in mapped
        for name in ("torch", "scipy", "numba", "llvmlite", "matplotlib"):
            assert f"/{name}/" not in mapped


def test_a_cluster_made_in_a_thread_outlives_it(problem, strategy, image) -> None:
    made: list[LocalCluster] = []
    thread = threading.Thread(target=lambda: made.append(LocalCluster(problem, strategy, plaintext=True)))
    thread.start()
    thread.join(60)
    with made[0] as local:
        assert local.infer(image)


def _gone(pids: list[int]) -> bool:
    _, alive = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=10)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_a_killed_worker_ends_the_frame_at_once_and_the_others_afterwards(problem, graph, image) -> None:
    strategy = make_strategy(graph, [(2, 1, 1), (1, 1, 2)])
    with LocalCluster(problem, strategy, deadline_s=120.0) as local:
        local.infer(image)
        pids = list(local.pids.values())
        # Stopped first, so that the frame is certainly in flight when it dies.
        os.kill(local.pids["gamma"], signal.SIGSTOP)
        pending = local.submit(image)
        runner = local.coordinator._runner
        while not runner.plans.active.frames and not pending.done:
            threading.Event().wait(0.01)
        os.kill(local.pids["gamma"], signal.SIGKILL)
        with pytest.raises(PeerTimeout, match=GAMMA_IS_LOST):
            pending.result()
        with pytest.raises(PeerTimeout, match="'gamma'"):
            local.infer(image, deadline_s=0.5)
        # On a busy machine another worker may still be the first to see it.
        with pytest.raises(PeerTimeout, match=r"cannot (reach worker|send rows to) 'gamma'"):
            local.infer(image, deadline_s=0.5)
    assert _gone(pids)


def test_a_silent_worker_is_named_within_the_deadline(problem, graph, image) -> None:
    strategy = make_strategy(graph, [(2, 1, 1), (1, 1, 2)])
    with LocalCluster(problem, strategy) as local:
        local.infer(image)
        pid = local.pids["beta"]
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(PeerTimeout, match=r"no result within 3 s: worker 'beta' does not answer"):
                local.infer(image, deadline_s=3.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        expected = run_in_process(graph, strategy, image)
        for _ in range(2):
            assert np.array_equal(local.infer(image)["scores"], expected["scores"])


def test_an_engine_that_is_not_there_is_named(problem, graph) -> None:
    keys = make_keys(["a"])
    process = WorkerProcess(local_order("a", keys["a"].for_worker(), provider="tensorrt"))
    try:
        with pytest.raises(ExecutionError, match=r"worker 'a': this build of ONNX Runtime .* has no Tensorrt"):
            process.wait_bound(time.monotonic() + 60)
    finally:
        process.stop()


def test_a_worker_ends_when_its_standard_input_closes() -> None:
    process = WorkerProcess(local_order("a", None))
    try:
        process.wait_bound(time.monotonic() + 60)
        process._process.stdin.close()
        assert process._process.wait(10) == 0
    finally:
        process.stop()


@pytest.mark.parametrize("order", ["", "{}\n", "not JSON\n", "[" * 2000 + "\n"])
def test_a_worker_without_an_order_says_so(order: str) -> None:
    command = [sys.executable, "-m", "distredge.runtime.worker"]
    done = subprocess.run(command, input=order, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "order" in done.stderr
    assert "Traceback" not in done.stderr


_PARENT = """
import signal, sys, time
from distredge.cluster import Cluster, Device, Requester
from distredge.model.capture import load_model
from distredge.problem import Problem
from distredge.profiles.compute import load_profile
from distredge.runtime.hosting.local_cluster import LocalCluster
from distredge.strategy import Strategy

if __name__ == "__main__":
    # A shell that starts something in the background lets it ignore SIGINT, and what that starts inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    graph = load_model(sys.argv[1])
    strategy = Strategy.load(sys.argv[2])
    profile = load_profile("default:nano")
    cluster = Cluster("test", Requester(), tuple(Device(name, profile) for name in strategy.devices))
    with LocalCluster(Problem(graph, cluster), strategy) as local:
        print(*local.pids.values(), flush=True)
        time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path: Path, strategy, number: int) -> None:
    import onnx

    onnx.save(small_cnn(), str(tmp_path / "small.onnx"))
    strategy.save(tmp_path / "s.json")
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(_PARENT))
    command = [sys.executable, str(script), str(tmp_path / "small.onnx"), str(tmp_path / "s.json")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        parent.send_signal(number)
        parent.wait(30)
        assert _gone(pids)
    finally:
        parent.kill()
        parent.communicate()
