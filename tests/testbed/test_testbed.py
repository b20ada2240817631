"""Real workers on emulated boards: results, cleaning up, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distredge.cluster import Link, Requester
from distredge.errors import ClusterError, ConfigError
from distredge.latency import evaluate
from distredge.latency.simulator.offload import single_device
from distredge.problem import Problem
from distredge.strategy import Strategy
from distredge.testbed import Testbed
from distredge.testbed.leftovers import clean, find_testbeds
from tests.testbed.conftest import MODES, make_cluster, needs_namespaces

Array = NDArray[Any]


def numbers() -> set[int]:
    """Testbeds in namespaces of this machine."""
    return {found.number for found in find_testbeds()}


def number_of(bed: Testbed) -> int:
    """Its number among those in namespaces."""
    return int(bed.cluster.devices[0].address.split(".")[2])


@pytest.mark.parametrize("mode", MODES)
def test_outputs_are_the_whole_model_s_and_frames_last_as_long_as_predicted_or_longer(
    mode: Any, problem: Problem, strategy: Strategy, image: dict[str, Array]
) -> None:
    import onnxruntime

    with Testbed(problem.cluster, mode) as bed:
        made = number_of(bed)
        measured = bed.measure(problem, strategy, image, frames=4, warmup=1)
        assert bed.cluster.link_model == "shared"
        assert len({(d.address, d.control_port) for d in bed.cluster.devices}) == 2
        predicted_s = evaluate(dataclasses.replace(problem, cluster=bed.cluster), strategy)
        assert bed.dilation == measured.dilation >= 1.0
    session = onnxruntime.InferenceSession(problem.graph.proto.SerializeToString())
    expected = session.run(None, image)[0]
    np.testing.assert_allclose(measured.outputs["scores"], expected, rtol=1e-4, atol=1e-5)
    assert len(measured.latencies_s) == len(measured.starts_s) == 4 - measured.invalid
    # Holding makes nothing faster than the model says; how much slower a loaded machine is, is no matter here.
    assert min(measured.timeline.frame_latency_s) > 0.8 * predicted_s
    assert {span.lane for span in measured.timeline.spans} == {"compute", "send", "receive"}
    assert mode == "loopback" or made not in numbers()


def test_several_strategies_stand_and_each_has_its_own_pace(
    problem: Problem, strategy: Strategy, image: dict[str, Array]
) -> None:
    alone = single_device(problem, "beta")
    with Testbed(problem.cluster, "loopback", engine="sleep", dilation=2.0) as bed:
        standing = bed.stand([(problem, strategy, image), (problem, alone, image)])
        standing.begin()
        frames = [standing.run(index) for index in (0, 1, 0)]
        seen = dataclasses.replace(problem, cluster=bed.cluster)
        predicted_s = [evaluate(seen, plan) for plan in (strategy, alone, strategy)]
    for frame, seconds in zip(frames, predicted_s, strict=True):
        assert frame.latency_s > 0.8 * seconds
    computing = [{s.device for s in frame.timeline.spans if s.lane == "compute"} for frame in frames]
    assert computing == [{"alpha", "beta"}, {"beta"}, {"alpha", "beta"}]
    assert 0 <= frames[0].start_s < frames[1].start_s < frames[2].start_s


def test_several_frames_in_flight_without_computing(
    problem: Problem, strategy: Strategy, image: dict[str, Array]
) -> None:
    with Testbed(problem.cluster, "loopback", engine="sleep", dilation=2.0) as bed:
        measured = bed.measure(problem, strategy, image, frames=6, in_flight=3, warmup=0)
    assert measured.frames == 6
    assert measured.dilation == 2.0


@needs_namespaces
def test_a_requester_on_a_board_and_traced_links_without_pace(graph: Any, strategy: Strategy, image: Any) -> None:
    from distredge.profiles.network import Trace

    trace = Trace([0.0, 0.05], [40e6, 20e6], period_s=0.1)
    cluster = dataclasses.replace(make_cluster(Link(trace=trace)), requester=Requester(device="alpha"))
    problem = Problem(graph, cluster)
    with Testbed(cluster, "namespaces", paced=False, encrypted=False, pinned={"alpha": 0}) as bed:
        assert os.sched_getaffinity(bed.pids["alpha"]) == {0}
        measured = bed.measure(problem, strategy, image, frames=3)
    assert (measured.invalid, measured.dilation) == (0, 1.0)
    assert list(measured.starts_s) == sorted(measured.starts_s)


@needs_namespaces
def test_nothing_is_left_after_an_error() -> None:
    made = []

    def fail_inside() -> None:
        with Testbed(make_cluster(), "namespaces", engine="sleep") as bed:
            made.append(number_of(bed))
            assert made[0] in numbers()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert made[0] not in numbers()


OWNER = """
import time
from distredge.testbed import Testbed
from tests.testbed.conftest import make_cluster
with Testbed(make_cluster(), "namespaces", engine="sleep") as bed:
    print(bed.cluster.devices[0].address.split(".")[2], flush=True)
    time.sleep(600)
