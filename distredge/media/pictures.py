"""Pictures that come one after the other: files of a folder, of a pattern, or named line by line."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MediaError
from distredge.media.images import decode, open_image, read_image
from distredge.media.jpeg import BEGINS, FileLimits, JpegFile, jpeg_file
from distredge.media.sources import find_images

_BLOCK_BYTES = 4096
_LONGEST_BYTES = 1 << 16
"""Of a name; systems allow some thousands, and what goes on without an end is no list of names."""

_WILD = frozenset("*?[")


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a stream.

    Attributes:
        name: for reports.
        pixels: uint8 (height, width, 3), RGB; None if it could not be read, is not decoded, or they were given up.
        error: why it could not be read.
        size: (height, width) in pixels; None if it could not be read.
        file: the JPEG file that it is in, where that was left as it is.
    """

    name: str
    pixels: NDArray[np.uint8] | None
    error: MediaError | None = None
    size: tuple[int, int] | None = None
    file: JpegFile | None = None

    def __post_init__(self) -> None:
        if self.pixels is not None:
            object.__setattr__(self, "size", self.pixels.shape[:2])
        elif self.file is not None:
            object.__setattr__(self, "size", self.file.size)

    def taken(self) -> NDArray[np.uint8]:
        """Returns the pixels, uint8 (height, width, 3); a file that was left as it is is decoded.

        Raises:
            MediaError: if there are none, or the file is damaged.
        """
        if self.pixels is None and self.file is not None:
            return self.file.pixels()
        if self.pixels is None:
            raise self.error or MediaError(f"{self.name}: no pixels")
        return self.pixels

    def without_pixels(self) -> Picture:
        """A copy that takes no memory."""
        return Picture(self.name, None, self.error, self.size)


def read_picture(path: str | Path, keep_files: FileLimits | None = None) -> Picture:
    """Reads a picture; what is wrong with it comes along instead of its pixels.

    Args:
        path: of its file.
        keep_files: JPEG files within these limits are left as they are, but for their headers; None: none are.
    """
    try:
        return _read_file(path, keep_files) if keep_files is not None else Picture(str(path), read_image(path))
    except MediaError as error:
        return Picture(str(path), None, error)


def _read_file(path: str | Path, limits: FileLimits) -> Picture:
    with open_image(path) as stream:
        try:
            file = _kept(stream, str(path), limits)
            stream.seek(0)
        except OSError as error:
            raise MediaError(f"{path}: cannot be read: {error.strerror or error}") from None
        return Picture(str(path), decode(stream, str(path))) if file is None else Picture(file.name, None, file=file)


def _kept(stream: BufferedReader, name: str, limits: FileLimits) -> JpegFile | None:
    """The file, of which no more is read than may travel; None where it must be decoded."""
    content = stream.read(len(BEGINS))
    if content != BEGINS:
        return None
    content += stream.read(limits.size_bytes - len(content) + 1)
    file = jpeg_file(content, name) if len(content) <= limits.size_bytes else None
    return file if file is not None and file.n_pixels <= limits.pixels else None


class ReadAhead:
    """Pictures read in threads, as many at once, and given in their order; iterate once, and close.

    Args:
        names: of files that are there already: the next ones are asked for before the first is given.
        threads: how many; so many pictures are read before anybody takes them.
        keep_files: as for `read_picture`.
    """

    def __init__(self, names: Iterable[str], threads: int, keep_files: FileLimits | None = None) -> None:
        self._keep_files = keep_files
        self._names = names
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "pictures")

    def __iter__(self) -> Iterator[Picture]:
        waiting: deque[Future[Picture]] = deque()
        try:
            for name in self._names:
                waiting.append(self._pool.submit(read_picture, name, self._keep_files))
                if len(waiting) > self._threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            self.close()

    def close(self) -> None:
        """Ends the threads, from any other one and whoever still iterates, for whom there is nothing more to take."""
        self._pool.shutdown(cancel_futures=True)


def find_pictures(what: str) -> list[Path]:
    """Returns the files that a folder, a pattern or a name stands for, by name.

    A pattern's files are taken as they are; of a folder's, those that end as pictures do (`sources.SUFFIXES`).

    Raises:
        MediaError: if there are none.
    """
    if not _WILD & set(what) or os.path.exists(what):
        return find_images(what)
    found = sorted(Path(name) for name in glob.glob(what, recursive=True) if os.path.isfile(name))
    if not found:
        raise MediaError(f"{what}: no file fits the pattern; accepted: such as 'folder/*.jpg'")
    return found


def lines_of(descriptor: int) -> Iterator[str]:
    """Yields the lines of an open file as they come, without their ends; empty ones are left out.

    It reads the descriptor itself: a thread that waits in Python's own `stdin` would hold it when the process ends.

    Args:
        descriptor: of the file, such as 0; it stays open.

    Raises:
        MediaError: if it cannot be read, or is no list of names.
    """
    rest = b""
    while True:
        try:
            block = os.read(descriptor, _BLOCK_BYTES)
        except OSError as error:
            raise MediaError(f"names of pictures: cannot be read: {error.strerror or error}") from None
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > _LONGEST_BYTES:
            raise MediaError(f"names of pictures: found {len(rest)} bytes on one line, accepted: one name a line")
        if not block and rest:
            lines, rest = [rest], b""
        for line in lines:
            if name := os.fsdecode(line.rstrip(b"\r")):
                yield name
        if not block:
            return
