"""The coordinator's decisions, without sockets or clocks: every frame ends exactly once, in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import EngineError, ExecutionError, PeerTimeout
from distredge.runtime.protocol.device_plan import SourceMessage
from distredge.runtime.protocol.messages import Situation
from distredge.runtime.requester.next_actions import (
    Again,
    Answered,
    Fail,
    Finish,
    FrameBook,
    FrameBroken,
    Ignore,
    Inquire,
    OutputArrived,
    Preparation,
    Submitted,
    Tick,
    WorkerGone,
)


def _message(stage: int, source: int, destination: int, made_in: int) -> SourceMessage:
    return SourceMessage(stage, source, destination, (), (made_in,))


MESSAGES = (
    _message(0, -1, 0, -1), _message(0, -1, 1, -1), _message(1, 1, 0, 0), _message(1, 0, 1, 0), _message(2, 0, -1, 1),
    _message(2, 1, -1, 1),
)  # fmt: skip
"""Two devices, two stages, both with outputs; each needs rows of the other in between."""


@pytest.fixture
def book() -> FrameBook:
    return FrameBook(("a", "b", "c"), busy=(0, 1), messages=MESSAGES, slots=2)


def _error(actions) -> str:
    (fail,) = actions
    assert isinstance(fail, Fail)
    return f"{type(fail.error).__name__}: {fail.error}"


def test_a_frame_ends_with_its_last_output(book: FrameBook) -> None:
    book.handle(Submitted(0, 0.0, 10.0))
    assert book.handle(OutputArrived(0, 1, 1.0)) == ()
    assert book.handle(OutputArrived(0, 1, 1.0)) == (Ignore("duplicate"),)
    assert book.handle(OutputArrived(0, 0, 1.0)) == (Finish(0),)
    assert book.handle(OutputArrived(0, 0, 1.0)) == (Ignore("late"),)
    assert book.open_frames == ()


def test_a_slot_is_free_when_the_frame_before_in_it_has_ended(book: FrameBook) -> None:
    book.handle(Submitted(0, 0.0, 10.0))
    assert book.free_number() == 1
    book.handle(Submitted(1, 0.0, 10.0))
    assert book.free_number() is None
    for source in (0, 1):
        book.handle(OutputArrived(1, source, 1.0))
    assert book.free_number() == 3, "frame 1 ended, but frame 0 has the slot of 2"
    book.handle(Submitted(3, 0.0, 10.0))
    for source in (0, 1):
        book.handle(OutputArrived(0, source, 1.0))
    assert book.free_number() == 4


def test_a_frame_without_outputs_ends_at_once() -> None:
    book = FrameBook(("a",), busy=(0,), messages=MESSAGES[:1], slots=1)
    assert book.handle(Submitted(0, 0.0, 10.0)) == (Finish(0),)
    assert (book.free_number(), book.next_s) == (1, None)


def test_workers_are_asked_when_a_frame_takes_long_and_blamed_at_its_deadline(book: FrameBook) -> None:
    book.handle(Submitted(0, 0.0, 8.0))
    assert book.next_s == 2.0, "a quarter of the deadline while nothing is known"
    assert book.handle(Tick(1.9)) == ()
    assert book.handle(Tick(2.0)) == (Inquire(0),)
    assert book.handle(Tick(2.1)) == ()
    assert book.next_s == 2.25
    book.handle(Answered(0, 0, None, 2.1))
    text = _error(book.handle(Tick(8.0)))
    assert text == "PeerTimeout: frame 0: no result within 8 s: worker 'b' does not answer"
    assert book.next_s is None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (None, Situation(1, 0, (), 0, (-1,), False), "rows from the requester to 'b' do not arrive"),
        (
            Situation(1, 0, (0,), 1, (1,), False), Situation(1, 0, (), 0, (), True),
            "worker 'b' is still computing stage 0",
        ),
        (
            Situation(1, 0, (0,), 1, (1,), False), Situation(1, 0, (0, 1), -1, (), False),
            "rows from 'b' to 'a' do not arrive",
        ),
        (
            Situation(1, 0, (), 0, (-1,), False), Situation(1, 0, (0, 1), -1, (), False),
            "rows from the requester to 'a' do not arrive",
        ),
        (
            Situation(1, 0, (0, 1), -1, (), False), Situation(1, 0, (0, 1), -1, (), False),
            "rows from 'a' to the requester do not arrive",
        ),
    ],
)  # fmt: skip
def test_the_error_says_who_holds_the_frame_up(book: FrameBook, first, second, expected: str) -> None:
    book.handle(Submitted(0, 0.0, 2.0))
    book.handle(Tick(1.5))
    book.handle(Answered(0, 1, second, 1.5))
    book.handle(Answered(0, 0, first, 1.6))
    book.handle(Answered(0, 1, second, 1.7))
    if second.waits_in < 0:
        book.handle(OutputArrived(0, 1, 1.8))
    assert expected in _error(book.handle(Tick(2.0)))


def test_a_lost_worker_ends_all_frames_at_once(book: FrameBook) -> None:
    book.handle(Submitted(0, 0.0, 10.0))
    book.handle(Submitted(1, 0.0, 10.0))
    actions = book.handle(WorkerGone(1, "the connection broke"))
    assert [type(a.error) for a in actions] == [PeerTimeout, PeerTimeout]
    assert str(actions[0].error) == "frame 0: worker 'b' is gone: the connection broke"
    assert book.open_frames == ()


@pytest.mark.parametrize(
    ("kind", "error"), [("engine", EngineError), ("picture", ExecutionError), ("peer", PeerTimeout)]
)
def test_a_workers_report_ends_its_frame(book: FrameBook, kind: str, error: type[Exception]) -> None:
    book.handle(Submitted(0, 0.0, 10.0))
    (fail,) = book.handle(FrameBroken(0, 1, kind, "no memory", 1.0))
    assert type(fail.error) is error
    assert str(fail.error) == "frame 0: worker 'b': no memory"
    assert book.handle(FrameBroken(0, 1, kind, "no memory", 1.0)) == (Ignore("late"),)


@given(data=st.data(), slots=st.integers(1, 3))
def test_every_frame_ends_exactly_once_in_time(data: st.DataObject, slots: int) -> None:
    book = FrameBook(("a", "b"), (0, 1), MESSAGES, slots)
    now_s, frame = 0.0, 0
    ended: dict[int, float] = {}
    deadlines: dict[int, float] = {}
    for _ in range(data.draw(st.integers(1, 40))):
        kind = data.draw(st.sampled_from(["submit", "output", "broken", "gone", "tick"]))
        some = data.draw(st.integers(0, frame + 1))
        device = data.draw(st.integers(0, 1))
        if kind == "submit" and book.free_number() is not None:
            frame = book.free_number()
            deadlines[frame] = now_s + data.draw(st.floats(0.1, 5))
            book.handle(Submitted(frame, now_s, deadlines[frame]))
            frame += 1
            continue
        now_s += data.draw(st.floats(0, 2)) if kind == "tick" else 0.0
        event = {
            "output": OutputArrived(some, device, now_s), "broken": FrameBroken(some, device, "peer", "x", now_s),
            "gone": WorkerGone(device, "x"),
        }.get(kind, Tick(now_s))  # fmt: skip
        for action in book.handle(event):
            if isinstance(action, Finish | Fail | Again):
                assert action.frame not in ended
                ended[action.frame] = now_s
    for _ in range(200 * (frame + 1)):
        if book.next_s is None:
            break
        now_s = max(now_s, book.next_s)
        for action in book.handle(Tick(now_s)):
            if isinstance(action, Finish | Fail | Again):
                assert action.frame not in ended
                ended[action.frame] = now_s
                assert now_s >= deadlines[action.frame]
    assert set(ended) == set(deadlines)


def test_preparing_waits_for_everybody_and_names_who_is_silent() -> None:
    preparation = Preparation({0: "a", 1: "b", 2: "c"}, 5.0, 60.0, 100.0)
    assert not preparation.done
    assert preparation.next_s == 105.0
    preparation.ready(1)
    preparation.heard(0, 103.0)
    assert preparation.overdue(104.9) is None
    late = preparation.overdue(105.0)
    assert str(late) == "preparing the plan: worker 'c' does not answer within 5 s"
    assert "workers 'a', 'c' do not answer" in str(preparation.overdue(108.0))
    preparation.heard(0, 159.0)
    preparation.heard(2, 159.0)
    assert preparation.next_s == 160.0
    assert str(preparation.overdue(160.0)) == "preparing the plan: not ready within 60 s: a, c"
    preparation.advanced(159.5)
    assert preparation.overdue(160.0) is None
    assert str(preparation.overdue(219.5)).startswith("preparing the plan: not ready within 60 s")
    preparation.ready(0)
    preparation.ready(2)
    assert preparation.done
    assert preparation.overdue(1e9) is None
