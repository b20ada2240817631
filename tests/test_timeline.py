"""Timelines: what follows from spans, and their Chrome trace."""

from __future__ import annotations

import itertools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge import chrome_trace
from distredge.errors import FileError, InputError
from distredge.timeline import LANES, Span, Timeline, covered_s, place_of


def spans() -> tuple[Span, ...]:
    """The requester sends to a, which computes, and a sends its result back while it computes on."""
    return (
        Span("requester", "send", "x", 0.0, 0.1, 0, 0, 0, 100, "a"),
        Span("a", "receive", "x", 0.0, 0.2, 0, 0, 0, 100, "requester"),
        Span("a", "compute", "volume 0", 0.2, 0.7, 0, 0, 0),
        Span("a", "send", "y", 0.7, 1.0, 0, 1, -1, 30, "requester"),
        Span("a", "send", "z", 0.8, 0.9, 0, 1, -1, 7, "b"),
        Span("requester", "receive", "y", 0.8, 1.0, 0, 1, -1, 30, "a"),
    )


def timeline(**changes: Any) -> Timeline:
    values: dict[str, Any] = {
        "latency_s": 1.0,
        "spans": spans(),
        "devices": ("a", "b", "requester"),
        "frame_latency_s": (1.0,),
        "critical_path": (0, 1, 2, 3, 5),
        "throughput_per_s": 1.25,
        "bottleneck": "a compute",
        "energy_j": {"a": 3.5},
        "peak_memory_bytes": {"a": 12345},
        "details": {"recompute_ratio": 0.125},
    }
    return Timeline(**{**values, **changes})


def test_what_follows_from_the_spans() -> None:
    found = timeline()
    assert (found.images_per_s, found.end_s, found.bytes_sent) == (1.0, 1.0, 137)
    assert found.link_bytes == {"a>b": 7, "a>requester": 30, "requester>a": 100}
    # Overlapping spans of a lane count once.
    assert found.utilisation["a"] == pytest.approx({"compute": 0.5, "send": 0.3, "receive": 0.2})
    assert found.utilisation["b"] == {"compute": 0.0, "send": 0.0, "receive": 0.0}
    assert found.shares == pytest.approx({"a compute": 0.5, "a>requester link": 0.3, "requester>a link": 0.2})
    assert found.bound_by == "a compute"


def test_an_empty_timeline() -> None:
    found = Timeline(0.0, ())
    assert (found.end_s, found.bytes_sent, found.bound_by, found.devices) == (0.0, 0, None, ())
    assert found.images_per_s == math.inf


def test_devices_default_to_those_of_the_spans() -> None:
    assert timeline(devices=()).devices == ("requester", "a")


def test_both_ends_of_a_message_are_on_one_link() -> None:
    sent, received, computed, *_ = spans()
    assert place_of(sent) == place_of(received) == "requester>a link"
    assert place_of(computed) == "a compute"


@pytest.mark.parametrize(
    ("start_s", "stop_s", "lane"),
    [(1.0, 0.5, "send"), (math.nan, 1.0, "send"), (0.0, math.inf, "send"), (0.0, 1.0, "sending")],
)
def test_spans_check_themselves(start_s: float, stop_s: float, lane: str) -> None:
    with pytest.raises(InputError, match=r"span 'x': (start_s, stop_s|lane): found"):
        Span("a", lane, "x", start_s, stop_s)


@pytest.mark.parametrize(
    ("key", "value"), [("latency_s", -1.0), ("latency_s", math.nan), ("origin", "guessed"), ("critical_path", (0, 6))]
)
def test_timelines_check_themselves(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"timeline: {key}: found .*accepted"):
        timeline(**{key: value})


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=8))
def test_covered_time_counts_every_instant_once(items: list[tuple[int, int]]) -> None:
    instants = {i for start, length in items for i in range(start, start + length)}
    assert covered_s([(float(a), float(a + n)) for a, n in items]) == len(instants)


@pytest.mark.parametrize("changes", [{}, {"origin": "measured", "throughput_per_s": None, "bottleneck": None}])
def test_a_saved_timeline_comes_back_equal(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "t.json"
    timeline(**changes).save(path)
    assert Timeline.from_chrome(path) == timeline(**changes)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "requester"]),
            st.sampled_from(LANES),
            st.floats(0, 1e4),
            st.floats(0, 10),
            st.integers(0, 5),
        ),
        max_size=12,
    )
)
def test_seconds_come_back_to_the_last_bit(items: list[tuple[str, str, float, float, int]]) -> None:
    made = tuple(Span(d, lane, "x", start, start + n, frame, 1, 2, 3, "b") for d, lane, start, n, frame in items)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.json"
        Timeline(1 / 3, made, critical_path=tuple(range(0, len(made), 2))).save(path)
        assert Timeline.from_chrome(path) == Timeline(1 / 3, made, critical_path=tuple(range(0, len(made), 2)))


