"""Columns of arrays: one name, one value, wherever compiled code knows it."""

from __future__ import annotations

import importlib
from collections import defaultdict
from pathlib import Path

ROOMS = ("latency/kernel", "latency/tables", "planners/annealing", "planners/other_objectives")
ROOT = Path(__file__).parents[3] / "distredge"
MODULES = [
    f"distredge.{room.replace('/', '.')}.{path.stem}"
    for room in ROOMS
    for path in sorted((ROOT / room).glob("*.py"))
    if path.stem != "__init__"
]


def _columns(module: str) -> dict[str, int]:
    """The whole numbers in capitals that a module defines or imports."""
    return {
        name: value
        for name, value in vars(importlib.import_module(module)).items()
        if name.isupper() and isinstance(value, int) and not isinstance(value, bool)
    }


def test_no_column_has_two_values() -> None:
    assert len(MODULES) > 20
    values: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for module in MODULES:
        for name, value in _columns(module).items():
            values[name][value].append(module)
    assert {name: dict(found) for name, found in values.items() if len(found) > 1} == {}
