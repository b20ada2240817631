"""Readers of traces that other tools write: mahimahi, Pensieve, iperf3.

Which format a file has must be said: two columns of numbers may be seconds and Mbit/s (Pensieve, and many published
sets) or milliseconds and kbit/s, and nothing in the file tells.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from distredge.checked_reading import lines_of, read_bytes, shortened
from distredge.errors import TraceError, did_you_mean, located
from distredge.profiles.network import FILE_LIMIT_BYTES, LONGEST_S, Trace, TraceRows, parse_csv
from distredge.profiles.traces.iperf3 import parse_iperf3

MTU_BITS = 1500 * 8
"""One line of a mahimahi trace lets one packet of 1500 bytes pass."""


def read_trace(path: str | Path, file_format: str = "csv", skip_s: float = 0.0) -> Trace:
    """Returns the trace that a file holds.

    Args:
        path: the file.
        file_format: "csv" (the project's own), "mahimahi", "pensieve" or "iperf3".
        skip_s: seconds to drop at the start, where a measurement shows the burst of a fresh TCP connection.

    Raises:
        TraceError: if the format is unknown or the file is not of it.
    """
    if file_format not in FORMATS:
        raise TraceError(f"{path}: trace_format: found '{file_format}'{did_you_mean(file_format, FORMATS)}")
    trace = FORMATS[file_format](read_bytes(path, TraceError, FILE_LIMIT_BYTES), str(path))
    return without_start(trace, skip_s) if skip_s else trace


def without_start(trace: Trace, skip_s: float) -> Trace:
    """Returns a trace without its first seconds.

    Raises:
        TraceError: if nothing would be left.
    """
    kept = trace.times_s >= skip_s
    if not 0 <= skip_s < trace.period_s or not kept.any():
        raise TraceError(located(trace.name or "trace", "skip_s", skip_s, "less than the trace is long"))
    first = trace.times_s[kept][0]
    return Trace(
        trace.times_s[kept] - first,
        trace.rates_bps[kept],
        trace.rtt_s[kept],
        trace.period_s - float(first),
        trace.name,
        trace.source,
    )


def parse_mahimahi(content: bytes, where: str, bin_s: float = 0.1) -> Trace:
    """Reads a mahimahi trace: each line is a time in milliseconds at which one packet may pass; it then starts again.

    Args:
        content: the file.
        where: its name, for messages.
        bin_s: packets are counted in bins of so many seconds; bins without packets are joined.
    """
    times_ms = array("q", [])
    for number, line in lines_of(content, where, TraceError):
        if line.startswith("#"):
            continue
        if not (line.isascii() and line.isdecimal()):
            accepted = "a time in milliseconds, a whole number"
            raise TraceError(located(where, f"line {number}", shortened(line), accepted))
        digits = line.lstrip("0") or "0"
        if len(digits) > 18 or int(digits) > 1e3 * LONGEST_S:
            accepted = f"at most {1e3 * LONGEST_S:g} ms (a year)"
            raise TraceError(located(where, f"line {number}", shortened(line), accepted))
        time_ms = int(digits)
        if times_ms and time_ms < times_ms[-1]:
            raise TraceError(located(where, f"line {number}", time_ms, f"not before {times_ms[-1]}"))
        times_ms.append(time_ms)
    if not times_ms or times_ms[-1] == 0:
        raise TraceError(f"{where}: found no packet after time 0, accepted: times in milliseconds")
    # mahimahi repeats after the last time, so a packet at time t belongs to the bin that ends at or after t.
    period_s = times_ms[-1] / 1e3
    bins = max(1, math.ceil(period_s / bin_s - 1e-9))
    ends = np.ceil(np.frombuffer(times_ms, np.int64) / 1e3 / bin_s - 1e-9).astype(np.int64)
    busy, packets = np.unique(np.clip(ends - 1, 0, bins - 1), return_counts=True)
    # A row for each bin with packets and one for each gap, so that there are no more rows than twice the packets.
    first_bins = np.unique(np.concatenate(([0], busy, busy + 1)))
    first_bins = first_bins[first_bins < bins]
    counts = np.zeros(len(first_bins))
    counts[np.searchsorted(first_bins, busy)] = packets
    starts = bin_s * first_bins
    widths = np.diff(np.append(starts, period_s))
    return Trace(starts, counts * MTU_BITS / widths, 0.0, period_s, Path(where).stem, where)


def parse_pensieve(content: bytes, where: str) -> Trace:
    """Reads two columns, seconds and Mbit/s: Pensieve's cooked traces and others of that form."""
    rows = TraceRows(where)
    for number, line in lines_of(content, where, TraceError):
        if line.startswith("#"):
            continue
        try:
            time_s, rate_mbps = (float(cell) for cell in line.replace(",", " ").split())
        except ValueError:
            accepted = "two numbers: seconds, Mbit/s"
            raise TraceError(located(where, f"line {number}", shortened(line), accepted)) from None
        rows.add(f"line {number}", time_s, rate_mbps * 1e6)
    return rows.trace(None, Path(where).stem, where)


FORMATS: Mapping[str, Callable[[bytes, str], Trace]] = {
    "csv": parse_csv,
    "mahimahi": parse_mahimahi,
    "pensieve": parse_pensieve,
    "iperf3": parse_iperf3,
}
