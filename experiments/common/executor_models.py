"""Models on two workers against one core: everything that is compared runs in turn, in short phases of one run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from distredge.cluster import Cluster, load_cluster
from distredge.experiments.common.executor_children import Child, child
from distredge.experiments.common.executor_messages import tcp_pair
from distredge.experiments.common.executor_path import computed_in, critical_path_s, overhead, speedup_bound
from distredge.experiments.common.executor_plain import Case, model, plain_model
from distredge.experiments.common.executor_workers import Figure, Running, noise_for, own_cores, running
from distredge.experiments.common.fidelity_records import PROFILE
from distredge.model.graph import Graph
from distredge.model.rows import even_cuts
from distredge.planners import plan
from distredge.problem import Problem
from distredge.profiles.compute import THIS_MACHINE, ComputeProfile, load_profile
from distredge.runtime.deployment import Deployment, deploy
from distredge.strategy import Strategy
from distredge.timeline import Timeline

NAMES = ("worker-0", "worker-1")
TCP_BYTES = 3 << 20
"""In pieces of which raw TCP's rate is measured."""

TCP_TIMES = 8
WARM_UP = 3
MOST_FRAMES = 60
"""Of a phase: workers keep the records of the latest ones only."""

PLANNING_S = 1.0


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds in which everything is run in turn, seconds of each of its phases, and frames of a
    strategy that is tried."""

    rounds: int
    phase_s: float
    tried: int


@dataclass
class Measured:
    """One model, measured.

    Attributes:
        seconds: "plain" (ONNX Runtime alone on one core), "both" (two of these at the same time, a core each), "one"
            (a single worker), "two" and "two_curve" (two workers) -> seconds of each frame; "before_head" as "plain",
            of what is split.
        overheads: "two" and "two_curve" -> of each frame, `executor_path.overhead`.
        tcp_bytes_per_s: raw TCP in the same rounds.
        chosen: what was run on two workers.
        tried: name of each strategy -> best seconds on two workers in plaintext.
        auto_devices: how many devices `auto` uses.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    overheads: dict[str, list[float]] = field(default_factory=dict)
    tcp_bytes_per_s: float = 0.0
    chosen: str = ""
    tried: dict[str, float] = field(default_factory=dict)
    auto_devices: int = 0

    def figure(self, name: str) -> Figure:
        """Median and best of one of `seconds`."""
        return Figure.of(self.seconds[name])

    @property
    def one_core(self) -> Figure:
        """One core at its best: the faster of a single worker and of ONNX Runtime alone."""
        return min(self.figure("plain"), self.figure("one"), key=lambda figure: figure.median)

    @property
    def both_cores_ratio(self) -> float:
        """How much of its speed a core keeps while the other one computes the same."""
        return self.figure("plain").median / self.figure("both").median

    def speedup(self, name: str) -> Figure:
        """One core's seconds over those of two workers, medians and bests."""
        two, one = self.figure(name), self.one_core
        return Figure(one.median / two.median, one.best / two.best)

    def speedup_bound(self, split_speedup: float) -> float:
        """`executor_path.speedup_bound` if what is split gets so much faster; by ONNX Runtime's best."""
        return speedup_bound(self.figure("plain").best, self.figure("before_head").best, split_speedup)


def this_machine(graph: Graph) -> Cluster:
    """Two workers and the requester on this computer, by the profile of the fidelity campaign's records.

    Where that is missing or lacks an operator of the graph, by the one that `distredge profile run` keeps.
    """
    profile = ComputeProfile.load(PROFILE) if PROFILE.is_file() else None
    signatures = [signature for signature in graph.signatures if signature is not None]
    if profile is None or not all(map(profile.covers, signatures)):
        profile = load_profile(THIS_MACHINE)
    shipped = load_cluster(THIS_MACHINE)
    devices = tuple(dataclasses.replace(device, profile=profile) for device in shipped.devices[: len(NAMES)])
    requester = dataclasses.replace(shipped.requester, profile=profile)
    return dataclasses.replace(shipped, devices=devices, requester=requester, encrypted=False)


@functools.cache
def candidates(graph: Graph) -> dict[str, Strategy]:
    """Strategies for two workers, rows and input float32, of which the fastest when tried is measured.

    The planner's, without and with what others wait for computed first, and halves of the rows in volumes of equal
    numbers of operators.
    """
    cluster = this_machine(graph)
    found = {}
    for name, first in (("search", False), ("search, boundary first", True)):
        strategy = plan(Problem(graph, cluster, boundary_first=first), "search", PLANNING_S)
        if len(deploy(graph, strategy).busy) == len(NAMES):
            found[name] = strategy
    return found | {f"halves in {volumes}": halves(graph, volumes) for volumes in (1, 3, 5, 8)}


