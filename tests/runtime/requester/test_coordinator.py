"""Workers are reached, plans prepared, shared, refused and retired; whatever goes wrong has a name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.errors import EngineError, ExecutionError, PeerTimeout, ProtocolError
from distredge.model.graph import Graph
from distredge.runtime.deployment import deploy
from distredge.runtime.engine import OnnxRuntimeEngine
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.in_process_transport import InProcessNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.requester.leases import WorkerHeld, WorkerTaken
from distredge.runtime.worker import data_plane, preparing
from tests.runtime.conftest import DEVICES, Cell, make_strategy
from tests.runtime.requester.conftest import equal, read_any


def test_nothing_deployed_is_an_error(cell: Cell, image) -> None:
    with pytest.raises(ExecutionError, match="nothing is deployed"):
        cell.coordinator().infer(image)


def test_constants_are_sent_once(cell: Cell, graph, strategy, image) -> None:
    sent: list[m.Weight] = []

    def watch(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = read_any(parts)
        if isinstance(message, m.Weight):
            sent.append(message)
        return [parts]

    cell.exchange.tamper = watch
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator()
    coordinator.deploy(deploy(graph, strategy))
    first = len(sent)
    assert first > 0
    other = make_strategy(graph, [(1, 1, 1)])
    coordinator.deploy(deploy(graph, other))
    assert len(sent) == first, "the same constants in another split"
    assert equal(coordinator.infer(image), run_in_process(graph, other, image))


def test_a_plan_is_prepared_beside_the_one_that_runs(running, graph, image) -> None:
    other = make_strategy(graph, [(0, 1, 1), (1, 0, 0)], head="gamma")
    expected = run_in_process(graph, other, image)
    running.deploy_beside(deploy(graph, other))
    before = running.infer(image)
    until_s = time.monotonic() + 30.0
    while running.infer(image)["scores"].tobytes() == before["scores"].tobytes():
        assert time.monotonic() < until_s, "it is never ready"
    assert equal(running.infer(image), expected)
    assert running.beside_error is None


def test_a_plan_shares_the_sub_models_that_it_has_in_common(cell: Cell, graph, strategy, image) -> None:
    engines = {name: _CountingEngine() for name in DEVICES}
    for name, engine in engines.items():
        cell.start(name, engine)
    coordinator = cell.coordinator()
    coordinator.deploy(deploy(graph, strategy))
    before = {name: engine.loads for name, engine in engines.items()}
    coordinator.deploy(deploy(graph, strategy), in_flight=2)
    assert {name: engine.loads for name, engine in engines.items()} == before
    expected = run_in_process(graph, strategy, image)
    for found in coordinator.stream([image] * 4):
        assert equal(found.result(), expected)


class _CountingEngine(OnnxRuntimeEngine):
    loads = 0

    def load(self, model, weights, ranges=None):
        self.loads += 1
        return super().load(model, weights, ranges)


def test_the_coordinator_may_start_first(cell: Cell, graph, strategy, image) -> None:
    coordinator = cell.coordinator(connect_s=20.0)
    starter = threading.Timer(0.05, lambda: [cell.start(name) for name in DEVICES])
    starter.start()
    coordinator.deploy(deploy(graph, strategy))
    starter.join()
    assert coordinator.infer(image)


def test_workers_that_are_not_there_are_named(cell: Cell, graph, strategy) -> None:
    cell.start("beta")
    coordinator = cell.coordinator(connect_s=0.2)
    with pytest.raises(PeerTimeout) as caught:
        coordinator.deploy(deploy(graph, strategy))
    assert str(caught.value) == (
        "cannot reach workers 'alpha' at memory://alpha:1, 'gamma' at memory://gamma:1 within 0.2 s; "
        "start each with: distredge worker"
    )


def test_a_worker_of_another_name_is_refused(cell: Cell, graph, strategy) -> None:
    for name in DEVICES:
        cell.start(name)
    found = [replace(one, control="memory://beta:1") if one.name == "alpha" else one for one in cell.addresses()]
    with (
        Coordinator(InProcessNetwork(cell.exchange, "requester"), found) as coordinator,
        pytest.raises(ProtocolError, match="worker 'alpha' at memory://beta:1: this is worker 'beta', not 'alpha'"),
    ):
        coordinator.deploy(deploy(graph, strategy))


def test_another_protocol_is_said_plainly(cell: Cell, graph, strategy) -> None:
    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        return [[parts[0][:3] + b"\x09" + parts[0][4:], *parts[1:]]] if source == "memory://beta:1" else [parts]

    cell.exchange.tamper = tamper
    for name in DEVICES:
        cell.start(name)
    with pytest.raises(ProtocolError, match=r"worker 'beta' at .* speaks protocol 9, this is protocol 4; install the"):
        cell.coordinator().deploy(deploy(graph, strategy))


def test_a_later_coordinator_takes_the_workers_over(cell: Cell, running, graph, strategy, image) -> None:
    running.infer(image)
    with pytest.raises(WorkerHeld, match=r"worker 'alpha' is held by '.*' for .* s, heard .* s ago; --take-over takes"):
        cell.coordinator().deploy(deploy(graph, strategy))
    assert running.infer(image)
    later = cell.coordinator(take_over=True, holder="eve@desk")
    later.deploy(deploy(graph, strategy))
    assert equal(later.infer(image), run_in_process(graph, strategy, image))
    for _ in range(2):
        with pytest.raises(WorkerTaken, match="worker 'alpha' was taken over by 'eve@desk'"):
            running.infer(image)
    later.close()
    running.deploy(deploy(graph, strategy))
    assert running.infer(image)


def test_an_engine_that_fails_is_named(cell: Cell, graph, strategy, image) -> None:
    for name in DEVICES:
        cell.start(name, _BrokenEngine("run") if name == "gamma" else None)
    coordinator = cell.coordinator()
    coordinator.deploy(deploy(graph, strategy))
    for _ in range(2):
        with pytest.raises(EngineError, match="worker 'gamma': stage 1: out of memory"):
            coordinator.infer(image)


def test_an_engine_that_refuses_a_sub_model_is_named(cell: Cell, graph, strategy) -> None:
    for name in DEVICES:
        cell.start(name, _BrokenEngine("load") if name == "gamma" else None)
    with pytest.raises(EngineError, match=r"worker 'gamma': stage 0: onnxruntime 1\.0 refuses the sub-model"):
        cell.coordinator().deploy(deploy(graph, strategy))


class _BrokenEngine(OnnxRuntimeEngine):
    """Refuses every sub-model, or fails on every run of stage 1."""

    warms_up = False

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    def load(self, model, weights, ranges=None):
        if self._at == "load":
            raise EngineError("onnxruntime 1.0 refuses the sub-model: no kernel")
        return _BrokenLoaded(super().load(model, weights, ranges))


class _BrokenLoaded:
    def __init__(self, inner) -> None:
        self._inner = inner

    def bind(self, inputs, outputs, stage: int) -> Callable[[], None]:
        def run() -> None:
            raise EngineError("out of memory")

        return run if stage == 1 else self._inner.bind(inputs, outputs, stage)


def test_a_plan_beyond_the_memory_is_refused(cell: Cell, graph, strategy, image) -> None:
    for name in DEVICES:
        cell.start(name, memory_bytes=1000 if name == "alpha" else None)
    coordinator = cell.coordinator()
    with pytest.raises(
        ExecutionError,
        match=r"worker 'alpha': with it plans need .* for arrays, .*; the limit is 0.0 MB",
    ):
        coordinator.deploy(deploy(graph, strategy))
    without = make_strategy(graph, [(0, 1, 1)])
    coordinator.deploy(deploy(graph, without))
    assert equal(coordinator.infer(image), run_in_process(graph, without, image))


def test_workers_that_cannot_reach_each_other_are_named(cell: Cell, graph, strategy, monkeypatch) -> None:
    monkeypatch.setattr(data_plane, "PEER_S", 0.2)
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator()
    runner = coordinator._runner
    runner.loop.call(runner.workers.connect(DEVICES, 5.0))
    for name in DEVICES:
        worker = runner.workers[name]
        monkeypatch.setattr(worker, "for_others", lambda name=name: PeerAddress(name, "memory://nowhere:2", ""))
    with pytest.raises(PeerTimeout, match=r"worker '.*': cannot reach '.*' at memory://nowhere:2 within 0.2 s"):
        coordinator.deploy(deploy(graph, strategy))


def test_silence_while_preparing_is_a_timeout(cell: Cell, graph, strategy) -> None:
    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        return [] if source == "memory://beta:1" and isinstance(read_any(parts), m.Ready) else [parts]

    cell.exchange.tamper = tamper
    for name in DEVICES:
        cell.start(name)
    with pytest.raises(PeerTimeout, match=r"preparing the plan: workers? .*'beta'.* not answer within 2 s"):
        cell.coordinator(patience_s=2.0).deploy(deploy(graph, strategy))


def test_damaged_constants_are_refused(cell: Cell, graph, strategy) -> None:
    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        return [[parts[0], bytes(len(parts[1]))]] if isinstance(read_any(parts), m.Weight) else [parts]

    cell.exchange.tamper = tamper
    for name in DEVICES:
        cell.start(name)
    with pytest.raises(ExecutionError, match="does not match its hash"):
        cell.coordinator().deploy(deploy(graph, strategy))


def test_too_many_plans_are_refused(cell: Cell, running, graph, strategy) -> None:
    runner = running._runner
    for _ in range(preparing.MAX_PLANS):
        runner.loop.call(runner.plans.begin(deploy(graph, strategy), 1))
    with pytest.raises(ExecutionError, match="plans are here already; retire one first"):
        running.deploy(deploy(graph, strategy))


def test_goodbye_frees_the_plans(cell: Cell, running, image) -> None:
    running.infer(image)
    running.close()
    with pytest.raises(ExecutionError, match="the coordinator was closed"):
        running.infer(image)
    for worker in cell.workers.values():
        until_s = time.monotonic() + 30.0
        while worker._data.plans:
            assert time.monotonic() < until_s, "its plans are still there"
            threading.Event().wait(0.01)


def test_a_number_goes_to_every_worker_that_needs_it(cell: Cell) -> None:
    """An input without axes: a threshold or a gain beside the picture."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 9, 7])
    gain = helper.make_tensor_value_info("gain", TensorProto.FLOAT, [])
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 9, 7]) for name in ("f", "y")]
    weights = numpy_helper.from_array(np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["f"], pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Mul", ["f", "gain"], ["y"]),
    ]
    proto = helper.make_graph(nodes, "gained", [x, gain], made[1:], [weights], value_info=made[:1])
    graph = Graph(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "gained")
    inputs = {"x": np.ones((1, 2, 9, 7), np.float32), "gain": np.array(2.5, np.float32)}
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator()
    coordinator.deploy(deploy(graph, make_strategy(graph, [(2, 1, 1)])))
    once, double = (coordinator.infer({**inputs, "gain": np.array(g, np.float32)})["y"] for g in (2.5, 5.0))
    assert np.abs(once).max() > 0
    np.testing.assert_allclose(double, 2 * once, rtol=1e-6)
