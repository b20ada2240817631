"""Where images come from: a file, several, a folder, or a synthetic stream."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MediaError, located
from distredge.media.images import read_image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Endings, in lower case, of the files that a folder is searched for."""


@dataclass(frozen=True)
class Frame:
    """One image on its way in: a name for reports, and its pixels, uint8 (height, width, 3)."""

    name: str
    pixels: NDArray[np.uint8]


def find_images(what: str | Path) -> list[Path]:
    """Returns the images at a path: the file itself, or a folder's images by name, subfolders not searched.

    Raises:
        MediaError: if there is no such path, or the folder holds no image.
    """
    path = Path(what)
    if not str(what):
        # An unset variable of a shell, and not the folder that one happens to be in.
        raise MediaError("pictures: found an empty name, accepted: an image or a folder of images")
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise MediaError(f"{path}: no such file or folder; accepted: an image or a folder of images")
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not found:
        raise MediaError(f"{path}: found no image, accepted: files ending in {', '.join(sorted(SUFFIXES))}")
    return found


def read_frames(sources: Sequence[str | Path], count: int | None = None) -> Iterator[Frame]:
    """Reads images one after the other.

    Args:
        sources: files and folders, at least one.
        count: how many frames in all, starting again at the first when there are fewer images; None: each once.

    Raises:
        MediaError: before the first frame if a path is missing or `count` is below 1; on the way if one is no image.
    """
    if count is not None and count < 1:
        raise MediaError(located("frames", "count", count, "at least 1"))
    paths = [path for source in sources for path in find_images(source)]
    if not paths:
        raise MediaError("frames: found no source, accepted: at least one image or folder")
    chosen = paths if count is None else itertools.islice(itertools.cycle(paths), count)
    return (Frame(path.name, read_image(path)) for path in chosen)


def random_frames(height: int, width: int, count: int, seed: int = 0) -> Iterator[Frame]:
    """Makes images of uniform noise, for runs in which the content does not matter.

    Raises:
        MediaError: if a size or the count is below 1.
    """
    if min(height, width, count) < 1:
        raise MediaError(located("frames", "height, width, count", (height, width, count), "at least 1 each"))
    draws = np.random.default_rng(seed)
    return (
        Frame(f"random-{index}", draws.integers(0, 256, (height, width, 3), dtype=np.uint8)) for index in range(count)
    )