def halves(graph: Graph, volumes: int) -> Strategy:
    """Half of the rows for each of two workers, in volumes of about as many operators; the head on the first."""
    ends = sorted({round((len(graph.cuts) - 1) * (k + 1) / volumes) for k in range(volumes)})
    rows = [(end, even_cuts(graph.cuts[end].height, len(NAMES))) for end in ends]
    return Strategy.make(graph, NAMES, rows, head=NAMES[0])


def auto_devices(graph: Graph) -> int:
    """How many devices `auto` uses of two workers of this machine."""
    strategy = plan(Problem(graph, this_machine(graph), boundary_first=True), "auto", PLANNING_S)
    return len(deploy(graph, strategy).busy)


def alone(graph: Graph) -> Deployment:
    """The whole model on the first worker."""
    last = len(graph.cuts) - 1
    strategy = Strategy.make(graph, NAMES[:1], [(last, [0, graph.cuts[last].height])], head=NAMES[0])
    return deploy(graph, strategy)


def best_tried(workers: Running, deployments: Mapping[str, Deployment], frames: int) -> tuple[str, dict[str, float]]:
    """Runs some frames of each; returns the fastest and the best seconds of all.

    The best, since a disturbance of a moment meets one and not the other.
    """
    tried = {}
    for name, deployment in deployments.items():
        workers.coordinator.deploy(deployment)
        inputs = noise_for(deployment)
        workers.latencies_s(inputs, 2)
        tried[name] = Figure.of(workers.latencies_s(inputs, frames)).best
    return min(tried, key=tried.__getitem__), tried


def measure_case(case: Case, effort: Effort) -> Measured:
    """Measures a model on one core and on two workers, in turn."""
    graph = model(case.model, case.end)
    deployments = {name: deploy(graph, strategy) for name, strategy in candidates(graph).items()}
    found = Measured(auto_devices=auto_devices(graph))
    with ExitStack() as stack:
        two = stack.enter_context(running(next(iter(deployments.values()))))
        found.chosen, found.tried = best_tried(two, deployments, effort.tried)
        chosen = deployments[found.chosen]
        two.coordinator.deploy(chosen)
        split = {"two": two, "two_curve": stack.enter_context(running(chosen, encrypted=True))}
        one = stack.enter_context(running(alone(graph)))
        cores = own_cores().workers
        plain = [stack.enter_context(child(plain_model, [core], case.model, case.end)) for core in cores]
        inputs = noise_for(chosen)
        runs: dict[str, Callable[[int], list[float]]] = {
            "plain": plain[0].ask,
            "both": functools.partial(_at_once, plain),
            "one": functools.partial(one.latencies_s, inputs),
            **{name: functools.partial(workers.latencies_s, inputs) for name, workers in split.items()},
        }
        if case.before_head:
            headless = stack.enter_context(child(plain_model, cores[:1], case.model, case.before_head))
            runs["before_head"] = headless.ask
        _measure_in_turn(found, runs, split, chosen, effort, stack.enter_context(tcp_pair(TCP_BYTES)))
    return found


def _measure_in_turn(
    found: Measured,
    runs: Mapping[str, Callable[[int], list[float]]],
    split: Mapping[str, Running],
    deployment: Deployment,
    effort: Effort,
    tcp: Callable[[int], list[float]],
) -> None:
    counts = {
        name: min(MOST_FRAMES, max(2, round(effort.phase_s / Figure.of(run(WARM_UP)).median)))
        for name, run in runs.items()
    }
    tcp(WARM_UP)
    tcp_s: list[float] = []
    for number in range(effort.rounds):
        tcp_s += tcp(TCP_TIMES)
        found.tcp_bytes_per_s = TCP_BYTES / Figure.of(tcp_s).median
        # Whoever comes first finds the caches and the processor's clock as the one before left them.
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            latencies_s = runs[name](counts[name])
            found.seconds.setdefault(name, []).extend(latencies_s)
            if name in split:
                timeline = split[name].coordinator.timeline(counts[name])
                shares = overheads_of(timeline, deployment, latencies_s, found.tcp_bytes_per_s)
                found.overheads.setdefault(name, []).extend(shares)


def overheads_of(
    timeline: Timeline, deployment: Deployment, latencies_s: Sequence[float], bytes_per_s: float
) -> list[float]:
    """The share of each frame's latency that its critical path does not explain.

    Args:
        timeline: of these frames.
        deployment: that ran.
        latencies_s: of each frame, as the requester saw it.
        bytes_per_s: of raw TCP.
    """
    computed = computed_in(timeline, deployment.devices)
    return [
        overhead(latency_s, critical_path_s(deployment.messages, stages, bytes_per_s))
        for latency_s, stages in zip(latencies_s, computed, strict=True)
    ]


def _at_once(models: Sequence[Child], count: int) -> list[float]:
    for one in models:
        one.tell(count)
    found: list[float] = []
    for one in models:
        found += one.answer()
    return found
