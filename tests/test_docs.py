"""What documents and docstrings name is there, and docstrings of functions on arrays say the arrays' shapes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_imports import MAPPED, MODULES

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

# `distredge/model/`, `cli/main.py`, also several words such as `python profiles/modelling/fit.py --write`.
_PATH = re.compile(r"(?<![\w/.:-])((?:[a-z_]+/)+(?:[a-z_0-9]+\.(?:py|md|toml|yml|json|csv))?)(?![\w/*])")
_CODE = re.compile(r"`([^`\n]+)`")
# `latency.kernel.kernel`, `distredge.planners.lower_bound.lower_bound_s(problem)`
_DOTTED = re.compile(r"^(?:distredge\.)?([a-z_]+(?:\.\w+)+)(?:\(.*\))?$")

ROOMS = {name.split(".")[1] for name in MODULES if "." in name}
# Attributes of objects, and keys of files, that look like names in a room.
_OBJECTS = ("cluster.", "strategy.", "timeline.", "problem.", "model.topology", "model.exact", "runtime.name")
_FILES = (".py", ".toml", ".json", ".md", ".zip")


def _names(path: Path) -> set[str]:
    """What a module defines or imports at its top."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[-1])
    return found


def _is_there(dotted: str) -> bool:
    """Whether a dotted name under `distredge` is a module or stands in one."""
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        module = ".".join(("distredge", *parts[:size]))
        if module in MODULES:
            left = parts[size:]
            return not left or left[0] in _names(MODULES[module])
    return False


def missing_paths(text: str) -> list[str]:
    """Paths in code spans of a document that are not in the repository."""
    return [
        path
        for code in _CODE.findall(text)
        for path in _PATH.findall(code)
        if path.split("/")[0] in {*ROOMS, *MAPPED, "distredge", "docs", "tests"}
        and not (ROOT / path).exists()
        and not (ROOT / "distredge" / path).exists()
    ]


def missing_names(text: str) -> list[str]:
    """Dotted names in code spans, beginning with a room, that are nowhere."""
    found = []
    for code in _CODE.findall(text):
        match = _DOTTED.match(code)
        if match is None or match[1].split(".")[0] not in ROOMS or code.startswith(_OBJECTS):
            continue
        if not _is_there(match[1]) and not code.endswith(_FILES):
            found.append(code)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_what_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert missing_paths(text) == []
    assert missing_names(text) == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_docstrings_name_what_is_there(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert missing_names(text) == []
    assert missing_paths(text) == []


def test_what_is_missing_is_seen() -> None:
    assert missing_paths(
        "see `planners/nowhere.py` and `model/rows.py`, `python profiles/modelling/fit.py --write`"
    ) == ["planners/nowhere.py"]
    assert missing_names("`latency.nowhere`, `latency.kernel.kernel.Kernel`, `model.rows.nothing`, `model.rows`") == [
        "latency.nowhere",
        "model.rows.nothing",
    ]


_ARRAYS = re.compile(r"\b_?(?:NDArray|ndarray|ArrayLike|Ints|Floats|Array)\b")
# "(B, L)", "(n_devices,)", "(B, L, D + 1)", "(2, n)".
_SHAPE = re.compile(r"\((?:\w+(?: [-+*] \w+)*,)(?: ?[\w.*+ -]+,?)*\)")


def without_shapes(tree: ast.Module) -> list[str]:
    """Public functions and methods that take or return arrays and whose docstring has no shape."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += [f"{node.name}.{name}" for name in without_shapes(ast.Module(node.body, []))]
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            taken = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)]
            kinds = " ".join(ast.unparse(kind) for kind in (*taken, node.returns) if kind is not None)
            if _ARRAYS.search(kinds) and not _SHAPE.search(ast.get_docstring(node) or ""):
                found.append(node.name)
    return found


@pytest.mark.parametrize("module", sorted(m for m in MODULES if not m.startswith("distredge.experiments")))
def test_docstrings_of_functions_on_arrays_say_shapes(module: str) -> None:
    assert without_shapes(ast.parse(MODULES[module].read_text(encoding="utf-8"))) == []


def test_arrays_without_shapes_are_seen() -> None:
    source = """
def no(x: NDArray) -> int:
    "Returns (something) about it."
def yes(x: Floats) -> None:
    "Takes (n, 2) seconds."
class Store:
    def weight(self) -> Array:
        "The weight."
    def _hidden(self, x: NDArray): ...
"""
    assert without_shapes(ast.parse(source)) == ["no", "Store.weight"]
