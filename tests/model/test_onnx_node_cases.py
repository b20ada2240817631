"""ONNX's own node tests: each is exact under random strategies, or refused by its true reason when it is loaded.

Those with an input of rank 3 or more and batch 1: that input stays one, the others become constants. Right is what the
test says; where ONNX Runtime differs from it, what ONNX Runtime says.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from distredge.experiments.common.against_file import Unrunnable, error_between, judge, run_file

STRATEGIES = 4

TOLERANCE = 1e-5


@functools.cache
def _cases() -> dict[str, Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tests' own arithmetic
        found = collect_testcases(None)
    return {case.name: case for case in found if case.model is not None and _image_of(case) is not None}


def _image_of(case: Any) -> str | None:
    """The first input that is an array of rank 3 or more with batch 1."""
    for value, array in zip(case.model.graph.input, case.data_sets[0][0], strict=False):
        if isinstance(array, np.ndarray) and array.ndim >= 3 and array.shape[0] == 1:
            return str(value.name)
    return None


def _with_one_input(case: Any, image: str) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    arrays, outputs = case.data_sets[0]
    inputs = {}
    for value, array in zip(list(model.graph.input), arrays, strict=False):
        if value.name == image:
            inputs[image] = array
        elif array is not None:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), value.name))
            model.graph.input.remove(value)
    return model, inputs, dict(zip((v.name for v in model.graph.output), map(np.asarray, outputs), strict=False))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Makes ONNX's cases, which takes seconds, only where slow tests are not left out."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", [] if metafunc.config.option.markexpr == "not slow" else sorted(_cases()))


@pytest.mark.slow
def test_node(name: str) -> None:
    case = _cases()[name]
    image = _image_of(case)
    assert image is not None
    model, inputs, right = _with_one_input(case, image)
    tolerance = TOLERANCE
    try:
        engine = run_file(model, inputs)
        if not error_between(right, engine) <= TOLERANCE:
            right = engine
    except Unrunnable:
        tolerance = max(TOLERANCE, case.rtol)  # the test's own numbers are all that there is
    verdict = judge(model, inputs, right, STRATEGIES, np.random.default_rng(0), tolerance)
    assert verdict.kind in ("exact", "lossy", "refused"), verdict.reason
    if verdict.kind == "refused":
        kinds = {node.op_type for node in model.graph.node}
        assert any(kind in verdict.reason for kind in kinds) or f"input '{image}'" in verdict.reason, verdict.reason


@pytest.mark.slow
def test_there_are_many() -> None:
    assert len(_cases()) >= 200
