"""Boxes drawn into pictures."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distredge.errors import FileError
from distredge.media.detection import Box

_QUALITY = 90
_LINE_SHARE, _TEXT_SHARE = 200, 30
"""Of the picture's shorter side: how wide lines are, and how tall letters."""

_LEAST_TEXT = 10


def annotate(pixels: NDArray[np.uint8], boxes: Sequence[Box], path: Path) -> None:
    """Writes a picture with boxes and their classes as JPEG.

    Args:
        pixels: (height, width, 3), RGB.
        boxes: in pixels of the picture; the surest, which come first, are drawn on top.
        path: where to.

    Raises:
        FileError: if it cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    shorter = min(picture.size)
    font = ImageFont.load_default(max(_LEAST_TEXT, shorter // _TEXT_SHARE))
    width = max(1, shorter // _LINE_SHARE)
    for box in reversed(boxes):
        colour = _colour(box.name)
        draw.rectangle((box.left, box.top, box.right, box.bottom), outline=colour, width=width)
        text = f"{box.name} {100 * box.score:.0f} %"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        height = bottom - top + 2 * width
        corner = box.left, max(0.0, box.top - height)
        draw.rectangle((*corner, corner[0] + right - left + 2 * width, corner[1] + height), fill=colour)
        draw.text((corner[0] + width - left, corner[1] + width - top), text, fill="black", font=font)
    try:
        picture.save(path, "JPEG", quality=_QUALITY)
    except OSError as error:
        raise FileError(f"{path}: cannot write the picture: {error.strerror or error}") from error


def _colour(name: str) -> tuple[int, int, int]:
    """The same bright colour for the same class."""
    red, green, blue = colorsys.hsv_to_rgb((zlib.crc32(name.encode()) % 360) / 360, 0.7, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
