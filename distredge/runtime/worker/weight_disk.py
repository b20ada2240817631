"""Constants on a worker's disk, so that a worker that was started again asks for none that it has had before.

One file for each, named by its content hash: a line of JSON (`Form`), then the bytes. What is read is compared with the
hash, and dropped where it is something else. Files appear whole, by renaming, so that several workers may share a
folder; the least recently used go first.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import msgspec
import numpy as np

from distredge.errors import FileError
from distredge.runtime.buffers import Array
from distredge.runtime.protocol.device_plan import DTYPES
from distredge.runtime.protocol.fields import Dimensions, Dtype
from distredge.runtime.weights import begin_digest

PIECE_BYTES: Final = 4 * 1024 * 1024
"""Read or written between two looks at whether it is still wanted."""

_MOST_HEAD_BYTES: Final = 512
_PART: Final = ".part"
_OLD_S: Final = 86400.0

_log = logging.getLogger(__name__)


class Form(msgspec.Struct, frozen=True):
    """Dtype and shape of a constant."""

    dtype: Dtype
    shape: Dimensions

    @property
    def size_bytes(self) -> int:
        """Bytes of its content."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class WeightDisk:
    """A folder of constants; what goes wrong with it costs sending them again, and one warning.

    Args:
        folder: made, for this user alone, where it is not there.
        cap_bytes: what its files may take together.
        required: whether a folder that cannot be written is an error.

    Raises:
        FileError: if `required`, and it cannot be.
    """

    def __init__(self, folder: Path, cap_bytes: int, required: bool = False) -> None:
        self._folder = folder
        self._cap_bytes = cap_bytes
        self._writes = True
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(0, "it cannot be written")
            self._sweep()
        except OSError as error:
            if required:
                raise FileError(f"{folder}: no folder to keep constants in: {error.strerror}") from error
            self._give_up(error)

    def form(self, digest: str) -> Form | None:
        """Returns the form of a constant that is there, by its content hash; None where there is none."""
        found = self._open(digest)
        if found is None:
            return None
        found[0].close()
        return found[1]

    def read(self, digest: str, into: Array, wanted: Callable[[], bool]) -> bool:
        """Reads a constant; returns whether it is whole and what its hash says.

        Args:
            digest: its content hash.
            into: (d0, d1, ...), shape and dtype as `form` says, C-ordered.
            wanted: asked between pieces; it is given up when not.
        """
        found = self._open(digest)
        if found is None:
            return False
        file, form = found
        with file:
            if (form.dtype, form.shape) != (into.dtype.name, into.shape):
                return False
            content, digester = into.reshape(-1).view(np.uint8).data, begin_digest(form.dtype, form.shape)
            for start in range(0, content.nbytes, PIECE_BYTES):
                piece = content[start : start + PIECE_BYTES]
                if not wanted():
                    return False
                if not _fill(file, piece):
                    break
                digester.update(piece)
        if digester.hexdigest() != digest:
            self._drop(digest)
            return False
        with contextlib.suppress(OSError):
            os.utime(self._folder / digest)
        return True

    def write(self, digest: str, array: Array, wanted: Callable[[], bool]) -> None:
        """Keeps a constant, unless it is there or larger than all may be; drops others for it.

        Args:
            digest: its content hash.
            array: (d0, d1, ...), C-ordered.
            wanted: asked between pieces; it is given up when not.
        """
        head = msgspec.json.encode(Form(array.dtype.name, array.shape)) + b"\n"
        size_bytes = len(head) + array.nbytes
        if not self._writes or size_bytes > self._cap_bytes:
            return
        try:
            if (self._folder / digest).exists():
                return
            self._make_room(size_bytes)
            self._write(digest, head, array.reshape(-1).view(np.uint8).data, wanted)
        except OSError as error:
            self._give_up(error)

    def _write(self, digest: str, head: bytes, content: memoryview, wanted: Callable[[], bool]) -> None:
        descriptor, name = tempfile.mkstemp(_PART, dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.write(head)
                for start in range(0, content.nbytes, PIECE_BYTES):
                    if not wanted():
                        return
                    piece = content[start : start + PIECE_BYTES]
                    while piece.nbytes:
                        piece = piece[file.write(piece) or 0 :]
            os.replace(name, self._folder / digest)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def _open(self, digest: str) -> tuple[IO[bytes], Form] | None:
        """Opens a constant's file behind its head; one whose head and size do not fit is dropped."""
        try:
            # Whatever has that name: a pipe does not hold anything up.
            descriptor = os.open(self._folder / digest, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError:
            self._drop(digest)
            return None
        file = os.fdopen(descriptor, "rb")
        form, size_bytes = None, -1
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode):
                head = file.readline(_MOST_HEAD_BYTES)
                form = msgspec.json.decode(head, type=Form)
                size_bytes = found.st_size - len(head)
        if form is None or form.dtype not in DTYPES or form.size_bytes != size_bytes:
            file.close()
            self._drop(digest)
            return None
        return file, form

    def _drop(self, digest: str) -> None:
        _log.info("a constant on disk is damaged: %s", digest)
        with contextlib.suppress(OSError):
            os.unlink(self._folder / digest)

    def _make_room(self, size_bytes: int) -> None:
        files = sorted(self._files())
        total_bytes = sum(found_bytes for _, found_bytes, _ in files) + size_bytes
        for _, found_bytes, path in files:
            if total_bytes <= self._cap_bytes:
                return
            if path.endswith(_PART):
                continue
            with contextlib.suppress(OSError):
                os.unlink(path)
                total_bytes -= found_bytes

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Constants, and what is being written: when used last, bytes, path."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                # Another worker may drop it meanwhile; what is not a constant's name is nobody's to drop.
                with contextlib.suppress(FileNotFoundError):
                    if (_is_digest(entry.name) or entry.name.endswith(_PART)) and entry.is_file(follow_symlinks=False):
                        found = entry.stat(follow_symlinks=False)
                        yield found.st_mtime, found.st_size, entry.path

    def _sweep(self) -> None:
        """Removes what a worker that was ended while it wrote has left."""
        for used_s, _, path in self._files():
            if path.endswith(_PART) and used_s < time.time() - _OLD_S:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _give_up(self, error: OSError) -> None:
        self._writes = False
        _log.warning("%s: constants are kept in memory alone from now on: %s", self._folder, error.strerror or error)


def _is_digest(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


def _fill(file: IO[bytes], piece: memoryview) -> bool:
    """Reads a whole piece; returns whether there was that much."""
    try:
        return file.readinto(piece) == piece.nbytes  # type: ignore[attr-defined,no-any-return]
    except OSError:
        return False
