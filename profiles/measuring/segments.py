"""Segments against the sum of their operators: random ones are timed, to correct a profile or to check it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out_decisions
from distredge.model.layout import Layout, Part
from distredge.model.operators import region_size
from distredge.model.volumes import Decision
from distredge.model.wires import FLOAT32_BYTES
from distredge.profiles.measuring.repeats import Series
from distredge.profiles.part_costs import PartCosts, edge_elements

_CHOSEN_OF = 4
"""Random split-parts for each that is chosen for its edge."""

if TYPE_CHECKING:
    from distredge.profiles.compute import ComputeProfile
    from distredge.profiles.measuring.bench import Bench, Effort


@dataclass(frozen=True)
class SegmentCase:
    """One segment of a model: a split-part of the volume between two cuts.

    Attributes:
        first, last: the volume starts after cut `first` (-1: at the input) and ends at cut `last`.
        rows: the split-part's rows of the volume's output.
        layout, part: what it computes.
        stage: its stage in the layout.
        drawn: whether it was drawn at random; else it was chosen for much of its time being spent at its edge.
    """

    first: int
    last: int
    rows: tuple[int, int]
    layout: Layout
    part: Part
    stage: int
    drawn: bool = True


@dataclass(frozen=True)
class Check:
    """A segment as measured, and what was predicted for it.

    Attributes:
        name: which.
        measured_s, predicted_s: seconds of it.
        sum_s: seconds of its operators, summed up.
        edge_bytes: bytes that enter and leave it, as `profiles.part_costs` counts them.
        drawn: whether it was drawn at random.
    """

    name: str
    measured_s: float
    predicted_s: float
    sum_s: float
    edge_bytes: int
    drawn: bool = True

    @property
    def error(self) -> float:
        """Signed relative error of the prediction."""
        return self.predicted_s / self.measured_s - 1.0


def random_cases(graph: Graph, count: int, seed: int) -> Iterator[SegmentCase]:
    """Yields random split-parts with a convolution in them: any two cuts, any rows, of any of one to four devices.

    Args:
        graph: the model.
        count: how many.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    cuts = graph.cuts
    found = 0
    for _ in range(50 * count):
        if found >= count:
            return
        last = int(rng.integers(len(cuts)))
        first = int(rng.integers(-1, last))
        devices = int(rng.integers(1, 5))
        height = cuts[last].height
        inner = np.sort(rng.integers(0, height + 1, devices - 1)).tolist()
        rows = (0, *inner, height)
        place = int(rng.integers(devices))
        case = make_case(graph, first, last, rows, place)
        if case is not None and any(graph.macs[item.operator] for item in case.part.operators):
            found += 1
            yield case


def edge_cases(graph: Graph, count: int, seed: int) -> list[SegmentCase]:
    """Returns split-parts in which starting, and what enters and leaves, take much of the time, the most so first.

    In most split-parts computing hides what these cost.

    Args:
        graph: the model.
        count: how many.
        seed: of the random ones among which they are chosen.
    """

    def products_per_element(case: SegmentCase) -> float:
        shares = (
            graph.macs[item.operator] * region_size(output, item.region) / max(1, math.prod(output.shape))
            for item in case.part.operators
            for output in [graph.tensors[graph.operators[item.operator].outputs[0]]]
        )
        return sum(shares) / max(1, edge_elements(graph, case.part))

    found = sorted(random_cases(graph, _CHOSEN_OF * count, seed), key=products_per_element)
    return [replace(case, drawn=False) for case in found[:count]]


def make_case(graph: Graph, first: int, last: int, rows: tuple[int, ...], place: int) -> SegmentCase | None:
    """Returns the first split-part of one device, or None when it has nothing to compute there."""
    cases = make_cases(graph, first, last, rows, place)
    return next((case for case in cases if case.layout.stages[case.stage].phase == 0), None)


def make_cases(graph: Graph, first: int, last: int, rows: tuple[int, ...], place: int) -> tuple[SegmentCase, ...]:
    """Returns the split-parts of one device of a volume, one for each of its phases in which there is work for it.

    Args:
        graph: the model.
        first: the volume starts after this cut; -1 is the input.
        last: it ends at this one.
        rows: cut points of the split decision, one more than there are devices.
        place: which device.
    """
    names = [f"d{i}" for i in range(len(rows) - 1)]
    decisions = []
    if first >= 0:
        height = graph.cuts[first].height
        decisions.append(Decision(graph.cuts[first], (0,) * len(names) + (height,)))
    decisions.append(Decision(graph.cuts[last], rows))
    if last < len(graph.cuts) - 1:
        height = graph.cuts[-1].height
        decisions.append(Decision(graph.cuts[-1], (0,) * len(names) + (height,)))
    layout = lay_out_decisions(graph, names, decisions, 0)
    volume = 1 if first >= 0 else 0
    return tuple(
        SegmentCase(first, last, (rows[place], rows[place + 1]), layout, part, stage.index)
        for stage in layout.stages
        if stage.volume == volume and (part := stage.parts[place]).operators
    )


class SegmentTimes:
    """Segments of one model that are timed in sweeps, so that the bursts of each lie apart.

    Args:
        bench: of the model.
        cases: what to time.
        effort: repeats of one burst.
    """

    def __init__(self, bench: Bench, cases: Iterable[SegmentCase], effort: Effort) -> None:
        self.bench = bench
        self.effort = effort
        self.cases = tuple(cases)
        self._series = [Series() for _ in self.cases]

    @property
    def timed(self) -> tuple[SegmentCase, ...]:
        """The segments that have a time."""
        return tuple(case for case, series in zip(self.cases, self._series, strict=True) if series.bursts)

    @property
    def unsettled(self) -> tuple[int, ...]:
        """Numbers of the segments that want another burst."""
        return tuple(index for index, series in enumerate(self._series) if not series.settled)

    def time(self, index: int) -> None:
        """Times one segment once more."""
        case = self.cases[index]
        segment = self.bench.segment(case.part, case.layout)
        sample = self.bench.run(segment, self.effort, kernels=False)
        self._series[index].add(sample.total_s, sample.counts)

    def checks(self, profile: ComputeProfile) -> list[Check]:
        """Compares what was timed with a profile's predictions."""
        graph = self.bench.graph
        costs = PartCosts(graph, profile)
        return [
            Check(
                f"{graph.name} {_cut_name(graph, case.first)}..{_cut_name(graph, case.last)} rows {case.rows}",
                series.seconds,
                costs.part_s(case.part),
                costs.operators_s(case.part),
                FLOAT32_BYTES * costs.edge_elements(case.part),
                case.drawn,
            )
            for case, series in zip(self.cases, self._series, strict=True)
            if series.bursts
        ]


def _cut_name(graph: Graph, cut: int) -> str:
    return graph.cuts[cut].reference if cut >= 0 else "input"
