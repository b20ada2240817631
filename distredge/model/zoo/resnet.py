"""ResNet (He et al., CVPR 2016), parameters named as in torchvision.

The stride of a bottleneck is on its 3x3 convolution, as in torchvision ("ResNet v1.5").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from distredge.model.zoo._builder import Builder, Value

RESNET18_DEPTHS = (2, 2, 2, 2)
RESNET50_DEPTHS = (3, 4, 6, 3)
CHANNELS = (64, 128, 256, 512)
EXPANSION = 4
BlockWriter = Callable[[Builder, Value, int, int, str], Value]
BRANCH_GAIN = 0.5
"""Gain of the last convolution of a residual branch: keeps seeded activations from doubling block after block."""


def resnet18(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes ResNet-18 (basic blocks)."""
    x = b.input(shape)
    return [classifier(b, trunk(b, x, RESNET18_DEPTHS, basic_block))]


def resnet50(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes ResNet-50 (bottleneck blocks)."""
    x = b.input(shape)
    return [classifier(b, trunk(b, x, RESNET50_DEPTHS, bottleneck))]


def classifier(b: Builder, x: Value) -> Value:
    """Adds global pooling and the fully connected layer."""
    return b.linear(b.flatten(b.global_pool(x, "avgpool")), 1000, "fc", gain=0.7)


def stem(b: Builder, x: Value) -> Value:
    """Adds the 7x7 convolution and the pooling before the first stage."""
    x = b.conv(x, b.scaled(64), 7, "conv1", stride=2, bn="bn1", act="relu", act_name="relu1")
    return b.max_pool(x, 3, 2, "maxpool", pad=1)


def trunk(b: Builder, x: Value, depths: Sequence[int], block: BlockWriter) -> Value:
    """Adds the stem and the four stages; the first block of stages 2 to 4 halves the size."""
    x = stem(b, x)
    for stage, depth in enumerate(depths):
        for place in range(depth):
            stride = 2 if stage > 0 and place == 0 else 1
            x = block(b, x, b.scaled(CHANNELS[stage]), stride, f"layer{stage + 1}.{place}")
    return x


def basic_block(b: Builder, x: Value, channels: int, stride: int, key: str) -> Value:
    """Adds two 3x3 convolutions and the shortcut."""
    y = b.conv(x, channels, 3, f"{key}.conv1", stride=stride, bn=f"{key}.bn1", act="relu")
    y = b.conv(y, channels, 3, f"{key}.conv2", bn=f"{key}.bn2", gain=BRANCH_GAIN)
    return _join(b, x, y, stride, key)


def bottleneck(b: Builder, x: Value, channels: int, stride: int, key: str) -> Value:
    """Adds 1x1, 3x3 and 1x1 convolutions, the last with four times the channels, and the shortcut."""
    y = b.conv(x, channels, 1, f"{key}.conv1", bn=f"{key}.bn1", act="relu")
    y = b.conv(y, channels, 3, f"{key}.conv2", stride=stride, bn=f"{key}.bn2", act="relu")
    y = b.conv(y, channels * EXPANSION, 1, f"{key}.conv3", bn=f"{key}.bn3", gain=BRANCH_GAIN)
    return _join(b, x, y, stride, key)


def _join(b: Builder, x: Value, y: Value, stride: int, key: str) -> Value:
    if stride != 1 or x.channels != y.channels:
        x = b.conv(x, y.channels, 1, f"{key}.downsample.0", stride=stride, bn=f"{key}.downsample.1")
    return b.act(b.add(y, x, f"{key}.add"), "relu", f"{key}.relu")
