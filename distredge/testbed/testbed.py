"""A cluster in a box: emulated boards on this machine, on which strategies are measured."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, get_args

from distredge.errors import ConfigError, located
from distredge.network_addresses import host_of
from distredge.runtime.buffers import Array
from distredge.runtime.deployment import deploy
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.device_plan import REQUESTER
from distredge.runtime.protocol.security import REQUESTER_NAME, make_keys
from distredge.runtime.protocol.transport import Network, ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.testbed.boards import Boards, EngineName, Seat
from distredge.testbed.commands import why_no_namespaces
from distredge.testbed.measured import Measured
from distredge.testbed.measuring import TRIALS, Run, too_fast
from distredge.testbed.namespaces import Namespaces
from distredge.testbed.pace_table import PaceTable, make_anonymous_table
from distredge.testbed.paced_network import PacedNetwork
from distredge.testbed.pacer import Pacer, on_time
from distredge.testbed.paces import Paces
from distredge.testbed.places import places
from distredge.testbed.relays import Relays
from distredge.testbed.shaping import Shaping
from distredge.testbed.variants import Variants

if TYPE_CHECKING:
    from distredge.cluster import Cluster
    from distredge.problem import Problem
    from distredge.strategy import Strategy

Mode = Literal["auto", "namespaces", "loopback"]

FRAME_S: Final = 120.0
"""Within which a frame must end, undilated."""

CONNECT_S: Final = 30.0
FIRST_PORT: Final = 5700


class Testbed:
    """Emulated boards of a cluster; a context manager.

    Every computer of the cluster is a board with the links of its first device. Its workers are the ordinary ones, with
    fresh keys. All links are physically there: what crosses one at the same time shares it.

    Args:
        cluster: what to emulate; its link model does not matter.
        mode: "namespaces" (root), "loopback", or "auto": the first that works here.
        engine: "onnxruntime" computes the real result, "sleep" nothing.
        paced: whether parts and messages take the time of the devices' profiles; else this machine's own.
        dilation: by how much everything is slowed down; "auto": the least at which this machine keeps up, found anew
            for each strategy.
        encrypted: whether messages are; the cluster's own word does not matter.
        pinned: device -> core that its worker runs on.
        requester_inside: whether the requester, this process, has a namespace of its own for its sockets. Without it
            other processes of this machine reach the boards too.

    Attributes:
        cluster: the same, as a requester must see it: addresses, ports, keys, shared links, encryption.
        mode: the one in use.
        keys: of all members; None without encryption.
        dilation: in use; 1 for "auto" before the first strategy.

    Raises:
        ConfigError: if the mode is not possible here, or options contradict each other.
        ClusterError: naming a link whose rate is 0.
        ExecutionError: if the kernel refuses, or a worker does not come up.
    """

    __test__ = False  # no test, whatever its name makes pytest think

    def __init__(
        self,
        cluster: Cluster,
        mode: Mode = "auto",
        engine: EngineName = "onnxruntime",
        paced: bool = True,
        dilation: Literal["auto"] | float = "auto",
        encrypted: bool = True,
        pinned: Mapping[str, int] | None = None,
        *,
        requester_inside: bool = True,
    ) -> None:
        _check(cluster, engine, paced, dilation, pinned or {})
        self._places = places(cluster)
        self.mode = possible_mode(mode)
        self._engine: EngineName = engine
        self._paced, self._encrypted = paced, encrypted
        self._wanted = dilation
        self.dilation = 1.0 if dilation == "auto" else float(dilation)
        self.keys = make_keys(cluster.names) if encrypted else None
        self._boards: Boards | None = None
        self._network: Network | None = None
        self._coordinator: Coordinator | None = None
        self._pacer = Pacer(make_anonymous_table())
        self._closing = threading.Lock()
        self._links: Namespaces | Relays
        if self.mode == "namespaces":
            own = len(self._places) - 1 if not self._places[-1].devices else len(self._places)
            self._links = Namespaces(len(self._places), None if requester_inside else own)
        else:
            self._links = Relays(len(self._places), self._requester_index)
        self._shaping = Shaping(self._links, self._places)
        try:
            self._boards = Boards(self._seats(cluster, pinned or {}), self.keys, engine, paced, os.getpid())
            self._addresses = self._boards.addresses
            if isinstance(self._links, Relays):
                self._addresses = self._through(self._links, self._addresses)
            self.cluster = self._as_seen(cluster)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Testbed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each worker."""
        return self._boards.pids if self._boards is not None else {}

    def measure(
        self,
        problem: Problem,
        strategy: Strategy,
        inputs: Mapping[str, Array],
        frames: int = 20,
        in_flight: int = 1,
        warmup: int = 3,
    ) -> Measured:
        """Runs a strategy on the boards.

        Args:
            problem: the model; its cluster has the same devices as this testbed's.
            strategy: what to run.
            inputs: tensor name -> array, such as (N, C, H, W), for every frame, as the strategy sends it.
            frames: that are measured.
            in_flight: how many are under way at once.
            warmup: frames before those.

        Raises:
            StrategyError: if the strategy does not fit.
            ConfigError: if this machine does not keep up at the dilation given; the one that would do is named.
            ExecutionError: if a frame fails.
        """
        if frames < 1 or in_flight < 1 or warmup < 0:
            found = (frames, in_flight, warmup)
            raise ConfigError(located("testbed", "frames, in_flight, warmup", found, "at least 1, 1 and 0"))
        assert self._boards is not None
        seen = replace(problem, cluster=self.cluster)
        deployment = deploy(seen.graph, strategy)
        # Constants are not what is measured: they reach the boards before the links are narrow.
        self._shaping.lift()
        self._connected().deploy(deployment, in_flight)
        paces = Paces(seen, deployment, self._encrypted, self._paced)
        tables = {i: self._boards.tables[deployment.devices[i]] for i in deployment.busy}

        def slow_down() -> None:
            self._fill(paces, tables)
            self._shaping.start(self.dilation)

        run = Run(
            self._connected(), self._pacer, list(tables.values()), inputs, in_flight, FRAME_S * max(1.0, self.dilation)
        )
        with on_time(self._paced):
            self._find_dilation(run, slow_down)
            run.warm_up(warmup)
            measured = run.measure(
                frames, self.dilation, lambda time_s: self._shaping.trace_time_s(time_s, self.dilation)
            )
        self._shaping.lift()
        return measured

    def stand(self, variants: Sequence[tuple[Problem, Strategy, Mapping[str, Array]]]) -> Variants:
        """Deploys several strategies at a time, one frame of one of them to be run after the other.

        Args:
            variants: of each the model, on a cluster with the same devices as this testbed's, the strategy, and the
                inputs of every frame: tensor name -> array, such as (N, C, H, W), as the strategy sends it.

        Raises:
            StrategyError, ConfigError, ExecutionError: as `measure`.
        """
        assert self._boards is not None
        self._shaping.lift()
        coordinator = self._connected()
        kept: list[tuple[Run, Callable[[], None]]] = []
        for problem, strategy, inputs in variants:
            seen = replace(problem, cluster=self.cluster)
            deployment = deploy(seen.graph, strategy)
            (coordinator.deploy if not kept else coordinator.deploy_also)(deployment)
            tables = {i: self._boards.tables[deployment.devices[i]] for i in deployment.busy}
            fill = partial(self._fill, Paces(seen, deployment, self._encrypted, self._paced), tables)
            deadline_s = FRAME_S * max(1.0, self.dilation)
            kept.append((Run(coordinator, self._pacer, list(tables.values()), inputs, 1, deadline_s, deployment), fill))
        wanted = []
        with on_time(self._paced):
            for each, tell in kept:
                self._find_dilation(each, tell)
                wanted.append(self.dilation)
            self.dilation = max(wanted)
        return Variants(kept, self._shaping, self.dilation, self._paced)

    def _fill(self, paces: Paces, tables: Mapping[int, PaceTable]) -> None:
        """Tells the boards how long the parts of one strategy take."""
        for index, table in {REQUESTER: self._pacer.table, **tables}.items():
            paces.fill(table, index, self.dilation)

    def shape(self) -> None:
        """Narrows the links, as `measure` does by itself, for others to use the boards."""
        self._shaping.start(self.dilation)

    def close(self) -> None:
        """Ends the workers and removes all that was made."""
        with self._closing:
            coordinator, self._coordinator = self._coordinator, None
            network, self._network = self._network, None
            boards, self._boards = self._boards, None
            try:
                self._shaping.lift(shape=False)
            finally:
                try:
                    if coordinator is not None:
                        coordinator.close()
                    if network is not None:
                        network.close()
                    if boards is not None:
                        boards.close()
                finally:
                    self._links.close()

    def _find_dilation(self, run: Run, slow_down: Callable[[], None]) -> None:
        if self._wanted == "auto":
            self.dilation = 1.0
        slow_down()
        if not self._paced:
            return
        for _ in range(TRIALS):
            would_do = run.dilation_that_would_do(self.dilation)
            if would_do is None:
                return
            if self._wanted != "auto":
                raise too_fast(self.dilation, would_do)
            self.dilation = would_do
            slow_down()

    def _connected(self) -> Coordinator:
        """The coordinator; its sockets, and the threads behind them, are made in the requester's namespace."""
        if self._coordinator is None:
            security = self.keys[REQUESTER_NAME].for_requester() if self.keys is not None else None
            with on_time(self._paced), self._links.entered(self._requester_index):
                # The first socket starts the threads that make all others.
                self._network = PacedNetwork(ZmqNetwork(security), self._pacer)
                self._coordinator = Coordinator(
                    self._network, self._addresses, deadline_s=FRAME_S, connect_s=CONNECT_S, patience_s=FRAME_S
                )
        return self._coordinator

    @property
    def _requester_index(self) -> int:
        return next(i for i, place in enumerate(self._places) if place.requester)

    def _seats(self, cluster: Cluster, pinned: Mapping[str, int]) -> list[Seat]:
        found = []
        for index, place in enumerate(self._places):
            for number, name in enumerate(place.devices):
                prefix = tuple(self._links.prefix(index))
                if name in pinned:
                    prefix = (*prefix, "taskset", "-c", str(pinned[name]))
                address, port = self._links.addresses[index], FIRST_PORT + 2 * number
                if self.mode == "namespaces":
                    found.append(Seat(cluster.device(name), address, port, port + 1, prefix))
                else:
                    found.append(Seat(cluster.device(name), address, 0, 0, prefix, address))
        order = {name: number for number, name in enumerate(cluster.names)}
        return sorted(found, key=lambda seat: order[seat.device.name])

    def _through(self, relays: Relays, real: Sequence[WorkerAddress]) -> tuple[WorkerAddress, ...]:
        """Starts the relay; returns where the workers are found behind it."""
        place_of = {name: index for index, place in enumerate(self._places) for name in place.devices}
        doors = relays.open([(place_of[address.name], address.data) for address in real])
        return tuple(replace(address, data=door) for address, door in zip(real, doors, strict=True))

    def _as_seen(self, cluster: Cluster) -> Cluster:
        by_name = {address.name: address for address in self._addresses}
        devices = []
        for device in cluster.devices:
            where = by_name[device.name]
            ports = [int(address.rpartition(":")[2]) for address in (where.control, where.data)]
            key = where.public_key or None
            devices.append(
                replace(
                    device, address=host_of(where.control), control_port=ports[0], data_port=ports[1], public_key=key
                )
            )
        return replace(cluster, devices=tuple(devices), link_model="shared", encrypted=self._encrypted)


