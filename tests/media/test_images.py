from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distredge.errors import MediaError
from distredge.media.images import read_image
from distredge.media.sources import find_images, random_frames, read_frames


def _picture(path: Path, height: int = 4, width: int = 6) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def _is_refused(path: Path) -> bool:
    """Whether a file is refused, by its name and no other error; else it is a picture."""
    reason = ""
    try:
        assert read_image(path).shape[2] == 3
    except MediaError as error:
        reason = str(error)
    assert not reason or str(path) in reason
    return bool(reason)


def test_a_png_is_read_as_it_was_written(tmp_path: Path) -> None:
    pixels = _picture(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


# How the picture is turned that is stored under each orientation of EXIF, so that a viewer shows it upright.
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: np.swapaxes(upright, 0, 1),
    6: np.rot90,
    7: lambda upright: np.swapaxes(np.rot90(upright, 2), 0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", sorted(STORED))
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_a_turned_photograph_is_read_upright(tmp_path: Path, orientation: int, ending: str) -> None:
    pixels = _picture(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{ending}"
    lossless = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels))).save(path, exif=exif, **lossless)
    np.testing.assert_array_equal(read_image(path), pixels)


def test_a_deep_picture_is_turned_as_well(tmp_path: Path) -> None:
    grey = np.arange(24, dtype=np.uint16).reshape(4, 6) * 10 * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(grey).copy()).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png")[..., 0], grey // 257)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none_and_damaged_exif_data_leave_the_picture(tmp_path: Path, orientation: int) -> None:
    pixels = _picture(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "odd.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "damaged.png", exif=b"Exif\0\0MM\0*\xff\xff\xff")
    np.testing.assert_array_equal(read_image(tmp_path / "odd.png"), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "damaged.png"), pixels)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n garbage", b"GIF89a"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"broken\.png"):
        read_image(path)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    _picture(tmp_path / "whole.png", 64, 64)
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match=r"half\.png.*damaged"):
        read_image(tmp_path / "half.png")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(MediaError, match="not a file"):
        read_image(tmp_path)


@pytest.mark.parametrize("read", [read_image, find_images])
def test_a_name_that_the_system_does_not_take_is_named(tmp_path: Path, read) -> None:
    with pytest.raises(MediaError, match=r"aaa\.png: cannot be read: File name too long"):
        read(tmp_path / f"{'a' * 300}.png")


def test_every_truncation_of_every_format_ends_in_a_picture_or_the_files_name(tmp_path: Path) -> None:
    refused = 0
    for ending in ("png", "jpg", "gif", "webp", "bmp", "tif", "ppm", "ico"):
        _picture(tmp_path / f"whole.{ending}", 16, 16)
        content = (tmp_path / f"whole.{ending}").read_bytes()
        path = tmp_path / f"cut.{ending}"
        for length in range(0, len(content) - 1, max(1, len(content) // 40)):
            path.write_bytes(content[:length])
            refused += _is_refused(path)
    assert refused > 200


def test_damaged_bytes_end_in_a_picture_or_the_files_name(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for ending in ("png", "jpg", "gif", "webp", "bmp", "tif", "ico"):
        _picture(tmp_path / f"whole.{ending}", 16, 16)
        content = (tmp_path / f"whole.{ending}").read_bytes()
        path = tmp_path / f"hit.{ending}"
        for _ in range(60):
            hit = bytearray(content)
            for place in draws.integers(0, min(len(hit), 200), 3):
                hit[place] = draws.integers(256)
            path.write_bytes(hit)
            _is_refused(path)


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_an_image_that_claims_too_many_pixels_is_refused(tmp_path: Path, side: int) -> None:
    _picture(tmp_path / "small.png")
    content = bytearray((tmp_path / "small.png").read_bytes())
    content[16:20] = content[20:24] = side.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(bytes(content))
    with pytest.raises(MediaError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png")


def test_a_folder_gives_its_images_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", "c.jpg"):
        _picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert [p.name for p in find_images(tmp_path)] == ["a.PNG", "b.png", "c.jpg"]
    assert [f.name for f in read_frames([tmp_path], count=4)] == ["a.PNG", "b.png", "c.jpg", "a.PNG"]
    assert [f.name for f in read_frames([tmp_path / "b.png", tmp_path])] == ["b.png", "a.PNG", "b.png", "c.jpg"]


def test_bad_sources_are_named_before_the_first_frame(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="found no image"):
        read_frames([tmp_path])
    with pytest.raises(MediaError, match="no such file or folder"):
        read_frames([tmp_path / "absent"])
    with pytest.raises(MediaError, match="no source"):
        read_frames([])
    with pytest.raises(MediaError, match="count"):
        read_frames([tmp_path], count=0)


def test_random_frames_follow_their_seed() -> None:
    first, second = random_frames(3, 5, 2, seed=1)
    again = next(random_frames(3, 5, 1, seed=1))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert first.pixels.shape == (3, 5, 3)
    assert not np.array_equal(first.pixels, second.pixels)
    with pytest.raises(MediaError, match="at least 1"):
        random_frames(0, 5, 1)


def test_postscript_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(MediaError, match=r"picture\.jpg: a PostScript program"):
        read_image(path)
