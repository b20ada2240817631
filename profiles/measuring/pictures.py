"""What a JPEG file costs a board that gets it: decoding, and making a model's input of the pixels."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from distredge.model.pixels import as_rgb
from distredge.model.preprocess import Preprocess
from distredge.profiles.measuring.message_ends import median_s
from distredge.profiles.schema import Pictures

HEIGHT, WIDTH = 480, 640
"""Of the picture that is decoded."""

SIDES = (160, 608)
"""Of the square inputs that are made of it; what lies between them gives the share of the input's pixels."""

_QUALITY = 85

_FALL = 1.3
"""Exponent with which amplitudes fall: 1 to 1.5 in photographs. With this one a file has a third of a byte a pixel."""


def measure_pictures(seconds: float = 1.0) -> Pictures | None:
    """Measures it on this process's cores; None where there is no Pillow, or it decodes no JPEG.

    Args:
        seconds: time to spend, roughly.
    """
    try:
        from PIL import Image, features
    except ImportError:
        return None
    if not features.check("jpg"):
        return None
    stream = io.BytesIO()
    Image.fromarray(natural_like()).save(stream, "JPEG", quality=_QUALITY)
    content = stream.getvalue()

    def decode() -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as opened:
            return np.array(as_rgb(opened), dtype=np.uint8)

    pixels = decode()
    whole_s = [
        median_s(lambda side=side: _input(side).prepare(decode()), seconds / len(SIDES))  # type: ignore[misc]
        for side in SIDES
    ]
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    small, large = (side * side for side in SIDES)
    per_input_s = max(0.0, (whole_s[1] - whole_s[0]) / (large - small))
    return Pictures(
        s_per_pixel=max(0.0, whole_s[0] - per_input_s * small) / (HEIGHT * WIDTH), s_per_input_pixel=per_input_s
    )


def natural_like(seed: int = 0) -> NDArray[np.uint8]:
    """Makes a picture whose amplitudes fall with the spatial frequency, as those of natural ones do.

    Returns:
        uint8 (HEIGHT, WIDTH, 3).
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = np.inf
    shape = (3, *frequency.shape)
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / frequency**_FALL
    # Colours of natural pictures differ less than their brightness does.
    spectrum = 0.85 * spectrum[:1] + 0.15 * spectrum
    values = np.fft.irfft2(spectrum, (HEIGHT, WIDTH)).transpose(1, 2, 0)
    picture: NDArray[np.uint8] = np.clip(128 + 50 * values / values.std(), 0, 255).astype(np.uint8)
    return picture


def _input(side: int) -> Preprocess:
    return Preprocess((side, side), None, (0.0,) * 3, (1.0,) * 3)
