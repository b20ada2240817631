"""The rule: the most accurate variant that is predicted to be in time.

Li, Iosifidis and Zhang, ICC 2022 (arXiv 2207.11294). There a request that no variant meets fails; here the fastest one
runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HYSTERESIS: Final = 0.05
"""Share of the limit that must be left before a more accurate variant takes the place of one that is in time."""


@dataclass(frozen=True)
class Choice:
    """A variant, and whether it is predicted to be in time."""

    index: int
    fits: bool


def select(
    limit_s: float,
    predicted_s: Sequence[float],
    accuracies: Sequence[float],
    current: int | None = None,
    hysteresis: float = HYSTERESIS,
) -> Choice:
    """Returns the variant that the next frame takes.

    That is the most accurate one that is predicted to take no longer than the limit, the fastest among equals; where
    none is, the fastest. While the current one is in time, one that is more accurate must be in time with a share of
    the limit to spare: a prediction that wavers about the limit does not make the choice waver.

    Args:
        limit_s: longest latency allowed.
        predicted_s: (n,) of each variant; infinite where it cannot run.
        accuracies: (n,) of each.
        current: the one that ran last; None for the first frame.
        hysteresis: that share, 0 to 1.
    """
    stays = current is not None and predicted_s[current] <= limit_s
    fitting = [
        k
        for k, seconds in enumerate(predicted_s)
        if seconds <= (limit_s if not stays or k == current else (1.0 - hysteresis) * limit_s)
    ]
    if not fitting:
        return Choice(min(range(len(predicted_s)), key=lambda k: (predicted_s[k], -accuracies[k])), False)
    return Choice(max(fitting, key=lambda k: (accuracies[k], k == current, -predicted_s[k])), True)
