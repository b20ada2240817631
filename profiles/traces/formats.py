"""Readers of traces that other tools write: mahimahi, Pensieve, iperf3.

Which format a file has must be said: two columns of numbers may be seconds and Mbit/s (Pensieve, and many published
sets) or milliseconds and kbit/s, and nothing in the file tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from distredge.checked_reading import read_bytes
from distredge.errors import TraceError, did_you_mean, located
from distredge.profiles.network import Trace, parse_csv

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
    trace = FORMATS[file_format](read_bytes(path, TraceError), str(path))
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
        bin_s: packets are counted in bins of so many seconds.
    """
    times_ms: list[int] = []
    for number, line in enumerate(_text(content, where).splitlines(), 1):
        if not line.strip():
            continue
        if not line.strip().isdigit():
            raise TraceError(located(where, f"line {number}", line, "a time in milliseconds, a whole number"))
        time_ms = int(line)
        if times_ms and time_ms < times_ms[-1]:
            raise TraceError(located(where, f"line {number}", time_ms, f"not before {times_ms[-1]}"))
        times_ms.append(time_ms)
    if not times_ms or times_ms[-1] == 0:
        raise TraceError(f"{where}: found no packet after time 0, accepted: times in milliseconds")
    # mahimahi repeats after the last time, so a packet at time t belongs to the bin that ends at or after t.
    period_s = times_ms[-1] / 1e3
    bins = max(1, math.ceil(period_s / bin_s - 1e-9))
    places = np.clip(np.ceil(np.array(times_ms) / 1e3 / bin_s - 1e-9).astype(int) - 1, 0, bins - 1)
    packets = np.bincount(places, minlength=bins)
    starts = bin_s * np.arange(bins)
    widths = np.diff(np.append(starts, period_s))
    return Trace(starts, packets * MTU_BITS / widths, 0.0, period_s, Path(where).stem, where)


def parse_pensieve(content: bytes, where: str) -> Trace:
    """Reads two columns, seconds and Mbit/s: Pensieve's cooked traces and others of that form."""
    rows = []
    for number, line in enumerate(_text(content, where).splitlines(), 1):
        if not line.strip():
            continue
        try:
            time_s, rate_mbps = (float(cell) for cell in line.replace(",", " ").split())
        except ValueError:
            raise TraceError(located(where, f"line {number}", line, "two numbers: seconds, Mbit/s")) from None
        rows.append((time_s, rate_mbps))
    if not rows:
        raise TraceError(f"{where}: it has no row")
    times, rates = np.array(rows).T
    return Trace(times - times[0], rates * 1e6, 0.0, None, Path(where).stem, where)


def parse_iperf3(content: bytes, where: str) -> Trace:
    """Reads the output of ``iperf3 --json``: one step an interval, with the sender's round trip where there is one."""
    try:
        data = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as reason:
        raise TraceError(f"{where}: not JSON: {reason}") from None
    if not isinstance(data, dict):
        raise TraceError(located(where, "", type(data).__name__, "an object, as iperf3 --json writes"))
    if data.get("error"):
        raise TraceError(f"{where}: iperf3 failed: {data['error']}")
    intervals = data.get("intervals")
    if not isinstance(intervals, list) or not intervals:
        raise TraceError(f"{where}: intervals: found none, accepted: what iperf3 --json writes")
    times, rates, rtts = [], [], []
    for index, interval in enumerate(intervals):
        start, _, rate = _interval(interval, index, where)
        times.append(start)
        rates.append(rate)
        rtts.append(_rtt_s(interval))
    period = _interval(intervals[-1], len(intervals) - 1, where)[1] - times[0]
    return Trace(np.array(times) - times[0], rates, rtts, period, Path(where).stem, where)


def _interval(interval: Any, index: int, where: str) -> tuple[float, float, float]:
    total = interval.get("sum") if isinstance(interval, Mapping) else None
    try:
        start, end, rate = (float(total[key]) for key in ("start", "end", "bits_per_second"))  # type: ignore[index]
        return start, end, rate
    except (KeyError, TypeError, ValueError):
        raise TraceError(
            f"{where}: intervals[{index}].sum: found {str(total)[:60]}, accepted: start, end and bits_per_second"
        ) from None


def _rtt_s(interval: Mapping[str, Any]) -> float:
    # iperf3 gives the round trip in microseconds, for TCP at the sender only.
    found = [s["rtt"] for s in interval.get("streams", ()) if isinstance(s, Mapping) and isinstance(s.get("rtt"), int)]
    return 1e-6 * sum(found) / len(found) if found else 0.0


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as reason:
        raise TraceError(f"{where}: not text: {reason}") from None


FORMATS: Mapping[str, Callable[[bytes, str], Trace]] = {
    "csv": parse_csv,
    "mahimahi": parse_mahimahi,
    "pensieve": parse_pensieve,
    "iperf3": parse_iperf3,
}
