"""Every operator that ONNX has is thought of, and `docs/models.md` lists what becomes of it."""

from __future__ import annotations

import re
from pathlib import Path

import onnx.defs
import pytest

from distredge.model.coverage import Coverage, coverage_of
from distredge.model.operators import RULES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "models.md"

OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})


@pytest.mark.parametrize("op_type", OPERATORS)
def test_every_operator_of_the_registry_has_its_place(op_type: str) -> None:
    assert coverage_of(op_type) is not None, f"{op_type} is new: give it a rule, or say in model/coverage.py what it is"


def test_rules_are_of_operators_that_exist() -> None:
    assert set(RULES) <= set(OPERATORS)
    assert all(coverage_of(name) in (Coverage.ROWS, Coverage.PARTIAL) for name in RULES)


@pytest.mark.parametrize("coverage", list(Coverage))
def test_the_document_lists_them(coverage: Coverage) -> None:
    row = next(line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| {coverage.value} |"))
    expected = [name for name in OPERATORS if coverage_of(name) is coverage]
    # An older or newer release of ONNX has other operators.
    listed = [name for name in re.findall(r"`(\w+)`", row) if name in OPERATORS]
    assert listed == expected, " ".join(f"`{name}`" for name in expected)
