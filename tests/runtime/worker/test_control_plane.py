"""What a worker answers on its control plane, whatever it is asked; and whom it serves."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest

from distredge.errors import EngineError
from distredge.runtime import weights
from distredge.runtime.deployment import deploy
from distredge.runtime.engine import OnnxRuntimeEngine
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.in_process_transport import InProcessNetwork
from distredge.runtime.protocol.prepare_parts import prepare_parts
from distredge.runtime.worker import link_measuring
from distredge.runtime.worker.lease import LEASE_S
from distredge.runtime.worker.preparing import LOADING_NICE
from distredge.runtime.worker.settings import WorkerSettings
from distredge.runtime.worker.worker import Worker
from tests.runtime.conftest import Cell, make_strategy
from tests.runtime.worker.conftest import Speaker


class Clock:
    """Time that passes when a test says so."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(cell: Cell) -> Iterator[Clock]:
    """Of worker alpha, which is started with it."""
    made = Clock()
    settings = WorkerSettings("alpha", "memory://alpha:1", "memory://alpha:2")
    worker = Worker(settings, InProcessNetwork(cell.exchange, "alpha"), OnnxRuntimeEngine(), made)
    thread = threading.Thread(target=worker.run, name="worker-alpha")
    thread.start()
    yield made
    worker.stop()
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def other(cell: Cell) -> Iterator[Speaker]:
    """A second connection to worker alpha, of another session."""
    network = InProcessNetwork(cell.exchange, "requester")
    yield Speaker(network, "memory://alpha:1", "alpha", b"s2")
    network.close()


# The lease.


def test_a_second_requester_is_told_who_holds_the_worker(clock, speaker, other, alone) -> None:
    speaker.hello(m.Welcome, "ada@desk")
    assert isinstance(speaker.deploy(alone, 0), m.Ready)
    clock.now_s += 7.0
    held = other.hello(m.Held, "bob@desk")
    assert (held.holder, held.held_s, held.silent_s, held.expires_s) == ("ada@desk", 7.0, 7.0, LEASE_S - 7.0)
    assert "of 'ada@desk'" in other.ask(m.Retire(1), m.Refused).reason
    assert speaker.ask(m.Ping(1), m.Pong).about.plans == (1,), "nothing has changed for the first"


def test_taking_over_tells_the_first_and_forgets_its_plans(clock, speaker, other, alone) -> None:
    speaker.hello(m.Welcome, "ada@desk")
    assert isinstance(speaker.deploy(alone, 0), m.Ready)
    other.hello(m.Welcome, "bob\x1b@desk", take_over=True)
    assert speaker.receive(m.TakenOver).holder == "bob @desk"
    assert "'bob @desk' has taken it over" in speaker.ask(m.Ask(1, 0), m.Refused).reason
    assert isinstance(other.deploy(alone, 0, 2), m.Ready)
    assert other.ask(m.Ping(1), m.Pong).about.plans == (2,)


def test_a_requester_that_is_not_heard_loses_the_worker(clock, speaker, other, alone) -> None:
    speaker.hello(m.Welcome, "ada@desk")
    assert isinstance(speaker.deploy(alone, 0), m.Ready)
    clock.now_s += LEASE_S - 1.0
    speaker.ask(m.Ping(1), m.Pong)
    clock.now_s += LEASE_S - 1.0
    assert other.ask(m.Ping(1), m.Pong).about.plans == (1,), "its ping was a sign of life; another's is none"
    clock.now_s += 2.0
    plans = (1,)
    while plans:  # it looks at its clock every second
        plans = other.ask(m.Ping(1), m.Pong).about.plans
    assert "it was silent for 10 s" in speaker.ask(m.Ask(1, 0), m.Refused).reason
    other.hello(m.Welcome)


def test_a_connection_made_anew_keeps_the_plans(cell, clock, speaker, alone) -> None:
    speaker.hello(m.Welcome)
    assert isinstance(speaker.deploy(alone, 0), m.Ready)
    network = InProcessNetwork(cell.exchange, "requester")
    again = Speaker(network, "memory://alpha:1", "alpha")
    again.hello(m.Welcome)
    assert again.ask(m.Ask(1, 0), m.Told).situation is None
    assert again.ask(m.Ping(1), m.Pong).about.plans == (1,)
    network.close()


def test_goodbye_frees_the_worker(clock, speaker, other) -> None:
    speaker.hello(m.Welcome)
    speaker.send(m.Goodbye())
    speaker.ask(m.Ping(1), m.Pong)
    other.hello(m.Welcome)


# Plans and constants that are wrong or too much.


def test_a_constant_that_claims_all_memory_there_is_fails_its_plan(cell: Cell, speaker: Speaker, alone) -> None:
    """Before, allocating 2^60 bytes ended the thread, and the process lived on without answering."""
    cell.start("alpha")
    speaker.hello(m.Welcome)
    missing = speaker.prepare(alone.device_plan(0, 1), alone.models(0))
    assert isinstance(missing, m.Missing)
    shape = (2**30, 2**28)
    failed = speaker.ask(m.Weight(1, missing.digests[0], "float32", shape, 0, 2**60), m.Failed, [b"1234"])
    assert failed.kind == "memory"
    assert "for constants; the limit is" in failed.reason
    assert isinstance(speaker.deploy(alone, 0, 2), m.Ready)


