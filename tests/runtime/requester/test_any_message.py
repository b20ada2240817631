"""Whatever a worker says, in whatever order: the requester's thread goes on, and every frame ends in time."""

from __future__ import annotations

import random

import pytest

from distredge.errors import ExecutionError
from distredge.runtime.deployment import deploy
from distredge.runtime.protocol import messages as m
from distredge.runtime.requester.leases import WorkerTaken
from tests.runtime.conftest import Cell
from tests.runtime.requester.doors import ADA, Doors

HUGE = (1 << 62) - 1


def _messages(plan: int, draw: random.Random) -> m.ToCoordinator:
    """One message of any kind, now and then with a number that fits."""
    number = draw.choice([plan, plan, 0, HUGE])
    frame = draw.choice([0, 1, 2, HUGE])
    index = draw.choice([-1, 0, 1, 2, 3, 4095])
    stage = draw.choice([-1, 0, 1, 2, 77, (1 << 31) - 1])
    about = m.About("beta", "1", "none", (), 1, 0, draw.choice(["", "memory://beta:2", "x:y", ":::"]) or "-", ())
    load = m.WorkerLoad("running", HUGE, HUGE, HUGE, HUGE, HUGE, HUGE, None)
    situation = m.Situation(number, frame, (max(stage, 0),), stage, (index,), draw.random() < 0.3)
    record = m.Record(draw.choice(["send", "compute", "x"]), frame, max(stage, 0), index, -HUGE, HUGE, 0, HUGE)
    digest = draw.choice("0123456789abcdef") * 64
    return draw.choice(
        [
            m.Welcome(about), m.Missing(number, (digest,)), m.Missing(number, (digest, digest)), m.Missing(number, ()),
            m.Progress(number, HUGE), m.Ready(number, HUGE, 1e9, HUGE, 1e9), m.Failed(number, "peer", "no"),
            m.Failed(number, "engine", "no"), m.Failed(number, "anything", ""),
            m.Pong(frame, draw.choice([-HUGE, 0]), HUGE, about, {"x": HUGE}, load),
            m.Told(number, frame, None), m.Told(number, frame, situation), m.Told(number, 1, situation),
            m.Records(number, (record,) * 3), m.Refused("no"), m.LinkMeasured(frame, ((0.0,),), ""), ADA,
        ]
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("replans", [False, True])
def test_any_messages_in_any_order(cell: Cell, doors: Doors, graph, strategy, image, seed: int, replans: bool) -> None:
    draw = random.Random(seed)
    made = doors()
    options = {"replan": lambda lost: deploy(graph, strategy)} if replans else {}
    coordinator = cell.coordinator(deadline_s=0.4, connect_s=0.5, **options)
    coordinator.deploy(deploy(graph, strategy), 2)
    plan = coordinator._runner.plans.active.number
    for _ in range(4):
        pending = coordinator.submit(image)
        for _ in range(25):
            made[draw.choice(["alpha", "beta", "gamma"])].say(_messages(plan, draw))
        with pytest.raises(ExecutionError):
            pending.result()
    assert coordinator._runner.loop.closed is None
    made["beta"].say(m.TakenOver("eve@desk"))
    with pytest.raises(WorkerTaken, match="'beta' was taken over by 'eve@desk'"):
        _run_on(coordinator, image)


def _run_on(coordinator, image) -> None:
    while True:
        coordinator.submit(image).wait()
