"""What the outputs of a picture mean: classes of a classifier, boxes of a detector, or how large the outputs are."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distredge.cli._deployment import classes_of, classifies, magnitude, named

if TYPE_CHECKING:
    from distredge.media.detection import Box
    from distredge.media.labels import Prediction
    from distredge.media.pictures import Picture
    from distredge.model.detector import Detector
    from distredge.model.graph import Graph
    from distredge.runtime.buffers import Array
    from distredge.runtime.requester.picture_frames import PictureResult


@dataclass(frozen=True)
class Found:
    """What a picture's outputs mean.

    Attributes:
        classes: the most probable ones, best first, where the model has learnt ImageNet's.
        boxes: of a detector, the surest first; None where the model is none.
        outputs: output -> shape and largest magnitude, where they are nothing that is known here.
    """

    classes: tuple[Prediction, ...] = ()
    boxes: tuple[Box, ...] | None = None
    outputs: Mapping[str, Mapping[str, Any]] | None = None

    def figures(self) -> dict[str, Any]:
        """The same for machines."""
        found: dict[str, Any] = {}
        if self.classes:
            found["classes"] = named(self.classes)
        if self.boxes is not None:
            found["boxes"] = [dataclasses.asdict(box) for box in self.boxes]
        if self.outputs is not None:
            found["outputs"] = self.outputs
        return found

    def text(self) -> str:
        """The same on one line."""
        if self.boxes is not None:
            counts = Counter(box.name for box in self.boxes)
            return "  " + (", ".join(f"{count} x {name}" for name, count in counts.items()) or "nothing found")
        return "".join(f"  {100 * best.probability:.1f} % {best.label.name}" for best in self.classes[:1])


class Meaning:
    """Says what a model's outputs mean.

    Args:
        graph: the model.
        least_score: of boxes that are said.
    """

    def __init__(self, graph: Graph, least_score: float) -> None:
        self._graph = graph
        self._least_score = least_score

    def __call__(self, result: PictureResult) -> Found:
        """Returns what a picture's outputs mean; nothing if it failed."""
        if result.outputs is None:
            return Found()
        if self._graph.detector is not None and _all_finite(result.outputs):
            return Found(boxes=self._boxes(self._graph.detector, result.outputs, result.picture))
        if classifies(result.outputs):
            return Found(classes=classes_of(self._graph, result.outputs))
        return Found(outputs={name: _described(array) for name, array in result.outputs.items()})

    def _boxes(self, detector: Detector, outputs: Mapping[str, Array], picture: Picture) -> tuple[Box, ...]:
        from distredge.media.detection import find_boxes

        preprocess = self._graph.preprocess
        assert preprocess is not None
        assert picture.size is not None
        height, width = picture.size
        seen = preprocess.seen(width, height)
        return find_boxes(detector, outputs, preprocess.crop, seen, (height, width), self._least_score)


def means_nothing(graph: Graph) -> str | None:
    """Returns what is to be said of what a model finds that has learnt nothing; None where it has."""
    if graph.weights_from != "random":
        return None
    return "weights: random (seed 0): what it finds means nothing; give --weights FILE"


def _all_finite(outputs: Mapping[str, Array]) -> bool:
    """Whether no output, such as (N, classes), has NaN or infinite values."""
    import numpy as np

    return all(bool(np.isfinite(array).all()) for array in outputs.values())


def _described(array: Array) -> dict[str, Any]:
    """Shape and largest magnitude of an output (d0, d1, ...); None where that is no number."""
    largest = magnitude(array)
    return {"shape": list(array.shape), "largest": largest if math.isfinite(largest) else None}
