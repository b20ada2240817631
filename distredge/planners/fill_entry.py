"""What `tabulate` calls of the compiled walk.

numba keeps compiled functions on disk and looks at the age of their own file alone. So that a change in any file of the
walk makes it compile anew, these functions hold a digest of all of them (as `latency.kernel_entry` does).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from numba import njit

from distredge.latency import kernel_entry
from distredge.planners import cells, walk


def _digest() -> str:
    found = hashlib.sha256(kernel_entry.digest().encode())
    for name in ("cells", "fill_entry", "walk"):
        found.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return found.hexdigest()


def _compiled(stamp: str) -> tuple[Any, Any, Any]:
    """The functions below, in each of which `stamp` is a constant."""
    entry = njit(cache=True, **walk.OPTIONS)

    @entry
    def walk_end(end: Any) -> tuple[int, int, bool]:
        """Walks backwards from an end, a `walk.End`; returns what `write_end` takes."""
        len(stamp)
        walk.walk(end)
        return cells.finest(end)

    @entry
    def write_end(end: Any, room: Any, low: int, high: int, short: bool) -> None:
        """Writes the volumes of an end; `room` is `cells.Cells`."""
        len(stamp)
        cells.write(end, room, low, high, short)

    @entry
    def find_phases(end: Any, found: Any) -> None:
        """Fills in the phase of every operator in the volumes from each start on, (n_starts, n_ops)."""
        len(stamp)
        for at in range(found.shape[0]):
            start = end.starts[at, walk.PLACE]
            for place in range(start, found.shape[1]):
                found[at, place] = 0
                for x in range(end.operators[place, walk.IN_AT], end.operators[place + 1, walk.IN_AT]):
                    maker = end.tensors[end.inputs[x, 0], walk.MAKER]
                    if maker >= start:
                        ready = found[at, maker] + (1 if end.operators[maker, walk.KIND] == walk.REDUCES else 0)
                        found[at, place] = max(found[at, place], ready)

    return walk_end, write_end, find_phases


walk_end, write_end, find_phases = _compiled(_digest())
