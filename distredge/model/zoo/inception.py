"""Inception V3 (Szegedy et al., CVPR 2016) without its auxiliary classifier, parameters named as in torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.zoo._builder import Builder, Pads, Value

EPSILON = 1e-3


def inception_v3(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes Inception V3."""
    x = b.input(shape)
    x = _conv(b, x, 32, 3, "Conv2d_1a_3x3", stride=2)
    x = _conv(b, x, 32, 3, "Conv2d_2a_3x3")
    x = _conv(b, x, 64, 3, "Conv2d_2b_3x3", pad=1)
    x = b.max_pool(x, 3, 2, "maxpool1")
    x = _conv(b, x, 80, 1, "Conv2d_3b_1x1")
    x = _conv(b, x, 192, 3, "Conv2d_4a_3x3")
    x = b.max_pool(x, 3, 2, "maxpool2")
    for key, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _block_a(b, x, pooled, key)
    x = _block_b(b, x, "Mixed_6a")
    for key, channels in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = _block_c(b, x, channels, key)
    x = _block_d(b, x, "Mixed_7a")
    for key in ("Mixed_7b", "Mixed_7c"):
        x = _block_e(b, x, key)
    return [b.linear(b.flatten(b.global_pool(x, "avgpool")), 1000, "fc", gain=0.7)]


def _conv(
    b: Builder, x: Value, channels: int, kernel: int | tuple[int, int], key: str, stride: int = 1, pad: Pads = 0
) -> Value:
    return b.conv(
        x, b.scaled(channels), kernel, f"{key}.conv", stride=stride, pad=pad, bn=f"{key}.bn", epsilon=EPSILON,
        act="relu", name=key,
    )  # fmt: skip


def _pool_branch(b: Builder, x: Value, channels: int, key: str) -> Value:
    return _conv(b, b.avg_pool(x, 3, 1, f"{key}.avgpool", pad=1), channels, 1, f"{key}.branch_pool")


def _block_a(b: Builder, x: Value, pooled: int, key: str) -> Value:
    first = _conv(b, x, 64, 1, f"{key}.branch1x1")
    second = _conv(b, x, 48, 1, f"{key}.branch5x5_1")
    second = _conv(b, second, 64, 5, f"{key}.branch5x5_2", pad=2)
    third = _conv(b, x, 64, 1, f"{key}.branch3x3dbl_1")
    third = _conv(b, third, 96, 3, f"{key}.branch3x3dbl_2", pad=1)
    third = _conv(b, third, 96, 3, f"{key}.branch3x3dbl_3", pad=1)
    return b.concat([first, second, third, _pool_branch(b, x, pooled, key)], key)


def _block_b(b: Builder, x: Value, key: str) -> Value:
    first = _conv(b, x, 384, 3, f"{key}.branch3x3", stride=2)
    second = _conv(b, x, 64, 1, f"{key}.branch3x3dbl_1")
    second = _conv(b, second, 96, 3, f"{key}.branch3x3dbl_2", pad=1)
    second = _conv(b, second, 96, 3, f"{key}.branch3x3dbl_3", stride=2)
    return b.concat([first, second, b.max_pool(x, 3, 2, f"{key}.branch_pool")], key)


def _block_c(b: Builder, x: Value, channels: int, key: str) -> Value:
    row, column = (1, 7), (7, 1)
    first = _conv(b, x, 192, 1, f"{key}.branch1x1")
    second = _conv(b, x, channels, 1, f"{key}.branch7x7_1")
    second = _conv(b, second, channels, row, f"{key}.branch7x7_2", pad=(0, 3))
    second = _conv(b, second, 192, column, f"{key}.branch7x7_3", pad=(3, 0))
    third = _conv(b, x, channels, 1, f"{key}.branch7x7dbl_1")
    third = _conv(b, third, channels, column, f"{key}.branch7x7dbl_2", pad=(3, 0))
    third = _conv(b, third, channels, row, f"{key}.branch7x7dbl_3", pad=(0, 3))
    third = _conv(b, third, channels, column, f"{key}.branch7x7dbl_4", pad=(3, 0))
    third = _conv(b, third, 192, row, f"{key}.branch7x7dbl_5", pad=(0, 3))
    return b.concat([first, second, third, _pool_branch(b, x, 192, key)], key)


def _block_d(b: Builder, x: Value, key: str) -> Value:
    first = _conv(b, x, 192, 1, f"{key}.branch3x3_1")
    first = _conv(b, first, 320, 3, f"{key}.branch3x3_2", stride=2)
    second = _conv(b, x, 192, 1, f"{key}.branch7x7x3_1")
    second = _conv(b, second, 192, (1, 7), f"{key}.branch7x7x3_2", pad=(0, 3))
    second = _conv(b, second, 192, (7, 1), f"{key}.branch7x7x3_3", pad=(3, 0))
    second = _conv(b, second, 192, 3, f"{key}.branch7x7x3_4", stride=2)
    return b.concat([first, second, b.max_pool(x, 3, 2, f"{key}.branch_pool")], key)


def _block_e(b: Builder, x: Value, key: str) -> Value:
    first = _conv(b, x, 320, 1, f"{key}.branch1x1")
    second = _fork(b, _conv(b, x, 384, 1, f"{key}.branch3x3_1"), f"{key}.branch3x3_2")
    third = _conv(b, x, 448, 1, f"{key}.branch3x3dbl_1")
    third = _fork(b, _conv(b, third, 384, 3, f"{key}.branch3x3dbl_2", pad=1), f"{key}.branch3x3dbl_3")
    return b.concat([first, second, third, _pool_branch(b, x, 192, key)], key)


def _fork(b: Builder, x: Value, key: str) -> Value:
    wide = _conv(b, x, 384, (1, 3), f"{key}a", pad=(0, 1))
    tall = _conv(b, x, 384, (3, 1), f"{key}b", pad=(1, 0))
    return b.concat([wide, tall], key)
