"""OpenPose for COCO's 18 key points (Cao et al., CVPR 2017, figure 3): VGG-19's first ten layers and six stages.

Layers and their parameters have the names of the authors' Caffe model (`pose_deploy_linevec.prototxt`).
"""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.zoo._builder import Builder, Value

# stage of VGG-19: channels and convolutions
TRUNK = ((64, 2), (128, 2), (256, 4), (512, 2))
STAGES = 6
FIELDS, HEATMAPS = 38, 19
"""Channels of branch 1 (part affinity fields) and of branch 2 (confidence of 18 points and background)."""


def openpose(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes OpenPose; the outputs are the last stage's part affinity fields and heat maps."""
    features = _trunk(b, b.input(shape))
    fields, heatmaps = (_first_stage(b, features, channels, branch) for branch, channels in _branches())
    for stage in range(2, STAGES + 1):
        x = b.concat([fields, heatmaps, features], f"concat_stage{stage}")
        fields, heatmaps = (_later_stage(b, x, channels, stage, branch) for branch, channels in _branches())
    return [fields, heatmaps]


def _branches() -> tuple[tuple[str, int], tuple[str, int]]:
    return ("L1", FIELDS), ("L2", HEATMAPS)


def _trunk(b: Builder, x: Value) -> Value:
    for stage, (channels, depth) in enumerate(TRUNK, start=1):
        for layer in range(1, depth + 1):
            x = b.conv(x, b.scaled(channels), 3, f"conv{stage}_{layer}", act="relu", act_name=f"relu{stage}_{layer}")
        if stage < len(TRUNK):
            x = b.max_pool(x, 2, 2, f"pool{stage}_stage1")
    x = b.conv(x, b.scaled(256), 3, "conv4_3_CPM", act="relu")
    return b.conv(x, b.scaled(128), 3, "conv4_4_CPM", act="relu")


def _first_stage(b: Builder, x: Value, channels: int, branch: str) -> Value:
    for layer in (1, 2, 3):
        x = b.conv(x, b.scaled(128), 3, f"conv5_{layer}_CPM_{branch}", act="relu")
    x = b.conv(x, b.scaled(512), 1, f"conv5_4_CPM_{branch}", act="relu")
    return b.conv(x, channels, 1, f"conv5_5_CPM_{branch}")


def _later_stage(b: Builder, x: Value, channels: int, stage: int, branch: str) -> Value:
    for layer in range(1, 6):
        x = b.conv(x, b.scaled(128), 7, f"Mconv{layer}_stage{stage}_{branch}", act="relu")
    x = b.conv(x, b.scaled(128), 1, f"Mconv6_stage{stage}_{branch}", act="relu")
    return b.conv(x, channels, 1, f"Mconv7_stage{stage}_{branch}")
