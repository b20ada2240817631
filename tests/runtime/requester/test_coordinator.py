"""Workers and a coordinator without sockets: results are exact, and whatever goes wrong ends in a named error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from distredge.errors import EngineError, ExecutionError, ModelError, PeerTimeout, PlannerError, ProtocolError
from distredge.runtime.deployment import deploy
from distredge.runtime.engine import OnnxRuntimeEngine
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.device_plan import TensorBox
from distredge.runtime.protocol.transport import NotConnected
from distredge.runtime.worker import control_plane, data_plane
from tests.runtime.conftest import DEVICES, Cell, make_strategy


@pytest.fixture
def running(cell: Cell, graph, strategy):
    """Three workers and a coordinator that has deployed the strategy."""
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(deadline_s=20.0)
    coordinator.deploy(deploy(graph, strategy), in_flight=2)
    return coordinator


def _kind(parts: list[bytes]) -> object:
    """The message in whatever direction it goes."""
    for decode in (m.decode_on_data, m.decode_to_worker, m.decode_to_coordinator):
        try:
            return decode(parts[0])
        except ProtocolError:
            continue
    return None


def _equal(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in expected)


def test_results_are_those_of_one_process(running, graph, strategy, image) -> None:
    expected = run_in_process(graph, strategy, image)
    for _ in range(3):
        assert _equal(running.infer(image), expected)
    assert running.last_latency_s > 0
    assert not running.dropped


def test_several_frames_in_flight_come_out_in_order(running, graph, strategy) -> None:
    rng = np.random.default_rng(0)
    frames = [{"image": rng.standard_normal((1, 3, 33, 21), dtype=np.float32)} for _ in range(7)]
    found = list(running.stream(frames))
    assert len(found) == 7
    for frame, outputs in zip(frames, found, strict=True):
        assert _equal(outputs, run_in_process(graph, strategy, frame))


def test_idle_devices_need_no_worker(cell: Cell, graph, image) -> None:
    strategy = make_strategy(graph, [(1, 0, 1), (0, 0, 1)], head="gamma")
    for name in ("alpha", "gamma"):
        cell.start(name)
    coordinator = cell.coordinator()
    coordinator.deploy(deploy(graph, strategy))
    assert _equal(coordinator.infer(image), run_in_process(graph, strategy, image))


def test_wrong_inputs_cost_no_frame(running, image) -> None:
    with pytest.raises(ModelError, match="missing"):
        running.infer({})
    assert running.infer(image)


def test_nothing_deployed_is_an_error(cell: Cell, image) -> None:
    with pytest.raises(ExecutionError, match="nothing is deployed"):
        cell.coordinator().infer(image)


def test_constants_are_sent_once(cell: Cell, graph, strategy, image) -> None:
    sent: list[m.Weight] = []

    def watch(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = _kind(parts)
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
    held = {message.digest for message in sent[:first]}
    assert all(message.digest not in held or index < first for index, message in enumerate(sent[:first]))
    assert len(sent) == first, "the same constants in another split"
    assert _equal(coordinator.infer(image), run_in_process(graph, other, image))


def test_a_plan_is_prepared_beside_the_one_that_runs(running, graph, image) -> None:
    other = make_strategy(graph, [(0, 1, 1), (1, 0, 0)], head="gamma")
    expected = run_in_process(graph, other, image)
    running.deploy_beside(deploy(graph, other))
    before = running.infer(image)
    for _ in range(200):
        if running.infer(image)["scores"].tobytes() != before["scores"].tobytes():
            break
    assert _equal(running.infer(image), expected)
    assert running.beside_error is None


@pytest.mark.parametrize("copies", [0, 2])
def test_a_lost_message_ends_the_frame_in_time_and_a_doubled_one_changes_nothing(
    cell: Cell, running, graph, strategy, image, copies: int
) -> None:
    """The first message of rows between two workers is lost, or comes twice."""
    hit: list[str] = []

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = _kind(parts)
        if not hit and isinstance(message, m.Rows) and message.source >= 0 and target.startswith("memory:"):
            hit.append(target)
            return [parts] * copies
        return [parts]

    cell.exchange.tamper = tamper
    if copies == 0:
        with pytest.raises(PeerTimeout, match=r"no result within 0.5 s: worker '.*' waits in stage .* for rows from"):
            running.infer(image, deadline_s=0.5)
    else:
        assert _equal(running.infer(image), run_in_process(graph, strategy, image))
    assert hit
    assert _equal(running.infer(image), run_in_process(graph, strategy, image))


@pytest.mark.parametrize("damage", ["size", "box", "stage", "dtype", "noise", "version", "frame", "plan"])
def test_damaged_rows_are_counted_and_dropped(cell: Cell, running, graph, strategy, image, damage: str) -> None:
    hit: list[int] = []

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = _kind(parts)
        if hit or not isinstance(message, m.Rows):
            return [parts]
        hit.append(1)
        changed = {
            "box": {"boxes": (TensorBox("nothing", (0,), (1,), "float32"),)},
            "stage": {"stage": 77},
            "dtype": {"boxes": (TensorBox(message.boxes[0].tensor, *_box(message), "int32"),)},
            "frame": {"frame": message.frame + (1 << 30)},
            "plan": {"plan": 999},
        }
        if damage == "size":
            return [[parts[0], parts[1][:-1], *parts[2:]]]
        if damage == "noise":
            return [[b"DRE\x01\xff\xff", *parts[1:]]]
        if damage == "version":
            return [[b"DRE\x02" + parts[0][4:], *parts[1:]]]
        return [[m.encode(_replace(message, **changed[damage])), *parts[1:]]]

    cell.exchange.tamper = tamper
    with pytest.raises(PeerTimeout):
        running.infer(image, deadline_s=0.4)
    dropped = sum((worker._data.dropped for worker in cell.workers.values()), type(running.dropped)())
    assert dropped.total() == 1
    assert _equal(running.infer(image), run_in_process(graph, strategy, image))


def _box(message: m.Rows) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return message.boxes[0].start, message.boxes[0].shape


def _replace(message, **changes):
    import msgspec

    return msgspec.structs.replace(message, **changes)


def test_an_imposter_is_dropped(cell: Cell, running, image) -> None:
    """Somebody with a key of the cluster sends rows in another's name."""
    network = cell.networks[0]
    plan = running._active.number
    planned = running._active.deployment.input_messages[0]
    name = running._active.deployment.devices[planned.destination]
    evil = type(network)(cell.exchange, "beta" if name != "beta" else "gamma")
    cell.networks.append(evil)
    endpoint = evil.connect(f"memory://{name}:2", "data")
    rows = m.Rows(plan, 0, planned.stage, -1, 0, planned.boxes)
    endpoint.send([m.encode(rows), *(bytes(box.size_bytes) for box in planned.boxes)])
    assert running.infer(image)
    assert cell.workers[name]._data.dropped["imposter"] == 1


