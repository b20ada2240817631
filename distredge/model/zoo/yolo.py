"""YOLOv2 (Redmon & Farhadi, CVPR 2017, section 2): Darknet-19 without its classifier, a passthrough, and one output.

Convolutions are numbered as they follow each other: conv1 to conv23, with conv21 the 1x1 one of the passthrough.
"""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.detector import Detector, YoloMap
from distredge.model.zoo._builder import Builder, Value

# Of Darknet's yolov2.cfg.
DETECTOR = Detector(
    (
        YoloMap(
            "detections",
            (
                (0.57273, 0.677385), (1.87446, 2.06253), (3.33843, 5.47434), (7.88282, 3.52778), (9.77052, 9.16828),
            ),
        ),
    ),
    "coco",
)  # fmt: skip
ANCHORS, CLASSES = 5, 80

# (channels, kernel) of the convolutions before each pooling of Darknet-19
STAGES = (
    ((32, 3),),
    ((64, 3),),
    ((128, 3), (64, 1), (128, 3)),
    ((256, 3), (128, 1), (256, 3)),
    ((512, 3), (256, 1), (512, 3), (256, 1), (512, 3)),
    ((1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3)),
)


def yolov2(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes YOLOv2 for COCO: (1, 425, height / 32, width / 32), before the boxes are decoded."""
    x = passed = b.input(shape)
    number = 0
    for stage, convolutions in enumerate(STAGES, start=1):
        for channels, kernel in convolutions:
            number += 1
            x = _conv(b, x, channels, kernel, number)
        if stage == 5:
            passed = x
        if stage < len(STAGES):
            x = b.max_pool(x, 2, 2, f"pool{stage}")
    for _ in range(2):
        number += 1
        x = _conv(b, x, 1024, 3, number)
    y = _conv(b, passed, 64, 1, number + 1)
    y = b.node("SpaceToDepth", [y], "reorg", blocksize=2)
    x = _conv(b, b.concat([y, x], "route"), 1024, 3, number + 2)
    return [b.conv(x, ANCHORS * (5 + CLASSES), 1, f"conv{number + 3}", name="detections")]


def _conv(b: Builder, x: Value, channels: int, kernel: int, number: int) -> Value:
    key = f"conv{number}"
    return b.conv(
        x, b.scaled(channels), kernel, key, bn=f"bn{number}", act="leaky", act_name=f"leaky{number}"
    )  # fmt: skip
