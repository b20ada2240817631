"""The compiled kernel: the simulator's recurrence over arrays, for searches and environments.

A `Kernel` prices many strategies of one graph at once, on one cluster or several::

    kernel = kernel_of(problem)
    latency_s = kernel.latency_s(cuts, rows, head)

The arrays, B strategies of up to L volumes on D slab positions:

============== ================= ======================================================================================
argument       shape             meaning
============== ================= ======================================================================================
cuts           (B, L)            index into `graph.cuts` where each volume ends, rising; -1 after the last volume
rows           (B, L, D + 1)     cut points of the reference's rows: 0, never falling, the cut's height; rows of
                                 volumes after the last are not read
head           (B,) or number    slab position (not device) of the head
order          (B, D) or (D,)    index into `cluster.devices` of each slab position; None: the cluster's order
wire           (B, L) or number  wire between volumes, as `model.wires.WIRE_NUMBERS` has them
input_wire     (B,) or number    wire of the input, likewise; not packed
boundary_first (B, L) or bool    whether a volume computes and sends first what others wait for
cluster        (B,) or number    index into the kernel's clusters
start_s        (B,) or number    time on the links' traces
============== ================= ======================================================================================

A device that is to do nothing gets an empty share, so strategies on subsets of the devices fit the same arrays. The
last volume normally ends at the last cut. If it ends before, the latency is NaN, but `finish_s` says when each slab
position has done the volumes given: what an environment needs after every step. An infinite latency means that a
message would have to cross a link that is down.

Supported: `independent` and `shared` links (max-min fair, exactly), rates that vary over time, one medium for all
under `shared`, what messages cost the processor and devices that share a computer likewise, encryption, partial sums,
several live tensors at a cut, all wires, volumes that send their boundary first, a requester on a device's board. Not
supported (`Unsupported` says so; the simulator prices it): grids with
columns, one medium under `independent`, several images in flight, spans and the critical path, operators whose need of
rows does not rise with their output rows.

Under `shared`, `exact=False` takes what happens shortly after the next event together with it and gives all connections
about their fair shares (`approximate_links`); where rates vary or one medium carries everything it changes nothing. On
VGG-16 and the published cases, with messages that cost nothing or 0.5 ms, the latency is then within 2 % in 95 of 100
random strategies and within 3 % for strategies near those of planners (the median is within 0.6 %).
`experiments/bench/kernel.py` has errors and times.

The first call in a process loads compiled code from numba's on-disk cache; without one, compiling takes some seconds,
which is said once on the log. `warm` does it beforehand.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distredge.errors import StrategyError, Unsupported, located
from distredge.latency.kernel.arguments import Found, KernelTables, Plans
from distredge.latency.kernel.link_arrays import links_of
from distredge.latency.tables.volume_tables import tables_of
from distredge.model.wires import WIRE_NUMBERS, is_file

if TYPE_CHECKING:
    from distredge.cluster import Cluster
    from distredge.model.graph import Graph
    from distredge.problem import Problem
    from distredge.strategy import Strategy

__all__ = ["Kernel", "Unsupported", "is_warm", "kernel_of", "room_for", "warm"]

_log = logging.getLogger(__name__)

FLOAT32 = WIRE_NUMBERS["float32"]
"""Number of the wire that nothing narrows."""

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


class Kernel:
    """Prices strategies of a graph on clusters; see the module's text for the arrays.

    Args:
        graph: the model.
        clusters: one or more. Kernels of one graph whose clusters have the same profiles share their tables: another
            cluster of the same boards, or other rates, cost nothing.

    Raises:
        Unsupported: if a cluster is of a kind that only the simulator prices.
        ProfileError: if a profile lacks an operator of the head.
    """

    def __init__(self, graph: Graph, clusters: Sequence[Cluster]) -> None:
        self.graph = graph
        self.clusters = tuple(clusters)
        profiles = {id(device.profile): device.profile for cluster in self.clusters for device in cluster.devices}
        self.tables = tables_of(graph, profiles.values())
        self._head_seconds = self.tables.head_seconds
        self.links = links_of(self.clusters, {key: self.tables.column[profile] for key, profile in profiles.items()})
        self._n_devices = np.array([len(cluster.devices) for cluster in self.clusters], dtype=np.int64)

    def latency_s(
        self,
        cuts: ArrayLike,
        rows: ArrayLike,
        head: ArrayLike,
        *,
        exact: bool = True,
        threads: int = 1,
        **options: Any,
    ) -> _Floats:
        """Returns the latency of each strategy.

        Args:
            cuts: see the module's text, as for the next two and `options`.
            rows: their shares.
            head: their heads.
            exact: False allows approximate rates under `shared`: for searches.
            threads: how many threads share the work.
            options: `order`, `wire`, `input_wire`, `boundary_first`, `cluster`, `start_s`.

        Returns:
            (B,) seconds; infinite where a link is down, NaN for strategies that do not reach the end of the body.

        Raises:
            StrategyError: if a strategy contradicts itself, naming it.
            Unsupported: if a volume or a message is of a kind that only the simulator prices.
            ProfileError: if a profile lacks an operator.
        """
        return self._run(self.plans(cuts, rows, head, **options), threads, exact, False).latency

    def finish_s(
        self,
        cuts: ArrayLike,
        rows: ArrayLike,
        head: ArrayLike = 0,
        *,
        exact: bool = True,
        threads: int = 1,
        **options: Any,
    ) -> tuple[_Floats, _Floats]:
        """Returns when each slab position has done the volumes given, and the latency; arguments as for `latency_s`.

        Returns:
            (B, D) seconds, 0 for a position that has had nothing to do, and (B,) as from `latency_s`.
        """
        found = self._run(self.plans(cuts, rows, head, **options), threads, exact, True)
        return found.finish_s, found.latency

    def encode(self, strategies: Sequence[Strategy], cluster: int = 0) -> dict[str, Any]:
        """Returns strategies as keyword arguments of `latency_s`.

        Raises:
            Unsupported: if one divides columns, or pictures travel in their files.
            StrategyError, ClusterError: if one does not fit the graph or the cluster.
        """
        names = self.clusters[cluster].names
        wide = max(len(strategy.devices) for strategy in strategies)
        longest = max(len(strategy.volumes) for strategy in strategies)
        count = len(strategies)
        cuts = np.full((count, longest), -1, dtype=np.int64)
        rows = np.zeros((count, longest, wide + 1), dtype=np.int32)
        wire = np.full((count, longest), FLOAT32, dtype=np.int64)
        boundary = np.zeros((count, longest), dtype=bool)
        order, head, input_wire = np.zeros((count, wide), dtype=np.int64), [], []
        for k, strategy in enumerate(strategies):
            for w, (volume, decision) in enumerate(zip(strategy.volumes, strategy.decisions(self.graph), strict=True)):
                if volume.columns is not None:
                    raise Unsupported("a grid of rows and columns")
                cuts[k, w] = decision.cut.index
                rows[k, w, : len(volume.rows)] = volume.rows
                rows[k, w, len(volume.rows) :] = volume.rows[-1]
                wire[k, w] = WIRE_NUMBERS[volume.wire]
                boundary[k, w] = volume.boundary_first
            used = [names.index(self.clusters[cluster].device(name).name) for name in strategy.devices]
            order[k] = used + [i for i in range(len(names)) if i not in used][: wide - len(used)]
            head.append(strategy.devices.index(strategy.head.device))
            if is_file(strategy.input.dtype):
                raise Unsupported("pictures that travel in their files")
            input_wire.append(WIRE_NUMBERS[strategy.input.dtype])
        return {
            "cuts": cuts, "rows": rows, "head": np.array(head), "order": order, "wire": wire,
            "input_wire": np.array(input_wire), "boundary_first": boundary, "cluster": cluster,
        }  # fmt: skip

    def plans(
        self,
        cuts: ArrayLike,
        rows: ArrayLike,
        head: ArrayLike,
        *,
        order: ArrayLike | None = None,
        wire: ArrayLike = FLOAT32,
        input_wire: ArrayLike = FLOAT32,
        boundary_first: ArrayLike = False,
        cluster: ArrayLike = 0,
        start_s: ArrayLike = 0.0,
    ) -> Plans:
        """Brings the arguments of `latency_s` into shape, (B, L) and so on as the module's table says, and checks them.

        Raises:
            StrategyError: if a strategy contradicts itself, naming it.
        """
        cut_array, row_array = _as(cuts, np.int64), _as(rows, np.int32)
        if cut_array.ndim != 2 or row_array.ndim != 3 or row_array.shape[:2] != cut_array.shape:
            found = (cut_array.shape, row_array.shape)
            raise StrategyError(located("kernel", "cuts, rows", found, "shapes (B, L) and (B, L, D + 1)"))
        count, length, points = row_array.shape
        if order is None:
            order = np.arange(points - 1)
        try:
            plans = Plans(
                which=_as(cluster, np.int64, count),
                cuts=cut_array,
                rows=row_array,
                order=_as(order, np.int64, count, points - 1),
                head=_as(head, np.int64, count),
                wires=_as(wire, np.int64, count, length),
                input_wire=_as(input_wire, np.int64, count),
                boundary=_as(boundary_first, np.int64, count, length),
                start_s=_as(start_s, np.float64, count),
            )
        except ValueError as error:
            raise StrategyError(f"kernel: {error}: accepted: the shapes of the module's table") from error
        self._check(plans)
        return plans

    def _check(self, plans: Plans) -> None:
        from distredge.latency.kernel import entry_points

        if plans.which.size and not 0 <= plans.which.min() <= plans.which.max() < len(self.clusters):
            raise StrategyError(
                located("kernel", "cluster", plans.which.tolist()[:5], f"0 to {len(self.clusters) - 1}")
            )
        n_devices = self._n_devices[plans.which]
        k, wrong = _compiled("check_plans")(plans, self.tables.cut_heights, n_devices)
        if wrong == entry_points.OK:
            return
        n_slabs = plans.order.shape[1]
        accepted = {
            entry_points.BAD_CUTS: ("cuts", plans.cuts[k], f"rising indices below {len(self.graph.cuts)}, then -1"),
            entry_points.BAD_ROWS: ("rows", plans.rows[k], "0, cut points that never fall, the cut's height"),
            entry_points.BAD_ORDER: ("order", plans.order[k], f"different devices, 0 to {n_devices[k] - 1}"),
            entry_points.BAD_HEAD: ("head", plans.head[k], f"0 to {n_slabs - 1}"),
            entry_points.BAD_WIRE: ("wire", plans.wires[k], "numbers of wires"),
            entry_points.BAD_INPUT_WIRE: ("input_wire", plans.input_wire[k], "a plain wire's number"),
        }
        key, found, text = accepted[wrong]
        raise StrategyError(located("kernel", f"{key}[{k}]", found.tolist(), text))

    def arguments(self) -> KernelTables:
        """Returns the tables as they stand now, for compiled code."""
        tables = self.tables
        with tables.lock:
            return KernelTables(
                tables.model(), tables.ints.data, tables.seconds.data, self._head_seconds, int(tables.max_phases)
            )

    def _run(self, plans: Plans, threads: int, exact: bool, finish: bool) -> Found:
        missing, packed = _compiled("needs")(self.tables.index, plans.cuts, plans.wires)
        for first, last in missing:
            self.tables.require(int(first), int(last))
        if packed.any():
            self.tables.price_packed()
        hard = self.links.hard[plans.which] | plans.boundary.any(axis=1) | packed
        general = functools.partial(self.call_general, nearby=not exact)
        calls = ((~hard, self.call_independent), (hard, general))
        for chosen, call in calls:
            if chosen.all():
                return self._threaded(call, plans, threads, finish)
        found = room_for(plans, finish)
        for chosen, call in calls:
            part = self._threaded(call, _part(plans, chosen), threads, finish)
            found.latency[chosen] = part.latency
            if finish:
                found.finish_s[chosen] = part.finish_s
        return found

    def _threaded(self, call: Callable[[Plans, Found], None], plans: Plans, threads: int, finish: bool) -> Found:
        count, found = len(plans.cuts), room_for(plans, finish)
        if threads <= 1 or count < 2 * threads:
            call(plans, found)
            return found
        edges = np.linspace(0, count, threads + 1).astype(int)
        pieces = [slice(a, b) for a, b in itertools.pairwise(edges.tolist())]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda s: call(_part(plans, s), Found(*(array[s] for array in found))), pieces))
        return found

    def call_independent(self, plans: Plans, found: Found) -> None:
        """Prices checked strategies under `independent` links of constant rate, without boundaries first."""
        _compiled("independent")(self.arguments(), self.links, plans, found)

    def call_general(self, plans: Plans, found: Found, nearby: bool) -> None:
        """Prices checked strategies of any kind; `nearby` allows approximate rates under `shared`."""
        _compiled("general")(self.arguments(), self.links, plans, nearby, found)


def room_for(plans: Plans, finish: bool) -> Found:
    """Returns arrays to fill in: (B,) latencies and, if `finish`, (B, D) when slab positions have done volumes."""
    count, n_slabs = plans.order.shape
    return Found(np.empty(count), np.empty((count if finish else 0, n_slabs)), np.empty((0, n_slabs)), np.empty(0))


def _part(plans: Plans, chosen: slice | NDArray[np.bool_]) -> Plans:
    """Some of the strategies."""
    chosen_arrays: Any = (np.require(array[chosen], None, ["C", "W"]) for array in plans)
    return Plans(*chosen_arrays)


def _as(values: ArrayLike, dtype: Any, *shape: int) -> Any:
    """An array of that type and shape, as the compiled code takes it: contiguous, and not write-protected."""
    spread = np.broadcast_to(np.asarray(values), shape) if shape else values
    return np.require(spread, dtype, ["C", "W"])


def kernel_of(problem: Problem) -> Kernel:
    """Returns the kernel of a problem's graph and cluster, made once as long as the problem lives.

    Raises:
        Unsupported: if only the simulator prices it.
    """
    kernel = _kernels.get(problem)
    if kernel is None:
        kernel = _kernels[problem] = Kernel(problem.graph, (problem.cluster,))
    return kernel


_kernels: weakref.WeakKeyDictionary[Problem, Kernel] = weakref.WeakKeyDictionary()
_checked: set[str] = set()
_said: list[bool] = []


def _compiled(name: str) -> Any:
    """One of the compiled functions; says once in a process when any has to be compiled first."""
    from distredge.latency.compiling import can_be_kept
    from distredge.latency.kernel import entry_points

    function = getattr(entry_points, name)
    if name not in _checked:
        if not _said and can_be_kept(function) and not entry_points.is_cached(function):
            _said.append(True)
            _log.warning("compiling the latency kernel, once: some 20 seconds (`distredge doctor` does it beforehand)")
        _checked.add(name)
    return function


def is_warm() -> bool:
    """Whether numba's on-disk cache holds the kernel in its present form."""
    from distredge.latency.kernel import entry_points

    return entry_points.all_cached()


def warm() -> float:
    """Compiles what numba's on-disk cache does not hold, so that later processes start at once; returns the seconds."""
    from distredge.latency.kernel import entry_points

    started = time.perf_counter()
    for name in ("needs", "check_plans", "independent", "general"):
        _compiled(name)
    entry_points.compile_all()
    return time.perf_counter() - started
