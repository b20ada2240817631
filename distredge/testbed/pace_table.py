"""What a testbed tells its boards while they run, and they tell it: a table in memory that both have mapped.

One file for each board, (ROWS, COLUMNS) float64; the requester has the same without a file::

    row        column            what
    SETTINGS   PACED             1: hold results until the profiled time has passed; 0: only delay messages
               SEND_FIXED, ...   seconds that a message costs the board's thread, and seconds for each byte
               TOLERANCE         seconds by which a part may be late and still count as on time
               OVERRUNS          written by the board: parts whose real computing was later than that
               EXCESS            written by the board: seconds by which messages were handed over too late
    PACE       stage             seconds that a part takes
    REAL       stage             written by the board: the longest real computing since it was last set to 0
    DELAY      source + 1        seconds on the way of a message of that device (0: the requester's) beside its link's
    DELAY_BYTE source + 1        the same for each byte
    WIRE_BYTE  source + 1        seconds that a byte takes on the link at least

All seconds are those of the emulation, dilated already. Single floats are written and read whole, one writer each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from distredge.errors import ConfigError

SETTINGS, PACE, REAL, DELAY, DELAY_BYTE, WIRE_BYTE = range(6)
ROWS: Final = 6
COLUMNS: Final = 1024

(PACED, SEND_FIXED, SEND_BYTE, RECEIVE_FIXED, RECEIVE_BYTE, HERE_SEND_FIXED, HERE_SEND_BYTE, HERE_RECEIVE_FIXED,
 HERE_RECEIVE_BYTE, TOLERANCE, OVERRUNS, EXCESS) = range(12)  # fmt: skip

PaceTable = NDArray[np.float64]


def make_table(path: Path) -> PaceTable:
    """Makes a table's file, all zeros, and returns it, (ROWS, COLUMNS) float64."""
    return np.memmap(path, dtype=np.float64, mode="w+", shape=(ROWS, COLUMNS))


def make_anonymous_table() -> PaceTable:
    """Returns a table, (ROWS, COLUMNS) float64, that no other process sees: the requester's."""
    return np.zeros((ROWS, COLUMNS))


def open_table(path: Path) -> PaceTable:
    """Returns the table of a file, (ROWS, COLUMNS) float64."""
    return np.memmap(path, dtype=np.float64, mode="r+", shape=(ROWS, COLUMNS))


def check_size(stages: int, devices: int) -> None:
    """Raises ConfigError where a strategy has more stages or devices than a table has columns."""
    if max(stages, devices + 1) > COLUMNS:
        raise ConfigError(
            f"a testbed runs at most {COLUMNS} stages on {COLUMNS - 1} devices; found {stages}, {devices}"
        )
