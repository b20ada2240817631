"""What is asked: a model on a cluster, and what a plan may do."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from distredge.cluster import covering
from distredge.errors import ConfigError, UnsupportedModel, did_you_mean, located
from distredge.model.wires import EXACT_WIRES, INPUT_DTYPES, PLANNABLE_WIRES, VOLUME_WIRES

if TYPE_CHECKING:
    from distredge.cluster import Cluster
    from distredge.latency.costs.part_costs import PartCosts
    from distredge.model.graph import Graph

Objective = Literal["latency", "throughput", "energy"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "energy")


@dataclass(frozen=True, eq=False)
class Problem:
    """A model, a cluster, and the options that a planner may use.

    Attributes:
        graph: the model.
        cluster: the devices and their links.
        allow_lossy: whether outputs may differ from the whole model's beyond rounding (16-bit wires).
        input_dtypes: dtypes in which the requester may send the input.
        wires: dtypes in which rows may travel between volumes.
        boundary_first: whether a volume may compute and send first what others wait for.
        objective: "latency" of one image, "throughput" of many, or "energy" of one image.
        latency_limit_s: longest latency that a plan may have; None unlimited.
        respect_memory: whether plans must fit the devices' memory.
        free_order: whether a plan may take the devices in another order than the cluster's (rows from top to bottom)
            and leave some out of it; the published systems do not.

    Raises:
        ConfigError: if an option is not one of those.
        UnsupportedModel: if nothing of the model can be split.
    """

    graph: Graph
    cluster: Cluster
    allow_lossy: bool = False
    input_dtypes: tuple[str, ...] = ("float32",)
    wires: tuple[str, ...] = ("float32",)
    boundary_first: bool = False
    objective: Objective = "latency"
    latency_limit_s: float | None = None
    respect_memory: bool = False
    free_order: bool = True

    def __post_init__(self) -> None:
        _check_names("input_dtypes", self.input_dtypes, INPUT_DTYPES)
        for wire in self.wires:
            if wire in VOLUME_WIRES and wire not in PLANNABLE_WIRES:
                raise ConfigError(
                    located("problem", "wires", wire, " or ".join(map(repr, PLANNABLE_WIRES)))
                    + f": '{wire}' can be simulated from a strategy file, but neither planned nor run yet"
                )
        _check_names("wires", self.wires, PLANNABLE_WIRES)
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"problem: objective '{self.objective}'{did_you_mean(self.objective, OBJECTIVES)}")
        if not self.allow_lossy and not set(self.wires) <= set(EXACT_WIRES):
            raise ConfigError(located("problem", "wires", self.wires, f"{EXACT_WIRES}, or more with allow_lossy=True"))
        limit = self.latency_limit_s
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise ConfigError(located("problem", "latency_limit_s", limit, "a positive number of seconds, or None"))
        if not self.graph.cuts:
            raise UnsupportedModel(
                f"{self.graph.name}: none of its operators can be split by rows, so that no method can distribute it; "
                "`distredge show` says why of each"
            )
        object.__setattr__(self, "cluster", covering(self.cluster, self.graph))
        object.__setattr__(self, "_costs", {})

    def __repr__(self) -> str:
        return f"Problem({self.graph.name} on {self.cluster.name})"

    def __getstate__(self) -> dict[str, Any]:
        # What is derived is cheap to derive again and may hold compiled code.
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _costs={})

    def part_costs(self, device: str) -> PartCosts:
        """Returns what computing costs on a device; devices of one profile share it.

        Raises:
            ClusterError: if the cluster has no such device.
        """
        from distredge.latency.costs.part_costs import PartCosts

        profile = self.cluster.device(device).profile
        costs: dict[int, PartCosts] = self.__dict__["_costs"]
        if id(profile) not in costs:
            costs[id(profile)] = PartCosts(self.graph, profile)
        return costs[id(profile)]

    @functools.cached_property
    def offload_latency_s(self) -> float:
        """Latency of the whole model on the best single device.

        Raises:
            Infeasible: if no device can be reached.
        """
        from distredge.latency.simulator.offload import offload

        return offload(self)[1]


def _check_names(key: str, found: tuple[str, ...], accepted: tuple[str, ...]) -> None:
    if not found:
        raise ConfigError(located("problem", key, found, f"at least one of {', '.join(accepted)}"))
    for name in found:
        if name not in accepted:
            raise ConfigError(f"problem: {key}: '{name}'{did_you_mean(name, accepted)}")
