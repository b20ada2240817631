"""Gantt charts: every device is in them, and files are what their endings say."""

from __future__ import annotations

import itertools
import struct
import xml.etree.ElementTree
from pathlib import Path

import pytest

from distredge.errors import FileError
from distredge.monitor import gantt
from distredge.timeline import Span, Timeline

_MS = 1e-3


def timeline_of(devices: int, volumes: int = 2) -> Timeline:
    """A device after the other computes its volumes; the first has nothing to do."""
    names = tuple(f"board-{i}" for i in range(devices))
    spans = [Span("requester", "send", "x", 0.0, 10 * _MS, 0, 0, 0, 100, names[-1])]
    for i, name in enumerate(names[1:], start=1):
        start = 10 * _MS * i
        spans.append(Span(name, "receive", "x", start - 5 * _MS, start, 0, 0, 0, 100, "requester"))
        for v in range(volumes):
            spans.append(Span(name, "compute", f"volume {v}", start + v * _MS, start + (v + 1) * _MS, 0, v, v))
    end = spans[-1].stop_s
    spans.append(Span(names[-1], "compute", "head", end, end + 5 * _MS, 0, volumes, -1))
    spans.append(Span(names[-1], "send", "y", end + 5 * _MS, end + 9 * _MS, 0, volumes + 1, -1, 8, "requester"))
    return Timeline(end + 9 * _MS, tuple(spans), (*names, "requester"), critical_path=(0, len(spans) - 2))


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


@pytest.mark.parametrize("devices", [1, 4, 16])
def test_the_picture_grows_with_the_devices(tmp_path: Path, devices: int) -> None:
    path = tmp_path / "g.png"
    gantt.draw(timeline_of(devices), path)
    # 12 inches at 120 dots; 0.52 inches for each device and the requester, and room for axis and legend.
    assert png_size(path) == (1440, int(120 * max(2.6, 1.1 + 0.52 * (devices + 1))))


@pytest.mark.parametrize("devices", [2, 16])
def test_every_device_has_a_row(devices: int) -> None:
    timeline = timeline_of(devices)
    chart = gantt.figure(timeline)
    (axes,) = chart.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(timeline.devices)
    # A bar for each span, inside the row of its device and of its length.
    bars = [(b.get_x(), b.get_y(), b.get_width()) for b in axes.patches]
    assert len(bars) == len(timeline.spans)
    for span in timeline.spans:
        row = timeline.devices.index(span.device)
        assert any(
            x == pytest.approx(1e3 * span.start_s) and w == pytest.approx(1e3 * span.length_s) and row <= y < row + 1
            for x, y, w in bars
        )
    edges = [b for b in axes.patches if b.get_linewidth() > 0]
    assert len(edges) == len(timeline.critical_path)


def test_messages_at_the_same_time_do_not_hide_each_other() -> None:
    spans = tuple(Span("a", "send", "x", 0.0, 1.0, 0, 0, 0, 8, peer) for peer in ("b", "c", "d"))
    (axes,) = gantt.figure(Timeline(1.0, spans, ("a",))).axes
    places = sorted((b.get_y(), b.get_y() + b.get_height()) for b in axes.patches)
    assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(places))


def test_the_title_says_the_latency(tmp_path: Path) -> None:
    timeline = timeline_of(3)
    (axes,) = gantt.figure(timeline).axes
    assert axes.get_title(loc="left") == (
        f"simulated latency {1e3 * timeline.latency_s:.2f} ms, bound by {timeline.bound_by}"
    )
    several = Timeline(0.5, timeline.spans, timeline.devices, "measured", throughput_per_s=12.34)
    (axes,) = gantt.figure(several).axes
    assert axes.get_title(loc="left") == "measured latency 500.00 ms, 12.3 images/s in the steady state"
    (axes,) = gantt.figure(several, "Mine").axes
    assert axes.get_title(loc="left") == "Mine"


@pytest.mark.parametrize("volumes", [2, 13])
def test_svg_and_pdf(tmp_path: Path, volumes: int) -> None:
    timeline = timeline_of(3, volumes)
    gantt.draw(timeline, tmp_path / "g.svg")
    assert xml.etree.ElementTree.parse(tmp_path / "g.svg").getroot().tag.endswith("svg")
    gantt.draw(timeline, str(tmp_path / "g.PDF"))
    assert (tmp_path / "g.PDF").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(("name", "found"), [("g.gif", "'.gif'"), ("g", "'no ending'")])
def test_other_endings_are_refused(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(FileError, match=rf"{name}: found {found}, accepted: \.png or \.svg or \.pdf"):
        gantt.draw(timeline_of(2), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("devices", [2, 16])
@pytest.mark.parametrize("width", [20, 40, 100, 200])
def test_text_shows_every_device_in_two_lines(devices: int, width: int) -> None:
    timeline = timeline_of(devices)
    lines = gantt.text(timeline, width).splitlines()
    assert len(lines) == 2 * len(timeline.devices) + 1
    assert [line.split(" |")[0].strip() for line in lines[:-1:2]] == list(timeline.devices)
    assert {len(line) for line in lines[:-1]} == {max(40, width)}
    assert len(lines[-1]) <= max(40, width)
    by_device = dict(zip(timeline.devices, lines[::2], strict=False))
    # The first device and the requester compute nothing.
    assert set(by_device["board-0"].partition("|")[2]) == {".", "|"}
    assert set(by_device["requester"].partition("|")[2]) == {".", "|"}
    assert "H" in by_device[timeline.devices[-2]].partition("|")[2]


def test_text_by_hand() -> None:
    # 40 columns of 1 ms.
    spans = (
        Span("a", "receive", "x", 0.0, 8 * _MS, 0, 0, 0, 8, "b"),
        Span("a", "compute", "v", 8 * _MS, 20 * _MS, 0, 0, 0),
        Span("a", "compute", "v", 20 * _MS, 24 * _MS, 0, 1, 11),
        Span("a", "compute", "v", 24 * _MS, 26 * _MS, 0, 2, 36),
        Span("a", "compute", "v", 26 * _MS, 30 * _MS, 0, 3, -1),
        Span("a", "send", "y", 4 * _MS, 10 * _MS, 0, 1, 1, 8, "b"),
        Span("b", "send", "z", 39 * _MS, 40 * _MS, 0, 1, 1, 8, "a"),
    )
    lines = gantt.text(Timeline(0.04, spans), width=40 + 9 + 3).splitlines()
    assert lines[0] == "a         |" + "." * 8 + "0" * 12 + "bbbb++HHHH" + "." * 10 + "|"
    assert lines[1] == "          |" + "<" * 4 + "x" * 4 + ">" * 2 + "." * 30 + "|"
    assert lines[3] == "          |" + "." * 39 + ">|"
    # 40 would not fit under its place: not shown, rather than as 4.
    assert lines[4] == "       ms |0                   20"


def test_an_empty_timeline_has_a_chart(tmp_path: Path) -> None:
    empty = Timeline(0.0, (), ("a", "b"))
    gantt.draw(empty, tmp_path / "g.png")
    assert png_size(tmp_path / "g.png")[0] == 1440
    assert gantt.text(empty).splitlines()[0].startswith("a ")
