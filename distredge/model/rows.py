"""Interval arithmetic of row splitting: which input rows (and columns) an output region needs.

For output rows [a, b) an operator with kernel k, stride s, dilation d and top pad p reads input rows
[a*s - p, (b-1)*s - p + d*(k-1) + 1), clipped to the tensor (Conv-11, MaxPool-12); what was clipped becomes that
operator's explicit padding in that split-part, and only that. Nothing here knows of graphs or ONNX.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Interval(NamedTuple):
    """Half-open range [start, stop) of rows or columns of a whole tensor."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of rows; 0 when empty."""
        return max(0, self.stop - self.start)

    @property
    def empty(self) -> bool:
        """Whether it holds no row."""
        return self.stop <= self.start

    def clip(self, size: int) -> Interval:
        """The part inside [0, size)."""
        return Interval(min(max(self.start, 0), size), min(max(self.stop, 0), size))

    def contains(self, other: Interval) -> bool:
        """Whether every row of `other` is in it."""
        return other.empty or (self.start <= other.start and other.stop <= self.stop)


class Region(NamedTuple):
    """Rows and columns of one tensor; `cols` None means all columns."""

    rows: Interval
    cols: Interval | None = None

    @property
    def empty(self) -> bool:
        """Whether it holds nothing."""
        return self.rows.empty or (self.cols is not None and self.cols.empty)

    def contains(self, other: Region) -> bool:
        """Whether `other` lies inside it."""
        if other.empty:
            return True
        if not self.rows.contains(other.rows):
            return False
        return self.cols is None or (other.cols is not None and self.cols.contains(other.cols))


EMPTY = Interval(0, 0)


def hull(intervals: Iterable[Interval]) -> Interval:
    """The smallest interval that holds all the non-empty ones; EMPTY when there is none."""
    kept = [i for i in intervals if not i.empty]
    if not kept:
        return EMPTY
    return Interval(min(i.start for i in kept), max(i.stop for i in kept))


def region_hull(regions: Iterable[Region]) -> Region:
    """The smallest region that holds all the non-empty ones."""
    kept = [r for r in regions if not r.empty]
    rows = hull(r.rows for r in kept)
    if not kept or any(r.cols is None for r in kept):
        return Region(rows)
    return Region(rows, hull(r.cols for r in kept if r.cols is not None))


def intersect(first: Interval, second: Interval) -> Interval:
    """The rows in both; EMPTY when there is none."""
    both = Interval(max(first.start, second.start), min(first.stop, second.stop))
    return EMPTY if both.empty else both


def intersect_region(first: Region, second: Region) -> Region:
    """The rows and columns in both."""
    rows = intersect(first.rows, second.rows)
    if first.cols is None:
        return Region(rows, second.cols)
    if second.cols is None:
        return Region(rows, first.cols)
    return Region(rows, intersect(first.cols, second.cols))


class Window(NamedTuple):
    """A sliding window along one axis: output i reads inputs [i*stride - pad, i*stride - pad + extent)."""

    stride: int
    pad: int
    extent: int

    def reach(self, out: Interval) -> Interval:
        """Input rows that output rows `out` read, not clipped: padding and ceil extension show as excess."""
        if out.empty:
            return EMPTY
        return Interval(out.start * self.stride - self.pad, (out.stop - 1) * self.stride - self.pad + self.extent)


def window_input(window: Window, out: Interval, size: int) -> tuple[Interval, int, int]:
    """Clips what a window reads and says what padding replaces it.

    Args:
        window: the operator's window along the axis.
        out: output rows wanted.
        size: rows of the whole input tensor.

    Returns:
        Input rows inside [0, size), rows of padding before and after them.
    """
    reach = window.reach(out)
    clipped = reach.clip(size)
    return clipped, max(0, -reach.start) if not reach.empty else 0, max(0, reach.stop - size)


def touching(window: Window, out: Interval, size: int) -> Interval:
    """The smallest interval that holds `out` and reads at least one row of an input of `size` rows."""
    reach = window.reach(out)
    if reach.empty or (reach.stop > 0 and reach.start < size):
        return out
    if reach.stop <= 0:
        return Interval(out.start, -((window.extent - window.pad - 1) // window.stride) + 1)
    return Interval((size - 1 + window.pad) // window.stride, out.stop)


def even_cuts(height: int, parts: int) -> tuple[int, ...]:
    """Cut points of an equal split: round(i * H / D)."""
    return tuple((2 * i * height + parts) // (2 * parts) for i in range(parts + 1))
