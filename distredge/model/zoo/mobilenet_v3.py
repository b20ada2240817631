"""MobileNet-V3 (Howard et al., ICCV 2019, tables 1 and 2), parameters named as in torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distredge.model.zoo._builder import Builder, Value

EPSILON = 1e-3
RE, HS = "relu", "hardswish"


class Row(NamedTuple):
    """One line of the paper's table: kernel, expanded and output channels, squeeze-and-excite, activation, stride."""

    kernel: int
    expanded: int
    channels: int
    excite: bool
    act: str
    stride: int


LARGE = (
    Row(3, 16, 16, False, RE, 1), Row(3, 64, 24, False, RE, 2), Row(3, 72, 24, False, RE, 1),
    Row(5, 72, 40, True, RE, 2), Row(5, 120, 40, True, RE, 1), Row(5, 120, 40, True, RE, 1),
    Row(3, 240, 80, False, HS, 2), Row(3, 200, 80, False, HS, 1), Row(3, 184, 80, False, HS, 1),
    Row(3, 184, 80, False, HS, 1), Row(3, 480, 112, True, HS, 1), Row(3, 672, 112, True, HS, 1),
    Row(5, 672, 160, True, HS, 2), Row(5, 960, 160, True, HS, 1), Row(5, 960, 160, True, HS, 1),
)  # fmt: skip
SMALL = (
    Row(3, 16, 16, True, RE, 2), Row(3, 72, 24, False, RE, 2), Row(3, 88, 24, False, RE, 1),
    Row(5, 96, 40, True, HS, 2), Row(5, 240, 40, True, HS, 1), Row(5, 240, 40, True, HS, 1),
    Row(5, 120, 48, True, HS, 1), Row(5, 144, 48, True, HS, 1), Row(5, 288, 96, True, HS, 2),
    Row(5, 576, 96, True, HS, 1), Row(5, 576, 96, True, HS, 1),
)  # fmt: skip


def mobilenet_v3_large(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes MobileNet-V3-Large."""
    return _mobilenet_v3(b, shape, LARGE, 1280)


def mobilenet_v3_small(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes MobileNet-V3-Small."""
    return _mobilenet_v3(b, shape, SMALL, 1024)


def _mobilenet_v3(b: Builder, shape: Sequence[int], rows: Sequence[Row], hidden: int) -> list[Value]:
    x = b.input(shape)
    x = b.conv(x, b.scaled(16), 3, "features.0.0", stride=2, bn="features.0.1", epsilon=EPSILON, act=HS)
    for place, row in enumerate(rows, start=1):
        x = _block(b, x, row, f"features.{place}")
    key = f"features.{len(rows) + 1}"
    x = b.conv(x, 6 * x.channels, 1, f"{key}.0", bn=f"{key}.1", epsilon=EPSILON, act=HS)
    x = b.flatten(b.global_pool(x, "avgpool"))
    x = b.act(b.linear(x, b.scaled(hidden), "classifier.0"), HS)
    return [b.linear(x, 1000, "classifier.3", gain=0.7)]


def _block(b: Builder, x: Value, row: Row, key: str) -> Value:
    expanded, channels, y, place = b.scaled(row.expanded), b.scaled(row.channels), x, 0
    if expanded != x.channels:
        y = b.conv(y, expanded, 1, f"{key}.block.0.0", bn=f"{key}.block.0.1", epsilon=EPSILON, act=row.act)
        place = 1
    depthwise = f"{key}.block.{place}"
    y = b.conv(
        y, expanded, row.kernel, f"{depthwise}.0", stride=row.stride, groups=expanded, bn=f"{depthwise}.1",
        epsilon=EPSILON, act=row.act,
    )  # fmt: skip
    if row.excite:
        place += 1
        y = b.squeeze_excite(y, _divisible(expanded // 4), f"{key}.block.{place}")
    project = f"{key}.block.{place + 1}"
    y = b.conv(y, channels, 1, f"{project}.0", bn=f"{project}.1", epsilon=EPSILON, gain=0.7)
    return b.add(y, x, f"{key}.add") if row.stride == 1 and x.channels == channels else y


def _divisible(channels: int) -> int:
    # The nearest multiple of 8 that is at least 8 and not below 90 % of `channels`.
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
