"""What computes while a board is measured: with an engine's profiler kernels are told, without one whole runs."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.measuring.attribution import read_profile
from distredge.profiles.measuring.bench import Bench, Effort
from distredge.profiles.measuring.board import Measuring, MeasuringPlan
from distredge.profiles.measuring.engines import EngineSettings, Loaded, ThisProcess, chain_model
from distredge.profiles.measuring.segments import SegmentCase, random_cases
from distredge.profiles.measuring.windows import alone_of, windows_of
from distredge.runtime.engine_process import _places
from distredge.runtime.old_python_engine import OldPythonEngine

BRIEF = Effort(least=3, most=4, least_s=0.0, seconds=0.01, spread=1.0)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return load_model("squeezenet1.1", (1, 3, 64, 64), width=0.5)


@pytest.fixture(scope="module")
def case(graph: Graph) -> SegmentCase:
    return max(random_cases(graph, 8, 1), key=lambda one: len(one.part.operators))


@pytest.fixture(scope="module")
def child() -> Iterator[OldPythonEngine]:
    made = OldPythonEngine(sys.executable)
    yield made
    made.close()


class WholeRuns:
    """An engine that tells no kernels' times, as a GPU's does not."""

    name = "wholly 1.0"
    providers = ("SomeExecutionProvider",)
    threads = 1

    def __init__(self) -> None:
        self._engine = ThisProcess()

    def load(self, model: bytes, weights: Mapping[str, np.ndarray[Any, Any]]) -> Loaded:
        return self._engine.load(model, weights)


def test_an_engine_in_a_process_of_its_own_tells_the_same_kernels(
    graph: Graph, case: SegmentCase, child: OldPythonEngine
) -> None:
    here, there = Bench(graph), Bench(graph, EngineSettings(child))
    assert there.settings.pid == child.pid
    assert here.settings.pid is None
    samples = [bench.run(bench.segment(case.part, case.layout), BRIEF) for bench in (here, there)]
    assert samples[0].operators.keys() == samples[1].operators.keys()
    assert samples[0].kernels == samples[1].kernels > 0
    for sample in samples:
        assert (sample.kernels_s < sample.total_s).all()
        assert len(sample.total_s) == len(sample.kernels_s) >= BRIEF.least
    assert {w.keys for w in windows_of([there])} == {w.keys for w in windows_of([here])}


def test_runs_in_another_process_are_timed_by_what_it_computes(child: OldPythonEngine) -> None:
    clock = EngineSettings(child).clock
    before = clock()
    time.sleep(0.2)
    waited = clock() - before
    assert 0.0 <= waited < 0.05
    size = 1 << 20
    arrays = {name: np.ones((1, size), np.float32) for name in "xy"}
    run = child.load(chain_model(20, size), {}).bind({"x": arrays["x"]}, {"y": arrays["y"]}, 0)
    spent = psutil.Process(child.pid).cpu_times().user
    before, until = clock(), spent + 0.3
    while psutil.Process(child.pid).cpu_times().user < until:
        run()
    # The system counts in ticks of 10 ms.
    assert clock() - before > 0.25
    assert EngineSettings(WholeRuns()).clock is time.perf_counter
    assert EngineSettings(ThisProcess(2)).clock is time.perf_counter
    assert EngineSettings().clock is time.thread_time


def test_a_process_keeps_nothing_of_what_it_timed(graph: Graph, case: SegmentCase) -> None:
    engine = OldPythonEngine(sys.executable)

    def noted() -> list[Path]:
        folders = [path for place in _places() for path in place.glob(f"{engine._process._prefix}*")]
        return [path for folder in folders for path in (folder, *folder.iterdir())]

    try:
        bench = Bench(graph, EngineSettings(engine))
        segment = bench.segment(case.part, case.layout)
        for _ in range(2):
            bench.run(segment, BRIEF)
            assert len(noted()) == 1, "the folder alone"
        # One whose times nobody has asked for yet is noted when the process ends, too.
        timed = engine.load_timed(chain_model(1, 8), {})
        assert len(noted()) == 2
        del timed
    finally:
        engine.close()
    assert noted() == []


def test_without_kernels_times_what_running_costs_is_taken_off_once_for_each_operator(graph: Graph) -> None:
    settings = EngineSettings(WholeRuns())
    bench = Bench(graph, settings)
    assert not windows_of([bench])
    assert {alone.signature.key for alone in alone_of([bench])} == {s.key for s in graph.signatures if s is not None}
    bench._beside = (1e-4, 1e-9)
    segment = bench.segment(bench.operator_part(0, 4))
    sample = bench.run(segment, BRIEF)
    edge_bytes = sum(4 * math.prod(port.shape) for port in (*segment.inputs, *segment.outputs))
    left = sample.total_s - 1e-4 - 1e-9 * edge_bytes
    np.testing.assert_allclose(sample.kernels_s, np.maximum(left, 0.02 * sample.total_s))
    plan = MeasuringPlan(budget_s=3600.0, points=3, start=2, effort=BRIEF, segments=2, power_s=0.1)
    data = Measuring([graph], settings, plan).run()
    profile = ComputeProfile(data)
    assert (data.runtime.name, data.runtime.version, data.runtime.provider) == ("wholly", "1.0", settings.provider)
    assert all(profile.covers(signature) for signature in graph.signatures if signature is not None)


def test_changes_of_layout_at_the_edge_are_known_by_their_bytes_where_no_shape_is_told(
    graph: Graph, case: SegmentCase
) -> None:
    segment = Bench(graph).segment(case.part, case.layout)
    sizes = [4 * math.prod(port.shape) for port in (*segment.inputs, *segment.outputs)]
    events: list[dict[str, Any]] = []
    for kind, told, size_bytes in (
        ("ReorderInput", "activation_size", 4 * math.prod(segment.inputs[0].shape)),
        ("ReorderOutput", "output_size", 4 * math.prod(segment.outputs[0].shape)),
        ("ReorderInput", "activation_size", 4 + max(sizes)),
    ):
        args = {"op_name": kind, told: str(size_bytes)}
        events.append({"cat": "Node", "name": f"{kind}{size_bytes}_kernel_time", "dur": 10, "args": args})
    (first, *_) = case.part.operators
    own = f"operator:{first.operator}:0:{first.operator}_kernel_time"
    events.append({"cat": "Node", "name": own, "dur": 50, "args": {"op_name": "Conv"}})
    seconds = np.array([100e-6])
    sample = read_profile(events, graph, segment, 0.0, seconds, seconds)
    assert sample.kernels == 4
    # What changes the layout inside belongs to an operator, what does at the edge to none.
    assert sample.kernels_s == pytest.approx([60e-6])
    assert {op: float(times[0]) for op, times in sample.operators.items()} == pytest.approx({first.operator: 60e-6})
