"""What is said of a model that is compared with its file; random models; the kinds on which exactness is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from distredge.errors import EngineError
from distredge.experiments import exactness, graph_fuzz
from distredge.experiments.common import against_file
from distredge.experiments.common.against_file import (
    TOLERANCE,
    Unrunnable,
    Verdict,
    error_between,
    judge,
    reasons,
    run_file,
    tolerance_of,
)
from distredge.experiments.common.drawing import Drawing, newest_of_the_engine
from distredge.experiments.common.families import FAMILIES, UNARY, classifier, convolution, normalisation, resize
from distredge.experiments.common.kinds import kinds
from distredge.experiments.common.rare_families import RARE_FAMILIES, refusable
from distredge.model.operators import RULES

SHAPE = (1, 3, 11, 9)


def drawn(*steps: Any, opset: int = 17, seed: int = 0) -> Drawing:
    """A drawing of exactly these families, each taken until it is kept."""
    drawing = Drawing(np.random.default_rng(seed), opset, SHAPE)
    for family in steps:
        assert any(drawing.step(family) for _ in range(200)), family.__name__
    return drawing


def judged(drawing: Drawing, **changes: Any) -> Verdict:
    model = drawing.model(drawing.outputs())
    right = run_file(model, drawing.inputs)
    rng = np.random.default_rng(1)
    return judge(model, drawing.inputs, **{"right": right, "strategies": 3, "rng": rng, **changes})


def test_an_exact_model() -> None:
    verdict = judged(drawn(convolution, convolution))
    assert (verdict.kind, verdict.reason) == ("exact", "")
    assert 0 <= verdict.capture_error <= TOLERANCE
    assert 0 <= verdict.split_error <= TOLERANCE


def test_outputs_that_differ_are_wrong() -> None:
    drawing = drawn(convolution)
    right = run_file(drawing.model(drawing.outputs()), drawing.inputs)
    verdict = judged(drawing, right={name: array * np.float32(1.001) for name, array in right.items()})
    assert verdict.kind == "wrong"
    assert verdict.capture_error == pytest.approx(1e-3, rel=0.01)
    assert "the captured model is 1.0e-03 off" in verdict.reason


def test_a_split_that_differs_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    real = against_file.run_in_process
    monkeypatch.setattr(
        against_file, "run_in_process", lambda *given: {n: a + np.float32(1) for n, a in real(*given).items()}
    )
    verdict = judged(drawn(convolution))
    assert verdict.kind == "wrong"
    assert verdict.capture_error <= TOLERANCE < verdict.split_error
    assert " off under t" in verdict.reason


def test_an_error_while_a_frame_runs_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: Any) -> None:
        raise EngineError("no kernel")

    monkeypatch.setattr(against_file, "run_in_process", fail)
    verdict = judged(drawn(convolution))
    assert verdict.kind == "crashed"
    assert "EngineError: no kernel" in verdict.reason


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (onnx.checker.ValidationError("bad"), "crashed"),
        (against_file.DistredgeError("model: damaged, or against ONNX's rules: KeyError: 'x'"), "crashed"),
        (against_file.DistredgeError("model: node 'n' (Scan): control flow"), "refused"),
    ],
)
def test_a_refusal_that_says_nothing_is_a_crash(error: Exception, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_given: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(against_file, "from_onnx", refuse)
    assert judged(drawn(convolution)).kind == kind


def test_what_no_strategy_can_run_is_refused() -> None:
    found = {judged(drawn(convolution, refusable, seed=seed)).reason.split("(")[1].split(")")[0] for seed in range(8)}
    assert found == {"QuantizeLinear", "NonZero"}


def test_errors_see_shapes_dtypes_names_and_what_is_not_finite() -> None:
    right = {"y": np.array([1.0, np.nan, np.inf, -4.0], np.float32)}
    assert error_between(right, {"y": right["y"].copy()}) == 0
    assert error_between(right, {"y": right["y"] + np.float32(0.004)}) == pytest.approx(0.001, rel=1e-3)
    for other in (right["y"][:3], right["y"].astype(np.float64), np.nan_to_num(right["y"]), -right["y"]):
        assert error_between(right, {"y": other}) >= 1
    assert error_between(right, {"z": right["y"]}) == np.inf


def test_a_file_that_the_engine_refuses() -> None:
    model = drawn(convolution).model(["t0"])
    model.graph.node[0].op_type = "Convolve"
    with pytest.raises(Unrunnable, match="Convolve"):
        run_file(model, {"x": np.zeros(SHAPE, np.float32)})


def test_the_tolerance_is_no_less_than_the_usual_one() -> None:
    drawing = drawn(convolution)
    model = drawing.model(drawing.outputs())
    right = run_file(model, drawing.inputs)
    assert tolerance_of(model, drawing.inputs, right) == TOLERANCE
    off = {name: array * np.float32(1.01) for name, array in right.items()}
    assert tolerance_of(model, drawing.inputs, off) == pytest.approx(0.02, rel=0.05)


def test_reasons_are_counted_without_names_and_numbers() -> None:
    found = reasons(
        [Verdict("refused", f"m: node 'n{i}' (Scan) of {i} rows") for i in (1, 22)] + [Verdict("refused", "b")]
    )
    assert found == {"m: node '...' (Scan) of N rows": 2, "b": 1}


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 17, 18, 21, onnx.defs.onnx_opset_version()])
def test_families_follow_the_operator_set(opset: int) -> None:
    drawing = drawn(convolution, normalisation, resize, classifier, opset=opset)
    assert drawing.kinds == ["convolution", "normalisation", "resize", "classifier"]
    model = drawing.model(drawing.outputs())
    assert model.opset_import[0].version == opset
    onnx.checker.check_model(model)
    run_file(drawing.model(drawing.outputs(), min(opset, newest_of_the_engine())), drawing.inputs)


@pytest.mark.parametrize("family", dict.fromkeys((*FAMILIES, *RARE_FAMILIES)), ids=lambda family: family.__name__)
def test_every_family_can_be_drawn(family: Any) -> None:
    assert drawn(convolution, family, opset=24).kinds[-1] == family.__name__


def test_a_graph_depends_on_its_seed_and_number_alone() -> None:
    first, again = graph_fuzz.draw(3, 5), graph_fuzz.draw(3, 5)
    assert first.model.SerializeToString() == again.model.SerializeToString()
    assert all(np.array_equal(again.right[name], array) for name, array in first.right.items())
    assert graph_fuzz.draw(3, 6).model.SerializeToString() != first.model.SerializeToString()


def test_the_last_line_of_the_fuzz() -> None:
    verdicts = [
        Verdict("exact", "", 1e-7, 2e-6, 0.5), Verdict("exact", "", 1e-6), Verdict("refused", "no 'a' (Scan)"),
        Verdict("wrong", "1 off", 1.0), Verdict("lossy", "float16", 1e-4, 1e-4), Verdict("crashed", "KeyError"),
    ]  # fmt: skip
    figures = graph_fuzz.summary(4, verdicts)
    assert figures["graphs"] == 6
    assert figures["refused"] == pytest.approx(1 / 6)
    assert figures["refused_because"] == {"no '...' (Scan)": 1}
    assert (figures["wrong"], figures["crashed"], figures["lossy"], figures["not_split"]) == (1, 1, 1, 1)
    assert (figures["wrong_graphs"], figures["crashed_graphs"]) == ([3], [5])
    assert (figures["worst_capture_error"], figures["worst_relative_error"]) == (1e-6, 2e-6)
    assert (figures["head_share_worst"], figures["head_share_worst_graph"]) == (0.5, 0)


def test_a_graph_is_ended_where_it_first_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    number = next(n for n in range(100) if len(graph_fuzz.draw(0, n).model.graph.node) > 6)
    found = graph_fuzz.draw(0, number)
    broken = found.model.graph.node[2].op_type

    def told(model: onnx.ModelProto, *_given: Any) -> Verdict:
        return Verdict("wrong" if any(n.op_type == broken for n in model.graph.node) else "exact", "told")

    monkeypatch.setattr(graph_fuzz, "judge", told)
    model, reason = graph_fuzz.shortest(found, Verdict("wrong"))
    assert reason == "told"
    assert model.graph.node[-1].op_type == broken
    assert len(model.graph.node) < len(found.model.graph.node)


def test_every_operator_with_a_rule_is_in_a_family() -> None:
    """Drawn models hold them all, rare ones by the name in the families' text."""
    import inspect

    from distredge.experiments.common import families, rare_families

    text = inspect.getsource(families) + inspect.getsource(rare_families)
    kinds = {f"Reduce{name}" for name in families.REDUCE} | set(UNARY)
    assert {name for name in RULES if name not in kinds and f'"{name}"' not in text} == set()


