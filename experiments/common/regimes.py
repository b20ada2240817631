"""The regimes in which planners are compared, and the problems that they make of the published cases.

paper             `Problem.as_published`: float32 input, no overlap, independent links, the cluster's order of devices
shared            the same on links that share what they carry
ours              uint8 input, float16 between volumes (the papers' engines compute in float16), boundary rows first,
                  order and subset of the devices free, independent links
lossless          `Problem.lossless` under independent links: the output is the whole model's
shared-lossless   `Problem.lossless` on links that share what they carry, packed rows among its options: what every
                  command plans under unless it is told otherwise

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
DEFAULT = "shared-lossless"
REGIMES = ("paper", "shared", "ours", "lossless", DEFAULT)
_ON_SHARED_LINKS = ("shared", DEFAULT)


def make_problem(graph: Graph, cluster: Cluster, regime: str) -> Problem:
    """A model on a cluster under the rules of a regime; only models of images can be sent in uint8."""
    links: LinkModel = "shared" if regime in _ON_SHARED_LINKS else "independent"
    if regime in ("paper", "shared"):
        return Problem.as_published(graph, cluster, links)
    options: dict[str, Any] = {"allow_lossy": True, "wires": ("float32", "float16")} if regime == "ours" else {}
    return Problem.lossless(graph, dataclasses.replace(cluster, link_model=links), **options)


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
