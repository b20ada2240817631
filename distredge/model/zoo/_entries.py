"""The table of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distredge.model.detector import Detector
from distredge.model.preprocess import Preprocess, imagenet
from distredge.model.zoo import (
    densenet,
    efficientnet,
    googlenet,
    inception,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    openpose,
    resnet,
    shufflenet,
    squeezenet,
    ssd,
    unet,
    vgg,
    voxelnet,
    yolo,
)
from distredge.model.zoo._builder import Builder, Value
from distredge.model.zoo._weights import LoadedWeights


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        name: as users type it.
        write: writes it with a builder for an input shape; returns its outputs.
        input_shape: published input shape, batch axis included.
        gigamacs: published multiply-adds of the convolutions and matrix products of one inference, in 10^9, with the
            digits that were published.
        parameters: published number of learned parameters.
        source: paper of the architecture and origin of the two figures.
        preprocess: makes the preprocessing for a height and width; None when the input is no image.
        trained: gives the trained weights; None: seeded ones unless a file is given.
        scalable_name: whether `NAME-WIDTH-RESOLUTION` names a variant.
        unneeded: prefixes of parameters in weights files that only training needs.
        small: height and width at which a narrow variant (`width=0.25`) takes milliseconds, for tests.
        detector: how its outputs become boxes; None when it is no detector.
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
    unneeded: tuple[str, ...] = ()
    small: tuple[int, int] = (64, 64)
    detector: Detector | None = None

    @property
    def small_shape(self) -> tuple[int, ...]:
        """Input shape of the small variant."""
        return (*self.input_shape[:-2], *self.small)


IMAGE = (1, 3, 224, 224)
TORCHVISION = "figures: torchvision's documentation"
COUNTED = "figures: counted from the layer table there"


def _imagenet_256(height: int, width: int) -> Preprocess:
    # Shorter side 256 for a crop of 224, and in the same proportion at other sizes.
    return imagenet(height, width, round(min(height, width) * 256 / 224))


def _half(height: int, width: int) -> Preprocess:
    # Inception's: 299 of 342 pixels, values to -1..1.
    return _to_unit(height, width, round(min(height, width) * 342 / 299))


def _googlenet(height: int, width: int) -> Preprocess:
    return _to_unit(height, width, round(min(height, width) * 256 / 224))


def _to_unit(height: int, width: int, resize: int) -> Preprocess:
    grey = (127.5, 127.5, 127.5)
    return Preprocess(crop=(height, width), resize=resize, mean=grey, scale=(1 / 127.5, 1 / 127.5, 1 / 127.5))


def _stretched(height: int, width: int) -> Preprocess:
    return Preprocess(crop=(height, width), resize=None, mean=(0.0, 0.0, 0.0), scale=(1 / 255, 1 / 255, 1 / 255))


def _ssd_vgg(height: int, width: int) -> Preprocess:
    # Caffe's VGG: ImageNet's mean colour, no scaling.
    mean = (0.48235 * 255, 0.45882 * 255, 0.40784 * 255)
    return Preprocess(crop=(height, width), resize=None, mean=mean, scale=(1.0, 1.0, 1.0))


def _ssd_resnet(height: int, width: int) -> Preprocess:
    return imagenet(height, width, None)


def _openpose(height: int, width: int) -> Preprocess:
    return Preprocess(
        crop=(height, width),
        resize=None,
        mean=(128.0, 128.0, 128.0),
        scale=(1 / 256, 1 / 256, 1 / 256),
        channels="BGR",
        interpolation="bicubic",
    )


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


def _classifier(
    name: str, write: Callable[[Builder, Sequence[int]], list[Value]], gigamacs: float, parameters: int, paper: str
) -> Entry:
    """A classifier of ImageNet with torchvision's preprocessing and figures."""
    return Entry(name, write, IMAGE, gigamacs, parameters, f"{paper}; {TORCHVISION}", _imagenet_256)


