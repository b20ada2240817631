"""Pictures in JPEG files that travel as they are: looked at on the requester, decoded on the devices that need them."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MediaError
from distredge.media.images import MAX_PIXELS, decode, open_image, shown_size

BEGINS: Final = b"\xff\xd8\xff"
"""How a JPEG file begins: ISO/IEC 10918-1, table B.1, start of image and the next marker."""

MAX_SCANS: Final = 100
"""Of a file that travels. Encoders make some ten; each costs its decoder a pass over the picture, for a dozen bytes."""

_SCAN: Final = b"\xff\xda"
"""Start of one: the same table."""

_FORMATS: Final = ("JPEG",)

_TEST: Final = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV015{O2nPlV2nYxZ3JMDj7!VE(4GtX@77-"
    "XDA0;FrA0i<pD>pADDKse|A}~QQG&wsyK0YNbL`g$DNH;w`JOA4NLjej43l0qq91sv3J18P3J3Bi&J3Bi&J3Bi&J3Bi&J3Bi&J3B"
    "i&J3Bi&J3Bi&J3Bi&J3Bi&J3Bi&J3Bi&J3Ift01*fP8vrE(0U`hb5di}c0sq7R82|wR0RRI40000000000000F900RaG|HJ?;5C8"
    "%J0tEpE1qA>A00000009CK00RUPAu&M(6Cz=8f$%a>k+IPgGeTl=|HJ?p0RRF60RR91000000000000IUB1O*5G!~iD|009I60R{"
    "&E00000000000RRF65d;zwAu&Nw!38p5fuZ5>|Jncy0|5X65d#qbKLGPfcpQr^a%&PIH{+g0yvK!GXQvlo7WF5(pc&_%d}|cFi~|"
    "J$gGd07ekngM9ewLb;rd_-OD0y|I|<MMx4vjG+qUGO#?Gn)qAhgmdBa-"
    ")jE~|DVY&QO*7{nR%C6FOoq!|5eksMnAZ4{^o3|8zT0}t8Q#{AotG9u~1&fUnrd4eLkErsgBp9)~N15FRf8NQX4>{Bgpc|&&vHL~"
    "4#LPG1wRW%4)ovcovrPntx)yiTcvheehzfKf{a^H$8{#x7!Yc`Y0OfULZ<*Z2-"
    "o9t;N~RXp9@5;hif%gv8j%CjZ71B<Cr?DU%b7ujF{k!Ffk<{qa`lkP3?^Sd39QI6ogOBp?r|VrOTNIa35}9<DR8|kAYSf3Q&LRx>"
    "_uB+4EJ&(TNwhC1T1C{dG+(&s=eJ7EsYhxW&@L%N7$N5(k+DvXa!QkZ}g*oDz5o-"
    "7edY21(G<O*FiU7PWOQByb<=gN|s_BZBDXB#q_OC*s*FDc4}aa#PBOsc&C)GY}(K{SSRMz(V5)bSO3`"
)
"""37 x 27 pixels of noise on ramps, with colours at half the resolution."""


@dataclass(frozen=True)
class FileLimits:
    """Which JPEG files may travel: others are decoded where they are read.

    Attributes:
        size_bytes: of a file, at most.
        pixels: of its picture, at most.
    """

    size_bytes: int
    pixels: int


@dataclass(frozen=True, eq=False)
class JpegFile:
    """A JPEG file of which nothing but the header was read.

    Attributes:
        name: for messages.
        content: all of it.
        size: (height, width) of its picture as a viewer shows it, in pixels.
    """

    name: str
    content: bytes
    size: tuple[int, int]

    @property
    def n_pixels(self) -> int:
        """How many pixels it has."""
        return self.size[0] * self.size[1]

    def pixels(self) -> NDArray[np.uint8]:
        """Decodes it: uint8 (height, width, 3), RGB.

        Raises:
            MediaError: if it is damaged, or has more than MAX_PIXELS pixels.
        """
        return decode_jpeg(self.content, self.name)


def jpeg_file(content: bytes, name: str) -> JpegFile | None:
    """Returns a file whose content was read, or None where that is no JPEG that others would decode."""
    if not content.startswith(BEGINS) or content.count(_SCAN) > MAX_SCANS:
        return None
    try:
        size = shown_size(io.BytesIO(content), name, _FORMATS)
    except MediaError:
        return None
    return JpegFile(name, content, size) if 0 < size[0] * size[1] <= MAX_PIXELS else None


def decode_jpeg(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decodes a JPEG file and nothing else, as `images.read_image` does.

    Args:
        content: of the file.
        name: for messages.
        max_pixels: more are refused before anything is decoded.

    Returns:
        uint8 array (height, width, 3), RGB.

    Raises:
        MediaError: if it is none, damaged, or too large, or has more than MAX_SCANS scans.
    """
    scans = content.count(_SCAN)
    if scans > MAX_SCANS:
        raise MediaError(f"{name}: found {scans} scans, accepted: at most {MAX_SCANS}")
    return decode(io.BytesIO(content), name, _FORMATS, max_pixels)


@dataclass(frozen=True)
class MeanFile:
    """What some pictures' JPEG files are like.

    Attributes:
        files: how many there are.
        others: pictures that are in no JPEG file.
        size_bytes: mean of the files.
        pixels: mean of their pictures.
    """

    files: int
    others: int
    size_bytes: int
    pixels: int


def mean_file(paths: Iterable[str | Path]) -> MeanFile:
    """Looks at pictures' files, at the headers alone.

    Raises:
        MediaError: if one cannot be read, or none is a JPEG.
    """
    sizes: list[int] = []
    pixels: list[int] = []
    others = 0
    for path in paths:
        with open_image(path) as stream:
            if stream.read(len(BEGINS)) != BEGINS:
                others += 1
                continue
            stream.seek(0)
            height, width = shown_size(stream, str(path), _FORMATS)
            pixels.append(height * width)
            sizes.append(stream.seek(0, io.SEEK_END))
    if not sizes:
        raise MediaError(f"{others} pictures, none of them a JPEG file; accepted: pictures with JPEG files among them")
    return MeanFile(len(sizes), others, max(1, round(sum(sizes) / len(sizes))), round(sum(pixels) / len(pixels)))


def pillow_version() -> str:
    """Version of the Pillow that is installed here; "" if none is."""
    try:
        import PIL
    except ImportError:
        return ""
    return str(PIL.__version__)


@functools.lru_cache(maxsize=1)
def decoder_mark() -> str:
    """What is equal where the same file becomes the same pixels, resized: builds of Pillow may differ in rounding.

    Raises:
        MediaError: if nothing here decodes JPEG.
    """
    from PIL import Image

    found = decode_jpeg(_TEST, "the decoder's test picture")
    digest = hashlib.sha256(found.tobytes())
    for resample in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        digest.update(Image.fromarray(found).resize((19, 23), resample, box=(1.5, 0.0, 36.0, 27.0)).tobytes())
    return digest.hexdigest()[:16]
