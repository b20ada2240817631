"""Whose time is it: reads ONNX Runtime's profile of a segment and gives each kernel's time to an operator of the model.

A kernel has the name of its node, or, in the layout in which convolutions compute, of its output. Kernels that the
engine puts in (changes of layout, and what a fused operator left over) are given to the elementwise operator or the
pooling beside them, which is why they are there; those at the segment's own edge are reported apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from distredge.errors import EngineError
from distredge.model.graph import Graph
from distredge.model.layout import PARTIAL
from distredge.model.sub_model import Segment
from distredge.profiles.measuring.repeats import faster_half

_EDGE = {
    "ReorderInput": ("input_type_shape", "activation_size"),
    "ReorderOutput": ("output_type_shape", "output_size"),
}
"""ONNX Runtime's kernels that change the layout, and where the shape at the segment's edge is told, or its bytes."""

_OURS = re.compile(r"operator:(\d+)")
_MADE = re.compile(r"(?:_nchwc)?(?:_token_\d+)?_kernel_time$")


@dataclass(frozen=True)
class Sample:
    """What one measurement found.

    Attributes:
        total_s: (repeats,) seconds of whole runs.
        kernels_s: (repeats,) seconds in kernels, without changes of layout at the part's edge; the whole runs' where
            the provider tells none.
        operators: operator -> (repeats,) seconds in its kernels; one whose work another's kernel does is not there.
        kernels: how many ran, changes of layout at the edge included; 0 where the provider tells none.
        wall_s: (repeats,) seconds of whole runs by the wall clock; `total_s` where that is it.
    """

    total_s: NDArray[np.float64]
    kernels_s: NDArray[np.float64]
    operators: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)
    kernels: int = 0
    wall_s: NDArray[np.float64] | None = None

    @property
    def counts(self) -> NDArray[np.bool_]:
        """Which runs count, (repeats,): the half in which least came between, for all kernels the same."""
        return faster_half(self.total_s if self.wall_s is None else self.wall_s)


def named(model: bytes, graph: Graph) -> bytes:
    """Returns a sub-model in which every node has the name of its operator.

    Nodes that prepare an operator's inputs stand before it, and belong to it.
    """
    proto = onnx.ModelProto.FromString(model)
    waiting = []
    for node in proto.graph.node:
        waiting.append(node)
        made = [name.removesuffix(PARTIAL) for name in node.output]
        owner = next((graph.producer[name] for name in made if name in graph.producer), None)
        if owner is not None:
            for number, mine in enumerate(waiting):
                mine.name = f"operator:{_unfused(graph, owner)}:{number}:{owner}"
            waiting = []
    return bytes(proto.SerializeToString())


def is_kernel(event: Mapping[str, Any]) -> bool:
    """Whether an event of the profile is the run of a kernel."""
    return event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time")


def read_profile(
    events: Sequence[Mapping[str, Any]],
    graph: Graph,
    segment: Segment,
    added_s: float,
    own: NDArray[np.float64],
    wall: NDArray[np.float64],
) -> Sample:
    """Reads the profile of a segment that ran some times to warm up and then as often as there are times.

    Args:
        events: ONNX Runtime's, in order.
        graph: the model; the segment's nodes are named by `named`.
        segment: what ran.
        added_s: what the profiler adds to each kernel.
        own: (repeats,) seconds of the runs by the chosen clock.
        wall: (repeats,) the same by the wall clock.
    """
    runs: dict[str, list[float]] = {}
    details: dict[str, Mapping[str, Any]] = {}
    for event in filter(is_kernel, events):
        name = str(event["name"])
        runs.setdefault(name, []).append(max(0.0, float(event["dur"]) * 1e-6 - added_s))
        details.setdefault(name, event["args"])
    for name, times in runs.items():
        if len(times) < len(own):
            raise EngineError(f"ONNX Runtime's profile has {len(times)} runs of '{name}', not {len(own)}")
    seconds = dict(zip(runs, without_pauses([t[-len(own) :] for t in runs.values()], own, wall), strict=True))
    at_edge = _at_edge(details, segment)
    inner = [name for name in runs if name not in at_edge]
    owners = _owners(graph, [_owner(graph, name) for name in inner])
    operators: dict[int, NDArray[np.float64]] = {}
    total = np.zeros(len(own))
    for name, owner in zip(inner, owners, strict=True):
        total += seconds[name]
        if owner is not None:
            operators[owner] = operators.get(owner, 0.0) + seconds[name]
    return Sample(own, total, operators, len(runs), wall)


def without_pauses(
    kernels_s: Sequence[Sequence[float]], own: NDArray[np.float64], wall: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Takes out of kernels' times what other programs used the processor for meanwhile.

    A program that comes between does so in one kernel or two of a run, or between kernels, and there takes
    milliseconds. So a pause is taken from what was slower than in its fastest run. What that does not account for lay
    in kernels that never ran undisturbed, being long: of two kernels, four times as much in that of twice the length.

    Args:
        kernels_s: (kernels, repeats) seconds by the wall clock.
        own: (repeats,) seconds of the runs in which the processor was theirs.
        wall: (repeats,) the same by the wall clock.

    Returns:
        (kernels, repeats) seconds without pauses.
    """
    kernels = np.asarray(kernels_s, dtype=np.float64)
    if not kernels.size:
        return kernels
    spans = np.vstack([kernels, np.maximum(wall - kernels.sum(axis=0), 0.0)])
    paused = np.maximum(wall - own, 0.0)
    slower = spans - spans.min(axis=1, keepdims=True)
    spans = spans - slower * np.minimum(paused / np.maximum(slower.sum(axis=0), 1e-12), 1.0)
    rest = np.maximum(paused - slower.sum(axis=0), 0.0)
    shares = np.square(spans) / np.maximum(np.square(spans).sum(axis=0), 1e-24)
    found: NDArray[np.float64] = np.maximum(spans - rest * shares, 0.0)[:-1]
    return found


