"""What the outputs of a picture mean: classes of a classifier, or how large the outputs are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distredge.cli._deployment import classes_of, classifies, magnitude, named

if TYPE_CHECKING:
    from distredge.media.labels import Prediction
    from distredge.model.graph import Graph
    from distredge.runtime.buffers import Array
    from distredge.runtime.requester.picture_frames import PictureResult


@dataclass(frozen=True)
class Found:
    """What a picture's outputs mean.

    Attributes:
        classes: the most probable ones, best first, where the model has learnt ImageNet's.
        outputs: output -> shape and largest magnitude, where they are nothing that is known here.
    """

    classes: tuple[Prediction, ...] = ()
    outputs: Mapping[str, Mapping[str, Any]] | None = None

    def figures(self) -> dict[str, Any]:
        """The same for machines."""
        found: dict[str, Any] = {}
        if self.classes:
            found["classes"] = named(self.classes)
        if self.outputs is not None:
            found["outputs"] = self.outputs
        return found

    def text(self) -> str:
        """The same on one line."""
        return "".join(f"  {100 * best.probability:.1f} % {best.label.name}" for best in self.classes[:1])


class Meaning:
    """Says what a model's outputs mean.

    Args:
        graph: the model.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __call__(self, result: PictureResult) -> Found:
        """Returns what a picture's outputs mean; nothing if it failed."""
        if result.outputs is None:
            return Found()
        if classifies(result.outputs):
            return Found(classes=classes_of(self._graph, result.outputs))
        return Found(outputs={name: _described(array) for name, array in result.outputs.items()})


def _described(array: Array) -> dict[str, Any]:
    """Shape and largest magnitude of an output (d0, d1, ...); None where that is no number."""
    largest = magnitude(array)
    return {"shape": list(array.shape), "largest": largest if math.isfinite(largest) else None}
