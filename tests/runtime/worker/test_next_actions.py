"""A worker's decisions, without sockets, engine or arrays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.runtime.protocol.device_plan import Buffer, DevicePlan, SegmentPlan, SourceMessage, TensorBox
from distredge.runtime.worker.next_actions import (
    FAR_AHEAD,
    Drop,
    Idle,
    Keep,
    Place,
    Report,
    RowsArrived,
    Run,
    Send,
    SendFailed,
    StageDone,
    StageFailed,
    WorkerState,
)

BUFFER = Buffer("t", "t", (0,), (4,), "float32")
BOX = TensorBox("t", (0,), (2,), "float32")


def make_plan(number: int = 5, slots: int = 1) -> DevicePlan:
    """Device 1 of 3: stage 0 needs the requester, stage 1 needs device 0 and its own rows of stage 0.

    Stage 0's rows go to device 2 for stage 1; rows of both stages go to the requester in one message.
    """
    return DevicePlan(
        number, "g", 1, ("a", "b", "c"), slots,
        (SegmentPlan(0, 0, {}, (BUFFER,), (BUFFER,)), SegmentPlan(1, 1, {}, (BUFFER,), (BUFFER,))),
        (SourceMessage(0, -1, 1, (BOX,), (-1,)), SourceMessage(1, 0, 1, (BOX,), (0,))),
        (SourceMessage(1, 1, 2, (BOX,), (0,)), SourceMessage(2, 1, -1, (BOX, BOX), (0, 1))),
        (SourceMessage(1, 1, 1, (BOX,), (0,)),),
        {},
    )  # fmt: skip


@pytest.fixture
def state() -> WorkerState:
    made = WorkerState()
    made.add(make_plan())
    return made


def test_a_frame_from_its_first_rows_to_its_last(state: WorkerState) -> None:
    assert state.handle(Idle()) == ()
    assert state.handle(RowsArrived(5, 0, 0, -1)) == (Place(0),)
    assert state.handle(Idle()) == (Run(5, 0, 0, 0),)
    assert state.handle(StageDone(5, 0, 0)) == (Send(5, 0, 0, 0), Keep(5, 0, 1, 0))
    assert state.handle(Idle()) == ()
    assert state.handle(RowsArrived(5, 0, 1, 0)) == (Place(0),)
    assert state.handle(Idle()) == (Run(5, 0, 0, 1),)
    assert state.handle(StageDone(5, 0, 1)) == (Send(5, 0, 0, 1),)
    assert state.handle(Idle()) == ()


def test_a_segment_after_another_waits_for_it_alone() -> None:
    """Stage 1 reads what stage 0 reads; the rows of stage 0 leave before it runs."""
    buffers = ((BUFFER,), (BUFFER,))
    state = WorkerState()
    state.add(
        DevicePlan(
            5, "g", 1, ("a", "b"), 1,
            (SegmentPlan(0, 0, {}, *buffers), SegmentPlan(1, 0, {}, *buffers, after=0)),
            (SourceMessage(0, -1, 1, (BOX,), (-1,)),), (SourceMessage(2, 1, 0, (BOX,), (0,)),), (), {},
        )
    )  # fmt: skip
    state.handle(RowsArrived(5, 0, 0, -1))
    assert state.handle(Idle()) == (Run(5, 0, 0, 0),)
    assert state.handle(Idle()) == (Run(5, 0, 0, 0),)
    assert state.handle(StageDone(5, 0, 0)) == (Send(5, 0, 0, 0),)
    assert state.handle(Idle()) == (Run(5, 0, 0, 1),)
    assert state.handle(StageDone(5, 0, 1)) == ()
    assert state.handle(Idle()) == ()


def test_rows_may_come_in_any_order(state: WorkerState) -> None:
    assert state.handle(RowsArrived(5, 0, 1, 0)) == (Place(0),)
    assert state.handle(Idle()) == ()
    state.handle(RowsArrived(5, 0, 0, -1))
    state.handle(Idle())
    state.handle(StageDone(5, 0, 0))
    assert state.handle(Idle()) == (Run(5, 0, 0, 1),)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (RowsArrived(6, 0, 0, -1), "unknown plan"),
        (RowsArrived(5, 0, 0, 0), "not in the plan"),
        (RowsArrived(5, 0, 7, 0), "not in the plan"),
        (RowsArrived(5, 3, 0, -1), "duplicate"),
        (RowsArrived(5, 2, 0, -1), "late"),
        (RowsArrived(5, 4 + FAR_AHEAD, 0, -1), "far ahead"),
    ],
)
def test_what_is_dropped(state: WorkerState, event: RowsArrived, why: str) -> None:
    state.handle(RowsArrived(5, 3, 0, -1))
    assert state.handle(event) == (Drop(why),)


def test_a_newer_frame_in_the_slot_ends_the_older_one(state: WorkerState) -> None:
    state.handle(RowsArrived(5, 0, 0, -1))
    assert state.handle(RowsArrived(5, 1, 1, 0)) == (Place(0),)
    assert state.handle(Idle()) == ()
    assert state.handle(RowsArrived(5, 0, 1, 0)) == (Drop("late"),)
    assert state.handle(StageDone(5, 0, 0)) == ()


def test_the_oldest_frame_runs_first() -> None:
    state = WorkerState()
    state.add(make_plan(slots=2))
    state.handle(RowsArrived(5, 1, 0, -1))
    state.handle(RowsArrived(5, 0, 0, -1))
    assert state.handle(Idle()) == (Run(5, 0, 0, 0),)
    state.handle(StageDone(5, 0, 0))
    assert state.handle(Idle()) == (Run(5, 1, 1, 0),)


def test_two_plans_stand_side_by_side(state: WorkerState) -> None:
    state.add(make_plan(6))
    assert state.handle(RowsArrived(6, 0, 0, -1)) == (Place(0),)
    assert state.handle(RowsArrived(5, 0, 0, -1)) == (Place(0),)
    assert state.handle(Idle()) == (Run(5, 0, 0, 0),)
    state.remove(5)
    assert state.handle(Idle()) == (Run(6, 0, 0, 0),)
    assert state.handle(StageDone(5, 0, 0)) == ()
    assert state.handle(RowsArrived(5, 1, 0, -1)) == (Drop("unknown plan"),)


def test_a_failing_stage_is_reported_once_and_its_frame_stops(state: WorkerState) -> None:
    state.handle(RowsArrived(5, 0, 0, -1))
    state.handle(RowsArrived(5, 0, 1, 0))
    assert state.handle(StageFailed(5, 0, 0, "broken")) == (Report(5, 0, "engine", "broken"),)
    assert state.handle(StageFailed(5, 0, 0, "broken")) == ()
    assert state.handle(Idle()) == ()
    state.handle(RowsArrived(5, 1, 0, -1))
    assert state.handle(Idle()) == (Run(5, 1, 0, 0),)


@pytest.mark.parametrize(("destination", "name"), [(2, "'c'"), (-1, "the requester")])
def test_a_failed_sending_is_reported(state: WorkerState, destination: int, name: str) -> None:
    state.handle(RowsArrived(5, 0, 0, -1))
    (report,) = state.handle(SendFailed(5, 0, destination, "gone"))
    assert report == Report(5, 0, "peer", f"cannot send rows to {name}: gone")


def test_the_situation_says_what_is_waited_for(state: WorkerState) -> None:
    assert state.situation(5, 0) is None
    state.handle(RowsArrived(5, 0, 0, -1))
    state.handle(Idle())
    running = state.situation(5, 0)
    assert running is not None
    assert (running.running, running.waits_in, running.done) == (True, 0, ())
    state.handle(StageDone(5, 0, 0))
    waiting = state.situation(5, 0)
    assert waiting is not None
    assert (waiting.running, waiting.waits_in, waiting.waits_for, waiting.done) == (False, 1, (0,), (0,))


@given(
    events=st.lists(
        st.one_of(
            st.builds(RowsArrived, st.sampled_from([4, 5]), st.integers(0, 5), st.integers(0, 2), st.integers(-1, 2)),
            st.builds(StageFailed, st.just(5), st.integers(0, 5), st.integers(0, 2), st.just("x")),
            st.builds(SendFailed, st.just(5), st.integers(0, 5), st.integers(-1, 2), st.just("x")),
            st.just(Idle()),
        ),
        max_size=60,
    ),
    slots=st.integers(1, 3),
)
def test_any_events_run_each_stage_once_and_with_its_rows(events, slots: int) -> None:
    state = WorkerState()
    state.add(make_plan(slots=slots))
    placed: set[tuple[int, int, int]] = set()
    ran: set[tuple[int, int]] = set()
    sent: set[tuple[int, int]] = set()
    for event in events:
        queue = list(state.handle(event))
        if queue == [Place(event.frame % slots)] if isinstance(event, RowsArrived) else False:
            assert (event.frame, event.stage, event.source) not in placed
            placed.add((event.frame, event.stage, event.source))
        while queue:
            action = queue.pop(0)
            if isinstance(action, Run):
                assert (action.frame, action.stage) not in ran
                ran.add((action.frame, action.stage))
                assert action.slot == action.frame % slots
                needs = {0: {(0, -1)}, 1: {(1, 0)}}[action.stage]
                assert all((action.frame, *need) in placed for need in needs)
                assert action.stage == 0 or (action.frame, 0) in ran
                queue += state.handle(StageDone(action.plan, action.frame, action.stage))
            elif isinstance(action, Send):
                assert (action.frame, action.outbox) not in sent
                sent.add((action.frame, action.outbox))
