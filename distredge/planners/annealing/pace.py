"""How many chains there are, and how many steps they take between two looks at the budget."""

from __future__ import annotations

POPULATIONS, CHAINS = 2, 32
"""Populations of chains, each of which one thread advances, and chains of each."""

STEPS, ROUND_S = 100, 0.02
"""Steps between two looks at the budget, and the seconds that they may take where the budget is in seconds."""


LEAST_ROUNDS = 10
"""Looks at a budget in seconds at least, however short it is."""


def adapted(steps: int, took_s: float, left_s: float | None, all_s: float | None = None) -> int:
    """Steps that take `ROUND_S`, or what is left of the budget, if they go on at the same pace.

    Args:
        steps: that were taken.
        took_s: seconds for which.
        left_s: of the budget; None where it is not in seconds.
        all_s: seconds of the whole budget, of which a round may take a part; None where that does not matter.
    """
    aim_s = ROUND_S if left_s is None else min(ROUND_S, left_s)
    if all_s is not None:
        aim_s = min(aim_s, all_s / LEAST_ROUNDS)
    return max(1, min(4 * steps, int(steps * aim_s / max(took_s, 1e-9))))
