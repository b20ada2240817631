"""The whole model on the best single device: the baseline that every strategy is compared with.

DistrEdge (IPDPS 2022, arXiv 2202.01699, section V) calls it Offload.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from distredge import metric_names
from distredge.errors import Infeasible
from distredge.latency.costs.computers import interchangeable
from distredge.latency.simulator.simulation import run
from distredge.model.laying_out import lay_out
from distredge.strategy import InputSpec, Strategy

if TYPE_CHECKING:
    from distredge.problem import Problem


def single_device(problem: Problem, device: str, input_dtype: str = "float32") -> Strategy:
    """Returns the strategy that runs everything on one device, as one volume."""
    graph = problem.graph
    last = graph.cuts[-1]
    return Strategy.make(
        graph, (device,), [(last.index, (0, last.height))], head=device, method="offload", input_dtype=input_dtype
    )


def offload(problem: Problem) -> tuple[Strategy, float]:
    """Finds the best single device, the requester's own board among them when it is a device of the cluster.

    It is found once per problem. Of equal devices, and of dtypes in which the input arrives equally soon, the first is
    taken.

    Args:
        problem: model and cluster; `input_dtypes` says what may be sent.

    Returns:
        The strategy, with its predicted latency, and the latency in seconds.

    Raises:
        Infeasible: if no device can be reached.
        ProfileError: if a profile lacks an operator of the model.
    """
    if problem not in _known:
        _known[problem] = _offload(problem)
    return _known[problem]


def offload_latency_s(problem: Problem) -> float:
    """Returns the latency of the whole model on the best single device, in seconds.

    Raises:
        Infeasible, ProfileError: as `offload`.
    """
    return offload(problem)[1]


def offload_in_files(problem: Problem, given: InputSpec) -> tuple[Strategy, float]:
    """Finds the best single device where pictures travel in their files.

    Args:
        problem: model and cluster.
        given: an input of files.

    Returns:
        The strategy, with its predicted latency, and the latency in seconds.

    Raises:
        Infeasible, ProfileError: as `offload`.
    """
    return _best(problem, (given,))


def _offload(problem: Problem) -> tuple[Strategy, float]:
    return _best(problem, [InputSpec(dtype) for dtype in problem.input_dtypes])


def _best(problem: Problem, inputs: Sequence[InputSpec]) -> tuple[Strategy, float]:
    best: tuple[float, Strategy] | None = None
    refusal: Infeasible | None = None
    names = problem.cluster.names
    # Of devices that are equal but for the name the first one stands for all.
    for place in dict.fromkeys(interchangeable(problem.cluster)):
        for given in inputs:
            strategy = single_device(problem, names[place]).replace(input=given)
            try:
                latency_s = run(problem, lay_out(problem.graph, strategy)).frames[0].done_s
            except Infeasible as error:
                refusal = error
                continue
            if best is None or latency_s < best[0]:
                best = latency_s, strategy
    if best is None:
        raise Infeasible(f"no device of cluster '{problem.cluster.name}' can be reached: {refusal}")
    return best[1].replace(predicted={metric_names.LATENCY_S: best[0]}), best[0]


_known: WeakKeyDictionary[Problem, tuple[Strategy, float]] = WeakKeyDictionary()
"""Of each problem; kept as long as the problem is."""
