"""A strategy without some of its devices: the same cuts, the rows of those that are gone dealt out among the others.

What a device computes stays as it is wherever it gets no further rows, and what stays has nothing to load. So there are
several ways, from those that leave most parts alone to the one that keeps the devices' loads in proportion.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from distredge.planners.common.linear_models import cut_points
from distredge.strategy import Head, PlannerRef

if TYPE_CHECKING:
    from distredge.strategy import Strategy, Volume

METHOD = "dealt-anew"
"""What such strategies name as their method."""

Deal: TypeAlias = Callable[[Sequence[int], Sequence[bool]], tuple[int, ...]]
"""From the cut points of all devices (D + 1,), and which of them stay (D,), to those of the devices that stay."""


def without(strategy: Strategy, gone: Iterable[str]) -> tuple[tuple[Strategy, ...], ...]:
    """Returns the ways to go on without some devices, each once; none if no device is left or columns are divided.

    Each is one strategy, or, where the head's device is gone, one for every other device that could take it.

    Args:
        strategy: of all devices.
        gone: names of those that are not there any more; others than the strategy's do not matter.
    """
    lost = frozenset(gone)
    stays = [name not in lost for name in strategy.devices]
    devices = tuple(name for name in strategy.devices if name not in lost)
    if not devices or any(volume.columns is not None for volume in strategy.volumes):
        return ()
    heads = (strategy.head.device,) if strategy.head.device in devices else devices
    planner = PlannerRef(METHOD, 0, {"from": strategy.planner.method})
    found: dict[tuple[Volume, ...], tuple[Strategy, ...]] = {}
    for way in _WAYS:
        volumes = tuple(
            dataclasses.replace(volume, rows=deal(volume.rows, stays))
            for volume, deal in zip(strategy.volumes, itertools.cycle(way))
        )
        found[volumes] = tuple(
            strategy.replace(
                devices=devices, volumes=volumes, head=Head(head, strategy.head.split), planner=planner, predicted={}
            )
            for head in heads
        )
    return tuple(found.values())


def _runs(rows: Sequence[int], stays: Sequence[bool]) -> tuple[list[int], list[tuple[int, int]]]:
    """The devices that stay, and between each two of them the rows [start, stop) of those that are gone."""
    kept = [k for k, stay in enumerate(stays) if stay]
    return kept, [(rows[a + 1], rows[b]) for a, b in itertools.pairwise(kept)]


def _to_the_one_before(rows: Sequence[int], stays: Sequence[bool]) -> tuple[int, ...]:
    """All to the device above; to the one below where there is none."""
    _, gaps = _runs(rows, stays)
    return (0, *(stop for _, stop in gaps), rows[-1])


def _to_the_one_after(rows: Sequence[int], stays: Sequence[bool]) -> tuple[int, ...]:
    """All to the device below; to the one above where there is none."""
    _, gaps = _runs(rows, stays)
    return (0, *(start for start, _ in gaps), rows[-1])


def _to_both(rows: Sequence[int], stays: Sequence[bool]) -> tuple[int, ...]:
    """To the devices above and below, in proportion to the rows that they have."""
    kept, gaps = _runs(rows, stays)
    points = [0]
    for (a, b), (start, stop) in zip(itertools.pairwise(kept), gaps, strict=True):
        above, below = rows[a + 1] - rows[a], rows[b + 1] - rows[b]
        share = above / (above + below) if above + below else 0.5
        points.append(start + round(share * (stop - start)))
    return (*points, rows[-1])


def _to_all(rows: Sequence[int], stays: Sequence[bool]) -> tuple[int, ...]:
    """All rows to all, in proportion to what they had."""
    kept, _ = _runs(rows, stays)
    shares = [rows[k + 1] - rows[k] for k in kept]
    return cut_points(rows[-1], shares if any(shares) else [1] * len(shares))


_WAYS: Final[tuple[tuple[Deal, ...], ...]] = (
    (_to_the_one_before,),
    (_to_the_one_after,),
    (_to_the_one_before, _to_the_one_after),
    (_to_both,),
    (_to_all,),
)
"""Each takes its deals by turns, volume by volume: where both neighbours get something, each loads half of it."""
