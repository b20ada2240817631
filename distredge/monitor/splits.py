"""A picture of a strategy: which rows of each layer-volume each device owns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distredge.strategy import Strategy, Volume

_GAP = 0.08
_NARROWEST = 0.035
"""Share of the height from which a part has room for its number."""


def figure(strategy: Strategy, title: str = "", has_head: bool = True) -> Figure:
    """Returns the picture as a matplotlib figure: a bar per layer-volume from top to bottom row, coloured by device.

    The number on a part counts its rows; below stand the tensor whose rows they are and how many it has. The tiles of a
    grid stand side by side.

    Args:
        strategy: whose split decisions.
        title: text above.
        has_head: whether the model has operators that cannot be split; they are a last bar, whole on one device.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    bars = len(strategy.volumes) + has_head
    chart = Figure(figsize=(max(6.0, 2.0 + 0.9 * bars), 4.2), layout="constrained")
    FigureCanvasAgg(chart)
    axes = chart.add_subplot()
    colours = _colours(strategy.devices)
    for index, volume in enumerate(strategy.volumes):
        _draw_volume(axes, index, volume, strategy.devices, colours)
    if has_head:
        _draw_part(axes, (bars - 1 + _GAP / 2, 0.0), (1 - _GAP, 1.0), colours[strategy.head.device], "head")
    labels = [f"{i}\n{_short(v.reference)}\n{v.rows[-1]} rows" for i, v in enumerate(strategy.volumes)]
    axes.set_xticks([i + 0.5 for i in range(bars)], [*labels, *["head"] * has_head], fontsize=7)
    axes.set_xlim(0, bars)
    axes.set_ylim(1, 0)
    axes.set_yticks([0, 0.5, 1], ["top", "middle", "bottom"], fontsize=8)
    axes.set_xlabel("layer-volume, and the tensor whose rows are dealt out", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title or f"{strategy.model.name}: who has which rows", loc="left", fontsize=8)
    handles = [Patch(color=colours[device], label=device) for device in strategy.devices]
    chart.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), fontsize=7, frameon=False)
    return chart


def _colours(devices: tuple[str, ...]) -> dict[str, Any]:
    from matplotlib import colormaps

    palette = colormaps["tab10" if len(devices) <= 10 else "tab20"]
    return {device: palette(i % palette.N) for i, device in enumerate(devices)}


def _draw_volume(axes: Axes, index: int, volume: Volume, devices: tuple[str, ...], colours: dict[str, Any]) -> None:
    columns = volume.columns or (0, 1)
    across = len(columns) - 1
    for place, device in enumerate(devices):
        row, column = divmod(place, across)
        top, bottom = volume.rows[row], volume.rows[row + 1]
        whole = columns[-1] or 1
        left, right = columns[column] / whole, columns[column + 1] / whole
        if bottom > top and right > left:
            height, width = (bottom - top) / volume.rows[-1], (right - left) * (1 - _GAP)
            corner = (index + _GAP / 2 + left * (1 - _GAP), top / volume.rows[-1])
            count = str(bottom - top) if height >= _NARROWEST else ""
            _draw_part(axes, corner, (width, height), colours[device], count)


def _draw_part(axes: Axes, corner: tuple[float, float], size: tuple[float, float], colour: Any, label: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(corner, *size, facecolor=colour, edgecolor="white", linewidth=0.8))
    centre = corner[0] + size[0] / 2, corner[1] + size[1] / 2
    axes.text(*centre, label, ha="center", va="center", fontsize=7, color="white")


def _short(name: str) -> str:
    """The end of a tensor's name, which is what tells it from others, short enough for a bar."""
    return name if len(name) <= 14 else f"…{name[-13:]}"
