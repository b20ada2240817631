"""The executor's benchmark: arithmetic of critical paths and delays, and that what it compares runs."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from distredge.errors import ExecutionError, PeerTimeout
from distredge.experiments.common import executor_messages
from distredge.experiments.common.exact import run_whole
from distredge.experiments.common.executor_children import child
from distredge.experiments.common.executor_messages import bare_pair, frame_sizes, tcp_pair
from distredge.experiments.common.executor_models import Measured, halves, overheads_of
from distredge.experiments.common.executor_path import (
    computed_in,
    critical_path_s,
    overhead,
    speedup_bound,
)
from distredge.experiments.common.executor_plain import beginning
from distredge.experiments.common.executor_streams import delay_frames, swaps
from distredge.experiments.common.executor_workers import (
    Cores,
    Ended,
    Figure,
    Others,
    in_turn,
    noise_for,
    outputs_of,
    own_cores,
    place_on,
    running,
)
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.runtime.deployment import deploy
from distredge.runtime.protocol.device_plan import REQUESTER, SourceMessage, TensorBox
from distredge.runtime.protocol.row_messages import HEAD_BYTES
from distredge.timeline import Span, Timeline


def rows(stage: int, source: int, destination: int, size: int, *made_in: int) -> SourceMessage:
    boxes = tuple(TensorBox("x", (0,), (size // 4 // len(made_in),), "float32") for _ in made_in)
    return SourceMessage(stage, source, destination, boxes, made_in)


MESSAGES = (
    rows(0, REQUESTER, 0, 400, -1),
    rows(0, REQUESTER, 1, 800, -1),
    rows(1, 0, 0, 4000, 0),
    rows(1, 1, 0, 1200, 0),
    rows(2, 0, REQUESTER, 40, 1),
)
"""Two devices with half of a volume each, 0 has the head."""


def test_a_critical_path_waits_for_the_slower_device_and_its_bytes() -> None:
    path_s = critical_path_s(MESSAGES, {0: [(0, 1.0), (1, 0.5)], 1: [(0, 2.0)]}, 400.0)
    # 800 bytes, the slower device, 1200 bytes from it, the head, 40 bytes.
    assert path_s == pytest.approx(2 + 2 + 3 + 0.5 + 0.1)


def test_what_stays_on_a_device_takes_no_time() -> None:
    path_s = critical_path_s(MESSAGES, {0: [(0, 9.0), (1, 0.5)], 1: [(0, 2.0)]}, 400.0)
    assert path_s == pytest.approx(1 + 9 + 0.5 + 0.1)


def test_a_device_does_one_thing_at_a_time() -> None:
    both = (rows(0, REQUESTER, 0, 4, -1), rows(1, REQUESTER, 0, 4, -1), rows(2, 0, REQUESTER, 8, 0, 1))
    assert critical_path_s(both, {0: [(1, 2.0), (0, 3.0)]}, 1e9) == pytest.approx(5.0)


def test_stages_that_wait_for_each_other_are_named() -> None:
    with pytest.raises(ValueError, match=r"wait for each other: \{0: \[\(1, 1\.0\)\]\}"):
        critical_path_s((rows(1, 1, 0, 4, 0),), {0: [(1, 1.0)]}, 1.0)


def test_computing_is_taken_from_a_timeline_frame_by_frame_in_order() -> None:
    spans = (
        Span("b", "compute", "head", 3.0, 4.0, 1, 2),
        Span("b", "compute", "volume", 1.0, 2.5, 1, 0),
        Span("a", "compute", "volume", 0.0, 0.5, 0, 0),
        Span("a", "send", "rows", 0.5, 0.6, 0, 0, peer="b"),
    )
    found = computed_in(Timeline(1.0, spans, origin="measured", frame_latency_s=(1.0, 1.0)), ("a", "b"))
    assert found == [{0: [(0, 0.5)]}, {1: [(0, 1.5), (2, 1.0)]}]


def test_shares_and_bounds() -> None:
    assert overhead(2.0, 1.5) == pytest.approx(0.25)
    assert speedup_bound(1.0, 0.875, 1.75) == pytest.approx(1.6)


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        ([3], Cores((3, 3), (3,))),
        ([0, 1], Cores((0, 1), (0, 1))),
        ([0, 2, 5, 7], Cores((0, 2), (5, 7))),
    ],
)
def test_workers_have_cores_of_their_own_as_far_as_there_are_some(cores: list[int], expected: Cores) -> None:
    found = place_on(cores)
    assert found == expected
    assert found.shared == (len(cores) < 3)
    assert found.all == tuple(cores)


def test_one_core_is_the_faster_of_a_worker_and_the_engine_alone() -> None:
    found = Measured({"plain": [1.0, 1.2, 1.4], "one": [1.1, 1.1, 1.0], "both": [2.0], "two": [0.5, 0.55, 1.0]})
    assert found.one_core == Figure(1.1, 1.0)
    assert found.speedup("two") == Figure(pytest.approx(2.0), pytest.approx(2.0))
    assert found.both_cores_ratio == pytest.approx(0.6)


def test_other_programs_have_what_is_not_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Times(NamedTuple):
        user: float
        system: float = 1.0
        idle: float = 50.0
        iowait: float = 3.0
        guest: float = 2.0
        guest_nice: float = 0.0

    own = os.times_result((10.0, 1.0, 5.0, 0.0, 0.0))
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [Times(0.0), Times(30.0)])
    monkeypatch.setattr(os, "times", lambda: own)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    others = Others([1])
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [Times(99.0), Times(38.0, guest=4.0, idle=60.0)])
    monkeypatch.setattr(os, "times", lambda: os.times_result((11.0, 1.5, 5.5, 1.0, 0.0)))
    monkeypatch.setattr(time, "monotonic", lambda: 110.0)
    # Busy 8 s more, 3 of them this process and its children.
    assert others.share() == pytest.approx(0.5)


def ended(*pairs: tuple[float, float]) -> list[Ended]:
    return [Ended(ended_s - latency_s, ended_s, latency_s) for ended_s, latency_s in pairs]


def test_a_delay_is_that_of_a_frame_or_of_the_next_result() -> None:
    steady = [(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)]
    assert delay_frames(ended(*steady, (4.0, 2.0), (5.0, 2.0)), 3.5) == pytest.approx(0.0)
    assert delay_frames(ended(*steady, (6.0, 2.0), (7.0, 2.0)), 3.5) == pytest.approx(2.0)
    assert delay_frames(ended(*steady, (4.0, 2.5), (5.0, 2.0)), 3.5) == pytest.approx(0.5)
    lost = Ended(3.0, 4.0, 0.0, PeerTimeout("gone"))
    assert delay_frames([*ended(*steady), lost, *ended((5.0, 2.0))], 3.5) == pytest.approx(1.0)


def test_the_beginning_of_a_model_computes_what_the_model_does() -> None:
    graph = load_model("vgg16", (1, 3, 32, 32), width=0.05)
    cut = beginning(graph, "pool5")
    assert cut.output_names == ("pool5",)
    assert len(cut.constants) == 26
    assert not any("classifier" in name for name in cut.constants)
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    beyond = beginning(graph, "fc6")
    pooled = run_whole(cut, {"input": image})["pool5"]
    weight, bias = graph.weight("classifier.0.weight"), graph.weight("classifier.0.bias")
    expected = pooled.reshape(1, -1) @ weight.T + bias
    assert run_whole(beyond, {"input": image})["fc6"] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_bare_messages_are_cut_as_those_of_workers() -> None:
    assert frame_sizes(1, 4) == (HEAD_BYTES + 1024,)
    assert sum(frame_sizes(96, 128)) == HEAD_BYTES + 64 * 96 * 128 * 4
    assert len(frame_sizes(96, 128)) > 1


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_bare_pair_passes_messages_on_and_counts_them(encrypted: bool) -> None:
    cores = [own_cores().all] * 2
    with bare_pair(encrypted, cores) as pair:
        pair.send((1024, 16), fills=True)
        pair.second.ask(None)
        before = pair.second.ask(None)
        pair.frames(5)
        after = pair.second.ask(None)
        assert before.on_the_way_s == []
        assert len(after.on_the_way_s) == 5
        assert min(after.on_the_way_s) > 0
        assert after.processor_s > before.processor_s
        assert len(pair.round_trips_s(3)) == 3


def test_a_process_that_ends_by_itself_is_named() -> None:
    with child(ends_when_asked, own_cores().all) as process, pytest.raises(ExecutionError, match="ends_when_asked has"):
        process.ask("to end")


def ends_when_asked(pipe: Connection) -> None:
    """Runs in a process of its own."""
    pipe.send("ready")
    pipe.recv()


def test_raw_tcp_takes_time() -> None:
    with tcp_pair(1 << 20) as run:
        assert min(run(4)) > 0


@pytest.fixture(scope="module")
def small() -> Graph:
    return load_model("mobilenet-v2", (1, 3, 64, 64), width=0.1)


def test_frames_on_workers_and_their_overhead(small: Graph) -> None:
    deployment = deploy(small, halves(small, 3))
    inputs = noise_for(deployment)
    with running(deployment, in_flight=2) as workers:
        latencies_s = workers.latencies_s(inputs, 3)
        shares = overheads_of(workers.coordinator.timeline(3), deployment, latencies_s, 1e9)
        assert len(shares) == 3
        assert all(0 < share < 1 for share in shares)
        frames = in_turn(workers, inputs, 2, lambda begun: begun < 4, lambda: 0.0)
        assert [frame.error for frame in frames] == [None] * 4
        streamed = [outputs_of(result) for result in workers.coordinator.stream(inputs for _ in range(3))]
    expected = run_whole(small, inputs)
    assert len(streamed) == 3
    for outputs in streamed:
        for name, array in outputs.items():
            assert array == pytest.approx(expected[name], rel=1e-3, abs=1e-4)


def test_a_swap_is_seen_and_loses_nothing(small: Graph) -> None:
    found = swaps(small, 2)
    assert [one.lost for one in found] == [0, 0]
    assert all(one.live_s > 0 for one in found)


def test_workers_answer_as_often_as_bare_pairs() -> None:
    found = executor_messages.round_trips(rounds=2, count=5)
    assert {name: len(seconds) for name, seconds in found.items()} == dict.fromkeys(
        ("worker", "bare", "worker_curve", "bare_curve"), 10
    )
