"""How many elements of each tensor are zero, which packed wires leave out: measured on sample images, once per model.

A share is a mean over a few images. It is what plans are priced by, not a bound: rows of another image may be denser,
and rows that do not shrink travel plain.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import os
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import DistredgeError
from distredge.folders import user_folder
from distredge.model.original import EngineRefuses, Original, seeded_inputs

if TYPE_CHECKING:
    from distredge.model.graph import Graph

logger = logging.getLogger(__name__)

_CROPS = ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.6, 0.6), (0.4, 0.4, 1.0, 1.0))
"""Of the sample photograph, each of which counts as one image: left, top, right and bottom as shares of its sides."""

_known: weakref.WeakKeyDictionary[Graph, Mapping[str, float]] = weakref.WeakKeyDictionary()


def zero_shares(graph: Graph) -> Mapping[str, float]:
    """Returns the share of elements that are zero (+0.0) of each float32 tensor that may leave a volume, 0 to 1.

    The whole model is run in ONNX Runtime the first time; what was found is kept in the user's cache folder by the
    digest of the weights. Where the model cannot be run the shares are 0, as if nothing could be left out.
    """
    found = _known.get(graph)
    if found is None:
        found = _known[graph] = _found(graph)
    return found


def assume_zero_shares(graph: Graph, shares: Mapping[str, float]) -> None:
    """Has a graph priced with given shares, by tensor, as long as it lives; it is not run."""
    _known[graph] = dict(shares)


def sample_inputs(graph: Graph) -> list[dict[str, NDArray[Any]]]:
    """Returns the inputs on which shares are measured.

    Returns:
        Arrays by input name, shape (N, C, H, W) or other and dtype as in the graph: crops of the photograph that
        matplotlib ships, prepared as the model's preprocessing says; without it, or without preprocessing, seeded
        noise.
    """
    types = {v.name: v.type for v in graph.skeleton.graph.input if v.name in graph.tensors}
    noise = seeded_inputs(types)
    picture, way = _photograph(), graph.preprocess
    image = next((n for n in graph.input_names if way and graph.tensors[n].shape == way.shape), None)
    if picture is None or way is None or image is None or graph.tensors[image].dtype != "float32":
        return [noise]
    from PIL import Image as pillow

    with pillow.open(picture) as opened:
        width, height = opened.size
        crops = [
            opened.crop((int(a * width), int(b * height), int(c * width), int(d * height))) for a, b, c, d in _CROPS
        ]
    return [{**noise, image: way.normalise(way.prepare(crop))} for crop in crops]


def _photograph() -> Path | None:
    """The photograph of Grace Hopper (public domain, U.S. Navy) that matplotlib ships, where it is installed."""
    found = importlib.util.find_spec("matplotlib")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(folder) / "mpl-data" / "sample_data" / "grace_hopper.jpg"
        if path.is_file():
            return path
    return None


def _crossing(graph: Graph) -> tuple[str, ...]:
    """Float32 tensors that may leave a volume."""
    names = [*(name for cut in graph.cuts for name in cut.tensors), *graph.body.head_inputs, *graph.output_names]
    return tuple(
        name
        for name in dict.fromkeys(names)
        if name in graph.producer and graph.tensors[name].dtype == "float32" and name not in graph.input_names
    )


def _found(graph: Graph) -> Mapping[str, float]:
    names = _crossing(graph)
    place = _place(graph, names)
    kept = _remembered(place, names)
    if kept is not None:
        return kept
    try:
        shares = _measured(graph, names)
    except (EngineRefuses, DistredgeError, ImportError, OSError) as error:
        logger.warning("%s: packed rows are priced as plain ones, since it could not be run: %s", graph.name, error)
        return dict.fromkeys(names, 0.0)
    _remember(place, shares)
    return shares


def _measured(graph: Graph, names: Sequence[str]) -> dict[str, float]:
    types = {v.name: v.type for v in graph.skeleton.graph.input if v.name in graph.tensors}
    model = Original(graph.name, graph.skeleton, graph.constants, types, tuple(names))
    samples = sample_inputs(graph)
    sums = dict.fromkeys(names, 0.0)
    for feeds in samples:
        for name, values in model.run(feeds, names, optimised=True).items():
            bits = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
            sums[name] += 1.0 - np.count_nonzero(bits) / max(1, bits.size)
    return {name: total / len(samples) for name, total in sums.items()}


def _place(graph: Graph, names: Sequence[str]) -> Path:
    said = f"{graph.topology}{graph.weights_digest}{graph.preprocess}{_photograph() is not None}{list(names)}"
    key = hashlib.sha256(said.encode()).hexdigest()
    return user_folder("XDG_CACHE_HOME", ".cache") / "distredge" / "zero-shares" / f"{key}.json"


def _remembered(place: Path, names: Sequence[str]) -> dict[str, float] | None:
    try:
        found = json.loads(place.read_text("utf-8"))
        shares = {name: float(found[name]) for name in names}
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return shares if all(math.isfinite(share) and 0.0 <= share <= 1.0 for share in shares.values()) else None


def _remember(place: Path, shares: Mapping[str, float]) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False, encoding="utf-8") as file:
            json.dump(shares, file)
        os.replace(file.name, place)
    except OSError as error:
        logger.info("the shares of zeros of this model are not remembered: %s", error)
