"""A wheel of the very distredge that runs here, from its files as they lie: boards then run what the requester runs.

The same files give the same bytes, so that a board's wheel says by its hash whether it is of today.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from distredge.errors import ExecutionError

_SUFFIXES: Final = frozenset(
    ".py .csv .json .onnx .safetensors .toml .txt .yml .jpg .typed .service .jetpack .sh".split()
)
# What experiments have measured is beside their code in the repository, and is not installed.
_LEFT_OUT: Final = ("experiments/results",)
_LONG_AGO: Final = (1980, 1, 1, 0, 0, 0)
_NAME: Final = "distredge"


@dataclass(frozen=True)
class Wheel:
    """A wheel in memory.

    Attributes:
        name: of its file.
        version: of the package.
        content: of the file.
        sha256: of the content, hexadecimal.
    """

    name: str
    version: str
    content: bytes
    sha256: str


@functools.cache
def own_wheel() -> Wheel:
    """Makes the wheel, once in a process.

    Raises:
        ExecutionError: if distredge runs without having been installed, so that nobody knows what it needs.
    """
    try:
        installed = metadata.distribution(_NAME)
        about = installed.read_text("METADATA") or installed.read_text("PKG-INFO")
        points = installed.read_text("entry_points.txt") or ""
    except metadata.PackageNotFoundError:
        about = None
    if not about:
        raise ExecutionError("distredge is not installed here, only its files are: run `pip install -e .` first")
    version = installed.version
    folder = f"{_NAME}-{version}.dist-info"
    files = {f"{_NAME}/{path}": content for path, content in _package_files()}
    files |= {
        f"{folder}/METADATA": about.encode(),
        f"{folder}/WHEEL": b"Wheel-Version: 1.0\nGenerator: distredge\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{folder}/entry_points.txt": points.encode(),
    }
    record = "".join(f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items())
    files[f"{folder}/RECORD"] = f"{record}{folder}/RECORD,,\n".encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, _LONG_AGO)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    content = written.getvalue()
    return Wheel(f"{_NAME}-{version}-py3-none-any.whl", version, content, hashlib.sha256(content).hexdigest())


def _package_files() -> Iterator[tuple[str, bytes]]:
    """Path in the package and content of every file of it, sorted; links lead to folders beside it in a repository."""
    root = Path(__file__).resolve().parent.parent
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        relative = Path(folder).relative_to(root)
        subfolders[:] = [
            name for name in subfolders if name != "__pycache__" and (relative / name).as_posix() not in _LEFT_OUT
        ]
        found += [relative / name for name in files if Path(name).suffix in _SUFFIXES]
    for path in sorted(found):
        yield path.as_posix(), (root / path).read_bytes()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
