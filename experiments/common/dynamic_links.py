"""Links that change over an hour: their traces, when images start, and what can have been seen of the rates by then.

The paper's traces (DistrEdge, figure 12) are not published. `shifts` are the shipped ones that follow what it says of
them; `wifi` are measurements (GreenLv/Solis-WiFi-Trace, 1f5ec3b, MIT licence: 802.11 in a cafe, on a campus, in an
office and a restaurant, 200 s each, one value a second, outages included), joined and scaled to the same means.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distredge.cluster import load_cluster
from distredge.errors import FileError
from distredge.profiles.network import Trace
from distredge.profiles.traces.formats import read_trace
from distredge.profiles.traces.generators import joined

CLUSTER = "dynamic-nano"
SETS = ("shifts", "wifi")
WIFI_FOLDER = Path(
    os.environ.get("DISTREDGE_WIFI_TRACES", Path(__file__).resolve().parents[3] / "shared" / "data" / "wifi-traces")
)
PLACES = ("cafe", "campus", "office", "restr")
MEANS_BPS = (70e6, 50e6, 85e6)
"""Of each third of the hour: the shifts of `shifting-hour`."""

FILES_A_PART = 6
LEAST_BPS = 1e5
"""A link on which less was seen is planned with as if it carried so much: a rate of 0 would be a link that is down."""

Floats = NDArray[np.float64]


def traces_of(name: str, folder: Path = WIFI_FOLDER) -> tuple[Trace, ...]:
    """Returns an hour of four links.

    Args:
        name: one of SETS.
        folder: where the measurements are.

    Raises:
        FileError: if the measurements are not there.
    """
    if name == "shifts":
        return tuple(device.uplink.trace for device in load_cluster(CLUSTER).devices if device.uplink.trace)
    return tuple(_measured_hour(folder, link) for link in range(4))


def _measured_hour(folder: Path, link: int) -> Trace:
    """Three parts of six files; every link is at one place at a time, no two at the same."""
    parts = []
    for part, mean_bps in enumerate(MEANS_BPS):
        place = PLACES[(link + part) % len(PLACES)]
        files = sorted(folder.glob(f"wifi_{place}_*.txt"))
        if not files:
            raise FileError(f"{folder}: found no wifi_{place}_*.txt; DISTREDGE_WIFI_TRACES names the folder")
        chosen = [files[(FILES_A_PART * part + link + i) % len(files)] for i in range(FILES_A_PART)]
        parts.append(joined([read_trace(file, "pensieve") for file in chosen]).scaled(mean_bps))
    return joined(parts, f"wifi-hour-{link}")


def image_times(from_s: float, to_s: float, every_s: float) -> Floats:
    """Returns when images start: one in each interval, at places that avoid the beat with the traces' own steps."""
    index = np.arange(round((to_s - from_s) / every_s))
    golden = (np.sqrt(5) - 1) / 2
    return np.asarray(from_s + every_s * (index + (index * golden) % 1), dtype=np.float64)


def seen_rates(traces: Sequence[Trace], times_s: Floats, window_s: float) -> Floats:
    """Returns what was seen of every link right before each image: its mean rate over the last `window_s`.

    Transfers of the images before, or a probe where a plan leaves a device out, show as much. Nothing at or after an
    image's start counts.

    Args:
        traces: D links.
        times_s: (n,) starts, each >= `window_s`.
        window_s: how far back it looks.

    Returns:
        (n, D) bits per second, at least LEAST_BPS.
    """
    columns = []
    for trace in traces:
        until, since = (_bits_by(trace, times_s - back_s) for back_s in (0.0, window_s))
        columns.append((until - since) / window_s)
    return np.maximum(np.stack(columns, axis=1), LEAST_BPS)


def _bits_by(trace: Trace, times_s: Floats) -> Floats:
    """(n,) bits carried from time 0 to each time."""
    periods, offset_s = np.divmod(times_s, trace.period_s)
    edges = np.append(trace.times_s, trace.period_s)
    return np.asarray(periods * trace.bits[-1] + np.interp(offset_s, edges, trace.bits))


def smoothed(seen_bps: Floats, every_s: float, time_constant_s: float, before_bps: Floats) -> Floats:
    """Returns the exponentially weighted mean of what was seen up to each image; a time constant of 0: the last alone.

    Args:
        seen_bps: (n, D).
        every_s: between two images.
        time_constant_s: after which what was seen counts 1 / e.
        before_bps: (D,) mean before the first image.
    """
    if time_constant_s == 0:
        return seen_bps
    weight = -np.expm1(-every_s / time_constant_s)
    found, level = np.empty_like(seen_bps), before_bps
    for k, now in enumerate(seen_bps):
        level = level + weight * (now - level)
        found[k] = level
    return found
