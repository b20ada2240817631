"""Traces that are made: constant, steps, Markov chains, and AR(1) like measured Wi-Fi.

Run: ``python profiles/traces/generators.py`` writes the shipped traces, `profiles/data/trace-*.csv`, anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distredge.errors import TraceError, located
from distredge.profiles.network import Trace

MOST_STEPS = 10_000_000
"""A trace that is made has no more steps: 240 MB."""

_OUTAGE_SHARE = 0.1
"""A step below this share of the mean counts as an outage."""

_OUTAGE_RATE = 0.02
"""What is left of the mean rate in an outage."""


def constant(rate_bps: float, rtt_s: float = 0.0) -> Trace:
    """Returns a trace that never changes."""
    return Trace([0.0], [rate_bps], rtt_s, 1.0, "constant")


def steps(rates_bps: Sequence[float], step_s: float, rtt_s: float = 0.0) -> Trace:
    """Returns a trace that takes the given rates in turn, each for `step_s` seconds."""
    _positive("step_s", step_s)
    count = len(rates_bps)
    return Trace(step_s * np.arange(count), rates_bps, rtt_s, step_s * max(1, count), "steps")


def markov(
    rates_bps: Sequence[float],
    transitions: Sequence[Sequence[float]],
    length_s: float,
    step_s: float = 1.0,
    seed: int = 0,
    rtt_s: float = 0.0,
) -> Trace:
    """Returns a random walk over some rates.

    Args:
        rates_bps: (k,) the rates.
        transitions: (k, k) probability of the next state, a row for each present one.
        length_s: length of the trace.
        step_s: time in a state before the next draw.
        seed: of the draws; the first state is drawn evenly.
        rtt_s: round trip.
    """
    table = np.asarray(transitions, dtype=np.float64)
    states = len(rates_bps)
    if table.shape != (states, states) or (table < 0).any() or not np.allclose(table.sum(axis=1), 1.0):
        raise TraceError(
            located("markov", "transitions", table.tolist(), f"{states} rows of {states} probabilities that add to 1")
        )
    rng = np.random.default_rng(seed)
    draws = rng.random(_count(length_s, step_s))
    limits = np.cumsum(table, axis=1)
    state = int(rng.integers(states))
    visited = []
    for draw in draws:
        visited.append(state)
        state = min(int(np.searchsorted(limits[state], draw, side="right")), states - 1)
    rates = np.asarray(rates_bps, dtype=np.float64)[visited]
    return Trace(step_s * np.arange(len(rates)), rates, rtt_s, step_s * len(rates), "markov")


@dataclass(frozen=True)
class Ar1:
    """An AR(1) process over the logarithm of the rate, with outages: what measured Wi-Fi looks like.

    Attributes:
        mean_bps: mean rate.
        variation: standard deviation over the mean, outages included.
        correlation: between a step and the next, outages included.
        outages: share of steps without a usable link.
        step_s: length of a step.
    """

    mean_bps: float
    variation: float
    correlation: float
    outages: float = 0.0
    step_s: float = 1.0

    def __post_init__(self) -> None:
        for key, value in (("mean_bps", self.mean_bps), ("step_s", self.step_s)):
            _positive(key, value)
        if not 0 <= self.variation < 3:
            raise TraceError(located("AR(1)", "variation", self.variation, "at least 0, below 3"))
        if not -1 < self.correlation < 1:
            raise TraceError(located("AR(1)", "correlation", self.correlation, "between -1 and 1"))
        if not 0 <= self.outages < 0.5:
            raise TraceError(located("AR(1)", "outages", self.outages, "at least 0, below 0.5"))

    def trace(self, length_s: float, seed: int = 0, rtt_s: float = 0.0, name: str = "ar1") -> Trace:
        """Returns a trace with these statistics (its mean exactly, the others in expectation).

        Args:
            length_s: its length.
            seed: of the draws.
            rtt_s: round trip.
            name: its name.
        """
        count = _count(length_s, self.step_s)
        rng = np.random.default_rng(seed)
        spread, correlation = self._inner()
        noise = rng.standard_normal(count)
        log_rate = np.empty(count)
        level = noise[0]
        for index in range(count):
            log_rate[index] = level
            level = correlation * level + math.sqrt(1 - correlation**2) * noise[(index + 1) % count]
        rates = np.exp(spread * log_rate)
        rates[rng.random(count) < self.outages] = _OUTAGE_RATE
        trace = Trace(self.step_s * np.arange(count), rates, rtt_s, self.step_s * count, name)
        return trace.scaled(self.mean_bps)

    def _inner(self) -> tuple[float, float]:
        """Spread and correlation of the logarithm that give those of the rate.

        For a log-normal rate without outages of unit mean, variance v^2 and covariance c v^2: spread^2 = ln(1 + v^2),
        and the logarithm's covariance is ln(1 + c v^2). Outages that come and go at random multiply the rate by 0 or
        1 / (1 - p) of its mean: (1 + v^2) = (1 + v0^2) / (1 - p), while the covariance stays.
        """
        base = (1 + self.variation**2) * (1 - self.outages) - 1
        if base <= 0:
            return 0.0, 0.0
        spread = math.sqrt(math.log1p(base))
        covariance = self.correlation * self.variation**2
        inner = math.log1p(max(covariance, -0.99)) / spread**2
        return spread, min(0.999, max(-0.999, inner))

    @classmethod
    def fitted(cls, trace: Trace) -> Ar1:
        """Returns the process that has a trace's mean, variation, correlation and outages.

        Steps of unlike length are resampled to the shortest one first.

        Raises:
            TraceError: if the trace is too short to show a correlation, or carries nothing.
        """
        rates, step_s = resampled(trace)
        mean = float(rates.mean())
        if len(rates) < 3 or mean <= 0:
            raise TraceError(f"{trace.name or 'trace'}: found {len(rates)} steps, accepted: 3 that carry something")
        variation = float(rates.std() / mean)
        correlation = 0.0
        if variation > 1e-9:
            centred = rates - mean
            correlation = float((centred[:-1] * centred[1:]).mean() / centred.var())
        outages = float((rates < _OUTAGE_SHARE * mean).mean())
        return cls(
            mean,
            min(variation, 2.99),
            min(0.99, max(-0.99, correlation)),
            min(outages, 0.49, variation**2 / (1 + variation**2)),
            step_s,
        )


def resampled(trace: Trace) -> tuple[NDArray[np.float64], float]:
    """Returns a trace's mean rates over even steps, about as long as its shortest one.

    Returns:
        (n,) float64 bits per second, >= 0, and the length of a step in seconds.

    Raises:
        TraceError: if that makes more than MOST_STEPS steps.
    """
    edges = np.append(trace.times_s, trace.period_s)
    step_s = float(np.diff(edges).min())
    if trace.period_s > MOST_STEPS * step_s:
        accepted = (
            f"at least {trace.period_s / MOST_STEPS:g}, for {MOST_STEPS} steps over the trace's {trace.period_s:g} s"
        )
        raise TraceError(located(trace.name or "trace", "the shortest step, in seconds", step_s, accepted))
    count = max(1, round(trace.period_s / step_s))
    places = np.linspace(0.0, trace.period_s, count + 1)
    carried = np.interp(places, edges, trace.bits)
    return np.diff(carried) / (trace.period_s / count), trace.period_s / count


def joined(traces: Sequence[Trace], name: str = "joined") -> Trace:
    """Returns traces one after the other."""
    if not traces:
        raise TraceError(f"{name}: found no trace, accepted: at least one")
    starts = np.cumsum([0.0, *(t.period_s for t in traces)])
    return Trace(
        np.concatenate([t.times_s + start for t, start in zip(traces, starts, strict=False)]),
        np.concatenate([t.rates_bps for t in traces]),
        np.concatenate([t.rtt_s for t in traces]),
        float(starts[-1]),
        name,
    )


def shipped() -> tuple[Trace, ...]:
    """Makes the shipped traces: Wi-Fi of two kinds, four links each, and an hour whose mean shifts twice.

    Spread and correlation are those of measured 802.11 (GreenLv/Solis-WiFi-Trace, 1f5ec3b: variation 0.34 on a campus
    and 0.52 in an office, correlation 0.46, 2 to 5 % of seconds in outage); the means are measured too and meant to be
    scaled. The hour follows DistrEdge, figure 12: 40 to 100 Mbit/s with shifts near minutes 20 and 40.
    """
    made = [
        trace
        for place, process in (
            ("wifi-campus", Ar1(63.7e6, 0.34, 0.46, 0.024)),
            ("wifi-office", Ar1(15.5e6, 0.52, 0.46, 0.047)),
        )
        for trace in _typical(process, place)
    ]
    for link in range(4):
        parts = [
            Ar1(mean, 0.15, 0.46, 0.0, 5.0).trace(1200.0, 100 + 10 * link + part)
            for part, mean in enumerate((70e6, 50e6, 85e6))
        ]
        hour = joined(parts)
        made.append(Trace(hour.times_s, hour.rates_bps, 0.002, hour.period_s, f"shifting-hour-{link}"))
    text = "synthetic, made by distredge.profiles.traces.generators; part of this project"
    return tuple(trace.named(trace.name, text) for trace in made)


def main() -> None:
    """Writes the shipped traces, rates rounded to kbit/s."""
    folder = Path(__file__).resolve().parents[1] / "data"
    for made in shipped():
        rates_bps = np.round(made.rates_bps, -3)
        rounded = Trace(made.times_s, rates_bps, made.rtt_s, made.period_s, made.name, made.source)
        rounded.save(folder / f"trace-{made.name}.csv")


def _count(length_s: float, step_s: float) -> int:
    _positive("step_s", step_s)
    _positive("length_s", length_s)
    if not 0.5 * step_s < length_s <= MOST_STEPS * step_s:
        raise TraceError(located("trace", "length_s", length_s, "1 to 10 million steps"))
    return round(length_s / step_s)


def _positive(key: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise TraceError(located("trace", key, value, "a positive number"))


def _typical(process: Ar1, place: str) -> list[Trace]:
    """The first four of the seeds 0, 1, ... whose 200 s are close to the process, as few so short traces are."""
    found: list[Trace] = []
    for seed in range(1000):
        trace = process.trace(200.0, seed, 0.002, f"{place}-{len(found)}")
        own = Ar1.fitted(trace)
        close = abs(own.variation / process.variation - 1) < 0.05 and abs(own.correlation - process.correlation) < 0.03
        if close and len(found) < 4:
            found.append(trace)
    return found


if __name__ == "__main__":
    main()
