"""Imports point one way, and what a worker runs needs no training or planning package."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("agents", "envs", "experiments", "profiles")

# What each layer may import besides itself. A layer is the first name under `distredge`.
_GROUND = {
    "errors",
    "checked_reading",
    "child_processes",
    "chrome_trace",
    "folders",
    "metric_names",
    "network_addresses",
    "processors",
    "writing",
}
_DOMAIN = _GROUND | {
    "cluster_file", "model", "profiles", "cluster", "strategy", "timeline", "problem", "device_sample",
}  # fmt: skip
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "checked_reading": {"errors"},
    "child_processes": set(),
    "chrome_trace": {"errors", "writing"},
    "metric_names": set(),
    "folders": {"errors"},
    "network_addresses": set(),
    "processors": set(),
    "writing": {"errors"},
    "model": {"errors", "folders", "writing"},
    "profiles": _GROUND | {"model"},
    "cluster_file": {"errors", "checked_reading", "network_addresses"},
    "cluster": _GROUND | {"cluster_file", "model", "profiles"},
    "strategy": _GROUND | {"model", "profiles", "cluster"},
    "timeline": _GROUND | {"model", "profiles", "cluster"},
    "device_sample": set(),
    "problem": _GROUND | {"model", "profiles", "cluster", "strategy", "timeline"},
    "media": {"errors", "model"},
    "monitor": _DOMAIN,
    "latency": _DOMAIN,
    "planners": _DOMAIN | {"latency"},
    "envs": _DOMAIN | {"latency", "planners", "monitor"},
    "agents": _DOMAIN | {"latency", "planners", "envs", "monitor"},
    "runtime": _DOMAIN | {"media"},
    "testbed": _DOMAIN | {"media", "monitor", "latency", "runtime"},
    "remote": _DOMAIN | {"media", "runtime"},
}
_ALL = set(MAY_IMPORT)
MAY_IMPORT["cli"] = _ALL
MAY_IMPORT["experiments"] = _ALL
MAY_IMPORT["__main__"] = {"cli"}

# The same for the rooms of the runtime, and the files beside them: what each may import of the others. A worker is
# started as a process of its own, by name: nobody imports it, and it knows neither who asks nor who starts it.
RUNTIME_MAY_IMPORT: dict[str, set[str]] = {
    "protocol": set(),
    "links": {"protocol"},
    "picture_files": {"protocol"},
    "buffers": {"protocol", "picture_files"},
    "provider_options": {"protocol"},
    "engine_folders": {"protocol", "buffers"},
    "engine": {"protocol", "buffers", "engine_folders", "provider_options"},
    "engine_host": set(),
    "shared_memory": {"buffers"},
    "engine_process": {"provider_options", "shared_memory"},
    "old_python_engine": {
        "protocol",
        "buffers",
        "engine",
        "engine_folders",
        "engine_process",
        "provider_options",
        "shared_memory",
    },
    "weights": {"protocol", "buffers"},
    "deployment": {"protocol", "buffers", "picture_files"},
    "in_process": {"protocol", "buffers", "engine", "deployment"},
    "worker": {"protocol", "links", "buffers", "engine", "old_python_engine", "provider_options", "weights"},
    "requester": {"protocol", "buffers", "picture_files", "weights", "deployment"},
    "hosting": {"protocol", "buffers", "deployment", "requester"},
}

# A string that names an object of another module, such as a registry's entry.
REFERENCE = re.compile(r"distredge((?:\.\w+)+):\w+")
# The planner registry is the one place that refers upward; `distredge` itself is a table of names.
MAY_REFER_UPWARD = {"planners", "__init__"}


def _modules() -> dict[str, Path]:
    """Every module under its installed name."""
    found = {}
    for top in ("distredge", *MAPPED):
        prefix = ("distredge",) if top == "distredge" else ("distredge", top)
        for folder, subfolders, files in os.walk(ROOT / top):
            subfolders[:] = [name for name in subfolders if name != "__pycache__"]
            relative = Path(folder).relative_to(ROOT / top).parts
            for name in (name for name in files if name.endswith(".py")):
                stem = () if name == "__init__.py" else (name[:-3],)
                found[".".join((*prefix, *relative, *stem))] = Path(folder) / name
    return found


MODULES = _modules()


def _layer(module: str) -> str:
    """Returns the layer of a dotted name under `distredge`; `__init__` for `distredge` itself."""
    parts = module.split(".")[1:]
    if not parts:
        return "__init__"
    return parts[0]


def _imported(module: str, path: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import of Distredge's own, at any depth, relative ones resolved."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                # `from distredge import metric_names` imports a module; `from distredge.cluster import Link` does not.
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in MODULES or base == "distredge" else base


def _refused(module: str, path: Path, tree: ast.Module) -> list[str]:
    layer = _layer(module)
    if layer == "__init__":
        return []
    refused = []
    for line, name in _imported(module, path, tree):
        if name.partition(".")[0] in MAPPED:
            refused.append(f"{path.relative_to(ROOT)}:{line}: {name} installs as distredge.{name}")
        if name.partition(".")[0] == "distredge":
            target = _layer(name)
            # `import distredge` reaches everything, so only what stands on top may say it.
            allowed = layer in ("cli", "experiments") if target == "__init__" else target in MAY_IMPORT[layer] | {layer}
            if not allowed:
                refused.append(f"{path.relative_to(ROOT)}:{line}: {layer} must not import {name}")
    if layer not in MAY_REFER_UPWARD:
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                match = REFERENCE.fullmatch(node.value)
                if match and _layer("distredge" + match[1]) not in MAY_IMPORT[layer] | {layer}:
                    refused.append(f"{path.relative_to(ROOT)}:{node.lineno}: {layer} must not refer to {node.value}")
    return refused


def test_every_layer_is_known() -> None:
    assert {_layer(module) for module in MODULES} - set(MAY_IMPORT) - {"__init__"} == set()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_one_way(module: str) -> None:
    path = MODULES[module]
    assert _refused(module, path, ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("distredge.model.rows", "from distredge.planners import plan"),
        ("distredge.model.rows", "def late():\n    import distredge.cluster"),
        ("distredge.runtime.worker.worker", "from ...latency import simulate"),
        ("distredge.runtime.worker.worker", "from distredge import monitor"),
        ("distredge.runtime.worker.worker", "import distredge"),
        ("distredge.latency.simulator.simulation", "import profiles.compute"),
        ("distredge.latency.simulator.simulation", "X = 'distredge.agents.osds:plan'"),
        ("distredge.planners.auto", "if TYPE_CHECKING:\n    from distredge.agents.osds import train"),
    ],
)
def test_upward_imports_are_seen(module: str, source: str) -> None:
    path = ROOT / "distredge" / "made_up.py"
    assert len(_refused(module, path, ast.parse(source))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("distredge.runtime.worker.worker", "from distredge import metric_names\nfrom distredge.metric_names import X"),
        ("distredge.planners", "METHODS = {'distredge': 'distredge.agents.osds:plan'}"),
        ("distredge.cli.plan", "import distredge as de"),
        ("distredge.model.rows", "from . import graph\nimport numpy"),
    ],
)
def test_downward_imports_are_allowed(module: str, source: str) -> None:
    path = ROOT / "distredge" / "made_up.py"
    assert _refused(module, path, ast.parse(source)) == []


def _runtime_room(module: str) -> str | None:
    """Returns the room of a module of the runtime; None outside of it, and for the runtime itself."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["distredge", "runtime"] and len(parts) > 2 else None


