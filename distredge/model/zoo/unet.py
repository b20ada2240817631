"""U-Net (Ronneberger et al., MICCAI 2015, figure 1) as it is mostly built today.

Padded convolutions with batch normalisation, so that maps keep their size and nothing is cropped; transposed
convolutions on the way up. Parameters are named as in GitHub's milesial/Pytorch-UNet.
"""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.zoo._builder import Builder, Value

CHANNELS = (64, 128, 256, 512, 1024)
CLASSES = 2


def unet(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes U-Net for RGB images and two classes; heights and widths must be multiples of 16."""
    x = _double(b, b.input(shape), CHANNELS[0], "inc")
    kept = [x]
    for step, channels in enumerate(CHANNELS[1:], start=1):
        key = f"down{step}"
        x = _double(b, b.max_pool(x, 2, 2, f"{key}.maxpool"), channels, f"{key}.maxpool_conv.1")
        kept.append(x)
    for step, channels in enumerate(reversed(CHANNELS[:-1]), start=1):
        key, beside = f"up{step}", kept[-1 - step]
        x = b.conv_transpose(x, b.scaled(channels), 2, f"{key}.up", stride=2)
        x = _double(b, b.concat([beside, x], f"{key}.concat"), channels, f"{key}.conv")
    return [b.conv(x, CLASSES, 1, "outc.conv", name="mask")]


def _double(b: Builder, x: Value, channels: int, key: str) -> Value:
    for conv, norm in ((0, 1), (3, 4)):
        at = f"{key}.double_conv"
        x = b.conv(x, b.scaled(channels), 3, f"{at}.{conv}", bn=f"{at}.{norm}", act="relu")
    return x
