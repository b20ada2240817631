"""One figure measured again and again until it can be believed. Pure arithmetic.

Other programs, heat and the host of a virtual machine slow a processor down for seconds at a time, and nothing makes
it faster than it is. So the same thing is measured in bursts that lie apart, and believed when the two fastest bursts
agree: disturbed bursts never do so by chance as long as there are undisturbed ones. Within a burst the faster half of
the runs counts: programs on other cores take memory bandwidth for milliseconds at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

AGREEMENT = 0.03
"""Relative difference of the two fastest bursts at which they agree."""

RESOLUTION_S = 0.5e-6
"""Difference that clocks cannot tell apart, whatever it is relatively."""

MOST_BURSTS = 6
SHALLOW_S = 50e-6
"""Below this a clock's resolution of 1 microsecond shows: the middle half is averaged, not its middle taken."""


def middle(values: NDArray[np.float64]) -> float:
    """Returns the median of some seconds, (repeats,) and >= 0, or for very short ones the mean of the middle half."""
    median = float(np.median(values))
    if median >= SHALLOW_S:
        return median
    quarter = len(values) // 4
    return float(np.sort(values)[quarter : len(values) - quarter].mean())


def faster_half(seconds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns which of some seconds, (repeats,), are the faster half; (repeats,) bool."""
    found: NDArray[np.bool_] = seconds <= np.median(seconds)
    return found


def spread_of(values: NDArray[np.float64]) -> float:
    """Returns half the distance between the quartiles of (repeats,) seconds, over their median."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float((high - low) / 2 / max(median, 1e-9))


def rounded(value: float) -> float:
    """Returns four digits: more than any measurement has, and files stay small."""
    return float(f"{value:.4g}")


@dataclass
class Series:
    """The bursts of one figure; each is (repeats,) seconds, `middles` what each burst says."""

    bursts: list[NDArray[np.float64]] = field(default_factory=list)
    middles: list[float] = field(default_factory=list)

    def add(self, seconds: NDArray[np.float64], counts: NDArray[np.bool_] | None = None) -> None:
        """Adds a burst.

        Args:
            seconds: (repeats,) >= 0.
            counts: (repeats,) which of them count; None takes the faster half.
        """
        burst = np.asarray(seconds, dtype=np.float64)
        self.bursts.append(burst)
        self.middles.append(middle(burst[faster_half(burst) if counts is None else counts]))

    @property
    def _fastest(self) -> list[float]:
        return sorted(self.middles)[:2]

    @property
    def settled(self) -> bool:
        """Whether no more bursts are wanted."""
        fastest = self._fastest
        if len(fastest) < 2:
            return False
        difference = fastest[1] - fastest[0]
        return difference <= max(AGREEMENT * fastest[0], RESOLUTION_S) or len(self.bursts) >= MOST_BURSTS

    @property
    def seconds(self) -> float:
        """Mean of what the two fastest bursts say."""
        return sum(self._fastest) / len(self._fastest)

    @property
    def p95_s(self) -> float:
        """95th percentile over all bursts."""
        return float(np.quantile(np.concatenate(self.bursts), 0.95))

    @property
    def spread(self) -> float:
        """Spread over all bursts, disturbed ones included."""
        return spread_of(np.concatenate(self.bursts))

    @property
    def repeats(self) -> int:
        """Runs in all bursts."""
        return sum(len(burst) for burst in self.bursts)
