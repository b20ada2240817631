"""CNNs of the literature, by name: `entries()` lists them, `build()` writes one.

Every model is written as an ONNX graph, without torch. Weights are seeded He-normal (EfficientNet-Lite0: trained), or
read from a file whose parameters have torchvision's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distredge.errors import ModelError, did_you_mean, located
from distredge.model.graph import Graph
from distredge.model.zoo._builder import Builder
from distredge.model.zoo._entries import ENTRIES, Entry
from distredge.model.zoo._weights import LoadedWeights, SeededWeights, Weights, read_weights

__all__ = ["Entry", "build", "entries", "find", "read_weights"]

VARIANT = re.compile(r"(?P<name>.+?)-(?P<width>\d?\.\d+|1)(?:-(?P<resolution>\d{2,4}))?")
"""`mobilenet-v1-0.5-160`: name, width multiplier, resolution."""

WeightsSource = str | Path | Mapping[str, NDArray[np.generic]]


def entries() -> tuple[Entry, ...]:
    """Returns every model of the zoo."""
    return ENTRIES


def find(name: str) -> tuple[Entry, float, int | None] | None:
    """Returns entry, width multiplier and resolution (None: the entry's own) for a name, or None when unknown."""
    by_name = {e.name: e for e in ENTRIES}
    if name in by_name:
        return by_name[name], 1.0, None
    match = VARIANT.fullmatch(name)
    if match and match["name"] in by_name and by_name[match["name"]].scalable_name:
        resolution = int(match["resolution"]) if match["resolution"] else None
        return by_name[match["name"]], float(match["width"]), resolution
    return None


def build(
    name: str,
    input_shape: Sequence[int] | None = None,
    weights: WeightsSource | None = None,
    seed: int = 0,
    width: float | None = None,
) -> Graph:
    """Writes a model of the zoo.

    Args:
        name: of an entry, for instance `vgg16` or `mobilenet-v1-0.5-160`.
        input_shape: (1, channels, height, width); None: the published one.
        weights: safetensors, .npz or state_dict file, or arrays by name; None: trained ones where the entry has them,
            else seeded ones.
        seed: of the seeded weights.
        width: multiplier of every hidden number of channels, for small models in tests; a reduced model has seeded
            weights.

    Raises:
        ModelError: for an unknown name, or a shape or weights that do not fit.
        MissingDependency: if trained weights need a package that is absent.
    """
    found = find(name)
    if found is None:
        raise ModelError(f"zoo: no model is called '{name}'{did_you_mean(name, [e.name for e in ENTRIES])}")
    entry, factor, resolution = found
    factor = factor if width is None else width
    if not 0 < factor <= 4:
        raise ModelError(located(f"zoo: {name}", "width", factor, "a number above 0 and at most 4"))
    shape = _input_shape(entry, input_shape, resolution)
    source = _weights(entry, weights, seed, factor)
    builder = Builder(name, source, factor)
    preprocess = entry.preprocess(shape[-2], shape[-1]) if entry.preprocess else None
    graph = builder.finish(entry.write(builder, shape), preprocess)
    graph.detector = entry.detector
    if isinstance(source, SeededWeights):
        graph.weights_from = "random"
    elif weights is None:
        graph.weights_from = "trained"
    return graph


def _input_shape(entry: Entry, wanted: Sequence[int] | None, resolution: int | None) -> tuple[int, ...]:
    published = entry.input_shape
    if wanted is None:
        return published if resolution is None else (*published[:-2], resolution, resolution)
    shape = tuple(wanted)
    accepted = f"{len(published)} sizes, (1, {published[1]}, ...) as in {published}"
    if len(shape) != len(published) or shape[:2] != published[:2] or min(shape) < 1:
        raise ModelError(located(f"zoo: {entry.name}", "input_shape", shape, accepted))
    return shape


def _weights(entry: Entry, given: WeightsSource | None, seed: int, width: float) -> Weights:
    if given is not None:
        if isinstance(given, Mapping):
            return LoadedWeights(given, "weights", entry.unneeded)
        return LoadedWeights(read_weights(given), str(given), entry.unneeded)
    if entry.trained is not None and width == 1.0:
        return entry.trained()
    if seed < 0:
        raise ModelError(located(f"zoo: {entry.name}", "seed", seed, "an integer of at least 0"))
    return SeededWeights(seed)
