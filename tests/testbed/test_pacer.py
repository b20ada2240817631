"""The emulated thread's clock, with a clock that only sleeping moves."""

from __future__ import annotations

import pytest

from distredge.testbed.pace_table import (
    DELAY,
    DELAY_BYTE,
    EXCESS,
    HERE_SEND_FIXED,
    OVERRUNS,
    PACE,
    PACED,
    REAL,
    RECEIVE_BYTE,
    RECEIVE_FIXED,
    SEND_FIXED,
    SETTINGS,
    TOLERANCE,
    WIRE_BYTE,
    make_anonymous_table,
)
from distredge.testbed.pacer import Pacer


class Clock:
    """Seconds that pass when somebody sleeps or works."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pacer(clock: Clock) -> Pacer:
    table = make_anonymous_table()
    table[SETTINGS, PACED] = 1.0
    return Pacer(table, clock, clock.sleep)


def test_a_part_is_held_until_its_time_has_passed(pacer: Pacer, clock: Clock) -> None:
    pacer.table[PACE, 3] = 0.5
    pacer.compute(3, lambda: clock.sleep(0.2))
    assert clock.now_s == pytest.approx(100.5)
    assert pacer.table[REAL, 3] == pytest.approx(0.2)
    assert pacer.table[SETTINGS, OVERRUNS] == 0


def test_a_part_that_takes_longer_is_counted(pacer: Pacer, clock: Clock) -> None:
    pacer.table[PACE, 0] = 0.1
    pacer.table[SETTINGS, TOLERANCE] = 0.01
    pacer.compute(0, lambda: clock.sleep(0.105))
    assert pacer.table[SETTINGS, OVERRUNS] == 0
    pacer.compute(0, lambda: clock.sleep(0.2))
    assert pacer.table[SETTINGS, OVERRUNS] == 1
    assert clock.now_s == pytest.approx(100.305)


def test_messages_take_the_profile_s_time_and_what_this_machine_adds_is_taken_off(pacer: Pacer, clock: Clock) -> None:
    pacer.table[SETTINGS, SEND_FIXED] = 0.03
    pacer.table[SETTINGS, HERE_SEND_FIXED] = 0.01
    pacer.begin()
    pacer.send(1000)
    assert clock.now_s == pytest.approx(100.02)
    clock.sleep(0.01)
    pacer.send(1000)
    assert clock.now_s == pytest.approx(100.05)
    assert pacer.table[SETTINGS, EXCESS] == pytest.approx(0.0, abs=1e-9)


def test_a_late_thread_makes_up_for_it_in_the_next_part(pacer: Pacer, clock: Clock) -> None:
    pacer.table[SETTINGS, RECEIVE_FIXED] = 0.01
    pacer.table[SETTINGS, RECEIVE_BYTE] = 1e-5
    pacer.table[PACE, 0] = 0.5
    pacer.receive(99.9, 1000)  # it was due before the thread looked
    assert clock.now_s == pytest.approx(100.0)
    pacer.compute(0, lambda: clock.sleep(0.1))
    assert clock.now_s == pytest.approx(99.9 + 0.02 + 0.5)


def test_a_message_is_due_after_its_way(pacer: Pacer, clock: Clock) -> None:
    pacer.table[DELAY, 0], pacer.table[DELAY_BYTE, 0], pacer.table[WIRE_BYTE, 0] = 0.002, 1e-6, 1e-4
    # It cannot have come before its bytes have crossed the link, nor before the queue was last seen empty.
    assert pacer.due_s(-1, 99.5, 1000) == pytest.approx(99.6 + 0.003)
    pacer.empty_s = 99.9
    assert pacer.due_s(-1, 99.5, 1000) == pytest.approx(99.9 + 0.003)
    # Nor later than now.
    assert pacer.due_s(-1, 99.99, 1000) == pytest.approx(100.0 + 0.003)


def test_without_pace_nothing_is_held(clock: Clock) -> None:
    pacer = Pacer(make_anonymous_table(), clock, clock.sleep)
    pacer.table[PACE, 0], pacer.table[SETTINGS, SEND_FIXED] = 5.0, 5.0
    pacer.compute(0, lambda: clock.sleep(0.1))
    pacer.send(10)
    pacer.receive(200.0, 10)
    assert clock.now_s == pytest.approx(100.1)
