"""GoogLeNet (Szegedy et al., CVPR 2015, table 1) without auxiliary classifiers, parameters named as in torchvision.

As in torchvision it has batch normalisation, and 3x3 convolutions where the paper has 5x5 ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.zoo._builder import Builder, Value

EPSILON = 1e-3

# key: channels of 1x1, reduction and 3x3, reduction and the second 3x3, projection of the pooled branch
BLOCKS: dict[str, tuple[int, int, int, int, int, int]] = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
POOLS = {"inception3b": ("maxpool3", 3), "inception4e": ("maxpool4", 2)}
"""Pooling after a block: name and kernel."""


def googlenet(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes GoogLeNet."""
    x = _conv(b, b.input(shape), 64, 7, "conv1", stride=2)
    x = b.max_pool(x, 3, 2, "maxpool1", ceil=True)
    x = _conv(b, x, 64, 1, "conv2")
    x = _conv(b, x, 192, 3, "conv3")
    x = b.max_pool(x, 3, 2, "maxpool2", ceil=True)
    for key, channels in BLOCKS.items():
        x = _block(b, x, channels, key)
        if key in POOLS:
            name, kernel = POOLS[key]
            x = b.max_pool(x, kernel, 2, name, ceil=True)
    return [b.linear(b.flatten(b.global_pool(x, "avgpool")), 1000, "fc", gain=0.7)]


def _conv(b: Builder, x: Value, channels: int, kernel: int, key: str, stride: int = 1) -> Value:
    return b.conv(
        x, b.scaled(channels), kernel, f"{key}.conv", stride=stride, bn=f"{key}.bn", epsilon=EPSILON, act="relu",
        name=key,
    )  # fmt: skip


def _block(b: Builder, x: Value, channels: tuple[int, int, int, int, int, int], key: str) -> Value:
    single, reduced, wide, reduced2, wide2, projected = channels
    first = _conv(b, x, single, 1, f"{key}.branch1")
    second = _conv(b, _conv(b, x, reduced, 1, f"{key}.branch2.0"), wide, 3, f"{key}.branch2.1")
    third = _conv(b, _conv(b, x, reduced2, 1, f"{key}.branch3.0"), wide2, 3, f"{key}.branch3.1")
    pooled = b.max_pool(x, 3, 1, f"{key}.branch4.0", pad=1, ceil=True)
    return b.concat([first, second, third, _conv(b, pooled, projected, 1, f"{key}.branch4.1")], key)
