"""How a stream stands at one moment: its latest frames, and what its devices do."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distredge.device_sample import DeviceSample

LATEST = 500
"""Frames that the percentiles are of."""

WINDOW_S = 10.0
"""Seconds that images per second are of."""

SILENT_S = 5.0
"""What a device said longer ago is old: it is asked every second."""

_APART_S = 0.5
"""Between two samples that a rate is made of, at least."""


@dataclass(frozen=True)
class DeviceState:
    """One device.

    Attributes:
        sample: what it said last.
        silent_s: how long ago that was.
        busy_share: share of the time between its last two samples in which it computed, from 0 to 1; None before.
        frames_per_s: frames that it was done with; None before there are two samples, as the next two.
        received_bytes_per_s, sent_bytes_per_s: of rows.
    """

    sample: DeviceSample
    silent_s: float
    busy_share: float | None = None
    frames_per_s: float | None = None
    received_bytes_per_s: float | None = None
    sent_bytes_per_s: float | None = None

    @property
    def device(self) -> str:
        """Its name."""
        return self.sample.device

    @property
    def is_silent(self) -> bool:
        """Whether it does not answer."""
        return self.silent_s > SILENT_S


@dataclass(frozen=True)
class Snapshot:
    """A stream at one moment.

    Attributes:
        elapsed_s: since it began.
        frames: that have ended well; `errors` otherwise.
        images_per_s: of the latest seconds.
        percentiles_s: latency of the latest frames: of 50, 95 and 99 % at most so many seconds; None before the first.
        predicted_s: latency that was predicted for one frame alone; None if it is not known.
        in_flight: frames that may be under way at once.
        devices: those that have said how they are.
    """

    elapsed_s: float
    frames: int
    errors: int
    images_per_s: float
    percentiles_s: tuple[float, float, float] | None
    predicted_s: float | None
    in_flight: int
    devices: tuple[DeviceState, ...]


class LatestFrames:
    """Counts frames, and keeps what is needed of the latest ones.

    Attributes:
        frames: that have ended well; `errors` otherwise.
        ended_s: when the latest one ended, seconds since the beginning.
    """

    def __init__(self) -> None:
        self.frames = self.errors = 0
        self.ended_s = 0.0
        self._latencies_s: deque[float] = deque(maxlen=LATEST)
        self._ended_s: deque[float] = deque()

    def add(self, ended_s: float, latency_s: float | None) -> None:
        """Takes in a frame that has ended; latency None: with an error."""
        self.ended_s = ended_s
        if latency_s is None:
            self.errors += 1
            return
        self.frames += 1
        self._latencies_s.append(latency_s)
        self._ended_s.append(ended_s)
        while self._ended_s[0] < ended_s - WINDOW_S:
            self._ended_s.popleft()

    def images_per_s(self, now_s: float) -> float:
        """Frames of the latest seconds, from the beginning at the earliest.

        Args:
            now_s: seconds since the beginning.
        """
        # Another thread may be adding one.
        recent = sum(1 for ended_s in tuple(self._ended_s) if ended_s >= now_s - WINDOW_S)
        return recent / min(WINDOW_S, now_s) if now_s > 0 else 0.0

    def percentiles_s(self) -> tuple[float, float, float] | None:
        """Latency that 50, 95 and 99 % of the latest frames do not exceed; None before the first."""
        ordered = sorted(tuple(self._latencies_s))
        return (quantile(ordered, 0.5), quantile(ordered, 0.95), quantile(ordered, 0.99)) if ordered else None


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed.

    Args:
        ordered: (n,) values, rising, at least one.
        share: from 0 to 1.
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class DeviceStates:
    """Makes rates of what devices count."""

    def __init__(self) -> None:
        self._first: dict[str, DeviceSample] = {}
        self._before: dict[str, DeviceSample] = {}
        self._states: dict[str, DeviceState] = {}

    def take(self, samples: Iterable[DeviceSample], now_s: float) -> tuple[DeviceState, ...]:
        """Returns the states of devices.

        Args:
            samples: what each said last.
            now_s: the time now, by the clock of `DeviceSample.came_s`.
        """
        return tuple(self._take(sample, max(0.0, now_s - sample.came_s)) for sample in samples)

    def busy_share(self, sample: DeviceSample) -> float | None:
        """Share of the time since a device's first sample in which it computed; None where this is the first."""
        first = self._first.get(sample.device, sample)
        apart_s = sample.at_s - first.at_s
        return min(1.0, (sample.busy_s - first.busy_s) / apart_s) if apart_s > 0 else None

    def _take(self, sample: DeviceSample, silent_s: float) -> DeviceState:
        name = sample.device
        before, state = self._before.get(name), self._states.get(name)
        if before is None or sample.at_s < before.at_s or sample.busy_s < before.busy_s:
            # The first, or of a worker that was started anew.
            self._first[name] = self._before[name] = sample
            made = DeviceState(sample, silent_s)
        elif sample.at_s - before.at_s >= _APART_S:
            made = _between(before, sample, silent_s)
            self._before[name] = sample
        else:
            rates = state or DeviceState(sample, silent_s)
            made = DeviceState(
                sample,
                silent_s,
                rates.busy_share,
                rates.frames_per_s,
                rates.received_bytes_per_s,
                rates.sent_bytes_per_s,
            )
        self._states[name] = made
        return made


def _between(before: DeviceSample, after: DeviceSample, silent_s: float) -> DeviceState:
    apart_s = after.at_s - before.at_s
    return DeviceState(
        after,
        silent_s,
        min(1.0, (after.busy_s - before.busy_s) / apart_s),
        (after.frames - before.frames) / apart_s,
        (after.received_bytes - before.received_bytes) / apart_s,
        (after.sent_bytes - before.sent_bytes) / apart_s,
    )
