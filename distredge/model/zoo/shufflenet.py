"""ShuffleNet-V2 x1.0 (Ma et al., ECCV 2018, table 5), parameters named as in torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.zoo._builder import Builder, Value

# stage: output channels and blocks
STAGES = {2: (116, 4), 3: (232, 8), 4: (464, 4)}


def shufflenet_v2(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes ShuffleNet-V2 x1.0; channel shuffles are Reshape-Transpose-Reshape, as exporters write them."""
    x = b.conv(b.input(shape), b.scaled(24), 3, "conv1.0", stride=2, bn="conv1.1", act="relu")
    x = b.max_pool(x, 3, 2, "maxpool", pad=1)
    for stage, (channels, blocks) in STAGES.items():
        for block in range(blocks):
            x = _block(b, x, b.scaled(channels), 2 if block == 0 else 1, f"stage{stage}.{block}")
    x = b.conv(x, b.scaled(1024), 1, "conv5.0", bn="conv5.1", act="relu")
    x = b.node("ReduceMean", [x], "mean", axes=(2, 3), keepdims=0)
    return [b.linear(x, 1000, "fc", gain=0.7)]


def _block(b: Builder, x: Value, channels: int, stride: int, key: str) -> Value:
    half, y = channels // 2, x
    if stride == 1:
        kept, y = b.halves(x, f"{key}.split")
    else:
        kept = _depthwise(b, x, stride, f"{key}.branch1.0", f"{key}.branch1.1")
        kept = b.conv(kept, half, 1, f"{key}.branch1.2", bn=f"{key}.branch1.3", act="relu")
    y = b.conv(y, half, 1, f"{key}.branch2.0", bn=f"{key}.branch2.1", act="relu")
    y = _depthwise(b, y, stride, f"{key}.branch2.3", f"{key}.branch2.4")
    y = b.conv(y, half, 1, f"{key}.branch2.5", bn=f"{key}.branch2.6", act="relu")
    return b.channel_shuffle(b.concat([kept, y], f"{key}.concat"), 2, f"{key}.shuffle")


def _depthwise(b: Builder, x: Value, stride: int, key: str, bn: str) -> Value:
    return b.conv(x, x.channels, 3, key, stride=stride, groups=x.channels, bn=bn, gain=0.7)
