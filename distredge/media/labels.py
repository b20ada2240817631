"""Names of classes: ImageNet's, from WordNet 3.0 (licence in `imagenet_classes.txt` beside this file), and COCO's."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MediaError, located


@dataclass(frozen=True)
class Label:
    """One class: its place among a classifier's outputs, WordNet 3.0 synset id, and words, the usual one first."""

    index: int
    synset: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The usual word."""
        return self.words[0]


@dataclass(frozen=True)
class Prediction:
    """A class and its probability."""

    label: Label
    probability: float


@functools.cache
def imagenet_labels() -> tuple[Label, ...]:
    """Returns the 1000 classes of ILSVRC 2012 in the order of a classifier's outputs."""
    text = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    labels = []
    for index, line in enumerate(lines):
        synset, _, words = line.partition("\t")
        labels.append(Label(index, synset, tuple(words.split(", "))))
    return tuple(labels)


@functools.cache
def coco_names() -> Mapping[int, str]:
    """Returns the 80 categories of COCO in their order: id, from 1 to 90, -> name."""
    text = Path(__file__).with_name("coco_classes.txt").read_text(encoding="utf-8")
    lines = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return MappingProxyType({int(number): name for number, name in lines})


def softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Returns exp(scores) / sum(exp(scores)) along the last axis.

    Args:
        scores: (n_images, n_classes), (n_classes,) or with more axes before these, finite, of any real dtype.

    Returns:
        float64 of the same shape, from 0 to 1; the last axis adds to 1.
    """
    shifted = np.asarray(scores, np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def top(scores: NDArray[Any], count: int = 5) -> tuple[Prediction, ...]:
    """Returns the most probable ImageNet classes, best first.

    Args:
        scores: (1000,) a classifier's outputs before softmax, of any real dtype; axes of size 1 are ignored.
        count: how many, 1 to 1000.

    Raises:
        MediaError: if there are not 1000 finite scores.
    """
    labels = imagenet_labels()
    flat = np.asarray(scores).reshape(-1)
    if flat.size != len(labels):
        raise MediaError(located("scores", "shape", np.shape(scores), f"{len(labels)} scores of ImageNet classes"))
    if not np.all(np.isfinite(flat)):
        raise MediaError("scores: found NaN or infinite values, accepted: finite scores")
    if not 1 <= count <= len(labels):
        raise MediaError(located("scores", "count", count, f"1 to {len(labels)}"))
    probabilities = softmax(flat)
    order = np.argsort(-probabilities, kind="stable")[:count]
    return tuple(Prediction(labels[i], float(probabilities[i])) for i in order.tolist())
