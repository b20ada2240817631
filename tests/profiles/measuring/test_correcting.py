"""Correcting the sum of operators by measured segments: what is found, what is refused, and the error to expect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distredge.profiles.measuring.correcting import FACTORS, Beside, ExpectedError, correction
from distredge.profiles.measuring.least_squares import fit_between, fit_robust
from distredge.profiles.measuring.segments import Check
from distredge.profiles.schema import Segments

COPY_S_PER_BYTE = 2e-11


def _checks(overhead_s: float, factor: float, s_per_byte: float, noise: float = 0.0, count: int = 24) -> list[Check]:
    rng = np.random.default_rng(0)
    sums = np.exp(rng.uniform(np.log(1e-4), np.log(3e-2), count))
    edges = np.exp(rng.uniform(np.log(1e5), np.log(1e7), count)).astype(int)
    measured = (overhead_s + factor * sums + s_per_byte * edges) * np.exp(noise * rng.standard_normal(count))
    rows = zip(measured, sums, edges, strict=True)
    return [Check("", float(m), 0.0, float(s), int(e), i % 3 > 0) for i, (m, s, e) in enumerate(rows)]


def _besides(overhead_s: float, s_per_byte: float, profiler_s: float = 3e-6) -> list[Beside]:
    rng = np.random.default_rng(1)
    kernels, edges = rng.integers(2, 30, 60), rng.integers(100_000, 10_000_000, 60)
    return [
        Beside(overhead_s + s_per_byte * int(e) + profiler_s * int(k), int(k), int(e))
        for k, e in zip(kernels, edges, strict=True)
    ]


def _errors(found: Segments, checks: list[Check]) -> np.ndarray:
    predicted = [found.overhead_s + found.factor * c.sum_s + found.s_per_byte * c.edge_bytes for c in checks]
    return np.abs(np.array(predicted) / np.array([c.measured_s for c in checks]) - 1.0)


def test_a_correction_finds_factor_overhead_and_edge() -> None:
    checks = _checks(2e-5, 1.07, 7e-11)
    found, expected = correction(checks, copy_s_per_byte=COPY_S_PER_BYTE)
    assert found.factor == pytest.approx(1.07, rel=1e-3)
    assert found.s_per_byte == pytest.approx(7e-11, rel=1e-2)
    assert found.overhead_s == pytest.approx(2e-5, rel=1e-2)
    assert expected is not None
    assert expected.mean < 1e-3
    assert expected.segments == sum(check.drawn for check in checks)


@pytest.mark.parametrize("besides", [[], _besides(3e-5, 7e-11)])
def test_a_few_disturbed_segments_hardly_count(besides: list[Beside]) -> None:
    checks = _checks(2e-5, 1.0, 7e-11, noise=0.02)
    disturbed = [replace(c, measured_s=c.measured_s * (40.0 if i % 5 == 1 else 1.0)) for i, c in enumerate(checks)]
    found, expected = correction(disturbed, besides, COPY_S_PER_BYTE)
    assert _errors(found, checks).mean() < 0.04
    assert expected is not None
    # What was disturbed is in the expected error all the same.
    assert expected.p95 > 0.5


def test_a_handful_of_segments_cannot_spoil_a_profile() -> None:
    good = _checks(2e-5, 1.0, 7e-11, count=40)
    # All of these few took two milliseconds longer than they take.
    spoilt = [replace(check, measured_s=check.measured_s + 2e-3) for check in good[:8]]
    found, _ = correction(spoilt, _besides(3e-5, 7e-11), COPY_S_PER_BYTE)
    assert found.overhead_s <= 3.1e-5
    assert found.s_per_byte <= 1.5e-10
    assert FACTORS[0] <= found.factor <= FACTORS[1]
    assert _errors(found, good).mean() < 0.25


def test_terms_that_do_not_help_on_segments_left_out_are_dropped() -> None:
    plain = _checks(0.0, 1.0, 0.0, noise=0.05)
    found, expected = correction(plain, copy_s_per_byte=COPY_S_PER_BYTE)
    assert found == Segments()
    assert expected is not None
    assert 0.02 < expected.mean < 0.08


def test_bounds_hold_whatever_was_measured() -> None:
    checks = [replace(c, measured_s=5 * c.measured_s) for c in _checks(1e-3, 1.0, 1e-9)]
    found, _ = correction(checks, copy_s_per_byte=COPY_S_PER_BYTE)
    assert FACTORS[0] <= found.factor <= FACTORS[1]
    assert 0 <= found.overhead_s <= min(check.measured_s for check in checks)
    assert 0 <= found.s_per_byte <= 16 * COPY_S_PER_BYTE


def test_too_few_segments_correct_nothing_and_promise_nothing() -> None:
    assert correction([]) == (Segments(), None)
    assert correction(_checks(1e-3, 1.0, 0.0)[:3], _besides(1e-5, 1e-10)) == (Segments(), None)
    chosen = [replace(check, drawn=False) for check in _checks(0.0, 1.0, 0.0)]
    _, expected = correction(chosen)
    assert expected == ExpectedError(pytest.approx(0.0, abs=1e-9), pytest.approx(0.0, abs=1e-9), len(chosen))  # type: ignore[arg-type]


def test_a_fit_between_bounds_is_the_best_there() -> None:
    rng = np.random.default_rng(2)
    columns = rng.uniform(0.5, 2.0, (2, 30))
    values = columns.T @ [1.0, 3.0]
    assert fit_between(columns.tolist(), values.tolist(), [(0, 5), (0, 5)]) == pytest.approx((1.0, 3.0))
    bounded = fit_between(columns.tolist(), values.tolist(), [(0, 5), (0, 2)])
    assert bounded[1] == pytest.approx(2.0)
    error = np.square(columns.T @ bounded / values - 1).sum()
    for first in np.linspace(0, 5, 101):
        assert error <= np.square(columns.T @ [first, 2.0] / values - 1).sum() + 1e-9
    wild = values.copy()
    wild[:4] *= 30
    assert fit_robust(columns.tolist(), wild.tolist(), [(0, 5), (0, 5)]) == pytest.approx((1.0, 3.0), rel=0.02)
