"""The time of an operator on a board that was not measured, from a few published numbers.

For `r` output rows, t(r) = launch + compute(r) + memory(r), with

- launch: paid once, or as often as Winograd convolutions have kernels;
- compute: multiply-adds of the tiles that cover the output, over a rate that depends on the kind of operator
  (Winograd 3x3, other dense convolution, 1x1, depthwise, matrix product) and falls off for shallow products:
  rate * depth / (depth + half_depth), depth = kernel elements x input channels of the group;
- tiles: Winograd rounds rows and columns up to `tile_rows` (ncnn computes 3x3 convolutions in tiles of 2, 4 or 6); the
  product is cut into tiles of `tile_pixels` x `tile_channels`, of which `units` run at once, so that time moves in
  waves (NVIDIA, Matrix Multiplication Background User's Guide, DU-09799-001, sections 3.1 and 3.2);
- memory: activations of those rows over `memory_bytes_per_s`, plus all the weights over `weight_bytes_per_s`: what
  makes fully connected layers dear and does not shrink with the rows. Winograd weights are (tile_rows + 2)^2 / 9 times
  as large.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distredge.model.signatures import Signature
from distredge.profiles.schema import Coefficients

Kind = Literal["winograd", "conv", "pointwise", "depthwise", "dense", "memory", "free"]

_FREE = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Shape", "Constant"})
_REDUCTIONS = frozenset(
    {"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"}
)
_FLOAT32_BYTES = 4


def kind_of(signature: Signature) -> Kind:
    """Returns which rate an operator runs at; "free" for one that only renames its input."""
    op_type = signature.op_type.partition("+")[0]
    if op_type in _FREE:
        return "free"
    if op_type in ("Gemm", "MatMul"):
        return "dense"
    if op_type not in ("Conv", "ConvTranspose") or not signature.macs:
        return "memory"
    if signature.group > 1 and signature.group == signature.in_shape[0]:
        return "depthwise"
    if all(k == 1 for k in signature.kernel):
        return "pointwise"
    plain = all(s == 1 for s in signature.strides) and all(d == 1 for d in signature.dilations)
    if op_type == "Conv" and signature.kernel == (3, 3) and plain and signature.group == 1:
        return "winograd"
    return "conv"


def profile_rows(signature: Signature) -> int:
    """Returns the number of rows up to which an operator is profiled.

    They are output rows; of a reduction over all rows (whose output has one row) they are input rows, because a
    split-part then makes the partial sum of some of those.
    """
    op_type = signature.op_type.partition("+")[0]
    if op_type in _REDUCTIONS and signature.rows == 1 and len(signature.in_shape) >= 2:
        return max(1, signature.in_shape[1])
    return signature.rows


def modelled_s(coefficients: Coefficients, signature: Signature, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the modelled seconds of one operator.

    Args:
        coefficients: the board.
        signature: the operator.
        rows: (n,) output rows, >= 0; 0 costs nothing.

    Returns:
        (n,) seconds.
    """
    kind = kind_of(signature)
    if kind == "free":
        return np.zeros(len(rows))
    share = rows / profile_rows(signature)
    bytes_scale = coefficients.bytes_per_element / _FLOAT32_BYTES
    # A 3x3 kernel is transformed to one as large as its input tile.
    tile = (coefficients.tile_rows + 2) if kind == "winograd" else 3
    memory = (
        signature.io_bytes * bytes_scale * share / coefficients.memory_bytes_per_s
        + signature.weight_bytes * bytes_scale * (tile / 3) ** 2 / coefficients.weight_bytes_per_s
    )
    compute = np.zeros(len(rows)) if kind == "memory" else _compute_s(coefficients, signature, kind, rows)
    launch_s = coefficients.launch_s * (coefficients.winograd_launches if kind == "winograd" else 1)
    return np.where(rows > 0, launch_s + compute + memory, 0.0)


def _compute_s(
    coefficients: Coefficients, signature: Signature, kind: Kind, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    rate: float = getattr(coefficients.rates, kind)
    channels = signature.out_shape[0] if kind != "dense" else signature.out_shape[-1]
    depth = signature.macs / max(1, math.prod(signature.out_shape))
    if kind == "depthwise":
        # No product over channels: neither depth nor tiles of channels apply.
        return np.asarray(rows * (signature.macs / signature.rows / rate), dtype=np.float64)
    tiles = np.ceil(_pixels(coefficients, signature, kind, rows) / coefficients.tile_pixels) * np.ceil(
        channels / coefficients.tile_channels
    )
    waves = np.ceil(tiles / coefficients.units)
    per_wave = coefficients.units * coefficients.tile_pixels * coefficients.tile_channels * depth
    effective = rate * depth / (depth + coefficients.half_depth)
    seconds: NDArray[np.float64] = waves * per_wave / effective
    return seconds


def _pixels(
    coefficients: Coefficients, signature: Signature, kind: Kind, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Output pixels that are computed for so many rows; a matrix product's rows are its pixels."""
    if kind == "dense":
        return np.asarray(rows * (math.prod(signature.out_shape[:-1]) / signature.rows), dtype=np.float64)
    # Whatever axes there are besides channels and rows.
    columns = math.prod(signature.out_shape[1:]) / signature.rows
    if kind != "winograd" or coefficients.tile_rows == 1:
        return (rows * columns).astype(np.float64)
    tile = coefficients.tile_rows
    covered: NDArray[np.float64] = np.ceil(rows / tile) * tile * (math.ceil(columns / tile) * tile)
    return covered
