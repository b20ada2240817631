"""SqueezeNet 1.0 and 1.1 (Iandola et al., arXiv 1602.07360, table 1), parameters named as in torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.zoo._builder import Builder, Value

# Per place in torchvision's list of layers: squeezed and expanded channels of a fire module, or None for a pooling.
FIRES_1_0: dict[int, tuple[int, int] | None] = {
    3: (16, 64), 4: (16, 64), 5: (32, 128), 6: None, 7: (32, 128), 8: (48, 192), 9: (48, 192), 10: (64, 256),
    11: None, 12: (64, 256),
}  # fmt: skip
FIRES_1_1: dict[int, tuple[int, int] | None] = {
    3: (16, 64), 4: (16, 64), 5: None, 6: (32, 128), 7: (32, 128), 8: None, 9: (48, 192), 10: (48, 192),
    11: (64, 256), 12: (64, 256),
}  # fmt: skip


def squeezenet1_0(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes SqueezeNet 1.0."""
    return _squeezenet(b, shape, 96, 7, FIRES_1_0)


def squeezenet1_1(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes SqueezeNet 1.1, with 2.4 times fewer multiply-adds."""
    return _squeezenet(b, shape, 64, 3, FIRES_1_1)


def _squeezenet(
    b: Builder, shape: Sequence[int], channels: int, kernel: int, fires: dict[int, tuple[int, int] | None]
) -> list[Value]:
    x = b.conv(b.input(shape), b.scaled(channels), kernel, "features.0", stride=2, pad=0, act="relu")
    x = b.max_pool(x, 3, 2, "features.2", ceil=True)
    for place, fire in fires.items():
        key = f"features.{place}"
        x = b.max_pool(x, 3, 2, key, ceil=True) if fire is None else _fire(b, x, *fire, key)
    x = b.conv(x, 1000, 1, "classifier.1", act="relu")
    return [b.flatten(b.global_pool(x, "classifier.3"))]


def _fire(b: Builder, x: Value, squeezed: int, expanded: int, key: str) -> Value:
    x = b.conv(x, b.scaled(squeezed), 1, f"{key}.squeeze", act="relu")
    narrow = b.conv(x, b.scaled(expanded), 1, f"{key}.expand1x1", act="relu")
    wide = b.conv(x, b.scaled(expanded), 3, f"{key}.expand3x3", act="relu")
    return b.concat([narrow, wide], f"{key}.concat")
