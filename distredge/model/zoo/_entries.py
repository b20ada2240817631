"""The table of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distredge.model.preprocess import Preprocess, imagenet
from distredge.model.zoo import efficientnet, mobilenet_v2, resnet, vgg
from distredge.model.zoo._builder import Builder, Value
from distredge.model.zoo._weights import LoadedWeights


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        name: as users type it.
        write: writes it with a builder for an input shape; returns its outputs.
        input_shape: published input shape, batch axis included.
        gigamacs: published multiply-adds of one inference, in 10^9, with the digits that were published.
        parameters: published number of learned parameters.
        source: paper of the architecture and origin of the two figures.
        preprocess: makes the preprocessing for a height and width; None when the input is no image.
        trained: gives the trained weights; None: seeded ones unless a file is given.
        scalable_name: whether `NAME-WIDTH-RESOLUTION` names a variant.
    """

    name: str
    write: Callable[[Builder, Sequence[int]], list[Value]]
    input_shape: tuple[int, ...]
    gigamacs: float
    parameters: int
    source: str
    preprocess: Callable[[int, int], Preprocess] | None = None
    trained: Callable[[], LoadedWeights] | None = None
    scalable_name: bool = False


IMAGE = (1, 3, 224, 224)
TORCHVISION = "figures: torchvision model documentation"


def _imagenet_256(height: int, width: int) -> Preprocess:
    # Shorter side 256 for a crop of 224, and in the same proportion at other sizes.
    return imagenet(height, width, round(min(height, width) * 256 / 224))


def _lite(height: int, width: int) -> Preprocess:
    # Lite models take (x - 127) / 128. The whole central square, as the weights' package shows it (TensorFlow's own
    # evaluation trims the outer eighth of it).
    return Preprocess(
        crop=(height, width),
        resize=min(height, width),
        mean=(127.0, 127.0, 127.0),
        scale=(1 / 128, 1 / 128, 1 / 128),
        interpolation="bicubic",
    )


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "vgg16", vgg.vgg16, IMAGE, 15.47, 138_357_544,
        f"Simonyan & Zisserman, ICLR 2015, table 1 D; {TORCHVISION}", _imagenet_256,
    ),
    Entry(
        "vgg19", vgg.vgg19, IMAGE, 19.63, 143_667_240,
        f"Simonyan & Zisserman, ICLR 2015, table 1 E; {TORCHVISION}", _imagenet_256,
    ),
    Entry(
        "resnet18", resnet.resnet18, IMAGE, 1.81, 11_689_512,
        f"He et al., CVPR 2016, table 1; {TORCHVISION}", _imagenet_256,
    ),
    Entry(
        "resnet50", resnet.resnet50, IMAGE, 4.09, 25_557_032,
        f"He et al., CVPR 2016, table 1, stride on the 3x3; {TORCHVISION}", _imagenet_256,
    ),
    Entry(
        "mobilenet-v2", mobilenet_v2.mobilenet_v2, IMAGE, 0.30, 3_504_872,
        f"Sandler et al., CVPR 2018, table 2; {TORCHVISION}", _imagenet_256,
    ),
    Entry(
        "efficientnet-lite0", efficientnet.efficientnet_lite0, IMAGE, 0.385, 4_652_008,
        "Tan & Le, ICML 2019, table 1; figures: README of GitHub's d-li14/efficientnet-lite.pytorch",
        _lite, efficientnet.trained_weights,
    ),
)  # fmt: skip
"""Every model of the zoo, in the order in which they are listed."""
