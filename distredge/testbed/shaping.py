"""Setting the rates of emulated links, constant or by their traces."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

from distredge.cluster import Link
from distredge.testbed.places import Place


class Shaped(Protocol):
    """Something with links whose rates can be set: `namespaces.Namespaces` or `relays.Relays`."""

    def shape(self, index: int, uplink_bps: float | None, downlink_bps: float | None) -> None:
        """Sets the rates of one place's links; None unbounded."""


class Shaping:
    """The links of a testbed's places; a thread moves those with a trace on.

    Args:
        shaped: what has the links.
        places: in the same order.
    """

    def __init__(self, shaped: Shaped, places: Sequence[Place]) -> None:
        self._shaped = shaped
        self._places = places
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.started_s = 0.0

    def start(self, dilation: float) -> None:
        """Sets all rates, divided by the dilation; traces begin now."""
        self.lift(shape=False)
        for index, place in enumerate(self._places):
            self._shaped.shape(index, _rate(place.uplink, 0.0, dilation), _rate(place.downlink, 0.0, dilation))
        self.started_s = time.monotonic()
        traced = [i for i, place in enumerate(self._places) if place.uplink.trace or place.downlink.trace]
        if traced:
            self._stop.clear()
            self._thread = threading.Thread(target=self._follow, args=(traced, dilation), name="traces", daemon=True)
            self._thread.start()

    def lift(self, shape: bool = True) -> None:
        """Stops following traces, and, with `shape`, makes all links unbounded."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if shape:
            for index in range(len(self._places)):
                self._shaped.shape(index, None, None)

    def trace_time_s(self, time_s: float, dilation: float) -> float:
        """Returns the time on the traces at a time of `time.monotonic`."""
        return (time_s - self.started_s) / dilation

    def _follow(self, traced: Sequence[int], dilation: float) -> None:
        try:
            now_s = 0.0
            while True:
                after_s = min(_next_change(self._places[i], now_s) for i in traced)
                if self._stop.wait(max(0.0, self.started_s + after_s * dilation - time.monotonic())):
                    return
                for index in traced:
                    place = self._places[index]
                    if _next_change(place, now_s) <= after_s:
                        rates = [_rate(link, after_s, dilation) for link in (place.uplink, place.downlink)]
                        self._shaped.shape(index, *rates)
                now_s = after_s
        except BaseException as error:
            self._failure = error


def _rate(link: Link, time_s: float, dilation: float) -> float | None:
    rate_bps = link.rate_bps if link.trace is None else link.trace.rate_at(time_s + 1e-9)
    return None if rate_bps is None else rate_bps / dilation


def _next_change(place: Place, time_s: float) -> float:
    """When, after a time on the traces, one of a place's rates changes."""
    found = float("inf")
    for link in (place.uplink, place.downlink):
        if link.trace is None:
            continue
        trace = link.trace
        periods = int((time_s + 1e-9) // trace.period_s)
        starts = [periods * trace.period_s + float(at) for at in trace.times_s] + [(periods + 1) * trace.period_s]
        found = min(found, *(at for at in starts if at > time_s + 1e-9))
    return found
