"""Who follows the links of `dynamic_network`: what each plans from, when it plans again, and what that costs it."""

from __future__ import annotations

import functools
import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from distredge.experiments.common.dynamic_replay import Method
from distredge.planners import METHODS, run
from distredge.planners.budget import Budget

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Strategy

SEARCH_S, SHORT_SEARCH_S = 1.0, 0.02
AOFL_BRUTE_FORCE_S = 600.0
"""What DistrEdge's authors report of AOFL's partition search, which they implemented as brute force (section V-G)."""

RULES_REST_S, SHORT_REST_S, SEARCH_REST_S = 5.0, 1.0, 19.0
"""Pauses between plans: a controller that plans all the time is none that runs beside the images."""

TRAINED_S, TUNED_S = 60.0, 20.0
"""Processor seconds of OSDS before the first image, and at each shift; the paper says 20 to 210 s for the latter."""

ADAPTIVE = ("agent", "search")
"""Ours, of which the better one is held against the clairvoyant."""


def methods(quick: bool) -> tuple[list[Method], list[str]]:
    """Returns the methods that there are, and a note on each that is missing."""
    found = [
        Method("offload", _planner("offload"), rest_s=RULES_REST_S),
        Method("coedge", _planner("coedge"), rest_s=RULES_REST_S),
        Method("aofl", _planner("aofl"), rest_s=RULES_REST_S),
        Method("aofl_10min", _planner("aofl"), 60.0, 0.25, charged_s=AOFL_BRUTE_FORCE_S),
        Method("distredge", _osds(quick), 120.0, 0.25),
        Method("search_once", _planner("search", SEARCH_S), threshold=math.inf),
        Method("search_20ms", _planner("search", SHORT_SEARCH_S), 0.0, 0.1, SHORT_REST_S, has_memory=True),
        Method("search", _planner("search", SEARCH_S), 5.0, 0.15, SEARCH_REST_S, has_memory=True),
    ]
    if "agent" in METHODS:
        found.append(Method("agent", _planner("agent"), 0.0, 0.1, SHORT_REST_S, has_memory=True))
        return found, []
    return found, ["agent: there is no such method in this version; search with 20 ms stands nearest to it"]


def _planner(name: str, budget_s: float = 20.0) -> functools.partial[Strategy]:
    return functools.partial(_plan, name, budget_s)


def _plan(name: str, budget_s: float, problem: Problem) -> Strategy:
    """By the processor's clock: what other programs do meanwhile changes neither the plan nor what it is charged."""
    return run(problem, name, Budget(budget_s, clock=time.process_time))


def _osds(quick: bool) -> FineTuned:
    return FineTuned(TRAINED_S / 3, TUNED_S / 2) if quick else FineTuned(TRAINED_S, TUNED_S)


class FineTuned:
    """OSDS: trained for the first rates, and from then on the trained agent's training goes on for those of now.

    Args:
        trained_s: processor seconds of the first training.
        tuned_s: of each later one.
    """

    def __init__(self, trained_s: float, tuned_s: float) -> None:
        self._trained_s = trained_s
        self._tuned_s = tuned_s
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self, problem: Problem) -> Strategy:
        from distredge.agents import osds
        from distredge.agents.settings import TrainingConfig
        from distredge.agents.training import run_training

        before: Path | None = None
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="distredge-osds-")
        else:
            before = Path(self._folder.name) / "model.zip"
        config = TrainingConfig(model=problem.graph.name, cluster=problem.cluster.name)
        until_s = time.process_time() + (self._trained_s if before is None else self._tuned_s)
        trained = run_training(
            osds.make_env([problem], config),
            config,
            should_stop=lambda: time.process_time() >= until_s,
            trained_agent=before,
        )
        trained.agent.save(Path(self._folder.name) / "model.zip")
        return osds.found_strategy(problem, config, trained)
