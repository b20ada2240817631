"""How many chains there are, and how many steps they take between two looks at the budget."""

from __future__ import annotations

POPULATIONS, CHAINS = 2, 32
"""Populations of chains, each of which one thread advances, and chains of each."""

STEPS, ROUND_S = 100, 0.02
"""Steps between two looks at the budget, and the seconds that they may take where the budget is in seconds."""


def adapted(steps: int, took_s: float, left_s: float | None) -> int:
    """Steps that take `ROUND_S`, or what is left of the budget, if they go on at the same pace."""
    aim_s = ROUND_S if left_s is None else min(ROUND_S, left_s)
    return max(1, min(4 * steps, int(steps * aim_s / max(took_s, 1e-9))))
