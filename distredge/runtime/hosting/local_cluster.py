"""A cluster of worker processes on this machine: the real runtime over the loopback interface."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from distredge.runtime.buffers import Array
from distredge.runtime.deployment import Deployment, deploy, workers_of
from distredge.runtime.hosting.worker_process import START_S, WorkerProcesses, local_order
from distredge.runtime.protocol.security import REQUESTER_NAME, make_keys
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import DEADLINE_S, PATIENCE_S, Coordinator
from distredge.runtime.requester.pending import FrameResult, Pending
from distredge.runtime.requester.picture_frames import PictureResult

if TYPE_CHECKING:
    from pathlib import Path

    from distredge.media.pictures import Picture
    from distredge.problem import Problem
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline


class LocalCluster:
    """Workers of this machine that run a strategy; a context manager.

    Each worker is a process of its own. Keys are made afresh for every run and reach the workers through pipes; ports
    are chosen by the system. The workers end with the `with` block, on Ctrl-C, and when this process dies.

    Args:
        problem: graph and cluster; the cluster's devices of the strategy's names say what threads and memory to use.
        strategy: what to run.
        deadline_s: within which a frame ends, one way or the other.
        in_flight: frames that may be in flight.
        plaintext: run without encryption and authentication, for measuring what these cost.
        connect_s: within which the workers must be up and reached; None: a minute, for a loaded machine.
        replan: asked, with the names of the workers that are lost, for a deployment on those that are left; frames in
            flight are then run again there.
        deployment: of that strategy, where it is made already; None makes it.
        also: deployments that stand beside it, for frames that name them.
        dynamic_rows: whether the workers are given sub-models whose row axes are dynamic.

    Raises:
        StrategyError: if the strategy does not fit the problem.
        PeerTimeout, ExecutionError: if a worker does not come up.
    """

    def __init__(
        self,
        problem: Problem,
        strategy: Strategy,
        *,
        deadline_s: float = DEADLINE_S,
        in_flight: int = 1,
        plaintext: bool = False,
        connect_s: float | None = None,
        replan: Callable[[frozenset[str]], Deployment] | None = None,
        deployment: Deployment | None = None,
        also: Sequence[Deployment] = (),
        dynamic_rows: bool | None = None,
    ) -> None:
        self._deployment = deploy(problem.graph, strategy) if deployment is None else deployment
        names = workers_of((self._deployment, *also))
        devices = [problem.cluster.device(name) for name in names]
        keys = make_keys(names)
        orders = [
            local_order(
                device.name,
                None if plaintext else keys[device.name].for_worker(),
                threads=device.threads,
                memory_bytes=device.memory_bytes,
                dynamic_rows=dynamic_rows,
            )
            for device in devices
        ]
        started_s = time.monotonic()
        self._workers = WorkerProcesses(orders)
        self._network: ZmqNetwork | None = None
        self._coordinator: Coordinator | None = None
        try:
            start_s = START_S if connect_s is None else connect_s
            addresses = self._workers.wait(start_s, None if plaintext else keys[REQUESTER_NAME])
            self._network = ZmqNetwork(None if plaintext else keys[REQUESTER_NAME].for_requester())
            left_s = PATIENCE_S if connect_s is None else max(0.0, started_s + connect_s - time.monotonic())
            self._coordinator = Coordinator(
                self._network, addresses, deadline_s=deadline_s, connect_s=left_s, replan=replan,
                gone=self._workers.why_ended,
            )  # fmt: skip
            self._coordinator.deploy(self._deployment, in_flight)
            for other in also:
                self._coordinator.deploy_also(other)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def coordinator(self) -> Coordinator:
        """What runs the frames."""
        if self._coordinator is None:
            raise RuntimeError("the cluster is closed")
        return self._coordinator

    @property
    def deployment(self) -> Deployment:
        """What is run."""
        return self._deployment

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each worker."""
        return self._workers.pids

    def infer(self, inputs: Mapping[str, Array], deadline_s: float | None = None) -> dict[str, Array]:
        """Runs one frame: inputs such as (N, C, H, W), outputs such as (N, classes), see `Coordinator.infer`."""
        return self.coordinator.infer(inputs, deadline_s)

    def submit(self, inputs: Mapping[str, Array], deadline_s: float | None = None) -> Pending:
        """Starts a frame: inputs such as (N, C, H, W), see `Coordinator.submit`."""
        return self.coordinator.submit(inputs, deadline_s)

    def stream(self, frames: Iterable[Mapping[str, Array]], deadline_s: float | None = None) -> Iterator[FrameResult]:
        """Runs frames with several in flight, yields how each ended: inputs (N, C, H, W), see `Coordinator.stream`."""
        return self.coordinator.stream(frames, deadline_s)

    def stream_images(
        self,
        pictures: Iterable[str | Path | Picture],
        deadline_s: float | None = None,
        *,
        keep_pixels: bool = False,
    ) -> Iterator[PictureResult]:
        """Runs pictures with several in flight, yields how each ended; see `Coordinator.stream_images`."""
        return self.coordinator.stream_images(pictures, deadline_s, keep_pixels=keep_pixels)

    @property
    def timeline(self) -> Timeline:
        """What happened in the latest frame."""
        return self.coordinator.timeline()

    @property
    def last_latency_s(self) -> float | None:
        """Seconds from submitting the latest finished frame to its last output; None before the first."""
        return self.coordinator.last_latency_s

    def close(self) -> None:
        """Ends the workers."""
        coordinator, self._coordinator = self._coordinator, None
        if coordinator is not None:
            coordinator.close()
        network, self._network = self._network, None
        if network is not None:
            network.close()
        self._workers.close()
