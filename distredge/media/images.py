"""Reading images."""

from __future__ import annotations

import warnings
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MediaError
from distredge.model.pixels import ACCEPTED, as_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
"""Images of more pixels are refused: 300 MB once decoded, and a file of a few kilobytes can claim any size."""


_PROGRAM = "EPS"
"""Pillow's name of what it gives to Ghostscript, where that is installed."""

_ORIENTATION = 0x0112
"""Tag of EXIF 2.3, section 4.6.4."""

_ON_THEIR_SIDE = frozenset({5, 6, 7, 8})
"""Its values for pictures whose height is the shown one's width."""


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Reads an image file as a viewer shows it: RGB, upright by its EXIF orientation, white behind transparent pixels.

    Pictures of 16 bits are scaled to 8 (`distredge.model.pixels`); of an animation or several pages, the first is read.

    Returns:
        uint8 array (height, width, 3).

    Raises:
        MediaError: if the file is missing, no image, damaged, of more than MAX_PIXELS pixels, or of numbers of which
            nothing says which is white.
    """
    with open_image(path) as stream:
        return decode(stream, str(path))


def open_image(path: str | Path) -> BufferedReader:
    """Opens an image file.

    Raises:
        MediaError: if there is none, or it may not be read.
    """
    path = Path(path)
    try:
        if not path.is_file():
            what = "not a file" if path.exists() else "no such file"
            raise MediaError(f"{path}: {what}; accepted: an image (JPEG, PNG, WebP, ...)")
        return path.open("rb")
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror or error}") from None


def decode(
    stream: IO[bytes], where: str, formats: tuple[str, ...] | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decodes an image as `read_image` does.

    Args:
        stream: the file's bytes.
        where: what it is, for messages.
        formats: Pillow's names of those that are accepted; None: all.
        max_pixels: images that say to have more are refused before they are decoded.

    Returns:
        uint8 array (height, width, 3).

    Raises:
        MediaError: as `read_image`.
    """
    # Pillow warns of large pictures, for which there is a limit here, and of metadata that is not used.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decoded(stream, where, formats, max_pixels)


def shown_size(stream: IO[bytes], where: str, formats: tuple[str, ...] | None = None) -> tuple[int, int]:
    """Returns (height, width) of an image as a viewer shows it, in pixels; nothing but its header is read.

    Raises:
        MediaError: if it is no image of those formats, or damaged there.
    """
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(stream, formats=formats) as opened:
                turned = _orientation(opened) in _ON_THEIR_SIDE
                return (opened.width, opened.height) if turned else (opened.height, opened.width)
        except UnidentifiedImageError as error:  # its text names a Python object
            raise MediaError(f"{where}: a damaged image: its header cannot be read") from error
        except Exception as error:  # as in `_decoded`
            raise MediaError(f"{where}: a damaged image: {str(error) or type(error).__name__}") from error


def _decoded(stream: IO[bytes], where: str, formats: tuple[str, ...] | None, max_pixels: int) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(stream, formats=formats) as opened:
            _check_size(opened, where, max_pixels)
            if opened.format == _PROGRAM:
                raise MediaError(
                    f"{where}: a PostScript program, which decoding would run; accepted: JPEG, PNG, WebP, ..."
                )
            opened.load()
            _check_size(opened, where, max_pixels)  # a container, such as ICO, may hold a larger picture than it says
            upright = _upright(as_rgb(opened, where), _orientation(opened))
            return np.array(upright, dtype=np.uint8)
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError(
            f"{where}: not an image, or of a kind that Pillow cannot read; accepted: JPEG, PNG, WebP, TIFF, ... "
            f"of {ACCEPTED}"
        ) from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{where}: {error}; accepted: at most {max_pixels} pixels") from error
    except Exception as error:  # decoders of damaged files raise anything: struct.error, IndexError, EOFError, ...
        raise MediaError(f"{where}: a damaged image: {str(error) or type(error).__name__}") from error


def _check_size(opened: Image, where: str, max_pixels: int) -> None:
    if opened.width * opened.height > max_pixels:
        raise MediaError(f"{where}: found {opened.width} x {opened.height} pixels, accepted: at most {max_pixels}")


def _upright(shown: Image, orientation: object) -> Image:
    from PIL.Image import Transpose

    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return shown.transpose(turn[orientation]) if isinstance(orientation, int) and orientation in turn else shown


def _orientation(loaded: Image) -> object:
    try:
        return loaded.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF data raise anything; the picture is shown as it is stored, as viewers do
        return None
