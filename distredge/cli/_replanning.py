"""What `deploy-strategy --replan` does when workers are lost: another strategy on those that are left."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import click

from distredge import metric_names
from distredge.errors import PlannerError, Unsupported
from distredge.model.wires import dtype_of

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.runtime.deployment import Deployment
    from distredge.strategy import Strategy

BUDGET_S = 1.0
SEARCHES = ("search", "auto")
"""Methods that need the compiled search: some seconds to load it, half a minute the first time on a computer."""


class Replanner:
    """Plans anew on the workers that are left; frames go on there.

    Planning packages are loaded, and kernel and search compiled, when it is made: not while frames wait.

    Args:
        problem: graph and cluster.
        strategy: the one that runs first; later ones send the input and their rows in the same types, pictures in
            their files where that still pays.
        method: planning method.

    Attributes:
        made: what was planned, in order: the workers that were lost by then, and the strategy.

    Raises:
        PlannerError: if there is no such method.
    """

    def __init__(self, problem: Problem, strategy: Strategy, method: str) -> None:
        from distredge.latency.kernel.kernel import warm
        from distredge.planners import resolve
        from distredge.planners.annealing.loading import load
        from distredge.planners.budget import Budget

        resolve(method)
        warm()
        shared = problem.cluster.link_model == "shared"
        wires = tuple(dict.fromkeys(v.wire if shared else dtype_of(v.wire) for v in strategy.volumes))
        self._problem = dataclasses.replace(
            problem,
            input_dtypes=(strategy.input.element_dtype,),
            wires=wires,
            allow_lossy=not strategy.lossless,
            boundary_first=any(volume.boundary_first for volume in strategy.volumes),
        )
        self._files = strategy.input if strategy.input.file else None
        self._devices = strategy.devices
        self._method = method
        if method in SEARCHES:
            with contextlib.suppress(Unsupported):
                load(self._problem, Budget(evaluations=1))
        self._lost: set[str] = set()
        self.made: list[tuple[tuple[str, ...], Strategy]] = []

    def __call__(self, lost: frozenset[str]) -> Deployment:
        """Returns the deployment for those that are left.

        Raises:
            PlannerError: if none is left, or the method does not apply to them.
        """
        from distredge.planners import plan
        from distredge.planners.common.jpeg_input import choose_input
        from distredge.runtime.deployment import deploy

        self._lost |= lost
        gone = tuple(sorted(self._lost))
        cluster = self._problem.cluster
        left = tuple(d for d in cluster.devices if d.name in self._devices and d.name not in self._lost)
        if not left:
            raise PlannerError(f"no worker is left: lost {', '.join(gone)}")
        requester = cluster.requester
        if requester.device not in {device.name for device in left}:
            requester = dataclasses.replace(requester, device=None)
        rest = dataclasses.replace(cluster, devices=left, requester=requester)
        problem = dataclasses.replace(self._problem, cluster=rest)
        strategy = plan(problem, self._method, BUDGET_S)
        if self._files is not None:
            strategy = choose_input(problem, strategy, self._files).strategy
        self.made.append((gone, strategy))
        click.echo(
            f"lost {', '.join(gone)}: goes on with {', '.join(strategy.devices)} "
            f"(predicted {1e3 * strategy.predicted[metric_names.LATENCY_S]:.2f} ms)",
            err=True,
        )
        return deploy(self._problem.graph, strategy)

    def figures(self) -> list[dict[str, Any]]:
        """What was planned, for machines."""
        return [
            {
                "lost": list(gone),
                "devices": list(strategy.devices),
                "predicted_latency_s": strategy.predicted[metric_names.LATENCY_S],
            }
            for gone, strategy in self.made
        ]
