"""Percentiles and rates of a stream, and what devices do between two samples."""

from __future__ import annotations

import pytest

from distredge.device_sample import DeviceSample
from distredge.monitor.snapshot import LATEST, WINDOW_S, DeviceStates, LatestFrames, quantile


def _sample(at_s: float, busy_s: float, frames: int = 0, **more) -> DeviceSample:
    return DeviceSample("a", at_s, at_s + 100.0, "running", frames=frames, busy_s=busy_s, **more)


def test_percentiles_are_of_values_that_were_measured() -> None:
    assert [quantile(range(1, 101), share) for share in (0.0, 0.5, 0.95, 0.99, 1.0)] == [1, 50, 95, 99, 100]
    assert quantile([7.0], 0.99) == 7.0


def test_only_the_latest_frames_count() -> None:
    latest = LatestFrames()
    assert latest.percentiles_s() is None
    assert latest.images_per_s(0.0) == 0.0
    for number in range(LATEST):
        latest.add(0.01 * number, 9.0)
    latest.add(5.0, None)
    for number in range(LATEST):
        latest.add(20.0 + 0.01 * number, 0.1)
    assert (latest.frames, latest.errors) == (2 * LATEST, 1)
    assert latest.percentiles_s() == (0.1, 0.1, 0.1)
    assert latest.images_per_s(25.0) == LATEST / WINDOW_S
    assert latest.images_per_s(25.0 + 2 * WINDOW_S) == 0.0


def test_images_per_second_from_the_beginning() -> None:
    latest = LatestFrames()
    for number in range(4):
        latest.add(0.5 * (number + 1), 0.5)
    assert latest.images_per_s(2.0) == 2.0


def test_rates_are_of_the_time_between_two_samples() -> None:
    states = DeviceStates()
    (first,) = states.take([_sample(10.0, 3.0, 5)], 110.5)
    assert (first.busy_share, first.frames_per_s, first.silent_s) == (None, None, 0.5)
    (second,) = states.take([_sample(12.0, 4.5, 9, received_bytes=400, sent_bytes=100)], 112.0)
    assert (second.busy_share, second.frames_per_s) == (0.75, 2.0)
    assert (second.received_bytes_per_s, second.sent_bytes_per_s) == (200.0, 50.0)


def test_an_old_sample_keeps_its_rates_and_gets_silent() -> None:
    states = DeviceStates()
    states.take([_sample(10.0, 3.0)], 110.0)
    states.take([_sample(11.0, 3.5)], 111.0)
    (found,) = states.take([_sample(11.0, 3.5)], 120.0)
    assert (found.busy_share, found.silent_s, found.is_silent) == (0.5, 9.0, True)
    # Too soon after the latest one to make a rate of.
    (found,) = states.take([_sample(11.1, 3.6, queued=3)], 111.1)
    assert (found.busy_share, found.sample.queued, found.is_silent) == (0.5, 3, False)


def test_a_worker_that_was_started_anew_begins_anew() -> None:
    states = DeviceStates()
    states.take([_sample(10.0, 3.0, 50)], 110.0)
    (found,) = states.take([_sample(12.0, 0.1, 1)], 112.0)
    assert found.busy_share is None
    (found,) = states.take([_sample(13.0, 0.6, 2)], 113.0)
    assert (found.busy_share, found.frames_per_s) == (pytest.approx(0.5), 1.0)
    assert states.busy_share(found.sample) == pytest.approx(0.5)
