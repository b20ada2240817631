"""Silent faults, without sockets or clocks: who is blamed for a slow frame, when, and what is done about it."""

from __future__ import annotations

import pytest

from distredge.errors import PeerTimeout
from distredge.runtime.protocol.messages import Situation
from distredge.runtime.requester.next_actions import (
    SENDING,
    Again,
    Answered,
    CannotGoOn,
    Fail,
    Finish,
    FrameBook,
    FrameBroken,
    Heard,
    Inquire,
    OutputArrived,
    Remake,
    Submitted,
    Tick,
)
from distredge.runtime.requester.watch import Link
from tests.runtime.requester.test_next_actions import MESSAGES

WAITS = Situation(1, 0, (0,), 1, (1,), False)
"""Of device 0: it has done stage 0 and waits in stage 1 for rows of device 1."""

DONE = Situation(1, 0, (0,), 1, (), True)
"""Of device 1: it has done stage 0, which makes these rows, and computes."""


def _book(leaves_out: bool, frames: int = 1, usual_s: float = 0.1) -> FrameBook:
    """A book in which one frame has come through; its deadline is 8 s, so 1 s is silence."""
    book = FrameBook(("a", "b", "c"), (0, 1), MESSAGES, frames + 1, leaves_out)
    book.handle(Submitted(0, 0.0, 8.0))
    book.handle(OutputArrived(0, 0, usual_s))
    assert book.handle(OutputArrived(0, 1, usual_s)) == (Finish(0),)
    for number in range(1, frames + 1):
        book.handle(Submitted(number, 10.0, 18.0))
    return book


def _answer(book: FrameBook, frame: int, now_s: float, first: Situation = WAITS, second: Situation = DONE):
    return (*book.handle(Answered(frame, 1, second, now_s)), *book.handle(Answered(frame, 0, first, now_s)))


def test_a_frame_is_asked_about_when_it_takes_three_times_as_long_as_others() -> None:
    book = _book(True)
    assert book.next_s == pytest.approx(10.3)
    assert book.handle(Tick(10.2)) == ()
    assert book.handle(Tick(10.31)) == (Inquire(1),)
    assert book.next_s == pytest.approx(10.56), "and again while it lasts"


def test_a_worker_that_answers_nothing_is_left_out() -> None:
    book = _book(True)
    asked = 0
    now_s, actions = 10.31, ()
    while not actions or isinstance(actions[0], Inquire):
        actions = book.handle(Tick(now_s))
        asked += bool(actions)
        book.handle(Heard(0))
        now_s = max(now_s, book.next_s or 0.0) + 0.01
        assert now_s < 13.0
    assert asked > 3
    assert isinstance(actions[0], CannotGoOn)
    assert actions[0].devices == (1,)
    assert "worker 'b' has not answered for" in str(actions[0].error)
    assert isinstance(actions[1], Fail)
    assert book.open_frames == ()


def test_one_that_answers_now_and_then_is_not() -> None:
    book = _book(True)
    now_s = 10.31
    while now_s < 17.9:
        assert all(isinstance(action, Inquire) for action in book.handle(Tick(now_s)))
        if int(now_s * 2) % 2:
            book.handle(Heard(0))
            book.handle(Heard(1))
        now_s += 0.2


def test_without_another_plan_a_silent_worker_has_until_the_deadline() -> None:
    book = _book(False)
    for step in range(1, 36):
        assert all(isinstance(action, Inquire) for action in book.handle(Tick(10.3 + 0.21 * step)))
    (fail,) = book.handle(Tick(18.0))
    assert "no result within 8 s: workers 'a', 'b' do not answer" in str(fail.error)


def test_a_silent_connection_is_made_anew_and_its_frames_run_again() -> None:
    book = _book(True, frames=2)
    book.handle(Tick(10.31))
    assert _answer(book, 1, 10.4) == ()
    assert _answer(book, 1, 11.3) == ()
    remake, *again = _answer(book, 1, 11.5)
    assert remake == Remake(Link(1, 0))
    assert [type(action) for action in again] == [Again, Again]
    assert "rows from 'b' to 'a' do not arrive" in str(again[0].error)
    assert book.open_frames == ()


@pytest.mark.parametrize("leaves_out", [False, True])
def test_one_that_stays_silent_is_broken(leaves_out: bool) -> None:
    book = _book(leaves_out)
    book.handle(Tick(10.31))
    _answer(book, 1, 10.4)
    _answer(book, 1, 11.5)
    book.handle(Submitted(3, 11.6, 18.0))
    book.handle(Tick(12.0))
    _answer(book, 3, 12.0)
    actions = _answer(book, 3, 13.5)
    if leaves_out:
        assert isinstance(actions[0], CannotGoOn)
        assert set(actions[0].devices) == {0, 1}
        assert "not even over a new connection" in str(actions[0].error)
        return
    assert actions == ()
    (fail,) = book.handle(Tick(18.0))
    assert isinstance(fail.error, PeerTimeout)
    assert "rows from 'b' to 'a' do not arrive, not even over a new connection" in str(fail.error)


def test_a_connection_of_the_requester_is_found_too() -> None:
    book = _book(True)
    book.handle(Tick(10.31))
    seen_nothing, elsewhere = None, Situation(1, 0, (0,), 1, (0,), False)
    book.handle(Answered(1, 0, seen_nothing, 10.4))
    book.handle(Answered(1, 1, elsewhere, 10.4))
    book.handle(Answered(1, 1, elsewhere, 11.6))
    assert book.handle(Answered(1, 0, seen_nothing, 11.6))[0] == Remake(Link(-1, 0))


def test_a_worker_that_computes_waits_for_nobody() -> None:
    """What has come is taken in when it has computed, for this frame or another one."""
    book = _book(True, frames=2)
    computes = Situation(1, 0, (), 0, (), True)
    for now_s in (10.4, 11.6, 13.0):
        book.handle(Tick(now_s))
        assert book.handle(Answered(2, 0, computes, now_s)) == ()
        assert _answer(book, 1, now_s) == ()


def test_a_slow_first_frame_has_half_its_deadline() -> None:
    book = FrameBook(("a", "b"), (0, 1), MESSAGES, 1, True)
    book.handle(Submitted(0, 0.0, 8.0))
    assert book.handle(Tick(2.0)) == (Inquire(0),)
    assert _answer(book, 0, 2.0) == _answer(book, 0, 3.9) == ()
    assert _answer(book, 0, 4.1)[0] == Remake(Link(1, 0))


def test_rows_that_cannot_be_sent_are_sent_again_for_a_while() -> None:
    """A worker says so: its connection may come back by itself, or its receiver be lost."""
    book = _book(True)
    (again,) = book.handle(FrameBroken(1, 0, "peer", "cannot send rows to 'b'", 10.1))
    assert isinstance(again, Again)
    book.handle(Submitted(3, 10.2, 18.0))
    broken = book.handle(FrameBroken(3, 0, "peer", "cannot send rows to 'b'", 11.5))
    assert isinstance(broken[0], CannotGoOn)
    assert broken[0].devices == (0,)
    assert isinstance(broken[1], Fail)


def test_rows_that_the_requester_cannot_send_end_the_frame() -> None:
    (fail,) = _book(True).handle(FrameBroken(1, 0, SENDING, "cannot be sent its rows", 10.1))
    assert isinstance(fail, Fail)