def possible_mode(mode: Mode) -> Literal["namespaces", "loopback"]:
    """Returns the mode to use here.

    Raises:
        ConfigError: if it is unknown or not possible here.
    """
    if mode not in get_args(Mode):
        raise ConfigError(located("testbed", "mode", mode, " or ".join(map(repr, get_args(Mode)))))
    why = why_no_namespaces()
    if mode == "namespaces" and why is not None:
        raise ConfigError(f"testbed: {why}; --mode loopback needs no root")
    if mode == "auto":
        return "namespaces" if why is None else "loopback"
    return mode


def _check(
    cluster: Cluster, engine: str, paced: bool, dilation: Literal["auto"] | float, pinned: Mapping[str, int]
) -> None:
    if engine not in get_args(EngineName):
        raise ConfigError(located("testbed", "engine", engine, " or ".join(map(repr, get_args(EngineName)))))
    if engine == "sleep" and not paced:
        raise ConfigError("testbed: the sleep engine computes nothing: it needs the profiles' pace")
    if dilation != "auto" and not (math.isfinite(dilation) and dilation >= 1.0):
        raise ConfigError(located("testbed", "dilation", dilation, "'auto' or a number of at least 1"))
    cores = os.sched_getaffinity(0)
    for name, core in pinned.items():
        cluster.device(name)
        if core not in cores:
            raise ConfigError(located("testbed", f"pinned['{name}']", core, f"one of {sorted(cores)}"))