def test_kinds_run_in_the_engine_and_are_judged() -> None:
    made = {kind.name: kind for kind in kinds()}
    assert len(made) >= 15
    for name in ("float16 inside", "float64 inside", "uint8 pixels", "instance normalisation"):
        _, _, verdict = exactness.measure_kind(made[name], 2, 0)
        assert verdict.kind == "exact", (name, verdict.reason)
    strategies, size, verdict = exactness.measure_kind(made["float16 that is rounded"], 2, 0)
    assert (strategies, size, verdict.kind) == (2, "1x3x23x17", "lossy")


def test_the_summary_of_exactness() -> None:
    summary = exactness.Summary()
    summary.add("a", 3, Verdict("exact", "", float("nan"), 2e-7, 0.1))
    summary.add("b", 4, Verdict("lossy", "float16", 1e-3, 1e-3, 0.7))
    summary.add("c", 0, Verdict("refused", "Scan"))
    summary.add("d", 2, Verdict("wrong", "off", 0.5, float("nan")))
    assert (summary.models, summary.strategies) == (4, 9)
    assert (summary.worst_relative_error, summary.worst_capture_error) == (2e-7, 0.5)
    assert (summary.head_share_worst, summary.head_share_worst_model) == (0.7, "b")
    assert (summary.lossy, summary.refused, summary.wrong, summary.crashed) == (["b"], ["c"], ["d"], [])
