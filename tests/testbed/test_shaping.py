"""Rates that follow traces."""

from __future__ import annotations

import threading

from distredge.cluster import Link
from distredge.profiles.network import Trace
from distredge.testbed.places import Place
from distredge.testbed.shaping import Shaping


class Recorder:
    """Notes the rates that are set, and says when there are so many."""

    def __init__(self, wanted: int) -> None:
        self.rates: list[tuple[int, float | None, float | None]] = []
        self.enough = threading.Event()
        self._wanted = wanted

    def shape(self, index: int, uplink_bps: float | None, downlink_bps: float | None) -> None:
        self.rates.append((index, uplink_bps, downlink_bps))
        if len(self.rates) == self._wanted:
            self.enough.set()


def test_constant_rates_are_divided_by_the_dilation() -> None:
    recorder = Recorder(2)
    shaping = Shaping(recorder, [Place(("a",), Link(8e6), Link(4e6)), Place((), Link(), Link(), True)])
    shaping.start(4.0)
    assert recorder.rates == [(0, 2e6, 1e6), (1, None, None)]
    shaping.lift()
    assert recorder.rates[2:] == [(0, None, None), (1, None, None)]


def test_a_trace_goes_on_and_begins_again() -> None:
    trace = Trace([0.0, 0.01], [8e6, 2e6], period_s=0.02)
    recorder = Recorder(4)
    shaping = Shaping(recorder, [Place(("a",), Link(trace=trace), Link(1e6))])
    shaping.start(2.0)
    assert recorder.enough.wait(10.0)
    shaping.lift(shape=False)
    assert recorder.rates[:4] == [(0, rate, 0.5e6) for rate in (4e6, 1e6, 4e6, 1e6)]
