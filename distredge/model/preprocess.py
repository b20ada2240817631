"""How an image becomes a model's input: what the requester does, and the cast and normalisation that follow.

The requester resizes and crops (`prepare`) and may send the uint8 rows as they are. Cast and normalise
(`normalise`) are row-local, so that they can be the first operators of a device's first sub-model
(Cast, Sub, Mul: `x -> (float32(x) - mean) * scale`); zero padding comes after them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MediaError, ModelError
from distredge.model.pixels import as_rgb
from distredge.model.wires import MAX_FILE_BYTES

if TYPE_CHECKING:
    from PIL.Image import Image

LARGER_FILES = 2
"""Times the pixels that a strategy was priced with: pictures with more travel as rows. Devices keep memory for it."""

_PIXEL_BYTES = 16
"""Memory that a pixel takes while a file is decoded and turned upright: 14 to 15 bytes were measured."""

_PREPARED_PIXEL_BYTES = 10
"""Likewise of a pixel of what is made of it: resized, as an array, and in the model's layout."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""Resampling filters of Pillow, by lower-case name."""


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of one image input.

    Attributes:
        crop: (height, width) of the model's input in pixels.
        resize: shorter side in pixels to which the image is resized before the central crop; None: the whole image
            is stretched to `crop`.
        mean: value subtracted from each channel, on the 0..255 range.
        scale: factor that each channel is multiplied by afterwards.
        layout: axes of the prepared array.
        channels: order of the channels.
        interpolation: one of INTERPOLATIONS.
    """

    crop: tuple[int, int]
    resize: int | None
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if min(self.crop) < 1:
            raise ModelError(f"preprocess: crop: found {self.crop}, accepted: height and width in pixels, at least 1")
        if self.resize is not None and self.resize < 1:
            raise ModelError(f"preprocess: resize: found {self.resize}, accepted: pixels, at least 1, or none")
        if self.layout not in ("NCHW", "NHWC"):
            raise ModelError(f"preprocess: layout: found {self.layout!r}, accepted: NCHW, NHWC")
        if self.channels not in ("RGB", "BGR", "L"):
            raise ModelError(f"preprocess: channels: found {self.channels!r}, accepted: RGB, BGR, L")
        if self.interpolation not in INTERPOLATIONS:
            accepted = ", ".join(INTERPOLATIONS)
            raise ModelError(f"preprocess: interpolation: found {self.interpolation!r}, accepted: {accepted}")
        for key, values in (("mean", self.mean), ("scale", self.scale)):
            if len(values) != self.depth or not np.all(np.isfinite(values)):
                raise ModelError(f"preprocess: {key}: found {values}, accepted: {self.depth} finite numbers")

    @property
    def depth(self) -> int:
        """Number of channels."""
        return 1 if self.channels == "L" else 3

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the prepared array, batch axis included."""
        height, width = self.crop
        return (1, self.depth, height, width) if self.layout == "NCHW" else (1, height, width, self.depth)

    def prepare(self, image: NDArray[np.uint8] | Image) -> NDArray[np.uint8]:
        """Resizes and crops one image.

        Args:
            image: Pillow image (any that `pixels.as_rgb` takes), or uint8 array (height, width, 3) in RGB or
                (height, width) in grey.

        Returns:
            uint8 array of `shape`, C-contiguous.

        Raises:
            MediaError: if the array is no image, or nothing says which of a picture's values is white.
        """
        from PIL import Image as pillow

        picture = as_rgb(image) if isinstance(image, pillow.Image) else _from_array(image)
        picture = picture.convert("L" if self.channels == "L" else "RGB")
        height, width = self.crop
        resample = pillow.Resampling[self.interpolation.upper()]
        resized = picture.resize((width, height), resample, box=self.seen(picture.width, picture.height))
        pixels = np.asarray(resized, dtype=np.uint8).reshape(height, width, self.depth)
        if self.channels == "BGR":
            pixels = pixels[:, :, ::-1]
        if self.layout == "NCHW":
            pixels = pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels[None])

    def decoding_bytes(self, pixels: int) -> int:
        """Memory that decoding a JPEG file of so many pixels and preparing it takes at most."""
        return _PIXEL_BYTES * pixels + _PREPARED_PIXEL_BYTES * math.prod(self.crop)

    @property
    def kept_bytes(self) -> int:
        """Memory of a picture's file and what was made of it."""
        return MAX_FILE_BYTES + math.prod(self.shape)

    def normalise(self, prepared: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turns pixels into what the model reads: `(float32(prepared) - mean) * scale` per channel.

        Args:
            prepared: uint8 array (1, depth, height, width), or (1, height, width, depth) where the layout is "NHWC".

        Returns:
            float32 array of the same shape.
        """
        per_channel = (1, -1, 1, 1) if self.layout == "NCHW" else (1, 1, 1, -1)
        mean = np.array(self.mean, np.float32).reshape(per_channel)
        scale = np.array(self.scale, np.float32).reshape(per_channel)
        normalised: NDArray[np.float32] = (prepared.astype(np.float32) - mean) * scale
        return normalised

    def seen(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Returns which part of an image becomes the input: left, top, right, bottom, in its own pixels.

        Args:
            width: of the image.
            height: of the image.
        """
        if self.resize is None:
            return (0.0, 0.0, float(width), float(height))
        shorter = min(width, height)
        box_height = min(float(height), self.crop[0] * shorter / self.resize)
        box_width = min(float(width), self.crop[1] * shorter / self.resize)
        left, top = (width - box_width) / 2, (height - box_height) / 2
        return (left, top, left + box_width, top + box_height)


def _from_array(array: NDArray[Any]) -> Image:
    from PIL import Image as pillow

    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)) or array.size == 0:
        raise MediaError(
            f"image array: found shape {array.shape} and dtype {array.dtype}, "
            "accepted: uint8 (height, width, 3) or (height, width)"
        )
    return pillow.fromarray(array)


def imagenet(height: int, width: int, resize: int | None, interpolation: str = "bilinear") -> Preprocess:
    """Preprocessing of torchvision's ImageNet models: mean (0.485, 0.456, 0.406), deviation (0.229, 0.224, 0.225)."""
    return Preprocess(
        crop=(height, width),
        resize=resize,
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        scale=(1 / (0.229 * 255), 1 / (0.224 * 255), 1 / (0.225 * 255)),
        interpolation=interpolation,
    )