def _refused_in_runtime(module: str, path: Path, tree: ast.Module) -> list[str]:
    room = _runtime_room(module)
    found = ((line, name, _runtime_room(name)) for line, name in _imported(module, path, tree))
    return [
        f"{path.relative_to(ROOT)}:{line}: {room} must not import {name}"
        for line, name, target in found
        if room is not None and target not in RUNTIME_MAY_IMPORT[room] | {room} and name.startswith("distredge.runtime")
    ]


def test_every_room_of_the_runtime_is_known() -> None:
    assert {_runtime_room(module) for module in MODULES} - {None} == set(RUNTIME_MAY_IMPORT)


@pytest.mark.parametrize("module", sorted(module for module in MODULES if _runtime_room(module)))
def test_rooms_of_the_runtime_import_in_their_order(module: str) -> None:
    path = MODULES[module]
    assert _refused_in_runtime(module, path, ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("module", "source", "refused"),
    [
        ("distredge.runtime.worker.data_plane", "from distredge.runtime.requester.workers import Handler", 1),
        ("distredge.runtime.worker.data_plane", "def late():\n    from distredge.runtime import hosting", 1),
        ("distredge.runtime.worker.data_plane", "from ..hosting.boards import tcp", 1),
        ("distredge.runtime.requester.workers", "if TYPE_CHECKING:\n    import distredge.runtime.worker.worker", 1),
        ("distredge.runtime.hosting.session", "from distredge.runtime.worker import worker", 1),
        ("distredge.runtime.protocol.orders", "from distredge.runtime.engine import PROVIDERS", 1),
        ("distredge.runtime.protocol.orders", "import distredge.runtime", 1),
        ("distredge.runtime.worker.data_plane", "from distredge.runtime.worker import settings", 0),
        ("distredge.runtime.worker.data_plane", "from distredge.errors import EngineError", 0),
    ],
)
def test_imports_against_the_order_are_seen(module: str, source: str, refused: int) -> None:
    path = ROOT / "distredge" / "made_up.py"
    assert len(_refused_in_runtime(module, path, ast.parse(source))) == refused


