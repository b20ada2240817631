"""A picture of any depth as the 8-bit RGB that a viewer shows.

Pillow's own `convert("RGB")` clips what is deeper than 8 bits (a 16-bit grey picture turns white), leaves out
transparency (what is hidden under a transparent pixel, mostly black, comes to light), and takes floats for 0..255.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MediaError

if TYPE_CHECKING:
    from PIL.Image import Image

ACCEPTED = "1, 2, 4, 8, 12 or 16 bits a channel without sign: grey, palette, RGB, CMYK, YCbCr or Lab, also with alpha"

_DEEP_GREY = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})

_SCALED_BY_PILLOW = frozenset({"PNG", "PPM"})
"""Formats whose integers Pillow gives in mode "I" from 0 to 65535; elsewhere "I" may hold any 32-bit numbers."""

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF 6.0."""


def as_rgb(picture: Image, where: str = "image") -> Image:
    """Returns a picture as a viewer shows it: 8-bit RGB, white behind what is transparent.

    Deeper grey is scaled so that its white becomes 255; a picture that is 8-bit RGB or grey keeps its values.

    Args:
        picture: of any mode of Pillow's; it is not changed.
        where: file or other origin, for messages.

    Raises:
        MediaError: if nothing says which value is white (32-bit integers, floats, numbers with a sign), or the mode
            cannot become RGB.
    """
    if min(picture.size) < 1:
        raise MediaError(f"{where}: found {picture.width} x {picture.height} pixels, accepted: at least 1 x 1")
    tags = _tags(picture)
    if picture.mode == "F" or 3 in tags.get(_SAMPLE_FORMAT, ()):
        raise MediaError(f"{where}: found floats, of which nothing says which is white; accepted: {ACCEPTED}")
    if 2 in tags.get(_SAMPLE_FORMAT, ()):
        raise MediaError(
            f"{where}: found numbers with a sign, of which nothing says which is white; accepted: {ACCEPTED}"
        )
    if picture.mode in _DEEP_GREY or (picture.mode == "I" and picture.format in _SCALED_BY_PILLOW):
        return _from_deep_grey(picture, tags)
    if picture.mode == "I":
        raise MediaError(f"{where}: found 32-bit integers, of which nothing says which is white; accepted: {ACCEPTED}")
    try:
        return _over_white(picture) if _has_alpha(picture) else picture.convert("RGB")
    except (ValueError, KeyError) as error:
        raise MediaError(f"{where}: found mode {picture.mode}: {error}; accepted: {ACCEPTED}") from error


def _tags(picture: Image) -> dict[int, tuple[Any, ...]]:
    """The tags of a TIFF file that say what its numbers mean, as tuples."""
    found = getattr(picture, "tag_v2", None) or {}
    tags = {}
    for tag in (_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT):
        value = found.get(tag)
        if value is not None:
            tags[tag] = value if isinstance(value, tuple) else (value,)
    return tags


def _from_deep_grey(picture: Image, tags: dict[int, tuple[Any, ...]]) -> Image:
    from PIL import Image as pillow

    white = 65535
    if picture.format == "TIFF":
        white = (1 << int(tags.get(_BITS_PER_SAMPLE, (16,))[0])) - 1
    shown: NDArray[np.uint8] = np.full(65536, 255, np.uint8)
    shown[: white + 1] = (np.arange(white + 1) * 255 + white // 2) // white
    # TIFF 6.0 allows 0 to be white; Pillow inverts such pictures up to 8 bits and no deeper ones.
    if picture.format == "TIFF" and tags.get(_PHOTOMETRIC) == (0,):
        shown = 255 - shown
    key = picture.info.get("transparency")
    if isinstance(key, int):
        shown[key] = 255
    return pillow.fromarray(shown[np.asarray(picture)]).convert("RGB")


def _has_alpha(picture: Image) -> bool:
    return picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info


def _over_white(picture: Image) -> Image:
    from PIL import Image as pillow

    key = picture.info.get("transparency")
    if picture.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # A 16-bit PNG's key, while Pillow has kept the upper byte of each channel.
        picture = picture.copy()
        picture.info["transparency"] = tuple(int(value) >> 8 for value in key)
    elif picture.mode == "1" and isinstance(key, int):
        picture = picture.convert("L")
        picture.info["transparency"] = 255 if key else 0
    if picture.mode == "La":
        picture = picture.convert("LA")
    seen = picture.convert("RGBA")
    shown = pillow.new("RGB", seen.size, (255, 255, 255))
    shown.paste(seen.convert("RGB"), mask=seen.getchannel("A"))
    return shown
