"""Two profiles side by side, and pictures of one: latency against rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.errors import ProfileError
from distredge.model.graph import Graph
from distredge.model.signatures import Signature
from distredge.profiles.compute import ComputeProfile, interpolated
from distredge.profiles.modelled import profile_rows
from distredge.profiles.schema import Handling
from distredge.writing import picture_format, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = (".png", ".svg", ".pdf")
_MOST_PLOTS = 24


@dataclass(frozen=True)
class Difference:
    """One operator in two profiles: seconds of the whole operator, and the largest ratio at any rows."""

    key: str
    first_s: float
    second_s: float
    most_ratio: float
    most_rows: int

    @property
    def ratio(self) -> float:
        """Second over first, of the whole operator; 1 when neither takes any time."""
        if self.first_s == 0:
            return 1.0 if self.second_s == 0 else math.inf
        return self.second_s / self.first_s


@dataclass(frozen=True)
class Diff:
    """Two profiles: operators of both, the slowest first, keys that only one has, and differing fields."""

    common: tuple[Difference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    fields: tuple[tuple[str, str, str], ...]

    @property
    def mean_ratio(self) -> float:
        """Geometric mean of second over first; not a number when nothing is common."""
        ratios = [d.ratio for d in self.common if 0 < d.ratio < math.inf]
        return float(np.exp(np.mean(np.log(ratios)))) if ratios else math.nan


def curves(profile: ComputeProfile, graphs: Sequence[Graph] = ()) -> dict[str, NDArray[np.float64]]:
    """Returns latency against rows, operator by operator.

    Args:
        profile: whose.
        graphs: models whose operators to return, as far as the profile covers them; none returns all that were
            measured.

    Returns:
        Operator key -> (rows + 1,) float64 seconds of 0, 1, ... output rows up to the whole operator's, entry 0 is 0.

    Raises:
        ProfileError: if the profile is modelled and no model says which operators.
    """
    signatures: dict[str, Signature] = {s.key: s for graph in graphs for s in graph.signatures if s is not None}
    if signatures:
        return {key: profile.table_s(s, profile_rows(s)) for key, s in signatures.items() if profile.covers(s)}
    if profile.data.operators is None:
        raise ProfileError(f"{profile.where}: a modelled profile holds no operators; name a model with --model")
    return {
        key: interpolated(entry, np.arange(entry.rows[-1] + 1, dtype=np.int64))
        for key, entry in profile.data.operators.items()
    }


def diff(first: ComputeProfile, second: ComputeProfile, graphs: Sequence[Graph] = ()) -> Diff:
    """Compares two profiles over the operators of some models, or over all that were measured."""
    a, b = curves(first, graphs), curves(second, graphs)
    common = []
    for key in a.keys() & b.keys():
        size = min(len(a[key]), len(b[key]))
        x, y = np.maximum(a[key][1:size], 1e-9), np.maximum(b[key][1:size], 1e-9)
        most = int(np.argmax(np.abs(np.log(y / x))))
        common.append(Difference(key, float(a[key][-1]), float(b[key][-1]), float(y[most] / x[most]), most + 1))
    common.sort(key=lambda d: (-d.first_s, d.key))
    fields = []
    for name, x_field, y_field in (
        ("board", first.board.name, second.board.name),
        ("processor", first.board.processor, second.board.processor),
        ("threads", str(first.board.threads), str(second.board.threads)),
        ("runtime", _runtime(first), _runtime(second)),
        ("kind", first.source.kind, second.source.kind),
        ("segment factor", f"{first.segment_factor:g}", f"{second.segment_factor:g}"),
        ("segment overhead (us)", f"{1e6 * first.segment_overhead_s:g}", f"{1e6 * second.segment_overhead_s:g}"),
        ("picture (ns per pixel)", _picture_ns(first), _picture_ns(second)),
        ("message sent (us)", _message_us(first.messages.send), _message_us(second.messages.send)),
        ("message received (us)", _message_us(first.messages.receive), _message_us(second.messages.receive)),
        ("copy (ns/byte)", f"{1e9 * first.copy_s_per_byte:.3g}", f"{1e9 * second.copy_s_per_byte:.3g}"),
    ):
        if x_field != y_field:
            fields.append((name, x_field, y_field))
    return Diff(tuple(common), tuple(sorted(a.keys() - b.keys())), tuple(sorted(b.keys() - a.keys())), tuple(fields))


def _message_us(end: Handling) -> str:
    return f"{1e6 * end.own.fixed_s:.3g} + {1e6 * end.io.fixed_s:.3g}"


def _picture_ns(profile: ComputeProfile) -> str:
    cost = profile.pictures
    return f"{1e9 * cost.s_per_pixel:.3g} + {1e9 * cost.s_per_input_pixel:.3g} of the input"


def _runtime(profile: ComputeProfile) -> str:
    runtime = profile.runtime
    return " ".join(part for part in (runtime.name, runtime.version, runtime.provider, runtime.precision) if part)


def plot(profiles: Sequence[ComputeProfile], path: str | Path, graphs: Sequence[Graph] = ()) -> int:
    """Draws latency against rows of every operator, the slowest first.

    Args:
        profiles: one, or several to compare.
        path: .png, .svg or .pdf.
        graphs: models whose operators to draw; none draws all that the first profile measured.

    Returns:
        How many operators were drawn.
    """
    picture_format(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tables = [curves(profile, graphs) for profile in profiles]
    keys = [key for key in tables[0] if len(tables[0][key]) > 2]
    keys = sorted(keys, key=lambda key: -tables[0][key][-1])[:_MOST_PLOTS]
    if not keys:
        raise ProfileError(f"{profiles[0].where}: found no operator with more than one row count to draw")
    columns = min(4, len(keys))
    lines = -(-len(keys) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * lines + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(keys):
            axes.set_visible(False)
            continue
        for profile, table in zip(profiles, tables, strict=True):
            if keys[place] in table:
                _draw(axes, profile, keys[place], table[keys[place]])
        axes.set_title(_title(keys[place]), fontsize=8)
        axes.set_xlabel("output rows", fontsize=8)
        axes.set_ylabel("ms", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    grid.flat[0].legend(fontsize=8)
    figure.suptitle("latency against rows: " + ", ".join(p.name for p in profiles), fontsize=11)
    write_picture(figure, path, dpi=110)
    return len(keys)


def _draw(axes: Axes, profile: ComputeProfile, key: str, table: NDArray[np.float64]) -> None:
    rows = np.arange(1, len(table))
    line = axes.plot(rows, 1e3 * table[1:], linewidth=1, label=profile.name)[0]
    entry = (profile.data.operators or {}).get(key)
    if entry is not None:
        axes.plot(entry.rows, 1e3 * np.array(entry.median_s), ".", markersize=4, color=line.get_color())
        axes.fill_between(
            entry.rows, 1e3 * np.array(entry.median_s), 1e3 * np.array(entry.p95_s), alpha=0.15, color=line.get_color()
        )


def _title(key: str) -> str:
    op_type, shapes, kernel, stride, _, group, _ = key.split(" ")
    window = f" {kernel}{'' if stride in ('s1x1', 's-') else ' ' + stride}" if kernel != "k-" else ""
    return f"{op_type} {shapes}{window}{'' if group == 'g1' else ' ' + group}"
