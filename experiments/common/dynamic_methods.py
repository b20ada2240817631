"""Who follows the links of `dynamic_network`: what each plans from, when it plans again, and what that costs it."""

from __future__ import annotations

import functools
import math
import shutil
import tempfile
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distredge.experiments.common.digests import agent_digest
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

PRESET = "osds"
"""Of its hyper-parameters: as published."""

ADAPTIVE = ("agent", "search")
"""Ours, of which the better one is held against the clairvoyant."""


def methods(quick: bool) -> tuple[list[Method], list[str]]:
    """Returns the methods that there are, as before any image, and a note on each that is missing."""
    trained_s, tuned_s = (TRAINED_S / 3, TUNED_S / 2) if quick else (TRAINED_S, TUNED_S)
    osds = {"preset": PRESET, "trained_s": trained_s, "tuned_s": tuned_s}
    found = [
        Method("offload", _planner("offload"), rest_s=RULES_REST_S),
        Method("coedge", _planner("coedge"), rest_s=RULES_REST_S),
        Method("aofl", _planner("aofl"), rest_s=RULES_REST_S),
        Method("aofl_10min", _planner("aofl"), 60.0, 0.25, charged_s=AOFL_BRUTE_FORCE_S),
        Method("distredge", FineTuned(trained_s, tuned_s), 120.0, 0.25, depends_on=osds),
        Method("search_once", _planner("search", SEARCH_S), threshold=math.inf, depends_on=_search(SEARCH_S)),
        Method(
            "search_20ms", _planner("search", SHORT_SEARCH_S), 0.0, 0.1, SHORT_REST_S, has_memory=True,
            depends_on=_search(SHORT_SEARCH_S),
        ),
        Method(
            "search", _planner("search", SEARCH_S), 5.0, 0.15, SEARCH_REST_S, has_memory=True,
            depends_on=_search(SEARCH_S),
        ),
    ]  # fmt: skip
    if "agent" in METHODS:
        agent = Method(
            "agent", _planner("agent"), 0.0, 0.1, SHORT_REST_S, has_memory=True, depends_on={"agent": agent_digest()}
        )
        return [*found, agent], []
    return found, ["agent: there is no such method in this version; search with 20 ms stands nearest to it"]


def _search(budget_s: float) -> dict[str, Any]:
    """What a search depends on: it begins from what the shipped agent proposes."""
    return {"budget_s": budget_s, "agent": agent_digest()}


def _planner(name: str, budget_s: float = 20.0) -> functools.partial[Strategy]:
    return functools.partial(_plan, name, budget_s)


def _plan(name: str, budget_s: float, problem: Problem) -> Strategy:
    """By the processor's clock: what other programs do meanwhile changes neither the plan nor what it is charged."""
    return run(problem, name, Budget(budget_s, clock=time.process_time))


class FineTuned:
    """OSDS as published: trained for the first rates, and from then on its training goes on for those of now.

    Args:
        trained_s: processor seconds of the first training.
        tuned_s: of each later one.
    """

    def __init__(self, trained_s: float, tuned_s: float) -> None:
        self._trained_s = trained_s
        self._tuned_s = tuned_s
        self._agent: Path | None = None

    def __call__(self, problem: Problem) -> Strategy:
        from distredge.agents import osds
        from distredge.agents.settings import TrainingConfig
        from distredge.agents.training import run_training

        before, seconds = self._agent, self._trained_s if self._agent is None else self._tuned_s
        config = TrainingConfig(model=problem.graph.name, cluster=problem.cluster.name, preset=PRESET, budget_s=seconds)
        budget = Budget(seconds, clock=time.process_time)
        env = osds.make_env([problem], config)
        trained = run_training(env, config, trained_agent=before, budget=budget)
        if self._agent is None:
            folder = tempfile.mkdtemp(prefix="distredge-osds-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._agent = Path(folder) / "model.zip"
        trained.agent.save(self._agent)
        return osds.found_strategy(problem, config, trained)
