"""Reader of what iperf3 writes: ``--json`` of every version since 3.0, and ``--json-stream``.

An interval's sum holds its start and end in seconds, its rate, and whether this side sends. What differs:

- ``--bidir`` up to iperf 3.10 writes the key ``sum`` twice in an interval, later versions ``sum`` and
  ``sum_bidir_reverse``.
- ``-O`` marks the first intervals as omitted; the clock then begins anew.
- ``--json-stream`` writes an object a line, ``{"event": "interval", "data": {...}}``; with
  ``--json-stream-full-output`` the whole document follows.
- A run that is interrupted has a key ``error`` beside whole intervals; its last interval may have no length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distredge.checked_reading import encoding_of, shortened
from distredge.errors import TraceError, located
from distredge.profiles.network import Trace, TraceRows

_SUMS = ("sum", "sum_bidir_reverse")

_EVERY_SUM = " every sum"
"""Where an interval's sums are kept while they are read; iperf3 writes no such key."""


def parse_iperf3(content: bytes, where: str) -> Trace:
    """Reads a run of iperf3: one step an interval, with the sender's round trip where there is one.

    Of a run in both directions, the one is read in which the side that wrote the file sends; of ``-R``, what it
    receives.

    Args:
        content: the file.
        where: its name, for messages.
    """
    intervals, fault = _intervals(_documents(content, where), where)
    rows = TraceRows(where)
    end_s = None
    for index, interval in enumerate(intervals):
        place = f"intervals[{index}].sum"
        total = _sum(interval)
        if total.get("omitted") is True:
            continue
        start_s, end_s_here = (_number(total, key, place, where) for key in ("start", "end"))
        if end_s_here == start_s:
            continue
        if not end_s_here > start_s:
            raise TraceError(located(where, f"{place}: end", end_s_here, f"a time after its start, {start_s:g}"))
        rows.add(place, start_s, _number(total, "bits_per_second", place, where), _rtt_s(interval))
        rows.check_length(place, "end", end_s_here)
        end_s = end_s_here
    if end_s is None:
        reason = f"; iperf3 failed: {fault}" if fault else ""
        raise TraceError(
            f"{where}: intervals: found none that is measured, accepted: what iperf3 --json writes{reason}"
        )
    return rows.trace(end_s, Path(where).stem, f"{where}, which ended early: {fault}" if fault else where)


def _documents(content: bytes, where: str) -> list[Any]:
    """The JSON values of the file, one after the other."""
    try:
        text = content.decode(encoding_of(content))
    except UnicodeError as reason:
        raise TraceError(f"{where}: not text: {reason}") from None
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    found: list[Any] = []
    place = _after_blanks(text, 0)
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError as reason:
            raise TraceError(f"{where}: not JSON: {reason}") from None
        except RecursionError:
            raise TraceError(f"{where}: lists or objects are nested too deeply for what iperf3 writes") from None
        found.append(value)
        place = _after_blanks(text, place)
    return found


def _after_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if "sum" in found:
        found[_EVERY_SUM] = [value for key, value in pairs if key in _SUMS]
    return found


def _intervals(documents: Sequence[Any], where: str) -> tuple[list[Any], str]:
    """The intervals of the one run that the file holds, and what went wrong in it."""
    for document in documents:
        if not isinstance(document, dict):
            raise TraceError(located(where, "", type(document).__name__, "an object, as iperf3 --json writes"))
    events = [document for document in documents if "event" in document]
    whole = [document for document in documents if "event" not in document]
    runs = max(len(whole), sum(event["event"] == "start" for event in events))
    if runs > 1:
        raise TraceError(f"{where}: found {runs} runs of iperf3, accepted: one; put each into a file of its own")
    if whole:
        intervals, fault = whole[0].get("intervals"), whole[0].get("error")
    else:
        intervals = [event.get("data") for event in events if event["event"] == "interval"]
        fault = next((event.get("data") for event in events if event["event"] == "error"), None)
    fault = shortened(str(fault)) if fault else ""
    if not isinstance(intervals, list) or not intervals:
        if fault:
            raise TraceError(f"{where}: iperf3 failed: {fault}")
        raise TraceError(f"{where}: intervals: found none, accepted: what iperf3 --json writes")
    return intervals, fault


def _sum(interval: Any) -> Mapping[str, Any]:
    """Of an interval's sums the one that this side sends, else the first; empty where there is none."""
    every = interval.get(_EVERY_SUM, ()) if isinstance(interval, Mapping) else ()
    sums = [total for total in every if isinstance(total, Mapping)]
    return next((total for total in sums if total.get("sender") is True), sums[0] if sums else {})


def _number(total: Mapping[str, Any], key: str, place: str, where: str) -> float:
    value = total.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    shown = {k: v for k, v in total.items() if k in ("start", "end", "bits_per_second")}
    raise TraceError(
        f"{where}: {place}: found {shortened(str(shown))}, accepted: numbers start, end and bits_per_second"
    )


def _rtt_s(interval: Mapping[str, Any]) -> float:
    # iperf3 gives the round trip in microseconds, for TCP at the sender only.
    streams = interval.get("streams")
    every = [s.get("rtt") for s in streams if isinstance(s, Mapping)] if isinstance(streams, list) else []
    found = [rtt for rtt in every if isinstance(rtt, int | float) and 0 <= rtt < 1e12]
    return 1e-6 * sum(found) / len(found) if found else 0.0
