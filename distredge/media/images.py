"""Reading images."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MediaError

MAX_PIXELS = 100_000_000
"""Images of more pixels are refused: 300 MB once decoded, and a file of a few kilobytes can claim any size."""


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Reads an image file as RGB, turned upright by its EXIF orientation; the first frame of an animation.

    Returns:
        uint8 array (height, width, 3).

    Raises:
        MediaError: if the file is missing, no image, damaged, or of more than MAX_PIXELS pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if not path.is_file():
        raise MediaError(f"{path}: no such file; accepted: an image (JPEG, PNG, WebP, ...)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the limit here
            with Image.open(path) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise MediaError(
                        f"{path}: found {opened.width} x {opened.height} pixels, accepted: at most {MAX_PIXELS}"
                    )
                upright = ImageOps.exif_transpose(opened)
                return np.array(upright.convert("RGB"), dtype=np.uint8)
    except UnidentifiedImageError as error:
        raise MediaError(f"{path}: not an image that Pillow can read; accepted: JPEG, PNG, WebP, ...") from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path}: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(f"{path}: a damaged image: {error}") from error
