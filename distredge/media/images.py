"""Reading images."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

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


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Reads an image file as a viewer shows it: RGB, upright by its EXIF orientation, white behind transparent pixels.

    Pictures of 16 bits are scaled to 8 (`distredge.model.pixels`); of an animation or several pages, the first is read.

    Returns:
        uint8 array (height, width, 3).

    Raises:
        MediaError: if the file is missing, no image, damaged, of more than MAX_PIXELS pixels, or of numbers of which
            nothing says which is white.
    """
    path = Path(path)
    try:
        if not path.is_file():
            what = "not a file" if path.exists() else "no such file"
            raise MediaError(f"{path}: {what}; accepted: an image (JPEG, PNG, WebP, ...)")
        stream = path.open("rb")
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror or error}") from None
    # Pillow warns of large pictures, for which MAX_PIXELS is the limit here, and of metadata that is not used.
    with stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decoded(stream, path)


def _decoded(stream: object, path: Path) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(stream) as opened:  # type: ignore[arg-type]
            _check_size(opened, path)
            if opened.format == _PROGRAM:
                raise MediaError(
                    f"{path}: a PostScript program, which decoding would run; accepted: JPEG, PNG, WebP, ..."
                )
            opened.load()
            _check_size(opened, path)  # a container, such as ICO, may hold a larger picture than it says
            upright = _upright(as_rgb(opened, str(path)), _orientation(opened))
            return np.array(upright, dtype=np.uint8)
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError(
            f"{path}: not an image, or of a kind that Pillow cannot read; accepted: JPEG, PNG, WebP, TIFF, ... "
            f"of {ACCEPTED}"
        ) from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path}: {error}; accepted: at most {MAX_PIXELS} pixels") from error
    except Exception as error:  # decoders of damaged files raise anything: struct.error, IndexError, EOFError, ...
        raise MediaError(f"{path}: a damaged image: {str(error) or type(error).__name__}") from error


def _check_size(opened: Image, path: Path) -> None:
    if opened.width * opened.height > MAX_PIXELS:
        raise MediaError(f"{path}: found {opened.width} x {opened.height} pixels, accepted: at most {MAX_PIXELS}")


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
