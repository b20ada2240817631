"""VoxelNet's convolutional middle layers and region proposal network (Zhou & Tuzel, CVPR 2018, section 3.1, figure 4).

The setting is the paper's for cars: the feature layer before it gives 128 channels on a grid of 10 x 400 x 352
voxels (depth, rows, columns).
"""

from __future__ import annotations

from collections.abc import Sequence

from distredge.model.zoo._builder import Builder, Value

# middle: channels, stride and padding along depth, rows, columns
MIDDLE = ((64, (2, 1, 1), (1, 1, 1)), (64, (1, 1, 1), (0, 1, 1)), (64, (2, 1, 1), (1, 1, 1)))
# proposal: channels, convolutions; kernel, stride and padding of the upsampling
BLOCKS = ((128, 4, (3, 1, 1)), (128, 6, (2, 2, 0)), (256, 6, (4, 4, 0)))
UPSAMPLED = 256
ANCHORS = 2


def voxelnet(b: Builder, shape: Sequence[int]) -> list[Value]:
    """Writes the layers from the voxel features on: scores (2 channels) and boxes (14) on half the grid."""
    x = b.input(shape)
    for place, (channels, strides, pads) in enumerate(MIDDLE, start=1):
        key, kernels = f"middle{place}", (3, 3, 3)
        x = b.conv(
            x, b.scaled(channels), kernels, f"{key}.conv", stride=strides, pad=pads, bn=f"{key}.bn", act="relu"
        )  # fmt: skip
    batch, deep_channels, depth, height, width = x.shape
    x = b.reshape(x, (batch, deep_channels * depth, height, width), "bird_view")
    raised = []
    for place, (channels, convolutions, (kernel, stride, pad)) in enumerate(BLOCKS, start=1):
        for layer in range(convolutions):
            key, step = f"block{place}.{layer}", 2 if layer == 0 else 1
            x = b.conv(x, b.scaled(channels), 3, f"{key}.conv", stride=step, bn=f"{key}.bn", act="relu")
        key, up = f"up{place}", b.scaled(UPSAMPLED)
        raised.append(
            b.conv_transpose(x, up, kernel, f"{key}.conv", stride=stride, pad=pad, bn=f"{key}.bn", act="relu")
        )  # fmt: skip
    x = b.concat(raised, "upsampled")
    return [b.conv(x, ANCHORS, 1, "score"), b.conv(x, 7 * ANCHORS, 1, "regression")]
