"""From a draft of the fidelity campaign to a strategy, and the picture that it is run on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import DistredgeError
from distredge.experiments.common.exact import relative_error, run_whole
from distredge.experiments.common.fidelity_draw import Draft
from distredge.model.graph import Graph
from distredge.planners import plan
from distredge.problem import Problem
from distredge.profiles.modelled import profile_rows
from distredge.strategy import Strategy

EVALUATIONS = 20_000
"""Strategies that a planner may price: the result depends on the seed alone."""

EPISODES = 200
"""The same of `distredge`, which trains an agent meanwhile."""

_MOST_VOLUMES = 5
_SPREAD = 0.4
_LEAST_ROWS = 4
"""A volume of fewer rows for each board is not drawn: whoever gets none there would be what is measured."""


def make_strategy(problem: Problem, draft: Draft) -> Strategy:
    """The strategy of a draft; a planner that does not apply is replaced by a random one, whose method says so.

    Published methods plan without wires and overlap, which are laid over what they found; grids of tiles stay as they
    are, because they cannot send their boundary first.
    """
    strategy = None
    if draft.method != "random":
        try:
            evaluations = EPISODES if draft.method == "distredge" else EVALUATIONS
            strategy = plan(problem, draft.method, seed=draft.seed, evaluations=evaluations)
        except DistredgeError:
            strategy = None
    if strategy is None:
        strategy = random_strategy(problem, draft.seed)
    grid = any(volume.columns is not None for volume in strategy.volumes)
    volumes = tuple(
        dataclasses.replace(volume, wire=draft.wire, boundary_first=draft.boundary_first and not grid)
        for volume in strategy.volumes
    )
    pixels = draft.input_dtype != "uint8" or problem.graph.preprocess is not None
    dtype = draft.input_dtype if pixels else "float32"
    return strategy.replace(volumes=volumes, input=dataclasses.replace(strategy.input, dtype=dtype), predicted={})


def random_strategy(problem: Problem, seed: int) -> Strategy:
    """Two to five volumes at random cuts, rows about as the boards' speeds have it, any of them the head."""
    rng = np.random.default_rng(seed)
    graph, names = problem.graph, problem.cluster.names
    last = len(graph.cuts) - 1
    tall = [k for k in range(last) if graph.cuts[k].height >= _LEAST_ROWS * min(len(names), 4)]
    count = min(int(rng.integers(1, _MOST_VOLUMES)), len(tall))
    ends = [*sorted(int(k) for k in rng.choice(tall, count, replace=False)), last] if tall else [last]
    speeds = np.array([1.0 / whole_s(problem, k) for k in range(len(names))])
    shares = speeds * np.exp(_SPREAD * rng.standard_normal(len(names)))
    volumes = []
    for end in ends:
        shaken = shares * np.exp(0.3 * _SPREAD * rng.standard_normal(len(names)))
        points = np.concatenate(([0.0], np.cumsum(shaken / shaken.sum())))
        volumes.append((end, [round(point * graph.cuts[end].height) for point in points]))
    head = names[int(rng.choice(len(names), p=speeds / speeds.sum()))]
    return Strategy.make(graph, names, volumes, head=head, method="random", seed=seed)


def whole_s(problem: Problem, device: int) -> float:
    """Seconds that a device takes for all operators of the model."""
    profile = problem.cluster.devices[device].profile
    return sum(profile.operator_s(s, profile_rows(s)) for s in problem.graph.signatures if s is not None)


def computing(strategy: Strategy) -> int:
    """Number of devices that compute rows in some volume."""
    busy = set()
    for volume in strategy.volumes:
        columns = 1 if volume.columns is None else len(volume.columns) - 1
        for k in range(len(strategy.devices)):
            row, column = divmod(k, columns)
            across = volume.columns is None or volume.columns[column + 1] > volume.columns[column]
            if across and volume.rows[row + 1] > volume.rows[row]:
                busy.add(strategy.devices[k])
    return len(busy)


def inputs_for(graph: Graph, strategy: Strategy) -> dict[str, NDArray[Any]]:
    """A photograph as the strategy sends it; seeded noise where the model does not say how a picture enters it."""
    if graph.preprocess is None or len(graph.input_names) != 1:
        rng = np.random.default_rng(0)
        return {
            name: rng.standard_normal(shape).astype(graph.tensors[name].dtype)
            for name, shape in zip(graph.input_names, graph.input_shapes, strict=True)
        }
    from distredge.media.images import read_image

    prepared = graph.preprocess.prepare(read_image(photograph()))
    return {graph.input_names[0]: prepared if strategy.input.pixels else graph.preprocess.normalise(prepared)}


def error_of(
    graph: Graph, strategy: Strategy, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
) -> float:
    """How far outputs are from the whole model's, relative to its largest value.

    Args:
        graph: the model.
        strategy: that gave the outputs.
        inputs: as `inputs_for` made them.
        outputs: output name -> array.
    """
    given = dict(inputs)
    if strategy.input.pixels and graph.preprocess is not None:
        given = {name: graph.preprocess.normalise(pixels) for name, pixels in inputs.items()}
    return relative_error(run_whole(graph, given), outputs)


@functools.cache
def photograph() -> Path:
    """The photograph of Grace Hopper that matplotlib ships (public domain, U.S. Navy)."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