def test_memory_that_runs_out_fails_the_plan_and_not_the_worker(
    cell: Cell, speaker: Speaker, alone, monkeypatch
) -> None:
    def allocate(shape, dtype):
        raise MemoryError

    cell.start("alpha")
    speaker.hello(m.Welcome)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "allocate", allocate)
        failed = speaker.deploy(alone, 0)
    assert isinstance(failed, m.Failed)
    assert (failed.kind, failed.reason) == ("memory", "not enough memory for the plan")
    assert isinstance(speaker.deploy(alone, 0, 2), m.Ready)


def test_memory_that_runs_out_while_a_message_is_read_is_an_answer(cell: Cell, speaker: Speaker, monkeypatch) -> None:
    worker = cell.start("alpha")
    speaker.hello(m.Welcome)

    def situation(plan: int, frame: int):
        raise MemoryError

    monkeypatch.setattr(worker._data, "situation", situation)
    failed = speaker.ask(m.Ask(3, 0), m.Failed)
    assert (failed.plan, failed.kind, failed.reason) == (3, "memory", "not enough memory for this Ask")
    assert speaker.ask(m.Ping(5), m.Pong).token == 5


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (EngineError("no kernel"), "engine", "stage 0: no kernel"),
        (RuntimeError("bad allocation"), "engine", "RuntimeError: bad allocation"),
        (MemoryError(), "memory", "not enough memory for the plan"),
    ],
)
@pytest.mark.parametrize("at", ["load", "run"])
def test_whatever_an_engine_raises_is_the_plans_failure(
    cell: Cell, speaker: Speaker, alone, error: Exception, kind: str, reason: str, at: str
) -> None:
    """Before, what was neither one of ours nor MemoryError ended the thread that loads: the plan was never heard of."""

    class Engine(OnnxRuntimeEngine):
        def load(self, model, weights, ranges=None):
            if at == "load":
                raise error
            return self

        def bind(self, inputs, outputs, stage):
            def run() -> None:
                raise error

            return run

    cell.start("alpha", Engine())
    speaker.hello(m.Welcome)
    failed = speaker.deploy(alone, 0)
    assert isinstance(failed, m.Failed)
    assert (failed.kind, failed.reason) == (kind, reason)
    assert speaker.ask(m.Ping(5), m.Pong).token == 5


def test_a_worker_says_what_it_does(cell: Cell, speaker: Speaker, alone) -> None:
    may_load, loads = threading.Event(), threading.Event()

    class Engine(OnnxRuntimeEngine):
        def load(self, model, weights, ranges=None):
            loads.set()
            may_load.wait(20)
            return super().load(model, weights, ranges)

    def load() -> m.WorkerLoad:
        return speaker.ask(m.Ping(1), m.Pong).load

    cell.start("alpha", Engine())
    assert load() == m.WorkerLoad("idle", 0, 0, 0, 0, 0, 0, load().temperature_c)
    speaker.hello(m.Welcome)
    missing, store = speaker.prepare(alone.device_plan(0, 1), alone.models(0)), alone.weights(0)
    for digest in missing.digests:
        for message, content in weights.weight_messages(1, digest, store[digest]):
            speaker.send(message, [content])
    assert loads.wait(20)
    assert load().state == "preparing"
    may_load.set()
    speaker.receive(m.Ready)
    pong = speaker.ask(m.Ping(2), m.Pong)
    assert (pong.load.state, pong.load.frames) == ("idle", 0)
    assert pong.heard_ns <= pong.clock_ns


def test_each_sub_model_is_run_once_before_the_first_frame(cell: Cell, speaker: Speaker, alone) -> None:
    ran: list[int] = []

    class Engine(OnnxRuntimeEngine):
        def load(self, model, weights, ranges=None):
            inner = super().load(model, weights, ranges)

            class Loaded:
                def bind(self, inputs, outputs, stage):
                    run = inner.bind(inputs, outputs, stage)
                    return lambda: (ran.append(stage), run())

            return Loaded()

    cell.start("alpha", Engine())
    speaker.hello(m.Welcome)
    assert isinstance(speaker.deploy(alone, 0), m.Ready)
    assert ran == [segment.stage for segment in alone.device_plan(0).segments]
    assert isinstance(speaker.deploy(alone, 0, 2), m.Ready)
    assert ran == [segment.stage for segment in alone.device_plan(0).segments], "what another plan has is not run"


