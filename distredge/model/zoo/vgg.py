"""VGG (Simonyan & Zisserman, ICLR 2015, table 1, columns D and E), parameters named as in torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.zoo._builder import Builder, Value

VGG16_DEPTHS = (2, 2, 3, 3, 3)
VGG19_DEPTHS = (2, 2, 4, 4, 4)
CHANNELS = (64, 128, 256, 512, 512)


def vgg16(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes VGG-16: 13 convolutions and 3 fully connected layers."""
    return _vgg(b, shape, VGG16_DEPTHS)


def vgg19(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes VGG-19: 16 convolutions and 3 fully connected layers."""
    return _vgg(b, shape, VGG19_DEPTHS)


def _vgg(b: Builder, shape: Sequence[int], depths: Sequence[int]) -> list[Value]:
    x, place = b.input(shape), 0
    for stage, depth in enumerate(depths, start=1):
        for layer in range(1, depth + 1):
            x = b.conv(
                x,
                b.scaled(CHANNELS[stage - 1]),
                3,
                f"features.{place}",
                act="relu",
                name=f"conv{stage}_{layer}",
                act_name=f"relu{stage}_{layer}",
            )
            place += 2
        x = b.max_pool(x, 2, 2, f"pool{stage}")
        place += 1
    # torchvision pools adaptively to 7 x 7 here, which does nothing at the published input size; at another size the
    # first fully connected layer takes the map as it is.
    x = b.flatten(x)
    for number, place in ((6, 0), (7, 3)):
        x = b.linear(x, b.scaled(4096), f"classifier.{place}", name=f"fc{number}")
        x = b.act(x, "relu", f"relu{number}")
    return [b.linear(x, 1000, "classifier.6", gain=0.7, name="fc8")]