ENTRIES: tuple[Entry, ...] = (
    _classifier("vgg16", vgg.vgg16, 15.47, 138_357_544, "Simonyan & Zisserman, ICLR 2015, table 1 D"),
    _classifier("vgg19", vgg.vgg19, 19.63, 143_667_240, "Simonyan & Zisserman, ICLR 2015, table 1 E"),
    _classifier("resnet18", resnet.resnet18, 1.81, 11_689_512, "He et al., CVPR 2016, table 1"),
    _classifier("resnet50", resnet.resnet50, 4.09, 25_557_032, "He et al., CVPR 2016, table 1, stride on the 3x3"),
    Entry(
        "inception-v3", inception.inception_v3, (1, 3, 299, 299), 5.71, 23_834_568,
        f"Szegedy et al., CVPR 2016; {TORCHVISION}, less the auxiliary classifier's 3 326 696 parameters", _half,
        unneeded=("AuxLogits.",), small=(107, 107),
    ),
    Entry(
        "googlenet", googlenet.googlenet, IMAGE, 1.50, 6_624_904,
        f"Szegedy et al., CVPR 2015, table 1; {TORCHVISION}, less the auxiliary classifiers' 6 379 984 parameters",
        _googlenet, unneeded=("aux1.", "aux2."),
    ),
    Entry(
        "mobilenet-v1", mobilenet_v1.mobilenet_v1, IMAGE, 0.569, 4_231_976,
        "Howard et al., arXiv 1704.04861, tables 1, 6 and 7 (569 M multiply-adds, 4.2 M parameters); parameters: "
        "counted from table 1", _googlenet, scalable_name=True,
    ),
    _classifier("mobilenet-v2", mobilenet_v2.mobilenet_v2, 0.30, 3_504_872, "Sandler et al., CVPR 2018, table 2"),
    _classifier("mobilenet-v3-large", mobilenet_v3.mobilenet_v3_large, 0.22, 5_483_032,
                "Howard et al., ICCV 2019, table 1"),
    _classifier("mobilenet-v3-small", mobilenet_v3.mobilenet_v3_small, 0.06, 2_542_856,
                "Howard et al., ICCV 2019, table 2"),
    Entry(
        "efficientnet-lite0", efficientnet.efficientnet_lite0, IMAGE, 0.385, 4_652_008,
        "Tan & Le, ICML 2019, table 1; figures: README of GitHub's d-li14/efficientnet-lite.pytorch",
        _lite, efficientnet.trained_weights,
    ),
    _classifier("densenet121", densenet.densenet121, 2.83, 7_978_856, "Huang et al., CVPR 2017, table 1"),
    _classifier("squeezenet", squeezenet.squeezenet1_0, 0.82, 1_248_424,
                "Iandola et al., arXiv 1602.07360, table 1 (version 1.0)"),
    _classifier("squeezenet1.1", squeezenet.squeezenet1_1, 0.35, 1_235_496,
                "Iandola et al., arXiv 1602.07360 (version 1.1)"),
    _classifier("shufflenet-v2", shufflenet.shufflenet_v2, 0.14, 2_278_604, "Ma et al., ECCV 2018, table 5, x1.0"),
    Entry(
        "yolov2", yolo.yolov2, (1, 3, 416, 416), 14.73, 50_962_889,
        "Redmon & Farhadi, CVPR 2017; figures: Darknet's yolov2.cfg (62.94 BFLOPs at 608 x 608), yolov2.weights",
        _stretched, detector=yolo.DETECTOR,
    ),
    Entry(
        "ssd-vgg16", ssd.ssd_vgg16, (1, 3, 300, 300), 34.86, 35_641_826,
        f"Liu et al., ECCV 2016, figure 2; {TORCHVISION}", _ssd_vgg, small=(300, 300), detector=ssd.VGG16_DETECTOR,
    ),
    Entry(
        "ssd-resnet50", ssd.ssd_resnet50, (1, 3, 300, 300), 20.15, 22_894_902,
        f"Liu et al., ECCV 2016, on ResNet-50 as in NVIDIA's DeepLearningExamples, SSD v1.1; {COUNTED}",
        _ssd_resnet, small=(300, 300), detector=ssd.RESNET50_DETECTOR,
    ),
    Entry(
        "openpose", openpose.openpose, (1, 3, 368, 368), 135.93, 52_311_446,
        "Cao et al., CVPR 2017, figure 3; figures: counted from the authors' pose_deploy_linevec.prototxt", _openpose,
    ),
    Entry(
        "voxelnet", voxelnet.voxelnet, (1, 128, 10, 400, 352), 283.53, 6_655_376,
        f"Zhou & Tuzel, CVPR 2018, section 3.1 and figure 4; {COUNTED}", small=(16, 24),
    ),
    Entry(
        "unet", unet.unet, (1, 3, 512, 512), 192.69, 31_037_698,
        f"Ronneberger et al., MICCAI 2015, figure 1, padded, with batch normalisation; {COUNTED}", _stretched,
    ),
)  # fmt: skip
"""Every model of the zoo, in the order in which they are listed."""
