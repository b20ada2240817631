"""The package list, the links and what a wheel holds agree with the folders."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import distredge

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("agents", "envs", "experiments", "profiles")
DATA_SUFFIXES = {".csv", ".json", ".jpg", ".onnx", ".safetensors", ".sh", ".toml", ".txt", ".yaml", ".yml"}

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the repository")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _package_folders() -> dict[str, Path]:
    """Every folder with Python files in it under the five package roots, links not followed: name -> folder."""
    found = {}
    for top in ("distredge", *MAPPED):
        prefix = "distredge" if top == "distredge" else f"distredge.{top}"
        for folder, subfolders, files in os.walk(ROOT / top):
            subfolders[:] = [name for name in subfolders if name != "__pycache__"]
            if any(name.endswith(".py") for name in files):
                relative = Path(folder).relative_to(ROOT / top).parts
                found[".".join((prefix, *relative))] = Path(folder)
    return found


def test_package_list_is_the_folders(pyproject: dict[str, Any]) -> None:
    assert sorted(pyproject["tool"]["setuptools"]["packages"]) == sorted(_package_folders())


def test_every_package_has_an_init() -> None:
    assert [name for name, folder in _package_folders().items() if not (folder / "__init__.py").exists()] == []


def test_mapped_folders(pyproject: dict[str, Any]) -> None:
    expected = {"distredge": "distredge", **{f"distredge.{name}": name for name in MAPPED}}
    assert pyproject["tool"]["setuptools"]["package-dir"] == expected


@pytest.mark.parametrize("name", MAPPED)
def test_link_is_relative(name: str) -> None:
    link = ROOT / "distredge" / name
    if link.is_symlink():
        assert os.readlink(link) == os.path.join("..", name)
    else:
        # A checkout without links has a small file, or nothing, in its place.
        assert not link.is_dir()


def test_every_data_file_is_packaged(pyproject: dict[str, Any]) -> None:
    patterns = pyproject["tool"]["setuptools"]["package-data"]
    folders = _package_folders()
    lost = []
    for top in ("distredge", *MAPPED):
        for path in (path for path in (ROOT / top).rglob("*") if path.suffix in DATA_SUFFIXES):
            if (ROOT / "experiments" / "results") in path.parents or path.parent.resolve() != path.parent:
                continue
            owner = max((name for name in folders if folders[name] in path.parents), key=len)
            relative = path.relative_to(folders[owner]).as_posix()
            accepted = [*patterns["*"], *patterns.get(owner, [])]
            if not any(_matches(relative, pattern) for pattern in accepted):
                lost.append(str(path.relative_to(ROOT)))
    assert lost == []


def _matches(relative: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(relative, pattern[3:])
    return "/" not in relative and fnmatch.fnmatchcase(relative, pattern)


def test_version_is_the_installed_one(pyproject: dict[str, Any]) -> None:
    assert distredge.__version__ == pyproject["project"]["version"]


def test_public_names_are_sorted() -> None:
    assert distredge.__all__ == sorted(distredge.__all__)


@pytest.mark.parametrize("name", distredge.__all__)
def test_public_name_loads(name: str) -> None:
    assert getattr(distredge, name) is not None
    assert name in dir(distredge)


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'plans'"):
        distredge.plans  # noqa: B018


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel built from a copy of the sources without links, as on a file system that has none."""
    copy = tmp_path_factory.mktemp("sources")
    for top in ("distredge", *MAPPED):
        shutil.copytree(ROOT / top, copy / top, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in MAPPED:
        (copy / "distredge" / name).unlink(missing_ok=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", out, copy], check=True, timeout=120)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_installs_only_distredge(wheel_names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"distredge"}


def test_wheel_holds_every_module_and_data_file(wheel_names: list[str]) -> None:
    expected = {"distredge/py.typed"}
    for top in ("distredge", *MAPPED):
        prefix = "distredge" if top == "distredge" else f"distredge/{top}"
        for folder, subfolders, files in os.walk(ROOT / top):
            subfolders[:] = [name for name in subfolders if name not in ("__pycache__", "results")]
            relative = Path(folder).relative_to(ROOT / top).as_posix()
            base = prefix if relative == "." else f"{prefix}/{relative}"
            expected |= {f"{base}/{name}" for name in files if Path(name).suffix in {".py", *DATA_SUFFIXES}}
    assert expected - set(wheel_names) == set()
