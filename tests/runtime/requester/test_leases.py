"""Leases: workers are asked for one after the other, renewed, given back, waited for, or taken over."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from distredge.errors import PeerTimeout
from distredge.runtime.deployment import deploy
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.in_process_transport import InProcessNetwork
from distredge.runtime.protocol.transport import NotConnected, Received
from distredge.runtime.requester import leases, workers
from distredge.runtime.requester.leases import WorkerHeld, WorkerTaken
from tests.runtime.conftest import DEVICES, Cell
from tests.runtime.requester.conftest import read_any

FREE = "free"
ADA = m.Held("ada@desk (pid 12: deploy-strategy s.json)", 12.0, 0.3, 5.0)
GONE = [m.Held("bob@desk", 60.0, 9.0, 0.05), m.Held("bob@desk", 90.0, 39.0, 0.05)]


class Door:
    """A worker that only says whether it may be had: `answers` says what it answers to the first, second, ... hello."""

    def __init__(self, cell: Cell, name: str, log: list[str], answers: list[m.Held | str]) -> None:
        self.name, self.log, self.answers = name, log, answers
        self.hellos: list[m.Hello] = []
        self.open = threading.Event()
        self.open.set()
        self.pings = threading.Semaphore(0)
        self.greeted, self.goodbye = threading.Event(), threading.Event()
        self._network = InProcessNetwork(cell.exchange, name)
        self._control = self._network.bind(f"memory://{name}:1", "control")
        self._data = self._network.bind(f"memory://{name}:2", "data")
        self._bell = self._network.bell()
        self._waiter = self._network.waiter([self._control, self._data], [self._bell])
        self._peer = b""
        self._said: list[m.ToCoordinator] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"door-{name}")
        self._thread.start()

    def say(self, message: m.ToCoordinator) -> None:
        self._said.append(message)
        self._bell.ring()

    def stop(self) -> None:
        self._stopping = True
        self.open.set()
        self._bell.ring()
        self._thread.join()
        self._network.close()

    def _run(self) -> None:
        while not self._stopping:
            self._waiter.wait(1.0)
            # A coordinator that has closed is told nothing more.
            with suppress(NotConnected):
                self._serve()

    def _serve(self) -> None:
        while self._said:
            self._control.send([m.encode(self._said.pop())], self._peer)
        while (received := self._control.receive()) is not None:
            for answer in self._answers(received):
                self._control.send([m.encode(answer)], received.peer)
        while (received := self._data.receive()) is not None:
            message = read_any(received.parts)
            if isinstance(message, m.Attach):
                self._data.send([m.encode(m.Echo(message.token, True))], received.peer)

    def _answers(self, received: Received) -> list[m.ToCoordinator]:
        message = m.decode_to_worker(received.head)
        about = m.About(self.name, m.package_version(), "none", (), 1, 0, self._data.address, ())
        if isinstance(message, m.Hello):
            self._peer = received.peer
            self.hellos.append(message)
            self.log.append(f"hello {self.name}")
            self.greeted.set()
            self.open.wait(20)
            said = self.answers.pop(0) if self.answers else FREE
            return [m.Welcome(about) if isinstance(said, str) else said]
        if isinstance(message, m.Ping):
            self.pings.release()
            return [m.Pong(message.token, 0, about, {})]
        if isinstance(message, m.Prepare):
            return [m.Missing(message.plan, ()), m.Ready(message.plan, 0, 0.0)]
        if isinstance(message, m.Goodbye):
            self.log.append(f"goodbye {self.name}")
            self.goodbye.set()
        return []


Doors = Callable[..., dict[str, Door]]


@pytest.fixture
def doors(cell: Cell) -> Iterator[Doors]:
    made: dict[str, Door] = {}
    log: list[str] = []

    def make(**answers: list[m.Held | str]) -> dict[str, Door]:
        for name in DEVICES:
            made[name] = Door(cell, name, log, answers.get(name, []))
        return made

    yield make
    for coordinator in cell.coordinators:
        coordinator.close()
    for door in made.values():
        door.stop()


def test_workers_are_asked_for_one_after_the_other(cell: Cell, doors: Doors, graph, strategy) -> None:
    made = doors()
    made["alpha"].open.clear()
    # However they are listed.
    coordinator = cell.coordinator(("gamma", "beta", "alpha"), holder="ada@desk")
    thread = threading.Thread(target=coordinator.deploy, args=(deploy(graph, strategy),))
    thread.start()
    assert made["alpha"].greeted.wait(20)
    assert made["alpha"].log == ["hello alpha"]
    made["alpha"].open.set()
    thread.join(20)
    assert made["alpha"].log == [f"hello {name}" for name in DEVICES]
    assert {(h.holder, h.take_over) for door in made.values() for h in door.hellos} == {("ada@desk", False)}
    coordinator.close()
    assert all(door.goodbye.wait(20) for door in made.values())


def test_one_that_somebody_else_holds_is_an_error_and_the_others_are_given_back(
    cell: Cell, doors: Doors, graph, strategy
) -> None:
    made = doors(beta=[ADA])
    coordinator = cell.coordinator()
    with pytest.raises(WorkerHeld) as caught:
        coordinator.deploy(deploy(graph, strategy))
    assert str(caught.value) == (
        "worker 'beta' is held by 'ada@desk (pid 12: deploy-strategy s.json)' for 12 s, heard 0.3 s ago; "
        "--take-over takes it"
    )
    assert made["alpha"].goodbye.wait(20)
    assert "hello gamma" not in made["alpha"].log
    # It may be free later.
    coordinator.deploy(deploy(graph, strategy))


def test_a_lease_that_is_about_to_expire_is_waited_for(cell: Cell, doors: Doors, graph, strategy) -> None:
    made = doors(beta=list(GONE))
    cell.coordinator().deploy(deploy(graph, strategy))
    assert len(made["beta"].hellos) == 3


def test_a_holder_that_lives_is_not_waited_for(cell: Cell, doors: Doors, graph, strategy) -> None:
    """It has been heard again since the worker was asked for first."""
    made = doors(beta=[ADA, ADA, ADA])
    with pytest.raises(WorkerHeld, match="'beta' is held by 'ada@desk"):
        cell.coordinator(connect_s=60.0).deploy(deploy(graph, strategy))
    assert len(made["beta"].hellos) == 2


def test_workers_are_taken_over_when_that_is_wanted(cell: Cell, doors: Doors, graph, strategy) -> None:
    made = doors()
    cell.coordinator(take_over=True).deploy(deploy(graph, strategy))
    assert all(door.hellos[0].take_over for door in made.values())


def test_leases_are_renewed(cell: Cell, doors: Doors, graph, strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "RENEW_S", 0.01)
    made = doors()
    cell.coordinator().deploy(deploy(graph, strategy))
    for door in made.values():
        for _ in range(5):
            assert door.pings.acquire(timeout=20)


def test_what_was_taken_over_fails_at_once_and_by_name(cell: Cell, doors: Doors, graph, strategy, image) -> None:
    made = doors()
    coordinator = cell.coordinator()
    coordinator.deploy(deploy(graph, strategy))
    pending = coordinator.submit(image, deadline_s=60.0)
    made["beta"].say(m.TakenOver("eve@desk"))
    said = "worker 'beta' was taken over by 'eve@desk'"
    with pytest.raises(WorkerTaken, match=said):
        pending.result()
    for _ in range(2):
        with pytest.raises(WorkerTaken, match=said):
            coordinator.infer(image, deadline_s=60.0)
    assert made["alpha"].goodbye.wait(20)
    assert made["gamma"].goodbye.wait(20)
    assert not made["beta"].goodbye.is_set()
    made["beta"].answers.append(m.Held("eve@desk", 1.0, 0.1, 5.0))
    with pytest.raises(WorkerHeld, match="'beta' is held by 'eve@desk'"):
        coordinator.deploy(deploy(graph, strategy))
    coordinator.deploy(deploy(graph, strategy))


def test_a_worker_that_is_not_there_does_not_put_the_blame_on_others(cell: Cell, graph, strategy) -> None:
    for name in ("beta", "gamma"):
        cell.start(name)
    with pytest.raises(PeerTimeout, match=r"^cannot reach worker 'alpha' at memory://alpha:1 within 0.3 s"):
        cell.coordinator(connect_s=0.3).deploy(deploy(graph, strategy))


def test_who_holds_a_worker_can_be_read() -> None:
    assert f"(pid {os.getpid()}: " in leases.this_holder()
    assert len(leases.this_holder()) <= leases.MOST_CHARACTERS
