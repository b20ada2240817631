"""MobileNet-V2 (Sandler et al., CVPR 2018, table 2), parameters named as in torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.zoo._builder import Builder, Value

# expansion, output channels, blocks, stride of the first block
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes MobileNet-V2 with inverted residual blocks and linear bottlenecks."""
    x = b.conv(b.input(shape), b.scaled(32), 3, "features.0.0", stride=2, bn="features.0.1", act="relu6")
    place = 1
    for expansion, channels, blocks, stride in STAGES:
        for block in range(blocks):
            x = _block(b, x, expansion, b.scaled(channels), stride if block == 0 else 1, f"features.{place}")
            place += 1
    x = b.conv(x, b.scaled(1280), 1, "features.18.0", bn="features.18.1", act="relu6")
    return [b.linear(b.flatten(b.global_pool(x, "avgpool")), 1000, "classifier.1", gain=0.7)]


def _block(b: Builder, x: Value, expansion: int, channels: int, stride: int, key: str) -> Value:
    hidden, y, place = x.channels * expansion, x, 0
    if expansion != 1:
        y = b.conv(y, hidden, 1, f"{key}.conv.0.0", bn=f"{key}.conv.0.1", act="relu6")
        place = 1
    depthwise = f"{key}.conv.{place}"
    y = b.conv(
        y, hidden, 3, f"{depthwise}.0", stride=stride, groups=hidden, bn=f"{depthwise}.1", act="relu6"
    )  # fmt: skip
    y = b.conv(y, channels, 1, f"{key}.conv.{place + 1}", bn=f"{key}.conv.{place + 2}", gain=0.7)
    return b.add(x, y, f"{key}.add") if stride == 1 and x.channels == channels else y
