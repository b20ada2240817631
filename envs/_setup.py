"""Arguments that environments share: models, clusters and partition schemes, taken in and checked."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np

from distredge.cluster import Cluster, load_cluster
from distredge.errors import ConfigError, did_you_mean, located
from distredge.model.graph import Graph
from distredge.problem import Problem

Model = str | Path | Graph
Models = Model | Sequence[Model]
Clusters = str | Path | Cluster | Sequence[str | Path | Cluster]


def check_choice(where: str, key: str, found: object, accepted: Iterable[str]) -> None:
    """Raises ConfigError, with the closest accepted value, unless `found` is one of `accepted`."""
    names = list(accepted)
    if found not in names:
        raise ConfigError(f"{where}: {key}: found {found!r}{did_you_mean(str(found), names)}")


def check_options(where: str, options: object, accepted: Iterable[str]) -> dict[str, Any]:
    """Returns the options of a reset as a new dict, or raises ConfigError unless all of their names are accepted."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ConfigError(located(where, "options", options, f"a dict with any of {', '.join(accepted)}"))
    for key in options:
        check_choice(where, "options", key, accepted)
    return dict(options)


def is_number(value: object) -> bool:
    """Whether something is one finite real number, and neither a boolean nor text."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (SupportsFloat, np.ndarray)):
        return False
    array = np.asarray(value)
    return array.shape == () and array.dtype.kind in "iuf" and bool(np.isfinite(array))


def check_partition(where: str, graph: Graph, partition: Sequence[int]) -> tuple[int, ...]:
    """Returns a partition scheme, indices into `graph.cuts`, or raises ConfigError."""
    found = tuple(int(index) for index in partition)
    last = len(graph.cuts) - 1
    if not found or found[0] < 0 or found[-1] != last or any(a >= b for a, b in itertools.pairwise(found)):
        raise ConfigError(located(where, "partition", list(found), f"rising indices of cuts, the last one {last}"))
    return found


def load_models(where: str, model: Models) -> tuple[Graph, ...]:
    """Returns the graphs of a zoo name, a path or a graph, or of a sequence of them.

    Raises:
        ConfigError: if there is none.
    """
    given = [model] if isinstance(model, (str, Path, Graph)) else list(model)
    if not given:
        raise ConfigError(located(where, "model", given, "a zoo name, a path or a graph, or at least one of them"))
    from distredge.model.capture import load_model as load

    return tuple(item if isinstance(item, Graph) else load(item) for item in given)


def load_problems(where: str, graphs: Sequence[Graph], cluster: Clusters, input_dtype: str) -> tuple[Problem, ...]:
    """Returns the problem of each model on each cluster, all clusters of the first model first.

    Raises:
        ConfigError: unless there is a cluster, and all have at least 2 devices.
    """
    given = [cluster] if isinstance(cluster, (str, Path, Cluster)) else list(cluster)
    clusters = [item if isinstance(item, Cluster) else load_cluster(item, graphs) for item in given]
    if not clusters or min(len(item.devices) for item in clusters) < 2:
        found = {item.name: len(item.devices) for item in clusters}
        raise ConfigError(located(where, "cluster", found, "clusters of at least 2 devices"))
    return tuple(Problem(graph, item, input_dtypes=(input_dtype,)) for graph in graphs for item in clusters)


def longest_period_s(cluster: Cluster) -> float:
    """Period of the longest trace on a cluster's links; 0 when all rates are constant."""
    requester, devices = cluster.requester, cluster.devices
    links = [requester.uplink, requester.downlink, *(d.uplink for d in devices), *(d.downlink for d in devices)]
    return max((link.trace.period_s for link in links if link.trace is not None), default=0.0)
