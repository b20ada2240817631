"""Sub-models with dynamic rows at work: loaded once for all splits, bound anew, refused where they must be."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from distredge.cluster import Cluster, Device, Requester
from distredge.errors import EngineError, ProtocolError
from distredge.model import dynamic_segments, model_digest
from distredge.model.dynamic_segments import DynamicVolumes
from distredge.problem import Problem
from distredge.profiles.compute import load_profile
from distredge.runtime import old_python_engine
from distredge.runtime.buffers import Array, Slot
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.engine import Engine, Loaded, OnnxRuntimeEngine
from distredge.runtime.engine_folders import EngineFolders
from distredge.runtime.hosting.local_cluster import LocalCluster
from distredge.runtime.in_process import InProcess
from distredge.runtime.old_python_engine import OldPythonEngine
from distredge.runtime.protocol.addresses import PeerAddress, WorkerAddress
from distredge.runtime.protocol.checked_plan import check_plan
from distredge.runtime.protocol.device_plan import DevicePlan, RowMask, ShapeRange
from distredge.runtime.protocol.prepare_parts import prepare_parts, read_prepare
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.provider_options import CPU, CUDA, TENSORRT, provider_options
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.worker.memory_account import arrays_bytes
from distredge.runtime.worker.settings import WorkerSettings, takes_dynamic_rows
from distredge.runtime.worker.worker import Worker
from distredge.strategy import Strategy
from tests.runtime.conftest import DEVICES, Cell, make_strategy

FIRST, SECOND = [(2, 1, 1), (1, 1, 2), (1, 2, 1)], [(1, 1, 1), (2, 2, 1), (3, 1, 2)]
"""Shares of three volumes; the second of them has a reduction in its middle, and so two stages."""


@pytest.fixture(autouse=True)
def whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small CNN's parts have few rows: none is refused for its halo here."""
    monkeypatch.setattr(dynamic_segments, "MOST_EXTRA", float("inf"))


class CountingEngine(OnnxRuntimeEngine):
    """Notes what it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[bool] = []
        """Of each sub-model, whether its rows are dynamic."""

    def load(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange] | None = None
    ) -> Loaded:
        self.loaded.append(bool(ranges))
        return super().load(model, weights, ranges)


@pytest.fixture
def engines() -> Iterator[tuple[dict[str, CountingEngine], list[Worker]]]:
    """Three engines of workers over real sockets."""
    counting = {name: CountingEngine() for name in DEVICES}
    made: list[Worker] = []
    threads = []
    for name, engine in counting.items():
        settings = WorkerSettings(name, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", dynamic_rows=True)
        made.append(Worker(settings, ZmqNetwork(None), engine))
        threads.append(threading.Thread(target=made[-1].run, name=f"worker-{name}"))
        threads[-1].start()
    yield counting, made
    for worker in made:
        worker.stop()
    for thread in threads:
        thread.join(10)


def _strategy(graph, shares) -> Strategy:
    """Volumes that end after the first convolution, after the squeeze-and-excite, and at the body's end."""
    after = [next(c.index for c in graph.cuts if c.reference == name) for name in ("r1", "m")]
    volumes = []
    for index, share in zip((*after, len(graph.cuts) - 1), shares, strict=True):
        height = graph.cuts[index].height
        ends = np.round(np.cumsum([0.0, *share]) / sum(share) * height).astype(int)
        volumes.append((index, [int(x) for x in ends]))
    return Strategy.make(graph, DEVICES, volumes, head="beta")


