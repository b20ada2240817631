"""A picture of a graph: one line per operator, one lane per live tensor, the cuts of a strategy across them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distredge.model.describe import OperatorLine, describe
from distredge.writing import picture_format, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distredge.model.graph import Graph
    from distredge.model.laying_out import StrategyLike
    from distredge.model.volumes import Decision


_ROW_INCHES = 0.21
_LANE = 0.32
_COLOURS = {"rows": "#2b6cb0", "partial results": "#d97706", "everywhere": "#9a6ec9", "head": "#4a4a4a"}
_BANDS = ("#eef4fb", "#fdf6ec")
_DEVICES = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f")


class Lane(NamedTuple):
    """Where a tensor runs: from the line that makes it down to the last one that reads it."""

    column: int
    made: int
    last: int
    readers: tuple[int, ...]


def draw(graph: Graph, path: str | Path, strategy: StrategyLike | None = None) -> None:
    """Draws a graph, with every candidate cut, or with the volumes and shares of a strategy.

    Args:
        graph: the model.
        path: file to write; its ending chooses the format.
        strategy: a strategy for it.

    Raises:
        FileError: if the ending is none of `writing.PICTURES`, or the file cannot be written.
        StrategyError: if the strategy does not fit the graph.
    """
    kind = picture_format(path)
    from matplotlib import rc_context

    chart = figure(graph, strategy)
    # Text stays text, so that names can be searched for.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": graph.name}):
        write_picture(chart, path, dpi=110, metadata={"Date": None} if kind == "svg" else None)


def figure(graph: Graph, strategy: StrategyLike | None = None) -> Figure:
    """The picture as a matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = describe(graph)
    lanes = find_lanes(graph, lines)
    columns = 1 + max((lane.column for lane in lanes.values()), default=0)
    text_at = columns * _LANE + 0.25
    width = text_at + 10.2
    chart = Figure(figsize=(width, (len(lines) + 4) * _ROW_INCHES), layout="constrained")
    FigureCanvasAgg(chart)
    axes = chart.add_subplot()
    axes.set_xlim(-0.4, width)
    axes.set_ylim(len(lines) + 0.6, -2.4)
    axes.axis("off")
    axes.text(-0.3, -1.6, _headline(graph), fontsize=10, weight="bold", va="center")
    _draw_lanes(axes, lanes, {line.index: row for row, line in enumerate(lines)}, graph)
    for row, line in enumerate(lines):
        _draw_line(axes, row, line, _column_of(graph, lanes, line), text_at)
    if strategy is None:
        _draw_cuts(axes, lines, text_at)
    else:
        _draw_volumes(axes, lines, strategy.decisions(graph), strategy.devices, strategy.head.device, width)
    _legend(axes, len(lines))
    return chart


def find_lanes(graph: Graph, lines: Sequence[OperatorLine]) -> dict[str, Lane]:
    """Gives every tensor that one line makes and another reads a column that is free while it lives."""
    row_of = {line.index: row for row, line in enumerate(lines)}
    for activation, conv in graph.fused_into.items():
        row_of[activation] = row_of[conv]
    made: dict[str, int] = dict.fromkeys(graph.input_names, -1)
    for op in graph.operators:
        made.update((out, row_of[op.index]) for out in op.outputs if out)
    lanes: dict[str, Lane] = {}
    free_after: list[int] = []
    for name, row in sorted(made.items(), key=lambda item: item[1]):
        readers = tuple(sorted({row_of[c] for c in graph.consumers.get(name, ())} - {row}))
        if not readers and name not in graph.output_names:
            continue
        last = max((*readers, len(lines) if name in graph.output_names else row))
        column = next((c for c, until in enumerate(free_after) if until <= row), len(free_after))
        free_after[column : column + 1] = [last]
        lanes[name] = Lane(column, row, last, readers)
    return lanes


def _column_of(graph: Graph, lanes: dict[str, Lane], line: OperatorLine) -> int:
    """Column of a line's dot: that of its output, or of its first input when nobody reads the output."""
    fused = {conv: act for act, conv in graph.fused_into.items()}
    op = graph.operators[line.index]
    names = [*graph.operators[fused.get(line.index, line.index)].outputs, *op.activation_names]
    return next((lanes[name].column for name in names if name in lanes), 0)


def _draw_lanes(axes: Axes, lanes: dict[str, Lane], row_of: dict[int, int], graph: Graph) -> None:
    column_at = {}
    for index, row in row_of.items():
        line_names = graph.operators[index].outputs
        fused = {conv: act for act, conv in graph.fused_into.items()}
        outputs = graph.operators[fused[index]].outputs if index in fused else line_names
        inputs = graph.operators[index].activation_names
        column_at[row] = next((lanes[n].column for n in (*outputs, *inputs) if n in lanes), 0)
    for lane in lanes.values():
        x = lane.column * _LANE
        stop = max(lane.made, lane.last - 0.5)
        axes.plot([x, x], [max(lane.made, -0.9), stop], color="#9db4cc", linewidth=1.1, zorder=2)
        for row in lane.readers:
            axes.plot([x, column_at[row] * _LANE], [row - 0.5, row], color="#9db4cc", linewidth=1.1, zorder=2)


