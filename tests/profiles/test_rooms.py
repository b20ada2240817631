"""The rooms of profiles import what stands on top, and neither one another nor are they imported by it."""

from __future__ import annotations

import ast
from pathlib import Path

import distredge.profiles

FOLDER = Path(distredge.profiles.__file__).parent
ROOMS = ("measuring", "modelling", "traces")


def _foreign(room: str, source: str) -> list[str]:
    """The other rooms that a module imports, at any depth; `room` is "" on top."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[:2] == ["distredge", "profiles"] and len(parts) > 2 and parts[2] in ROOMS and parts[2] != room:
                found.append(parts[2])
    return found


def test_rooms_import_the_top_alone() -> None:
    files = {path: "" for path in FOLDER.glob("*.py")}
    files |= {path: room for room in ROOMS for path in (FOLDER / room).rglob("*.py")}
    assert len(files) > 20
    found = {path.name: _foreign(room, path.read_text(encoding="utf-8")) for path, room in files.items()}
    assert {name: rooms for name, rooms in found.items() if rooms} == {}


def test_imports_between_rooms_are_seen() -> None:
    assert _foreign("", "def late():\n    from distredge.profiles.measuring.bench import Bench") == ["measuring"]
    assert _foreign("traces", "from distredge.profiles import modelling") == ["modelling"]
    assert _foreign("traces", "import distredge.profiles.traces.formats\nfrom distredge.profiles import network") == []
