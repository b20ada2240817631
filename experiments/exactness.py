"""Is the output of a split the whole model's, and the whole model's that of the user's file?

    python experiments/exactness.py            every zoo model, reduced, the graphs of the onnx package, every kind
    python experiments/exactness.py --quick    the same with fewer strategies and without the large graphs
    python experiments/exactness.py --all      also every zoo model at full size, and trained models from PyPI

Random strategies on many models, feature maps compared too. The column "against the original file" is what was captured
against ONNX Runtime on the file, where there is one: zoo models are written as graphs. A kind is a small model with one
thing that people's files have (`experiments/common/kinds.py`); it may also be lossy or refused, with the reason.

Prints a table and ends with one JSON object: `models`, `strategies`, `worst_relative_error`, `worst_capture_error`,
`head_share_worst` (and of which model), and the names of those that are `lossy`, `refused`, `wrong` or `crashed`. Exits
1 if any is wrong or crashed: an error exceeds 1e-5, or twice the distance between the file's own runs with and without
the engine's graph optimisation where that is larger. A model from PyPI that cannot be downloaded is left out, with the
reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from distredge.errors import FileError
from distredge.experiments.common.against_file import (
    Unrunnable,
    Verdict,
    error_between,
    head_share,
    judge,
    run_file,
    tolerance_of,
)
from distredge.experiments.common.drawing import newest_of_the_engine
from distredge.experiments.common.exact import TOLERANCE, Comparison, run_whole
from distredge.experiments.common.kinds import Kind, kinds
from distredge.experiments.common.suite import Case, from_wheels, full_zoo, onnx_package, reduced_zoo

MAPS = 6
HEAVY_MACS = 20e9
"""Models above this are run under fewer strategies: random ones recompute a multiple of it."""

NAN = float("nan")


@dataclass
class Summary:
    """What the last line says."""

    models: int = 0
    strategies: int = 0
    worst_relative_error: float = 0.0
    worst_capture_error: float = 0.0
    head_share_worst: float = 0.0
    head_share_worst_model: str = ""
    lossy: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)

    def add(self, name: str, strategies: int, verdict: Verdict) -> None:
        """Counts a model; errors of what is lossy by its own word are no errors."""
        self.models += 1
        self.strategies += strategies
        if verdict.kind != "exact":
            getattr(self, verdict.kind).append(name)
        if verdict.kind in ("exact", "wrong"):
            self.worst_relative_error = max(self.worst_relative_error, np.nan_to_num(verdict.split_error, posinf=1e9))
            self.worst_capture_error = max(self.worst_capture_error, np.nan_to_num(verdict.capture_error, posinf=1e9))
        if verdict.head_share > self.head_share_worst:
            self.head_share_worst, self.head_share_worst_model = verdict.head_share, name


def cases(quick: bool, everything: bool) -> Iterator[tuple[Case, int]]:
    """Models, each with the number of strategies to try."""
    small = ("squeezenet", "shufflenet", "inception_v1", "inception_v2")
    for case in reduced_zoo():
        yield case, 3 if quick else 10
    for case in onnx_package():
        if not quick:
            yield case, 5
        elif case.name.removeprefix("onnx ") in small:
            yield case, 2
    if everything:
        for case in full_zoo():
            yield case, 5
        for case in from_wheels():
            yield case, 5


def measure(case: Case, count: int, seed: int) -> tuple[int, str, Verdict]:
    """Runs one model under strategies; returns their number, the input's size, and what became of it."""
    graph = case.load()
    if sum(graph.macs) > HEAVY_MACS:
        count = min(count, 2)
    most_devices = 4 if sum(graph.macs) > HEAVY_MACS else 16
    comparison = Comparison(graph, seed, MAPS, case.inputs)
    split = max(error for _, error in comparison.random_errors(count, seed, most_devices))
    captured, tolerance = NAN, TOLERANCE
    if case.original is not None:
        model = case.original()
        right = run_file(model, comparison.inputs)
        captured = error_between(right, run_whole(graph, comparison.inputs))
        tolerance = tolerance_of(model, comparison.inputs, right)
    right_too = not captured > tolerance and split <= TOLERANCE
    size = "x".join(map(str, graph.input_shapes[0]))
    return count, size, Verdict("exact" if right_too else "wrong", "", captured, split, head_share(graph))


def measure_kind(kind: Kind, count: int, seed: int) -> tuple[int, str, Verdict]:
    """The same for a small model of one kind, which may be refused."""
    size = "x".join(map(str, kind.inputs["x"].shape))
    known = kind.model(newest_of_the_engine())
    right = run_file(known, kind.inputs)
    tolerance = tolerance_of(known, kind.inputs, right)
    verdict = judge(kind.model(), kind.inputs, right, count, np.random.default_rng(seed), tolerance)
    return 0 if verdict.kind == "refused" else count, size, verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer strategies and models (about a minute)")
    parser.add_argument("--all", action="store_true", help="full sizes and trained models too")
    parser.add_argument("--seed", type=int, default=0, help="of strategies and inputs")
    options = parser.parse_args()

    summary = Summary()
    print(
        f"{'model':<32}  {'input':<16}  {'strategies':>10}  {'error':>8}  {'against the original file':>25}  {'s':>5}"
    )
    for case, count in cases(options.quick, options.all):
        started_s = time.monotonic()
        try:
            done = measure(case, count, options.seed)
        except FileError as reason:
            print(f"{case.name:<32}  left out: {reason}")
            continue
        summary.add(case.name, done[0], done[2])
        _print_row(case.name, *done, time.monotonic() - started_s)
    for kind in kinds():
        started_s = time.monotonic()
        try:
            done = measure_kind(kind, 4 if options.quick else 15, options.seed)
        except Unrunnable as reason:
            print(f"{kind.name:<32}  left out: {reason}")
            continue
        summary.add(kind.name, done[0], done[2])
        _print_row(kind.name, *done, time.monotonic() - started_s)
    print(json.dumps(vars(summary)))
    return 1 if summary.wrong or summary.crashed else 0


def _print_row(name: str, strategies: int, size: str, verdict: Verdict, taken_s: float) -> None:
    errors = [f"{e:.2e}" if e == e else "" for e in (verdict.split_error, verdict.capture_error)]
    said = "" if verdict.kind == "exact" else f"  {verdict.kind.upper()} {verdict.reason[:200]}"
    print(
        f"{name:<32}  {size:<16}  {strategies:>10}  {errors[0]:>8}  {errors[1]:>25}  {taken_s:>5.1f}{said}", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
