"""SSD300 (Liu et al., ECCV 2016, figure 2) on VGG-16 and on ResNet-50.

The outputs are the maps of the six detection heads as the convolutions make them, classes and boxes apart: decoding
and suppression are the requester's. Anchors and steps of both are those of Caffe's SSD300 for COCO.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from distredge.model.detector import Detector, LabelSet, Sizes, SsdMap
from distredge.model.zoo import resnet, vgg
from distredge.model.zoo._builder import Builder, Value

ANCHORS = (4, 6, 6, 6, 4, 4)
COCO_91, COCO_81 = 91, 81

_STEPS = (8, 16, 32, 64, 100, 300)
_SCALES = (21, 45, 99, 153, 207, 261, 315)
"""Of the anchors, in pixels of an input of 300; the last is for the geometric mean alone."""
_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))


def _anchors(place: int) -> Sizes:
    scale, following = _SCALES[place] / 300, _SCALES[place + 1] / 300
    sizes = [(scale, scale), (math.sqrt(scale * following),) * 2]
    for ratio in _RATIOS[place]:
        longer, shorter = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        sizes += [(longer, shorter), (shorter, longer)]
    return tuple(sizes)


def _detector(labels: LabelSet, anchors_first: bool) -> Detector:
    maps = (
        SsdMap(f"classes{place}", f"boxes{place}", step, _anchors(place), anchors_first)
        for place, step in enumerate(_STEPS)
    )
    return Detector(tuple(maps), labels)


VGG16_DETECTOR = _detector("coco ids", anchors_first=True)
RESNET50_DETECTOR = _detector("background, coco", anchors_first=False)


def ssd_vgg16(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes SSD300 on VGG-16, parameters named as in torchvision (`ssd300_vgg16`)."""
    x = _vgg_features(b, b.input(shape))
    maps = [_normalised(b, x)]
    x = b.max_pool(x, 2, 2, "pool4")
    for place in (1, 3, 5):
        x = b.conv(x, b.scaled(512), 3, f"backbone.extra.0.{place}", act="relu")
    x = b.max_pool(x, 3, 1, "pool5", pad=1)
    x = b.conv(x, b.scaled(1024), 3, "backbone.extra.0.7.1", pad=6, dilation=6, act="relu")
    maps.append(b.conv(x, b.scaled(1024), 1, "backbone.extra.0.7.3", act="relu"))
    for place, (squeezed, channels, stride) in enumerate(
        ((256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1)), start=1
    ):
        key = f"backbone.extra.{place}"
        x = b.conv(maps[-1], b.scaled(squeezed), 1, f"{key}.0", act="relu")
        pad = 1 if stride == 2 else 0
        maps.append(b.conv(x, b.scaled(channels), 3, f"{key}.2", stride=stride, pad=pad, act="relu"))
    return _heads(b, maps, "head.classification_head.module_list", "head.regression_head.module_list", COCO_91)


def _vgg_features(b: Builder, x: Value) -> Value:
    # VGG-16 to conv4_3; the third pooling rounds up so that 300 rows become 38.
    place = 0
    for stage, depth in enumerate(vgg.VGG16_DEPTHS[:4]):
        for _ in range(depth):
            x = b.conv(x, b.scaled(vgg.CHANNELS[stage]), 3, f"backbone.features.{place}", act="relu")
            place += 2
        if stage < 3:
            x = b.max_pool(x, 2, 2, f"pool{stage + 1}", ceil=stage == 2)
            place += 1
    return x


def _normalised(b: Builder, x: Value) -> Value:
    # Every pixel's channels divided by their norm, times a learned scale that starts at 20 (Liu et al. 2015).
    scale = b.weights.vector("backbone.scale_weight", x.channels, mean=20.0)
    b.parameters += x.channels
    norm = b.node("ReduceL2", [x], "conv4_3.norm", axes=(1,), keepdims=1)
    floor = b.constant("conv4_3.floor", np.array(1e-12, np.float32))
    unit = b.node("Div", [x, b.node("Max", [norm, floor], "conv4_3.divisor")], "conv4_3.unit")
    factor = b.constant("backbone.scale_weight", scale.reshape(1, -1, 1, 1))
    return b.node("Mul", [unit, factor], "conv4_3.scaled")


def ssd_resnet50(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes SSD300 on ResNet-50 up to its third stage, whose stride is 1.

    Layout and names of parameters are those of NVIDIA's DeepLearningExamples (SSD v1.1 for PyTorch).
    """
    key = "feature_extractor.feature_extractor"
    x = b.conv(b.input(shape), b.scaled(64), 7, f"{key}.0", stride=2, bn=f"{key}.1", act="relu")
    x = b.max_pool(x, 3, 2, "maxpool", pad=1)
    for stage, depth in enumerate(resnet.RESNET50_DEPTHS[:3]):
        for place in range(depth):
            stride = 2 if stage == 1 and place == 0 else 1
            x = resnet.bottleneck(b, x, b.scaled(resnet.CHANNELS[stage]), stride, f"{key}.{stage + 4}.{place}")
    maps = [x]
    for place, (squeezed, channels) in enumerate(((256, 512), (256, 512), (128, 256), (128, 256), (128, 256))):
        at = f"additional_blocks.{place}"
        x = b.conv(maps[-1], b.scaled(squeezed), 1, f"{at}.0", bn=f"{at}.1", act="relu")
        stride, pad = (2, 1) if place < 3 else (1, 0)
        maps.append(
            b.conv(x, b.scaled(channels), 3, f"{at}.3", stride=stride, pad=pad, bn=f"{at}.4", act="relu")
        )  # fmt: skip
    return _heads(b, maps, "conf", "loc", COCO_81)


def _heads(b: Builder, maps: Sequence[Value], classes_key: str, boxes_key: str, classes: int) -> list[Value]:
    outputs = []
    for place, (x, anchors) in enumerate(zip(maps, ANCHORS, strict=True)):
        outputs.append(b.conv(x, anchors * classes, 3, f"{classes_key}.{place}", name=f"classes{place}"))
        outputs.append(b.conv(x, anchors * 4, 3, f"{boxes_key}.{place}", name=f"boxes{place}"))
    return outputs