def _edges() -> dict[str, dict[str, int]]:
    """File -> what it imports -> line, at any depth, under TYPE_CHECKING too; a package stands for its `__init__`.

    Importing a module runs its packages' `__init__` as well; these count where they are imported by name alone.
    """
    found: dict[str, dict[str, int]] = {}
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines = [(line, name) for line, name in _imported(module, path, tree) if name in MODULES and name != module]
        found[module] = {name: line for line, name in reversed(lines)}
    return found


def _circles(edges: dict[str, dict[str, int]]) -> list[list[str]]:
    """The sets of files that import each other, directly or through others."""

    def reached(start: str) -> set[str]:
        seen, left = set(), [start]
        while left:
            for name in edges[left.pop()]:
                if name not in seen:
                    seen.add(name)
                    left.append(name)
        return seen

    after = {name: reached(name) for name in edges}
    circles = {
        frozenset(other for other in after[name] if name in after[other]) for name in edges if name in after[name]
    }
    return sorted(sorted(circle) for circle in circles)


def test_no_files_import_each_other() -> None:
    edges = _edges()
    told = [
        f"{name}:{edges[name][other]} imports {other}"
        for circle in _circles(edges)
        for name in circle
        for other in sorted(edges[name])
        if other in circle
    ]
    assert told == []


def test_circles_are_seen() -> None:
    edges = {"a": {"b": 1}, "b": {"c": 1}, "c": {"a": 1, "d": 2}, "d": {}, "e": {"e2": 1}, "e2": {"e": 3}}
    assert _circles(edges) == [["a", "b", "c"], ["e", "e2"]]


# Runs the modules named on the command line with the packages refused that a board does not have.
_BLOCKED = ("torch", "gymnasium", "stable_baselines3", "sb3_contrib", "numba", "scipy", "matplotlib", "tensorboard")
_BLOCKER = f"""
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {_BLOCKED!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def _import_blocked(*modules: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", _BLOCKER, *modules]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "module",
    [
        "distredge.runtime.requester.coordinator",
        "distredge.runtime.engine",
        "distredge.runtime.in_process",
        "distredge.runtime.hosting.local_cluster",
        "distredge.runtime.protocol.messages",
        "distredge.runtime.protocol.security",
        "distredge.runtime.worker.next_actions",
        "distredge.runtime.protocol.transport",
        "distredge.runtime.worker.worker",
        "distredge.runtime.worker.__main__",
        "distredge.cli.worker",
        "distredge.cli.deploy_strategy",
    ],
)
def test_imports_without_training_and_planning_packages(module: str) -> None:
    done = _import_blocked(module)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", _BLOCKED)
def test_the_blocker_blocks(package: str) -> None:
    done = _import_blocked(package)
    assert done.returncode == 1
    assert f"{package} is blocked" in done.stderr
