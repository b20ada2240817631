"""Columns of the kernel's tables, each once; `volume_tables` says what the tables are."""

from __future__ import annotations

VOLUME, PHASE, NEED, SUM, PARTIAL, TENSOR = 8, 8, 5, 4, 3, 4

HEIGHT, BAND, START_CLASS, STOP_CLASS, PHASES, N_PHASES, MADE_IN, REDUCES = range(VOLUME)

NEEDS, N_NEEDS, PARTIALS, N_PARTIALS, SECONDS, STRIDE, SUMS, N_SUMS = range(PHASE)

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
