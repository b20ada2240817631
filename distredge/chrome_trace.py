"""Chrome trace-event files: what Perfetto (ui.perfetto.dev) and chrome://tracing open.

The format is the "Trace Event Format" with complete events (`"ph": "X"`): one process per device, one thread per lane.
Events of one thread must nest or follow each other, so a lane whose events overlap (several messages sent at once) is
spread over as many threads as it needs. Nothing here knows what a device or a strategy is.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distredge.errors import FileError, located
from distredge.writing import write

_US_PER_S = 1e6


@dataclass(frozen=True)
class Event:
    """One complete event.

    Attributes:
        process: the row group, a device's name.
        lane: the row within it.
        name: what the viewer writes on the bar.
        start_s, stop_s: seconds from the trace's zero.
        args: what the viewer shows when the bar is selected.
    """

    process: str
    lane: str
    name: str
    start_s: float
    stop_s: float
    args: Mapping[str, Any] = field(default_factory=dict)


def save(path: str | Path, events: Iterable[Event], lanes: Sequence[str], about: Mapping[str, Any]) -> None:
    """Writes a trace file.

    Args:
        path: the file to write.
        events: the events; a process appears where its first event does.
        lanes: lanes in the order in which a viewer should show them.
        about: the trace's own data, kept under `otherData`.
    """
    items = list(events)
    processes = {name: number for number, name in enumerate(dict.fromkeys(e.process for e in items), start=1)}
    records: list[dict[str, Any]] = []
    for process, pid in processes.items():
        records.append({"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": process}})
        thread = 0
        for lane in lanes:
            chosen = [e for e in items if e.process == process and e.lane == lane]
            rows = spread([(e.start_s, e.stop_s) for e in chosen])
            for row in range(max(rows, default=-1) + 1):
                label = lane if row == 0 else f"{lane} {row + 1}"
                ids = {"pid": pid, "tid": thread + row + 1}
                records.append({"ph": "M", "name": "thread_name", **ids, "args": {"name": label}})
                records.append({"ph": "M", "name": "thread_sort_index", **ids, "args": {"sort_index": thread + row}})
            records.extend(_record(e, pid, thread + row + 1) for e, row in zip(chosen, rows, strict=True))
            thread += max(rows, default=-1) + 1
    document = {"displayTimeUnit": "ms", "otherData": dict(about), "traceEvents": records}
    try:
        write(path, json.dumps(document, allow_nan=False))
    except OSError as error:
        raise FileError(f"{path}: cannot write the trace: {error.strerror or error}") from error


def load(path: str | Path) -> tuple[list[Event], dict[str, Any]]:
    """Reads a trace file that `save` wrote.

    Returns:
        The complete events in file order, and `otherData`.

    Raises:
        FileError: if it is missing or not such a file.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("traceEvents"), list):
        found = type(document).__name__ if not isinstance(document, dict) else sorted(document)
        raise FileError(located(path, "", found, "an object with a list 'traceEvents'"))
    about = document.get("otherData", {})
    if not isinstance(about, dict):
        raise FileError(located(path, "otherData", about, "an object"))
    names: dict[Any, str] = {}
    events = []
    for index, record in enumerate(document["traceEvents"]):
        where = f"traceEvents[{index}]"
        if not isinstance(record, dict):
            raise FileError(located(path, where, record, "an object"))
        if record.get("ph") == "M" and record.get("name") == "process_name":
            names[record.get("pid")] = str(record.get("args", {}).get("name"))
        if record.get("ph") == "X":
            events.append(_event(record, names, path, where))
    return events, about


def spread(intervals: Sequence[tuple[float, float]]) -> list[int]:
    """Gives each interval a row so that no two of one row overlap.

    Args:
        intervals: (start, stop) of each.

    Returns:
        The row of each interval, from 0, as few rows as the densest instant needs.
    """
    rows = [0] * len(intervals)
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    used = 0
    for index in sorted(range(len(intervals)), key=lambda i: (intervals[i][0], intervals[i][1], i)):
        start, stop = intervals[index]
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            row = heapq.heappop(free)
        else:
            row, used = used, used + 1
        rows[index] = row
        heapq.heappush(busy, (stop, row))
    return rows


def _record(event: Event, pid: int, tid: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": event.name,
        "cat": event.lane,
        "pid": pid,
        "tid": tid,
        "ts": event.start_s * _US_PER_S,
        "dur": (event.stop_s - event.start_s) * _US_PER_S,
        # Microseconds do not always come back as the same seconds.
        "args": {**event.args, "start_s": event.start_s, "stop_s": event.stop_s},
    }


def _event(record: dict[str, Any], names: Mapping[Any, str], path: str | Path, where: str) -> Event:
    args = record.get("args", {})
    if not isinstance(args, dict):
        raise FileError(located(path, f"{where}.args", args, "an object"))
    args = dict(args)
    start_s = args.pop("start_s", None)
    stop_s = args.pop("stop_s", None)
    if start_s is None or stop_s is None:
        start_us, length_us = _number(record, "ts", path, where), _number(record, "dur", path, where)
        start_s, stop_s = start_us / _US_PER_S, (start_us + length_us) / _US_PER_S
    pid = record.get("pid")
    process = names.get(pid, str(pid))
    return Event(process, str(record.get("cat", "")), str(record.get("name", "")), start_s, stop_s, args)


def _number(record: Mapping[str, Any], key: str, path: str | Path, where: str) -> float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FileError(located(path, f"{where}.{key}", value, "a finite number of microseconds"))
    return float(value)