def _draw_line(axes: Axes, row: int, line: OperatorLine, column: int, text_at: float) -> None:
    axes.plot([column * _LANE], [row], "o", color=_COLOURS[line.split], markersize=4.5, zorder=3)
    shape = "×".join(map(str, line.shape[1:]))
    common: dict[str, Any] = {"fontsize": 7, "va": "center", "zorder": 4}
    axes.text(text_at, row, line.op_type, color=_COLOURS[line.split], **common)
    axes.text(text_at + 2.9, row, shape, ha="right", **common)
    if line.macs:
        axes.text(text_at + 3.9, row, f"{line.macs / 1e6:,.1f} M", ha="right", **common)
    axes.text(text_at + 4.1, row, line.name[:44], color="#777777", **common)


def _draw_cuts(axes: Axes, lines: Sequence[OperatorLine], text_at: float) -> None:
    for row, line in enumerate(lines):
        if line.cut is not None:
            axes.plot([-0.3, text_at + 3.9], [row + 0.5] * 2, color="#d0d0d0", linewidth=0.6, zorder=1)
            axes.text(
                text_at + 7.3, row, f"cut {line.cut}: {len(line.live)} tensor{'s' * (len(line.live) > 1)}",
                fontsize=6.5, color="#999999", va="center",
            )  # fmt: skip


def _draw_volumes(
    axes: Axes,
    lines: Sequence[OperatorLine],
    decisions: Sequence[Decision],
    devices: Sequence[str],
    head: str,
    width: float,
) -> None:
    """Bands for the volumes, and to their right the share of every device."""
    row_of_cut = {line.cut: row for row, line in enumerate(lines) if line.cut is not None}
    body_end = sum(line.split != "head" for line in lines) - 1
    left, right = width - 3.0, width - 0.2
    start = 0
    for number, decision in enumerate(decisions):
        last_volume = number == len(decisions) - 1
        end = body_end if last_volume else row_of_cut[decision.cut.index]
        axes.axhspan(start - 0.5, end + 0.5, color=_BANDS[number % 2], zorder=0)
        axes.plot([-0.3, width], [end + 0.5] * 2, color="#c2410c", linewidth=1.0, linestyle=(0, (4, 2)), zorder=5)
        _draw_shares(axes, decision, devices, left, right, start, end)
        grid = "" if decision.columns is None else f" × {len(decision.columns) - 1} columns"
        axes.text(
            left - 0.1, (start + end) / 2, f"volume {number}{grid}", fontsize=7, ha="right", va="center", zorder=6
        )
        start = end + 1
    if body_end + 1 < len(lines):
        axes.axhspan(body_end + 0.5, len(lines) - 0.5, color="#ececec", zorder=0)
        axes.text(left, (body_end + len(lines)) / 2, f"head on {head}", fontsize=7, va="center", zorder=6)


def _draw_shares(
    axes: Axes, decision: Decision, devices: Sequence[str], left: float, right: float, start: int, end: int
) -> None:
    """A strip as wide as the reference is tall (tiles: and as tall as it is wide), dealt out to the devices."""
    from matplotlib.patches import Rectangle

    top = (start + end) / 2 - 0.45
    columns = decision.columns or (0, 1)
    for device, name in enumerate(devices):
        i, j = divmod(device, len(columns) - 1)
        low, high = (left + (right - left) * decision.rows[k] / decision.cut.height for k in (i, i + 1))
        upper, lower = (top + 0.9 * columns[k] / columns[-1] for k in (j, j + 1))
        if high <= low or lower <= upper:
            continue
        colour = _DEVICES[device % len(_DEVICES)]
        axes.add_patch(Rectangle((low, upper), high - low, lower - upper, color=colour, linewidth=0, zorder=6))
        label = f"{name} {decision.rows[i + 1] - decision.rows[i]}"
        if len(columns) == 2 and (high - low) > 0.075 * len(label):
            axes.text(
                (low + high) / 2, top + 0.47, label, fontsize=6, color="white", ha="center", va="center", zorder=7
            )


def _headline(graph: Graph) -> str:
    shapes = ", ".join("×".join(map(str, s)) for s in graph.input_shapes)
    return (
        f"{graph.name}   input {shapes}   {sum(graph.macs) / 1e9:.3g} GMAC   {graph.parameters / 1e6:.3g} M parameters"
    )


def _legend(axes: Axes, row: int) -> None:
    x = -0.2
    for split, colour in _COLOURS.items():
        axes.plot([x], [row + 0.1], "o", color=colour, markersize=4.5)
        axes.text(x + 0.12, row + 0.1, split, fontsize=7, va="center")
        x += 0.55 + 0.075 * len(split)
