"""HALP's dynamic model selection, live: on three emulated Raspberry Pi 4 behind a wireless link whose rate varies.

    python experiments/bench/selection.py [--quick] [--seed N]

The boards of `halp-pi4` have their cables; the requester's link is wireless, 25 Mbit/s in the mean, and follows a
Gauss-Markov process (experiments/common/selection_channel.py). A picture is asked about every 150 ms and is to be
answered within 100 ms. Every way of doing that runs on the same boards over the same rates, one after the other:

    selection        for each frame the most accurate variant of MobileNet-V1 that is predicted to be in time, each
                     split by `auto`; the rates of the moment are learnt from the frames themselves
    selection alone  the same with every variant on the best single board
    VARIANT          one variant, split by `auto`
    VARIANT alone    one variant on the best single board

`selection_reliability` is the share of the frames that were in time, `mean_accuracy` the mean of these.
`standalone_reliability` is that of the most reliable variant alone that is at least as accurate as selection is in the
mean; `standalone_full_reliability` of the most accurate one, HALP's comparison (arXiv 2207.11294);
`standalone_least_reliability` of whichever is most reliable, however inaccurate: where even the slowest rate leaves
time for the smallest one, that cannot be surpassed. Frames in which this machine was too slow for a board's pace do not
count. All seven variants take a quarter of an hour. Prints a table and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from distredge.cluster import Cluster, Link, Requester, load_cluster
from distredge.experiments.common.selection_channel import trace_of
from distredge.latency import offload
from distredge.model.capture import load_model
from distredge.planners import plan
from distredge.planners.deadline_reliability import Channel
from distredge.planners.live_selection.selector import Selector
from distredge.planners.model_choice import MOBILENET_V1
from distredge.problem import Problem
from distredge.strategy import Strategy
from distredge.testbed import Testbed
from distredge.testbed.variants import Variants

LIMIT_S: Final = 0.1
PERIOD_S: Final = 0.15
CHANNEL: Final = Channel(mean_bps=25e6, spread_bps=10e6, least_bps=6e6)
MESSAGE_S: Final = 0.0001
"""Fixed cost of a message on the wireless link, as on the boards' own."""

QUICK: Final = ("mobilenet-v1-1.0-224", "mobilenet-v1-1.0-160", "mobilenet-v1-1.0-128")
WARM_UP: Final = 2


@dataclass
class Outcome:
    """What one way of doing it got."""

    latencies_s: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    taken: Counter[str] = field(default_factory=Counter)
    invalid: int = 0
    switches: int = 0

    @property
    def reliability(self) -> float:
        """Share of the frames that were in time."""
        return sum(s <= LIMIT_S for s in self.latencies_s) / max(1, len(self.latencies_s))

    @property
    def mean_accuracy(self) -> float:
        """Of the frames that were in time; 0 without any."""
        met = [a for a, s in zip(self.accuracies, self.latencies_s, strict=True) if s <= LIMIT_S]
        return sum(met) / len(met) if met else 0.0


class Bench:
    """Everything that stands on the boards.

    Args:
        standing: variants split, then the same alone.
        cluster: as the requester sees it.
        names: of the variants.
        plans: of all that stands, problem and strategy.
        seconds: of the channel for each way.
    """

    def __init__(
        self,
        standing: Variants,
        cluster: Cluster,
        names: Sequence[str],
        plans: Sequence[tuple[Problem, Strategy]],
        seconds: float,
    ) -> None:
        self._standing, self._cluster, self._names = standing, cluster, tuple(names)
        self._plans, self._seconds = plans, seconds

    def fixed(self, name: str, alone: bool) -> Outcome:
        """One variant for all frames."""
        index = self._index(self._names.index(name), alone)
        outcome = Outcome()
        self._run(outcome, lambda _: index, lambda *_: None)
        return outcome

    def selection(self, alone: bool) -> Outcome:
        """The variant of the moment for each frame."""
        outcome = Outcome()
        problems = [self._plans[self._index(k, alone)] for k in range(len(self._names))]
        selector = Selector(self._cluster, problems, [MOBILENET_V1[name] for name in self._names], LIMIT_S)
        self._standing.begin()
        for k in range(len(self._names)):
            for _ in range(WARM_UP):
                frame = self._standing.run(self._index(k, alone))
            selector.ended(k, frame.latency_s, frame.timeline, self._now_s())
        expected: dict[int, float] = {}

        def choose(now_s: float) -> int:
            choice, predicted_s = selector.choose(now_s)
            expected[choice.index] = predicted_s
            return self._index(choice.index, alone)

        def ended(index: int, latency_s: float, timeline: object) -> None:
            k = index % len(self._names)
            selector.ended(k, latency_s, timeline, self._now_s(), expected[k])  # type: ignore[arg-type]

        selector.switches = 0
        self._run(outcome, choose, ended)
        outcome.switches = selector.switches
        return outcome

    def _run(
        self, outcome: Outcome, choose: Callable[[float], int], ended: Callable[[int, float, object], None]
    ) -> None:
        self._standing.begin()
        due_s = 0.0
        while due_s < self._seconds:
            wait_s = (due_s - self._now_s()) * self._standing.dilation
            if wait_s > 0:
                time.sleep(wait_s)
            index = choose(self._now_s())
            frame = self._standing.run(index)
            ended(index, frame.latency_s, frame.timeline)
            name = self._names[index % len(self._names)]
            if frame.valid:
                outcome.latencies_s.append(frame.latency_s)
                outcome.accuracies.append(MOBILENET_V1[name])
                outcome.taken[name] += 1
            else:
                outcome.invalid += 1
            # A picture that comes while another one is under way waits for the next turn.
            due_s = PERIOD_S * max(round(due_s / PERIOD_S) + 1, int(np.ceil(self._now_s() / PERIOD_S)))

    def _index(self, variant: int, alone: bool) -> int:
        return variant + len(self._names) * alone

    def _now_s(self) -> float:
        return self._standing.now_s(time.monotonic())


