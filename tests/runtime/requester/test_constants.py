"""Constants on their way to a worker are bounded: it hangs up on who leaves too much unread with it."""

from __future__ import annotations

import pytest

from distredge.runtime.deployment import deploy
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.transport import Received
from distredge.runtime.requester import plans
from tests.runtime.conftest import Cell
from tests.runtime.requester.doors import Doors

AHEAD_BYTES = 2000


def test_a_worker_is_sent_no_more_than_it_says_to_have(
    cell: Cell, doors: Doors, graph, strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "AHEAD_BYTES", AHEAD_BYTES)
    alpha = doors()["alpha"]
    coordinator = cell.coordinator()
    deployment = deploy(graph, strategy)
    lacks = deployment.weights(0)
    sizes = [array.nbytes for array in lacks.values()]
    taken: list[int] = []
    acknowledged = [0]
    waits: list[int] = []

    def nothing():
        return
        yield

    def answer(message: m.ToWorker, received: Received) -> list[m.ToCoordinator] | None:
        if isinstance(message, m.Prepare):
            return [m.Missing(message.plan, tuple(lacks))]
        if not isinstance(message, m.Weight):
            return None
        taken.append(len(received.parts[1]))
        if sum(taken) == sum(sizes):
            return [m.Ready(message.plan, 0, 0.0, 0, 0.0)]
        if sum(taken) - acknowledged[0] < AHEAD_BYTES:
            return []
        # Whatever the coordinator could send it has sent when it has gone round twice.
        for _ in range(2):
            coordinator._runner.loop.call(nothing())
        waits.append(len(alpha._control.inbox))
        acknowledged[0] = sum(taken)
        return [m.Progress(message.plan, acknowledged[0])]

    alpha.answer = answer
    coordinator.deploy(deployment)
    assert len(sizes) > 1
    assert waits == [0], "the second is sent when the first has come"
