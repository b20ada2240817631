"""Gantt charts of timelines: PNG or SVG with matplotlib, plain text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distredge.chrome_trace import spread
from distredge.timeline import LANES, Span, Timeline
from distredge.writing import picture_format, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LANE_HEIGHT = 0.26
_DEVICE_HEIGHT = 1.0
_SEND, _RECEIVE, _HEAD = "#8c8c8c", "#c4c4c4", "#333333"
_MARKS = "0123456789abcdefghijklmnopqrstuvwxyz"
_HEAD_MARK = "H"


def draw(timeline: Timeline, path: str | Path, title: str = "") -> None:
    """Writes a Gantt chart.

    Args:
        timeline: what to draw.
        path: file to write; its ending chooses the format.
        title: text above the chart.

    Raises:
        FileError: if the ending is not one of `writing.PICTURES`.
    """
    picture_format(path)
    write_picture(figure(timeline, title), path, dpi=120)


def figure(timeline: Timeline, title: str = "") -> Figure:
    """Returns the chart as a matplotlib figure: a row per device, in it a lane each for computing, sending, receiving.

    Bars of computing are coloured by layer-volume, the head's are black; the critical path has a red edge.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(timeline.devices)
    chart = Figure(figsize=(12, max(2.6, 1.1 + 0.52 * rows)), layout="constrained")
    FigureCanvasAgg(chart)
    axes = chart.add_subplot()
    colours = _volume_colours(timeline)
    critical = frozenset(timeline.critical_path)
    for lane in LANES:
        _draw_lane(axes, timeline, lane, critical, colours)
    _label_bars(axes, timeline)
    axes.set_yticks([_centre(i) for i in range(rows)], timeline.devices)
    axes.set_ylim(rows * _DEVICE_HEIGHT, 0)
    axes.set_xlim(0, 1e3 * timeline.end_s * 1.01 or 1)
    axes.set_xlabel("time (ms)")
    for i in range(1, rows):
        axes.axhline(i * _DEVICE_HEIGHT, color="#e0e0e0", linewidth=0.8, zorder=0)
    axes.set_title(title or _headline(timeline), loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#eeeeee", zorder=0)
    axes.set_axisbelow(True)
    _legend(chart, colours)
    return chart


def _headline(timeline: Timeline) -> str:
    text = f"{timeline.origin} latency {1e3 * timeline.latency_s:.2f} ms"
    if timeline.throughput_per_s is not None:
        text += f", {timeline.throughput_per_s:.1f} images/s in the steady state"
    return text + (f", bound by {timeline.bound_by}" if timeline.bound_by else "")


def _volume_colours(timeline: Timeline) -> dict[int, Any]:
    from matplotlib import colormaps

    volumes = sorted({s.volume for s in timeline.spans if s.lane == "compute" and s.volume >= 0})
    if len(volumes) <= 10:
        return {v: colormaps["tab10"](i) for i, v in enumerate(volumes)}
    return {v: colormaps["viridis"](i / (len(volumes) - 1)) for i, v in enumerate(volumes)}


def _centre(row: int) -> float:
    return (row + 0.5) * _DEVICE_HEIGHT


def _lane_top(row: int, lane: str) -> float:
    return row * _DEVICE_HEIGHT + 0.1 + LANES.index(lane) * (_LANE_HEIGHT + 0.01)


def _draw_lane(axes: Axes, timeline: Timeline, lane: str, critical: frozenset[int], colours: dict[int, Any]) -> None:
    """Draws one lane of every device; bars that overlap in it (several messages at once) share its height."""
    for row, device in enumerate(timeline.devices):
        chosen = [(i, s) for i, s in enumerate(timeline.spans) if s.device == device and s.lane == lane]
        if not chosen:
            continue
        places = spread([(s.start_s, s.stop_s) for _, s in chosen])
        height = _LANE_HEIGHT / (max(places) + 1)
        for (index, span), place in zip(chosen, places, strict=True):
            edge = {"edgecolor": "#d62728", "linewidth": 1.1} if index in critical else {"linewidth": 0}
            axes.barh(
                _lane_top(row, lane) + place * height,
                1e3 * span.length_s,
                left=1e3 * span.start_s,
                height=height,
                align="edge",
                color=_colour(span, colours),
                zorder=3 if index in critical else 2,
                **edge,
            )


def _colour(span: Span, colours: dict[int, Any]) -> Any:
    if span.lane == "send":
        return _SEND
    if span.lane == "receive":
        return _RECEIVE
    return colours.get(span.volume, _HEAD)


def _label_bars(axes: Axes, timeline: Timeline) -> None:
    """Writes the volume's number on bars that are wide enough to hold it."""
    narrowest = timeline.end_s / 60
    row_of = {device: row for row, device in enumerate(timeline.devices)}
    for span in timeline.spans:
        if span.lane == "compute" and span.length_s >= narrowest:
            axes.text(
                1e3 * (span.start_s + span.stop_s) / 2,
                _lane_top(row_of[span.device], "compute") + _LANE_HEIGHT / 2,
                _HEAD_MARK if span.volume < 0 else str(span.volume),
                ha="center",
                va="center",
                fontsize=6,
                color="white",
                zorder=4,
                clip_on=True,
            )


def _legend(chart: Figure, colours: dict[int, Any]) -> None:
    from matplotlib.patches import Patch

    shown = list(colours.items())
    if len(shown) > 10:
        shown = [shown[0], shown[len(shown) // 2], shown[-1]]
    handles = [Patch(color=c, label=f"volume {v}") for v, c in shown]
    handles += [
        Patch(color=_HEAD, label="head"),
        Patch(color=_SEND, label="send"),
        Patch(color=_RECEIVE, label="receive"),
        Patch(facecolor="white", edgecolor="#d62728", label="critical path"),
    ]
    chart.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), fontsize=7, frameon=False)


def text(timeline: Timeline, width: int = 100) -> str:
    """Returns a Gantt chart for the terminal, two lines per device.

    The first shows computing, each column by the number of its layer-volume (then letters, `+` beyond 35; `H` is the
    head); the second `>` sending, `<` receiving, `x` both. A column shows what it mostly is; `.` is idle.

    Args:
        timeline: what to draw.
        width: characters per line, at least 40.
    """
    label = min(24, max([len(d) for d in timeline.devices] + [9]))
    columns = max(40, width) - label - 3
    end_s = timeline.end_s
    lines = []
    for device in timeline.devices:
        mine = [s for s in timeline.spans if s.device == device]
        compute = _compute_row(mine, columns, end_s)
        links = _link_row(mine, columns, end_s)
        lines.append(f"{device[:label]:<{label}} |{compute}|")
        lines.append(f"{'':<{label}} |{links}|")
    ruler = _ruler(columns, end_s)
    return "\n".join([*lines, f"{'ms':>{label}} |{ruler}"])


def _shares(spans: Sequence[Span], column: int, columns: int, end_s: float) -> list[tuple[float, Span]]:
    low, high = column * end_s / columns, (column + 1) * end_s / columns
    covered = [(min(s.stop_s, high) - max(s.start_s, low), s) for s in spans]
    return [(share, s) for share, s in covered if share > 0]


def _compute_row(spans: Sequence[Span], columns: int, end_s: float) -> str:
    computing = [s for s in spans if s.lane == "compute"]
    row = []
    for column in range(columns):
        shares = _shares(computing, column, columns, end_s)
        busiest = max(shares, key=lambda item: item[0], default=None)
        row.append("." if busiest is None else _mark(busiest[1]))
    return "".join(row)


def _link_row(spans: Sequence[Span], columns: int, end_s: float) -> str:
    row = []
    for column in range(columns):
        lanes = {s.lane for _, s in _shares([s for s in spans if s.lane != "compute"], column, columns, end_s)}
        row.append("x" if len(lanes) == 2 else ">" if "send" in lanes else "<" if "receive" in lanes else ".")
    return "".join(row)


def _mark(span: Span) -> str:
    if span.volume < 0:
        return _HEAD_MARK
    return _MARKS[span.volume] if span.volume < len(_MARKS) else "+"


def _ruler(columns: int, end_s: float) -> str:
    """A time under every twenty columns or so."""
    if end_s <= 0:
        return "0"
    raw = 20 * 1e3 * end_s / columns
    step = 10 ** math.floor(math.log10(raw))
    step *= next(k for k in (1, 2, 5, 10) if k * step >= raw)
    row = [" "] * (columns + 1)
    tick = 0.0
    while tick <= 1e3 * end_s:
        place = round(tick / (1e3 * end_s) * columns)
        label = f"{tick:g}"
        # Half a number at the edge would be another number.
        if place + len(label) <= len(row):
            row[place : place + len(label)] = label
        tick = round(tick + step, 9)
    return "".join(row).rstrip()
