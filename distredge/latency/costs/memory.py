"""How much memory a strategy takes on each device: the weights it needs and the activations that are alive at once."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from distredge.model.layout import Layout, Part
from distredge.model.operators import region_size, whole
from distredge.model.preprocess import LARGER_FILES
from distredge.model.wires import is_file

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.model.rows import Region


def peak_memory_bytes(graph: Graph, layout: Layout) -> dict[str, int]:
    """Returns the peak of each device, for one image.

    Counted: the constants of all operators that the device runs, the rows that it has received or keeps for a later
    stage or a message, in each part the largest sum of tensors that are alive between two of its operators, and what
    decoding a picture takes where one may come in its file. Not counted: the engine's own workspace, which depends on
    engine and board.
    """
    return {
        name: weights_bytes(graph, layout, device)
        + _activations_bytes(graph, layout, device)
        + _pictures_bytes(graph, layout, device)
        for device, name in enumerate(layout.devices)
    }


def weights_bytes(graph: Graph, layout: Layout, device: int) -> int:
    """Returns the bytes of constants that a device needs, each once."""
    held: dict[str, int] = {}
    for stage in layout.stages:
        for item in stage.parts[device].operators:
            for name in graph.operators[item.operator].inputs:
                if name in graph.constants:
                    held[name] = graph.constants[name].nbytes
    return sum(held.values())


def _activations_bytes(graph: Graph, layout: Layout, device: int) -> int:
    """Peak over the stages: what is held across the stage plus what the part itself needs."""
    keep_until: dict[tuple[int, str], int] = {}
    size: dict[tuple[int, str], int] = {}
    for transfer in layout.transfers:
        if transfer.source == device:
            key = (transfer.produced, transfer.tensor)
            keep_until[key] = max(keep_until.get(key, -1), transfer.stage)
    for stage in layout.stages:
        for name, region in stage.parts[device].outputs.items():
            size[stage.index, name] = _bytes(layout, name, region)
    peak = 0
    for stage in layout.stages:
        part = stage.parts[device]
        across = sum(
            bytes_ for (made, name), bytes_ in size.items() if made < stage.index < keep_until.get((made, name), -1)
        )
        peak = max(peak, across + part_bytes(graph, layout, part))
    return peak


def _pictures_bytes(graph: Graph, layout: Layout, device: int) -> int:
    """What a worker reserves: there are larger files than the mean, and smaller ones where rows are expected."""
    if graph.preprocess is None or not any(is_file(t.wire) and t.destination == device for t in layout.transfers):
        return 0
    return graph.preprocess.decoding_bytes(LARGER_FILES * layout.file_pixels) + graph.preprocess.kept_bytes


def part_bytes(graph: Graph, layout: Layout, part: Part) -> int:
    """Returns the largest sum of tensors that are alive at once while a part runs, inputs and outputs included."""
    last_use: dict[str, int] = defaultdict(lambda: -1)
    for place, item in enumerate(part.operators):
        for name in graph.operators[item.operator].activation_names:
            last_use[name] = place
    for name in part.outputs:
        last_use[name] = len(part.operators)
    for item in part.partials:
        last_use[graph.operators[item.operator].inputs[0]] = len(part.operators)
    alive = {name: _bytes(layout, name, region) for name, region in part.inputs.items()}
    peak = sum(alive.values())
    for place, item in enumerate(part.operators):
        for name in graph.operators[item.operator].outputs:
            if name:
                alive[name] = _bytes(layout, name, item.region)
        peak = max(peak, sum(alive.values()))
        alive = {name: bytes_ for name, bytes_ in alive.items() if last_use[name] > place}
    return peak


def _bytes(layout: Layout, name: str, region: Region) -> int:
    tensor = layout.tensors[name]
    if tensor.row_axis is None:
        region = whole(tensor)
    return region_size(tensor, region) * np.dtype(tensor.dtype).itemsize