def test_the_trace_is_one_that_viewers_read(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    timeline().save(path)
    content = json.loads(path.read_text())
    records = content["traceEvents"]
    complete = [r for r in records if r["ph"] == "X"]
    assert len(complete) == 6
    assert {r["args"]["name"] for r in records if r["name"] == "process_name"} == {"a", "requester"}
    computed = next(r for r in complete if r["cat"] == "compute")
    assert (computed["ts"], computed["dur"]) == (pytest.approx(2e5), pytest.approx(5e5))
    threads = {(r["pid"], r["tid"]): r["args"]["name"] for r in records if r["name"] == "thread_name"}
    # Messages that are on their way together stand on threads of their own.
    assert {"compute", "send", "send 2", "receive"} == set(threads.values())
    for thread in threads:
        mine = sorted((r["ts"], r["ts"] + r["dur"]) for r in complete if (r["pid"], r["tid"]) == thread)
        assert all(a[1] <= b[0] + 1e-6 for a, b in itertools.pairwise(mine))


def test_a_trace_without_exact_seconds_is_read_from_its_microseconds(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    timeline().save(path)
    content = json.loads(path.read_text())
    for record in content["traceEvents"]:
        record.get("args", {}).pop("start_s", None)
    path.write_text(json.dumps(content))
    for span, expected in zip(Timeline.from_chrome(path).spans, spans(), strict=True):
        assert (span.start_s, span.stop_s) == pytest.approx((expected.start_s, expected.stop_s))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8)), max_size=10))
def test_spread_uses_as_few_rows_as_the_densest_instant_needs(items: list[tuple[int, int]]) -> None:
    intervals = [(float(start), float(start + length)) for start, length in items]
    rows = chrome_trace.spread(intervals)
    for instant in range(30):
        here = [row for row, (start, stop) in zip(rows, intervals, strict=True) if start <= instant < stop]
        assert len(here) == len(set(here))
    densest = max((sum(a <= i < b for a, b in intervals) for i in range(30)), default=0)
    assert max(rows, default=-1) + 1 == densest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a JSON file"),
        (b"\xff\xfe", "not a JSON file"),
        (b"[1]", "found 'list', accepted: an object with a list 'traceEvents'"),
        (b'{"traceEvents": 3}', "accepted: an object with a list 'traceEvents'"),
        (b'{"traceEvents": [], "otherData": 3}', "otherData: found 3, accepted: an object"),
        (b'{"traceEvents": []}', r"otherData\.format: found None, accepted: distredge\.timeline/1"),
        (b'{"traceEvents": [3]}', r"traceEvents\[0\]: found 3, accepted: an object"),
        (b'{"traceEvents": [{"ph": "X", "ts": "a", "dur": 1}]}', r"traceEvents\[0\]\.ts: found 'a'"),
        (b'{"traceEvents": [{"ph": "X", "ts": 1, "dur": NaN}]}', r"traceEvents\[0\]\.dur: found nan"),
        (b'{"traceEvents": [{"ph": "X", "ts": 1, "dur": 1, "args": 3}]}', r"traceEvents\[0\]\.args: found 3"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"bad\.json: .*{message}"):
        Timeline.from_chrome(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.json: cannot be read: No such file"):
        Timeline.from_chrome(tmp_path / "none.json")


_EVENT = ("traceEvents", -1)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("otherData", "latency_s"), "fast"),
        (("otherData", "latency_s"), None),
        (("otherData", "latency_s"), -1.0),
        (("otherData", "devices"), 3),
        (("otherData", "origin"), "guessed"),
        (("otherData", "frame_latency_s"), 3),
        (("otherData", "energy_j"), ...),
        ((*_EVENT, "args", "number"), ...),
        ((*_EVENT, "args", "number"), "a"),
        ((*_EVENT, "args", "frame"), ...),
        ((*_EVENT, "args", "critical"), "a"),
        ((*_EVENT, "args", "start_s"), "a"),
        ((*_EVENT, "args", "stop_s"), -1.0),
        ((*_EVENT, "cat"), "thinking"),
    ],
)
def test_a_changed_value_is_refused_and_the_file_named(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    path = tmp_path / "bad.json"
    timeline().save(path)
    content = json.loads(path.read_text())
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(FileError, match=r"bad\.json"):
        Timeline.from_chrome(path)