def test_a_plan_with_other_rows_loads_nothing_new(graph, image, engines, whole_model, caplog) -> None:
    """Over real sockets: of the volumes that have dynamic rows, each worker loads one sub-model for both plans."""
    counting, workers = engines
    expected = whole_model(image)["scores"]
    addresses = [
        WorkerAddress(name, worker.control_address, worker.data_address)
        for name, worker in zip(DEVICES, workers, strict=True)
    ]
    network = ZmqNetwork(None)
    caplog.set_level(logging.INFO, "distredge.runtime.requester.plans")
    try:
        with Coordinator(network, addresses) as coordinator:
            for shares in (FIRST, SECOND, FIRST):
                coordinator.deploy(deploy(graph, _strategy(graph, shares)))
                for _ in range(2):
                    found = coordinator.infer(image)["scores"]
                    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
                assert coordinator.dynamic_volumes == 3
    finally:
        network.close()
    for name, engine in counting.items():
        # Of the head, each plan has one for beta.
        assert (engine.loaded.count(True), engine.loaded.count(False)) == (4, 1 if name == "beta" else 0)
    assert "3 of 3 volumes with dynamic rows on alpha, beta, gamma" in caplog.text


def test_sub_models_are_written_in_the_thread_that_deploys(graph, image, engines, monkeypatch) -> None:
    """Frames that are in flight do not wait for it, once it is known who takes them."""
    _, workers = engines
    written: list[str] = []
    segment = DynamicVolumes.segment
    monkeypatch.setattr(
        DynamicVolumes, "segment", lambda *args: written.append(threading.current_thread().name) or segment(*args)
    )
    addresses = [
        WorkerAddress(name, worker.control_address, worker.data_address)
        for name, worker in zip(DEVICES, workers, strict=True)
    ]
    network = ZmqNetwork(None)
    try:
        with Coordinator(network, addresses) as coordinator:
            coordinator.deploy(deploy(graph, _strategy(graph, FIRST)))
            written.clear()
            coordinator.deploy(deploy(graph, _strategy(graph, SECOND)))
            coordinator.deploy_beside(deploy(graph, _strategy(graph, FIRST)))
            coordinator.infer(image)
    finally:
        network.close()
    assert set(written) == {threading.current_thread().name}


def test_workers_without_it_are_given_fixed_shapes(graph, image, cell: Cell, whole_model) -> None:
    engines = {name: CountingEngine() for name in DEVICES}
    for name, engine in engines.items():
        cell.start(name, engine)
    coordinator = cell.coordinator()
    coordinator.deploy(deploy(graph, _strategy(graph, FIRST)))
    expected = whole_model(image)["scores"]
    assert np.abs(coordinator.infer(image)["scores"] - expected).max() <= 1e-5 * np.abs(expected).max()
    assert coordinator.dynamic_volumes == 0
    assert not any(flag for engine in engines.values() for flag in engine.loaded)


def test_worker_processes(graph, image, whole_model) -> None:
    """Two plans in turn, several frames in flight, encrypted."""
    profile = load_profile("default:nano")
    devices = tuple(Device(name, profile, control_port=0, data_port=0) for name in DEVICES)
    problem = Problem(graph, Cluster("test", Requester(), devices))
    expected = whole_model(image)["scores"]
    with LocalCluster(problem, _strategy(graph, FIRST), in_flight=2, dynamic_rows=True) as local:
        for shares in (SECOND, FIRST):
            for frame in local.stream([image] * 4):
                assert np.abs(frame.result()["scores"] - expected).max() <= 1e-5 * np.abs(expected).max()
            assert local.coordinator.dynamic_volumes == 3
            local.coordinator.deploy(deploy(graph, _strategy(graph, shares)), 2)


def _plans(graph, shares) -> tuple[Deployment, list[DevicePlan]]:
    deployment = deploy(graph, _strategy(graph, shares))
    peers = [PeerAddress(name, f"memory://{name}:2", "") for name in DEVICES]
    return deployment, [deployment.device_plan(i, 1, 2, peers, dynamic_rows=True) for i in deployment.busy]