"""


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    yield process
    process.kill()
    process.communicate()


@needs_namespaces
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM, signal.SIGKILL]
)
def test_nothing_is_left_when_the_owner_is_ended(owner: subprocess.Popen[str], number: signal.Signals) -> None:
    assert owner.stdout is not None
    made = int(owner.stdout.readline())
    assert made in numbers()
    owner.send_signal(number)
    owner.wait(20)
    until_s = time.monotonic() + 20
    while made in numbers() and time.monotonic() < until_s:
        time.sleep(0.05)
    assert made not in numbers()


@needs_namespaces
def test_clean_removes_what_nobody_watches_and_only_that() -> None:
    other, ours = "distredge-not-a-testbed", "distredge-testbed-63"
    for name in (other, ours):
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with Testbed(make_cluster(), "namespaces", engine="sleep") as bed:
            assert ours in clean()
            assert number_of(bed) in numbers()
        assert other in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    finally:
        subprocess.run(["ip", "netns", "del", other], check=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "sleep", "paced": False}, "computes nothing"),
        ({"dilation": 0.5}, r"'auto' or a number of at least 1"),
        ({"mode": "vm"}, "mode"),
        ({"pinned": {"alpha": 4095}}, "pinned"),
        ({"engine": "tvm"}, "engine"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Testbed(make_cluster(), **options)


def test_a_link_that_is_down_is_refused() -> None:
    with pytest.raises(ClusterError, match="found 0"):
        Testbed(make_cluster(Link(0.0)))


def test_a_pace_that_this_machine_cannot_keep_names_the_dilation_that_would_do() -> None:
    from distredge.model.capture import load_model
    from distredge.profiles.compute import load_profile

    # Large enough that no core computes it as fast as that board.
    graph = load_model("mobilenet-v2")
    image = {"input": np.zeros(graph.input_shapes[0], np.float32)}
    fast = load_profile("default:gtx1080ti")
    cluster = make_cluster(Link(1e9))
    name = cluster.names[0]
    strategy = Strategy.make(graph, [name], [(len(graph.cuts) - 1, (0, graph.cuts[-1].height))], head=name)
    cluster = dataclasses.replace(cluster, devices=tuple(dataclasses.replace(d, profile=fast) for d in cluster.devices))
    with (
        Testbed(cluster, "loopback", dilation=1.0) as bed,
        pytest.raises(ConfigError, match=r"about [\d.e+]+ would do"),
    ):
        bed.measure(Problem(graph, cluster), strategy, image, frames=1)


def test_without_root_namespaces_are_refused_and_auto_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from distredge.testbed.testbed import possible_mode

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="root"):
        possible_mode("namespaces")
    assert possible_mode("auto") == "loopback"