@pytest.mark.parametrize("threads", [1, 2])
def test_beside_another_plan_one_core_loads_without_running(
    cell: Cell, speaker: Speaker, graph, alone, threads: int
) -> None:
    """It would take from frames as much as loading does; other engines build in the first run what they run."""
    ran: list[int] = []

    class Engine(OnnxRuntimeEngine):
        def load(self, model, weights, ranges=None):
            inner = super().load(model, weights, ranges)

            class Loaded:
                def bind(self, inputs, outputs, stage):
                    run = inner.bind(inputs, outputs, stage)
                    return lambda: (ran.append(stage), run())

            return Loaded()

    cell.start("alpha", Engine(threads))
    speaker.hello(m.Welcome)
    assert isinstance(speaker.deploy(alone, 0), m.Ready)
    ran.clear()
    other = deploy(graph, make_strategy(graph, [(1,), (1,)], head="alpha"))
    assert isinstance(speaker.deploy(other, 0, 2), m.Ready)
    assert bool(ran) == (threads > 1)


def test_an_engine_that_gains_nothing_by_it_is_not_run_beforehand(cell: Cell, speaker: Speaker, alone) -> None:
    class Engine(OnnxRuntimeEngine):
        warms_up = False

        def load(self, model, weights, ranges=None):
            return self

        def bind(self, inputs, outputs, stage):
            def run() -> None:
                raise EngineError("it was run")

            return run

    cell.start("alpha", Engine())
    speaker.hello(m.Welcome)
    assert isinstance(speaker.deploy(alone, 0), m.Ready)


@pytest.mark.skipif(sys.platform != "linux", reason="priorities are of threads on Linux alone")
@pytest.mark.parametrize("threads", [1, 2])
def test_loading_stands_behind_frames_where_nobody_inherits_that(
    cell: Cell, speaker: Speaker, alone, threads: int
) -> None:
    """Threads that the engine starts for several cores would keep the low priority."""
    found: list[int] = []

    class Engine(OnnxRuntimeEngine):
        def load(self, model, weights, ranges=None):
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return super().load(model, weights, ranges)

    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    cell.start("alpha", Engine(threads))
    speaker.hello(m.Welcome)
    assert isinstance(speaker.deploy(alone, 0), m.Ready)
    assert set(found) == {max(mine, LOADING_NICE) if threads == 1 else mine}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign"])
def test_a_plan_that_arrives_damaged_is_refused(cell: Cell, speaker: Speaker, alone, damage: str) -> None:
    cell.start("alpha")
    speaker.hello(m.Welcome)
    message, parts = prepare_parts(alone.device_plan(0, 1), alone.models(0))
    if damage == "cut":
        parts[-1] = parts[-1][:-1]
    elif damage == "flip":
        parts[0] = bytes([parts[0][0] ^ 1, *parts[0][1:]])
    else:
        parts[0] = b"\xc1" + bytes(parts[0][1:])
    failed = speaker.ask(message, m.Failed, parts)
    assert (failed.plan, failed.kind) == (1, "protocol")
    assert isinstance(speaker.deploy(alone, 0, 2), m.Ready)


def test_a_plan_of_another_worker_is_refused(cell: Cell, speaker: Speaker, graph, strategy) -> None:
    from distredge.runtime.deployment import deploy

    cell.start("alpha")
    speaker.hello(m.Welcome)
    deployment = deploy(graph, strategy)
    peers = [PeerAddress(name, f"memory://{name}:2", "") for name in deployment.devices]
    failed = speaker.prepare(deployment.device_plan(1, 1, 1, peers), deployment.models(1))
    assert isinstance(failed, m.Failed)
    assert failed.kind == "protocol"
    assert "a plan for 'beta', device 1 of ['alpha', 'beta', 'gamma']: this is 'alpha'" in failed.reason


# Links.


def _measure(endpoint: str = "memory://alpha:2", key: str = "") -> m.Measure:
    return m.Measure(1, PeerAddress("alpha", endpoint, key), False, (0,), 1, 5.0)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (_measure(key="k" * 39), "public key is not one of 40 Z85 characters"),
        (_measure("nowhere"), "'nowhere' is no address"),
        (_measure("tcp://10.0.0.1:99999"), "is no address"),
    ],
)
def test_what_cannot_be_measured_is_answered_and_the_next_is(cell: Cell, speaker: Speaker, message, told: str) -> None:
    """Before, libzmq's refusal of a key ended the thread, and the worker was "measuring another link" for ever."""
    cell.start("alpha")
    for _ in range(2):
        assert told in speaker.ask(message, m.LinkMeasured).error
    assert speaker.ask(_measure(), m.LinkMeasured).error == ""


def test_a_measurement_that_breaks_frees_its_place(cell: Cell, speaker: Speaker, monkeypatch) -> None:
    def measure_link(*args, **kwargs):
        raise OSError("no such device")

    cell.start("alpha")
    with monkeypatch.context() as patch:
        patch.setattr(link_measuring, "measure_link", measure_link)
        for _ in range(2):
            assert speaker.ask(_measure(), m.LinkMeasured).error == "OSError: no such device"
    assert speaker.ask(_measure(), m.LinkMeasured).error == ""
