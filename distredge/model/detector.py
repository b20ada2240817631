"""What the maps that a detector gives say: where boxes are, and of which classes.

Detectors give their maps as the convolutions make them. Turning these into boxes (`distredge.media.detection`) needs
the anchors that the model was trained with, which stand here and are given where a model is defined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Sizes: TypeAlias = tuple[tuple[float, float], ...]
"""(width, height) of each anchor."""

LabelSet: TypeAlias = Literal["coco", "background, coco", "coco ids"]
"""What a detector's classes are: COCO's 80 in their order; the same after a background; COCO's ids, 0 a background."""


@dataclass(frozen=True)
class YoloMap:
    """Boxes of YOLOv2 (Redmon & Farhadi, CVPR 2017, section 2, "direct location prediction").

    Attributes:
        output: (1, n_anchors x (5 + n_classes), height, width): of each anchor x, y, width, height, whether there is
            anything, and the classes.
        anchors: in cells of the map.
    """

    output: str
    anchors: Sizes


@dataclass(frozen=True)
class SsdMap:
    """Boxes of SSD (Liu et al., ECCV 2016, section 2.2), their centres scaled by 0.1 and their sizes by 0.2.

    Attributes:
        classes: (1, n_anchors x n_classes, height, width).
        boxes: (1, n_anchors x 4, height, width): x, y, width, height.
        step: of the map's cells, in pixels of the input.
        anchors: in shares of the input's width and height.
        anchors_first: whether channels are numbered anchor by anchor; otherwise class by class and coordinate by
            coordinate.
    """

    classes: str
    boxes: str
    step: int
    anchors: Sizes
    anchors_first: bool


@dataclass(frozen=True)
class Detector:
    """How the outputs of a detector become boxes.

    Attributes:
        maps: its outputs.
        labels: what its classes are.
    """

    maps: tuple[YoloMap, ...] | tuple[SsdMap, ...]
    labels: LabelSet
