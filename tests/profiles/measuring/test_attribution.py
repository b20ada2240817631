"""Kernels' times when other programs come between."""

from __future__ import annotations

import numpy as np
import pytest

from distredge.profiles.measuring.attribution import without_pauses


def test_a_pause_is_taken_from_the_kernel_that_it_fell_into() -> None:
    undisturbed = np.array([[1e-4], [2e-3], [5e-5]]) * np.ones((3, 12))
    seconds, own = undisturbed.copy(), undisturbed.sum(axis=0) + 1e-5
    wall = own.copy()
    for run, kernel in ((1, 0), (4, 2), (7, 1)):
        seconds[kernel, run] += 4e-3
        wall[run] += 4e-3
    # Between kernels.
    wall[9] += 5e-3
    # By the share of the run that the processor was theirs, kernels without a pause would have shrunk to a third.
    assert without_pauses(seconds.tolist(), own, wall) == pytest.approx(undisturbed)


def test_pauses_of_a_kernel_that_never_ran_undisturbed_are_taken_from_it() -> None:
    seconds = np.array([[0.030 + 0.012] * 8, [1e-4] * 8])
    wall = seconds.sum(axis=0)
    found = without_pauses(seconds.tolist(), wall - 0.012, wall)
    assert found.sum(axis=0) == pytest.approx(wall - 0.012)
    assert found[0] == pytest.approx(np.full(8, 0.030), rel=0.01)
    assert found[1] == pytest.approx(np.full(8, 1e-4), rel=0.01)


def test_what_was_not_paused_stays() -> None:
    seconds = np.array([[1.0, 2.0, 3.0]])
    wall = np.array([1.1, 2.1, 3.1])
    assert without_pauses(seconds.tolist(), wall + np.array([0.0, 1e-9, 0.0]), wall) == pytest.approx(seconds)
    assert without_pauses([], wall, wall).size == 0
