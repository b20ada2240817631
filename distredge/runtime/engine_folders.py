"""Where TensorRT keeps the engines that it has built, from start to start: a folder for each sub-model."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from distredge.runtime.buffers import Array
from distredge.runtime.protocol.device_plan import ShapeRange

_SECONDS: Final = "seconds"
_log = logging.getLogger(__name__)


class EngineFolders:
    """Folders below one that is bounded; without room there are none, and engines are built each time.

    ONNX Runtime finds an engine by the names of nodes and values alone: in one folder, parts of a volume with other
    rows, or the same model with other weights, would get each other's. With dynamic rows a volume has one.

    Args:
        root: where they are.
        cap_bytes: what they may take together when one is added.
    """

    def __init__(self, root: Path, cap_bytes: int) -> None:
        self._root = root
        self._cap_bytes = cap_bytes

    def of(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange] | None = None
    ) -> Path | None:
        """Returns the folder of a sub-model, which is there; None where none can be made.

        Args:
            model: serialised, without its large constants.
            weights: these by name: (d0, d1, ...), any shape and dtype.
            ranges: for what shapes an engine is built, with dynamic rows.
        """
        digest = hashlib.sha256(model)
        for name, value in sorted(weights.items()):
            digest.update(f"\0{name}\0{value.dtype.str}{value.shape}\0".encode())
            digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        for name, sizes in sorted((ranges or {}).items()):
            digest.update(f"\0{name}\0{sizes.least}{sizes.usual}{sizes.most}\0".encode())
        folder = self._root / digest.hexdigest()
        try:
            if not folder.is_dir():
                self._make_room()
                folder.mkdir(mode=0o700, parents=True)
            os.utime(folder)
        except OSError as error:
            _log.warning("%s: engines are built each time: %s", folder, error.strerror)
            return None
        return folder

    @staticmethod
    def built_s(folder: Path, took_s: float) -> float:
        """Returns the seconds in which the engines in a folder were built, which are noted there.

        Args:
            folder: of a sub-model.
            took_s: seconds that loading it took now; where more than is noted, or nothing is, they were built now.
        """
        path, noted_s = folder / _SECONDS, 0.0
        with contextlib.suppress(OSError, ValueError):
            noted_s = float(path.read_text(encoding="ascii"))
        # Not a number is smaller than none.
        if not took_s <= noted_s < math.inf:
            noted_s = took_s
            with contextlib.suppress(OSError):
                path.write_text(f"{took_s:.6g}\n", encoding="ascii")
        return noted_s

    def _make_room(self) -> None:
        """Removes those used least recently, until the others take no more than they may."""
        folders = [entry for entry in self._root.iterdir() if entry.is_dir()] if self._root.is_dir() else []
        folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        total_bytes = 0
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                total_bytes += sum(path.stat().st_size for path in folder.iterdir())
            if total_bytes > self._cap_bytes:
                shutil.rmtree(folder, ignore_errors=True)
