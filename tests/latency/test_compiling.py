"""What is compiled is compiled anew when, and only when, something in it has changed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import distredge
from distredge.envs import compiled_steps as env_steps
from distredge.envs import decisions
from distredge.latency import compiling
from distredge.latency.compiling import signature_of
from distredge.latency.kernel import entry_points
from distredge.latency.tables import backward_walk, part_seconds
from distredge.planners.annealing import compiled_steps
from distredge.planners.other_objectives import compiled_aims

ROOT = Path(distredge.__file__).parent

COMPILERS = {"inner", "inlined", "making"}
"""What makes a compiled function that other compiled functions call; those that Python calls stand in `_compiled`."""

LISTS = {
    "latency.tables.backward_walk": backward_walk.FILES,
    "latency.tables.part_seconds": part_seconds.FILES,
    "latency.kernel.entry_points": entry_points.FILES,
    "envs.compiled_steps": env_steps.FILES,
    "envs.decisions": decisions.FILES,
    "planners.annealing.compiled_steps": compiled_steps.FILES,
    "planners.other_objectives.compiled_aims": compiled_aims.FILES,
}


def _path(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def _compiled_names(tree: ast.Module) -> set[str]:
    """Functions of a module that compiled functions call."""
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id in COMPILERS for d in node.decorator_list)
    }


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Module and name of everything of this package that a module imports when it is imported."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distredge."):
            for name in node.names:
                yield (node.module or "").removeprefix("distredge."), name.name


def _made_from(module: str, found: set[str]) -> set[str]:
    """Adds the modules from which the compiled functions of a module are made: it, and what they import.

    Of a module that has no compiled function that is asked for, constants and named tuples alone count.
    """
    found.add(module)
    for source, name in _imported(ast.parse(_path(module).read_text())):
        other, names = source, {name}
        if not _path(source).exists():
            other, names = f"{source}.{name}", set()
        if other in found:
            continue
        tree = ast.parse(_path(other).read_text())
        if not names or names & _compiled_names(tree):
            _made_from(other, found)
        elif any(isinstance(node, ast.ClassDef | ast.Assign) and name in _defined(node) for node in tree.body):
            found.add(other)
    return found


def _defined(node: ast.ClassDef | ast.Assign) -> set[str]:
    if isinstance(node, ast.ClassDef):
        return {node.name}
    return {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}


@pytest.mark.parametrize("module", LISTS)
def test_every_file_that_is_compiled_counts(module: str) -> None:
    # Where it is kept changes nothing in it.
    assert _made_from(module, set()) - {"latency.compiling", "latency.code_cache"} == set(LISTS[module])


def test_another_content_of_a_file_is_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compiling", "other"):
        (tmp_path / "latency").mkdir(exist_ok=True)
        (tmp_path / "latency" / f"{name}.py").write_text("x = 1\n")
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "latency" / "compiling.py"))
    before = compiling.digest("latency.other")
    assert compiling.digest("latency.other") == before
    (tmp_path / "latency" / "other.py").write_text("x = 2\n")
    changed = compiling.digest("latency.other")
    assert changed != before
    (tmp_path / "latency" / "compiling.py").write_text("x = 2\n")
    assert compiling.digest("latency.other") not in (before, changed)


_MODULE = """
import sys
from distredge.latency.compiling import entry, is_cached, signature_of

def _compiled(stamp):
    @entry
    def double(x):
        len(stamp)
        return 2 * x
    return double

double = _compiled(sys.argv[1])
print(is_cached(double, signature_of(1)), is_cached(double, signature_of(1.0)))
double(1)
"""


def test_a_cache_of_another_digest_or_of_other_types_does_not_count(tmp_path: Path) -> None:
    script = tmp_path / "compiled_once.py"
    script.write_text(_MODULE)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def cached(stamp: str) -> str:
        command = [sys.executable, str(script), stamp]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True).stdout

    assert cached("one") == "False False\n"
    assert cached("one") == "True False\n"
    assert cached("other") == "False False\n"
    assert cached("other") == "True False\n"


def test_signatures_are_those_of_calls() -> None:
    assert signature_of(1, np.zeros(2)) == signature_of(7, np.ones(5))
    assert signature_of(np.zeros((1, 1))) != signature_of(np.zeros((1, 1), np.int64))


def test_no_constant_has_two_values_in_what_is_compiled() -> None:
    values: dict[str, dict[str, int]] = {}
    for module in sorted({name for files in LISTS.values() for name in files}):
        found = __import__(f"distredge.{module}", fromlist=["_"])
        for node in ast.parse(_path(module).read_text()).body:
            for name in _defined(node) if isinstance(node, ast.Assign) else ():
                value = getattr(found, name)
                if name.isupper() and type(value) is int:
                    values.setdefault(name, {})[module] = value
    assert len(values) > 60
    assert {name: places for name, places in values.items() if len(set(places.values())) > 1} == {}
