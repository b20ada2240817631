"""Is the output of a split the whole model's? Random strategies on many models, feature maps compared too.

    python experiments/exactness.py            every zoo model, reduced, and the graphs of the onnx package
    python experiments/exactness.py --quick    the same with fewer strategies and without the large graphs
    python experiments/exactness.py --all      also every zoo model at full size, and trained models from PyPI

Prints a table of models and ends with one JSON object: `models`, `strategies`, `worst_relative_error`. Exits 1 if an
error exceeds 1e-5. A model from PyPI that cannot be downloaded is left out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator

from distredge.errors import FileError
from distredge.experiments.common.exact import TOLERANCE, Comparison
from distredge.experiments.common.suite import Case, from_wheels, full_zoo, onnx_package, reduced_zoo

MAPS = 6
HEAVY_MACS = 20e9
"""Models above this are run under fewer strategies: random ones recompute a multiple of it."""


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


def measure(case: Case, count: int, seed: int, width: int) -> tuple[int, float]:
    """Prints one line of the table; returns the number of strategies and the largest relative error."""
    started_s = time.monotonic()
    graph = case.load()
    if sum(graph.macs) > HEAVY_MACS:
        count = min(count, 2)
    most_devices = 4 if sum(graph.macs) > HEAVY_MACS else 16
    comparison = Comparison(graph, seed, MAPS, case.inputs)
    errors = [error for _, error in comparison.random_errors(count, seed, most_devices)]
    size = "x".join(map(str, graph.input_shapes[0]))
    taken_s = time.monotonic() - started_s
    print(f"{case.name:<{width}}  {size:<16}  {count:>10}  {max(errors):>10.2e}  {taken_s:>6.1f}", flush=True)
    return count, max(errors)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer strategies and models (about a minute)")
    parser.add_argument("--all", action="store_true", help="full sizes and trained models too")
    parser.add_argument("--seed", type=int, default=0, help="of strategies and inputs")
    options = parser.parse_args()

    chosen = list(cases(options.quick, options.all))
    width = max(len(case.name) for case, _ in chosen)
    print(f"{'model':<{width}}  {'input':<16}  {'strategies':>10}  {'error':>10}  {'s':>6}")
    models, strategies, worst = 0, 0, 0.0
    for case, count in chosen:
        try:
            done, error = measure(case, count, options.seed, width)
        except FileError as reason:
            print(f"{case.name:<{width}}  left out: {reason}")
            continue
        models, strategies, worst = models + 1, strategies + done, max(worst, error)
    print(json.dumps({"models": models, "strategies": strategies, "worst_relative_error": worst}))
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
