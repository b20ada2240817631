"""Predicted and measured side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from distredge.testbed.comparison import compare, in_one
from distredge.testbed.measured import undilated
from distredge.timeline import Span, Timeline


def timeline(scale: float, origin: str) -> Timeline:
    spans = (
        Span("a", "compute", "volume 0", 1 * scale, 2 * scale, 0, 0, 0),
        Span("a", "compute", "volume 0", 2 * scale, 4 * scale, 0, 1, 0),
        Span("a", "send", "rows", 4 * scale, 5 * scale, 0, 2, -1, 10, "b"),
        Span("b", "compute", "the head", 5 * scale, 6 * scale, 0, 2, -1),
    )
    return Timeline(7 * scale, spans, ("a", "b", "requester"), origin, (7 * scale,))


def test_rows_are_by_volume_and_device_and_the_result_is_last() -> None:
    rows = compare(timeline(1.0, "simulated"), timeline(2.0, "measured"))
    assert [(row.device, row.what) for row in rows] == [("a", "volume 0"), ("b", "head"), ("requester", "result")]
    assert (rows[0].predicted_s, rows[0].measured_s, rows[0].measured_end_s) == (3.0, 6.0, 8.0)
    assert [row.error for row in rows] == [-0.5] * 3


def test_both_are_in_one_trace(tmp_path: Path) -> None:
    both = in_one(timeline(1.0, "simulated"), timeline(2.0, "measured"))
    both.save(tmp_path / "t.json")
    back = Timeline.from_chrome(tmp_path / "t.json")
    assert {span.device for span in back.spans} == {"a predicted", "a measured", "b predicted", "b measured"}
    assert back.details["predicted_latency_s"] == 7.0


def test_one_frame_of_many_is_undilated() -> None:
    spans = tuple(Span("a", "compute", "x", 10.0 * f, 10.0 * f + 4.0, f) for f in range(3))
    found = undilated(Timeline(4.0, spans, ("a",), "measured", (4.0, 5.0, 6.0)), 1, 2.0)
    assert (found.latency_s, found.spans[0].start_s, found.spans[0].stop_s) == (pytest.approx(2.5), 0.0, 2.0)
