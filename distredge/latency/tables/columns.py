"""Columns of the kernel's tables; nothing else in compiled code has the name of one of them.

`volume_tables` says what each table holds, kind by kind. All of its integers are in one array, `Tables.model()`:

- its first `N_FIRST` entries say where each kind begins (AT_...) and how many there are (N_...); HEAD_BYTES are the
  bytes of the head's results, HAS_HEAD whether there is a head;
- VOLUME, PHASE, NEED, SUM, PARTIAL and TENSOR are the numbers of columns of each kind; their names stand in the order
  in which `volume_tables` says what they hold.
"""

from __future__ import annotations

N_WIRES = 5
PACKED_FLOAT32, PACKED_FLOAT16 = 3, 0
"""Numbers of wires, and those of packed ones: `model.wires` says them, and compiled code is known by this file."""

VOLUME, PHASE, NEED, SUM, PARTIAL, TENSOR = 8, 8, 5, 4, 3, 2 + N_WIRES
"""Numbers of columns."""

HEIGHT, BAND, START_CLASS, STOP_CLASS, PHASES, N_PHASES, MADE_IN, REDUCES = range(VOLUME)
"""Columns of a volume."""

NEEDS, N_NEEDS, PARTIALS, N_PARTIALS, SECONDS, STRIDE, SUMS, N_SUMS = range(PHASE)
"""Columns of a phase."""

NEED_TENSOR, NEED_FIRST, NEED_LAST, NEED_SHORT_FIRST, NEED_SHORT_LAST = range(NEED)
"""Columns of a need."""

SUM_FIRST, SUM_LAST, SUM_SECONDS, SUM_STRIDE = range(SUM)
"""Columns of a sum."""

PARTIAL_PHASE, PARTIAL_SIZE, PARTIAL_HEIGHT = range(PARTIAL)
"""Columns of a partial result."""

CROSSING_PLACE, CROSSING_HEIGHT, CROSSING_BYTES = range(3)
"""Columns of a tensor that can cross the border of a volume; its bytes stand in a column for each number of a wire."""

PACKED_SHIFT = 32
"""Where the bytes of float32 that a packed row had stand in its bytes: above those that travel."""

N_FIRST = 17

(
    AT_INDEX,
    AT_CUTS,
    AT_VOLUMES,
    AT_PHASES,
    AT_NEEDS,
    AT_SUMS,
    AT_PARTIALS,
    AT_TENSORS,
    AT_HEAD_NEEDS,
    AT_HEAD_PARTIALS,
    AT_RESULTS,
    N_CUTS,
    N_HEAD_NEEDS,
    N_HEAD_PARTIALS,
    N_RESULTS,
    HEAD_BYTES,
    HAS_HEAD,
) = range(N_FIRST)
"""Entries of `Tables.model()` before its tables."""
