"""Boxes of detectors: from the maps that a model gives to rectangles in the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MediaError
from distredge.media.labels import coco_names, softmax
from distredge.model.detector import Detector, SsdMap, YoloMap

OVERLAP: Final = 0.45
"""Of two boxes of one class that share more of their union than this, the less probable one goes."""

MOST_BOXES: Final = 200
MOST_OF_A_CLASS: Final = 400
"""How many of the surest boxes of a class are looked at, as torchvision does."""

_CENTRE_SCALE, _SIZE_SCALE = 0.1, 0.2
_LARGEST_GROWTH = math.log(1000.0 / 16.0)
"""Of a box over its anchor, as a logarithm; what is larger is noise, and would overflow."""


@dataclass(frozen=True)
class Box:
    """One thing that was found.

    Attributes:
        name: of its class.
        score: how sure the model is, from 0 to 1.
        left, top, right, bottom: its edges, in pixels of the picture.
    """

    name: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class _Found:
    """Boxes of one map: centres and sizes (n, 4) in shares of the input, and scores (n, n_classes)."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]


def find_boxes(
    detector: Detector,
    outputs: Mapping[str, NDArray[Any]],
    input_size: tuple[int, int],
    seen: tuple[float, float, float, float],
    size: tuple[int, int],
    least_score: float,
) -> tuple[Box, ...]:
    """Returns what a detector found in a picture, the surest first, at most MOST_BOXES.

    Args:
        detector: says how its outputs are to be read.
        outputs: output -> its map, such as (1, n_anchors x (5 + n_classes), height, width).
        input_size: (height, width) of the model's input, in pixels.
        seen: left, top, right, bottom of what of the picture became the input, in pixels of the picture.
        size: (height, width) of the picture, in pixels.
        least_score: of what is said.

    Raises:
        MediaError: if the outputs have NaN or infinite values.
    """
    if not all(np.isfinite(array).all() for array in outputs.values()):
        raise MediaError("boxes: found NaN or infinite values in the outputs, accepted: finite ones")
    parts = [
        _of_yolo(part, outputs) if isinstance(part, YoloMap) else _of_ssd(part, outputs, input_size)
        for part in detector.maps
    ]
    boxes = np.concatenate([part.boxes for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    edges = _edges(boxes, seen, size)
    # What lies beyond the picture has no size in it.
    scores[(edges[:, 2:] <= edges[:, :2]).any(axis=1)] = 0.0
    names = _names(detector, scores.shape[1])
    found: list[tuple[float, int, int]] = []
    for number in range(scores.shape[1]):
        if names[number] is None:
            continue
        places = np.flatnonzero((scores[:, number] >= least_score) & (scores[:, number] > 0))
        places = places[np.argsort(-scores[places, number], kind="stable")[:MOST_OF_A_CLASS]]
        kept = places[suppressed(edges[places], scores[places, number])]
        found += [(float(scores[place, number]), int(place), number) for place in kept]
    found.sort(key=lambda one: (-one[0], one[1:]))
    return tuple(
        Box(names[number] or "", score, *(float(edge) for edge in edges[place]))
        for score, place, number in found[:MOST_BOXES]
    )


def suppressed(edges: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.intp]:
    """Returns which boxes are left where each one removes those less sure that overlap it by more than OVERLAP.

    Args:
        edges: (n, 4), left, top, right, bottom.
        scores: (n,).

    Returns:
        (n_left,) indices, the surest first.
    """
    order = np.argsort(-scores, kind="stable")
    areas = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])
    kept: list[int] = []
    while order.size:
        first, rest = int(order[0]), order[1:]
        kept.append(first)
        inner = np.minimum(edges[first, 2:], edges[rest, 2:]) - np.maximum(edges[first, :2], edges[rest, :2])
        shared = np.prod(np.maximum(inner, 0.0), axis=1)
        union = areas[first] + areas[rest] - shared
        order = rest[shared <= OVERLAP * union]
    return np.array(kept, np.intp)