def boards(seconds: float | None, seed: int) -> Cluster:
    """Returns the cluster; the wireless link varies over so many seconds, or, with None, has its mean."""
    found = load_cluster("halp-pi4")
    trace = None if seconds is None else trace_of(CHANNEL, seconds, seed)
    rate_bps = CHANNEL.mean_bps if trace is None else trace.mean_bps
    link = Link(rate_bps, trace, MESSAGE_S)
    requester = Requester(uplink=link, downlink=link, profile=found.devices[0].profile)
    return dataclasses.replace(found, requester=requester, link_model="shared", encrypted=True)


def main() -> None:
    """Measures, prints and ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three variants and two minutes")
    parser.add_argument("--seed", type=int, default=0, help="of the channel; default: 0")
    options = parser.parse_args()
    names = QUICK if options.quick else tuple(MOBILENET_V1)
    seconds = 10.0 if options.quick else 40.0
    began_s = time.monotonic()
    known = boards(None, options.seed)
    problems = [Problem.lossless(load_model(name), known) for name in names]
    plans = [(problem, plan(problem, "auto", 1.0)) for problem in problems]
    plans += [(problem, offload(problem)[0]) for problem in problems]
    with Testbed(boards(seconds, options.seed)) as bed:
        standing = bed.stand([(problem, strategy, _noise(problem, strategy)) for problem, strategy in plans])
        bench = Bench(standing, bed.cluster, names, plans, seconds)
        up_s = time.monotonic() - began_s
        print(f"{len(names)} variants twice, dilation {standing.dilation:.3g}; up after {up_s:.0f} s", flush=True)
        print(f"{'':<28}{'in time':>9}{'accuracy':>10}{'median ms':>11}{'frames':>8}{'invalid':>9}{'switches':>10}")
        outcomes: dict[str, Outcome] = {}
        for alone_or_not, end in ((False, ""), (True, " alone")):
            ways = {f"selection{end}": partial(bench.selection, alone_or_not)}
            ways |= {f"{name}{end}": partial(bench.fixed, name, alone_or_not) for name in names}
            for label, measure in ways.items():
                outcomes[label] = measure()
                show(label, outcomes[label])
    alone = {name: outcomes[f"{name} alone"] for name in names}
    largest = max(names, key=MOBILENET_V1.__getitem__)
    mean_accuracy = outcomes["selection"].mean_accuracy
    print(
        json.dumps(
            {
                "selection_reliability": outcomes["selection"].reliability,
                "standalone_reliability": max(
                    one.reliability for name, one in alone.items() if MOBILENET_V1[name] >= mean_accuracy - 1e-9
                ),
                "mean_accuracy": mean_accuracy,
                "switches": outcomes["selection"].switches,
                "standalone_full_reliability": alone[largest].reliability,
                "standalone_least_reliability": max(one.reliability for one in alone.values()),
                "standalone_selection_reliability": outcomes["selection alone"].reliability,
                "standalone_selection_mean_accuracy": outcomes["selection alone"].mean_accuracy,
                "reliability": {name: one.reliability for name, one in outcomes.items()},
                "accuracy_in_time": {name: one.mean_accuracy for name, one in outcomes.items()},
                "frames": {name: len(one.latencies_s) for name, one in outcomes.items()},
                "invalid": sum(one.invalid for one in outcomes.values()),
                "limit_s": LIMIT_S,
                "dilation": standing.dilation,
                "mode": bed.mode,
                "seconds": round(time.monotonic() - began_s, 1),
            }
        )
    )


def show(label: str, one: Outcome) -> None:
    """Prints the line of one way."""
    middle_ms = 1e3 * float(np.median(one.latencies_s)) if one.latencies_s else float("nan")
    print(
        f"{label:<28}{100 * one.reliability:>8.1f}%{100 * one.mean_accuracy:>9.1f}%{middle_ms:>11.1f}"
        f"{len(one.latencies_s):>8}{one.invalid:>9}{one.switches:>10}",
        flush=True,
    )


def _noise(problem: Problem, strategy: Strategy) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    graph = problem.graph
    (name,) = graph.input_names
    shape = graph.tensors[name].shape
    if strategy.input.pixels:
        return {name: rng.integers(0, 256, shape).astype(strategy.input.element_dtype)}
    return {name: rng.standard_normal(shape, dtype=np.float32)}


if __name__ == "__main__":
    main()
