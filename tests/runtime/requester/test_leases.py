"""Leases: workers are asked for one after the other, renewed, given back, waited for, or taken over."""

from __future__ import annotations

import os
import threading

import pytest

from distredge.errors import PeerTimeout, ProtocolError
from distredge.runtime.deployment import deploy
from distredge.runtime.protocol import messages as m
from distredge.runtime.requester import leases, workers
from distredge.runtime.requester.leases import WorkerHeld, WorkerTaken
from tests.runtime.conftest import DEVICES, Cell
from tests.runtime.requester.doors import ADA, GONE, Doors


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


def test_one_of_another_version_is_refused_by_name_and_given_back(cell: Cell, doors: Doors, graph, strategy) -> None:
    other = m.Welcome(m.About("beta", "0.0.9", "none", (), 1, 0, "-", ()))
    made = doors(beta=[other])
    with pytest.raises(
        ProtocolError, match=r"'beta' at .* runs distredge 0\.0\.9, this is .*distredge cluster upgrade CLUSTER\.toml"
    ):
        cell.coordinator().deploy(deploy(graph, strategy))
    assert all(made[name].goodbye.wait(20) for name in ("alpha", "beta"))


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


def test_who_holds_a_worker_may_have_been_given_a_path_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["deploy-strategy", "--images", os.fsdecode(b"pictures\x80")])
    assert leases.this_holder().encode().endswith("--images pictures\ufffd)".encode())
