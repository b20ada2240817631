"""Figures over many planned cases: who is best, by how much, and how that compares with what is published."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distredge.experiments.common.published import ips

NOT_WORSE = 1.001
"""`auto` may be slower than another method by this factor."""

NEAR = 1.01
"""`search` is there when it is within this factor of the best known."""

ROOM = 1.2
GOAL = 1.5
LONG = "search-long"
"""The search with a budget of minutes; its strategies are the best known."""


@dataclass(frozen=True)
class Outcome:
    """All that is known of one case in one regime.

    Attributes:
        regime, model, cluster: which.
        devices: number of devices.
        bound_s: lower bound on the latency.
        latency_s: method -> latency of its strategy, infinite where it does not apply.
        reached: (seconds, best latency by then) of `search` within its budget.
        fresh: methods that were run now; the others are from the records.
        stale: methods whose records are of another cost model; their strategies were priced again.
        known_s: the lowest latency of all strategies on record, those of earlier runs included.
    """

    regime: str
    model: str
    cluster: str
    devices: int
    bound_s: float
    latency_s: dict[str, float]
    reached: tuple[tuple[float, float], ...] = ()
    fresh: frozenset[str] = field(default_factory=frozenset)
    stale: frozenset[str] = field(default_factory=frozenset)
    known_s: float = math.inf

    @property
    def best_s(self) -> float:
        """The lowest latency ever found."""
        return min(self.known_s, *self.latency_s.values())

    def best_other_s(self, *methods: str) -> float:
        """The lowest latency of all methods but these."""
        return min((s for method, s in self.latency_s.items() if method not in methods), default=math.inf)

    def ratio(self, method: str, other: str) -> float | None:
        """How many times the images per second of another method one has."""
        if method not in self.latency_s or not math.isfinite(self.latency_s.get(other, math.inf)):
            return None
        return self.latency_s[other] / self.latency_s[method]

    @property
    def auto_not_best(self) -> bool | None:
        """Whether another method is faster than `auto`; None if `auto` was not run."""
        if "auto" not in self.latency_s:
            return None
        return self.latency_s["auto"] > NOT_WORSE * self.best_other_s("auto")

    @property
    def search_gap(self) -> float | None:
        """By what share `search` misses the best known; None if either is not there."""
        if "search" not in self.latency_s or LONG not in self.latency_s:
            return None
        return self.latency_s["search"] / self.best_s - 1.0

    @property
    def search_s(self) -> float | None:
        """Seconds after which `search` was near the best known; infinite if its budget ended before."""
        if self.search_gap is None:
            return None
        near = [seconds for seconds, latency_s in self.reached if latency_s <= NEAR * self.best_s]
        return min(near, default=math.inf)

    @property
    def times_published(self) -> float | None:
        """Images per second of the search over those that DistrEdge reports."""
        published = ips(self.model, self.cluster, "distredge") if self.regime != "random" else None
        mine = self.latency_s.get("search", self.latency_s.get(LONG))
        return None if published is None or mine is None else 1.0 / mine / published

    @property
    def has_room(self) -> bool:
        """Whether the bound leaves room for the goal over what DistrEdge reports."""
        published = ips(self.model, self.cluster, "distredge")
        return published is not None and 1.0 / self.bound_s >= ROOM * GOAL * published


def published_ratio(model: str, cluster: str, method: str, *others: str) -> float | None:
    """Published images per second of a method over the best of some others; None where that cannot be read."""
    mine = ips(model, cluster, method)
    rivals = [value for other in others if (value := ips(model, cluster, other)) is not None]
    return None if mine is None or not rivals else mine / max(rivals)


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures by their agreed names; null where nothing of the kind was counted.

    `search_seconds_4` and `search_seconds_16` are null too if a case was not near the best known within its budget;
    `search_cases_not_near` says how many those are.
    """
    published = [o for o in outcomes if o.regime != "random"]
    drawn = [o for o in outcomes if o.regime == "random" and o.auto_not_best is not None]
    over_aofl = [r for o in published if o.regime == "paper" and (r := o.ratio("distredge", "aofl")) is not None]
    gaps = [o.search_gap for o in published if o.search_gap is not None]
    judged = [o for o in published if o.auto_not_best is not None]
    ours = _vgg(published, "ours")
    lossless = _vgg(published, "lossless")
    return {
        "cases": len({(o.model, o.cluster) for o in judged}),
        "case_regimes": len(judged),
        "auto_not_best": sum(bool(o.auto_not_best) for o in judged) if judged else None,
        "auto_gap_worst": max((o.latency_s["auto"] / o.best_other_s("auto") - 1 for o in judged), default=None),
        "search_cases": len(gaps),
        "search_gap_worst": max(gaps, default=None),
        "search_seconds_4": _longest([o for o in published if o.devices <= 4]),
        "search_seconds_16": _longest([o for o in published if o.devices > 4]),
        "search_cases_not_near": sum(o.search_s == math.inf for o in published),
        "distredge_over_aofl_cases": len(over_aofl),
        "distredge_over_aofl_min": min(over_aofl, default=None),
        "distredge_over_aofl_max": max(over_aofl, default=None),
        "ours_cases": len(ours),
        "ours_over_published_1_5x": _reached(ours),
        "lossless_cases": len(lossless),
        "lossless_over_published_1_5x": _reached(lossless),
        "bound_allows_1_5x": sum(o.has_room for o in ours) if ours else None,
        "ours_over_published_1_5x_where_bound_allows": _reached([o for o in ours if o.has_room]),
        "random_cases": len(drawn),
        "auto_not_best_random": sum(bool(o.auto_not_best) for o in drawn) if drawn else None,
        "stale": sum(bool(o.stale) for o in outcomes),
    }


def _vgg(outcomes: Sequence[Outcome], regime: str) -> list[Outcome]:
    return [o for o in outcomes if o.regime == regime and o.model == "vgg16" and o.times_published is not None]


def _reached(outcomes: Sequence[Outcome]) -> int | None:
    return sum((o.times_published or 0.0) >= GOAL for o in outcomes) if outcomes else None


def _longest(outcomes: Sequence[Outcome]) -> float | None:
    """Seconds until the last one was near; None if one was not within its budget."""
    longest = max((o.search_s for o in outcomes if o.search_s is not None), default=None)
    return None if longest == math.inf else longest
