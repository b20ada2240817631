"""Latency over time of `dynamic_network`: one panel for each set of traces, one line for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distredge.writing import write_picture

_COLOURS = {
    "offload": "tab:gray", "coedge": "tab:brown", "aofl": "tab:orange", "aofl_10min": "#f2c48d",
    "distredge": "tab:red", "search_once": "tab:olive", "search_20ms": "tab:purple",
    "search": "tab:blue", "agent": "tab:green", "clairvoyant": "black",
}  # fmt: skip


def draw(found: dict[str, Any], from_s: float, bin_s: float, path: Path) -> None:
    """Draws the figures' `over_time_ms`.

    Args:
        found: by set of traces.
        from_s: time of the first bin.
        bin_s: seconds of a bin.
        path: of the picture.

    Raises:
        FileError: if it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chart = Figure(figsize=(11, 4.2 * len(found)), layout="constrained")
    FigureCanvasAgg(chart)
    for axes, (name, figures) in zip(np.atleast_1d(chart.subplots(len(found), 1)), found.items(), strict=True):
        lines = figures["over_time_ms"]
        for method, values in lines.items():
            minutes = (from_s + bin_s * (np.arange(len(values)) + 0.5)) / 60
            last = method == "clairvoyant"
            axes.plot(
                minutes, values, label=f"{method} ({figures['methods'][method]['mean_ms']:.1f} ms)",
                color=_COLOURS.get(method), linewidth=1.2, linestyle="--" if last else "-", zorder=3 if last else 2,
            )  # fmt: skip
        # A link that is out for seconds would leave the rest a flat line.
        top = max(float(np.percentile(values, 97)) for values in lines.values())
        axes.set_ylim(0, 1.15 * top)
        axes.set_title(f"{name}: latency of an image, means over {bin_s:g} s (simulated)")
        axes.set_xlabel("minutes")
        axes.set_ylabel("ms")
        axes.grid(color="#e5e5e5")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(chart, path, dpi=110)