def test_a_lost_worker_ends_the_frame_at_once(cell: Cell, running, image) -> None:
    blocked = threading.Event()

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        if isinstance(_kind(parts), m.Rows) and target.startswith("memory://gamma"):
            blocked.set()
            return []
        return [parts]

    cell.exchange.tamper = tamper
    pending = running.submit(image, deadline_s=60.0)
    assert blocked.wait(10)
    cell.stop("gamma")
    with pytest.raises(PeerTimeout, match=r"worker 'gamma' is gone|cannot send rows to 'gamma'"):
        pending.result()


def test_a_worker_that_stays_away_is_named(cell: Cell, running, image) -> None:
    running.infer(image)
    cell.stop("beta")
    with pytest.raises(PeerTimeout, match="cannot reach worker 'beta' at memory://beta:1"):
        running.infer(image, deadline_s=0.5)


def test_a_worker_that_comes_back_works_again(cell: Cell, running, graph, strategy, image) -> None:
    running.infer(image)
    cell.stop("beta")
    cell.start("beta")
    for _ in range(3):
        assert _equal(running.infer(image), run_in_process(graph, strategy, image))


def test_a_plan_without_the_lost_worker_takes_over(cell: Cell, graph, strategy, image) -> None:
    asked: list[frozenset[str]] = []
    without = make_strategy(graph, [(1, 1, 0), (1, 2, 0)])

    def replan(lost: frozenset[str]):
        asked.append(lost)
        return deploy(graph, without)

    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(replan=replan, deadline_s=8.0)
    coordinator.deploy(deploy(graph, strategy))
    coordinator.infer(image)
    cell.stop("gamma")
    for _ in range(2):
        assert _equal(coordinator.infer(image), run_in_process(graph, without, image))
    assert asked == [{"gamma"}]


