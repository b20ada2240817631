from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

import distredge as de
from distredge.errors import ConfigError, PlannerError
from distredge.latency import offload_latency_s
from distredge.planners import METHODS, plan, resolve
from distredge.problem import Problem


@pytest.mark.parametrize("method", METHODS)
def test_every_name_stands_for_a_planner(method: str) -> None:
    planner = resolve(method)
    assert f"{planner.__module__}:{planner.__qualname__}" == METHODS[method]
    assert list(inspect.signature(planner).parameters) == ["problem", "budget", "seed"]


# The agent's strategies have tests of their own, where it is trained.
@pytest.mark.parametrize("method", [name for name in METHODS if name != "distredge"])
def test_every_method_signs_its_strategies(problem: Problem, method: str) -> None:
    planner = plan(problem, method, evaluations=1, seed=3).planner
    assert (planner.method, planner.seed) == (method, 3)


def test_unknown_method_names_the_closest() -> None:
    with pytest.raises(PlannerError, match="did you mean 'offload'"):
        resolve("ofload")


def test_naming_the_methods_imports_nothing_heavy() -> None:
    code = "import sys, distredge.planners; print('numpy' in sys.modules, 'distredge.latency' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_budget_of_zero_is_refused(problem: Problem) -> None:
    with pytest.raises(ConfigError, match="budget"):
        plan(problem, budget_s=0)


@pytest.mark.parametrize("seed", [-1, 1.5, True, 2**32, None, "1"])
def test_a_seed_that_is_none_is_refused(problem: Problem, seed: Any) -> None:
    with pytest.raises(ConfigError, match="plan: seed: found"):
        plan(problem, method="offload", seed=seed)


@pytest.mark.parametrize("method", [None, 3, ["offload"]])
def test_a_method_that_is_no_name_is_refused(problem: Problem, method: Any) -> None:
    with pytest.raises(PlannerError, match=r"plan: method: found .*, accepted: offload, "):
        plan(problem, method=method)


def test_prediction_stands_beside_the_strategy(problem: Problem) -> None:
    strategy = de.plan(problem, method="offload")
    assert strategy.predicted["latency_s"] == de.simulate(problem, strategy).latency_s
    assert strategy.predicted["latency_s"] == pytest.approx(offload_latency_s(problem), rel=1e-12)
