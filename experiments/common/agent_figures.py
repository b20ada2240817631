"""Figures of the trained agent's quality: ratios to `search` on held-out cases, and times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distredge.experiments.common.agent_cases import AgentCase
from distredge.experiments.common.agent_held_out import ROOM, SETS, BaselineRun, EqualTimeRun
from distredge.experiments.common.agent_measuring import Measured

LABELS = {"four": "4", "sixteen": "16", "unseen": "unseen_models"}
"""What the keys of a set end with; of `unseen` it stands before `_mean` and `_worst`."""


@dataclass(frozen=True)
class Outcome:
    """One held-out case. Ratios are of images per second, the planner's over the search's; above 1 it is better.

    Attributes:
        part: set.
        case, model: its name, and its model's.
        room: images per second of `search` over those of the best single device.
        ratio: to `search` without the agent's starts, 1 s or 5 s.
        raw_ratio: the same of the best proposal, not polished; None: there is none.
        equal_time_ratio: to the same search in as much time; None: not on record.
        measured: times.
    """

    part: str
    case: str
    model: str
    room: float
    ratio: float
    raw_ratio: float | None
    equal_time_ratio: float | None
    measured: Measured

    @classmethod
    def of(
        cls, part: str, case: AgentCase, measured: Measured, baseline: BaselineRun, equal_time: EqualTimeRun | None
    ) -> Outcome:
        """Compares a planner with what is on record."""
        raw_s = measured.raw_latency_s
        equal_s = None if equal_time is None else equal_time_latency_s(equal_time, measured.least_ms)
        return cls(
            part=part,
            case=case.name,
            model=case.model,
            room=baseline.offload_latency_s / baseline.latency_s,
            ratio=baseline.latency_s / measured.latency_s,
            raw_ratio=None if raw_s is None else baseline.latency_s / raw_s,
            equal_time_ratio=None if equal_s is None else equal_s / measured.latency_s,
            measured=measured,
        )

    @property
    def has_room(self) -> bool:
        """Whether `search` beats the best single device by 15 %."""
        return self.room >= ROOM


def equal_time_latency_s(run: EqualTimeRun, allowed_ms: float) -> float:
    """What the search finds under the largest budget with which a call took at most so long, or under the smallest."""
    within = [k for k, call_ms in enumerate(run.call_ms) if call_ms <= allowed_ms]
    return run.latency_s[within[-1] if within else 0]


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of a run by key; None where nothing was measured."""
    figures: dict[str, Any] = {}
    for part in SETS:
        mine = [o for o in outcomes if o.part == part]
        label = LABELS[part]
        figures[f"agent_cases_{label}"] = len(mine)
        figures[f"agent_cases_{label}_room"] = sum(o.has_room for o in mine)
        for suffix, chosen in (("", mine), ("_room", [o for o in mine if o.has_room])):
            for kind, function in (("mean", np.mean), ("worst", np.min)):
                name = f"{label}_{kind}" if part == "unseen" else f"{kind}_{label}"
                figures[f"agent_ratio_{name}{suffix}"] = _of(function, (o.ratio for o in chosen))
            raw = (o.raw_ratio for o in chosen)
            figures[f"agent_ratio_raw_mean_{label}{suffix}"] = _of(np.mean, raw)
            equal = (o.equal_time_ratio for o in chosen)
            figures[f"agent_over_search_equal_time_{label}{suffix}"] = _of(np.mean, equal)
        times = [o.measured for o in mine]
        figures[f"agent_plan_ms_p95_{label}"] = _of(_p95, (t.warm_ms for t in times))
        figures[f"agent_plan_ms_p50_{label}"] = _of(np.median, (t.warm_ms for t in times))
        figures[f"agent_plan_cpu_ms_p95_{label}"] = _of(_p95, (t.warm_cpu_ms for t in times))
        figures[f"agent_plan_cold_ms_p95_{label}"] = _of(_p95, (t.cold_ms for t in times))
        figures[f"agent_plan_cold_cpu_ms_p95_{label}"] = _of(_p95, (t.cold_cpu_ms for t in times))
    with_room = [o for o in outcomes if o.has_room]
    figures["agent_ratio_raw_mean"] = _of(np.mean, (o.raw_ratio for o in outcomes))
    figures["agent_ratio_raw_mean_room"] = _of(np.mean, (o.raw_ratio for o in with_room))
    return figures


def table(outcomes: Sequence[Outcome]) -> str:
    """Rows for people: each set, its cases with room, each of its models, and the case where the planner is worst."""
    lines = [f"{'':<28}{'cases':>6}{'ratio':>9}{'worst':>9}{'raw':>9}{'same time':>11}{'warm ms':>9}{'cold ms':>9}"]
    for part in dict.fromkeys(o.part for o in outcomes):
        mine = [o for o in outcomes if o.part == part]
        lines.append(_row(part, mine))
        lines.append(_row("  with room", [o for o in mine if o.has_room]))
        for model in sorted({o.model for o in mine}):
            lines.append(_row(f"  {model}", [o for o in mine if o.model == model]))
        worst = min(mine, key=lambda o: o.ratio)
        lines.append(f"  worst: {worst.case}, {worst.model}, {worst.ratio:.3f}; room {worst.room:.2f}")
    return "\n".join(lines)


def _row(name: str, chosen: Sequence[Outcome]) -> str:
    cells = [
        _of(np.mean, (o.ratio for o in chosen)),
        _of(np.min, (o.ratio for o in chosen)),
        _of(np.mean, (o.raw_ratio for o in chosen)),
        _of(np.mean, (o.equal_time_ratio for o in chosen)),
        _of(_p95, (o.measured.warm_ms for o in chosen)),
        _of(_p95, (o.measured.cold_ms for o in chosen)),
    ]
    shown = [_cell(cell, width, digits) for cell, width, digits in zip(cells, _WIDTHS, _DIGITS, strict=True)]
    return f"{name:<28}{len(chosen):>6}{''.join(shown)}"


_WIDTHS = (9, 9, 9, 11, 9, 9)
_DIGITS = (3, 3, 3, 3, 1, 1)


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}"


def _of(function: Callable[..., Any], values: Iterable[float | None]) -> float | None:
    """A statistic of the values that there are, with five digits; None without any."""
    there = [value for value in values if value is not None]
    return float(f"{float(function(there)):.5g}") if there else None


def _p95(values: list[float]) -> float:
    return float(np.percentile(values, 95))