def test_a_worker_lost_while_the_plan_is_prepared_again_is_planned_around(
    cell: Cell, graph, strategy, image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker saw the loss first: when the coordinator begins anew the lost one still seems to stand."""
    without = make_strategy(graph, [(1, 1, 0), (1, 2, 0)])
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(replan=lambda lost: deploy(graph, without), deadline_s=20.0, connect_s=0.2)
    coordinator.deploy(deploy(graph, strategy))
    coordinator.infer(image)
    revived, seen = coordinator._revived, []

    def late(plan, until_s):
        seen.append(plan.deployment)
        if len(seen) > 1:
            return revived(plan, until_s)
        cell.stop("gamma")
        return plan.deployment

    monkeypatch.setattr(coordinator, "_revived", late)
    coordinator._active.error = PeerTimeout("worker 'beta': cannot send rows to 'gamma'")
    assert _equal(coordinator.infer(image), run_in_process(graph, without, image))
    assert len(seen) >= 2


def _silence(cell: Cell, device: int) -> threading.Event:
    """Loses all rows that a device sends; the event is set at the first of them."""
    silent = threading.Event()

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = _kind(parts)
        if isinstance(message, m.Rows) and message.source == device:
            silent.set()
            return []
        return [parts]

    cell.exchange.tamper = tamper
    return silent


@pytest.mark.parametrize("in_flight", [1, 3])
def test_frames_of_a_lost_worker_are_run_again(cell: Cell, graph, strategy, in_flight: int) -> None:
    """None of them ends in an error, and they come in order; the caller's array may be used again at once."""
    without = make_strategy(graph, [(1, 1, 0), (1, 2, 0)])
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(replan=lambda lost: deploy(graph, without), deadline_s=20.0, connect_s=0.2)
    coordinator.deploy(deploy(graph, strategy), in_flight)
    silent = _silence(cell, 2)
    array = np.empty((1, 3, 33, 21), np.float32)
    images = [np.full_like(array, k + 1) for k in range(in_flight)]
    waiting = []
    for image in images:
        array[:] = image
        waiting.append(coordinator.submit({"image": array}))
    assert silent.wait(10.0)
    cell.stop("gamma")
    cell.exchange.tamper = None
    for image, pending in zip(images, waiting, strict=True):
        assert _equal(pending.result(), run_in_process(graph, without, {"image": image}))
        assert pending.latency_s is not None


def test_without_another_plan_frames_of_a_lost_worker_end_in_an_error(cell: Cell, running, image) -> None:
    silent = _silence(cell, 2)
    pending = running.submit(image)
    assert silent.wait(10.0)
    cell.stop("gamma")
    with pytest.raises(PeerTimeout, match="worker 'gamma' is gone"):
        pending.result()


def test_a_plan_that_cannot_be_made_ends_the_frame(cell: Cell, graph, strategy, image) -> None:
    def replan(lost: frozenset[str]):
        raise PlannerError("nothing is left to plan with")

    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(replan=replan, deadline_s=8.0, connect_s=0.2)
    coordinator.deploy(deploy(graph, strategy))
    coordinator.infer(image)
    cell.stop("gamma")
    with pytest.raises(PlannerError, match="nothing is left"):
        coordinator.infer(image)


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
    coordinator = cell.coordinator()
    worker = coordinator._workers["alpha"]
    worker.control.target = "memory://beta:1"
    with pytest.raises(ProtocolError, match="worker 'alpha' at memory://alpha:1: this is worker 'beta', not 'alpha'"):
        coordinator.deploy(deploy(graph, strategy))


def test_another_protocol_is_said_plainly(cell: Cell, graph, strategy) -> None:
    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        return [[parts[0][:3] + b"\x02" + parts[0][4:], *parts[1:]]] if source == "memory://beta:1" else [parts]

    cell.exchange.tamper = tamper
    for name in DEVICES:
        cell.start(name)
    with pytest.raises(ProtocolError, match=r"worker 'beta' at .* speaks protocol 2, this is protocol 1; install the"):
        cell.coordinator().deploy(deploy(graph, strategy))


def test_a_later_coordinator_takes_the_workers_over(cell: Cell, running, graph, strategy, image) -> None:
    running.infer(image)
    later = cell.coordinator()
    later.deploy(deploy(graph, strategy))
    with pytest.raises(PeerTimeout, match="this worker serves another session"):
        running.infer(image, deadline_s=0.5)
    assert _equal(later.infer(image), run_in_process(graph, strategy, image))
    with pytest.raises(ProtocolError, match="a later coordinator has taken it over"):
        running.infer(image, deadline_s=0.5)


class _BrokenEngine(OnnxRuntimeEngine):
    """Refuses every sub-model, or fails on every run of stage 1."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    def load(self, model, weights):
        if self._at == "load":
            raise EngineError("onnxruntime 1.0 refuses the sub-model: no kernel")
        return _BrokenLoaded(super().load(model, weights))


class _BrokenLoaded:
    def __init__(self, inner) -> None:
        self._inner = inner

    def bind(self, inputs, outputs, stage: int) -> Callable[[], None]:
        def run() -> None:
            raise EngineError("out of memory")

        return run if stage == 1 else self._inner.bind(inputs, outputs, stage)


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


def test_a_plan_beyond_the_memory_is_refused(cell: Cell, graph, strategy, image) -> None:
    for name in DEVICES:
        cell.start(name, memory_bytes=1000 if name == "alpha" else None)
    coordinator = cell.coordinator()
    with pytest.raises(
        ExecutionError, match=r"worker 'alpha': needs .* bytes beside 0 of constants; the limit is 1000"
    ):
        coordinator.deploy(deploy(graph, strategy))
    without = make_strategy(graph, [(0, 1, 1)])
    coordinator.deploy(deploy(graph, without))
    assert _equal(coordinator.infer(image), run_in_process(graph, without, image))


def test_workers_that_cannot_reach_each_other_are_named(cell: Cell, graph, strategy, monkeypatch) -> None:
    monkeypatch.setattr(data_plane, "PEER_S", 0.2)
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator()
    coordinator._workers.connect(DEVICES, 5.0)
    for name in DEVICES:
        worker = coordinator._workers[name]
        monkeypatch.setattr(worker, "for_others", lambda name=name: PeerAddress(name, "memory://nowhere:2", ""))
    with pytest.raises(PeerTimeout, match=r"worker '.*': cannot reach '.*' at memory://nowhere:2 within 0.2 s"):
        coordinator.deploy(deploy(graph, strategy))


def test_silence_while_preparing_is_a_timeout(cell: Cell, graph, strategy) -> None:
    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        return [] if source == "memory://beta:1" and isinstance(_kind(parts), m.Ready) else [parts]

    cell.exchange.tamper = tamper
    for name in DEVICES:
        cell.start(name)
    with pytest.raises(PeerTimeout, match=r"preparing the plan: worker 'beta' does not answer within 0.5 s"):
        cell.coordinator(patience_s=0.5).deploy(deploy(graph, strategy))


def test_damaged_constants_are_refused(cell: Cell, graph, strategy) -> None:
    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        return [[parts[0], bytes(len(parts[1]))]] if isinstance(_kind(parts), m.Weight) else [parts]

    cell.exchange.tamper = tamper
    for name in DEVICES:
        cell.start(name)
    with pytest.raises(ExecutionError, match="does not match its hash"):
        cell.coordinator().deploy(deploy(graph, strategy))


class _CountingEngine(OnnxRuntimeEngine):
    loads = 0

    def load(self, model, weights):
        self.loads += 1
        return super().load(model, weights)


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
    for outputs in coordinator.stream([image] * 4):
        assert _equal(outputs, expected)


def test_too_many_plans_are_refused(cell: Cell, running, graph, strategy) -> None:
    for _ in range(control_plane.MAX_PLANS):
        running._begin(deploy(graph, strategy), 1)
    plan = running._begin(deploy(graph, strategy), 1)
    with pytest.raises(ExecutionError, match="plans are here already; retire one first"):
        _wait_ready(running, plan)


def _wait_ready(coordinator, plan) -> None:
    while not coordinator._ready(plan):
        coordinator._pump(0.5)


def test_goodbye_frees_the_plans(cell: Cell, running, image) -> None:
    running.infer(image)
    running.close()
    assert running.submit  # still an object, with nothing behind it
    with pytest.raises(ExecutionError, match="nothing is deployed"):
        running.infer(image)
    for worker in cell.workers.values():
        for _ in range(500):
            if not worker._data.plans:
                break
            threading.Event().wait(0.01)
        assert worker._data.plans == ()


def test_frames_in_flight_end_when_the_coordinator_closes(running, image) -> None:
    pending = running.submit(image)
    running.close()
    if not pending.outputs:
        with pytest.raises(ExecutionError, match="the coordinator was closed"):
            pending.result()


def test_several_threads_take_turns(running, graph, strategy, image) -> None:
    expected = run_in_process(graph, strategy, image)
    good: list[bool] = []

    def ask() -> None:
        for _ in range(5):
            good.append(_equal(running.infer(image), expected))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert good == [True] * 15


def test_the_timeline_of_a_frame(running, graph, image) -> None:
    with pytest.raises(ExecutionError, match="no frame has been run yet"):
        running.timeline()
    running.infer(image)
    latency_s = running.last_latency_s
    timeline = running.timeline()
    assert timeline.origin == "measured"
    assert timeline.devices == (*DEVICES, "requester")
    assert 0 < timeline.latency_s <= latency_s
    layout = running._active.deployment.layout
    computing = [s for s in timeline.spans if s.lane == "compute"]
    parts = [(stage.index, part.device) for stage in layout.stages for part in stage.parts if not part.empty]
    assert sorted((s.stage, DEVICES.index(s.device)) for s in computing) == sorted(parts)
    assert timeline.bytes_sent == layout.bytes_sent
    assert all(s.stop_s <= timeline.latency_s + 1e-9 for s in timeline.spans)
    for _ in range(3):
        running.infer(image)
    assert len(running.timeline(frames=2).frame_latency_s) == 2


def test_sending_to_a_lost_worker_is_an_error_at_once(cell: Cell, running, image, monkeypatch) -> None:
    worker = running._workers["alpha"]

    def send(parts, to=b"", tracked=False):
        raise NotConnected("its queue is full")

    monkeypatch.setattr(worker.data, "send", send)
    with pytest.raises(ExecutionError, match="worker 'alpha': cannot be sent its rows: its queue is full"):
        running.infer(image, deadline_s=60.0)