def test_plans_travel_and_are_consistent(graph) -> None:
    deployment, plans = _plans(graph, FIRST)
    for index, plan in zip(deployment.busy, plans, strict=True):
        models = deployment.models(index, dynamic_rows=True)
        read, _ = read_prepare(*prepare_parts(plan, models))
        assert read == plan
        check_plan(plan)
        packs_bytes = sum(message.size_bytes for message in plan.outgoing) * 2
        assert sum(Slot(plan).size_bytes for _ in range(2)) + packs_bytes == arrays_bytes(plan)
    assert any(b.start[2] < 0 for plan in plans for s in plan.segments for b in s.inputs)


def test_one_name_for_all_devices_and_splits(graph) -> None:
    """What a worker finds a loaded sub-model by, and where TensorRT finds its engine."""
    names = set()
    for shares in (FIRST, SECOND):
        deployment, plans = _plans(graph, shares)
        for index, plan in zip(deployment.busy, plans, strict=True):
            for segment, model in zip(plan.segments, deployment.models(index, True), strict=True):
                if segment.volume == 2:
                    assert segment.ranges
                    names.add(model_digest(model, segment.weights, segment.ranges))
    assert len(names) == 1


def test_masks_say_which_rows_lie_inside(graph) -> None:
    _, plans = _plans(graph, FIRST)
    slot = Slot(plans[0])
    segment = next(s for s in plans[0].segments if s.masks)
    for mask in segment.masks:
        array = slot.inputs[segment.stage][mask.name]
        assert array.dtype == np.float32
        assert array.shape == mask.shape
        assert array.ravel().tolist() == [float(mask.start <= row < mask.stop) for row in range(array.size)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"masks": (RowMask("m", (1, 1, 4, 1), 3, 2),)}, "mask 'm': rows 3 to 2 of a buffer of"),
        ({"masks": (RowMask("m", (1, 1, 4, 1), 0, 5),)}, "mask 'm': rows 0 to 5 of a buffer of"),
        ({"masks": (RowMask("m", (1, 2, 4, 1), 0, 4),)}, "mask 'm': rows 0 to 4 of a buffer of"),
        ({"masks": (RowMask("m", (1,), 0, 1),) * 2}, "input: 'm' stands there twice"),
        ({"masks": (RowMask("m", (2**31 - 1,), 0, 1),) * 1}, None),
        ({"ranges": {"m": ShapeRange((1, 2), (1, 2), (1, 2, 3))}}, "'m': shapes from"),
        ({"ranges": {"m": ShapeRange((1, 4), (1, 3), (1, 5))}}, "'m': shapes from"),
        ({"ranges": {"m": ShapeRange((1, 2), (1, 6), (1, 5))}}, "'m': shapes from"),
    ],
)
def test_masks_and_ranges_that_are_none_are_refused(graph, changes, told) -> None:
    _, plans = _plans(graph, FIRST)
    first, *rest = plans[0].segments
    plan = msgspec.structs.replace(plans[0], segments=(msgspec.structs.replace(first, **changes), *rest))
    if told is None:
        assert arrays_bytes(plan) > 2 * 4 * (2**31 - 1)
        return
    with pytest.raises(ProtocolError, match=told):
        check_plan(plan)


