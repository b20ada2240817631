"""The regimes in which planners are compared, and the problems that they make of the published cases.

paper     float32 input, no overlap, independent links, the cluster's order of devices
shared    the same on links that share what they carry
ours      uint8 input, float16 between volumes (the papers' engines compute in float16), boundary rows first, order and
          subset of the devices free
lossless  as `ours` with float32 between volumes: the output is the whole model's

All of them on the boards of the set `distredge-paper`, which are calibrated to the published single-device figures.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from distredge.cluster import Cluster, LinkModel, load_cluster
from distredge.latency import evaluate
from distredge.model.graph import Graph
from distredge.model.rows import even_cuts
from distredge.model.wires import WIRE_NUMBERS
from distredge.problem import Problem
from distredge.strategy import Strategy

PROFILE_SET = "distredge-paper"
_FREE: dict[str, Any] = {"boundary_first": True, "free_order": True}
_OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {"free_order": False},
    "shared": {"free_order": False},
    "ours": {**_FREE, "allow_lossy": True, "wires": ("float32", "float16")},
    "lossless": _FREE,
}
REGIMES = tuple(_OPTIONS)


def make_problem(graph: Graph, cluster: Cluster, regime: str) -> Problem:
    """A model on a cluster under the rules of a regime; only models of images can be sent in uint8."""
    options = dict(_OPTIONS[regime])
    if regime in ("ours", "lossless") and graph.preprocess is not None:
        options["input_dtypes"] = ("uint8",)
    links: LinkModel = "shared" if regime == "shared" else "independent"
    return Problem(graph, dataclasses.replace(cluster, link_model=links), **options)


def published_problem(graph: Graph, case: str, regime: str) -> Problem:
    """One of the published cases."""
    return make_problem(graph, load_cluster(case, [graph], PROFILE_SET), regime)


def seconds_for(problem: Problem) -> float:
    """What `search` and `auto` are given: 1 s up to 4 devices, 5 s with more."""
    return 1.0 if len(problem.cluster.devices) <= 4 else 5.0


def fingerprint(problem: Problem) -> float:
    """Latency of one fixed strategy: figures that were found under another cost model are known by it."""
    graph, names = problem.graph, problem.cluster.names
    chosen = sorted({len(graph.cuts) * third // 3 - 1 for third in (1, 2, 3)} - {-1})
    volumes = [(index, even_cuts(graph.cuts[index].height, len(names))) for index in chosen]
    wire = min(problem.wires, key=WIRE_NUMBERS.__getitem__)
    strategy = Strategy.make(graph, names, volumes, head=names[0], input_dtype=problem.input_dtypes[0], wire=wire)
    first = [dataclasses.replace(v, boundary_first=problem.boundary_first) for v in strategy.volumes]
    return evaluate(problem, strategy.replace(volumes=tuple(first)))
