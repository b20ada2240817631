"""The demo's last step: a photograph on an emulated cluster on which distributing pays, predicted and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median

from distredge.cluster import Cluster, Device, Link, Requester
from distredge.experiments.common.fidelity_beds import Bed
from distredge.experiments.common.fidelity_strategies import computing, error_of, inputs_for
from distredge.latency import evaluate
from distredge.model.capture import load_model
from distredge.planners import plan
from distredge.problem import Problem
from distredge.profiles.compute import THIS_MACHINE, ComputeProfile, load_profile

BOARDS, RATE_BPS = 4, 50e6
FRAMES = 15
PLANNING_S = 2.0

OpenBed = Callable[[Cluster], AbstractContextManager[Bed]]


@dataclass(frozen=True)
class Tried:
    """One plan on the emulated boards.

    Attributes:
        what: it is, for people.
        boards: that compute.
        measured_s, predicted_s: latency, median of the valid frames.
        difference: from the whole model's output, relative to its largest value.
        dilation: by which everything was slowed down.
    """

    what: str
    boards: int
    measured_s: float
    predicted_s: float
    difference: float
    dilation: float


def cluster_of(profile: ComputeProfile) -> Cluster:
    """Four boards behind links of 50 Mbit/s, and a requester whose own link never limits."""
    link = Link(RATE_BPS, None, 0.0003, 0.001)
    devices = tuple(Device(f"board-{k}", profile, link, link) for k in range(BOARDS))
    return Cluster("demo", Requester(profile=profile), devices, link_model="shared", encrypted=True)


def open_bed(cluster: Cluster) -> AbstractContextManager[Bed]:
    """A testbed, in network namespaces for root, else on loopback."""
    from distredge.testbed.testbed import Testbed

    bed: AbstractContextManager[Bed] = Testbed(cluster)
    return bed


def tried(model: str, profile: ComputeProfile, bed_of: OpenBed = open_bed) -> Iterator[Tried]:
    """The best single board, then `auto`'s plan, both lossless, one after the other on the same boards."""
    graph = load_model(model)
    problem = Problem.lossless(graph, cluster_of(profile))
    plans = {
        "the best single board": plan(problem, "offload"),
        "auto's plan": plan(problem, "auto", PLANNING_S),
    }
    with bed_of(problem.cluster) as bed:
        for what, strategy in plans.items():
            inputs = inputs_for(graph, strategy)
            found = bed.measure(problem, strategy, inputs, FRAMES)
            apart = error_of(graph, strategy, inputs, found.outputs)
            latency_s, boards = median(found.latencies_s), computing(strategy)
            yield Tried(what, boards, latency_s, evaluate(problem, strategy), apart, found.dilation)


def show(model: str) -> float:
    """Prints both, and by how much the plan is faster; returns the larger difference from the whole model's output."""
    found = []
    for one in tried(model, load_profile(THIS_MACHINE)):
        found.append(one)
        boards = f"{one.boards} board{'s' if one.boards > 1 else ''}"
        print(
            f"{one.what + ', ' + boards:<34} measured {1e3 * one.measured_s:7.2f} ms, predicted "
            f"{1e3 * one.predicted_s:7.2f} ms ({100 * (one.predicted_s / one.measured_s - 1):+.1f} %)",
            flush=True,
        )
    alone, shared = found
    apart = max(one.difference for one in found)
    print(
        f"measured {alone.measured_s / shared.measured_s:.2f} times as fast as one board, predicted "
        f"{alone.predicted_s / shared.predicted_s:.2f} times; outputs within {apart:.1g} of the whole model's"
    )
    print(
        f"emulated {max(one.dilation for one in found):.2f} times slower than the boards that it stands for, and "
        "calculated back: this machine computes for all of them"
    )
    return apart
