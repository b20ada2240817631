"""Pictures larger than the files that they are in, and the small CNN that takes them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distredge.errors import ExecutionError
from distredge.media.images import MAX_PIXELS, read_image
from distredge.media.jpeg import FileLimits
from distredge.model.capture import from_onnx
from distredge.model.graph import Graph
from distredge.model.preprocess import Preprocess
from distredge.model.wires import MAX_FILE_BYTES
from distredge.runtime.in_process import run_in_process
from distredge.runtime.requester.picture_frames import inputs_of
from distredge.strategy import InputSpec, Strategy
from tests.runtime.conftest import DEVICES, make_strategy, small_cnn
from tests.runtime.requester.conftest import equal

HEIGHT, WIDTH = 161, 121

KEPT = FileLimits(MAX_FILE_BYTES, MAX_PIXELS)


def takes_photographs() -> Graph:
    """The small CNN on pictures that are larger than their files."""
    graph = from_onnx(small_cnn(HEIGHT, WIDTH))
    graph.preprocess = Preprocess((HEIGHT, WIDTH), 170, (127.0,) * 3, (1 / 128,) * 3)
    return graph


def sends_files(graph: Graph) -> Strategy:
    """The rows of each volume on three devices, priced with pictures of some 200 x 150 pixels."""
    made = make_strategy(graph, [(2, 1, 1), (1, 1, 2)])
    return made.replace(input=InputSpec("jpeg", 5000, 30_000))


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Waves and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 80 * np.sin(x / (9 + k) + seed) * np.cos(y / (11 - k)) for k in range(3)]
    return Image.fromarray(np.clip(np.stack(waves, -1) + rng.normal(0, 3, (height, width, 3)), 0, 255).astype(np.uint8))


def as_jpeg(height: int = 200, width: int = 150, seed: int = 0, **options: Any) -> bytes:
    stream = io.BytesIO()
    photograph(height, width, seed).save(stream, "JPEG", **{"quality": 80, **options})
    return stream.getvalue()


def write_files(folder: Path) -> list[Path]:
    """A JPEG, a PNG, one on its side, one that breaks off, one too large to be sent as a file, a grey one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    contents = {
        "plain.jpg": as_jpeg(),
        "other.png": b"",
        "side.jpg": as_jpeg(150, 200, 1, exif=exif.tobytes()),
        "torn.jpg": as_jpeg(seed=2)[:2000],
        "large.jpg": as_jpeg(400, 500, 3, quality=95),
        "grey.jpg": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    photograph(180, 160, 4).save(folder / "other.png")
    photograph(190, 180, 5).convert("L").save(folder / "grey.jpg", quality=75)
    return [folder / name for name in contents]


def expected(photographic, strategy, path: Path) -> dict:
    """What rows of pixels give, decoded and resized here."""
    return run_in_process(photographic, strategy, inputs_of(photographic, strategy, read_image(path)))


def check(found: list, files: list[Path], photographic, strategy) -> None:
    assert [one.name for one in found] == [str(path) for path in files]
    for one, path in zip(found, files, strict=True):
        if path.name == "torn.jpg":
            assert isinstance(one.error, ExecutionError)
            assert "the picture: a damaged image" in str(one.error)
            assert any(f"worker '{name}'" in str(one.error) for name in DEVICES)
        else:
            assert equal(one.result(), expected(photographic, strategy, path)), path
            assert one.picture.size == read_image(path).shape[:2]
            prepared = inputs_of(photographic, strategy, read_image(path))["image"]
            assert np.array_equal(one.inputs["image"], prepared)