def _of_yolo(part: YoloMap, outputs: Mapping[str, NDArray[Any]]) -> _Found:
    """Redmon & Farhadi, CVPR 2017, figure 3; outputs (1, n_anchors x (5 + n_classes), height, width)."""
    array = outputs[part.output].astype(np.float64)
    _, channels, height, width = array.shape
    count = len(part.anchors)
    cells = array.reshape(count, channels // count, height, width)
    anchors = np.array(part.anchors).reshape(count, 2, 1, 1)
    rows, columns = np.mgrid[0:height, 0:width]
    x = (columns + _sigmoid(cells[:, 0])) / width
    y = (rows + _sigmoid(cells[:, 1])) / height
    growth = np.exp(np.minimum(cells[:, 2:4], _LARGEST_GROWTH)) * anchors
    boxes = np.stack([x, y, growth[:, 0] / width, growth[:, 1] / height], axis=-1).reshape(-1, 4)
    classes = softmax(np.moveaxis(cells[:, 5:], 1, -1))
    scores = (_sigmoid(cells[:, 4])[..., None] * classes).reshape(-1, channels // count - 5)
    return _Found(boxes, scores)


def _of_ssd(part: SsdMap, outputs: Mapping[str, NDArray[Any]], input_size: tuple[int, int]) -> _Found:
    """Liu et al., ECCV 2016, equation 2; outputs (1, n_anchors x n_classes or 4, height, width)."""
    count = len(part.anchors)
    by_anchor = _by_anchor(outputs[part.boxes], count, part.anchors_first)
    height, width = by_anchor.shape[1:3]
    rows, columns = np.mgrid[0:height, 0:width]
    x = np.minimum((columns + 0.5) * part.step / input_size[1], 1.0)
    y = np.minimum((rows + 0.5) * part.step / input_size[0], 1.0)
    sizes = np.minimum(np.array(part.anchors), 1.0).reshape(count, 1, 1, 2)
    centres = np.stack([x, y], axis=-1) + _CENTRE_SCALE * by_anchor[..., :2] * sizes
    growth = np.exp(np.minimum(_SIZE_SCALE * by_anchor[..., 2:], _LARGEST_GROWTH)) * sizes
    boxes = np.concatenate([centres, growth], axis=-1).reshape(-1, 4)
    classes = softmax(_by_anchor(outputs[part.classes], count, part.anchors_first))
    return _Found(boxes, classes.reshape(len(boxes), -1))


def _by_anchor(array: NDArray[Any], count: int, anchors_first: bool) -> NDArray[np.float64]:
    """Reorders (1, channels, height, width) as (n_anchors, height, width, channels / n_anchors)."""
    _, channels, height, width = array.shape
    each = channels // count
    if anchors_first:
        return np.moveaxis(array.astype(np.float64).reshape(count, each, height, width), 1, -1)
    return np.moveaxis(array.astype(np.float64).reshape(each, count, height, width), 0, -1)


def _edges(
    boxes: NDArray[np.float64], seen: tuple[float, float, float, float], size: tuple[int, int]
) -> NDArray[np.float64]:
    """From centres and sizes (n, 4) in shares of the input to edges (n, 4) in pixels, within the picture."""
    left, top, right, bottom = seen
    spans = np.array([right - left, bottom - top])
    centres = np.array([left, top]) + boxes[:, :2] * spans
    halves = boxes[:, 2:] * spans / 2
    limits = np.array([size[1], size[0]], np.float64)
    return np.concatenate([np.clip(centres - halves, 0, limits), np.clip(centres + halves, 0, limits)], axis=1)


def _names(detector: Detector, count: int) -> list[str | None]:
    """The name of each class; None where it stands for nothing."""
    names: Mapping[int, str] = coco_names()
    if detector.labels == "coco ids":
        return [names.get(number) for number in range(count)]
    listed = list(names.values())
    shown: list[str | None] = [*listed] if detector.labels == "coco" else [None, *listed]
    return shown


def _sigmoid(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) of an array of any shape, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * array))