def _dynamic_model() -> bytes:
    """y = x * mask, of 3 to 9 rows."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 2, "a", 4)), ("mask", (1, 1, "b", 1)), ("y", (1, 2, "c", 4)))
    ]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "mask"], ["y"])], "segment", ports[:2], ports[2:])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()


RANGES = {
    "x": ShapeRange((1, 2, 3, 4), (1, 2, 6, 4), (1, 2, 9, 4)),
    "mask": ShapeRange((1, 1, 3, 1), (1, 1, 6, 1), (1, 1, 9, 1)),
}


def _bind(loaded: Loaded, rows: int, mask_rows: int | None = None, columns: int = 4, out_rows: int | None = None):
    inputs = {
        "x": np.ones((1, 2, rows, columns), np.float32),
        "mask": np.ones((1, 1, mask_rows or rows, 1), np.float32),
    }
    outputs = {"y": np.zeros((1, 2, out_rows or rows, columns), np.float32)}
    loaded.bind(inputs, outputs, 0)()
    return outputs["y"]


@pytest.fixture(scope="module", params=["here", "under another Python"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "here":
        yield OnnxRuntimeEngine()
        return
    made = OldPythonEngine(sys.executable)
    yield made
    made.close()


def test_shapes_outside_their_ranges_are_refused_by_name(engine: Engine) -> None:
    loaded = engine.load(_dynamic_model(), {}, RANGES)
    for rows in (3, 6, 9):
        assert (_bind(loaded, rows) == 1).all()
    for rows in (2, 10):
        with pytest.raises(EngineError, match=r"shapes from \(1, 2, 3, 4\) to \(1, 2, 9, 4\) of 'x', the plan's is"):
            _bind(loaded, rows)
    with pytest.raises(EngineError, match="the plan's inputs do not belong together: "):
        _bind(loaded, 4, mask_rows=5)
    with pytest.raises(EngineError, match=r"of 'x', the plan's is \(1, 2, 4, 5\)"):
        _bind(loaded, 4, columns=5)
    # The engine itself writes no more rows than there is room for.
    with pytest.raises(EngineError):
        _bind(loaded, 4, out_rows=3)


def test_who_cannot_load_dynamic_rows_reads_how_to_do_without() -> None:
    engine = OnnxRuntimeEngine()
    hint = "; with 'dynamic_rows = false' in the cluster file the worker gets others"
    for ranges in (None, RANGES):
        with pytest.raises(EngineError, match="refuses the sub-model: ") as refused:
            engine.load(b"no model", {}, ranges)
        assert str(refused.value).endswith(hint) is (ranges is not None)


def test_an_axis_without_a_range_is_refused() -> None:
    """Nobody says how long it may be."""
    engine = OnnxRuntimeEngine()
    loaded = engine.load(_dynamic_model(), {}, {"mask": RANGES["mask"]})
    with pytest.raises(EngineError, match="the sub-model's inputs are"):
        _bind(loaded, 4)


def test_who_takes_dynamic_rows() -> None:
    class TensorRt(OnnxRuntimeEngine):
        providers = (TENSORRT, CUDA, CPU)  # type: ignore[assignment]

    cpu, tensorrt = OnnxRuntimeEngine(), TensorRt()
    assert [takes_dynamic_rows(wanted, cpu) for wanted in (None, True, False)] == [False, True, False]
    assert [takes_dynamic_rows(wanted, tensorrt) for wanted in (None, True, False)] == [True, True, False]


def test_tensorrt_is_told_the_ranges(tmp_path) -> None:
    """One profile for all inputs, so that one engine serves all rows."""
    found = provider_options(TENSORRT, tmp_path / "engine", ranges=RANGES)
    assert found["trt_profile_min_shapes"] == "x:1x2x3x4,mask:1x1x3x1"
    assert found["trt_profile_opt_shapes"] == "x:1x2x6x4,mask:1x1x6x1"
    assert found["trt_profile_max_shapes"] == "x:1x2x9x4,mask:1x1x9x1"
    assert found["trt_engine_cache_path"] == str(tmp_path / "engine")
    assert set(provider_options(TENSORRT, None, ranges=RANGES)) == {
        f"trt_profile_{k}_shapes" for k in ("min", "opt", "max")
    }
    assert provider_options(TENSORRT, None) == {}
    assert provider_options(CPU, ranges=RANGES) == {}


def test_one_folder_for_a_volume(graph, tmp_path) -> None:
    """TensorRT keeps one engine of it, whatever rows it is run with."""
    folders = EngineFolders(tmp_path, 10**9)
    for shares in (FIRST, SECOND):
        deployment, plans = _plans(graph, shares)
        for index, plan in zip(deployment.busy, plans, strict=True):
            store = deployment.weights(index, dynamic_rows=True)
            for segment, model in zip(plan.segments, deployment.models(index, True), strict=True):
                if segment.volume == 2:
                    weights = {name: store[digest] for name, digest in segment.weights.items()}
                    folders.of(model, weights, segment.ranges)
    assert len(list(tmp_path.iterdir())) == 1
    # The same sub-model of a taller picture.
    assert folders.of(model, weights, RANGES) != folders.of(model, weights, segment.ranges)


def test_an_engine_under_another_python(graph, image, engine: Engine, whole_model) -> None:
    deployment = deploy(graph, _strategy(graph, FIRST))
    found = InProcess(deployment, engine, dynamic_rows=True).infer(image)["scores"]
    expected = whole_model(image)["scores"]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_an_engine_under_another_python_is_built_for_all_shapes(graph, image, whole_model, monkeypatch) -> None:
    """Of inputs that are vectors, such as everybody's partial results, there is one shape, and no range."""
    monkeypatch.setattr(old_python_engine, "TENSORRT", CPU)
    deployment = deploy(graph, _strategy(graph, FIRST))
    segments = [s for i in deployment.busy for s in deployment.program(i, dynamic_rows=True).segments]
    assert any(s.ranges and {port.name for port in s.inputs} - s.ranges.keys() for s in segments)
    engine = OldPythonEngine(sys.executable)
    try:
        found = InProcess(deployment, engine, dynamic_rows=True).infer(image)["scores"]
    finally:
        engine.close()
    expected = whole_model(image)["scores"]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_an_engine_under_another_python_is_built_with_inputs_of_any_type(monkeypatch) -> None:
    monkeypatch.setattr(old_python_engine, "TENSORRT", CPU)
    given = [
        ("x", TensorProto.FLOAT, (1, 2, "a", 4)),
        ("v", TensorProto.INT64, (2, 1, 1)),
        ("d", TensorProto.DOUBLE, (1,)),
    ]
    ports = [helper.make_tensor_value_info(*port) for port in [*given, ("y", TensorProto.FLOAT, (1, 2, "b", 4))]]
    nodes = [helper.make_node("Cast", [name], [name * 2], to=TensorProto.FLOAT) for name in "vd"]
    nodes.append(helper.make_node("Sum", ["x", "vv", "dd"], ["y"]))
    model = helper.make_model(
        helper.make_graph(nodes, "segment", ports[:3], ports[3:]),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 13)],
    )
    engine = OldPythonEngine(sys.executable)
    try:
        loaded = engine.load(model.SerializeToString(), {}, {"x": RANGES["x"]})
        inputs = {"x": np.ones((1, 2, 5, 4), np.float32), "v": np.ones((2, 1, 1), np.int64), "d": np.ones(1)}
        outputs = {"y": np.zeros((1, 2, 5, 4), np.float32)}
        loaded.bind(inputs, outputs, 0)()
    finally:
        engine.close()
    assert (outputs["y"] == 3).all()


def test_margins_stay_zeros(graph, image) -> None:
    """Rows outside the picture are written by nobody, frame after frame."""
    deployment = deploy(graph, _strategy(graph, FIRST))
    run = InProcess(deployment, dynamic_rows=True)
    for _ in range(2):
        run.infer(image)
    checked = 0
    for slot, index in zip(run._slots, range(len(DEVICES)), strict=True):
        for segment in deployment.device_plan(index, dynamic_rows=True).segments:
            for buffer in segment.inputs:
                if segment.ranges and buffer.start[2] < 0:
                    margin = slot.inputs[segment.stage][buffer.name][:, :, : -buffer.start[2]]
                    assert not margin.any()
                    checked += 1
    assert checked


def test_a_device_that_owns_nothing_of_an_output(graph) -> None:
    """It computes nothing for it, and what it holds is what its plan says."""
    deployment = deploy(graph, make_strategy(graph, [(1, 0, 0), (0, 1, 2)]))
    assert deployment.program(2, dynamic_rows=True).segments
    for index in deployment.busy:
        digests = {d for s in deployment.program(index, True).segments for d in s.weights.values()}
        assert set(deployment.weights(index, True)) == digests
