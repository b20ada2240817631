"""The rule by itself: who is taken for which predictions, and that it does not waver."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.planners.live_selection.choosing import HYSTERESIS, Choice, select

ACCURACIES = (0.706, 0.672, 0.644)


@pytest.mark.parametrize(
    ("predicted_s", "expected"),
    [
        ((0.09, 0.05, 0.03), Choice(0, True)),
        ((0.11, 0.05, 0.03), Choice(1, True)),
        ((0.30, 0.15, 0.10), Choice(2, True)),
        ((0.30, 0.15, 0.11), Choice(2, False)),
        ((0.20, 0.11, 0.15), Choice(1, False)),
        ((math.inf, math.inf, 0.2), Choice(2, False)),
    ],
)
def test_takes_the_most_accurate_in_time_or_else_the_fastest(predicted_s: tuple[float, ...], expected: Choice) -> None:
    assert select(0.1, predicted_s, ACCURACIES) == expected


def test_of_equals_the_fastest_is_taken_and_the_current_one_kept() -> None:
    assert select(0.1, (0.09, 0.05, 0.03), (0.7, 0.7, 0.6)).index == 1
    assert select(0.1, (0.09, 0.05, 0.03), (0.7, 0.7, 0.6), current=0).index == 0


def test_a_prediction_that_wavers_about_the_limit_changes_the_choice_once() -> None:
    current, choices = 1, []
    for number in range(20):
        first_s = 0.1 * (1.01 if number % 2 else 0.99)
        current = select(0.1, (first_s, 0.05, 0.03), ACCURACIES, current).index
        choices.append(current)
    assert choices == [1] * 20
    assert select(0.1, (0.094, 0.05, 0.03), ACCURACIES, 1).index == 0
    assert select(0.1, (0.099, 0.05, 0.03), ACCURACIES, 0).index == 0
    # Where the current one is late, whatever is in time at all is better.
    assert select(0.1, (0.099, 0.11, 0.11), ACCURACIES, 1) == Choice(0, True)


@given(
    st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=6),
    st.floats(0.001, 1.0),
    st.data(),
)
def test_never_late_where_one_is_in_time(
    variants: list[tuple[float, float]], limit_s: float, data: st.DataObject
) -> None:
    predicted_s, accuracies = zip(*variants, strict=True)
    current = data.draw(st.one_of(st.none(), st.integers(0, len(variants) - 1)))
    choice = select(limit_s, predicted_s, accuracies, current)
    assert choice.fits == any(seconds <= limit_s for seconds in predicted_s)
    if choice.fits:
        assert predicted_s[choice.index] <= limit_s
        sure = [a for s, a in variants if s <= (1 - HYSTERESIS) * limit_s]
        assert accuracies[choice.index] >= max(sure, default=0.0)
    else:
        assert predicted_s[choice.index] == min(predicted_s)
