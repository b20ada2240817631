"""DenseNet-121 (Huang et al., CVPR 2017, table 1), parameters named as in torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.zoo._builder import Builder, Value

DEPTHS = (6, 12, 24, 16)
GROWTH = 32
BOTTLENECK = 4


def densenet121(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes DenseNet-121: every layer of a block reads all that came before it in the block."""
    x = b.conv(b.input(shape), b.scaled(64), 7, "features.conv0", stride=2, bn="features.norm0", act="relu")
    x = b.max_pool(x, 3, 2, "features.pool0", pad=1)
    for stage, depth in enumerate(DEPTHS, start=1):
        for layer in range(1, depth + 1):
            x = _layer(b, x, f"features.denseblock{stage}.denselayer{layer}")
        if stage < len(DEPTHS):
            x = _transition(b, x, f"features.transition{stage}")
    x = b.act(b.batch_norm(x, "features.norm5", "features.norm5"), "relu", "features.relu5")
    return [b.linear(b.flatten(b.global_pool(x, "avgpool")), 1000, "classifier", gain=0.7)]


def _layer(b: Builder, x: Value, key: str) -> Value:
    growth = b.scaled(GROWTH)
    y = b.act(b.batch_norm(x, f"{key}.norm1", f"{key}.norm1"), "relu", f"{key}.relu1")
    y = b.conv(y, BOTTLENECK * growth, 1, f"{key}.conv1", bn=f"{key}.norm2", act="relu", act_name=f"{key}.relu2")
    y = b.conv(y, growth, 3, f"{key}.conv2", bias=False)
    return b.concat([x, y], f"{key}.concat")


def _transition(b: Builder, x: Value, key: str) -> Value:
    y = b.act(b.batch_norm(x, f"{key}.norm", f"{key}.norm"), "relu", f"{key}.relu")
    y = b.conv(y, x.channels // 2, 1, f"{key}.conv", bias=False)
    return b.avg_pool(y, 2, 2, f"{key}.pool")
