"""What questions and answers say of another clock, and how wrong that may be."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from distredge.runtime.requester.clock_offsets import DRIFT, ClockOffsets

MS = 1_000_000


def test_nothing_is_known_before_the_first_exchange() -> None:
    assert ClockOffsets().at(0) is None


def test_what_the_worker_takes_to_answer_does_not_count() -> None:
    found = ClockOffsets()
    found.add(0, 1_000 * MS + MS, 1_000 * MS + 51 * MS, 52 * MS)
    assert found.at(26 * MS) == (1_000 * MS, MS + 1)


def test_the_shortest_round_trip_counts_until_it_is_old() -> None:
    found = ClockOffsets()
    found.add(0, 7 * MS, 7 * MS, 2 * MS)
    found.add(1_000 * MS, 1_026 * MS, 1_026 * MS, 1_040 * MS)
    assert found.at(1_000 * MS).offset_ns == 6 * MS
    # 200 s later the first may be wrong by 21 ms, the second by 20 ms and a little less drift.
    assert found.at(500_000 * MS).offset_ns == 6 * MS


def test_times_that_contradict_each_other_are_left_out() -> None:
    found = ClockOffsets()
    found.add(0, 10, 5, 20)
    found.add(0, 10, 40, 20)
    assert found.at(0) is None


@given(
    seed=st.integers(0, 1 << 30), offset_ns=st.integers(-(10**15), 10**15), rate=st.floats(-DRIFT / 1.01, DRIFT / 1.01)
)
def test_the_true_offset_is_within_the_error(seed: int, offset_ns: int, rate: float) -> None:
    """Whatever each way takes, and however fast the other clock runs."""
    draw = random.Random(seed)

    def theirs(ns: int) -> int:
        return ns + offset_ns + int(ns * rate)

    found, now_ns = ClockOffsets(), 0
    for _ in range(20):
        sent_ns = now_ns
        heard_ns = sent_ns + int(draw.expovariate(1 / MS))
        answered_ns = heard_ns + int(draw.expovariate(1 / MS))
        came_ns = answered_ns + int(draw.expovariate(1 / MS))
        found.add(sent_ns, theirs(heard_ns), theirs(answered_ns), came_ns)
        now_ns = came_ns + draw.randrange(2_000 * MS)
    for asked_ns in (draw.randrange(now_ns + 1) for _ in range(10)):
        told = found.at(asked_ns)
        # The round trip is in two clocks: it is wrong by the drift of a few milliseconds itself.
        assert abs(theirs(asked_ns) - asked_ns - told.offset_ns) <= told.error_ns + 100 * MS * DRIFT + 2
