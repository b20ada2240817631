"""What is asked: a model on a cluster, and what a plan may do.

Which options go together is decided here: `Problem.lossless` is what commands, environments and experiments plan under
unless they are told otherwise, `Problem.as_published` what the published systems had.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from distredge.cluster import covering
from distredge.errors import ConfigError, UnsupportedModel, did_you_mean, located
from distredge.model.wires import (
    EXACT_WIRES,
    PACKED_WIRES,
    PLANNABLE_INPUTS,
    PLANNABLE_WIRES,
    VOLUME_WIRES,
    WIRE_BYTES,
    offered_wires,
)

if TYPE_CHECKING:
    from distredge.cluster import Cluster, LinkModel
    from distredge.model.graph import Graph

Objective = Literal["latency", "throughput", "energy"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "energy")


@dataclass(frozen=True, eq=False)
class Problem:
    """A model, a cluster, and the options that a planner may use.

    Made plainly it offers float32 in and between, and what else is named; `lossless` offers all that leaves the output
    unchanged.

    Attributes:
        graph: the model.
        cluster: the devices and their links.
        allow_lossy: whether outputs may differ from the whole model's beyond rounding (16-bit wires).
        input_dtypes: dtypes in which the requester may send the input.
        wires: in what rows may travel between volumes; packed under shared links alone.
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
        _check_names("input_dtypes", self.input_dtypes, PLANNABLE_INPUTS)
        for wire in self.wires:
            if wire in VOLUME_WIRES and wire not in PLANNABLE_WIRES:
                raise ConfigError(
                    located("problem", "wires", wire, " or ".join(map(repr, PLANNABLE_WIRES)))
                    + f": '{wire}' can be simulated from a strategy file, but neither planned nor run yet"
                )
        _check_names("wires", self.wires, PLANNABLE_WIRES)
        if self.cluster.link_model == "independent":
            for wire in self.wires:
                if wire in PACKED_WIRES:
                    accepted = " or ".join(map(repr, offered_wires(self.allow_lossy, shared_links=False)))
                    raise ConfigError(
                        located("problem", "wires", wire, accepted)
                        + ": what packing costs the processor is priced under shared links alone"
                    )
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

    def __repr__(self) -> str:
        return f"Problem({self.graph.name} on {self.cluster.name})"

    @classmethod
    def lossless(cls, graph: Graph, cluster: Cluster, **options: Any) -> Problem:
        """Returns the problem with every option that leaves the output unchanged.

        The input may travel as uint8 pixels where the model says how they become its input, rows in every exact wire,
        what others wait for is computed and sent first, and devices stand in any order or are left out. Packed
        wires are left out under independent links, where nobody prices what packing costs.

        Args:
            graph: the model.
            cluster: the devices and their links.
            **options: of `Problem`, in place of these; with `allow_lossy` every wire that can be planned is offered.

        Raises:
            ConfigError, UnsupportedModel: as `Problem`.
        """
        offered: dict[str, Any] = {
            "input_dtypes": ("uint8", "float32") if takes_pixels(graph) else ("float32",),
            "wires": offered_wires(options.get("allow_lossy", False), cluster.link_model == "shared"),
            "boundary_first": True,
            "free_order": True,
        }
        return cls(graph, cluster, **{**offered, **options})

    @classmethod
    def as_published(
        cls, graph: Graph, cluster: Cluster, link_model: LinkModel = "independent", **options: Any
    ) -> Problem:
        """Returns the problem as the published systems have it: float32 in and between, all devices in their order.

        Links are independent unless another model is given, and nothing is computed first: `planners.OVERLAPPING` names
        the methods that are about that.

        Args:
            graph: the model.
            cluster: the devices; its own link model is left aside.
            link_model: of the links.
            **options: of `Problem`, in place of these.

        Raises:
            ConfigError, UnsupportedModel: as `Problem`.
        """
        return cls(graph, replace(cluster, link_model=link_model), **{"free_order": False, **options})

    @property
    def regime(self) -> str:
        """What a table's title calls the options: "as published", "lossless" or "lossy"."""
        if self.allow_lossy:
            return "lossy"
        plain = self.input_dtypes == ("float32",) and self.wires == ("float32",)
        return "as published" if plain and not self.free_order else "lossless"

    @property
    def options_in_words(self) -> str:
        """The options that every method has, for people."""
        words = [
            f"{min(self.input_dtypes, key=WIRE_BYTES.__getitem__)} input",
            f"{' or '.join(self.wires)} between volumes",
        ]
        words += ["boundary rows first"] if self.boundary_first else []
        words += ["any order and subset of the devices" if self.free_order else "devices in the cluster's order"]
        return ", ".join(words)

    @property
    def options(self) -> dict[str, Any]:
        """The same for machines, with the regime."""
        return {
            "regime": self.regime,
            "input_dtypes": list(self.input_dtypes),
            "wires": list(self.wires),
            "boundary_first": self.boundary_first,
            "free_order": self.free_order,
        }


def takes_pixels(graph: Graph) -> bool:
    """Whether the input may be sent as uint8 pixels: the model says how one image becomes its one float32 input."""
    if graph.preprocess is None or len(graph.input_names) != 1:
        return False
    return graph.tensors[graph.input_names[0]].dtype == "float32" and graph.preprocess.shape == graph.input_shapes[0]


def _check_names(key: str, found: tuple[str, ...], accepted: tuple[str, ...]) -> None:
    if not found:
        raise ConfigError(located("problem", key, found, f"at least one of {', '.join(accepted)}"))
    for name in found:
        if name not in accepted:
            raise ConfigError(f"problem: {key}: '{name}'{did_you_mean(name, accepted)}")
