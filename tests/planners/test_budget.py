from __future__ import annotations

import math
from typing import Any

import pytest

from distredge.errors import ConfigError
from distredge.planners.budget import Budget, PlanningProgress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "evaluations", "found"),
    [
        (0.0, None, "0.0"),
        (-1.0, None, "-1.0"),
        (math.nan, None, "nan"),
        (math.inf, None, "inf"),
        (None, 0, "0"),
        (None, None, "None"),
        ("a", None, "'a'|a"),
        (True, None, "True"),
        (None, 2.5, "2.5"),
        (None, "3", "3"),
    ],
)
def test_refuses_what_is_no_budget(seconds: Any, evaluations: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        Budget(seconds, evaluations)


def test_seconds_run_out() -> None:
    clock = Clock()
    budget = Budget(2.0, clock=clock)
    assert not budget.expired()
    clock.now += 1.5
    assert budget.spent() == 0.75
    assert budget.left_s == 0.5
    clock.now += 0.5
    assert budget.expired()


def test_evaluations_run_out_whatever_the_time() -> None:
    clock = Clock()
    budget = Budget(evaluations=3, clock=clock)
    clock.now += 1e6
    budget.spend(2)
    assert budget.left == 1
    assert not budget.expired()
    budget.spend()
    assert budget.expired()


def test_pauses_that_nest_count_once() -> None:
    clock = Clock()
    budget = Budget(4.0, clock=clock)
    part = budget.share(0.5)
    with budget.paused():
        clock.now += 1.0
        with part.paused():
            clock.now += 10.0
        with budget.paused():
            clock.now += 100.0
    assert budget.elapsed_s == 0.0
    with part.paused():
        clock.now += 1.0
    clock.now += 0.5
    assert budget.elapsed_s == 0.5


def test_interrupt_ends_it() -> None:
    budget = Budget(1e3)
    budget.interrupt()
    assert budget.expired()


def test_progress_is_shown_on_improvement_and_ten_times_a_second_at_most() -> None:
    clock, shown = Clock(), list[PlanningProgress]()
    budget = Budget(10.0, progress=shown.append, clock=clock)
    budget.report(3.0)
    budget.report(4.0)
    budget.report(2.0)
    assert [p.best_latency_s for p in shown] == [3.0, 2.0]
    budget.spend()
    assert len(shown) == 2
    clock.now += 0.2
    budget.spend()
    assert shown[-1].evaluations == 2
    assert shown[-1].elapsed_s == pytest.approx(0.2)
