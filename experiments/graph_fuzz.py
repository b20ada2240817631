"""Random models, whole operator list, under random strategies: is what comes out what ONNX Runtime makes of the file?

    python experiments/graph_fuzz.py                         20000 models
    python experiments/graph_fuzz.py --quick                 600 (about a minute)
    python experiments/graph_fuzz.py --seed 3 --graph 17 --out model.onnx   one of them again, written to a file

A model has one image of 1 to 3 spatial axes, an operator set from 7 to the newest that the installed `onnx` knows, and
some ten operators (`experiments/common/families.py`, `experiments/common/rare_families.py`).
Each is run in process under random strategies. Prints what went
wrong, a table, and one JSON object: `graphs`, `refused` (share, and how often each reason), `wrong` and `crashed` (the
numbers of the models), `lossy`, `head_share_worst`. Exits 1 if any is wrong or crashed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx

from distredge.experiments.common.against_file import Unrunnable, Verdict, judge, reasons, run_file, tolerance_of
from distredge.experiments.common.drawing import Drawing, newest_of_the_engine
from distredge.experiments.common.exact import Arrays
from distredge.experiments.common.families import FAMILIES, classifier
from distredge.experiments.common.rare_families import RARE_FAMILIES
from distredge.model.draft import reads

OLDEST_OPSET = 7
QUICK, USUAL = 600, 20_000
STRATEGIES = 4
MOST_STEPS = 9


@dataclass(frozen=True)
class Drawn:
    """A model, an input, its right outputs, and the families that it was drawn from."""

    model: onnx.ModelProto
    inputs: Arrays
    right: Arrays
    tolerance: float
    kinds: tuple[str, ...]


def draw(seed: int, number: int) -> Drawn:
    """Model `number` of a seed; each depends on these two numbers alone."""
    for attempt in range(100):
        rng = np.random.default_rng((seed, number, attempt))
        opset = int(rng.integers(OLDEST_OPSET, onnx.defs.onnx_opset_version() + 1))
        rank = int(rng.choice([1, 2, 2, 2, 2, 2, 2, 3]))
        sizes = [int(size) for size in rng.integers(5, 9 if rank == 3 else 18, rank)]
        drawing = Drawing(rng, opset, (1, int(rng.integers(1, 7)), *sizes))
        for _ in range(int(rng.integers(2, MOST_STEPS + 1))):
            drawing.step(drawing.choose(*FAMILIES, *RARE_FAMILIES))
        if drawing.chance(0.3):
            drawing.step(classifier)
        if len(drawing.maps) == 1:
            continue
        outputs = drawing.outputs()
        model = drawing.model(outputs)
        inputs = drawing.inputs
        # An operator set that the engine does not know yet says the same of these operators as the newest it does.
        known = drawing.model(outputs, min(opset, newest_of_the_engine()))
        try:
            right = run_file(known, inputs)
        except Unrunnable:
            continue
        return Drawn(model, inputs, right, tolerance_of(known, inputs, right), tuple(drawing.kinds))
    raise RuntimeError(f"seed {seed}, graph {number}: nothing could be drawn")


def examine(seed: int, number: int) -> tuple[Drawn, Verdict]:
    """Draws one model and judges it."""
    drawn = draw(seed, number)
    rng = np.random.default_rng((seed, number))
    return drawn, judge(drawn.model, drawn.inputs, drawn.right, STRATEGIES, rng, drawn.tolerance)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} models instead of {USUAL}")
    parser.add_argument("--seed", type=int, default=0, help="of models, inputs and strategies")
    parser.add_argument("--graphs", type=int, help="how many models")
    parser.add_argument("--graph", type=int, help="this one alone, node by node")
    parser.add_argument("--out", help="with --graph: write the model to this file")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # of operator sets that stay as they are
    if options.out and options.graph is None:
        parser.error("--out is for one model: give --graph N too")
    if options.graph is not None:
        return show(options.seed, options.graph, options.out)
    count = options.graphs or (QUICK if options.quick else USUAL)
    started_s = time.monotonic()
    found: list[tuple[Drawn, Verdict]] = []
    for number in range(count):
        found.append(examine(options.seed, number))
        drawn, verdict = found[-1]
        if verdict.kind in ("wrong", "crashed"):
            print(f"graph {number} {verdict.kind} (opset {_opset(drawn.model)}): {verdict.reason[:300]}", flush=True)
    _print_table(found)
    print(f"{count} models in {time.monotonic() - started_s:.0f} s")
    figures = summary(options.seed, [verdict for _, verdict in found])
    print(json.dumps(figures))
    return 1 if figures["wrong"] or figures["crashed"] else 0


def summary(seed: int, verdicts: list[Verdict]) -> dict[str, object]:
    """The last line: counts, and the numbers of those that went wrong."""
    kinds: dict[str, list[int]] = {kind: [] for kind in ("exact", "lossy", "refused", "wrong", "crashed")}
    for number, verdict in enumerate(verdicts):
        kinds[verdict.kind].append(number)
    compared = [v for v in verdicts if v.kind == "exact"]
    shares = [(v.head_share, number) for number, v in enumerate(verdicts)]
    return {
        "seed": seed,
        "graphs": len(verdicts),
        "refused": len(kinds["refused"]) / len(verdicts),
        "refused_because": reasons(verdicts[number] for number in kinds["refused"]),
        "lossy": len(kinds["lossy"]),
        "wrong": len(kinds["wrong"]),
        "crashed": len(kinds["crashed"]),
        "wrong_graphs": kinds["wrong"],
        "crashed_graphs": kinds["crashed"],
        "crashed_because": reasons(verdicts[number] for number in kinds["crashed"]),
        "worst_capture_error": max((v.capture_error for v in compared), default=0.0),
        "worst_relative_error": max((v.split_error for v in compared if v.split_error == v.split_error), default=0.0),
        "not_split": sum(v.split_error != v.split_error for v in compared),
        "head_share_worst": max(shares, default=(0.0, 0))[0],
        "head_share_worst_graph": max(shares, default=(0.0, 0))[1],
    }


def _print_table(found: list[tuple[Drawn, Verdict]]) -> None:
    """A line per family: in how many models it is, and what became of these."""
    columns = ("exact", "lossy", "refused", "wrong", "crashed")
    counts: dict[str, Counter[str]] = {}
    for drawn, verdict in found:
        for kind in set(drawn.kinds):
            counts.setdefault(kind, Counter())[verdict.kind] += 1
    print(f"{'family':<24}{'models':>8}" + "".join(f"{column:>9}" for column in columns))
    for kind, row in sorted(counts.items()):
        print(f"{kind:<24}{sum(row.values()):>8}" + "".join(f"{row[column] or '':>9}" for column in columns))


def show(seed: int, number: int, out: str | None) -> int:
    """One model again, ended where it first goes wrong: its nodes and what became of it."""
    drawn, verdict = examine(seed, number)
    model, reason = drawn.model, verdict.reason
    if verdict.kind in ("refused", "wrong", "crashed"):
        model, reason = shortest(drawn, verdict)
    print(onnx.printer.to_text(model.graph))
    print(f"opset {_opset(model)}, tolerance {drawn.tolerance:.1e}")
    print(f"{verdict.kind}: {reason}")
    if out:
        onnx.save(model, out)
    print(json.dumps({"seed": seed, "graph": number, "kind": verdict.kind, "reason": verdict.reason}))
    return 1 if verdict.kind in ("wrong", "crashed") else 0


def shortest(drawn: Drawn, verdict: Verdict) -> tuple[onnx.ModelProto, str]:
    """The model ended at the first tensor at which the same kind of thing happens, and its reason; else the whole."""
    for node in drawn.model.graph.node:
        model = _ended_at(drawn.model, node.output[0], _opset(drawn.model))
        known = _ended_at(drawn.model, node.output[0], min(_opset(drawn.model), newest_of_the_engine()))
        try:
            right = run_file(known, drawn.inputs)
        except Unrunnable:
            continue
        rng = np.random.default_rng(0)
        found = judge(model, drawn.inputs, right, 4 * STRATEGIES, rng, drawn.tolerance)
        if found.kind == verdict.kind:
            return model, found.reason
    return drawn.model, verdict.reason


def _ended_at(whole: onnx.ModelProto, output: str, opset: int) -> onnx.ModelProto:
    """What of a model makes one tensor."""
    model = onnx.ModelProto()
    model.CopyFrom(whole)
    model.opset_import[0].version = opset
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(output))
    needed = {output}
    for node in reversed(whole.graph.node):
        if needed & set(node.output):
            needed |= reads(node)
    for parts in (model.graph.node, model.graph.initializer):
        for part in list(parts):
            names = part.output if isinstance(part, onnx.NodeProto) else [part.name]
            if not needed & set(names):
                parts.remove(part)
    return model


def _opset(model: onnx.ModelProto) -> int:
    return int(model.opset_import[0].version)


if __name__ == "__main__":
    sys.exit(main())
