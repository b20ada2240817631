"""A model's file in ONNX Runtime against what Distredge makes of it: exact, lossy, refused, wrong or crashed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from distredge.errors import DistredgeError
from distredge.experiments.common.exact import TOLERANCE, Arrays, random_grid, random_strategy, run_whole
from distredge.model.capture import from_onnx
from distredge.model.graph import Graph
from distredge.runtime.in_process import run_in_process
from distredge.strategy import Strategy

Kind = Literal["exact", "lossy", "refused", "wrong", "crashed"]

LOSSY_ERROR = 1e-2
"""Largest error that a strategy may have that says that it is lossy: some steps of float16."""

NOTHING_TRUE = ("damaged, or against ONNX's rules",)
"""Refusals that say nothing about the model; of one that ONNX Runtime runs they count as crashes."""


@dataclass(frozen=True)
class Verdict:
    """What became of one model.

    Attributes:
        kind: "exact": the captured model and every split of it give the file's outputs; "lossy": the strategies say
            that they are lossy, and are off by no more than float16 is; "refused": when it was loaded; "wrong": outputs
            differ, "crashed": an error that no user should see.
        reason: of what is not exact.
        capture_error: relative error of the captured model against the file; NaN where it was not run.
        split_error: largest one of the splits; NaN without any.
        head_share: share of the multiply-adds that no strategy can split.
    """

    kind: Kind
    reason: str = ""
    capture_error: float = float("nan")
    split_error: float = float("nan")
    head_share: float = 0.0


class Unrunnable(Exception):
    """ONNX Runtime does not run the file, so that there is nothing to compare with."""


def run_file(model: onnx.ModelProto, inputs: Mapping[str, NDArray[Any]], optimised: bool = True) -> Arrays:
    """The outputs of a model as its file says, in ONNX Runtime on one thread.

    Args:
        model: as it was before capture.
        inputs: tensor name -> array, shape (N, C, H, W) or as the model says, and its dtype.
        optimised: whether the engine may optimise the graph.

    Raises:
        Unrunnable: if the engine refuses the model or fails.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        found = session.run(None, dict(inputs))
    except Exception as error:  # the engine's errors have no common class
        raise Unrunnable(" ".join(str(error).split())[:200]) from error
    return {value.name: array for value, array in zip(model.graph.output, found, strict=True)}


def error_between(right: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> float:
    """Largest difference over all outputs, relative to the largest finite magnitude of each.

    NaN and infinities must stand where they should; infinite where they do not, or a shape or dtype differs.

    Args:
        right: output name -> array, any shape (d0, d1, ...) and dtype.
        found: the same.
    """
    if set(right) != set(found):
        return float("inf")
    worst = 0.0
    for name, wanted in right.items():
        got = found[name]
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            return float("inf")
        if wanted.size == 0:
            continue
        a, b = wanted.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(a)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
            return float("inf")
        largest = float(np.abs(a[finite]).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / largest)
    return worst


def tolerance_of(model: onnx.ModelProto, inputs: Mapping[str, NDArray[Any]], right: Arrays) -> float:
    """What a captured model may be off: 1e-5, or twice the file's own distance with and without optimisation.

    Args:
        model: as it was before capture.
        inputs: tensor name -> array (N, C, H, W), or as the model says.
        right: what `run_file` gave.
    """
    try:
        own = error_between(right, run_file(model, inputs, optimised=False))
    except Unrunnable:
        return TOLERANCE
    return max(TOLERANCE, 2 * own) if np.isfinite(own) else TOLERANCE


def judge(
    model: onnx.ModelProto,
    inputs: Mapping[str, NDArray[Any]],
    right: Arrays,
    strategies: int,
    rng: np.random.Generator,
    tolerance: float = TOLERANCE,
) -> Verdict:
    """Loads a model, runs it whole and under random strategies, and compares with what is right.

    Args:
        model: as it was before capture.
        inputs: tensor name -> array (N, C, H, W), or as the model says.
        right: its outputs likewise.
        strategies: how many; every third is a grid where the model has columns.
        rng: of the strategies.
        tolerance: largest relative error of an exact one.
    """
    try:
        graph = from_onnx(model, name="model")
        share = head_share(graph)
    except DistredgeError as error:
        untrue = any(text in str(error) for text in NOTHING_TRUE)
        return Verdict("crashed" if untrue else "refused", f"{type(error).__name__}: {error}")
    except Exception as error:  # whatever escapes is what is looked for
        return Verdict("crashed", f"load: {type(error).__name__}: {error}")
    where, captured, worst = "the whole", float("nan"), float("nan")
    lossy = bool(graph.lossy_because)
    limit = max(LOSSY_ERROR, tolerance) if lossy else tolerance
    try:
        captured = error_between(right, run_whole(graph, inputs))
        if not captured <= limit:
            return Verdict("wrong", f"the captured model is {captured:.1e} off", captured, worst, share)
        for number in range(strategies if graph.cuts else 0):
            strategy = draw(graph, rng, number)
            where = brief(strategy)
            off = error_between(right, run_in_process(graph, strategy, inputs))
            worst = off if np.isnan(worst) else max(worst, off)
            if not off <= limit:
                return Verdict("wrong", f"{off:.1e} off under {where}", captured, worst, share)
            lossy = lossy or not strategy.lossless
    except Exception as error:  # likewise
        return Verdict("crashed", f"{where}: {type(error).__name__}: {_brief(error)}", captured, worst, share)
    return Verdict("lossy" if lossy else "exact", graph.lossy_because, captured, worst, share)


def _brief(error: Exception) -> str:
    """An error without the places in the engine's source."""
    text = " ".join(str(error).split())
    return re.sub(r"/\S+:\d+ \S+( \S+)* \S+::\S+\([^)]*\) ?", "", text)


def draw(graph: Graph, rng: np.random.Generator, number: int) -> Strategy:
    """Random strategy number `number` of a graph."""
    if number % 3 == 2 and graph.tensors[graph.cuts[-1].reference].width > 1:
        return random_grid(graph, rng)
    return random_strategy(graph, rng, 5, 4)


def brief(strategy: Strategy) -> str:
    """A strategy in one line."""
    volumes = [f"{v.reference} {list(v.rows)}{'' if v.columns is None else list(v.columns)}" for v in strategy.volumes]
    return f"{'; '.join(volumes)}, head on {strategy.head.device}"


def head_share(graph: Graph) -> float:
    """Share of the multiply-adds in operators of the head; 0 for a model without any."""
    total = sum(graph.macs)
    return sum(graph.macs[i] for i in graph.body.head) / total if total else 0.0


def reasons(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How often each reason was given, names and numbers left out, the most frequent first."""
    found = Counter(_without_names(verdict.reason) for verdict in verdicts)
    return dict(found.most_common())


def _without_names(reason: str) -> str:
    text = re.sub(r"'[^']*'", "'...'", reason)
    return re.sub(r"\d[\d., x]*", "N ", text).strip()[:160]
