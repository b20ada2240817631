"""Pictures of every depth and kind: what is read is the 8-bit picture of the same content, or the file is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from distredge.errors import MediaError
from distredge.media.images import read_image
from distredge.model.preprocess import Preprocess

GREY = np.arange(256, dtype=np.uint8).reshape(8, 32)
"""Every grey once."""

RGB = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])

ENDS_AND_MIDDLE = np.array([[0, 128, 255]], np.uint8)


def as_rgb(grey: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)


def over_white(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What a viewer with a white ground shows, before rounding."""
    share = alpha.astype(np.float64)[..., None] / 255
    return pixels * share + 255 * (1 - share)


def png(samples: NDArray[Any], colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 8 or 16 bits; `samples` (height, width) or (height, width, n_channels), uint8 or uint16."""
    depth = 8 * samples.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, colour_type, 0, 0, 0)
    every = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    written = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in every)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def tiff(samples: bytes, shape: tuple[int, int], bits: int, photometric: int, channels: int = 1, **more: int) -> bytes:
    """An uncompressed TIFF of one strip, little-endian unless `big`; samples as they stand in the file."""
    order = ">" if more.get("big") else "<"
    height, width = shape
    tags: dict[int, tuple[int, ...]] = {
        256: (width,), 257: (height,), 258: (bits,) * channels, 259: (1,), 262: (photometric,), 273: (0,),
        277: (channels,), 278: (height,), 279: (len(samples),), 339: (more.get("sample_format", 1),) * channels,
    }  # fmt: skip
    if "extra" in more:
        tags[338] = (more["extra"],)
    after = 8 + 2 + 12 * len(tags) + 4
    outside, entries = b"", b""
    size_of_tables = sum(2 * len(values) for values in tags.values() if len(values) > 2)
    for tag, values in sorted(tags.items()):
        if tag == 273:
            values = (after + size_of_tables,)
        value = struct.pack(f"{order}{len(values)}H", *values)
        if len(value) > 4:
            entries += struct.pack(f"{order}HHII", tag, 3, len(values), after + len(outside))
            outside += value
        else:
            entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + value.ljust(4, b"\0")
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + outside + samples


def read(tmp_path: Path, content: bytes) -> NDArray[np.uint8]:
    (tmp_path / "picture").write_bytes(content)
    return read_image(tmp_path / "picture")


def saved(picture: Image.Image, picture_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, picture_format, **options)
    return stream.getvalue()


def deep(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The same content in 16 bits: 255 becomes 65535."""
    return pixels.astype(np.uint16) * 257


SAME_AS_8_BITS = {
    "PNG, 16-bit grey": (png(deep(GREY), 0), as_rgb(GREY)),
    "PNG, 16-bit RGB": (png(deep(RGB), 2), RGB),
    "PNG, 16-bit grey, opaque": (png(np.dstack([deep(GREY), np.full_like(deep(GREY), 65535)]), 4), as_rgb(GREY)),
    "PNG, 16-bit RGB, opaque": (png(np.dstack([deep(RGB), np.full_like(deep(GREY), 65535)]), 6), RGB),
    "PNG, 1 bit": (saved(Image.fromarray(GREY > 99), "PNG"), as_rgb(255 * (GREY > 99))),
    "PNG, 8-bit palette": (saved(Image.fromarray(RGB).quantize(256), "PNG"), None),
    "TIFF, 16-bit grey": (tiff(deep(GREY).astype("<u2").tobytes(), GREY.shape, 16, 1), as_rgb(GREY)),
    "TIFF, 16-bit grey, big-endian": (
        tiff(deep(GREY).astype(">u2").tobytes(), GREY.shape, 16, 1, big=1),
        as_rgb(GREY),
    ),
    "TIFF, 16-bit grey, 0 is white": (tiff(deep(255 - GREY).tobytes(), GREY.shape, 16, 0), as_rgb(GREY)),
    "TIFF, 8-bit grey, 0 is white": (tiff((255 - GREY).tobytes(), GREY.shape, 8, 0), as_rgb(GREY)),
    "TIFF, 12-bit grey": (tiff(b"\x00\x08\x08\xff\xf0\x00", (1, 4), 12, 1), as_rgb([[0, 128, 255, 0]])),
    "TIFF, 16-bit RGB": (tiff(deep(RGB).astype("<u2").tobytes(), GREY.shape, 16, 2, 3), RGB),
    "TIFF, 16-bit RGB, big-endian": (tiff(deep(RGB).astype(">u2").tobytes(), GREY.shape, 16, 2, 3, big=1), RGB),
    "TIFF, 16-bit CMYK": (
        tiff(np.dstack([deep(255 - RGB), np.zeros_like(deep(GREY))]).tobytes(), GREY.shape, 16, 5, 4),
        RGB,
    ),
    "TIFF, LZW, 16-bit grey": (saved(Image.fromarray(deep(GREY)), "TIFF", compression="tiff_lzw"), as_rgb(GREY)),
    "JPEG 2000, 16-bit grey": (saved(Image.fromarray(deep(GREY)), "JPEG2000"), as_rgb(GREY)),
    "PGM, white at 65535": (b"P5 32 8 65535\n" + deep(GREY).astype(">u2").tobytes(), as_rgb(GREY)),
    "PGM, white at 1020": (b"P5 32 8 1020\n" + (GREY.astype(np.uint16) * 4).astype(">u2").tobytes(), as_rgb(GREY)),
    "PGM, plain, white at 510": (
        b"P2 3 1 510\n" + b" ".join(b"%d" % (2 * v) for v in ENDS_AND_MIDDLE[0].tolist()),
        as_rgb(ENDS_AND_MIDDLE),
    ),
    "PPM, white at 65535": (b"P6 32 8 65535\n" + deep(RGB).astype(">u2").tobytes(), RGB),
}


@pytest.mark.parametrize("kind", sorted(SAME_AS_8_BITS))
def test_a_picture_of_another_depth_is_the_8_bit_picture_of_the_same_content(tmp_path: Path, kind: str) -> None:
    content, wanted = SAME_AS_8_BITS[kind]
    found = read(tmp_path, content)
    if wanted is None:
        wanted = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_sixteen_bits_in_every_byte_order_prepare_as_eight(mode: str) -> None:
    order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    picture = Image.frombytes(mode, (32, 8), deep(GREY).astype(order).tobytes())
    for channels, depth in (("RGB", 3), ("L", 1)):
        preprocess = Preprocess((8, 32), None, (0.0,) * depth, (1.0,) * depth, channels=channels)  # type: ignore[arg-type]
        np.testing.assert_array_equal(preprocess.prepare(picture), preprocess.prepare(GREY))


def test_values_between_those_of_8_bits_are_rounded(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    found = read(tmp_path, png(values, 0))
    np.testing.assert_array_equal(found[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("picture_format", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_are_shown_on_white(tmp_path: Path, picture_format: str) -> None:
    alpha = np.ascontiguousarray(GREY.T).reshape(GREY.shape)
    lossless = {"lossless": True, "exact": True} if picture_format == "WEBP" else {}
    content = saved(Image.fromarray(np.dstack([RGB, alpha])), picture_format, **lossless)
    found = read(tmp_path, content)
    assert np.abs(found - over_white(RGB, alpha)).max() <= 1
    np.testing.assert_array_equal(found[alpha == 255], RGB[alpha == 255])
    assert (found[alpha == 0] == 255).all()


def test_grey_with_alpha_is_shown_on_white_at_both_depths(tmp_path: Path) -> None:
    alpha = GREY[::-1]
    wanted = over_white(as_rgb(GREY), alpha)
    both = np.dstack([GREY, alpha])
    for content in (png(both, 4), png(deep(both), 4)):
        assert np.abs(read(tmp_path, content) - wanted).max() <= 1


def test_a_logo_on_a_transparent_ground_does_not_turn_black(tmp_path: Path) -> None:
    logo = np.zeros((8, 8, 4), np.uint8)  # black strokes on a transparent black ground
    logo[2:4, :, 3] = 255
    wanted = as_rgb(np.where(logo[..., 3] == 255, 0, 255))
    picture = Image.fromarray(logo)
    palette = picture.quantize(4)
    for content in (saved(picture, "PNG"), saved(palette, "PNG"), saved(picture, "GIF")):
        np.testing.assert_array_equal(read(tmp_path, content), wanted)


def test_a_colour_that_is_declared_transparent_is_shown_white(tmp_path: Path) -> None:
    key = np.array([[[5, 6, 7], [8, 9, 10]]], np.uint8)
    wanted = np.array([[[255, 255, 255], [8, 9, 10]]], np.uint8)
    eight, sixteen = struct.pack(">HHH", 5, 6, 7), struct.pack(">HHH", *(257 * k for k in (5, 6, 7)))
    np.testing.assert_array_equal(read(tmp_path, png(key, 2, (b"tRNS", eight))), wanted)
    np.testing.assert_array_equal(read(tmp_path, png(deep(key), 2, (b"tRNS", sixteen))), wanted)
    greys = np.array([[5, 9]], np.uint8)
    np.testing.assert_array_equal(read(tmp_path, png(greys, 0, (b"tRNS", b"\0\5"))), as_rgb([[255, 9]]))
    np.testing.assert_array_equal(read(tmp_path, png(deep(greys), 0, (b"tRNS", b"\5\5"))), as_rgb([[255, 9]]))
    bits = saved(Image.fromarray(np.array([[False, True]])), "PNG", transparency=0)
    np.testing.assert_array_equal(read(tmp_path, bits), as_rgb([[255, 255]]))


def test_other_colour_spaces_become_rgb(tmp_path: Path) -> None:
    muted = (96 + RGB // 4).astype(np.uint8)  # 8 bits of Lab hold these closely
    picture = Image.fromarray(muted)
    lab = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    for colour_space, closeness in ((picture.convert("CMYK"), 0), (picture.convert("YCbCr"), 3), (lab, 3)):
        found = read(tmp_path, saved(colour_space, "TIFF")).astype(int)
        assert np.abs(found - muted).max() <= closeness, colour_space.mode
    smooth = np.full((16, 16, 3), (200, 90, 30), np.uint8)
    for mode in ("RGB", "CMYK"):
        found = read(tmp_path, saved(Image.fromarray(smooth).convert(mode), "JPEG", quality=95)).astype(int)
        assert np.abs(found - smooth).max() <= 4, mode


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "a sign"),
        (tiff(GREY.astype("<u4").tobytes(), GREY.shape, 32, 1), "32-bit integers"),
        (tiff(deep(GREY).tobytes(), GREY.shape, 16, 1, sample_format=2), "a sign"),
        (tiff(GREY.tobytes(), GREY.shape, 8, 1, sample_format=2), "a sign"),
        (saved(Image.fromarray((GREY / np.float32(255)).astype(np.float32)), "TIFF"), "floats"),
        (tiff(GREY.astype("<f8").tobytes(), GREY.shape, 64, 1, sample_format=3), "cannot read"),
        (tiff(RGB.astype("<f4").tobytes(), GREY.shape, 32, 2, 3, sample_format=3), "cannot read"),
        (b"Pf 32 8 -1.0\n" + GREY.astype("<f4").tobytes(), "floats|cannot read"),
        (png(np.zeros((0, 4), np.uint8), 0), "not an image"),
        (png(np.zeros((4, 0), np.uint8), 0), "not an image"),
    ],
)
def test_what_has_no_white_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(MediaError, match=f"picture: .*({reason}).*; accepted: .*16 bits"):
        read(tmp_path, content)


def test_numbers_without_a_white_and_pictures_without_pixels_are_not_prepared_either() -> None:
    preprocess = Preprocess((8, 32), None, (0.0,) * 3, (1.0,) * 3)
    for picture in (
        Image.fromarray(GREY.astype(np.int32)),
        Image.fromarray(GREY.astype(np.float32)),
        Image.new("RGB", (0, 5)),
    ):
        with pytest.raises(MediaError, match="accepted"):
            preprocess.prepare(picture)


def test_of_several_frames_the_first_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(as_rgb(np.full((4, 4), value))) for value in (0, 255)]
    for picture_format in ("GIF", "TIFF", "PNG", "WEBP"):
        content = saved(frames[0], picture_format, save_all=True, append_images=frames[1:])
        assert read(tmp_path, content).max() <= 1, picture_format
