"""The linear device and network models that earlier planners assume, fitted to a problem's profiles and links."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distredge.planners.common.volume_costs import Floats, VolumeCosts

if TYPE_CHECKING:
    from distredge.problem import Problem

_SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class LinearModel:
    """Compute time of a layer as slope * multiply-adds + intercept.

    Attributes:
        s_per_mac: slope, seconds.
        fixed_s: intercept, seconds per layer; >= 0.
    """

    s_per_mac: float
    fixed_s: float


def fit_lines(costs: VolumeCosts) -> tuple[LinearModel, ...]:
    """Least-squares lines through every layer's time at a quarter, half, three quarters and all of its rows.

    Layers without multiply-adds (pooling) are left out, as in EdgeLD and AOFL, which fit convolutions. A slope or an
    intercept that comes out negative is replaced by a line through the origin.
    """
    count = len(costs.devices)
    macs: list[Floats] = []
    seconds: list[Floats] = []
    for end in range(1, costs.last + 1):
        if costs.layer_macs[end - 1] == 0:
            continue
        height = costs.height(end)
        rows = [max(1, round(share * height)) for share in _SHARES]
        # Every device in turn has the rows and the next one what is left.
        for k in range(count):
            splits = [_first_rows(k, count, r, height) for r in rows]
            piece = next(costs.walk(end, splits))
            macs.append(piece.macs[:, k])
            seconds.append(piece.compute_s[:, k])
    return tuple(_line(np.concatenate(macs[k::count]), np.concatenate(seconds[k::count])) for k in range(count))


def _first_rows(device: int, count: int, rows: int, height: int) -> list[int]:
    """Cut points under which `device` has the first `rows` and its successor (or predecessor) the rest."""
    if device + 1 < count:
        return [0] * (device + 1) + [rows] + [height] * (count - device - 1)
    return [0] * device + [height - rows, height] if count > 1 else [0, height]


def _line(macs: Floats, seconds: Floats) -> LinearModel:
    if len(macs) == 0:
        return LinearModel(0.0, 0.0)
    slope, fixed = np.polyfit(macs, seconds, 1) if np.ptp(macs) > 0 else (0.0, float(seconds.mean()))
    if slope <= 0 or fixed < 0:
        return LinearModel(float(seconds.sum() / macs.sum()), 0.0)
    return LinearModel(float(slope), float(fixed))


def s_per_byte(problem: Problem, devices: Sequence[str]) -> Floats:
    """(n_devices,), seconds per byte over each device's slower link; 0 unbounded, infinite for one that is down."""
    found = []
    for name in devices:
        device = problem.cluster.device(name)
        rates = [math.inf if link.rate_bps is None else link.rate_bps for link in (device.uplink, device.downlink)]
        rate = min(rates)
        found.append(math.inf if rate == 0 else 8.0 / rate)
    return np.array(found)


def cut_points(height: int, shares: Sequence[float] | Floats) -> tuple[int, ...]:
    """Returns the cut points of a split by shares, rounded so that each border is off by half a row at most.

    Args:
        height: rows to deal out.
        shares: (n_devices,), >= 0 and not all 0.
    """
    total = np.cumsum(np.asarray(shares, np.float64))
    points = np.rint(height * total / total[-1]).astype(int)
    points[-1] = height
    return (0, *(int(x) for x in np.minimum(points, height)))
