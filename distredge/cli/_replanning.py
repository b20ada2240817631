"""What `deploy-strategy --replan` does when workers are lost: another strategy on those that are left.

Which one depends on what they have loaded. The plan made from scratch is the fastest, and may take long until it can
run: with TensorRT every sub-model that is new is an engine to build, for minutes. Beside it stand the plans that keep
the cuts and deal out the lost rows (`planners.common.dealing`). Taken is the one with which the frames that are still
to come are done soonest, the seconds until it can run included (`planners.common.swap_cost`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import click

from distredge import metric_names
from distredge.errors import ExecutionError, InputError, PlannerError, Unsupported
from distredge.model.wires import dtype_of

if TYPE_CHECKING:
    from distredge.model.segments import DeviceProgram
    from distredge.planners.common.swap_cost import Held
    from distredge.problem import Problem
    from distredge.runtime.deployment import Deployment
    from distredge.runtime.requester.coordinator import Coordinator
    from distredge.strategy import Strategy

BUDGET_S = 1.0
SEARCHES = ("search", "auto")
"""Methods that need the compiled search: some seconds to load it, half a minute the first time on a computer."""

HORIZON_S: Final = 60.0
"""For how long frames are reckoned to come where nobody knows how many there are: from a camera, or a list that grows.
As many as the fastest plan runs in that time."""


AT_ONCE_S: Final = 1.0
"""Where the plan made from scratch can run within that, no other is looked at: that could take as long."""


@dataclass(frozen=True)
class Replanned:
    """What was planned anew, once.

    Attributes:
        lost: the workers that were lost by then.
        strategy: what goes on without them.
        deployment: of that.
        taken: "planned" from scratch, or "dealt": the cuts as they were, the lost rows dealt out.
        swap_s: seconds that are predicted until it can run; None where it is not known what the workers have.
        frames: that were reckoned to come.
    """

    lost: tuple[str, ...]
    strategy: Strategy
    deployment: Deployment
    taken: Literal["planned", "dealt"]
    swap_s: float | None = None
    frames: float | None = None

    def __str__(self) -> str:
        how = "planned anew" if self.taken == "planned" else "the lost rows dealt out anew"
        until = "" if self.swap_s is None else f", about {self.swap_s:.1f} s until it runs"
        latency_ms = 1e3 * self.strategy.predicted[metric_names.LATENCY_S]
        devices = ", ".join(self.strategy.devices)
        return f"lost {', '.join(self.lost)}: goes on with {devices} (predicted {latency_ms:.2f} ms; {how}{until})"


class Replanner:
    """Plans anew on the workers that are left; frames go on there.

    Planning packages are loaded, and kernel and search compiled, when it is made: not while frames wait.

    Args:
        problem: graph and cluster.
        strategy: the one that runs first; later ones send the input and their rows in the same types, pictures in
            their files where that still pays.
        method: planning method.

    Attributes:
        made: what was planned, in order.

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
        self._coordinator: Coordinator | None = None
        self._frames_left: Callable[[], int | None] = lambda: None
        self._weights: dict[str, set[str]] = {}
        self.made: list[Replanned] = []

    def follow(self, coordinator: Coordinator, frames_left: Callable[[], int | None]) -> None:
        """Notes where the strategy runs: only then is it known what the workers have, and in what time they load.

        Args:
            coordinator: which asks for another plan when workers are lost.
            frames_left: returns how many frames are still to end; None if nobody knows. Called by any thread.
        """
        self._coordinator, self._frames_left = coordinator, frames_left

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
        problem = self._rest(gone)
        strategy = plan(problem, self._method, BUDGET_S)
        if self._files is not None and self._all_decode(problem):
            strategy = choose_input(problem, strategy, self._files).strategy
        running = self._running()
        if running is None:
            chosen = Replanned(gone, strategy, deploy(problem.graph, strategy), "planned")
        else:
            chosen = self._soonest(problem, gone, strategy, running)
        self.made.append(chosen)
        click.echo(str(chosen), err=True)
        return chosen.deployment

    def figures(self) -> list[dict[str, Any]]:
        """What was planned, for machines."""
        coordinator = self._coordinator
        return [
            {
                "lost": list(one.lost),
                "devices": list(one.strategy.devices),
                "taken": one.taken,
                "predicted_latency_s": one.strategy.predicted[metric_names.LATENCY_S],
                "frames_to_come": one.frames,
                # Infinite where the cluster file says that a link is down: JSON has no such number.
                "predicted_swap_s": one.swap_s if one.swap_s is not None and math.isfinite(one.swap_s) else None,
                "prepared_s": None if coordinator is None else coordinator.took_s(one.deployment),
            }
            for one in self.made
        ]

    def _rest(self, gone: Sequence[str]) -> Problem:
        """The problem without the workers that are lost."""
        cluster = self._problem.cluster
        left = tuple(d for d in cluster.devices if d.name in self._devices and d.name not in self._lost)
        if not left:
            raise PlannerError(f"no worker is left: lost {', '.join(gone)}")
        requester = cluster.requester
        if requester.device not in {device.name for device in left}:
            requester = dataclasses.replace(requester, device=None)
        return dataclasses.replace(
            self._problem, cluster=dataclasses.replace(cluster, devices=left, requester=requester)
        )

    def _all_decode(self, problem: Problem) -> bool:
        """Whether pictures may travel in their files, whichever of the workers that are left get them."""
        coordinator = self._coordinator
        return coordinator is None or all(coordinator.decodes_files(name) for name in problem.cluster.names)

    def _running(self) -> Deployment | None:
        """What the workers have loaded: the plan that broke stays with them until another one stands."""
        if self._coordinator is None:
            return None
        try:
            return self._coordinator.deployment
        except ExecutionError:
            return None

    def _soonest(self, problem: Problem, gone: tuple[str, ...], planned: Strategy, running: Deployment) -> Replanned:
        """Of the plans that there are, the one with which the frames to come are done soonest."""
        held, operator_s = self._held(running), self._operator_s(running)
        made = self._priced(problem, planned, held, operator_s)
        planned_s, left = self._frame_s(problem, planned), self._frames_left()
        if made.swap_s <= AT_ONCE_S:
            return Replanned(gone, planned, made.deployment, "planned", made.swap_s, _frames(left, planned_s))
        failed = self._failed()
        before = running.strategy if self._all_decode(problem) else running.strategy.with_rows()
        others = [(self._frame_s(problem, one), one) for one in _dealt(problem, before, gone) if one not in failed]
        others.sort(key=lambda candidate: candidate[0])
        frames = _frames(left, min([planned_s, *(frame_s for frame_s, _ in others)]))
        taken: Literal["planned", "dealt"] = "planned"
        best, best_s = made, made.swap_s + frames * planned_s
        for frame_s, one in others:
            if frames * frame_s >= best_s:
                break
            dealt = self._priced(problem, one, held, operator_s)
            if dealt.swap_s + frames * frame_s < best_s:
                best, best_s, taken = dealt, dealt.swap_s + frames * frame_s, "dealt"
        return Replanned(gone, best.deployment.strategy, best.deployment, taken, best.swap_s, frames)

    def _priced(
        self, problem: Problem, strategy: Strategy, held: Mapping[str, Held], operator_s: Mapping[str, float]
    ) -> _Priced:
        """A strategy as it is deployed, and the seconds until it could run."""
        from distredge.planners.common.swap_cost import needs, swap_s
        from distredge.runtime.deployment import deploy

        deployment = deploy(problem.graph, strategy)
        programs = (self._program(deployment, index) for index in deployment.busy)
        needed = {program.device: needs(problem.graph, program, held[program.device]) for program in programs}
        return _Priced(deployment, swap_s(problem.cluster, needed, operator_s))

    def _frame_s(self, problem: Problem, strategy: Strategy) -> float:
        """Seconds from frame to frame: the latency, or less with several in flight."""
        from distredge.latency import throughput

        latency_s = strategy.predicted[metric_names.LATENCY_S]
        in_flight = 1 if self._coordinator is None else self._coordinator.in_flight
        if in_flight == 1:
            return latency_s
        images_per_s = None
        with contextlib.suppress(InputError):
            images_per_s = throughput(problem, strategy, in_flight).images_per_s
        return latency_s if images_per_s is None else 1.0 / images_per_s

    def _failed(self) -> list[Strategy]:
        """What never came to run: a worker may not have the memory for it, and would not have it the next time."""
        assert self._coordinator is not None
        return [one.strategy for one in self.made if self._coordinator.took_s(one.deployment) is None]

    def _program(self, deployment: Deployment, index: int) -> DeviceProgram:
        """The sub-models that a worker is given."""
        assert self._coordinator is not None
        return deployment.program(index, self._coordinator.takes_dynamic_rows(deployment.devices[index]))

    def _held(self, running: Deployment) -> dict[str, Held]:
        """What each worker has; the constants of earlier plans stay with it."""
        from distredge.planners.common.swap_cost import Held

        programs = {name: self._program(running, index) for index, name in enumerate(running.devices)}
        for name, program in programs.items():
            self._weights.setdefault(name, set()).update(program.weights)
        found = {}
        for name in self._devices:
            now = Held.of(programs[name]) if name in programs else Held()
            found[name] = Held(now.models, frozenset(self._weights.get(name, ())))
        return found

    def _operator_s(self, running: Deployment) -> dict[str, float]:
        """Seconds for which each worker loads an operator anew, in the mean; of all where one has loaded none."""
        from distredge.planners.common.swap_cost import operators

        assert self._coordinator is not None
        took = self._coordinator.prepared_ever
        measured = {}
        for program in (self._program(running, index) for index in running.busy):
            one = took.get(program.device)
            if one is not None and one.loaded:
                counts = [operators(segment.model) for segment in program.segments]
                measured[program.device] = one.build_s / one.loaded / (sum(counts) / len(counts))
        otherwise_s = sum(measured.values()) / len(measured) if measured else 0.0
        return {name: measured.get(name, otherwise_s) for name in self._devices}


class _Priced(NamedTuple):
    deployment: Deployment
    swap_s: float


def _frames(left: int | None, frame_s: float) -> float:
    """How many frames are reckoned to come: one at least, that which waits."""
    return HORIZON_S / frame_s if left is None else float(max(1, left))


def _dealt(problem: Problem, strategy: Strategy, gone: Sequence[str]) -> Iterator[Strategy]:
    """The ways to deal out the rows of the lost, each with the head where it is the fastest."""
    from distredge.errors import Infeasible
    from distredge.latency import evaluate
    from distredge.planners.common.dealing import without

    for way in without(strategy, gone):
        priced = []
        for one in way:
            with contextlib.suppress(Infeasible):
                priced.append((evaluate(problem, one), one))
        latency_s, fastest = min(priced, key=lambda item: item[0], default=(math.inf, None))
        if fastest is not None:
            yield fastest.replace(predicted={metric_names.LATENCY_S: latency_s})
