"""HALP's dynamic model selection: the most accurate model that meets a deadline over the channel at hand.

Li, Iosifidis and Zhang, ICC 2022 (arXiv 2207.11294), and the prototype of Dong et al. (arXiv 2211.13778), which shrinks
MobileNet-V1 by width multiplier and resolution. A request takes T_offload (the image over a wireless channel whose
rate varies) + T_infer (on the cluster). Reliability is the share of requests that meet the deadline; with selection,
each request takes the most accurate variant that is predicted to meet it, and fails if none does.

Decided here: the rate of a request is known when its variant is chosen, as the rule needs; the channel is that of
`planners.deadline_reliability`. Accuracies are ImageNet top-1 as published (Howard et al., "MobileNets", arXiv
1704.04861, tables 6 and 7).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import ConfigError, FileError, located
from distredge.planners.deadline_reliability import Channel

if TYPE_CHECKING:
    from distredge.cluster import Cluster

MOBILENET_V1: Mapping[str, float] = {
    "mobilenet-v1-1.0-224": 0.706,
    "mobilenet-v1-1.0-192": 0.691,
    "mobilenet-v1-0.75-224": 0.684,
    "mobilenet-v1-1.0-160": 0.672,
    "mobilenet-v1-1.0-128": 0.644,
    "mobilenet-v1-0.5-224": 0.637,
    "mobilenet-v1-0.25-224": 0.506,
}
"""Zoo name -> ImageNet top-1 accuracy."""


@dataclass(frozen=True)
class Variant:
    """One model to choose from.

    Attributes:
        name: of the model.
        accuracy: 0 to 1.
        inference_s: seconds from the arrival of the image to the result.
        image_bytes: what the request offloads.
    """

    name: str
    accuracy: float
    inference_s: float
    image_bytes: float

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise ConfigError(located(f"variant '{self.name}'", "accuracy", self.accuracy, "a share from 0 to 1"))
        for key, value in (("inference_s", self.inference_s), ("image_bytes", self.image_bytes)):
            if not (np.isfinite(value) and value >= 0):
                raise ConfigError(located(f"variant '{self.name}'", key, value, "a finite number >= 0"))

    def total_s(self, rate_bps: float) -> float:
        """Offloading at a rate, then inference."""
        return 8.0 * self.image_bytes / rate_bps + self.inference_s


@dataclass(frozen=True)
class Reliability:
    """What a channel's requests got.

    Attributes:
        met: share that met the deadline.
        mean_accuracy: of those that met it; 0 when none did.
        chosen: share of all requests that took each variant.
    """

    met: float
    mean_accuracy: float
    chosen: Mapping[str, float]


def choose(variants: Sequence[Variant], deadline_s: float, rate_bps: float) -> Variant | None:
    """The most accurate variant that meets the deadline at a rate, the fastest among equals; None when none does."""
    fitting = [v for v in variants if v.total_s(rate_bps) <= deadline_s]
    return max(fitting, key=lambda v: (v.accuracy, -v.total_s(rate_bps)), default=None)


def reliability(
    variants: Sequence[Variant], deadline_s: float, channel: Channel, trials: int = 10_000, seed: int = 0
) -> Reliability:
    """Draws a rate for each request and chooses its variant; with one variant that is the system without selection.

    Args:
        variants: at least one.
        deadline_s: longest time allowed.
        channel: between requester and cluster.
        trials: requests.
        seed: of the rates.
    """
    if not variants or trials < 1:
        raise ConfigError(
            f"selection: found {len(variants)} variants and {trials} trials, accepted: at least 1 of each"
        )
    rates = channel.draw(trials, np.random.default_rng(seed))
    total_s = np.array([8.0 * v.image_bytes / rates + v.inference_s for v in variants])
    accuracy = np.array([v.accuracy for v in variants])
    fits = total_s <= deadline_s
    rank = np.where(fits, accuracy[:, None] - 1e-9 * total_s, -1.0)
    best = rank.argmax(axis=0)
    met = fits.any(axis=0)
    shares = {v.name: float(np.mean(met & (best == i))) for i, v in enumerate(variants)}
    mean = float(accuracy[best[met]].mean()) if met.any() else 0.0
    return Reliability(float(met.mean()), mean, shares)


def variants_on(
    cluster: Cluster, accuracies: Mapping[str, float] = MOBILENET_V1, method: str = "halp", budget_s: float = 1.0
) -> tuple[Variant, ...]:
    """Plans every model of a table on a cluster.

    The image offloaded is the float32 input of the model; its time on the cluster's own links is part of `inference_s`.

    Args:
        cluster: devices and links.
        accuracies: zoo name, file or callable -> accuracy.
        method: planner of every variant.
        budget_s: seconds for each.
    """
    from distredge.model.capture import load_model
    from distredge.planners import plan
    from distredge.problem import Problem

    found = []
    for name, accuracy in accuracies.items():
        graph = load_model(name)
        strategy = plan(Problem(graph, cluster), method, budget_s)
        size = sum(graph.tensors[n].size_bytes for n in graph.input_names)
        found.append(Variant(name, accuracy, strategy.predicted["latency_s"], float(size)))
    return tuple(found)


def read_accuracies(path: str | Path) -> dict[str, float]:
    """Reads a user's own table: CSV with the columns `model` and `accuracy` (0 to 1).

    Raises:
        FileError: naming file, row and column.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot read the table: {getattr(error, 'strerror', None) or error}") from error
    if not rows or not {"model", "accuracy"} <= set(rows[0]):
        found = sorted(str(key) for key in rows[0]) if rows else "no rows"
        raise FileError(located(path, "columns", found, "model, accuracy"))
    table = {}
    for number, row in enumerate(rows, start=2):
        try:
            accuracy = float(row["accuracy"])
        except (TypeError, ValueError):
            accuracy = -1.0
        if not 0 <= accuracy <= 1:
            raise FileError(located(path, f"row {number}, accuracy", row["accuracy"], "a number from 0 to 1"))
        table[row["model"]] = accuracy
    return table
