"""An hour replayed image by image: the plan in force at its start, under the rates as they are then.

A planner sees what lies before an image (`dynamic_links.seen_rates`, smoothed where it asks for that), begins to plan
when a link's estimate has moved by more than its threshold since its last plan, and until it is done, by the processor
time that it really takes, the plan before stays in force. A method with a memory also chooses anew before each image
among the plans that it knows by then (`planners.agent.online.PlanMemory`); the image waits for that. Before the first
image it plans for links that fail, which nobody waits for either.

A plan that is made may also take time until it can run, since the workers get weights and build engines (`swap_s`): it
comes into force that much later. What a method knows by then is loaded and costs nothing: of a memory all its plans,
without one the plan in force.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distredge.cluster import Cluster, Link
from distredge.experiments.common.dynamic_links import LEAST_BPS, image_times, seen_rates, smoothed
from distredge.latency.kernel.kernel import Kernel
from distredge.model.graph import Graph
from distredge.planners.agent.online import MOST_PLANS, PlanMemory, at_rates, with_failures
from distredge.problem import Problem
from distredge.profiles.network import Trace
from distredge.strategy import PlannerRef, Strategy

Floats = NDArray[np.float64]
MakeProblem = Callable[[Graph, Cluster], Problem]
Plan = Callable[[Problem], Strategy]

WARM_UP_S = 60.0
"""Before the first image: its mean is what the first plans, which nobody waits for, are made from."""


class Hour:
    """Images that start one after the other on links that change.

    Args:
        graph: the model.
        cluster: its devices; their links get the traces.
        traces: one a device, for both directions.
        make_problem: of a graph and a cluster.
        until_s: end of the last image's interval.
        every_s: seconds between images, and over which rates are seen.
        warm_up_s: start of the first image's interval.

    Attributes:
        problem: under the traces.
        kernel: of that.
        times_s: (n,) when images start.
        seen_bps: (n, D) rates seen before each.
    """

    def __init__(
        self,
        graph: Graph,
        cluster: Cluster,
        traces: Sequence[Trace],
        make_problem: MakeProblem,
        until_s: float,
        every_s: float,
        warm_up_s: float = WARM_UP_S,
    ) -> None:
        self._make_problem = make_problem
        self.every_s = every_s
        self.problem = make_problem(graph, _on_traces(cluster, traces))
        self.kernel = Kernel(graph, (self.problem.cluster,))
        self.times_s = image_times(warm_up_s, until_s, every_s)
        self.seen_bps = seen_rates(traces, self.times_s, every_s)
        self.before_bps = seen_rates(traces, np.array([warm_up_s]), warm_up_s)[0]
        self.now_bps = np.array([[trace.rate_at(t) for trace in traces] for t in self.times_s.tolist()])
        self._true: dict[str, Floats] = {}
        self.known: dict[str, Strategy] = {}

    def problem_at(self, rates_bps: Floats) -> Problem:
        """The problem with links of constant rates, (D,)."""
        return self._make_problem(self.problem.graph, at_rates(self.problem.cluster, rates_bps))

    def estimates(self, time_constant_s: float) -> Floats:
        """(n, D) what a planner takes for the rates at each image."""
        return smoothed(self.seen_bps, self.every_s, time_constant_s, self.before_bps)

    def true_s(self, strategy: Strategy) -> Floats:
        """(n,) latency of each image with a strategy."""
        key = key_of(strategy)
        if key not in self._true:
            self.known[key] = strategy
            self._true[key] = self._price(self.kernel, strategy, start_s=self.times_s)
        return self._true[key]

    def expected_s(self, strategy: Strategy) -> Floats:
        """(n,) latency of each image with a strategy if rates stayed as they were last seen."""
        return self._price(self._as_seen, strategy, cluster=np.arange(len(self.times_s)))

    @functools.cached_property
    def _as_seen(self) -> Kernel:
        cluster = self.problem.cluster
        return Kernel(self.problem.graph, [at_rates(cluster, rates) for rates in self.seen_bps])

    def _price(self, kernel: Kernel, strategy: Strategy, **options: Any) -> Floats:
        encoded = kernel.encode([strategy])
        many: dict[str, Any] = {
            key: np.repeat(value, len(self.times_s), axis=0)
            for key, value in encoded.items()
            if isinstance(value, np.ndarray)
        }
        return kernel.latency_s(**{**many, **options})


@dataclass(frozen=True)
class Method:
    """How a method follows the links.

    Attributes:
        name: for tables.
        plan: makes a strategy for constant rates.
        time_constant_s: of the mean that it takes for the rates.
        threshold: share by which one link's must have moved before it plans again; infinite: never.
        rest_s: between the end of one plan and the begin of the next, at least.
        has_memory: whether it chooses anew before each image among its plans.
        charged_s: what planning is charged with instead of what it takes.
        swap_s: seconds between the end of planning and when a plan that is not loaded can run.
        depends_on: what else decides its plans, plain data.
    """

    name: str
    plan: Plan
    time_constant_s: float = 5.0
    threshold: float = 0.1
    rest_s: float = 0.0
    has_memory: bool = False
    charged_s: float | None = None
    swap_s: float = 0.0
    depends_on: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Replay:
    """What came of it.

    Attributes:
        latency_s: (n,) of each image.
        replans: plans that were begun after the first.
        planning_s: processor seconds that each took, as charged, without what the workers need.
        choice_s: what an image waits for a choice among known plans.
        in_force: the strategy of each image, by its place in `strategies`.
        strategies: all that were made.
        alone_s: (n,) latency of each image with the plan made last, where a memory chose among them; else empty.
    """

    latency_s: Floats
    replans: int = 0
    planning_s: list[float] = field(default_factory=list)
    choice_s: float = 0.0
    in_force: list[int] = field(default_factory=list)
    strategies: list[Strategy] = field(default_factory=list)
    alone_s: Floats = field(default_factory=lambda: np.empty(0))


def replay(hour: Hour, method: Method, clock: Callable[[], float] = time.process_time) -> Replay:
    """Runs a method through an hour.

    Args:
        hour: images and links.
        method: who plans.
        clock: seconds that planning is charged by.
    """
    estimates = hour.estimates(method.time_constant_s)
    planned_for = hour.before_bps
    force = _Force(hour, method)
    if method.has_memory:
        for rates_bps in with_failures(planned_for, LEAST_BPS):
            force.add(method.plan(hour.problem_at(rates_bps)), stays=True)
    force.add(method.plan(hour.problem_at(planned_for)))
    found = Replay(np.empty(len(hour.times_s)))
    alone_s = np.empty(len(hour.times_s))
    pending: tuple[float, Strategy] | None = None
    rests_until_s = 0.0
    for k, now_s in enumerate(hour.times_s.tolist()):
        if pending is not None and pending[0] <= now_s:
            force.add(pending[1])
            pending = None
        moved = np.abs(estimates[k] / planned_for - 1).max() > method.threshold
        if pending is None and moved and now_s >= rests_until_s:
            planned_for = estimates[k]
            began_s = clock()
            strategy = method.plan(hour.problem_at(planned_for))
            took_s = clock() - began_s if method.charged_s is None else method.charged_s
            swap_s = 0.0 if force.has_loaded(strategy) else method.swap_s
            pending = now_s + took_s + swap_s, strategy
            rests_until_s = now_s + took_s + method.rest_s
            found.replans += 1
            found.planning_s.append(took_s)
        found.in_force.append(force.chosen(k))
        found.latency_s[k] = force.true_s[found.in_force[-1]][k]
        alone_s[k] = force.true_s[force.newest][k]
    found.strategies = force.strategies
    if method.has_memory:
        found.alone_s = alone_s
        kept = dict.fromkeys([*force.stay, *range(max(0, len(force.strategies) - MOST_PLANS), len(force.strategies))])
        found.choice_s = choice_seconds(hour, [force.strategies[number] for number in kept], clock)
        found.latency_s += found.choice_s
    return found


class _Force:
    """Plans that a method knows by now, and which of them runs: the last, or of a memory the fastest as rates were."""

    def __init__(self, hour: Hour, method: Method) -> None:
        self._hour = hour
        self._has_memory = method.has_memory
        self.strategies: list[Strategy] = []
        self.true_s: list[Floats] = []
        self._keys: dict[str, int] = {}
        self._recent: list[int] = []
        self._expected: dict[int, Floats] = {}
        self.newest = 0
        self.stay: list[int] = []

    def add(self, strategy: Strategy, stays: bool = False) -> None:
        key = key_of(strategy)
        if key not in self._keys:
            self._keys[key] = len(self.strategies)
            self.strategies.append(strategy)
            self.true_s.append(self._hour.true_s(strategy))
        self.newest = self._keys[key]
        if self._has_memory and self.newest not in self._expected:
            self._expected[self.newest] = self._hour.expected_s(strategy)
        if stays:
            self.stay.append(self.newest)
        else:
            self._use(self.newest)

    def has_loaded(self, strategy: Strategy) -> bool:
        """Whether a strategy is among those that the workers keep."""
        number = self._keys.get(key_of(strategy))
        return number is not None and number in ([*self.stay, *self._recent] if self._has_memory else [self.newest])

    def chosen(self, k: int) -> int:
        """The strategy of image k."""
        if self._has_memory:
            best = min([*self.stay, *self._recent], key=lambda number: float(self._expected[number][k]))
            if best in self.stay:
                return best
            self._use(best)
        return self._recent[-1]

    def _use(self, number: int) -> None:
        if number in self._recent:
            self._recent.remove(number)
        self._recent.append(number)
        if len(self._recent) > MOST_PLANS:
            oldest = self._recent.pop(0)
            if oldest not in self.stay:
                self._expected.pop(oldest, None)


def choice_seconds(hour: Hour, strategies: Sequence[Strategy], clock: Callable[[], float], times: int = 25) -> float:
    """Median seconds of a choice among strategies, measured on the memory that a deployment would ask."""
    memory = PlanMemory(hour.problem, len(strategies))
    for strategy in strategies:
        memory.add(strategy)
    took = []
    for k in np.linspace(0, len(hour.seen_bps) - 1, times).astype(int):
        began_s = clock()
        memory.best(hour.seen_bps[k])
        took.append(clock() - began_s)
    return float(np.median(took))


def key_of(strategy: Strategy) -> str:
    """What tells strategies apart, wherever they come from."""
    return strategy.replace(predicted={}, planner=PlannerRef()).to_json()


def _on_traces(cluster: Cluster, traces: Sequence[Trace]) -> Cluster:
    def on(link: Link, trace: Trace) -> Link:
        return dataclasses.replace(link, rate_bps=None, trace=trace)

    devices = tuple(
        dataclasses.replace(device, uplink=on(device.uplink, trace), downlink=on(device.downlink, trace))
        for device, trace in zip(cluster.devices, traces, strict=True)
    )
    return dataclasses.replace(cluster, devices=devices)
