"""JPEG files that are looked at and left as they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distredge.errors import MediaError
from distredge.media import jpeg
from distredge.media.images import read_image
from distredge.media.picture_source import open_files
from distredge.media.pictures import read_picture
from tests.runtime.photographs import KEPT, as_jpeg, photograph, write_files


def test_a_file_is_left_as_it_is(tmp_path: Path) -> None:
    for path in write_files(tmp_path):
        picture = read_picture(path, keep_files=KEPT)
        assert picture.error is None
        if path.suffix == ".png":
            assert picture.file is None
            continue
        assert picture.pixels is None
        assert picture.file is not None
        assert picture.file.content == path.read_bytes()
        assert picture.without_pixels().file is None
        assert picture.without_pixels().size == picture.size
        if path.name != "torn.jpg":
            assert np.array_equal(picture.taken(), read_image(path))
            assert picture.size == read_image(path).shape[:2]


def test_what_may_not_travel_is_decoded_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(as_jpeg(40, 50))
    size_bytes, pixels = path.stat().st_size, 40 * 50
    for limits, kept in (
        (jpeg.FileLimits(size_bytes, pixels), True),
        (jpeg.FileLimits(size_bytes - 1, pixels), False),
        (jpeg.FileLimits(2, pixels), False),
        (jpeg.FileLimits(size_bytes, pixels - 1), False),
    ):
        picture = read_picture(path, keep_files=limits)
        assert (picture.file is not None, picture.pixels is None) == (kept, kept)
        assert picture.size == (40, 50)


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes(as_jpeg()[:1500])
    (tmp_path / "cut.jpg").write_bytes(as_jpeg()[:8])
    torn = read_picture(tmp_path / "torn.jpg", keep_files=KEPT)
    with pytest.raises(MediaError, match=r"torn\.jpg: a damaged image"):
        torn.taken()
    # Of this one not even the header can be read: found out at once.
    assert read_picture(tmp_path / "cut.jpg", keep_files=KEPT).error is not None
    assert "no such file" in str(read_picture(tmp_path / "absent.jpg", keep_files=KEPT).error)


def test_nothing_but_jpeg_is_decoded() -> None:
    stream = io.BytesIO()
    photograph(20, 20).save(stream, "PNG")
    with pytest.raises(MediaError, match="not an image, or of a kind"):
        jpeg.decode_jpeg(stream.getvalue(), "x")
    assert jpeg.jpeg_file(stream.getvalue(), "x") is None


def test_a_file_of_endless_scans_is_decoded_by_nobody_else() -> None:
    """A dozen bytes each cost a pass over the picture: a second for 60 kB."""
    content = as_jpeg(80, 60, progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    for more, kept in ((0, True), (50, True), (100, False)):
        file = content[:-2] + more * last + content[-2:]
        assert (jpeg.jpeg_file(file, "x") is not None) == kept
        if kept:
            assert jpeg.decode_jpeg(file, "x").shape == (80, 60, 3)
        else:
            with pytest.raises(MediaError, match=r"found \d+ scans, accepted: at most 100"):
                jpeg.decode_jpeg(file, "x")


def test_more_pixels_than_allowed_are_refused() -> None:
    content = as_jpeg(40, 50)
    assert jpeg.decode_jpeg(content, "x", 2000).shape == (40, 50, 3)
    with pytest.raises(MediaError, match="found 50 x 40 pixels, accepted: at most 1999"):
        jpeg.decode_jpeg(content, "x", 1999)


def test_streams_leave_files_as_they_are(tmp_path: Path) -> None:
    write_files(tmp_path)
    kept, decoded = (list(open_files(str(tmp_path), keep_files)) for keep_files in (KEPT, None))
    assert [one.name for one in kept] == [one.name for one in decoded]
    assert sum(one.file is not None for one in kept) == 5
    assert all(one.file is None for one in decoded)


def test_what_files_are_like_on_average(tmp_path: Path) -> None:
    paths = write_files(tmp_path)
    found = jpeg.mean_file(paths)
    files = [path for path in paths if path.suffix == ".jpg"]
    assert (found.files, found.others) == (5, 1)
    assert found.size_bytes == round(sum(path.stat().st_size for path in files) / 5)
    sizes = []
    for path in files:
        with Image.open(path) as opened:
            sizes.append(opened.width * opened.height)
    assert found.pixels == round(sum(sizes) / 5)
    with pytest.raises(MediaError, match="none of them a JPEG file"):
        jpeg.mean_file([tmp_path / "other.png"])


def test_a_decoder_is_known_by_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = jpeg.decoder_mark()
    assert jpeg.decoder_mark() == mark
    jpeg.decoder_mark.cache_clear()
    as_it_is = jpeg.decode_jpeg
    monkeypatch.setattr(jpeg, "decode_jpeg", lambda *a: as_it_is(*a) ^ np.uint8(1))
    assert jpeg.decoder_mark() != mark
    jpeg.decoder_mark.cache_clear()
