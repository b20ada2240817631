"""Which row counts to measure next: few where time is straight, more where it bends. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCE = 0.04
"""A measured point that lies this far from the line between its neighbours (relative) shows a bend."""


@dataclass(frozen=True)
class RowSampler:
    """Chooses row counts for one operator from what is known so far, and so may be asked again after a break.

    It starts with the whole, single rows (where halos and tiles show) and a spread of others; then it halves every
    gap beside a point that shows a bend, largest bend first, so that staircases and spots where more rows take less
    time are followed down to single rows while the number of points allows it.

    Args:
        rows: rows of the whole operator.
        points: most points to measure, beyond the starting ones if these are more.
        start: rough number of starting points.
        tolerance: see `TOLERANCE`.
    """

    rows: int
    points: int = 24
    start: int = 12
    tolerance: float = TOLERANCE

    def starting(self) -> tuple[int, ...]:
        """Returns the rows measured first, the whole first."""
        if self.rows <= self.start:
            return tuple(range(self.rows, 0, -1))
        # 1/3 and 2/3 + 1 beside powers of two: a staircase of an even period would hide between the latter.
        third = self.rows // 3
        wanted = (self.rows, 1, self.rows // 2, 2, self.rows // 4, 4, self.rows // 8, 3 * self.rows // 4)
        chosen = dict.fromkeys((*wanted, third, 3, 2 * third + 1, 6, self.rows // 16))
        return tuple(r for r in chosen if 1 <= r <= self.rows)[: self.start]

    def next(self, known: Mapping[int, float], count: int = 1) -> tuple[int, ...]:
        """Returns the row counts to measure next; none when there is no need for more.

        Args:
            known: measured rows -> seconds.
            count: how many at most, beyond starting ones.
        """
        missing = tuple(rows for rows in self.starting() if rows not in known)
        if missing:
            return missing
        gaps = self.bends(known)
        order = sorted(gaps, key=lambda gap: (-gaps[gap], gap))
        return tuple(between for _, _, between in order)[: max(0, min(count, self.points - len(known)))]

    def bends(self, known: Mapping[int, float]) -> dict[tuple[int, int, int], float]:
        """Returns gaps beside bent points: (rows below, rows above, rows between) -> how bent."""
        rows = sorted(known)
        gaps: dict[tuple[int, int, int], float] = {}
        for a, m, b in zip(rows, rows[1:], rows[2:], strict=False):
            line = known[a] + (known[b] - known[a]) * (m - a) / (b - a)
            bend = abs(known[m] - line) / max(known[m], 1e-12)
            if bend <= self.tolerance:
                continue
            for low, high in ((a, m), (m, b)):
                if high - low > 1:
                    key = (low, high, (low + high) // 2)
                    gaps[key] = max(bend, gaps.get(key, 0.0))
        return gaps
