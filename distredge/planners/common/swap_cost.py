"""What going over to another plan costs: the seconds until it could run.

Every worker needs the constants that it lacks, which the requester sends to all of them at a time, and then loads the
sub-models that it has not loaded yet, one after the other. Workers do so beside each other: the slowest counts. What
is loaded is told by the names of sub-models (`model.model_digest`), as the workers themselves tell it.

A sub-model takes as long as it has operators: a volume of thirty is not loaded, let alone built, in the time of one of
three. What an operator takes is measured, on each worker, where it loaded the plan before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from distredge.latency.costs.links import ClusterLinks
from distredge.model import model_digest
from distredge.model.segments import weight_store

if TYPE_CHECKING:
    from distredge.cluster import Cluster
    from distredge.model.graph import Graph
    from distredge.model.segments import DeviceProgram


@dataclass(frozen=True)
class Held:
    """What a worker has already.

    Attributes:
        models: names of the sub-models that it has loaded.
        weights: content hashes of the constants that it has in memory.
    """

    models: frozenset[bytes] = frozenset()
    weights: frozenset[str] = frozenset()

    @classmethod
    def of(cls, program: DeviceProgram) -> Held:
        """What a worker has that runs a program."""
        return cls(frozenset(_names(program)), program.weights)


@dataclass(frozen=True)
class Needs:
    """What a worker still needs for a program.

    Attributes:
        operators: of the sub-models that it has to load.
        size_bytes: of the constants and of the sub-models that are sent to it.
    """

    operators: int
    size_bytes: int


def needs(graph: Graph, program: DeviceProgram, held: Held) -> Needs:
    """Returns what a worker that has something already needs for a program.

    Sub-models are sent in any case, being small; which of them have to be loaded depends on what is there.
    """
    lacking = [array.nbytes for name, array in weight_store(graph, program).items() if name not in held.weights]
    models_bytes = sum(len(segment.model) for segment in program.segments)
    new = {name: segment.model for name, segment in zip(_names(program), program.segments, strict=True)}
    count = sum(operators(model) for name, model in new.items() if name not in held.models)
    return Needs(count, sum(lacking) + models_bytes)


def operators(model: bytes) -> int:
    """Returns how many operators a serialised sub-model has."""
    return len(onnx.load_model_from_string(model).graph.node)


def swap_s(cluster: Cluster, needed: Mapping[str, Needs], operator_s: Mapping[str, float]) -> float:
    """Seconds until a plan could run.

    Constants to all workers share the requester's uplink: none is reckoned to have its own before all could have come
    through there. A link whose rate varies counts with its mean; one that is down takes for ever.

    Args:
        cluster: whose links it is.
        needed: device -> what its worker needs; devices without work are left out.
        operator_s: device -> seconds in which its worker loads an operator of a sub-model.

    Raises:
        ClusterError: if a device is not in the cluster.
    """
    devices = tuple(needed)
    links, requester = ClusterLinks.of(cluster, devices), len(devices)
    sent_to = [k for k in range(requester) if links.crosses(requester, k)]
    total_bits = 8.0 * sum(needed[devices[k]].size_bytes for k in sent_to)
    up_s = _seconds(total_bits, links.up[requester].mean_bps)
    longest_s = 0.0
    for k, name in enumerate(devices):
        sent_s = 0.0
        if k in sent_to:
            sent_s = max(up_s, _seconds(8.0 * needed[name].size_bytes, links.down[k].mean_bps))
        longest_s = max(longest_s, sent_s + needed[name].operators * operator_s[name])
    return longest_s


def _seconds(bits: float, rate_bps: float | None) -> float:
    if bits == 0 or rate_bps is None:
        return 0.0
    return bits / rate_bps if rate_bps > 0 else math.inf


def _names(program: DeviceProgram) -> Iterable[bytes]:
    return (model_digest(segment.model, segment.weights, segment.ranges) for segment in program.segments)
