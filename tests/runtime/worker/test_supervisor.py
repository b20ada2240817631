"""A thread's end by an exception is the worker's, with a name."""

from __future__ import annotations

import pytest

from distredge.runtime.engine import SleepEngine
from distredge.runtime.protocol.doorkeeper import Doorkeeper
from distredge.runtime.protocol.in_process_transport import Exchange, InProcessEndpoint, InProcessNetwork
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.worker.settings import WorkerSettings
from distredge.runtime.worker.supervisor import Supervisor, WorkerDied
from distredge.runtime.worker.worker import Worker


def _raise(error: BaseException) -> None:
    raise error


def test_the_first_death_is_remembered_and_told_once() -> None:
    told: list[int] = []
    supervisor = Supervisor(lambda: told.append(1))
    supervisor.start("well", lambda: None).join()
    assert supervisor.died is None
    supervisor.start("first", lambda: _raise(ValueError("two\nlines"))).join()
    supervisor.run("second", lambda: _raise(KeyError("x")))
    assert told == [1]
    assert str(supervisor.died) == "the worker ends: its thread 'first' died of ValueError: two lines"
    assert isinstance(supervisor.died.__cause__, ValueError)


def test_even_the_end_of_the_interpreter_is_a_death() -> None:
    supervisor = Supervisor(lambda: None)
    supervisor.start("loader", lambda: _raise(SystemExit(3))).join()
    assert str(supervisor.died) == "the worker ends: its thread 'loader' died of SystemExit: 3"


@pytest.mark.parametrize("plane", ["control", "data"])
def test_a_worker_whose_thread_dies_ends(monkeypatch: pytest.MonkeyPatch, plane: str) -> None:
    """Before, the other thread lived on, and nobody was ever answered."""
    port = {"control": 1, "data": 2}[plane]
    receive = InProcessEndpoint.receive

    def dying(endpoint: InProcessEndpoint):
        if endpoint.address == f"memory://alpha:{port}":
            raise MemoryError("no room for a message")
        return receive(endpoint)

    monkeypatch.setattr(InProcessEndpoint, "receive", dying)
    exchange = Exchange()
    settings = WorkerSettings("alpha", "memory://alpha:1", "memory://alpha:2")
    worker = Worker(settings, InProcessNetwork(exchange, "alpha"), SleepEngine())
    with pytest.raises(WorkerDied, match=f"its thread '{plane}' died of MemoryError: no room for a message"):
        worker.run()
    assert exchange.bound == {}


def test_a_worker_ends_when_nobody_new_could_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Doorkeeper) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(Doorkeeper, "_round", broken)
    settings = WorkerSettings("alpha", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
    worker = Worker(settings, ZmqNetwork(None), SleepEngine())
    with pytest.raises(WorkerDied, match="its thread 'doorkeeper' died of RuntimeError: broken on purpose"):
        worker.run()
