"""MobileNet-V1 (Howard et al., arXiv 1704.04861, table 1), with width multiplier and any resolution."""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.zoo._builder import Builder, Value

# output channels, stride of the depthwise convolution
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


def mobilenet_v1(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes MobileNet-V1: a convolution and 13 depthwise separable ones.

    The padding is TensorFlow's SAME, as in the authors' release. (The stride of the last depthwise convolution is 1:
    the 2 in the paper's table contradicts the map size that the table gives.)
    """
    x = b.conv(b.input(shape), b.scaled(32), 3, "conv0", stride=2, pad="same", bn="bn0", act="relu")
    for place, (channels, stride) in enumerate(BLOCKS, start=1):
        key = f"block{place}"
        x = b.conv(
            x, x.channels, 3, f"{key}.depthwise", stride=stride, pad="same", groups=x.channels,
            bn=f"{key}.depthwise_bn", act="relu",
        )  # fmt: skip
        x = b.conv(x, b.scaled(channels), 1, f"{key}.pointwise", bn=f"{key}.pointwise_bn", act="relu")
    return [b.linear(b.flatten(b.global_pool(x, "avgpool")), 1000, "fc", gain=0.7)]
