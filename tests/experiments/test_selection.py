"""The channel of the selection bench, and how its outcomes are counted."""

from __future__ import annotations

import numpy as np
import pytest

from distredge.experiments.bench.selection import CHANNEL, LIMIT_S, Outcome, boards
from distredge.experiments.common.selection_channel import MEMORY, STEP_S, trace_of
from distredge.planners.deadline_reliability import Channel


def test_the_channel_has_its_mean_its_spread_and_its_memory() -> None:
    channel = Channel(mean_bps=50e6, spread_bps=8e6, least_bps=1e6)
    rates = trace_of(channel, 10_000.0, seed=1).rates_bps
    assert rates.mean() == pytest.approx(50e6, rel=0.02)
    assert rates.std() == pytest.approx(8e6, rel=0.05)
    assert np.corrcoef(rates[:-1], rates[1:])[0, 1] == pytest.approx(MEMORY, abs=0.02)


def test_the_channel_is_its_seed_s_and_never_below_its_least_rate() -> None:
    trace = trace_of(CHANNEL, 10.0, seed=0)
    assert trace.rates_bps.min() >= CHANNEL.least_bps
    assert (len(trace), trace.period_s) == (20, 20 * STEP_S)
    assert np.array_equal(trace.rates_bps, trace_of(CHANNEL, 10.0, seed=0).rates_bps)
    assert not np.array_equal(trace.rates_bps, trace_of(CHANNEL, 10.0, seed=1).rates_bps)


def test_only_the_requester_s_link_varies() -> None:
    found = boards(10.0, 0)
    assert found.requester.uplink.trace is not None
    assert all(device.uplink.trace is None for device in found.devices)
    assert boards(None, 0).requester.uplink.rate_bps == CHANNEL.mean_bps


def test_accuracy_is_of_what_was_in_time() -> None:
    outcome = Outcome([0.5 * LIMIT_S, LIMIT_S, 2 * LIMIT_S], [0.7, 0.6, 0.1])
    assert outcome.reliability == pytest.approx(2 / 3)
    assert outcome.mean_accuracy == pytest.approx(0.65)
    assert (Outcome().reliability, Outcome().mean_accuracy) == (0.0, 0.0)
