"""Generated traces have the statistics that were asked for, and the shipped ones those of measured Wi-Fi."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from distredge.errors import TraceError
from distredge.profiles.network import Trace, load_trace, shipped_traces
from distredge.profiles.traces.formats import read_trace
from distredge.profiles.traces.generators import Ar1, constant, joined, markov, resampled, shipped, steps

MEASURED = Path(os.environ.get("DISTREDGE_WIFI_TRACES", Path(__file__).parents[4] / "shared" / "data" / "wifi-traces"))


def test_constant_and_steps() -> None:
    assert constant(5e6).finish(3.0, 10e6) == pytest.approx(5.0)
    trace = steps([1e6, 3e6], 2.0)
    assert trace.mean_bps == pytest.approx(2e6)
    assert trace.rate_at(5.0) == 1e6


def test_a_step_too_short_for_the_trace_is_named_before_its_steps_are_made() -> None:
    for shortest_s in (1e-9, 5e-324):
        with pytest.raises(
            TraceError, match=r"glitch: the shortest step, in seconds: found .*, accepted: at least 1e-05"
        ):
            resampled(Trace([0.0, shortest_s], [1e6, 2e6], 0.0, 100.0, "glitch"))
    for length_s, step_s in ((1e300, 1.0), (1e300, 1e-300), (0.4, 1.0), (float("inf"), 1.0)):
        with pytest.raises(TraceError, match="length_s"):
            markov([1e6], [[1.0]], length_s, step_s)


def test_a_markov_chain_visits_states_as_often_as_its_transitions_say() -> None:
    trace = markov([1e6, 9e6], [[0.9, 0.1], [0.3, 0.7]], 20_000, seed=3)
    # Stationary: 0.1 / (0.1 + 0.3) of the time in the second state.
    assert np.mean(trace.rates_bps == 9e6) == pytest.approx(0.25, abs=0.02)
    leaves = np.mean(trace.rates_bps[1:][trace.rates_bps[:-1] == 1e6] == 9e6)
    assert leaves == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("transitions", [[[1.0]], [[0.5, 0.6], [0.5, 0.5]], [[-0.1, 1.1], [0.5, 0.5]]])
def test_wrong_transitions_are_refused(transitions: list[list[float]]) -> None:
    with pytest.raises(TraceError, match="markov: transitions"):
        markov([1e6, 2e6], transitions, 10)


@pytest.mark.parametrize(
    "process",
    [Ar1(5e7, 0.34, 0.46), Ar1(1e7, 0.52, 0.46, 0.047), Ar1(1e8, 0.1, 0.9), Ar1(2e7, 0.3, -0.4), Ar1(1e6, 0.0, 0.0)],
)
def test_ar1_has_its_mean_variation_correlation_and_outages(process: Ar1) -> None:
    trace = process.trace(40_000, seed=1)
    again = Ar1.fitted(trace)
    assert trace.mean_bps == pytest.approx(process.mean_bps)
    assert again.variation == pytest.approx(process.variation, rel=0.05, abs=1e-9)
    assert again.correlation == pytest.approx(process.correlation, abs=0.03)
    assert again.outages == pytest.approx(process.outages, abs=0.005)


def test_the_same_seed_gives_the_same_trace() -> None:
    process = Ar1(1e7, 0.4, 0.5, 0.02)
    assert process.trace(50, 7) == process.trace(50, 7)
    assert process.trace(50, 7) != process.trace(50, 8)


@pytest.mark.parametrize(
    ("key", "values"),
    [("mean_bps", (0.0, 0.3, 0.3)), ("variation", (1e6, -0.1, 0.3)), ("correlation", (1e6, 0.3, 1.0))],
)
def test_impossible_processes_are_refused(key: str, values: tuple[float, float, float]) -> None:
    with pytest.raises(TraceError, match=key):
        Ar1(*values)


def test_resampling_keeps_what_is_carried() -> None:
    trace = joined([steps([1e6, 5e6], 1.0), steps([2e6], 3.0)])
    rates, step_s = resampled(trace)
    assert step_s == pytest.approx(1.0)
    assert rates.tolist() == pytest.approx([1e6, 5e6, 2e6, 2e6, 2e6])


def test_shipped_traces_are_those_that_the_code_makes() -> None:
    made = {trace.name: trace for trace in shipped()}
    assert set(shipped_traces()) == set(made)
    for name, trace in made.items():
        loaded = load_trace(name)
        assert np.abs(loaded.rates_bps - trace.rates_bps).max() <= 501
        assert loaded.source == trace.source


def test_shipped_wifi_has_the_spread_and_correlation_of_measured_wifi() -> None:
    """Figures of GreenLv/Solis-WiFi-Trace: variation 0.34 (campus) and 0.52 (office), correlation 0.46."""
    for place, variation in (("campus", 0.34), ("office", 0.52)):
        fits = [Ar1.fitted(load_trace(f"wifi-{place}-{i}")) for i in range(4)]
        assert np.mean([f.variation for f in fits]) == pytest.approx(variation, rel=0.1)
        assert np.mean([f.correlation for f in fits]) == pytest.approx(0.46, abs=0.05)
        assert 0.01 < np.mean([f.outages for f in fits]) < 0.07


@pytest.mark.skipif(not MEASURED.is_dir(), reason=f"the measured Wi-Fi traces are not at {MEASURED}")
def test_a_fit_to_measured_wifi_makes_traces_like_it() -> None:
    for path in sorted(MEASURED.glob("wifi_office_*.txt"))[:4]:
        measured = Ar1.fitted(read_trace(path, "pensieve", skip_s=1.0))
        made = Ar1.fitted(measured.trace(20_000, seed=2))
        assert made.mean_bps == pytest.approx(measured.mean_bps)
        assert made.variation == pytest.approx(measured.variation, rel=0.1)
        assert made.correlation == pytest.approx(measured.correlation, abs=0.05)
