"""Workers that only say whether they may be had, and anything else that a test lets them say."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.in_process_transport import InProcessNetwork
from distredge.runtime.protocol.transport import NotConnected, Received
from tests.runtime.conftest import Cell
from tests.runtime.requester.conftest import read_any

FREE = "free"
ADA = m.Held("ada@desk (pid 12: deploy-strategy s.json)", 12.0, 0.3, 5.0)
GONE = [m.Held("bob@desk", 60.0, 9.0, 0.05), m.Held("bob@desk", 90.0, 39.0, 0.05)]


class Door:
    """A worker that only says whether it may be had: `answers` says what it answers to the first, second, ... hello."""

    def __init__(self, cell: Cell, name: str, log: list[str], answers: list[m.Held | str]) -> None:
        self.name, self.log, self.answers = name, log, answers
        self.hellos: list[m.Hello] = []
        self.answer: Callable[[m.ToWorker, Received], list[m.ToCoordinator] | None] = lambda message, received: None
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
        self._said: deque[m.ToCoordinator] = deque()
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
            self._control.send([m.encode(self._said.popleft())], self._peer)
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
            return [m.Pong(message.token, 0, 0, about, {}, m.WorkerLoad("idle", 0, 0, 0, 0, 0, 0, None))]
        if (said := self.answer(message, received)) is not None:
            return said
        if isinstance(message, m.Prepare):
            return [m.Missing(message.plan, ()), m.Ready(message.plan, 0, 0.0, 0, 0.0)]
        if isinstance(message, m.Goodbye):
            self.log.append(f"goodbye {self.name}")
            self.goodbye.set()
        return []


Doors = Callable[..., dict[str, Door]]