def _owner(graph: Graph, kernel: str) -> int | None:
    ours = _OURS.search(kernel)
    if ours is not None:
        return int(ours[1])
    made = graph.producer.get(_MADE.sub("", kernel))
    return None if made is None else _unfused(graph, made)


def _owners(graph: Graph, owners: Sequence[int | None]) -> list[int | None]:
    """Gives kernels without an owner to their neighbour: rather to one that is no convolution, rather to the next."""
    found: list[int | None] = []
    for place, owner in enumerate(owners):
        after = next((o for o in owners[place:] if o is not None), None)
        before = next((o for o in reversed(owners[:place]) if o is not None), None)
        if owner is None:
            cheap = [o for o in (after, before) if o is not None and not graph.macs[o]]
            owner = cheap[0] if cheap else after if after is not None else before
        found.append(owner)
    return found


def _at_edge(details: Mapping[str, Mapping[str, Any]], segment: Segment) -> set[str]:
    """Kernels that change the layout of an input or output of the segment."""
    found: set[str] = set()
    for kind, ports, order in (
        ("ReorderInput", segment.inputs, list(details)),
        ("ReorderOutput", segment.outputs, list(details)[::-1]),
    ):
        left = [(port.shape, str(math.prod(port.shape) * np.dtype(port.dtype).itemsize)) for port in ports]
        of_shape, of_size = _EDGE[kind]
        for name in order:
            if details[name].get("op_name") != kind:
                continue
            # ONNX Runtime 1.10 tells no shapes.
            shape, size = _shape(details[name], of_shape), details[name].get(of_size)
            port = next((p for p in left if p[0] == shape or (shape is None and p[1] == size)), None)
            if port is not None:
                left.remove(port)
                found.add(name)
    return found


def _shape(details: Mapping[str, Any], key: str) -> tuple[int, ...] | None:
    entries = details.get(key) or []
    return tuple(next(iter(entries[0].values()))) if entries else None


def _unfused(graph: Graph, index: int) -> int:
    return graph.fused_into.get(index, index)
