"""What an agent sees of a cluster and of the next volume, scaled to [-1, 1] by fixed ranges."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distredge.cluster import Link
    from distredge.model.graph import Graph
    from distredge.problem import Problem

MAX_HEIGHT = 4096
MAX_CHANNELS = 4096
MAX_KERNEL = 15
MAX_STRIDE = 8

MAX_MACS, MIN_MACS = 1e12, 1e6
MAX_BYTES, MIN_BYTES = 1e9, 1e3

LAYER_FEATURES = 4
"""Height, channels, kernel and stride."""

MODEL_FEATURES = 5
"""Of the model: its multiply-adds, the head's share, those behind, those of the next volume, bytes between."""


def scale_time(time_s: NDArray[np.float64], unit_s: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Maps seconds to [-1, 1]: x / (1 + x) of x = time / unit, doubled, minus 1.

    Args:
        time_s: (n_envs, n_devices) or (n_devices,), from 0 to infinity.
        unit_s: the time that becomes 0: one for all, or (n_envs, 1).

    Returns:
        float64 shaped like `time_s`.
    """
    x = np.asarray(time_s, np.float64) / unit_s
    with np.errstate(invalid="ignore"):
        share = np.where(np.isinf(x), 1.0, x / (1.0 + x))
    return 2.0 * share - 1.0


def layer_features(graph: Graph, tensor_name: str) -> NDArray[np.float64]:
    """Height, channels, kernel and stride of the layer that makes a tensor, (4,) float64, each in [-1, 1].

    Height and channels on a logarithmic scale up to 4096, the kernel's and the stride's rows on a linear one up to 15
    and 8; larger values are cut off. What has no window, such as the graph's input, counts as kernel and stride 1.
    """
    tensor = graph.tensors[tensor_name]
    maker = graph.producer.get(tensor_name)
    signature = None if maker is None else graph.signatures[graph.fused_into.get(maker, maker)]
    kernel = signature.kernel[0] if signature is not None and signature.kernel else 1
    stride = signature.strides[0] if signature is not None and signature.strides else 1
    channels = tensor.shape[1] if len(tensor.shape) > 1 else 1
    shares = [
        math.log2(tensor.height) / math.log2(MAX_HEIGHT),
        math.log2(channels) / math.log2(MAX_CHANNELS),
        kernel / MAX_KERNEL,
        stride / MAX_STRIDE,
    ]
    return 2.0 * np.clip(shares, 0.0, 1.0) - 1.0


def model_features(graph: Graph, places: Sequence[int]) -> NDArray[np.float64]:
    """What tells one model from another, at each place where a volume may begin.

    Args:
        graph: the model.
        places: (n_places,) cut before each, rising; -1 is the input.

    Returns:
        (n_places, MODEL_FEATURES) float64 in [-1, 1]: multiply-adds of the whole model, on a logarithmic scale from
        10^6 to 10^12; the share of them that the head has; of the body's, the share that is behind, and the share up to
        the next place (0 at the last one); bytes of the feature maps that are alive there, as float32, on a
        logarithmic scale from 10^3 to 10^9. What lies outside is cut off.
    """
    macs = np.array([graph.macs[index] for index in graph.body.operators], np.float64)
    behind = np.concatenate(([0.0], np.cumsum(macs)))[[graph.cuts[c].position if c >= 0 else 0 for c in places]]
    body, head = max(macs.sum(), 1.0), float(sum(graph.macs[index] for index in graph.body.head))
    alive = [graph.input_names if c < 0 else graph.cuts[c].tensors for c in places]
    sizes = np.array([max(4.0 * sum(graph.tensors[name].elements for name in names), 1.0) for names in alive])
    columns = [
        np.full(len(places), math.log(max(body + head, 1.0) / MIN_MACS) / math.log(MAX_MACS / MIN_MACS)),
        np.full(len(places), head / (body + head)),
        behind / body,
        np.append(np.diff(behind), 0.0) / body,
        np.log(sizes / MIN_BYTES) / math.log(MAX_BYTES / MIN_BYTES),
    ]
    shares: NDArray[np.float64] = np.clip(np.stack(columns, axis=1), 0.0, 1.0)
    return 2.0 * shares - 1.0


def compute_times(problem: Problem) -> NDArray[np.float64]:
    """Seconds of every operator of the whole model on each device, one after the other, (n_devices,) float64."""
    signatures = [s for s in problem.graph.signatures if s is not None]
    return np.array([sum(float(d.profile.operator_s(s, s.rows)) for s in signatures) for d in problem.cluster.devices])


def reach_times(problem: Problem, start_s: float = 0.0) -> NDArray[np.float64]:
    """Seconds in which the model's input gets to each device, (n_devices,) float64; infinite where a link is down.

    At the smaller of the rates of the requester's uplink and the device's downlink at `start_s`.
    """
    graph, cluster = problem.graph, problem.cluster
    bits = 8.0 * sum(graph.tensors[name].size_bytes for name in graph.input_names)
    own = _rate(cluster.requester.uplink, start_s)
    rates = np.array([min(own, _rate(device.downlink, start_s)) for device in cluster.devices])
    with np.errstate(divide="ignore"):
        return bits / rates


def _rate(link: Link, start_s: float) -> float:
    if link.trace is not None:
        return link.trace.rate_at(start_s)
    return math.inf if link.rate_bps is None else link.rate_bps
