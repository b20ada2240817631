from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from distredge.errors import MediaError, ModelError
from distredge.model.preprocess import Preprocess, imagenet

PLAIN = Preprocess(crop=(4, 6), resize=None, mean=(1.0, 2.0, 3.0), scale=(0.5, 0.25, 2.0))


def test_an_image_of_the_right_size_passes_unchanged() -> None:
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    prepared = PLAIN.prepare(pixels)
    assert prepared.shape == PLAIN.shape == (1, 3, 4, 6)
    np.testing.assert_array_equal(prepared[0], pixels.transpose(2, 0, 1))
    assert prepared.flags.c_contiguous


def test_normalise_is_per_channel() -> None:
    prepared = np.full((1, 3, 4, 6), 11, np.uint8)
    normalised = PLAIN.normalise(prepared)
    assert normalised.dtype == np.float32
    np.testing.assert_array_equal(normalised[0, :, 0, 0], np.float32([5.0, 2.25, 16.0]))


def test_layout_and_channel_order() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    spec = Preprocess((4, 6), None, (0.0, 0.0, 7.0), (1.0, 1.0, 1.0), layout="NHWC", channels="BGR")
    np.testing.assert_array_equal(spec.prepare(pixels)[0], pixels[:, :, ::-1])
    assert spec.shape == (1, 4, 6, 3)
    normalised = spec.normalise(spec.prepare(pixels))
    np.testing.assert_array_equal(normalised[0, :, :, 2], pixels[:, :, 0].astype(np.float32) - 7)


def test_grey_images_and_grey_models() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
    np.testing.assert_array_equal(PLAIN.prepare(grey)[0, 1], grey)
    spec = Preprocess((4, 6), None, (0.0,), (1.0,), channels="L")
    np.testing.assert_array_equal(spec.prepare(Image.fromarray(grey))[0, 0], grey)


def test_the_central_crop_is_what_resizing_and_cutting_gives() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (320, 400, 3), dtype=np.uint8)
    prepared = imagenet(224, 224, 256).prepare(pixels)
    resized = Image.fromarray(pixels).resize((320, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[16:240, 48:272].transpose(2, 0, 1)
    difference = prepared[0].astype(int) - expected.astype(int)
    assert np.abs(difference).max() <= 1


def test_a_crop_is_about_the_middle() -> None:
    centre = np.zeros((300, 400, 3), np.uint8)
    centre[150:, :] = 255
    halves = imagenet(224, 224, 256).prepare(centre)[0, 0, :, 100]
    assert halves[:111].max() == 0
    assert halves[113:].min() == 255


def test_a_crop_larger_than_the_image_takes_all_of_it() -> None:
    assert imagenet(10, 10, 5).prepare(np.zeros((3, 4, 3), np.uint8)).shape == (1, 3, 10, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop": (0, 6)}, "crop"),
        ({"resize": 0}, "resize"),
        ({"mean": (0.0,)}, "mean"),
        ({"scale": (1.0, 1.0, float("nan"))}, "scale"),
        ({"layout": "CHW"}, "layout"),
        ({"channels": "YUV"}, "channels"),
        ({"interpolation": "magic"}, "interpolation"),
    ],
)
def test_a_wrong_specification_is_named(changes: dict[str, object], words: str) -> None:
    right = {"crop": (4, 6), "resize": None, "mean": (0.0, 0.0, 0.0), "scale": (1.0, 1.0, 1.0)}
    with pytest.raises(ModelError, match=words):
        Preprocess(**(right | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 6, 3), np.float32), np.zeros((4, 6, 4), np.uint8), np.zeros((0, 6, 3), np.uint8)],
)
def test_what_is_no_image_array_is_named(array: np.ndarray) -> None:
    with pytest.raises(MediaError, match="accepted"):
        PLAIN.prepare(array)
