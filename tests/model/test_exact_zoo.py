"""Splitting is exact on the zoo, on the graphs of the onnx package and on trained models from PyPI."""

from __future__ import annotations

import pytest

from distredge.errors import FileError
from distredge.experiments.common.exact import TOLERANCE, Comparison
from distredge.experiments.common.suite import Case, from_wheels, full_zoo, onnx_package, reduced_zoo


def check(case: Case, strategies: int, most_devices: int = 16) -> None:
    comparison = Comparison(case.load(), seed=1, maps=6, inputs=case.inputs)
    for strategy, error in comparison.random_errors(strategies, seed=1, most_devices=most_devices):
        assert error <= TOLERANCE, [(v.ends_at, v.rows, v.columns) for v in strategy.volumes]


@pytest.mark.parametrize("case", list(reduced_zoo()), ids=lambda case: case.name)
def test_reduced_zoo(case: Case) -> None:
    check(case, 5)


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_small_graphs_of_the_onnx_package(name: str) -> None:
    check(next(case for case in onnx_package() if case.name.endswith(name)), 2)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(onnx_package()), ids=lambda case: case.name)
def test_onnx_package(case: Case) -> None:
    check(case, 5)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(full_zoo()), ids=lambda case: case.name)
def test_full_zoo(case: Case) -> None:
    check(case, 2, most_devices=4)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(from_wheels()), ids=lambda case: case.name)
def test_trained_models(case: Case) -> None:
    try:
        case.load()
    except FileError as error:
        pytest.skip(str(error))
    check(case, 4)
