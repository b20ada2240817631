"""Chooses a variant for each frame and learns from how it went; no sockets, no models.

A prediction is what the simulator says at the rates of the moment, times how much longer than that the variant's latest
frames took (the median: profiles may be modelled, a board may be warm). The limit is shortened by what predictions were
too short by of late: a link that varies faster than frames come is allowed for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final

from distredge.planners.live_selection.choosing import Choice, select
from distredge.planners.live_selection.link_rates import LinkRates
from distredge.planners.live_selection.pricing import Price, transfers_of

if TYPE_CHECKING:
    from distredge.cluster import Cluster
    from distredge.problem import Problem
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline

REMEMBERED: Final = 9
"""Frames of a variant whose median counts."""

REMEMBERED_S: Final = 30.0
"""How long they count: then its first frame alone says how far off the simulator is."""

LATE_WEIGHT: Final = 0.1
"""Of the latest frame in the mean of what predictions were too short by."""

LATE_TIMES: Final = 2.0
"""How often that mean is allowed for: most frames are not late at all."""


@dataclass
class _Known:
    """Of one variant: measured over simulated latency, of its first frame and of the latest ones, with their times."""

    first: float | None = None
    latest: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def ratio(self, now_s: float) -> float:
        recent = [ratio for at_s, ratio in self.latest if at_s >= now_s - REMEMBERED_S]
        return median(recent) if recent else (1.0 if self.first is None else self.first)


class Selector:
    """The variants of a menu on one cluster.

    Args:
        cluster: as frames run on it; of a link that varies, the mean counts at first.
        variants: problem and strategy of each.
        accuracies: (n,) of each, 0 to 1.
        limit_s: longest latency allowed.

    Attributes:
        rates: of the moment.
        current: the variant chosen last; None before the first.
        switches: how often another one was chosen than before.

    Raises:
        StrategyError, ClusterError, ProfileError: if a strategy does not fit.
    """

    def __init__(
        self,
        cluster: Cluster,
        variants: Sequence[tuple[Problem, Strategy]],
        accuracies: Sequence[float],
        limit_s: float,
    ) -> None:
        self._prices = [Price(problem, strategy) for problem, strategy in variants]
        self._known = [_Known() for _ in variants]
        self._accuracies = tuple(accuracies)
        self._limit_s = limit_s
        self._cluster = cluster
        self._late = 0.0
        self.rates = LinkRates(cluster)
        self.current: int | None = None
        self.switches = 0

    def predicted_s(self, now_s: float) -> tuple[float, ...]:
        """(n,) seconds that each variant is predicted to take now; times are in seconds of one clock."""
        self.rates.fall_back(now_s)
        cluster = self.rates.cluster()
        return tuple(
            price.at(cluster).latency_s * known.ratio(now_s)
            for price, known in zip(self._prices, self._known, strict=True)
        )

    def choose(self, now_s: float, lost: Collection[int] = ()) -> tuple[Choice, float]:
        """Returns what the next frame takes, and the seconds that it is predicted to.

        Args:
            now_s: the time now.
            lost: variants that cannot run at the moment.
        """
        known_s = self.predicted_s(now_s)
        predicted_s = [math.inf if k in lost else seconds for k, seconds in enumerate(known_s)]
        allowed_s = self._limit_s / (1.0 + LATE_TIMES * self._late)
        choice = select(allowed_s, predicted_s, self._accuracies, self.current)
        self.switches += self.current not in (None, choice.index)
        self.current = choice.index
        return choice, predicted_s[choice.index]

    def ended(
        self, index: int, latency_s: float, timeline: Timeline | None, now_s: float, predicted_s: float | None = None
    ) -> None:
        """Learns from a frame.

        Args:
            index: of its variant.
            latency_s: what it took; of one that failed, its deadline.
            timeline: of that frame; None where there is none.
            now_s: the time now.
            predicted_s: what it was predicted to take; None where it was not chosen but tried.
        """
        price = self._prices[index]
        simulated = price.at(self.rates.cluster())
        if timeline is not None:
            moment = self.rates.observe(transfers_of(timeline, self._cluster), simulated.transfers, now_s)
            simulated = price.at(self.rates.cluster(moment))
        if not 0.0 < simulated.latency_s < math.inf:
            return
        ratio = latency_s / simulated.latency_s
        known = self._known[index]
        known.first = ratio if known.first is None else known.first
        known.latest.append((now_s, ratio))
        if predicted_s is not None:
            late = max(0.0, latency_s / predicted_s - 1.0)
            self._late += LATE_WEIGHT * (late - self._late)
