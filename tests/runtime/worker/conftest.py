"""Somebody who speaks to a worker message by message, over any network."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import pytest

from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.device_plan import DevicePlan, SourceMessage
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.in_process_transport import InProcessNetwork
from distredge.runtime.protocol.prepare_parts import prepare_parts
from distredge.runtime.protocol.row_messages import rows_form, write_head
from distredge.runtime.protocol.transport import Network, NotConnected
from distredge.runtime.weights import weight_messages
from tests.runtime.conftest import Cell, make_strategy

PATIENCE_S = 30.0
M = TypeVar("M")


class Speaker:
    """One connection to a worker's control plane, and the session that it would have."""

    def __init__(self, network: Network, address: str, name: str, session: bytes = b"s1", server_key: str = "") -> None:
        self.name = name
        self.session = session
        self.endpoint = network.connect(address, "control", server_key)
        self._waiter = network.waiter([self.endpoint])

    def send(self, message: m.ToWorker, parts: Sequence[Bytes] = ()) -> None:
        """Sends one message, as soon as there is a connection."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.endpoint.send([m.encode(message), *parts])
                return
            except NotConnected:
                assert time.monotonic() < until_s, "never connected"
                self._waiter.wait(0.05)

    def receive(self, kind: type[M]) -> M:
        """The next message of a kind; others are skipped."""
        until_s = time.monotonic() + PATIENCE_S
        skipped = []
        while time.monotonic() < until_s:
            while (received := self.endpoint.receive()) is not None:
                message = m.decode_to_coordinator(received.head)
                if isinstance(message, kind):
                    return message
                skipped.append(message)
            self.endpoint.events()
            self._waiter.wait(0.2)
        raise AssertionError(f"no {kind.__name__} came, but {skipped}")

    def ask(self, message: m.ToWorker, kind: type[M], parts: Sequence[Bytes] = ()) -> M:
        """Sends a message and returns its answer."""
        self.send(message, parts)
        return self.receive(kind)

    def hello(self, kind: type[M], holder: str = "", take_over: bool = False) -> M:
        """Says hello."""
        return self.ask(m.Hello(self.session, "0.1.0", self.name, holder, take_over), kind)

    def prepare(self, plan: DevicePlan, models: Sequence[bytes]) -> m.Missing | m.Failed:
        """Asks to prepare a plan; returns what comes of the first step."""
        message, parts = prepare_parts(plan, models)
        return self.ask(message, (m.Missing, m.Failed), parts)  # type: ignore[arg-type]

    def deploy(self, deployment: Deployment, device: int, number: int = 1) -> m.Ready | m.Failed:
        """Prepares a device's plan, with what it is missing; returns how that ends."""
        missing = self.prepare(deployment.device_plan(device, number), deployment.models(device))
        if isinstance(missing, m.Failed):
            return missing
        store = deployment.weights(device)
        for digest in missing.digests:
            for message, content in weight_messages(number, digest, store[digest]):
                self.send(message, [content])
        return self.receive((m.Ready, m.Failed))  # type: ignore[arg-type]


def rows_of(plan: DevicePlan, message: SourceMessage, frame: int = 0) -> list[Bytes]:
    """A message of rows of a frame as its source would send it: zeros."""
    frames = [bytearray(size) for size in rows_form(message.boxes).frames]
    write_head(memoryview(frames[0]), plan.plan, frame, message.stage, message.source, 0)
    return list(frames)


@pytest.fixture
def alone(graph) -> Deployment:
    """Everything on one worker, whose name is alpha."""
    return deploy(graph, make_strategy(graph, [(1,)], head="alpha"))


@pytest.fixture
def speaker(cell: Cell) -> Iterator[Speaker]:
    """A connection to worker alpha, which the test starts."""
    network = InProcessNetwork(cell.exchange, "requester")
    yield Speaker(network, "memory://alpha:1", "alpha")
    network.close()
