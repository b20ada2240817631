"""What packing rows losslessly gains: the best lossless plan without it against the best with it, simulated.

Cases are those that DistrEdge publishes and the gigabit clusters that are shipped, all with links that share what they
carry. What was planned is kept, one JSON line a case, and priced again under today's cost model.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distredge.cluster import load_cluster, shipped_clusters
from distredge.errors import DistredgeError
from distredge.experiments.common import published
from distredge.experiments.common.fidelity_records import FOLDER
from distredge.experiments.common.records import compact, today
from distredge.experiments.common.regimes import PROFILE_SET, seconds_for
from distredge.latency import evaluate, offload_latency_s
from distredge.model.graph import Graph
from distredge.model.wires import EXACT_WIRES
from distredge.planners import plan
from distredge.planners.lower_bound import lower_bound_s
from distredge.problem import Problem
from distredge.strategy import Strategy

KEPT = FOLDER / "packed.jsonl"
PAYS = 1.15
"""A case counts where the best plan without packed wires is that much faster than the best single device."""

_GIGABIT = ("pi4x4", "pi4x8", "pi5x4", "nanox4", "pi4x4-wifi")
_GIGABIT_MODELS = ("vgg16", "resnet50", "mobilenet-v2")
PLAIN, PACKED = "float32", "float32-packed"

Load = Callable[[str], Graph]


def cases() -> list[tuple[str, str]]:
    """(Model, cluster): published ones, then gigabit ones, as far as they are shipped."""
    known = shipped_clusters()
    return published.cases() + [(m, c) for c in _GIGABIT if c in known for m in _GIGABIT_MODELS]


def lossless_problem(graph: Graph, cluster: str, wires: tuple[str, ...] | None = None) -> Problem:
    """A case with every option that leaves the output unchanged, links shared; None: all exact wires."""
    profile_set = PROFILE_SET if cluster not in (*_GIGABIT, "halp-pi4") else None
    found = dataclasses.replace(load_cluster(cluster, [graph], profile_set), link_model="shared")
    return Problem.lossless(graph, found, wires=wires or EXACT_WIRES)


def fill(load: Load, path: Path = KEPT, note: Callable[[str], None] = lambda text: None) -> None:
    """Plans what is not on record yet."""
    done = {(line["model"], line["cluster"]) for line in _read(path)}
    for model, cluster in cases():
        if (model, cluster) in done:
            continue
        note(f"packed wires: {model} on {cluster}")
        graph = load(model)
        without = lossless_problem(graph, cluster, (PLAIN,))
        packed = lossless_problem(graph, cluster)
        plans = {
            "without": compact(plan(without, "auto", seconds_for(without))),
            "packed": compact(plan(packed, "auto", seconds_for(packed))),
        }
        line = json.dumps({"model": model, "cluster": cluster, "date": today(), **plans}, separators=(",", ":"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def gains(load: Load, path: Path = KEPT) -> Iterator[tuple[str, float, float]]:
    """Case, how many times as fast as the best single device it is without packed wires, and what these gain.

    With packed wires the plan without them is still allowed, and so is the same with all its rows packed.
    """
    for line in _read(path):
        graph = load(line["model"])
        problem = lossless_problem(graph, line["cluster"])
        try:
            without = Strategy.from_json(json.dumps(line["without"]), "record")
            packed = Strategy.from_json(json.dumps(line["packed"]), "record")
            without_s = evaluate(problem, without)
            allowed = (packed, without, _with_wire(without, PACKED))
            best_s = min(evaluate(problem, strategy) for strategy in allowed)
        except DistredgeError:
            continue
        over_offload = offload_latency_s(problem) / without_s
        yield f"{line['model']} on {line['cluster']}", over_offload, without_s / best_s


def figures(load: Load, path: Path = KEPT) -> dict[str, Any]:
    """`packed_gain_mean` over the cases that count, each of them, and how many there are."""
    counted = {case: gain for case, over, gain in gains(load, path) if over >= PAYS}
    return {
        "packed_gain_mean": statistics.fmean(counted.values()) if counted else None,
        "packed_gain_min": min(counted.values(), default=None),
        "packed_gain_cases": len(counted),
        "packed_gain": {case: round(gain, 4) for case, gain in counted.items()},
    }


def pi4_figures(load: Load) -> dict[str, float]:
    """`search` over the lower bound, and HALP over one board, VGG-16 on three Raspberry Pi 4 (simulated, shared)."""
    graph = load("vgg16")
    problem = lossless_problem(graph, "halp-pi4")
    found_s = evaluate(problem, plan(problem, "search", seconds_for(problem)))
    published_like = dataclasses.replace(problem, input_dtypes=("float32",), wires=(PLAIN,))
    halp_s = evaluate(published_like, plan(published_like, "halp", budget_s=20.0))
    return {
        "search_over_bound_pi4": lower_bound_s(problem) / found_s,
        "search_speedup_pi4_simulated": offload_latency_s(problem) / found_s,
        "halp_speedup_pi4_simulated": offload_latency_s(published_like) / halp_s,
    }


def _with_wire(strategy: Strategy, wire: str) -> Strategy:
    return strategy.replace(volumes=tuple(dataclasses.replace(volume, wire=wire) for volume in strategy.volumes))


def _read(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found
