"""What a JPEG file costs is measured, and a picture that is made for it is like a natural one."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image, features

from distredge.profiles.measuring.pictures import HEIGHT, WIDTH, measure_pictures, natural_like


def test_a_file_takes_time_by_its_pixels() -> None:
    found = measure_pictures(0.3)
    assert found is not None
    # A pixel that is decoded takes 1 to 1000 ns on any processor.
    assert 1e-9 < found.s_per_pixel < 1e-6
    assert 0 <= found.s_per_input_pixel < 1e-6
    assert found.source == ""


def test_the_picture_is_like_a_natural_one() -> None:
    picture = natural_like()
    assert (picture.shape, picture.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert np.array_equal(picture, natural_like())
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=85)
    assert 0.2 < len(stream.getvalue()) / (HEIGHT * WIDTH) < 0.5
    neighbours = np.corrcoef(picture[:, :-1, 0].ravel(), picture[:, 1:, 0].ravel())[0, 1]
    assert neighbours > 0.9


def test_without_pillow_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert measure_pictures(0.1) is None


def test_without_a_decoder_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    assert measure_pictures(0.1) is None
