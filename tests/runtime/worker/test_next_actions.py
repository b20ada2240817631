"""A worker's decisions, without sockets, engine or arrays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.runtime.protocol.device_plan import Buffer, DevicePlan, SegmentPlan, SourceMessage, TensorBox
from distredge.runtime.worker.next_actions import FAR_AHEAD, AfterStage, Report, Run, WorkerState

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


def _arrives(state: WorkerState, frame: int, stage: int, source: int, plan: int = 5) -> int | str:
    return state.rows_arrived(plan, frame, stage, source)


def test_a_frame_from_its_first_rows_to_its_last(state: WorkerState) -> None:
    assert state.next_run() is None
    assert _arrives(state, 0, 0, -1) == 0
    first = state.next_run()
    assert first == Run(5, 0, 0, 0)
    assert state.stage_done(first) == AfterStage((0,), (1,))
    assert state.next_run() is None
    assert _arrives(state, 0, 1, 0) == 0
    second = state.next_run()
    assert second == Run(5, 0, 0, 1)
    assert state.stage_done(second) == AfterStage((1,), ())
    assert state.next_run() is None


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
    _arrives(state, 0, 0, -1)
    assert state.next_run() == Run(5, 0, 0, 0)
    assert state.next_run() == Run(5, 0, 0, 0)
    assert state.stage_done(Run(5, 0, 0, 0)) == AfterStage((0,), ())
    assert state.next_run() == Run(5, 0, 0, 1)
    assert state.stage_done(Run(5, 0, 0, 1)) == AfterStage((), ())
    assert state.next_run() is None


def test_rows_may_come_in_any_order(state: WorkerState) -> None:
    assert _arrives(state, 0, 1, 0) == 0
    assert state.next_run() is None
    _arrives(state, 0, 0, -1)
    state.stage_done(Run(5, 0, 0, 0))
    assert state.next_run() == Run(5, 0, 0, 1)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ((6, 0, 0, -1), "unknown plan"),
        ((5, 0, 0, 0), "not in the plan"),
        ((5, 0, 7, 0), "not in the plan"),
        ((5, 3, 0, -1), "duplicate"),
        ((5, 2, 0, -1), "late"),
        ((5, 4 + FAR_AHEAD, 0, -1), "far ahead"),
    ],
)
def test_what_is_dropped(state: WorkerState, rows: tuple[int, int, int, int], why: str) -> None:
    _arrives(state, 3, 0, -1)
    assert state.rows_arrived(*rows) == why


def test_a_newer_frame_in_the_slot_ends_the_older_one(state: WorkerState) -> None:
    _arrives(state, 0, 0, -1)
    assert _arrives(state, 1, 1, 0) == 0
    assert state.next_run() is None
    assert _arrives(state, 0, 1, 0) == "late"
    assert state.stage_done(Run(5, 0, 0, 0)) == AfterStage((), ())


def test_the_oldest_frame_runs_first() -> None:
    state = WorkerState()
    state.add(make_plan(slots=2))
    assert _arrives(state, 1, 0, -1) == 1
    assert _arrives(state, 0, 0, -1) == 0
    assert state.next_run() == Run(5, 0, 0, 0)
    state.stage_done(Run(5, 0, 0, 0))
    assert state.next_run() == Run(5, 1, 1, 0)


def test_two_plans_stand_side_by_side(state: WorkerState) -> None:
    state.add(make_plan(6))
    assert _arrives(state, 0, 0, -1, plan=6) == 0
    assert _arrives(state, 0, 0, -1) == 0
    assert state.next_run() == Run(5, 0, 0, 0)
    state.remove(5)
    assert state.next_run() == Run(6, 0, 0, 0)
    assert state.stage_done(Run(5, 0, 0, 0)) == AfterStage((), ())
    assert _arrives(state, 1, 0, -1) == "unknown plan"


def test_a_failing_stage_is_reported_once_and_its_frame_stops(state: WorkerState) -> None:
    _arrives(state, 0, 0, -1)
    _arrives(state, 0, 1, 0)
    assert state.stage_failed(Run(5, 0, 0, 0), "broken") == Report(5, 0, "engine", "broken")
    assert state.stage_failed(Run(5, 0, 0, 0), "broken") is None
    assert state.next_run() is None
    _arrives(state, 1, 0, -1)
    assert state.next_run() == Run(5, 1, 0, 0)


def test_a_picture_that_cannot_be_decoded_ends_its_frame_alone(state: WorkerState) -> None:
    _arrives(state, 0, 0, -1)
    assert state.picture_failed(5, 0, "torn") == Report(5, 0, "picture", "torn")
    assert state.picture_failed(5, 0, "torn") is None
    assert state.next_run() is None
    _arrives(state, 1, 0, -1)
    assert state.next_run() == Run(5, 1, 0, 0)


@pytest.mark.parametrize(("destination", "name"), [(2, "'c'"), (-1, "the requester")])
def test_a_failed_sending_is_reported(state: WorkerState, destination: int, name: str) -> None:
    _arrives(state, 0, 0, -1)
    report = state.send_failed(5, 0, destination, "gone")
    assert report == Report(5, 0, "peer", f"cannot send rows to {name}: gone")
    assert state.send_failed(5, 0, destination, "gone") is None


def test_the_situation_says_what_is_waited_for(state: WorkerState) -> None:
    assert state.situation(5, 0) is None
    _arrives(state, 0, 0, -1)
    state.next_run()
    running = state.situation(5, 0)
    assert running is not None
    assert (running.running, running.waits_in, running.done) == (True, 0, ())
    state.stage_done(Run(5, 0, 0, 0))
    waiting = state.situation(5, 0)
    assert waiting is not None
    assert (waiting.running, waiting.waits_in, waiting.waits_for, waiting.done) == (False, 1, (0,), (0,))


@given(
    events=st.lists(
        st.one_of(
            st.tuples(
                st.just("rows"), st.sampled_from([4, 5]), st.integers(0, 5), st.integers(0, 2), st.integers(-1, 2)
            ),
            st.tuples(st.just("stage failed"), st.integers(0, 5), st.integers(0, 2)),
            st.tuples(st.just("send failed"), st.integers(0, 5), st.integers(-1, 2)),
            st.tuples(st.just("idle")),
        ),
        max_size=60,
    ),
    slots=st.integers(1, 3),
)
def test_any_events_run_each_stage_once_and_with_its_rows(events: list[tuple], slots: int) -> None:
    state = WorkerState()
    state.add(make_plan(slots=slots))
    placed: set[tuple[int, int, int]] = set()
    ran: set[tuple[int, int]] = set()
    sent: set[tuple[int, int]] = set()
    for what, *about in events:
        if what == "rows":
            _, frame, stage, source = about
            found = state.rows_arrived(*about)
            if not isinstance(found, str):
                assert found == frame % slots
                assert (frame, stage, source) not in placed
                placed.add((frame, stage, source))
        elif what == "stage failed":
            state.stage_failed(Run(5, about[0], about[0] % slots, about[1]), "x")
        elif what == "send failed":
            state.send_failed(5, *about, "x")
        else:
            while (run := state.next_run()) is not None:
                assert (run.frame, run.stage) not in ran
                ran.add((run.frame, run.stage))
                assert run.slot == run.frame % slots
                needs = {0: {(0, -1)}, 1: {(1, 0)}}[run.stage]
                assert all((run.frame, *need) in placed for need in needs)
                assert run.stage == 0 or (run.frame, 0) in ran
                for outbox in state.stage_done(run).sends:
                    assert (run.frame, outbox) not in sent
                    sent.add((run.frame, outbox))


def test_what_is_at_hand_and_done() -> None:
    state = WorkerState()
    state.add(make_plan(slots=3))
    assert (state.at_hand(), state.frames_done) == ((0, 0), 0)
    for frame in range(3):
        _arrives(state, frame, 0, -1)
    assert state.at_hand() == (3, 3)
    run = state.next_run()
    assert state.at_hand() == (3, 2), "the one that runs waits no more"
    state.stage_done(run)
    assert state.at_hand() == (3, 2), "its second stage lacks rows of device 0"
    _arrives(state, 0, 1, 0)
    assert state.at_hand() == (3, 3)
    state.stage_done(state.next_run())
    assert (state.at_hand(), state.frames_done) == ((2, 2), 1)
    state.stage_failed(state.next_run(), "out of memory")
    assert (state.at_hand(), state.frames_done) == ((1, 1), 1)
    state.remove(5)
    assert (state.at_hand(), state.frames_done) == ((0, 0), 1)
